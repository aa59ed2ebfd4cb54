"""What kernels make of records: the versions that stand at each instant, by the SQL model, and what is computed of each alone."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import duckdb
import polars as pl
import pyarrow as pa

from transforms.errors import GateError
from transforms.expressions import quoted
from transforms.features.inputs import joined
from transforms.rows import view_batches
from transforms.schemas.base import Contract
from transforms.sql import model

Kernel = Callable[[pl.LazyFrame], pl.LazyFrame]
KEY = ("record_id", "event_timestamp", "created_timestamp")


def record_rows(
    connection: duckdb.DuckDBPyConnection,
    contract: type[Contract],
    batch_rows: int,
    now: datetime,
    kernel: Kernel,
    *,
    is_whole: bool,
) -> Iterator[pa.RecordBatch]:
    """Compute a record view from the versions in `arrived`; `is_new` tells the instants that were not published before."""
    touched = "true" if is_whole else "record_id in (select record_id from arrived union all select record_id from gone)"
    published = f"select distinct record_id, event_timestamp from {contract.relation()} where {touched}"
    connection.execute(f"create or replace table published_instants as {published}")
    standing = f"""
        select standing.*, published_instants.record_id is null as is_new
        from ({read_standing(connection, contract.Config.metadata["reads"])}) as standing
        left join published_instants using (record_id, event_timestamp)
    """
    for batch in connection.sql(standing).to_arrow_reader(batch_rows):
        versions = pl.DataFrame(batch).with_columns(created_timestamp=pl.lit(now, pl.Datetime("us", "UTC")))
        scored = score(contract, kernel, versions).with_columns(versions["is_new"])
        yield from view_batches(contract, scored.to_arrow())


def read_standing(connection: duckdb.DuckDBPyConnection, reads: Sequence[str]) -> str:
    """SQL of the versions that stand from an instant on, with what is read of them; `view.feature` comes as `view__feature`."""
    references = {tuple(name.split(".")) for name in reads}
    own = [quoted(name) for name in dict.fromkeys(["text", *(name for name in reads if "." not in name)])]
    standing = f"select record_id, event_timestamp, {', '.join(own)} from ({model('features/standing_versions')})"
    of_views = [reference for reference in references if len(reference) > 1]
    if not of_views:
        return standing
    connection.execute(f"create or replace table standing_records as select *, event_timestamp as effective_timestamp from ({standing})")
    features = ", ".join(f"{view}.{quoted(name)} as {quoted(f'{view}__{name}')}" for view, name in sorted(of_views))
    return f"select records.* exclude (effective_timestamp), {features} from {joined('standing_records', references)}"


def score(contract: type[Contract], kernel: Kernel, versions: pl.DataFrame) -> pl.DataFrame:
    """Compute features of versions, in their order: nulls where there is no text. Raises `GateError` where a kernel drops or adds rows."""
    is_there = versions["text"].is_not_null()
    given = versions if is_there.all() else versions.filter(is_there)
    scored = kernel(given.lazy()).select(contract.arrow_schema().names).collect()
    if not scored.select(KEY[:2]).equals(given.select(KEY[:2])):
        message = f"{contract.relation()}: compute gave {scored.height} rows of {given.height} records; it must give each back, in order"
        raise GateError(message)
    if given.height == versions.height:
        return scored
    return versions.select(KEY).join(scored.drop(KEY[2]), on=KEY[:2], how="left", maintain_order="left")
