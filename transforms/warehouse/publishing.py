"""The one way rows get into a table: written, checked, then published.

Parquet files come first, each batch checked against its contract. One Delta commit then makes them
visible, together with the transaction that records what they were made from. A run that fails or is
killed before that commit leaves nothing visible.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction

from transforms.errors import HomeError
from transforms.schemas.base import Contract
from transforms.warehouse.scratch import PARTS, scratch_folder
from transforms.warehouse.tables import Opened, Warehouse, data_files
from transforms.warehouse.writer import PartWriter

COMMIT_TRIES = 4
# a commit reads the log since the last checkpoint: 4 ms on average with one at every tenth, 14 ms
# over 60 commits without; delta-rs itself makes one at every hundredth
COMMITS_UNTIL_CHECKPOINT = 10
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


class Published(NamedTuple):
    """What one commit made visible."""

    relation: str
    n_rows: int


class Written(NamedTuple):
    """Files that another process has checked and written into a table's folder."""

    files: list[AddAction]
    n_rows: int


class AlreadyPublishedError(Exception):
    """Another run committed the same transaction first; its rows count."""


def refuse_other_columns(warehouse: Warehouse, contract: type[Contract]) -> None:
    """Raise `HomeError` if another version of millrace made a table with other columns."""
    table = warehouse.create(contract)
    found, wanted = pa.schema(table.schema().to_arrow()), contract.arrow_schema()
    both = set(found.names) & set(wanted.names)
    retyped = {name for name in both if found.field(name).type != wanted.field(name).type}
    differing = sorted((set(found.names) ^ set(wanted.names)) | retyped)
    if differing:
        message = (
            f"{warehouse.settings.root}: {contract.relation()} was made by another version of "
            f"millrace (columns that differ: {', '.join(differing)}); delete "
            f"{', '.join(REMADE)} there, then run every source once: they are rebuilt from raw"
        )
        raise HomeError(message)


def publish(
    warehouse: Warehouse,
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
    It is recorded as the version of the transaction `CODE`, and the contract's version as that of
    `FAMILY`. The same commit removes the data files in `without` from the table; they stay on
    disk for its older versions. With `is_whole` it removes all files, and the table takes the
    contract's columns.

    Raises `GateError` if a row breaks the contract, `AlreadyPublishedError` if another run has
    published one of the transactions, and `HomeError` if another run has removed one of the
    files in `without`. Then nothing is visible, and the files written are deleted.
    """
    with publishing(
        warehouse, contract, transactions, code, without, is_whole=is_whole
    ) as publication:
        for batch in batches:
            publication.write(batch)
        return publication.commit()


class Publication:
    """Batches on their way into a table: checked and written one by one, visible once committed."""

    def __init__(
        self,
        warehouse: Warehouse,
        relation: str,
        writer: PartWriter,
        commit: Callable[[list[AddAction]], None],
    ) -> None:
        """Take what writes the table's data files, and what adds them to the table."""
        self.is_committed = False
        self._added: list[AddAction] | None = None
        self._n_adopted, self._adopted = 0, list[AddAction]()
        self._warehouse, self._relation = warehouse, relation
        self._writer, self._commit = writer, commit

    def write(self, batch: pa.RecordBatch) -> None:
        """Check and write a batch."""
        self._writer.write(batch)
        self._warehouse.report(self._relation, batch.num_rows, batch.nbytes)

    def adopt(self, files: Sequence[AddAction], n_rows: int) -> None:
        """Add files that another process has checked and written into the table's folder.

        They are not deleted if they are not committed.
        """
        self._adopted += files
        self._n_adopted += n_rows
        self._warehouse.report(self._relation, n_rows, sum(file.size for file in files))

    def finish(self) -> list[AddAction]:
        """Finish the files; raises `GateError` if a row breaks the contract."""
        if self._added is None:
            self._added = [*self._writer.close(), *self._adopted]
        return self._added

    def commit(self) -> Published:
        """Make all batches visible."""
        self._commit(self.finish())
        self.is_committed = True
        return Published(self._relation, self._writer.n_rows + self._n_adopted)


@contextmanager
def publishing(
    warehouse: Warehouse,
    contract: type[Contract],
    transactions: Mapping[str, int],
    code: int | None = None,
    without: Sequence[str] = (),
    *,
    is_whole: bool = False,
    notes: Mapping[str, str] | None = None,
) -> Iterator[Publication]:
    """Open a publication, as `publish` makes one of all batches at once.

    So several tables can be written side by side. `transactions` and `notes`, which the commit's
    entry in the log has, may be added to until the commit. Raises as `publish` does. What is not
    committed at the end is deleted.
    """
    relation = contract.relation()
    _refuse_repeat(warehouse.open_or_create(contract), relation, transactions, code)
    mode = "overwrite" if is_whole else "append"

    def commit(added: list[AddAction]) -> None:
        _commit(warehouse, contract, added, without, transactions, code, mode, notes)

    with scratch_folder(warehouse.settings.root) as scratch:
        writer = PartWriter(warehouse.folder(relation), contract, scratch / PARTS)
        publication = Publication(warehouse, relation, writer, commit)
        try:
            yield publication
        finally:
            if not publication.is_committed:
                writer.discard()


def _commit(
    warehouse: Warehouse,
    contract: type[Contract],
    added: list[AddAction],
    without: Sequence[str],
    transactions: Mapping[str, int],
    code: int | None,
    mode: str,
    notes: Mapping[str, str] | None,
) -> None:
    """Commit on top of what other runs have committed, unless that is of the same input.

    The table as it is then is shared, with the transactions that are known of it.
    """
    carried = (
        transactions if code is None else {**transactions, CODE: code, FAMILY: contract.version()}
    )
    commit = CommitProperties(
        app_transactions=[Transaction(*item) for item in carried.items()],
        custom_metadata=dict(notes or {}),
    )
    actions: list[AddAction | RemoveAction] = [*added, *map(_remove, without)]
    folder, there = warehouse.folder(contract.relation()), warehouse.settings.replica

    def write(table: DeltaTable) -> None:
        table.create_write_transaction(
            actions, mode, contract.arrow_schema(), commit_properties=commit
        )

    for tries_left in reversed(range(COMMIT_TRIES)):
        opened = warehouse.take(contract)
        table, before = opened.table, opened.table.version()
        _refuse_repeat(opened, contract.relation(), transactions, code)
        _refuse_missing(table, contract.relation(), without)
        try:
            if there is None:
                write(table)
            elif not there.commit(folder, before, lambda copy: write(DeltaTable(str(copy)))):
                message = f"{contract.relation()}: others commit all the time; run again"
                raise CommitFailedError(message)  # noqa: TRY301 - caught as delta-rs's own
            break
        except CommitFailedError:
            # also if two runs create a table at once: the second creation is a commit too
            if not tries_left:
                raise
    table.update_incremental()
    if table.version() % COMMITS_UNTIL_CHECKPOINT == 0:
        table.create_checkpoint()
        if there:
            there.settle(folder)
    is_alone = table.version() == before + 1  # else what others committed meanwhile is unknown
    warehouse.share(
        contract.relation(),
        table,
        {**opened.transactions, **carried} if is_alone else None,
        opened.since,
    )


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
    opened: Opened, relation: str, transactions: Mapping[str, int], code: int | None
) -> None:
    """Refuse transactions that the open version already has.

    Delta itself only detects conflicts with commits after the open version.
    """
    if code is not None and opened.transaction_version(CODE) != code:
        return
    done = {name: opened.transaction_version(name) for name in transactions}
    if any(at is not None and at >= transactions[name] for name, at in done.items()):
        message = f"{relation}: another run has published the same input"
        raise AlreadyPublishedError(message)
