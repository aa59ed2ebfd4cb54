"""staging -> features: score texts with Polars, count activity with SQL, publish only what is new or has changed.

Each view remembers, in its own commit, the staging version it was made from and the digest of the code that made it. What
arrived since is what it works on; where the code is another, that is everything.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import duckdb
import polars as pl
import pyarrow as pa
from deltalake import DeltaTable

from transforms.activity import activity_rows, create_activity, history_rows
from transforms.code import RECORD_KERNELS, code_digest
from transforms.duplicate_index import bring_index_up
from transforms.duplicates import duplicate_rows
from transforms.paths import parquet
from transforms.profile import profile_views
from transforms.records import record_rows
from transforms.replacing import replace_file
from transforms.schemas.base import Contract
from transforms.schemas.duplicates import KnownDocument
from transforms.schemas.features import AuthorActivity, RecordDuplicates, RecordQuality, SubjectActivity
from transforms.schemas.staging import StagedRecord
from transforms.warehouse import CODE, AlreadyPublishedError, Rows, Warehouse

OF_RECORDS: tuple[type[Contract], ...] = (*RECORD_KERNELS, RecordDuplicates)
VIEWS: tuple[type[Contract], ...] = (*OF_RECORDS, AuthorActivity, SubjectActivity)
TRANSACTION = "featurize"
RowsOfView = Callable[..., Iterator[pa.RecordBatch]]


def view_name(contract: type[Contract]) -> str:
    """Name the feature view of a contract, e.g. `author_activity`."""
    return contract.relation().removeprefix("features.")


def stale_views(warehouse: Warehouse) -> list[type[Contract]]:
    """List the feature views that have not seen the newest staged records, or that other code has made."""
    version = warehouse.versions().get(StagedRecord.relation(), -1)
    return [contract for contract in VIEWS if _consumed(contract, warehouse) < version]


def is_made_by_other_code(contract: type[Contract], warehouse: Warehouse) -> bool:
    """Whether a view holds rows whose model, kernel, contract or engine has changed since, so that it must be made again."""
    made_by = warehouse.consumed(contract.relation(), CODE)
    return warehouse.consumed(contract.relation(), TRANSACTION) >= 0 and made_by != code_digest(contract)


def breaking_changes(warehouse: Warehouse) -> list[str]:
    """List the published features that their contract no longer has, or has with another type: whoever reads them would fail."""
    changes = []
    for contract in VIEWS:
        table = warehouse.table(contract.relation())
        published = pa.schema(table.schema().to_arrow()) if table else pa.schema([])
        wanted = contract.arrow_schema()
        for field in published:
            name = f"{contract.relation()}.{field.name}"
            if field.name not in wanted.names:
                changes.append(f"{name}: removed")
            elif wanted.field(field.name).type != field.type:
                changes.append(f"{name}: {field.type} becomes {wanted.field(field.name).type}")
    return changes


def has_columns_as_defined(contract: type[Contract], warehouse: Warehouse) -> bool:
    """Whether a view's table has the columns of its contract."""
    table = warehouse.table(contract.relation())
    # types are compared, not hashed: Delta and Arrow name the items of a list in different ways
    return table is None or {field.name: field.type for field in pa.schema(table.schema().to_arrow())} == {
        field.name: field.type for field in contract.arrow_schema()
    }


def pending_versions(contract: type[Contract], warehouse: Warehouse) -> tuple[int, str]:
    """Count the staged versions that a view's next run starts from, and say why."""
    n_rows = warehouse.n_rows(StagedRecord.relation(), since=_consumed(contract, warehouse))
    if is_made_by_other_code(contract, warehouse):
        return n_rows, "its model, kernel, contract or engine has changed, so all of it again"
    return n_rows, "they came since it was made"


class Unfinished(NamedTuple):
    """A backfill under way: its name, what it works on, its chunks, and the versions of the views before it, by their names."""

    name: str
    basis: str
    n_chunks: int
    versions: dict[str, int]


def read_unfinished(warehouse: Warehouse) -> Unfinished | None:
    """Read which backfill is under way, or was stopped; None if none is."""
    path = _unfinished_path(warehouse)
    return Unfinished(**json.loads(path.read_text("utf-8"))) if path.is_file() else None


def write_unfinished(warehouse: Warehouse, unfinished: Unfinished | None) -> None:
    """Note that a backfill is under way, or that none is."""
    path = _unfinished_path(warehouse)
    if unfinished is None:
        path.unlink(missing_ok=True)
        return
    replace_file(path, json.dumps(unfinished._asdict()).encode())


def _unfinished_path(warehouse: Warehouse) -> Path:
    return warehouse.settings.root / "backfill.json"


def consistent_versions(warehouse: Warehouse) -> dict[str, int]:
    """The newest versions of the feature views that were made from one and the same staging version, by the view's name.

    A run publishes one view after the other; who reads meanwhile gets what all of them agree on. While a backfill is under way,
    or was stopped, that is what stood before it.
    """
    if unfinished := read_unfinished(warehouse):
        return unfinished.versions
    tables = {contract: table for contract in VIEWS if (table := warehouse.table(contract.relation()))}
    agreed = min((_made_from(table) for table in tables.values()), default=-1)
    versions = {}
    for contract, newest in tables.items():
        table = newest
        while _made_from(table) > agreed:
            table = warehouse.table_at(contract.relation(), table.version() - 1)
        versions[view_name(contract)] = table.version()
    return versions


def staging_version(warehouse: Warehouse, versions: Mapping[str, int]) -> int:
    """The staging version that versions of the feature views, by the view's name, were made from: of several, the newest."""
    relations = {f"features.{view}": version for view, version in versions.items()}
    tables = [warehouse.table_at(relation, version) for relation, version in relations.items() if warehouse.table(relation)]
    return max(map(_made_from, tables), default=-1)


def _made_from(table: DeltaTable) -> int:
    version = table.transaction_version(TRANSACTION)
    return -1 if version is None else version


def _consumed(contract: type[Contract], warehouse: Warehouse) -> int:
    """The staging version a view was made from by the code as it is now; -1 if by other code, or never."""
    return -1 if is_made_by_other_code(contract, warehouse) else warehouse.consumed(contract.relation(), TRANSACTION)


def featurize(warehouse: Warehouse, now: datetime) -> dict[str, Rows]:
    """Bring every feature view up to the newest staged records; what became of the rows of each, by its name."""
    for contract in VIEWS:
        warehouse.create(contract)
    stale = stale_views(warehouse)
    rows = {view_name(contract): _publish_view(contract, warehouse, now, is_stale=contract in stale) for contract in VIEWS}
    profile_views(warehouse, VIEWS)
    write_unfinished(warehouse, None)  # what a stopped backfill had left of other code is made now; of holes, the next one finds them
    return rows


def _publish_view(contract: type[Contract], warehouse: Warehouse, now: datetime, *, is_stale: bool) -> Rows:
    n_before = warehouse.n_rows(contract.relation())
    if not is_stale:
        return Rows(untouched=n_before)
    version = warehouse.versions()[StagedRecord.relation()]
    consumed = _consumed(contract, warehouse)
    # what other code made is replaced in one commit; older versions of the table keep it
    is_replaced = consumed < 0
    done = {TRANSACTION: version}
    try:
        if contract is RecordDuplicates:
            done |= bring_index_up(warehouse, now, done, code_digest(contract))
        with warehouse.connect(of=(StagedRecord.relation(), RecordQuality.relation(), contract.relation())) as connection:
            warehouse.create_arrivals(connection, StagedRecord, since=consumed)
            compute = _kind(contract, warehouse, connection, is_whole=is_replaced)
            counted = Counted(compute(connection, contract, warehouse.settings.batch_rows, now, is_whole=is_replaced), contract)
            published = warehouse.publish(contract, counted, done, code_digest(contract), is_whole=is_replaced)
    except AlreadyPublishedError:
        return Rows(untouched=n_before)
    n_recomputed = published.n_rows - counted.n_new
    if is_replaced and n_before:
        return Rows(recomputed=published.n_rows)
    return Rows(counted.n_new, n_recomputed, n_before - n_recomputed)


def _kind(contract: type[Contract], warehouse: Warehouse, connection: duckdb.DuckDBPyConnection, *, is_whole: bool) -> RowsOfView:
    """How a view's rows are made; of duplicates, from the documents that came to the index since the view was made."""
    if contract is not RecordDuplicates:
        return partial(record_rows, kernel=RECORD_KERNELS[contract]) if contract in RECORD_KERNELS else activity_rows
    since = -1 if is_whole else warehouse.consumed(contract.relation(), KnownDocument.relation())
    create_index_documents(warehouse, connection, since)
    return duplicate_rows


def create_index_documents(warehouse: Warehouse, connection: duckdb.DuckDBPyConnection, since: int = -1) -> None:
    """Make `index_documents`: what the index of duplicates holds, or got after a version."""
    files = warehouse.files(KnownDocument.relation(), since)
    warehouse.create_view(connection, "index_documents", files, KnownDocument.arrow_schema())


def recompute(warehouse: Warehouse, entities: pl.DataFrame, now: datetime) -> None:
    """Compute some records, authors and subjects again from all that is staged, in place of all that was published of them.

    `entities` has the columns record_id, author_id and subject_id. The data files that hold rows of theirs are written anew; who has
    nothing staged any more has no rows afterwards. Every view must have been up to date before staging changed.
    """
    version = warehouse.versions()[StagedRecord.relation()]
    for contract in VIEWS:
        if warehouse.consumed(contract.relation(), TRANSACTION) == version:
            continue
        if contract is RecordDuplicates:
            _publish_duplicates_anew(warehouse, now, version)
            continue
        with warehouse.connect() as connection:
            connection.register("entities", entities.to_arrow())
            connection.execute("create table lost_entities as from entities")
            files = warehouse.files(contract.relation())
            touched = files_with_entities(connection, files, contract, "lost_entities")
            warehouse.create_view(connection, "published_files", files, contract.arrow_schema())
            warehouse.create_view(connection, "touched_files", touched, contract.arrow_schema())
            # rows that other code made stay other code's: the next run makes them again
            code = warehouse.consumed(contract.relation(), CODE)
            batches = _anew(connection, contract, warehouse.settings.batch_rows, now)
            warehouse.publish(contract, batches, {TRANSACTION: version}, code, touched)


def _publish_duplicates_anew(warehouse: Warehouse, now: datetime, version: int) -> None:
    """Make index and view of duplicates again, whole: rows of other records name what is gone, or count it."""
    done, code = {TRANSACTION: version}, code_digest(RecordDuplicates)
    done |= bring_index_up(warehouse, now, done, code, is_anew=True)
    with warehouse.connect() as connection:
        create_index_documents(warehouse, connection)
        rows = duplicate_rows(connection, RecordDuplicates, warehouse.settings.batch_rows, now, is_whole=True)
        warehouse.publish(RecordDuplicates, Counted(rows, RecordDuplicates), done, code, is_whole=True)


def files_resting_on(connection: duckdb.DuckDBPyConnection, files: list[str], contract: type[Contract], entities: str) -> list[str]:
    """List those of a view's data files whose values rest on one of the entities in a table; of duplicates that may be any of them."""
    return files if contract is RecordDuplicates else files_with_entities(connection, files, contract, entities)


def files_with_entities(connection: duckdb.DuckDBPyConnection, files: list[str], contract: type[Contract], entities: str) -> list[str]:
    """List those of a view's data files that hold a row of one of the entities in a table."""
    if not files:
        return []
    parquet(connection, files, filename=True).create_view("searched_files")
    held = f"select distinct filename from searched_files where {_is_among(contract, entities)}"
    return [file for (file,) in connection.sql(held).fetchall()]


def _is_among(contract: type[Contract], entities: str) -> str:
    key = contract.key()[0]
    return f"{key} in (select {key} from {entities} where {key} is not null)"


def _anew(connection: duckdb.DuckDBPyConnection, contract: type[Contract], batch_rows: int, now: datetime) -> Iterator[pa.RecordBatch]:
    """Stream the other rows of the touched files, then those of `lost_entities`, computed as if nothing had been published of them."""
    untouched = f"not {_is_among(contract, 'lost_entities')}"
    yield from connection.sql(f"from touched_files where {untouched}").to_arrow_reader(batch_rows)
    connection.execute(f"create or replace view {contract.relation()} as from main.published_files where {untouched}")
    if contract in RECORD_KERNELS:
        connection.from_arrow(StagedRecord.arrow_schema().empty_table()).create_view("arrived")
        connection.execute("create view gone as from lost_entities")
        computed = record_rows(connection, contract, batch_rows, now, is_whole=False, kernel=RECORD_KERNELS[contract])
    else:
        create_activity(connection, contract)
        computed = history_rows(connection, contract, batch_rows, now)
    for batch in computed:
        yield batch.select(contract.arrow_schema().names)


class Counted:
    """Batches as a contract has them, counting on their way the rows that are new."""

    def __init__(self, batches: Iterable[pa.RecordBatch], contract: type[Contract]) -> None:
        """Take batches with the column `is_new`."""
        self.n_new = 0
        self._batches, self._names = batches, contract.arrow_schema().names

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Give each batch without `is_new`."""
        for batch in self._batches:
            self.n_new += batch.column("is_new").true_count
            yield batch.select(self._names)
