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
from transforms.warehouse import CODE, AlreadyPublishedError, Rows, Warehouse

VIEWS: tuple[type[Contract], ...] = (RecordQuality, AuthorActivity, SubjectActivity)
TRANSACTION = "featurize"
# DuckDB cannot spill what it adds up by instant as it should, so entities are taken in buckets
SPANS_OF_A_BUCKET = 500_000
SPANS = ("1d", "7d", "28d", "lifetime")


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


def featurize(warehouse: Warehouse, now: datetime) -> dict[str, Rows]:
    """Bring every feature view up to the newest staged records; what became of the rows of each, by its name."""
    for contract in VIEWS:
        warehouse.create(contract)
    stale = stale_views(warehouse)
    return {view_name(contract): _publish_view(contract, warehouse, now, is_stale=contract in stale) for contract in VIEWS}


def _publish_view(contract: type[Contract], warehouse: Warehouse, now: datetime, *, is_stale: bool) -> Rows:
    n_before = warehouse.n_rows(contract.relation())
    if not is_stale:
        return Rows(untouched=n_before)
    version = warehouse.versions()[StagedRecord.relation()]
    consumed = _consumed(contract, warehouse)
    # what other code made is replaced in one commit; older versions of the table keep it
    replaced = warehouse.files(contract.relation()) if consumed < 0 else []
    n_new = 0

    def count_new(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        nonlocal n_new
        for batch in batches:
            n_new += batch.column("is_new").true_count
            yield batch.select(contract.arrow_schema().names)

    compute = quality_rows if contract is RecordQuality else activity_rows
    with warehouse.connect() as connection:
        warehouse.create_arrivals(connection, StagedRecord, since=consumed)
        batches = compute(connection, contract, warehouse.settings.batch_rows, now, is_whole=consumed < 0)
        try:
            published = warehouse.publish(contract, count_new(batches), {TRANSACTION: version}, code_digest(contract), replaced)
        except AlreadyPublishedError:
            return Rows(untouched=n_before)
    n_recomputed = published.n_rows - n_new
    return Rows(n_new, n_recomputed, 0 if replaced else n_before - n_recomputed)


def quality_rows(
    connection: duckdb.DuckDBPyConnection, contract: type[Contract], batch_rows: int, now: datetime, *, is_whole: bool
) -> Iterator[pa.RecordBatch]:
    """Score the texts of the versions in `arrived`, as `contract`; `is_new` tells the instants that were not published before."""
    touched = "true" if is_whole else "record_id in (select record_id from arrived union all select record_id from gone)"
    published = f"select distinct record_id, event_timestamp from {contract.relation()} where {touched}"
    connection.execute(f"create table published_instants as {published}")
    standing = f"""
        select standing.*, published_instants.record_id is null as is_new
        from ({model("features/standing_versions")}) as standing left join published_instants using (record_id, event_timestamp)
    """
    for batch in connection.sql(standing).to_arrow_reader(batch_rows):
        versions = pl.DataFrame(batch).with_columns(created_timestamp=pl.lit(now, pl.Datetime("us", "UTC")))
        scored = score_quality(versions.lazy()).collect().with_columns(versions["is_new"])
        yield from _batches(contract, scored.to_arrow())


def activity_rows(
    connection: duckdb.DuckDBPyConnection, contract: type[Contract], batch_rows: int, now: datetime, *, is_whole: bool
) -> Iterator[pa.RecordBatch]:
    """Compute the activity of the entities that `arrived` and `gone` touch, as `contract`: the rows that are new or have changed.

    What was published is extended: what the touched records change is added to the rows from the first change on. Only an
    entity that lost a record is computed again from all that is staged; with `is_whole` every entity is. `is_new` tells the
    instants that were not published before.
    """
    entity = contract.key()[0]
    connection.execute(f"create view activity as select * rename ({entity} as entity_id) from {contract.relation()}")
    changes = f"select *, {entity} as entity_id from record_changes where {entity} is not null"
    if is_whole:
        _create_record_changes(connection, "select *, 1 as sign from staging.records")
        _create_changes(connection, f"{changes} union all by name {_announced('activity')}")
        yield from _computed(connection, contract, batch_rows, now, is_whole=True)
        return
    _create_record_changes(connection, model("features/relevant_versions"))
    connection.execute(f"create table lost_entities as {model('features/lost_entities')}")
    is_lost = f"{entity} in (select {entity} from lost_entities where {entity} is not null)"
    first_change = "select entity_id, make_timestamptz(min(instant_us)) as event_timestamp"
    _create_published(connection, f"{first_change} from ({changes} and not {is_lost}) group by entity_id")
    _create_changes(connection, f"{changes} and not {is_lost}", model("features/published_changes"))
    yield from _computed(connection, contract, batch_rows, now)
    if connection.execute("select count(*) from lost_entities").fetchall() != [(0,)]:
        _create_record_changes(connection, model("features/whole_versions"))
        _create_published(
            connection, f"select distinct {entity} as entity_id, '-infinity'::timestamptz as event_timestamp from lost_entities"
        )
        _create_changes(connection, f"{changes} and {is_lost} union all by name {_announced('published')}")
        yield from _computed(connection, contract, batch_rows, now)


def _create_record_changes(connection: duckdb.DuckDBPyConnection, versions: str) -> None:
    """Build the models from versions of records to the instants at which these begin and cease to count."""
    connection.execute(f"create or replace view relevant_versions as {versions}")
    connection.execute(f"create or replace table record_spans as {model('features/record_spans')}")
    connection.execute(f"create or replace view record_changes as {model('features/record_changes')}")


def _announced(rows: str) -> str:
    """Changes of nothing, at published instants: one that is none any more must not keep what was true of it then."""
    zeros = ", ".join(f"0 as {column}" for column in ("n_words", "n_characters", "n_positive", *(f"weight_{span}" for span in SPANS)))
    return f"select distinct entity_id, epoch_us(event_timestamp) as instant_us, {zeros} from {rows}"


def _create_published(connection: duckdb.DuckDBPyConnection, first_changes: str) -> None:
    connection.execute(f"create or replace table first_changes as {first_changes}")
    connection.execute(f"create or replace table published as {model('features/published')}")


def _create_changes(connection: duckdb.DuckDBPyConnection, counted: str, published: str | None = None) -> None:
    """Bring all that an entity's values are summed up from into `all_changes`, for one bucket of entities."""
    of_bucket = "hash(entity_id) % getvariable('n_buckets') = getvariable('bucket')"
    connection.execute(f"create or replace view counted_changes as select * from ({counted}) where {of_bucket}")
    changes = f"select * from ({model('features/entity_changes')})"
    if published:
        changes += f" union all by name select * from ({published}) where {of_bucket}"
    connection.execute(f"create or replace view all_changes as {changes}")
    connection.execute(f"create or replace view entity_activity as {model('features/entity_activity')}")


def _computed(
    connection: duckdb.DuckDBPyConnection, contract: type[Contract], batch_rows: int, now: datetime, *, is_whole: bool = False
) -> Iterator[pa.RecordBatch]:
    """Stream the rows of `all_changes`, bucket by bucket; unless `is_whole`, those that differ from `published`."""
    entity, *_ = contract.key()
    values = [name for name in contract.arrow_schema().names if name not in contract.key()]
    rows = f"select *, true as is_new from ({model(f'features/{view_name(contract)}')})"
    if not is_whole:
        differs = " or ".join(f"computed.{name} is distinct from published.{name}" for name in values)
        rows = f"""
            select computed.* replace (published.entity_id is null as is_new) from ({rows}) as computed
            left join published on computed.{entity} = published.entity_id and computed.event_timestamp = published.event_timestamp
            where published.entity_id is null or {differs}
        """
    (n_spans,) = connection.execute("select count(*) from record_spans").fetchall()[0]
    n_buckets = 1 + n_spans // SPANS_OF_A_BUCKET
    connection.execute("set variable n_buckets = $n_buckets", {"n_buckets": n_buckets})
    for bucket in range(n_buckets):
        connection.execute("set variable bucket = $bucket", {"bucket": bucket})
        for batch in connection.sql(rows).to_arrow_reader(batch_rows):
            created = pa.repeat(pa.scalar(now, pa.timestamp("us", "UTC")), batch.num_rows)
            yield from _batches(contract, pa.table(batch).append_column("created_timestamp", created))


def _batches(contract: type[Contract], rows: pa.Table) -> list[pa.RecordBatch]:
    schema = contract.arrow_schema().append(pa.field("is_new", pa.bool_()))
    batches: list[pa.RecordBatch] = rows.select(schema.names).cast(schema).combine_chunks().to_batches()
    return batches
