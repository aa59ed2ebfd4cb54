"""staging -> features: score texts with Polars, count activity with SQL, publish only what is new or has changed.

Each view remembers, in its own commit, the staging version it was made from and the digest of the code that made it. What
arrived since is what it works on; where the code is another, that is everything.
"""

from collections.abc import Iterator
from datetime import datetime

import duckdb
import polars as pl
import pyarrow as pa
from deltalake import DeltaTable

from transforms.code import code_digest
from transforms.schemas.base import Contract
from transforms.schemas.features import AuthorActivity, RecordQuality, SubjectActivity
from transforms.schemas.staging import StagedRecord
from transforms.sql import model
from transforms.text.quality import score_quality
from transforms.warehouse import CODE, AlreadyPublishedError, Warehouse

VIEWS: tuple[type[Contract], ...] = (RecordQuality, AuthorActivity, SubjectActivity)
TRANSACTION = "featurize"
# DuckDB cannot spill what it adds up by instant as it should, so entities are taken in buckets
SPANS_OF_A_BUCKET = 500_000
ZERO_WEIGHTS = """
    0 as n_words, 0 as n_characters, 0 as n_positive, 0 as weight_1d, 0 as weight_7d, 0 as weight_28d, 0 as weight_lifetime
"""


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


def pending_versions(contract: type[Contract], warehouse: Warehouse) -> tuple[int, str]:
    """Count the staged versions that a view's next run starts from, and say why."""
    n_rows = warehouse.n_rows(StagedRecord.relation(), since=_consumed(contract, warehouse))
    if is_made_by_other_code(contract, warehouse):
        return n_rows, "its model, kernel, contract or engine has changed, so all of it again"
    return n_rows, "they came since it was made"


def consistent_versions(warehouse: Warehouse) -> dict[str, int]:
    """The newest versions of the feature views that were made from one and the same staging version, by the view's name.

    A run publishes one view after the other; who reads meanwhile gets what all of them agree on.
    """
    tables = {view_name(contract): table for contract in VIEWS if (table := warehouse.table(contract.relation()))}
    agreed = min((_made_from(table) for table in tables.values()), default=-1)
    for table in tables.values():
        while _made_from(table) > agreed:
            table.load_as_version(table.version() - 1)
    return {name: table.version() for name, table in tables.items()}


def _made_from(table: DeltaTable) -> int:
    version = table.transaction_version(TRANSACTION)
    return -1 if version is None else version


def _consumed(contract: type[Contract], warehouse: Warehouse) -> int:
    """The staging version a view was made from by the code as it is now; -1 if by other code, or never."""
    return -1 if is_made_by_other_code(contract, warehouse) else warehouse.consumed(contract.relation(), TRANSACTION)


def featurize(warehouse: Warehouse, now: datetime) -> dict[str, int]:
    """Bring every feature view up to the newest staged records; the number of rows added to each, by its name."""
    rows = dict.fromkeys((view_name(contract) for contract in VIEWS), 0)
    for contract in VIEWS:
        warehouse.create(contract)
    for contract in stale_views(warehouse):
        rows[view_name(contract)] = _publish_view(contract, warehouse, now)
    return rows


def _publish_view(contract: type[Contract], warehouse: Warehouse, now: datetime) -> int:
    version = warehouse.versions()[StagedRecord.relation()]
    consumed = _consumed(contract, warehouse)
    is_first = not warehouse.files(contract.relation())
    arrived = warehouse.files(StagedRecord.relation(), since=consumed)
    with warehouse.connect() as connection:
        warehouse.create_view(connection, "arrived", arrived, StagedRecord.arrow_schema())
        if contract is RecordQuality:
            batches = quality_rows(connection, warehouse.settings.batch_rows, now)
        else:
            batches = activity_rows(connection, contract, warehouse.settings.batch_rows, now, is_first=is_first)
        try:
            return warehouse.publish(contract, batches, {TRANSACTION: version}, code_digest(contract)).n_rows
        except AlreadyPublishedError:
            return 0


def quality_rows(connection: duckdb.DuckDBPyConnection, batch_rows: int, now: datetime) -> Iterator[pa.RecordBatch]:
    """Score the texts of the versions in `arrived`, as `RecordQuality`."""
    versions = connection.sql(model("features/standing_versions")).to_arrow_reader(batch_rows)
    for batch in versions:
        frame = pl.LazyFrame(pl.DataFrame(batch)).with_columns(created_timestamp=pl.lit(now, pl.Datetime("us", "UTC")))
        yield from _batches(RecordQuality, score_quality(frame).collect().to_arrow())


def activity_rows(
    connection: duckdb.DuckDBPyConnection, contract: type[Contract], batch_rows: int, now: datetime, *, is_first: bool
) -> Iterator[pa.RecordBatch]:
    """Compute the activity of the entities that `arrived` touches, as `contract`: the rows that are new or have changed."""
    fresh = _create_fresh(connection, contract, is_first=is_first)
    (n_spans,) = connection.execute("select count(*) from record_spans").fetchall()[0]
    n_buckets = 1 + n_spans // SPANS_OF_A_BUCKET
    connection.execute("set variable n_buckets = $n_buckets", {"n_buckets": n_buckets})
    for bucket in range(n_buckets):
        connection.execute("set variable bucket = $bucket", {"bucket": bucket})
        for batch in connection.sql(fresh).to_arrow_reader(batch_rows):
            created = pa.repeat(pa.scalar(now, pa.timestamp("us", "UTC")), batch.num_rows)
            yield from _batches(contract, pa.table(batch).append_column("created_timestamp", created))


def _create_fresh(connection: duckdb.DuckDBPyConnection, contract: type[Contract], *, is_first: bool) -> str:
    """Build the models up to the rows that are new or have changed, for one bucket of entities; give the query for them."""
    entity, name = contract.key()[0], view_name(contract)
    versions = "select * from staging.records" if is_first else model("features/relevant_versions")
    connection.execute(f"create view relevant_versions as {versions}")
    connection.execute(f"create table record_spans as {model('features/record_spans')}")
    connection.execute(f"create view record_changes as {model('features/record_changes')}")
    connection.execute(f"create view touched as {model('features/touched_entities')}")
    touched = "true" if is_first else f"{entity} in (select touched.{entity} from touched)"
    changes = f"select *, {entity} as entity_id from record_changes where {entity} is not null and {touched}"
    if not is_first:  # an instant that was published and is none any more must not keep what was true of it then
        changes += f"""
            union all by name
            select distinct {entity} as entity_id, epoch_us(event_timestamp) as instant_us, {ZERO_WEIGHTS}
            from features.{name} where {touched}
        """
    of_bucket = "hash(entity_id) % getvariable('n_buckets') = getvariable('bucket')"
    connection.execute(f"create view entity_changes as select * from ({changes}) where {of_bucket}")
    connection.execute(f"create view entity_activity as {model('features/entity_activity')}")
    columns = ", ".join(column for column in contract.arrow_schema().names if column != "created_timestamp")
    computed = f"select {columns} from ({model(f'features/{name}')})"
    if is_first:
        return computed
    # a row has changed if any value differs from the newest one published; `except` takes nulls for equal
    return f"""
        {computed} except (
            select {columns} from features.{name} where {touched}
            qualify row_number() over (partition by {entity}, event_timestamp order by created_timestamp desc) = 1
        )
    """


def _batches(contract: type[Contract], rows: pa.Table) -> list[pa.RecordBatch]:
    schema = contract.arrow_schema()
    batches: list[pa.RecordBatch] = rows.select(schema.names).cast(schema).combine_chunks().to_batches()
    return batches
