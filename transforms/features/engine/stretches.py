"""One entity with many records, computed one stretch of time after the other, to bound memory.

For a stretch, only the records that have a change point in it are read one by one. What the others
come to while it lasts is one row, which the parts extend as they extend a published one.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import duckdb
import polars as pl

from transforms.features.engine.spans import Group, change_points
from transforms.features.engine.timelines import NEVER, Timelines, Wanted, timelines
from transforms.features.windows import Window

# as many as the records of a bucket have
POINTS_OF_A_STRETCH = 2_000_000
LONG_AGO = -(2**61)


class Stretch(NamedTuple):
    """The instants from `start` to before `stop`, in microseconds since 1970."""

    start: int
    stop: int

    def has(self, instant: str) -> str:
        """SQL of whether an instant is in it.

        >>> Stretch(5, 9).has("starts_us")
        'starts_us >= 5 and starts_us < 9'
        """
        return f"{instant} >= {self.start} and {instant} < {self.stop}"

    def has_change_of(self, group: Group) -> str:
        """SQL of whether a span has a change point in it."""
        leaving = (window.leaves_us for window in group.windows if window.length)
        return " or ".join(map(self.has, ["starts_us", "superseded_us", *leaving]))

    def outlasts(self, window: Window) -> str:
        """SQL of whether a span that has no change point in it counts in a window meanwhile.

        >>> Stretch(5, 9).outlasts(Window("lifetime"))
        'starts_us < 5 and least(superseded_us, null::bigint) >= 9'
        """
        ends = f"least(superseded_us, {window.leaves_us})"  # least() ignores nulls
        return f"starts_us < {self.start} and {ends} >= {self.stop}"


def timelines_by_stretch(
    connection: duckdb.DuckDBPyConnection,
    group: Group,
    spans: str,
    published: str,
    wanted: Sequence[Wanted],
) -> Iterator[Timelines]:
    """Compute the parts of one entity at every change point, as `timelines` does at once.

    `spans` and `published` are SQL of its arguments, in which every span has sign 1 and instants
    have no parts; `wanted` are parts that can be extended.
    """
    connection.execute(f"create or replace table heavy_spans as {spans}")
    connection.execute(f"create or replace table heavy_instants as {published}")
    for stretch in _stretches(connection, group):
        found: pl.DataFrame = connection.sql(_changing(group, stretch)).pl()
        others: pl.DataFrame = connection.sql(_others(group, stretch, wanted)).pl()
        made = timelines(found, wanted, others)
        is_in = (made.instants >= stretch.start) & (made.instants < stretch.stop)
        yield made._replace(kept=made.kept[is_in[made.kept]])


def _stretches(connection: duckdb.DuckDBPyConnection, group: Group) -> Iterator[Stretch]:
    """Cut the time of an entity into stretches of about `POINTS_OF_A_STRETCH` change points."""
    points = f"{change_points(group, 'from heavy_spans')} union all from heavy_instants"
    numbered = f"select instant_us, row_number() over (order by instant_us) as n from ({points})"
    cuts = connection.sql(
        f"select distinct instant_us from ({numbered}) where n % {POINTS_OF_A_STRETCH} = 0 "
        "order by instant_us"
    ).fetchall()
    for start, stop in pairwise([LONG_AGO, *(cut for (cut,) in cuts), NEVER]):
        yield Stretch(start, stop)


def _changing(group: Group, stretch: Stretch) -> str:
    """SQL of the spans that have a change point in a stretch, and of its published instants.

    A span that began before begins just before it. An instant is a span that never counts.
    """
    return f"""
        select * replace (greatest(starts_us, {stretch.start - 1}) as starts_us)
        from heavy_spans
        where starts_us < {stretch.stop} and ({stretch.has_change_of(group)})
        union all by name
        select
            entity_id,
            1 as sign,
            {LONG_AGO} as event_us,
            instant_us as starts_us,
            instant_us as superseded_us
        from heavy_instants
        where {stretch.has("instant_us")}
    """


def _others(group: Group, stretch: Stretch, wanted: Sequence[Wanted]) -> str:
    """SQL of the parts over all other spans, as a row published just before a stretch."""
    parts = []
    for item in wanted:
        where = f"{stretch.outlasts(item.window)} and {item.where or 'true'}"
        parts.append(f"{item.part.over(item.input or 'true', where)} as {item.column}")
    return f"""
        select entity_id, {stretch.start - 1} as instant_us, {", ".join(parts)}
        from heavy_spans
        where not ({stretch.has_change_of(group)})
        group by entity_id
    """
