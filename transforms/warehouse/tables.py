"""The warehouse: the Delta tables of a home and their versions.

`publishing` writes them, `snapshot` opens DuckDB over them.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from transforms.errors import HomeError
from transforms.home import Settings
from transforms.layout import LAYOUT, has_tables, refuse_other, write_layout
from transforms.paths import refuse_path
from transforms.replica import have_here
from transforms.schemas.base import Contract, describe

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
    "serving.consistency",
)
# by age alone; a consumer or a training set may need an old entry, so `upkeep.log` goes by need
KEEP_LOG: dict[str, str | None] = {"delta.enableExpiredLogCleanup": "false"}
# versions whose lists of data files a warehouse keeps in memory
KEPT_VERSIONS = 256
# commits after which an open table is opened again: at each commit it reads its log from the
# checkpoint by which it was opened, 4 ms for few entries and 30 ms for seventy
REOPENED_AFTER = 10
Report = Callable[[str, int, int], None]


def silent(_relation: str, _rows: int, _bytes: int) -> None:
    """Ignore the progress of writing: the default `report` of a warehouse."""


class Rows(NamedTuple):
    """What a run did to a table: rows of new keys or instants, replaced and untouched rows."""

    new: int = 0
    recomputed: int = 0
    untouched: int = 0


class Changes(NamedTuple):
    """Data files added to a relation and removed from it; a row that is in both was only moved."""

    added: list[str]
    removed: list[str]


class Opened(NamedTuple):
    """An open table, what distinguishes its log entry, and the transactions known of it.

    `since` is the version at which it was opened; it was brought up to date from there.
    """

    table: DeltaTable
    identity: tuple[int, int] | None
    transactions: dict[str, int | None]
    since: int

    def transaction_version(self, transaction: str) -> int | None:
        """Return the version that the newest commit of a transaction recorded.

        Each is asked for once: delta-rs reads the log to answer.
        """
        if transaction not in self.transactions:
            self.transactions[transaction] = self.table.transaction_version(transaction)
        return self.transactions[transaction]


class Warehouse:
    """The tables of one home.

    `report(relation, rows, bytes)` is called for every batch written, to show progress. What was
    opened is kept, so a process that runs often opens a warehouse once.

    >>> from tempfile import TemporaryDirectory
    >>> from transforms.schemas.staging import StagedRecord
    >>> with TemporaryDirectory() as home:
    ...     warehouse = Warehouse(Settings(home=Path(home)))
    ...     table = warehouse.create(StagedRecord)
    ...     warehouse.versions()
    {'staging.records': 0}
    """

    def __init__(
        self, settings: Settings, report: Report = silent, *, of_any_layout: bool = False
    ) -> None:
        """Take a home, without reading or creating anything yet.

        Raises `HomeError` if no Delta table can be opened under its path; so does the first look
        at a table if the home has another layout, unless it may be `of_any_layout`.
        """
        refuse_path(settings.root)
        self.settings = settings
        self.report = report
        self._root = settings.root
        self._replica = settings.replica
        self._begun_at = time.monotonic()
        self._opened: dict[Path, Opened] = {}
        self._files: dict[tuple[str, tuple[int, int] | None], list[str]] = {}
        self._keeping = Lock()  # tables may be written side by side
        self._is_readable = of_any_layout

    def folder(self, relation: str) -> Path:
        """Return the folder of a relation's Delta table."""
        return _folder(self._root, relation)

    def table(self, relation: str) -> DeltaTable | None:
        """Open a relation's Delta table at its newest version; None if it was never written.

        The opened table is shared with later callers, so only read it.
        """
        opened = self.opened(relation)
        return opened.table if opened else None

    def opened(self, relation: str) -> Opened | None:
        """Open a table as `table` does, with what is known of it."""
        self._look()
        folder = self.folder(relation)
        opened = self._opened.get(folder)
        if opened and _is_newest(folder, opened) and not _is_long_open(opened):
            return opened
        if not DeltaTable.is_deltatable(str(folder)):
            return None
        return self.share(relation, DeltaTable(str(folder)))

    def share(
        self,
        relation: str,
        table: DeltaTable,
        transactions: Mapping[str, int | None] | None = None,
        since: int | None = None,
    ) -> Opened:
        """Share an opened table with later callers, as the newest version.

        `transactions` are those that are known of this version; `since` it has been open.
        """
        folder = self.folder(relation)
        entry = _entry(folder, table.version())
        since = table.version() if since is None else since
        opened = Opened(table, _identity(entry), dict(transactions or {}), since)
        self._opened[folder] = opened
        self._keep_files(entry, table)
        return opened

    def transaction_version(self, relation: str, transaction: str) -> int | None:
        """Return the version that a relation's newest commit of a transaction recorded."""
        opened = self.opened(relation)
        return opened.transaction_version(transaction) if opened else None

    def take(self, contract: type[Contract]) -> Opened:
        """Open a contract's table to write to it, created if missing, and share it with nobody."""
        opened = self.open_or_create(contract)
        self._opened.pop(self.folder(contract.relation()), None)
        return opened

    def table_at(self, relation: str, version: int) -> DeltaTable:
        """Open a relation's Delta table as it was at a version."""
        return DeltaTable(str(self.folder(relation)), version=version)

    def entries(self, relation: str) -> list[int]:
        """List the versions whose entries a table's log still has."""
        log = self.folder(relation) / "_delta_log"
        return sorted(int(path.stem) for path in log.glob("*.json") if path.stem.isdigit())

    def note(self, relation: str, version: int, name: str) -> str | None:
        """Return a note that the commit of a version carries in the log; None if it has none."""
        # delta-rs tells the history of an old version by the newest entries
        path = Path(_entry(self.folder(relation), version))
        entry = path.read_text("utf-8") if path.exists() else ""
        # most entries have none, and to parse them takes longest
        actions = (json.loads(line) for line in entry.splitlines() if name in line)
        recorded = (action["commitInfo"].get(name) for action in actions if "commitInfo" in action)
        return next(recorded, None)

    def relations(self) -> tuple[str, ...]:
        """List the relations that a home can have, and those of features that it does have."""
        self._look()
        folders = (self._root / "features").glob("*/_delta_log")
        return (*RELATIONS, *sorted(f"features.{folder.parent.name}" for folder in folders))

    def _look(self) -> None:
        """Have what a home in object storage had when this was made, or later.

        Raises `HomeError` at the first look if the home has another layout.
        """
        there = self._replica
        if there and there.pulled_at < self._begun_at and not there.is_leased:
            there.pull()
        if not self._is_readable:
            refuse_other(self._root)
            self._is_readable = True

    def version(self, relation: str) -> int:
        """Return the newest version of a table; -1 if it was never written."""
        table = self.table(relation)
        return table.version() if table else -1

    def versions(self) -> dict[str, int]:
        """Return the newest version of every table in the home."""
        tables = {relation: self.table(relation) for relation in self.relations()}
        return {relation: table.version() for relation, table in tables.items() if table}

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
        entry = _entry(self.folder(relation), table.version() if version is None else version)
        if (files := self._files.get((entry, _identity(entry)))) is not None:
            return files
        if version is not None and version != table.version():
            table = self.table_at(relation, version)
        return self._keep_files(entry, table)

    def _keep_files(self, entry: str, table: DeltaTable) -> list[str]:
        """Keep the data files of a version for the runs that continue from it; return them."""
        files = data_files(table)
        if self._replica:
            _counted.update(_counts(table, files))
        with self._keeping:
            if (identity := _identity(entry)) is not None:
                self._files[entry, identity] = files
            while len(self._files) > KEPT_VERSIONS:
                del self._files[next(iter(self._files))]
        return files

    def n_rows(self, relation: str, since: int = -1) -> int:
        """Count a relation's rows by its files' footers; with `since`, how many more than then."""
        added, removed = self.changes(relation, since)
        return sum(map(n_rows_of, added)) - sum(map(n_rows_of, removed))

    def create(self, contract: type[Contract]) -> DeltaTable:
        """Open a contract's table as `table` does; create it empty if it is missing."""
        return self.open_or_create(contract).table

    def open_or_create(self, contract: type[Contract]) -> Opened:
        """Open a contract's table as `create` does, with what is known of it."""
        if opened := self.opened(contract.relation()):
            return opened
        folder = self.folder(contract.relation())

        def create(place: Path) -> None:
            DeltaTable.create(
                str(place),
                contract.arrow_schema(),
                mode="ignore",
                description=describe(contract),
                configuration=KEEP_LOG,
            )

        try:
            if not has_tables(self._root):
                write_layout(self._root, LAYOUT)
            folder.mkdir(parents=True, exist_ok=True)
            if self._replica:
                self._replica.commit(folder, -1, create)
            else:
                create(folder)
        except OSError as error:
            reason = error.strerror or error
            message = f"{self.settings.root}: cannot be written ({reason}); choose another --home"
            raise HomeError(message) from None
        return self.share(contract.relation(), DeltaTable(str(folder)))


@lru_cache(maxsize=256)
def _folder(home: Path, relation: str) -> Path:
    return home.joinpath(*relation.split("."))


def _entry(folder: Path, version: int) -> str:
    """Return the path of the log entry that made a version."""
    return f"{folder}/_delta_log/{version:020d}.json"


def _identity(entry: str) -> tuple[int, int] | None:
    """Distinguish a log entry from others of the same name; None if it is missing."""
    try:
        stat = os.stat(entry)  # noqa: PTH116 - thousands of times a run, and a Path is slow to make
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _is_newest(folder: Path, opened: Opened) -> bool:
    """Check that the log still ends with an opened table's version.

    A table that was deleted and created again has another entry of that name.
    """
    version = opened.table.version()
    is_there = opened.identity is not None and _identity(_entry(folder, version)) == opened.identity
    return is_there and _identity(_entry(folder, version + 1)) is None


def _is_long_open(opened: Opened) -> bool:
    return opened.table.version() - opened.since >= REOPENED_AFTER


def files_of_version(folder: Path, version: int) -> list[str]:
    """List the data files of a version of a table; none if that version is missing."""
    try:
        return data_files(DeltaTable(str(folder), version=version))
    except DeltaError:
        return []


def data_files(table: DeltaTable) -> list[str]:
    """List the data files of an open table as paths; Delta returns URIs, with `%20` for a blank."""
    return [unquote(uri) for uri in table.file_uris()]


@lru_cache(maxsize=1 << 16)
def n_rows_of(file: str) -> int:
    """Count a data file's rows by its footer, once: no data file is ever changed.

    >>> from tempfile import NamedTemporaryFile
    >>> import pyarrow as pa
    >>> with NamedTemporaryFile() as file:
    ...     pq.write_table(pa.table({"record_id": ["a", "b"]}), file.name)
    ...     n_rows_of(file.name)
    2
    """
    if file in _counted:
        return _counted[file]
    have_here([file])
    n_rows: int = pq.read_metadata(file).num_rows
    return n_rows


# rows of data files that may not be here, by the log
_counted: dict[str, int] = {}


def _counts(table: DeltaTable, files: list[str]) -> dict[str, int]:
    actions = pa.table(table.get_add_actions(flatten=True)).select(["path", "num_records"])
    counts = dict(zip(*actions.to_pydict().values(), strict=True))
    found = {file: counts.get(Path(file).name) for file in files}
    return {file: count for file, count in found.items() if count is not None}
