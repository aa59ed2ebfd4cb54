"""Rows joined in parts, by key or by time, give what they give joined at once."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.stores.columns import Files
from feature_repo.stores.timeline import (
    CREATED,
    INSTANT,
    INSTANT_UP,
    Partitions,
    Ranges,
    Timeline,
)

KEYS = st.none() | st.sampled_from(["a", "b", "c"])
INSTANTS = st.none() | st.integers(0, 6)
ROWS = st.lists(st.tuples(KEYS, INSTANTS, INSTANTS, st.integers(0, 99)), max_size=12)
SPINE = st.lists(st.tuples(KEYS, st.none() | st.integers(-1, 8)), max_size=6)
SCHEMA = pa.schema(
    {"key": pa.string(), INSTANT: pa.int64(), CREATED: pa.int64(), "value": pa.int64()}
)


@st.composite
def joins(draw: st.DrawFn) -> tuple[pa.Table, pl.DataFrame, Callable[[pa.Table], Timeline]]:
    """Draw rows, a spine and how they are joined, with a key or without."""
    rows = pa.Table.from_pylist(
        [dict(zip(SCHEMA.names, row, strict=True)) for row in draw(ROWS)], SCHEMA
    )
    spine = pl.DataFrame(draw(SPINE), {"key": pl.String, INSTANT: pl.Int64}, orient="row")
    keys = draw(st.sampled_from([["key"], []]))
    ttl, empty = draw(st.none() | st.integers(0, 4)), draw(st.none() | st.just(pa.scalar(-1)))
    as_known = draw(st.booleans())

    def make(part: pa.Table) -> Timeline:
        index = pl.DataFrame(part.select([*keys, INSTANT, CREATED]))
        features = part.select(["value"])
        return Timeline(index, features, features.schema, [empty], ttl, as_known)

    return rows, spine.select(*keys, INSTANT).with_columns(pl.col(INSTANT).alias(INSTANT_UP)), make


@given(joins(), st.integers(2, 5), st.integers(1, 4))
def test_rows_cut_by_time_are_joined_as_if_at_once(
    join: tuple[pa.Table, pl.DataFrame, Callable[[pa.Table], Timeline]], number: int, size: int
) -> None:
    rows, spine, make = join
    with TemporaryDirectory() as folder:
        files = Files(Path(folder), SCHEMA)
        for batch in rows.to_batches(max_chunksize=size):
            files.add(batch, np.zeros(batch.num_rows, np.int64))
        files.close()
        if rows.num_rows:
            assert Ranges.write(files, 0, number, make).values(spine) == make(rows).values(spine)


@given(joins(), st.integers(2, 5), st.integers(1, 4))
def test_rows_cut_by_key_are_joined_as_if_at_once(
    join: tuple[pa.Table, pl.DataFrame, Callable[[pa.Table], Timeline]], number: int, size: int
) -> None:
    rows, spine, make = join
    with TemporaryDirectory() as folder:
        parts = Partitions.write(
            rows.to_batches(max_chunksize=size),
            lambda batch: make(pa.Table.from_batches([batch])).index,
            Files(Path(folder), SCHEMA),
            number,
            make,
        )
        assert parts.values(spine) == make(rows).values(spine)
