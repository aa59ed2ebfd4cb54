"""One entity with many records, computed in stretches of time, to bound memory and share the work.

For a stretch, only the records that have a change point in it are read one by one. What the others
come to while it lasts is one row, which the parts extend as they extend a published one.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import duckdb
import numpy as np
import polars as pl

from transforms.expressions import quoted
from transforms.features.aggregates import Part
from transforms.features.engine.spans import Group, change_points
from transforms.features.engine.timelines import NEVER, Ints, Timelines, Wanted, timelines

# as many as the records of a bucket have
POINTS_OF_A_STRETCH = 2_000_000
SPANS_OF_A_CUT = 500_000
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


class Cut(NamedTuple):
    """Spans of an entity, divided between stretches of time, which are numbered from 0 on.

    `changing` has a span in the `stretch` of each of its change points. `lasting` has it for each
    run of stretches in between, from `first` to before `last`, with a flag for each window, by its
    name, of whether the span counts in it meanwhile.
    """

    changing: pl.DataFrame
    lasting: pl.DataFrame


def stretches_between(cuts: Sequence[int]) -> list[Stretch]:
    """Divide all time at some instants, which ascend.

    >>> [stretch.start for stretch in stretches_between([7])] == [LONG_AGO, 7]
    True
    """
    return [Stretch(*ends) for ends in pairwise([LONG_AGO, *cuts, NEVER])]


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
    stretches = stretches_between(_cuts(connection, group))
    ((n_spans,),) = connection.sql("select count(*) from heavy_spans").fetchall()
    for first in range(0, max(n_spans, 1), SPANS_OF_A_CUT):  # once, for the tables, without any
        some = f"rowid >= {first} and rowid < {first + SPANS_OF_A_CUT}"
        of = cut(connection.sql(f"from heavy_spans where {some}").pl(), group, stretches)
        for table, rows in zip(("changing", "lasting"), of, strict=True):
            connection.register("cut_spans", rows.to_arrow())
            kept = "from cut_spans" if table == "changing" else lasting_parts("cut_spans", wanted)
            add = "insert into {}" if first else "create or replace table {} as"
            connection.execute(f"{add.format(table)} {kept}")
    connection.execute("drop table heavy_spans")
    connection.execute(f"create or replace view carried as {carried_parts('lasting', wanted)}")
    for number, stretch in enumerate(stretches):
        changing = f"select * exclude (stretch) from changing where stretch = {number}"
        carried = f"select * exclude (stretch) from carried where stretch = {number}"
        yield timelines_of(connection, stretch, changing, carried, "from heavy_instants", wanted)


def timelines_of(
    connection: duckdb.DuckDBPyConnection,
    stretch: Stretch,
    changing: str,
    carried: str,
    published: str,
    wanted: Sequence[Wanted],
) -> Timelines:
    """Compute the parts of one entity at the change points in a stretch.

    `changing` is SQL of the spans that have one in it, `carried` of the parts over all that last
    while it does, `published` of instants at which there is to be a row.

    A span that began before begins just before it. An instant is a span that never counts.
    """
    found = connection.sql(f"""
        select * replace (greatest(starts_us, {stretch.start - 1}) as starts_us) from ({changing})
        union all by name
        select
            entity_id,
            1 as sign,
            {LONG_AGO} as event_us,
            instant_us as starts_us,
            instant_us as superseded_us
        from ({published})
        where {stretch.has("instant_us")}
    """)
    before = connection.sql(f"select *, {stretch.start - 1} as instant_us from ({carried})")
    made = timelines(found.pl(), wanted, before.pl())
    is_in = (made.instants >= stretch.start) & (made.instants < stretch.stop)
    return made._replace(kept=made.kept[is_in[made.kept]])


def cut(spans: pl.DataFrame, group: Group, stretches: Sequence[Stretch]) -> Cut:
    """Divide spans of an entity between stretches of time.

    >>> from types import SimpleNamespace
    >>> from transforms.features.windows import Window
    >>> spans = pl.DataFrame({"event_us": [0], "starts_us": [1], "superseded_us": [35]})
    >>> group = SimpleNamespace(windows=[Window("lifetime")])
    >>> made = cut(spans, group, stretches_between([10, 20, 30]))
    >>> made.changing["stretch"].to_list(), made.lasting.select("first", "last", "lifetime").rows()
    ([0, 3], [(1, 3, True)])
    """
    starts = [stretch.start for stretch in stretches[1:]]

    def place(instants: Ints) -> Ints:
        places = np.searchsorted(starts, instants, side="right")
        return np.where(instants == NEVER, len(stretches), places)

    event, begin, superseded = (
        spans[name].to_numpy() for name in ("event_us", "starts_us", "superseded_us")
    )
    begins, ends = place(begin), {}
    changes = [begins, place(superseded)]
    for window in group.windows:
        leaves = np.full(len(event), NEVER)
        if window.length:
            leaves = -(-(event + window.length_us) // window.hop_us) * window.hop_us
            changes.append(place(leaves))
        ends[window.name] = place(np.minimum(leaves, superseded))
    at = np.sort(np.maximum(np.column_stack(changes), begins[:, np.newaxis]), axis=1)
    until = np.column_stack([at[:, 1:], np.full(len(at), len(stretches))])
    row, nth = np.nonzero(at < until)
    at, until = at[row, nth], until[row, nth]
    lasts = until - at > 1
    counts = {name: (end[row] >= until)[lasts] for name, end in ends.items()}
    return Cut(
        spans[row].with_columns(stretch=at),
        spans[row[lasts]].with_columns(first=at[lasts] + 1, last=until[lasts], **counts),
    )


def lasting_parts(lasting: str, wanted: Sequence[Wanted]) -> str:
    """SQL of the parts over spans of a `Cut` that last, for each run of stretches."""
    parts = [
        item.part.over(
            item.input or "true", f"{quoted(item.window.name)} and {item.where or 'true'}"
        )
        + f" as {item.column}"
        for item in wanted
    ]
    return f"select entity_id, first, last, {', '.join(parts)} from {lasting} group by all"


def carried_parts(lasting: str, wanted: Sequence[Wanted]) -> str:
    """SQL of the parts over all that lasts while each `stretch` does, from runs' parts.

    Runs of many cuts are added up first: each stretch is in many of them.
    """
    parts = ", ".join(
        f"{Part(item.part.kind).over(item.column)} as {item.column}" for item in wanted
    )
    runs = f"select entity_id, first, last, {parts} from {lasting} group by all"
    of_stretches = f"select *, unnest(range(first, last)) as stretch from ({runs})"
    return f"select entity_id, stretch, {parts} from ({of_stretches}) group by all"


def _cuts(connection: duckdb.DuckDBPyConnection, group: Group) -> list[int]:
    """Find the instants between stretches of about `POINTS_OF_A_STRETCH` change points."""
    points = f"{change_points(group, 'from heavy_spans')} union all from heavy_instants"
    numbered = f"select instant_us, row_number() over (order by instant_us) as n from ({points})"
    cuts = connection.sql(
        f"select distinct instant_us from ({numbered}) where n % {POINTS_OF_A_STRETCH} = 0 "
        "order by instant_us"
    ).fetchall()
    return [instant for (instant,) in cuts]
