"""Views of records alone: the text that stands at each instant, by the SQL model, and what a kernel makes of it."""

from collections.abc import Callable, Iterator
from datetime import datetime

import duckdb
import polars as pl
import pyarrow as pa

from transforms.rows import view_batches
from transforms.schemas.base import Contract
from transforms.sql import model


def record_rows(
    connection: duckdb.DuckDBPyConnection,
    contract: type[Contract],
    batch_rows: int,
    now: datetime,
    *,
    is_whole: bool,
    kernel: Callable[[pl.LazyFrame], pl.LazyFrame],
) -> Iterator[pa.RecordBatch]:
    """Compute a record view from the texts of the versions in `arrived`; `is_new` tells the instants that were not published before."""
    touched = "true" if is_whole else "record_id in (select record_id from arrived union all select record_id from gone)"
    published = f"select distinct record_id, event_timestamp from {contract.relation()} where {touched}"
    connection.execute(f"create or replace table published_instants as {published}")
    standing = f"""
        select standing.*, published_instants.record_id is null as is_new
        from ({model("features/standing_versions")}) as standing left join published_instants using (record_id, event_timestamp)
    """
    for batch in connection.sql(standing).to_arrow_reader(batch_rows):
        versions = pl.DataFrame(batch).with_columns(created_timestamp=pl.lit(now, pl.Datetime("us", "UTC")))
        scored = kernel(versions.lazy()).collect().with_columns(versions["is_new"])
        yield from view_batches(contract, scored.to_arrow())
