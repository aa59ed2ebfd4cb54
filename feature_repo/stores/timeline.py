"""The point-in-time join: the newest row of a feature view for each key and instant of a spine.

A view's rows are sorted once by instant; a sorted merge (Polars' `join_asof`) finds each spine
row's place among the rows of its key, and only then are the features gathered. The work grows with
n log n, however the keys are spread, where the usual join of every spine row with every earlier row
of its key grows with the square of a key's rows.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from math import ceil
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.stores.columns import Files, carried, gathered

INSTANT, INSTANT_UP, CREATED = "__instant", "__instant_up", "__created"
_VISIBLE, _ROW, _RANK, _SPINE_ROW = "__visible", "__row", "__rank", "__spine_row"
UNEVEN = 1.25  # how many times its share a partition may be: a hash does not keep it exactly
DRAWN_ROWS = 100_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TimeUnit = Literal["us", "ns"]
_PER_UNIT: dict[str, int] = {"ms": 1_000_000, "us": 1_000, "ns": 1}


def to_instant(column: str, kind: pl.DataType, unit: TimeUnit, *, up: bool = False) -> pl.Expr:
    """Count a timestamp column in UTC units since 1970; a naive time is UTC, a date its midnight.

    Finer times are rounded down, or with `up` up: a spine's instant rounded down compares with
    whole units as it would itself.
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


def units_since_1970(instant: datetime, unit: TimeUnit) -> int:
    """Count an instant that has a zone in units, exactly.

    >>> units_since_1970(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), "us")
    1000000
    """
    return (instant - EPOCH) // timedelta(microseconds=1) * (_PER_UNIT["us"] // _PER_UNIT[unit])


def instant_of(units: int, unit: TimeUnit) -> datetime:
    """Return the instant of a count of units, to the microsecond.

    >>> instant_of(1_999, "ns").microsecond
    1
    """
    return EPOCH + timedelta(microseconds=units // (_PER_UNIT["us"] // _PER_UNIT[unit]))


@dataclass(frozen=True)
class Timeline:
    """The rows of one view, or one partition of its keys: an `index` and the features.

    The index has keys, `INSTANT` and `CREATED`.

    The features stay in Arrow, and come out as `kinds` says; where a key has no row yet as `empty`
    says, else null. With `as_known` a row counts from when it was created: the newest event among
    those created by the spine's instant. A row older than `ttl_units` at the spine's instant has
    expired; exactly as old has not. None: rows never expire.
    """

    index: pl.DataFrame
    features: pa.Table
    kinds: pa.Schema
    empty: Sequence[pa.Scalar | None]
    ttl_units: int | None
    as_known: bool

    def values(self, spine: pl.DataFrame) -> pa.Table:
        """The features of each spine row, in order.

        The spine has keys, `INSTANT`, and `INSTANT_UP` for a TTL.
        """
        asked = (
            spine.select(*self._keys, INSTANT).with_row_index(_SPINE_ROW).drop_nulls().sort(INSTANT)
        )
        by = self._keys or None
        found = asked.join_asof(
            self._visible, left_on=INSTANT, right_on=_VISIBLE, by=by, check_sortedness=False
        )
        place = pl.repeat(None, spine.height, dtype=pl.get_index_type(), eager=True).scatter(
            found[_SPINE_ROW], found[_ROW]
        )
        is_unseen = (
            pl.repeat(value=False, n=spine.height, eager=True)
            .scatter(found[_SPINE_ROW], found[_ROW].is_null())
            .to_arrow()
        )
        if self.ttl_units is not None:
            expired = self.index[INSTANT].gather(place) < spine[INSTANT_UP] - self.ttl_units
            place = place.set(expired.fill_null(value=False), None)
        places = place.to_arrow()
        columns = [
            gathered(column, places, kind)
            for column, kind in zip(self._columns, self.kinds.types, strict=True)
        ]
        filled = [
            column if value is None else pc.if_else(is_unseen, value, column)
            for column, value in zip(columns, self.empty, strict=True)
        ]
        return pa.table(filled, self.kinds)

    def starts(self) -> npt.NDArray[np.int64]:
        """The instant from which each row counts; of one that never does, any."""
        return self.index.select(self._start.fill_null(0)).to_series().to_numpy()

    def newest(self) -> pa.Array:
        """The place of each key's newest row."""
        last = pl.col(_ROW).last()
        rows = self._ordered.drop_nulls(CREATED) if self.as_known else self._ordered
        found = rows.group_by(self._keys).agg(last) if self._keys else rows.tail(1)
        return found[_ROW].to_arrow()

    @property
    def _start(self) -> pl.Expr:
        return pl.max_horizontal(INSTANT, CREATED) if self.as_known else pl.col(INSTANT)

    @property
    def _keys(self) -> list[str]:
        return [name for name in self.index.columns if name not in (INSTANT, CREATED)]

    @cached_property
    def _columns(self) -> list[pa.ChunkedArray]:
        """Join the chunks of what Arrow would join for each batch of the spine."""
        return [
            column
            if pa.types.is_primitive(column.type)
            else pa.chunked_array([column.combine_chunks()], column.type)
            for column in self.features.columns
        ]

    @property
    def _ordered(self) -> pl.DataFrame:
        """The rows that have keys and an instant, from the oldest to the newest."""
        rows = self.index.with_row_index(_ROW).drop_nulls([*self._keys, INSTANT])
        return rows.sort(INSTANT, CREATED, maintain_order=True)

    @cached_property
    def _visible(self) -> pl.DataFrame:
        """Order the rows by the instant from which each is the newest of its key."""
        keys, rows = self._keys, self._ordered  # of equals the join takes the last
        if not self.as_known:
            return rows.select(*keys, _ROW, self._start.alias(_VISIBLE))
        # What is visible only grows: sorted by when rows become visible, the newest event so far is
        # a running maximum.
        newest = pl.col(_RANK).cum_max()
        visible = (
            rows.with_row_index(_RANK)
            .drop_nulls(CREATED)
            .with_columns(self._start.alias(_VISIBLE))
            .sort(_VISIBLE, maintain_order=True)
            .with_columns(newest.over(keys) if keys else newest)
        )
        return visible.select(*keys, rows[_ROW].gather(visible[_RANK]).alias(_ROW), _VISIBLE)


class Joined(Protocol):
    """Rows that a spine can be joined with."""

    def values(self, spine: pl.DataFrame) -> pa.Table:
        """Return the features of each row of a spine, in its order."""


@dataclass(frozen=True)
class Partitions:
    """A view too large for memory: one file per hash of the key, read one at a time.

    A file that is far larger than its share, as where one key has most of the rows, is cut by time.
    """

    parts: Sequence[Callable[[], Joined]]

    @classmethod
    def write(
        cls,
        batches: Iterable[pa.RecordBatch],
        index: Callable[[pa.RecordBatch], pl.DataFrame],
        files: Files,
        number: int,
        make: Callable[[pa.Table], Timeline],
    ) -> "Partitions":
        """Spread rows over the files."""
        for batch in batches:
            files.add(batch, _partition(index(batch), number))
        files.close()
        share = files.n_rows.total() / number

        def part(place: int) -> Callable[[], Joined]:
            n_ranges = ceil(files.n_rows[place] / (share * UNEVEN)) if share else 1
            if n_ranges > 1:
                ranges = Ranges.write(files, place, n_ranges, make)
                return lambda: ranges
            return lambda: make(files.read(place))

        return cls([part(place) for place in range(number)])

    def values(self, spine: pl.DataFrame) -> pa.Table:
        """Return the features of each row of a spine, in its order."""
        return _by_part(spine, _partition(spine, len(self.parts)), self.parts)


@dataclass(frozen=True)
class Ranges:
    """Rows too large for memory cut by the instant from which they count: one file per range.

    `cuts` is where each range but the first begins. What was newest of each key by then is added to
    the range, which so is joined without those before it.
    """

    cuts: npt.NDArray[np.int64]
    parts: Sequence[Callable[[], Timeline]]

    @classmethod
    def write(
        cls, files: Files, place: int, number: int, make: Callable[[pa.Table], Timeline]
    ) -> "Ranges":
        """Spread the rows of a file over ranges of about as many rows, and delete it."""

        def starts(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
            return make(pa.Table.from_batches([batch])).starts()

        cuts = _cuts(map(starts, files.batches(place)), files.n_rows[place], number)
        ranges, before = files.beside(f"{place}"), files.beside(f"{place}-before")
        for batch in files.batches(place):
            ranges.add(batch, _range(cuts, starts(batch)))
        files.remove(place)
        ranges.close()
        newest = before.read(0)
        for at in range(len(cuts)):
            rows = pa.concat_tables([newest, ranges.read(at)])
            newest = rows.take(make(rows).newest())
            before.add(newest, np.full(newest.num_rows, at + 1))
        before.close()

        def part(at: int) -> Timeline:
            return make(pa.concat_tables([before.read(at), ranges.read(at)]))

        return cls(cuts, [partial(part, at) for at in range(len(cuts) + 1)])

    def values(self, spine: pl.DataFrame) -> pa.Table:
        """Return the features of each row of a spine, in its order."""
        asked = spine[INSTANT].fill_null(0).to_numpy()
        return _by_part(spine, _range(self.cuts, asked), self.parts)


def _by_part(
    spine: pl.DataFrame, part: npt.NDArray[np.int64], parts: Sequence[Callable[[], Joined]]
) -> pa.Table:
    """Join each row of a spine with its part, one part after the other."""
    rows = {place: np.flatnonzero(part == place) for place in np.unique(part) if len(part)}
    rows = rows or {0: part}
    values = [parts[place]().values(spine[asked]) for place, asked in rows.items()]
    joined = pa.concat_tables(values)
    back = np.argsort(np.concatenate(list(rows.values())))
    columns = [
        gathered(column.cast(carried(column.type)), pa.array(back), column.type)
        for column in joined.columns
    ]
    return pa.table(columns, joined.schema)


def ttl_units(ttl: timedelta | None, unit: TimeUnit) -> int | None:
    """Count a TTL in units; None, as for zero, is for ever.

    >>> from datetime import timedelta
    >>> ttl_units(timedelta(days=1), 'us')
    86400000000
    """
    return ttl // timedelta(microseconds=1) * (_PER_UNIT["us"] // _PER_UNIT[unit]) if ttl else None


def n_partitions(n_rows: int, row_bytes: float, budget: int) -> int:
    """Count the parts of at most `budget` bytes that rows fall into.

    >>> n_partitions(n_rows=1_000_000, row_bytes=100, budget=20_000_000)
    6
    """
    return 1 + int(n_rows * row_bytes) // budget


def _partition(index: pl.DataFrame, number: int) -> npt.NDArray[np.int64]:
    keys = [name for name in index.columns if name not in (INSTANT, INSTANT_UP, CREATED)]
    if not keys:
        return np.zeros(index.height, np.int64)
    return index.select(pl.struct(keys).hash(seed=0) % number).to_series().cast(pl.Int64).to_numpy()


def _range(cuts: npt.NDArray[np.int64], instants: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.searchsorted(cuts, instants, side="right")


def _cuts(
    instants: Iterable[npt.NDArray[np.int64]], n_rows: int, number: int
) -> npt.NDArray[np.int64]:
    """Find where to cut so that ranges have about as many rows, by evenly spread rows.

    >>> _cuts([np.array([5, 1]), np.array([3, 3])], n_rows=4, number=2)
    array([3])
    """
    step, first, drawn = 1 + n_rows // DRAWN_ROWS, 0, list[npt.NDArray[np.int64]]()
    for some in instants:
        drawn.append(some[-first % step :: step])
        first += len(some)
    ordered = np.sort(np.concatenate(drawn))
    return np.unique(ordered[[len(ordered) * at // number for at in range(1, number)]])
