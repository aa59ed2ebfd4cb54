"""The newest row of each key, found by its place; the values are picked from files afterwards.

DuckDB sorts, and spills, keys and instants under names of ours; no other column and no name of a
user's passes through it.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import partial

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from feature_repo.stores.sources import Index, Snapshot, numbered
from feature_repo.stores.timeline import CREATED, INSTANT

FOUND_ROWS = 100_000
FEW_ROWS = 200_000
NEWEST_FIRST = f"{INSTANT} desc nulls last, {CREATED} desc nulls last"


def list_rows(
    connection: duckdb.DuckDBPyConnection,
    index: Index,
    arrived: Container[str] = (),
    passed: Sequence[tuple[int, int]] = (),
) -> None:
    """Make the index a table `seen`, with each row's `place`.

    `has_arrived` marks rows of the files of these identities. With `passed`, only entities are
    listed that have such a row, or one from after the first instant up to the second of a pair.
    """
    frames, keys = _frames(index, arrived), list(numbered("key", index.keys))
    changed = _changed(index, frames(), keys, passed) if passed and keys else None

    def batches() -> Iterator[pa.RecordBatch]:
        for frame in frames():
            kept = frame if changed is None else frame.join(changed, on=keys, how="semi")
            yield from kept.to_arrow(compat_level=pl.CompatLevel.oldest()).to_batches()

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


def _frames(index: Index, arrived: Container[str]) -> Callable[[], Iterator[pl.DataFrame]]:
    """Number the rows of an index; few are read at once, and kept for a second time."""
    if index.rows.n_rows() > FEW_ROWS:
        return partial(_numbered, index, arrived)
    are_new = [identity in arrived for identity in index.rows.identities]
    rows = index.frame(index.rows.table(index.columns)).with_columns(
        pl.int_range(pl.len()).alias("place"),
        has_arrived=pl.Series(np.repeat(np.array(are_new, bool), index.rows.counts)),
    )
    return lambda: iter([rows])


def _numbered(index: Index, arrived: Container[str]) -> Iterator[pl.DataFrame]:
    first = 0
    for identity, batch in index.rows.batches(index.columns):
        places = pl.int_range(first, first + batch.num_rows).alias("place")
        yield index.frame(batch).with_columns(places, has_arrived=pl.lit(identity in arrived))
        first += batch.num_rows


def _changed(
    index: Index,
    frames: Iterator[pl.DataFrame],
    keys: list[str],
    passed: Sequence[tuple[int, int]],
) -> pl.DataFrame:
    """Find the keys of entities with a row that has arrived, or of which an instant has passed."""
    instant = pl.col(INSTANT)
    has_passed = [(instant > after) & (instant <= until) for after, until in passed]
    is_new = pl.any_horizontal("has_arrived", *has_passed)
    none = index.schema.to_frame().select(keys)
    return pl.concat([none, *(frame.filter(is_new).select(keys) for frame in frames)]).unique()


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

    def wait_for(end: int) -> int:
        """Read of what was found until a place; return how much of it waits."""
        nonlocal waiting
        while not waiting.num_rows or waiting["place"][-1].as_py() < end:
            try:
                batch = found.read_next_batch()
            except StopIteration:
                break
            waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch])])
        return int(np.searchsorted(waiting["place"].to_numpy(), end))

    for n_rows, batches in rows.by_file(columns):
        if not wait_for(first + n_rows):  # nothing of this file
            first += n_rows
            continue
        for batch in batches:
            number = wait_for(first + batch.num_rows)
            places = waiting["place"].to_numpy()[:number]
            yield waiting.slice(0, number), batch, pa.array(places - first)
            waiting, first = waiting.slice(number), first + batch.num_rows
