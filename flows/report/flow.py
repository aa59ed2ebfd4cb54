"""The flow picture: rows read by source on the left, their outcomes on the right.

Each ribbon is as wide as its number of rows.

Vega-Lite draws no such picture. Ribbons are an SVG that stretches; the words beside them are HTML,
so that they stay readable on a phone.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import polars as pl

N_RULES = 5
N_SOURCES = 8
SLOT = 11.0  # a label needs so much of the picture's height of 100, however few rows it names
SHRINK = 0.97
STAGED, REJECTED, DUPLICATES = range(3)  # places in a theme's series of colours


class Node(NamedTuple):
    """A label; `middle` is its distance from the top, where the height is 100."""

    name: str
    rows: int
    middle: float
    colour: int


class Ribbon(NamedTuple):
    """Rows that go from left to right, as an SVG path."""

    path: str
    colour: int


class Flow(NamedTuple):
    """The picture of one source, or of all."""

    source: str
    left: list[Node]
    right: list[Node]
    ribbons: list[Ribbon]

    @property
    def words(self) -> str:
        """The picture in words."""
        read = " and ".join(f"{node.rows:,} rows of {node.name}" for node in self.left)
        return f"Of {read}: " + ", ".join(f"{node.rows:,} {node.name}" for node in self.right) + "."


def flow(source: str, loads: pl.DataFrame, rejects: pl.DataFrame) -> Flow:
    """Draw what became of the rows of some loads."""
    names, outcomes = _matrix(loads, rejects)
    total = sum(sum(rows) for _, _, rows in outcomes)
    right_rows = [sum(rows) for _, _, rows in outcomes]
    left_rows = [sum(rows[place] for _, _, rows in outcomes) for place in range(len(names))]
    scale = min(_scale(left_rows, total), _scale(right_rows, total))
    left_tops, right_tops = _tops(left_rows, total, scale), _tops(right_rows, total, scale)
    left = [
        Node(name, n, middle, STAGED)
        for name, n, (_, middle) in zip(names, left_rows, left_tops, strict=True)
    ]
    right = [
        Node(name, n, middle, colour)
        for (name, colour, _), n, (_, middle) in zip(outcomes, right_rows, right_tops, strict=True)
    ]
    ribbons = list(
        _ribbons(
            outcomes,
            [top for top, _ in left_tops],
            [top for top, _ in right_tops],
            scale / max(total, 1),
        )
    )
    return Flow(source, left, right, ribbons)


def flows(loads: pl.DataFrame, rejects: pl.DataFrame, everything: str) -> list[Flow]:
    """Draw the picture of each source, and first that of all where there are several."""
    sources = loads["source"].unique().sort().to_list() if loads.height else []
    each = [
        flow(source, loads.filter(source=source), rejects.filter(source=source))
        for source in sources
    ]
    if len(sources) <= 1:
        return each
    largest = (
        loads.group_by("source")
        .agg(pl.sum("n_read"))
        .top_k(N_SOURCES, by="n_read")["source"]
        .to_list()
    )
    named = (
        pl.when(pl.col("source").is_in(largest)).then("source").otherwise(pl.lit("other sources"))
    )
    return [
        flow(everything, loads.with_columns(source=named), rejects.with_columns(source=named)),
        *each,
    ]


def _matrix(
    loads: pl.DataFrame, rejects: pl.DataFrame
) -> tuple[list[str], list[tuple[str, int, list[int]]]]:
    """The sources, and of each outcome its name, its colour and its rows by source."""
    sums = (
        loads.group_by("source")
        .agg(pl.sum("n_staged", "n_duplicates", "n_quarantined"))
        .sort("source")
    )
    names = sums["source"].to_list()
    by_rule = rejects.group_by("source", rule=pl.format("{}: {}", "column", "rule")).agg(
        pl.sum("n_rows")
    )
    rules = (
        by_rule.group_by("rule")
        .agg(pl.sum("n_rows"))
        .sort("n_rows", "rule", descending=[True, False])
    )
    counted = {(rule, source): n_rows for source, rule, n_rows in by_rule.iter_rows()}
    outcomes = [
        ("staged", STAGED, sums["n_staged"].to_list()),
        ("duplicate rows", DUPLICATES, sums["n_duplicates"].to_list()),
    ]
    named = [
        (rule, REJECTED, [counted.get((rule, name), 0) for name in names])
        for rule in rules["rule"][:N_RULES]
    ]
    left_over = [
        n - sum(rows[place] for _, _, rows in named)
        for place, n in enumerate(sums["n_quarantined"].to_list())
    ]
    if not named or any(left_over):
        named.append(
            (
                "quarantined" if not named else "other rules",
                REJECTED,
                [max(0, n) for n in left_over],
            )
        )
    return names, outcomes + named


def _scale(rows: Sequence[int], total: int) -> float:
    """The height that all rows together may take, so that every label still has its slot."""
    scale = 100.0
    while scale > 1 and sum(max(scale * n / max(total, 1), SLOT) for n in rows) > 100:  # noqa: PLR2004  # the whole height
        scale *= SHRINK
    return scale


def _tops(rows: Sequence[int], total: int, scale: float) -> list[tuple[float, float]]:
    """Where each ribbon begins, and the middle of its slot; slots are spread over the height."""
    heights = [scale * n / max(total, 1) for n in rows]
    slots = [max(height, SLOT) for height in heights]
    gap = (100 - sum(slots)) / len(slots) if slots else 0
    starts = [sum(slots[:place]) + gap * (place + 0.5) for place in range(len(slots))]
    return [
        (start + (slot - height) / 2, start + slot / 2)
        for start, slot, height in zip(starts, slots, heights, strict=True)
    ]


def _ribbons(
    outcomes: list[tuple[str, int, list[int]]], left: list[float], right: list[float], a_row: float
) -> Iterator[Ribbon]:
    at_left = list(left)
    for (_, colour, rows), top in zip(outcomes, right, strict=True):
        y = top
        for place, n in enumerate(rows):
            height = n * a_row
            if n:
                yield Ribbon(_path(at_left[place], y, max(height, 0.4)), colour)
            at_left[place] += height
            y += height


def _path(left: float, right: float, height: float) -> str:
    """A band from the left edge to the right one, level at both ends."""
    down = f"M0 {left:.2f}C50 {left:.2f} 50 {right:.2f} 100 {right:.2f}V{right + height:.2f}"
    return f"{down}C50 {right + height:.2f} 50 {left + height:.2f} 0 {left + height:.2f}Z"
