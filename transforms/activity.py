"""Activity of authors and subjects: the SQL models, laid one over the other, and the rows that come out of them."""

from collections.abc import Iterator
from datetime import datetime

import duckdb
import polars as pl
import pyarrow as pa

from transforms.rows import view_batches
from transforms.schemas.base import Contract
from transforms.sql import model

# DuckDB cannot spill what it adds up by instant as it should, so entities are taken in buckets
SPANS_OF_A_BUCKET = 500_000
SPANS = ("1d", "7d", "28d", "lifetime")


def activity_rows(
    connection: duckdb.DuckDBPyConnection, contract: type[Contract], batch_rows: int, now: datetime, *, is_whole: bool
) -> Iterator[pa.RecordBatch]:
    """Compute the activity of the entities that `arrived` and `gone` touch, as `contract`: the rows that are new or have changed.

    What was published is extended: what the touched records change is added to the rows from the first change on. Only an
    entity that lost a record is computed again from all that is staged; with `is_whole` every entity is. `is_new` tells the
    instants that were not published before.
    """
    entity = contract.key()[0]
    create_activity(connection, contract)
    changes = f"select *, {entity} as entity_id from record_changes where {entity} is not null"
    if is_whole:
        create_published(connection, "select entity_id, event_timestamp from activity limit 0")
        create_record_changes(connection, "select *, 1 as sign from staging.records")
        create_changes(connection, f"{changes} union all by name {announced('activity')}")
        yield from computed_rows(connection, contract, batch_rows, now, is_whole=True)
        return
    create_record_changes(connection, model("features/relevant_versions"))
    connection.execute(f"create table lost_entities as {model('features/lost_entities')}")
    is_lost = f"{entity} in (select {entity} from lost_entities where {entity} is not null)"
    first_change = "select entity_id, make_timestamptz(min(instant_us)) as event_timestamp"
    create_published(connection, f"{first_change} from ({changes} and not {is_lost}) group by entity_id")
    create_changes(connection, f"{changes} and not {is_lost}", model("features/published_changes"))
    yield from computed_rows(connection, contract, batch_rows, now)
    if connection.execute("select count(*) from lost_entities").fetchall() != [(0,)]:
        yield from history_rows(connection, contract, batch_rows, now)


def create_activity(connection: duckdb.DuckDBPyConnection, contract: type[Contract]) -> None:
    """Make `activity` of what is published of a contract."""
    connection.execute(f"create view activity as select * rename ({contract.key()[0]} as entity_id) from {contract.relation()}")


def history_rows(
    connection: duckdb.DuckDBPyConnection, contract: type[Contract], batch_rows: int, now: datetime
) -> Iterator[pa.RecordBatch]:
    """Compute the entities in `lost_entities` again from all that is staged: the rows that differ from those in view `activity`."""
    entity = contract.key()[0]
    lost = f"select distinct {entity} as entity_id from lost_entities where {entity} is not null"
    create_record_changes(connection, model("features/whole_versions"))
    create_published(connection, f"select entity_id, '-infinity'::timestamptz as event_timestamp from ({lost})")
    changes = f"select *, {entity} as entity_id from record_changes where {entity} in ({lost})"
    create_changes(connection, f"{changes} union all by name {announced('published')}")
    yield from computed_rows(connection, contract, batch_rows, now)


def create_record_changes(connection: duckdb.DuckDBPyConnection, versions: str) -> None:
    """Build the models from versions of records to the instants at which these begin and cease to count."""
    connection.execute(f"create or replace view relevant_versions as {versions}")
    connection.execute(f"create or replace table record_spans as {model('features/record_spans')}")
    connection.execute(f"create or replace view record_changes as {model('features/record_changes')}")


def announced(rows: str) -> str:
    """Changes of nothing, at published instants: one that is none any more must not keep what was true of it then."""
    zeros = ", ".join(f"0 as {column}" for column in ("n_words", "n_characters", "n_positive", *(f"weight_{span}" for span in SPANS)))
    return f"select distinct entity_id, epoch_us(event_timestamp) as instant_us, {zeros} from {rows}"


def create_published(connection: duckdb.DuckDBPyConnection, first_changes: str) -> None:
    """Bring what was published of some entities, from the first change of each on, into `published`."""
    connection.execute(f"create or replace table first_changes as {first_changes}")
    connection.execute(f"create or replace table published as {model('features/published')}")


def create_changes(connection: duckdb.DuckDBPyConnection, counted: str, published: str | None = None) -> None:
    """Bring all that an entity's values are summed up from into `all_changes`, for one bucket of entities."""
    of_bucket = "hash(entity_id) % getvariable('n_buckets') = getvariable('bucket')"
    connection.execute(f"create or replace view counted_changes as select * from ({counted}) where {of_bucket}")
    changes = f"select * from ({model('features/entity_changes')})"
    if published:
        changes += f" union all by name select * from ({published}) where {of_bucket}"
    connection.execute(f"create or replace view all_changes as {changes}")


def computed_rows(
    connection: duckdb.DuckDBPyConnection, contract: type[Contract], batch_rows: int, now: datetime, *, is_whole: bool = False
) -> Iterator[pa.RecordBatch]:
    """Stream the rows of all entities, bucket by bucket."""
    (n_rows,) = connection.execute("select (select count(*) from record_spans) + (select count(*) from published)").fetchall()[0]
    n_buckets = 1 + n_rows // SPANS_OF_A_BUCKET
    for bucket in range(n_buckets):
        take_bucket(connection, bucket, n_buckets)
        yield from bucket_rows(connection, contract, batch_rows, now, is_whole=is_whole)


def take_bucket(connection: duckdb.DuckDBPyConnection, bucket: int, n_buckets: int) -> None:
    """Choose the share of the entities that the models work on."""
    connection.execute("set variable bucket = $bucket", {"bucket": bucket})
    connection.execute("set variable n_buckets = $n_buckets", {"n_buckets": n_buckets})


def bucket_rows(
    connection: duckdb.DuckDBPyConnection, contract: type[Contract], batch_rows: int, now: datetime, *, is_whole: bool = False
) -> Iterator[pa.RecordBatch]:
    """Stream what `all_changes` adds up to in the bucket that is taken; unless `is_whole`, the rows that differ from `published`."""
    entity, *_ = contract.key()
    values = [name for name in contract.arrow_schema().names if name not in contract.key()]
    instants: pl.DataFrame = connection.sql(model("features/entity_instants")).pl()
    connection.register("running", add_up(instants).to_arrow())
    connection.execute(f"create or replace view entity_activity as {model('features/entity_activity')}")
    rows = f"select *, true as is_new from ({model(contract.relation().replace('.', '/'))})"
    if not is_whole:
        differs = " or ".join(f"computed.{name} is distinct from published.{name}" for name in values)
        rows = f"""
            select computed.* replace (published.entity_id is null as is_new) from ({rows}) as computed
            left join published on computed.{entity} = published.entity_id and computed.event_timestamp = published.event_timestamp
            where published.entity_id is null or {differs}
        """
    for batch in connection.sql(rows).to_arrow_reader(batch_rows):
        created = pa.repeat(pa.scalar(now, pa.timestamp("us", "UTC")), batch.num_rows)
        yield from view_batches(contract, pa.table(batch).append_column("created_timestamp", created))


def add_up(instants: pl.DataFrame) -> pl.DataFrame:
    """Add up `entity_instants` of each entity from its first on; `event_us` becomes the least so far.

    Polars does in a third of the time what DuckDB's windows take for twenty running sums, bit for bit, for the sums are of whole numbers.
    """
    sums = pl.exclude("entity_id", "instant_us", "event_us").cum_sum().over("entity_id")
    least = pl.col("event_us").cum_min().forward_fill().over("entity_id")
    return instants.sort("entity_id", "instant_us").with_columns(sums, least)
