"""The point-in-time join: for each key and instant of a spine, the row of a feature view that was the newest by then.

A view's rows are sorted once by instant; a sorted merge (Polars' `join_asof`) finds each spine row's place among the rows
of its key, and only then are the features gathered. The work grows with n log n, however the keys are spread, where the
usual join of every spine row with every earlier row of its key grows with the square of a key's rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal

import polars as pl

from transforms.paths import scan_parquet

INSTANT, INSTANT_UP, CREATED = "__instant", "__instant_up", "__created"
_VISIBLE, _ROW, _RANK, _SPINE_ROW, _PARTITION = "__visible", "__row", "__rank", "__spine_row", "__partition"
TimeUnit = Literal["us", "ns"]
_PER_UNIT: dict[str, int] = {"ms": 1_000_000, "us": 1_000, "ns": 1}
_SAMPLE_ROWS = 10_000


def to_instant(column: str, kind: pl.DataType, unit: TimeUnit, *, up: bool = False) -> pl.Expr:
    """Count a timestamp column in units since 1970 in UTC; a naive time is UTC, a date its midnight.

    Finer times are rounded down, or with `up` up: a spine's instant rounded down compares with whole units as it would itself.
    """
    instant, finer = pl.col(column), _PER_UNIT[unit]
    if not isinstance(kind, pl.Datetime):
        instant, kind = instant.cast(pl.Datetime("us")), pl.Datetime("us")
    nanoseconds = _PER_UNIT[kind.time_unit]
    counted = instant.to_physical()
    if nanoseconds >= finer:
        return counted * (nanoseconds // finer)
    factor = finer // nanoseconds
    return -(-counted // factor) if up else counted // factor


@dataclass(frozen=True)
class Timeline:
    """The rows of one view, or of one partition of its keys: keys, `INSTANT`, `CREATED` and the features.

    With `as_known` a row counts from when it was created: the newest event among those created by the spine's instant.
    A row older than `ttl_units` at the spine's instant has expired; exactly as old has not. None: rows never expire.
    """

    rows: pl.DataFrame
    keys: Sequence[str]
    features: Sequence[str]
    ttl_units: int | None
    as_known: bool

    def values(self, spine: pl.DataFrame) -> pl.DataFrame:
        """Give the features of each row of a spine (keys, `INSTANT`, and `INSTANT_UP` where there is a TTL), in its order."""
        asked = spine.select(*self.keys, INSTANT).with_row_index(_SPINE_ROW).drop_nulls().sort(INSTANT)
        by = list(self.keys) or None
        found = asked.join_asof(self._index, left_on=INSTANT, right_on=_VISIBLE, by=by, check_sortedness=False)
        place = pl.repeat(None, spine.height, dtype=pl.get_index_type(), eager=True).scatter(found[_SPINE_ROW], found[_ROW])
        if self.ttl_units is not None:
            expired = self.rows[INSTANT].gather(place) < spine[INSTANT_UP] - self.ttl_units
            place = place.set(expired.fill_null(value=False), None)
        return self.rows.select(pl.col(self.features).gather(place))

    @cached_property
    def _index(self) -> pl.DataFrame:
        """Order the rows by the instant from which each is the newest of its key."""
        rows = self.rows.select(*self.keys, INSTANT, CREATED).with_row_index(_ROW).drop_nulls([*self.keys, INSTANT])
        rows = rows.sort(INSTANT, CREATED, maintain_order=True)  # of equals the join takes the last
        if not self.as_known:
            return rows.select(*self.keys, _ROW, pl.col(INSTANT).alias(_VISIBLE))
        # What is visible only grows: sorted by when rows become visible, the newest event so far is a running maximum.
        newest = pl.col(_RANK).cum_max()
        visible = (
            rows.with_row_index(_RANK)
            .drop_nulls(CREATED)
            .with_columns(pl.max_horizontal(INSTANT, CREATED).alias(_VISIBLE))
            .sort(_VISIBLE, maintain_order=True)
            .with_columns(newest.over(self.keys) if self.keys else newest)
        )
        return visible.select(*self.keys, rows[_ROW].gather(visible[_RANK]).alias(_ROW), _VISIBLE)


@dataclass(frozen=True)
class Partitions:
    """A view that is too large for memory: its rows in one folder of Parquet per hash of the key, one read at a time."""

    folder: Path
    number: int
    make: Callable[[pl.DataFrame], Timeline]
    empty: pl.DataFrame

    @classmethod
    def write(
        cls, rows: pl.LazyFrame, keys: Sequence[str], folder: Path, number: int, make: Callable[[pl.DataFrame], Timeline]
    ) -> "Partitions":
        """Spread rows over the folders."""
        partition = {_PARTITION: _partition(keys, number)}
        rows.sink_parquet(pl.PartitionBy(folder, key=partition, include_key=False), mkdir=True, compression="lz4")
        return cls(folder, number, make, rows.collect_schema().to_frame())

    def values(self, spine: pl.DataFrame) -> pl.DataFrame:
        """Give the features of each row of a spine, in its order."""
        keys = self.make(self.empty).keys
        asked = spine.with_row_index(_SPINE_ROW).with_columns(_partition(keys, self.number).alias(_PARTITION))
        parts = [self.make(self.empty).values(asked.clear()).with_columns(asked.clear()[_SPINE_ROW])]
        for (number,), part in asked.partition_by(_PARTITION, as_dict=True).items():
            files = list(self.folder.glob(f"{_PARTITION}={number}/*.parquet"))
            timeline = self.make(scan_parquet(files).collect() if files else self.empty)
            parts.append(timeline.values(part).with_columns(part[_SPINE_ROW]))
        return pl.concat(parts).sort(_SPINE_ROW).drop(_SPINE_ROW)


def ttl_units(ttl: timedelta | None, unit: TimeUnit) -> int | None:
    """Count a TTL in units; None, as for zero, is for ever."""
    return ttl // timedelta(microseconds=1) * (_PER_UNIT["us"] // _PER_UNIT[unit]) if ttl else None


def n_partitions(rows: pl.LazyFrame, budget: int) -> int:
    """Count the parts of at most `budget` bytes that rows fall into, by their number and the width of the first."""
    n_rows = rows.select(pl.len()).collect().item()
    sample = rows.head(_SAMPLE_ROWS).collect()
    return 1 + int(n_rows * sample.estimated_size() / max(1, sample.height)) // budget


def _partition(keys: Sequence[str], number: int) -> pl.Expr:
    return pl.struct(keys).hash(seed=0) % number
