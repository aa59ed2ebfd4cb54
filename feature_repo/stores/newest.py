"""The newest row of each key, found by its place; the values are picked from files afterwards.

DuckDB sorts, and spills, keys and instants under names of ours; no other column and no name of a
user's passes through it.
"""

from collections.abc import Container, Iterator, Mapping

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from feature_repo.stores.sources import Index, Snapshot, numbered
from feature_repo.stores.timeline import CREATED, INSTANT

FOUND_ROWS = 100_000
NEWEST_FIRST = f"{INSTANT} desc nulls last, {CREATED} desc nulls last"


def list_rows(
    connection: duckdb.DuckDBPyConnection, index: Index, arrived: Container[str] = ()
) -> None:
    """Make the index a table `seen`, with each row's `place`.

    `has_arrived` marks rows of the files of these identities.
    """

    def numbered_rows() -> Iterator[pl.DataFrame]:
        first = 0
        for identity, batch in index.rows.batches(index.columns):
            places = pl.int_range(first, first + batch.num_rows).alias("place")
            yield index.frame(batch).with_columns(places, has_arrived=pl.lit(identity in arrived))
            first += batch.num_rows

    def batches() -> Iterator[pa.RecordBatch]:
        for frame in numbered_rows():
            yield from frame.to_arrow(compat_level=pl.CompatLevel.oldest()).to_batches()

    columns = (
        index.schema.to_frame()
        .with_columns(place=pl.lit(0), has_arrived=pl.lit(value=False))
        .cast({"place": pl.Int64})
    )
    schema = columns.to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    with pa.RecordBatchReader.from_batches(schema, batches()) as reader:
        connection.register("indexed_rows", reader)
        connection.execute("create temp table seen as from indexed_rows")
        connection.unregister("indexed_rows")


def latest(
    connection: duckdb.DuckDBPyConnection, index: Index, first: int, last: int
) -> pa.RecordBatchReader:
    """Find the sorted places of each key's newest row in a span, which is in the index's unit."""
    keys = ", ".join(numbered("key", index.keys)) or "1"
    sql = f"""
        select place from seen where {INSTANT} between $first and $last
        qualify row_number() over (partition by {keys} order by {NEWEST_FIRST}, place desc) = 1
        order by place
    """
    return connection.sql(sql, params={"first": first, "last": last}).to_arrow_reader(FOUND_ROWS)


def picked(
    rows: Snapshot, columns: Mapping[str, str], found: pa.RecordBatchReader
) -> Iterator[tuple[pa.Table, pa.RecordBatch, pa.Array]]:
    """Read columns by batch.

    Yield each batch, its places and its part of what was found, by place.
    """
    waiting, first = found.schema.empty_table(), 0
    for _, batch in rows.batches(columns):
        end = first + batch.num_rows
        while not waiting.num_rows or waiting["place"][-1].as_py() < end:
            try:
                waiting = pa.concat_tables(
                    [waiting, pa.Table.from_batches([found.read_next_batch()])]
                )
            except StopIteration:
                break
        places = waiting["place"].to_numpy()
        number = int(np.searchsorted(places, end))
        yield waiting.slice(0, number), batch, pa.array(places[:number] - first)
        waiting, first = waiting.slice(number), end
