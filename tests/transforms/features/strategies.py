"""Drawn declarations and histories: whatever a user may declare, whatever happens to records."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import polars as pl
from hypothesis import strategies as st

from tests.transforms.features.reference import Aggregated, Expression, Group, Span, Version
from transforms import features
from transforms.features import (
    Entity,
    Field,
    GroupBy,
    RecordView,
    Window,
    days,
    hours,
    lifetime,
    minutes,
)

HOUR = 3_600_000_000
DAY = 24 * HOUR
START = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000


class RecordShape(RecordView, reads=("text", "label")):
    """A record view that groups read features of."""

    n_letters: int = Field.count("Letters of the text.")
    first_word: str = Field.word("The first word; null with a label.")
    weight: float = Field.number("Half of the letters, which Polars and Python divide alike.")

    @staticmethod
    def compute(records: pl.LazyFrame) -> pl.LazyFrame:
        """Measure texts."""
        text = pl.col("text")
        return records.with_columns(
            n_letters=text.str.len_chars().cast(pl.Int64),
            first_word=pl.when(pl.col("label").is_null()).then(text.str.split(" ").list.first()),
            weight=text.str.len_chars() / 2,
        )


# --- expressions: SQL, and what it means ---


def whole(v: Version, name: str) -> int | None:
    """An attribute as a whole number."""
    text = v.attribute(name)
    return None if text is None else int(text)


def fraction(v: Version, name: str) -> float | None:
    text = v.attribute(name)
    return None if text is None else float(text)


def text_of(v: Version) -> str:
    assert v.text is not None
    return v.text


def equals(x: object, y: object) -> bool | None:
    return None if x is None or y is None else x == y


def instant_of(text: str | None) -> int | None:
    return (
        None
        if text is None
        else (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC))
        // timedelta(microseconds=1)
    )


WHOLE = [
    Expression("length(text)", lambda v: len(text_of(v)), "whole"),
    Expression("(attributes->>'score')::bigint", lambda v: whole(v, "score"), "whole"),
    Expression("record_shape.n_letters", lambda v: len(text_of(v)), "whole"),
    Expression(
        "-(attributes->>'score')::smallint",
        lambda v: None if whole(v, "score") is None else -(whole(v, "score") or 0),
        "whole",
    ),
]
FRACTION = [
    Expression("(attributes->>'price')::double", lambda v: fraction(v, "price"), "fraction"),
    Expression("record_shape.weight", lambda v: len(text_of(v)) / 2, "fraction"),
    Expression("length(text) * 0.25", lambda v: len(text_of(v)) * 0.25, "fraction"),
]
FLAG = [
    Expression("label = 'urgent'", lambda v: equals(v.label, "urgent"), "flag"),
    Expression("is_positive", lambda v: v.label == "urgent", "flag"),
    Expression("text like '%a%'", lambda v: "a" in text_of(v), "flag"),
    Expression(
        "(attributes->>'score')::bigint > 0",
        lambda v: None if whole(v, "score") is None else (whole(v, "score") or 0) > 0,
        "flag",
    ),
    Expression("record_shape.n_letters > 3", lambda v: len(text_of(v)) > 3, "flag"),
]
TEXT = [
    Expression("label", lambda v: v.label),
    Expression("text", lambda v: v.text),
    Expression("author_id", lambda v: v.author),
    Expression("attributes->>'channel'", lambda v: v.attribute("channel")),
    Expression("record_shape.first_word", lambda v: None if v.label else text_of(v).split(" ")[0]),
]
INSTANT = [
    Expression("event_timestamp", lambda v: v.event, "instant"),
    Expression("known_timestamp", lambda v: v.known, "instant"),
    Expression(
        "(attributes->>'due')::timestamptz", lambda v: instant_of(v.attribute("due")), "instant"
    ),
]
NUMBERS = WHOLE + FRACTION + FLAG
LISTED = WHOLE + FRACTION + TEXT
ANY = NUMBERS + TEXT + INSTANT
TAKES = {
    **dict.fromkeys(("Sum", "Mean", "Variance", "StdDev"), NUMBERS),
    "Share": FLAG,
    **dict.fromkeys(("Min", "Max", "First", "Last", "CountDistinct"), ANY),
    **dict.fromkeys(("LastK", "TopK"), LISTED),
    "Percentile": WHOLE + FRACTION,
}
EXTENDED = ("Count", "Sum", "Mean", "Share", "Min", "Max", "Variance", "StdDev")


def mentions(v: Version) -> list[tuple[str | None, ...]]:
    return [(word.removeprefix("@"),) for word in text_of(v).split(" ") if word.startswith("@")]


def tags(v: Version) -> list[tuple[str | None, ...]]:
    text = v.attribute("tags")
    return [] if text is None else [(tag,) for tag in text.split(",")]


ENTITIES: list[tuple[Entity, Callable[[Version], list[tuple[str | None, ...]]]]] = [
    (Entity("author", "author_id", join_key="author_id"), lambda v: [(v.author,)]),
    (Entity("subject", "subject_id", join_key="subject_id"), lambda v: [(v.subject,)]),
    (Entity("channel", "attributes->>'channel'"), lambda v: [(v.attribute("channel"),)]),
    (Entity("score", "(attributes->>'score')::bigint"), lambda v: [(v.attribute("score"),)]),
    (
        Entity("first_word", "record_shape.first_word"),
        lambda v: [(None if v.label else text_of(v).split(" ")[0],)],
    ),
    (Entity("author_in_subject", ["subject_id", "author_id"]), lambda v: [(v.subject, v.author)]),
    (
        Entity(
            "author_in_channel",
            ["author_id", "attributes->>'channel'"],
            join_key=["author_id", "channel"],
        ),
        lambda v: [(v.author, v.attribute("channel"))],
    ),
    (Entity("mention", "regexp_extract_all(text, '@([a-z]+)', 1)", many=True), mentions),
    (Entity("tag", "string_split(attributes->>'tags', ',')", many=True), tags),
    (Entity("party", "[author_id, subject_id]", many=True), lambda v: [(v.author,), (v.subject,)]),
]

# --- declarations ---


class Drawn(NamedTuple):
    """A declaration and its meaning."""

    declared: GroupBy
    meaning: Group

    def __repr__(self) -> str:
        return repr(self.declared)


WINDOWS = st.sampled_from(
    [
        minutes(5),
        minutes(90),
        hours(6),
        hours(6, hop=timedelta(hours=6)),
        hours(6, hop=timedelta(seconds=7)),
        days(1),
        days(1, hop=timedelta(days=1)),
        days(3),
        days(7, hop=timedelta(days=2)),
        days(28),
        lifetime,
    ]
)
LISTS_OF_WINDOWS = st.lists(WINDOWS, min_size=1, max_size=3, unique_by=lambda window: window.name)
CONDITIONS = st.none() | st.sampled_from(FLAG)


@st.composite
def aggregates(
    draw: st.DrawFn, name: str, windows: Sequence[Window], kinds: Sequence[str]
) -> tuple[features.Aggregate, Aggregated]:
    """Draw an aggregate of a name; its windows are those of the group, its own, or one alone."""
    kind = draw(st.sampled_from(kinds))
    own = draw(st.none() | st.none() | WINDOWS | LISTS_OF_WINDOWS)
    where = draw(CONDITIONS)
    # an input that may be null, as a column may, is counted separately
    of = (
        draw(st.sampled_from(TAKES[kind]))
        if kind != "Count"
        else Expression(name, lambda _: 1, "whole")
    )
    options: dict[str, Any] = {}
    if kind in {"Sum", "Mean", "Variance", "StdDev"}:
        options["decimals"] = draw(st.sampled_from([6, 6, 0, 2]))
    if kind in {"LastK", "TopK"}:
        options["k"] = draw(st.sampled_from([1, 2, 5]))
    if kind == "Percentile":
        options["q"] = draw(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]))
    names = {} if kind == "Count" else {"name": name}
    declared = getattr(features, kind)(
        of.sql, **names, where=where and where.sql, windows=own, **options
    )
    spans = [own] if isinstance(own, Window) else own or windows
    of_windows = {
        name if isinstance(own, Window) else f"{name}_{window.name}": Span(*window)
        for window in spans
    }
    return declared, Aggregated(kind, of_windows, of, where, **options)


@st.composite
def groups(draw: st.DrawFn, name: str = "drawn", kinds: Sequence[str] = ("Count", *TAKES)) -> Drawn:
    """Draw a group of an entity with one to six aggregates of some kinds."""
    entity, entities = draw(st.sampled_from(ENTITIES))
    windows = draw(LISTS_OF_WINDOWS)
    where = draw(st.none() | CONDITIONS)
    drawn = [draw(aggregates(f"a{i}", windows, kinds)) for i in range(draw(st.integers(1, 6)))]
    declared = GroupBy(
        name,
        entity,
        [one for one, _ in drawn],
        windows,
        where=where and where.sql,
        description="Drawn.",
    )
    return Drawn(declared, Group(entities, where, [meaning for _, meaning in drawn]))


# --- histories ---

# offsets that meet: on a hop, a microsecond beside it, within an hour, at a window's end
OFFSETS = st.builds(
    sum,
    st.tuples(
        st.sampled_from([0, 0, 1, 2, 3, 6, 7, 28, 40]).map(lambda days: days * DAY),
        st.sampled_from([0, 0, 0, 1, 5, 6, 23]).map(lambda hours: hours * HOUR),
        st.sampled_from([0, 0, 0, 300_000_000, -300_000_000]),
        st.sampled_from([0, 0, 1, -1, 1234567]),
    ),
)
# known before it is written (less than a day), at once, late, after it has left windows
LAGS = st.sampled_from([-DAY + 1, -5 * HOUR, -1, 0, 0, 0, 1, HOUR, DAY, 7 * DAY, 30 * DAY])
TEXTS = st.sampled_from(
    ["a", "b", "two words", "now three words", "@ann hi @bob", "@ann @ann", "@bob it is"]
)
PRICES = [
    "0.1",
    "0.2",
    "2.5",
    "-2.5",
    "2.675",
    "-0.0",
    "0",
    "5000.25",
    "2e9",
    "1234.5678915",
    "nan",
    "inf",
    "1e300",
    None,
]
ATTRIBUTES = st.fixed_dictionaries(
    {},
    optional={
        "channel": st.sampled_from(["c", "d", None]),
        "score": st.sampled_from([0, 1, 2, -3, 30_000, None]),
        "price": st.sampled_from(
            [
                "0.1",
                "0.2",
                "2.5",
                "-2.5",
                "2.675",
                "-0.0",
                "0",
                "5000.25",
                "2e9",
                "1234.5678915",
                "nan",
                "inf",
                "1e300",
                None,
            ]
        ),
        "tags": st.sampled_from(["x", "x,y", "y,x,x", "", None]),
        "due": st.sampled_from(
            [
                "2026-01-01T00:00:00.000001+00:00",
                "2026-01-01T00:00:00.9+00:00",
                "2026-02-03T04:05:06+00:00",
            ]
        ),
    },
)


@st.composite
def versions(draw: st.DrawFn) -> Version:
    """Draw a version of one of a few records; a fifth are tombstones."""
    event = START + draw(OFFSETS)
    attributes = draw(st.none() | ATTRIBUTES | ATTRIBUTES)
    return Version(
        draw(st.sampled_from(["r1", "r2", "r3", "r4"])),
        draw(st.sampled_from(["u1", "u1", "u2"])),
        draw(st.sampled_from(["s1", "s1", "s2", None])),
        event,
        event + draw(LAGS),
        draw(st.none() | TEXTS | TEXTS | TEXTS | TEXTS),
        draw(st.sampled_from(["urgent", "calm", None])),
        None if attributes is None else json.dumps(attributes),
    )


class Step(NamedTuple):
    """The staged versions after a step: new ones replace those of the same record and instant."""

    come: list[Version]
    go: list[tuple[str, int]]


def after(staged: Sequence[Version], step: Step) -> list[Version]:
    """The versions that are staged after a step."""
    keyed = {(v.record, v.known): v for v in (*staged, *step.come)}
    return [v for key, v in keyed.items() if key not in step.go]


@st.composite
def histories(draw: st.DrawFn, max_steps: int = 4) -> list[list[Version]]:
    """Draw what is staged after several steps: versions arrive in any order, change, or leave."""
    states: list[list[Version]] = []
    staged: list[Version] = []
    for _ in range(draw(st.integers(1, max_steps))):
        come = draw(
            st.lists(versions(), min_size=1, max_size=5, unique_by=lambda v: (v.record, v.known))
        )
        keys = [(v.record, v.known) for v in staged]
        go = draw(st.just([]) | st.lists(st.sampled_from(keys), max_size=2)) if keys else []
        in_place = (
            draw(st.just([]) | st.lists(st.sampled_from(staged), max_size=1)) if staged else []
        )
        come += [
            draw(versions())._replace(record=v.record, event=v.event, known=v.known)
            for v in in_place
        ]
        staged = after(staged, Step(come, go))
        states.append(staged)
    return states
