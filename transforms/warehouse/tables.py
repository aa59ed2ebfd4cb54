"""The warehouse: Delta tables in the home, DuckDB over them, and the one way rows get in.

Rows are written, checked, then published. Parquet files come first, each batch checked against its
contract. One Delta commit then makes them visible, together with the transaction that records what
they were made from. A run that fails or is killed before that commit leaves nothing visible.
"""

import fcntl
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from transforms.errors import HomeError
from transforms.home import Settings, sweep_halves
from transforms.paths import parquet, refuse_path
from transforms.schemas.base import Contract
from transforms.warehouse.writer import PartWriter

RELATIONS = (
    "raw.records",
    "staging.records",
    "staging.duplicate_rows",
    "quarantine.records",
    "quarantine.corrections",
    "accounting.files",
    "profiles.fields",
    "duplicates.contents",
    "duplicates.documents",
    "profiles.columns",
    "profiles.drift",
    "profiles.checks",
)
# former names of relations; `rename_tables` renames their folders in an older home
FORMER = {"staging.duplicate_rows": "staging.repeats"}
COMMIT_TRIES = 4
PARTS = "parts"
# tables that may be deleted; they are rebuilt from raw
REMADE = (
    "staging",
    "quarantine/records",
    "accounting",
    "profiles",
    "duplicates",
    "features",
    "feast",
)
CODE = "code"
FAMILY = "family"
# log entries are small, and a consumer or a training set may need an old one at any time
KEEP_LOG: dict[str, str | None] = {"delta.enableExpiredLogCleanup": "false"}
Report = Callable[[str, int, int], None]


def silent(_relation: str, _rows: int, _bytes: int) -> None:
    """Ignore the progress of writing: the default `report` of a warehouse."""


class Published(NamedTuple):
    """What one commit made visible."""

    relation: str
    n_rows: int
    version: int


class Rows(NamedTuple):
    """What a run did to a table: rows of new keys or instants, replaced and untouched rows."""

    new: int = 0
    recomputed: int = 0
    untouched: int = 0


class Changes(NamedTuple):
    """Data files added to a relation and removed from it; a row that is in both was only moved."""

    added: list[str]
    removed: list[str]


class Warehouse:
    """The tables of one home.

    `report(relation, rows, bytes)` is called for every batch written, to show progress.

    >>> from tempfile import TemporaryDirectory
    >>> from transforms.schemas.staging import StagedRecord
    >>> with TemporaryDirectory() as home:
    ...     warehouse = Warehouse(Settings(home=Path(home)))
    ...     table = warehouse.create(StagedRecord)
    ...     warehouse.versions(), warehouse.consumed("staging.records", "featurize")
    ({'staging.records': 0}, -1)
    """

    def __init__(self, settings: Settings, report: Report = silent) -> None:
        """Take a home, without reading or creating anything yet.

        Raises `HomeError` if no Delta table can be opened under its path.
        """
        refuse_path(settings.root)
        self.settings = settings
        self.report = report
        self._opened: dict[Path, tuple[DeltaTable, tuple[int, int] | None]] = {}

    def folder(self, relation: str) -> Path:
        """Return the folder of a relation's Delta table; in an older home by its former name."""
        folder = _folder(self.settings.root, relation)
        if relation in FORMER and not folder.exists():
            former = _folder(self.settings.root, FORMER[relation])
            return former if former.exists() else folder
        return folder

    def table(self, relation: str) -> DeltaTable | None:
        """Open a relation's Delta table at its newest version; None if it was never written.

        The opened table is shared with later callers, so only read it.
        """
        folder = self.folder(relation)
        opened = self._opened.get(folder)
        if opened and _is_newest(folder, *opened):
            return opened[0]
        if not DeltaTable.is_deltatable(str(folder)):
            return None
        return self._share(relation, DeltaTable(str(folder)))

    def _share(self, relation: str, table: DeltaTable) -> DeltaTable:
        folder = self.folder(relation)
        self._opened[folder] = (table, _identity(_entry(folder, table.version())))
        return table

    def _take(self, contract: type[Contract]) -> DeltaTable:
        """Open a contract's table to write to it, created if missing, and share it with nobody."""
        table = self.create(contract)
        self._opened.pop(self.folder(contract.relation()), None)
        return table

    def table_at(self, relation: str, version: int) -> DeltaTable:
        """Open a relation's Delta table as it was at a version."""
        return DeltaTable(str(self.folder(relation)), version=version)

    def relations(self) -> tuple[str, ...]:
        """List the relations that a home can have, and those of features that it does have."""
        folders = (self.settings.root / "features").glob("*/_delta_log")
        return (*RELATIONS, *sorted(f"features.{folder.parent.name}" for folder in folders))

    def versions(self) -> dict[str, int]:
        """Return the newest version of every table in the home."""
        tables = {relation: self.table(relation) for relation in self.relations()}
        return {relation: table.version() for relation, table in tables.items() if table}

    def consumed(self, relation: str, transaction: str) -> int:
        """Return the version of the input that a `transaction` goes up to; -1 if there is none."""
        table = self.table(relation)
        version = table.transaction_version(transaction) if table else None
        return -1 if version is None else version

    def files(self, relation: str, since: int = -1) -> list[str]:
        """List a relation's data files; with `since`, only those added after that version."""
        return self.changes(relation, since).added

    def changes(self, relation: str, since: int, until: int | None = None) -> Changes:
        """Compare a relation's data files at `until`, by default the newest version, with `since`.

        A `since` of -1 means before the first version, so that all files were added.
        """
        now, before = set(self._files_at(relation, until)), set(self._files_at(relation, since))
        return Changes(sorted(now - before), sorted(before - now))

    def _files_at(self, relation: str, version: int | None) -> list[str]:
        table = self.table(relation)
        if table is None or version == -1:
            return []
        if version is not None and version != table.version():
            table = self.table_at(relation, version)
        return data_files(table)

    def n_rows(self, relation: str, since: int = -1) -> int:
        """Count a relation's rows by its files' footers; with `since`, how many more than then."""
        added, removed = self.changes(relation, since)
        return sum(map(n_rows_of, added)) - sum(map(n_rows_of, removed))

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Make a folder in the home for what does not fit in memory.

        It is removed at the end, or by `sweep` if the process is killed.
        """
        folder = self.settings.root / "tmp" / uuid.uuid4().hex
        folder.parent.mkdir(parents=True, exist_ok=True)
        alive = folder.with_suffix(".alive")
        with alive.open("w") as file:
            # the operating system releases this when the process ends, however it ends
            fcntl.flock(file, fcntl.LOCK_EX)
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                alive.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove the scratch folders and the uncommitted data files of killed processes."""
        sweep_halves(self.settings.root)
        for alive in (self.settings.root / "tmp").glob("*.alive"):
            with alive.open("a") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                folder = alive.with_suffix("")
                self._sweep_parts(folder / PARTS)
                shutil.rmtree(folder, ignore_errors=True)
                alive.unlink(missing_ok=True)

    def _sweep_parts(self, journal: Path) -> None:
        for line in journal.read_text("utf-8").splitlines() if journal.is_file() else []:
            written, _, name = line.partition(" ")
            relation = next((new for new, former in FORMER.items() if former == written), written)
            path = self.folder(relation) / name
            if str(path) not in self.files(relation):
                path.unlink(missing_ok=True)

    @contextmanager
    def connect(
        self, at: Mapping[str, int] | None = None, of: tuple[str, ...] = ("",)
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open DuckDB over a snapshot of tables, each a view named as its relation.

        `at` gives the versions of relations to read at an earlier one. `of` names the relations to
        read, or the beginnings of their names; by default all. Each relation costs a few
        milliseconds, which matters when a load has ten rows. What DuckDB spills is removed at the
        end.
        """
        with self.scratch() as scratch:
            options: dict[str, str | bool | int | float | list[str]] = {
                "memory_limit": self.settings.memory_limit,
                "temp_directory": str(scratch),
                "preserve_insertion_order": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
            }
            with duckdb.connect(config=options) as connection:
                connection.execute("set timezone = 'UTC'")
                for relation in (name for name in self.relations() if name.startswith(of)):
                    table = self.table(relation)
                    if table and at and relation in at:
                        table = self.table_at(relation, at[relation])
                    if table:
                        self.create_view(
                            connection,
                            relation,
                            data_files(table),
                            pa.schema(table.schema().to_arrow()),
                        )
                yield connection

    def create_view(
        self, connection: duckdb.DuckDBPyConnection, name: str, files: list[str], schema: pa.Schema
    ) -> None:
        """Create a view of data files; without files, an empty one with the given schema."""
        schema_name, _, view = name.rpartition(".")
        rows = parquet(connection, files) if files else connection.from_arrow(schema.empty_table())
        connection.execute(f"create schema if not exists {schema_name or 'main'}")
        connection.execute(f"use {schema_name or 'main'}")
        rows.create_view(view)
        connection.execute("use main")

    def create_arrivals(
        self,
        connection: duckdb.DuckDBPyConnection,
        contract: type[Contract],
        since: int,
        until: int | None = None,
    ) -> None:
        """Create the views `inserted` and `deleted`: rows added to and removed from a relation.

        They compare the version `until`, by default the newest, with the version `since`. Rows only
        moved to another file, as compaction does, are in neither.
        """
        added, removed = self.changes(contract.relation(), since, until)
        schema = contract.arrow_schema()
        if not removed:
            self.create_view(connection, "inserted", added, schema)
            self.create_view(connection, "deleted", [], schema)
            return
        self.create_view(connection, "added", added, schema)
        self.create_view(connection, "removed", removed, schema)
        same = [name for name in (*contract.key(), "content_digest") if name in schema.names]
        connection.execute(
            f"create view inserted as from added anti join removed using ({', '.join(same)})"
        )
        connection.execute(
            f"create view deleted as from removed anti join added using ({', '.join(same)})"
        )

    def create(self, contract: type[Contract]) -> DeltaTable:
        """Open a contract's table as `table` does; create it empty if it is missing."""
        if opened := self.table(contract.relation()):
            return opened
        folder = self.folder(contract.relation())
        try:
            folder.mkdir(parents=True, exist_ok=True)
            table = DeltaTable.create(
                str(folder),
                contract.arrow_schema(),
                mode="ignore",
                description=contract.__doc__,
                configuration=KEEP_LOG,
            )
        except OSError as error:
            reason = error.strerror or error
            message = f"{self.settings.root}: cannot be written ({reason}); choose another --home"
            raise HomeError(message) from None
        return self._share(contract.relation(), table)

    def refuse_other_columns(self, contract: type[Contract]) -> None:
        """Raise `HomeError` if another version of millrace made a table with other columns."""
        table = self.create(contract)
        found, wanted = pa.schema(table.schema().to_arrow()), contract.arrow_schema()
        both = set(found.names) & set(wanted.names)
        retyped = {name for name in both if found.field(name).type != wanted.field(name).type}
        differing = sorted((set(found.names) ^ set(wanted.names)) | retyped)
        if differing:
            message = (
                f"{self.settings.root}: {contract.relation()} was made by another version of "
                f"millrace (columns that differ: {', '.join(differing)}); delete "
                f"{', '.join(REMADE)} there, then run every source once: they are rebuilt from raw"
            )
            raise HomeError(message)

    def publish(
        self,
        contract: type[Contract],
        batches: Iterable[pa.RecordBatch],
        transactions: Mapping[str, int],
        code: int | None = None,
        without: Sequence[str] = (),
        *,
        is_whole: bool = False,
    ) -> Published:
        """Write, check and publish batches in one commit, once for the transactions and the code.

        `code` is the digest of what made the rows: the same input through other code is no repeat.
        `consumed(relation, CODE)` returns it, and `FAMILY` the contract's version. The same commit
        removes the data files in `without` from the table; they stay on disk for its older
        versions. With `is_whole` it removes all files, and the table takes the contract's columns.

        Raises `GateError` if a row breaks the contract, `AlreadyPublishedError` if another run has
        published one of the transactions, and `HomeError` if another run has removed one of the
        files in `without`. Then nothing is visible, and the files written are deleted.
        """
        table = self._take(contract)
        relation = contract.relation()
        _refuse_repeat(table, relation, transactions, code)
        mode = "overwrite" if is_whole else "append"
        with self.scratch() as scratch:
            writer = PartWriter(self.folder(relation), contract, scratch / PARTS)
            try:
                for batch in batches:
                    writer.write(batch)
                    self.report(relation, batch.num_rows, batch.nbytes)
                table = self._share(
                    relation,
                    self._commit(
                        table, contract, writer.close(), without, transactions, code, mode
                    ),
                )
            except BaseException:
                writer.discard()
                raise
        return Published(relation, writer.n_rows, table.version())

    def _commit(
        self,
        table: DeltaTable,
        contract: type[Contract],
        added: list[AddAction],
        without: Sequence[str],
        transactions: Mapping[str, int],
        code: int | None,
        mode: str,
    ) -> DeltaTable:
        """Commit; after another run's commit retry on top of it, unless it is of the same input."""
        carried = (
            transactions
            if code is None
            else {**transactions, CODE: code, FAMILY: contract.version()}
        )
        commit = CommitProperties(app_transactions=[Transaction(*item) for item in carried.items()])
        actions: list[AddAction | RemoveAction] = [*added, *map(_remove, without)]
        for tries_left in reversed(range(COMMIT_TRIES)):
            _refuse_missing(table, contract.relation(), without)
            try:
                table.create_write_transaction(
                    actions, mode, contract.arrow_schema(), commit_properties=commit
                )
                break
            except CommitFailedError:
                # also if two runs create a table at once: the second creation is a commit too
                table = self._take(contract)
                _refuse_repeat(table, contract.relation(), transactions, code)
                if not tries_left:
                    raise
        return table


def rename_tables(home: Path) -> None:
    """Rename the tables of an older home that have a new name; the caller has locked the home.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as home:
    ...     Path(home, "staging", "repeats").mkdir(parents=True)
    ...     rename_tables(Path(home))
    ...     [folder.name for folder in Path(home, "staging").iterdir()]
    ['duplicate_rows']
    """
    for relation, former in FORMER.items():
        folder, former_folder = _folder(home, relation), _folder(home, former)
        if former_folder.exists() and not folder.exists():
            former_folder.rename(folder)


def _folder(home: Path, relation: str) -> Path:
    return home.joinpath(*relation.split("."))


def _entry(folder: Path, version: int) -> Path:
    """Return the path of the log entry that made a version."""
    return folder / "_delta_log" / f"{version:020d}.json"


def _identity(entry: Path) -> tuple[int, int] | None:
    """Distinguish a log entry from others of the same name; None if it is missing."""
    try:
        stat = entry.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _is_newest(folder: Path, table: DeltaTable, identity: tuple[int, int] | None) -> bool:
    """Check that the log still ends with an opened table's version.

    A table that was deleted and created again has another entry of that name.
    """
    entry, following = (
        _entry(folder, version) for version in (table.version(), table.version() + 1)
    )
    return identity is not None and _identity(entry) == identity and not following.exists()


def files_of_version(folder: Path, version: int) -> list[str]:
    """List the data files of a version of a table; none if that version is missing."""
    try:
        return data_files(DeltaTable(str(folder), version=version))
    except DeltaError:
        return []


def data_files(table: DeltaTable) -> list[str]:
    """List the data files of an open table as paths; Delta returns URIs, with `%20` for a blank."""
    return [unquote(uri) for uri in table.file_uris()]


def n_rows_of(file: str) -> int:
    """Count a data file's rows by its footer.

    >>> from tempfile import NamedTemporaryFile
    >>> with NamedTemporaryFile() as file:
    ...     pq.write_table(pa.table({"record_id": ["a", "b"]}), file.name)
    ...     n_rows_of(file.name)
    2
    """
    n_rows: int = pq.read_metadata(file).num_rows
    return n_rows


def _remove(file: str) -> RemoveAction:
    return RemoveAction(
        Path(file).name, data_change=True, deletion_timestamp=time.time_ns() // 1_000_000
    )


def _refuse_missing(table: DeltaTable, relation: str, files: Sequence[str]) -> None:
    """Refuse to replace files that are no longer in the table: removed rows would come back."""
    if not set(files) <= set(data_files(table)):
        message = (
            f"{relation}: another run has replaced files that this one was about to replace; "
            "run again"
        )
        raise HomeError(message)


def _refuse_repeat(
    table: DeltaTable, relation: str, transactions: Mapping[str, int], code: int | None
) -> None:
    """Refuse transactions that the open version already has.

    Delta itself only detects conflicts with commits after the open version.
    """
    if code is not None and table.transaction_version(CODE) != code:
        return
    done = {name: table.transaction_version(name) for name in transactions}
    if any(at is not None and at >= transactions[name] for name, at in done.items()):
        message = f"{relation}: another run has published the same input"
        raise AlreadyPublishedError(message)


class AlreadyPublishedError(Exception):
    """Another run committed the same transaction first; its rows count."""
