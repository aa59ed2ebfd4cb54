"""The rows and labels of a question equal a plain count over any history of records."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.transforms.histories import DAY, HOUR, START, Version, version
from transforms.errors import QuestionError
from transforms.features import days
from transforms.features.registry import registry
from transforms.schemas.staging import StagedRecord
from transforms.training.question import Question, label, spine
from transforms.training.rows import about, question_rows

GRID = DAY // 2
HORIZONS = (GRID, DAY, 3 * DAY)
FAR = datetime(2026, 3, 1, tzinfo=UTC)


def us(instant: datetime) -> int:
    return int((instant - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))


def instant(microseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)


def positive(record: str, known: int, event: int | None = None, **other: Any) -> Version:
    return version(record, known, event, **other)._replace(positive=True)


@contextmanager
def staged(versions: Sequence[Version]) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a connection over nothing but these versions."""
    names = StagedRecord.arrow_schema().names
    rows = [
        {
            "record_id": v.record,
            "author_id": v.author,
            "subject_id": v.subject,
            "event_timestamp": instant(v.event),
            "known_timestamp": instant(v.known),
            "text": v.text,
            "is_positive": v.positive,
            "is_tombstone": v.text is None,
            "attributes": None if v.text is None else f'{{"words": "{v.text}"}}',
            "source": "notes",
            "loaded_timestamp": instant(v.known),
        }
        for v in versions
    ]
    rows = [{name: row.get(name) for name in names} for row in rows]
    table = pa.Table.from_pylist(rows, StagedRecord.arrow_schema())
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.execute("create schema staging")
        connection.register("given_rows", table)
        connection.execute("create table staging.records as from given_rows")
        yield connection


def asked(versions: Sequence[Version], question: Question) -> pl.DataFrame:
    with staged(versions) as connection:
        return pl.DataFrame(question_rows(connection, question))


@st.composite
def histories(draw: st.DrawFn) -> list[Version]:
    """Versions of few records that come late, early and again, move, and are taken out."""
    times = st.integers(0, 8)
    found = draw(
        st.lists(
            st.builds(
                lambda record, subject, event, known, text, positive: Version(
                    record,
                    "u",
                    subject,
                    START + event * GRID,
                    START + known * GRID,
                    text,
                    positive and text is not None,
                ),
                st.sampled_from("ab"),
                st.sampled_from(["s", "s", "s", "t", None]),
                times,
                times,
                st.sampled_from(["one", "two", "three", None]),
                st.sampled_from([True, True, False]),
            ),
            min_size=3,
            max_size=10,
            unique_by=lambda v: (v.record, v.known),
        )
    )
    return sorted(found, key=lambda v: v.known)


# --- the definition, in plain Python ---


def at(versions: Sequence[Version], record: str, when: int) -> Version | None:
    """The version of a record in effect at an instant, what takes effect then included."""
    known = [v for v in versions if v.record == record and v.known <= when]
    newest = max(known, key=lambda v: v.known, default=None)
    return None if newest is None or newest.text is None or newest.effective > when else newest


def began(
    versions: Sequence[Version], record: str, subject: str, start: int, end: int, *, is_any: bool
) -> int | None:
    """When a record began to meet the condition, if that is after `start` and it does at `end`."""

    def meets(when: int) -> bool:
        found = at(versions, record, when)
        return found is not None and found.subject == subject and (is_any or found.positive)

    changes = {start, end} | {
        t for v in versions for t in (v.known, v.effective) if start < t <= end
    }
    since = end
    for when in sorted(changes, reverse=True):
        if not meets(when):
            return since if when < end else None
        since = when
    return None


def labelled(versions: Sequence[Version], subject: str, start: int, horizon: int, take: str) -> Any:
    end = start + horizon
    begun = [
        (when, record)
        for record in "ab"
        if (when := began(versions, record, subject, start, end, is_any=take == "next")) is not None
    ]
    if take == "any":
        return bool(begun)
    if take == "count":
        return len(begun)
    found = at(versions, min(begun)[1], end) if begun else None
    return found and found.text


# --- labels ---


@given(histories(), st.sampled_from(HORIZONS), st.sampled_from(["any", "count", "next"]))
@settings(max_examples=60)
# corrected at the end of the horizon; corrected from positive to positive within it; taken out;
# late
@example([version("a", 0), positive("b", 2 * DAY), version("b", 3 * DAY)], 2 * DAY, "any")
@example([positive("a", 0), positive("a", DAY + GRID, text="new")], DAY, "count")
@example([version("a", 0), version("b", DAY + GRID), version("b", 2 * DAY, text=None)], DAY, "next")
@example([version("a", 0), positive("b", 3 * DAY, 0)], 2 * DAY, "count")
def test_labels_equal_a_plain_count_over_any_history(
    versions: list[Version], horizon: int, take: Any
) -> None:
    question = spine(
        "subject",
        at=f"select unnest(range({START}, {START} + 9 * {GRID}, {GRID})) as us, "
        "make_timestamptz(us) as event_timestamp",
        label=label(
            "text" if take == "next" else "is_positive",
            within=timedelta(microseconds=horizon),
            take=take,
            known_until=FAR,
        ),
    )
    found = asked(versions, question)
    expected = {
        (subject, when): labelled(versions, subject, when, horizon, take)
        for subject in "st"
        for when in range(START, START + 9 * GRID, GRID)
        if any(
            at(versions, v.record, v.effective) == v and v.effective < when
            for v in versions
            if v.subject == subject
        )
    }
    wanted = {key: value for key, value in expected.items() if value is not None}
    assert {(s, us(t)): value for t, s, value in found.iter_rows()} == wanted


@given(histories(), st.sampled_from(HORIZONS))
@settings(max_examples=30)
def test_own_label_is_what_is_known_of_the_record_at_the_end_of_the_horizon(
    versions: list[Version], horizon: int
) -> None:
    own = label("text", take="own", within=timedelta(microseconds=horizon), known_until=FAR)
    found = asked(versions, spine(["record", "subject"], label=own))
    last = max(v.known for v in versions)
    firsts: dict[str, Version] = {}
    for v in sorted(versions, key=lambda v: v.effective):
        if at(versions, v.record, v.effective) == v:
            firsts.setdefault(v.record, v)
    expected = [
        (instant(v.effective), v.record, v.subject, then.text)
        for v in firsts.values()
        if (then := at(versions, v.record, v.effective + horizon)) is not None
    ]
    assert sorted(found.rows(), key=repr) == sorted(expected, key=repr)
    assert last < us(FAR)


@given(histories(), st.integers(0, 12), st.sampled_from(HORIZONS))
@settings(max_examples=40)
def test_nothing_known_after_the_horizon_reaches_a_row(
    versions: list[Version], cut: int, horizon: int
) -> None:
    known_until = START + cut * GRID
    question = spine(
        "subject",
        at="daily",
        label=label(
            within=timedelta(microseconds=horizon), take="count", known_until=instant(known_until)
        ),
    )
    past = [v for v in versions if v.known <= known_until]
    altered = [
        v if v.known <= known_until else v._replace(positive=not v.positive, subject="s")
        for v in versions
    ]
    until_cut = pl.col("event_timestamp") <= instant(known_until - horizon)
    now, then = asked(versions, question), asked(altered, question)
    assert now.filter(until_cut).equals(now)  # the horizon of every row has passed
    assert now.equals(then)
    if past:
        known = asked(past, question)
        newest = instant(max(v.known for v in past))
        assert now.filter(pl.col("event_timestamp") <= newest).equals(known)


def test_rows_whose_horizon_has_not_passed_are_left_out_and_counted() -> None:
    versions = [version("a", 0), version("b", 10 * DAY)._replace(subject="t")]
    with staged(versions) as connection:
        rows = question_rows(connection, spine("subject", "daily", label=label(within=days(4))))
        facts = about(rows)
    assert rows.num_rows == 6
    assert facts["n_horizon_open"] == 4
    assert facts["known_until"] == "2026-01-11T00:00:00+00:00"
    assert facts["balance"] == {"false": 6}


def test_source_that_lags_says_up_to_when_labels_are_known() -> None:
    versions = [version("a", 0), version("b", 3 * DAY), version("c", 10 * DAY)]
    with staged(versions) as connection:
        connection.execute("update staging.records set source = 'mail' where record_id = 'c'")
        of = spine("subject", "daily", label=label(within=days(1)))
        assert question_rows(connection, of).num_rows == 2
        ended = label(within=days(1), known_until="2026-01-11")
        assert question_rows(connection, spine("subject", "daily", label=ended)).num_rows == 9


# --- rows ---


def test_list_entity_has_a_row_for_each_of_its_entities(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "words.py").write_text(
        "from transforms.features import Count, Entity, GroupBy, days\n"
        "word = Entity('word', key=\"string_split(text, ' ')\", many=True)\n"
        "pair = Entity('pair', key=['author_id', 'subject_id'])\n"
        "words = GroupBy('words', word, [Count('n')], [days(7)], description='Words.')\n"
        "pairs = GroupBy('pairs', pair, [Count('n')], [days(7)], description='Pairs.')\n"
    )
    monkeypatch.setenv("MILLRACE_FEATURES", str(tmp_path))
    assert {"word", "pair"} <= set(registry().entities)
    versions = [version("a", 0, text="tea milk"), version("b", DAY, text="tea tea")]
    found = asked(versions, spine("word"))
    assert found.select("word", "record_id").rows() == [("milk", "a"), ("tea", "a"), ("tea", "b")]
    daily = asked(versions, spine(("pair",), at="daily"))
    assert daily.select("author_id", "subject_id").rows() == [("u", "s")]


def test_weeks_begin_on_monday() -> None:
    versions = [version("a", 0), version("b", 20 * DAY)]
    found = asked(versions, spine("subject", at="weekly"))["event_timestamp"]
    assert [f"{at:%a %d}" for at in found] == ["Mon 05", "Mon 12", "Mon 19"]


def test_query_gives_rows_or_instants_for_all_entities() -> None:
    versions = [version("a", 0), version("b", DAY)._replace(subject="t"), version("c", 9 * DAY)]
    instants = "select timestamptz '2026-01-03' as event_timestamp"
    assert asked(versions, spine("subject", instants))["subject_id"].to_list() == ["s", "t"]
    rows = f"select 's' as subject_id, 7 as n, * from ({instants})"
    found = asked(versions, spine("subject", rows, label=label(take="count", within=days(2))))
    assert found.drop("event_timestamp").rows() == [("s", 7, 0)]


@given(histories(), st.randoms(use_true_random=False))
@settings(max_examples=15)
def test_sample_is_the_same_whatever_the_order_of_records(
    versions: list[Version], random: Any
) -> None:
    shuffled = random.sample(versions, len(versions))
    question = spine("subject", at="daily", sample=4, per_entity=3, seed=7)
    first, again = asked(versions, question), asked(shuffled, question)
    assert first.equals(again)
    everything = asked(versions, spine("subject", at="daily"))
    counts = everything.group_by("subject_id").len()
    assert first.height == min(4, counts["len"].clip(upper_bound=3).sum())
    assert first.join(everything, on=everything.columns).height == first.height


def test_another_seed_draws_other_rows_and_a_share_draws_about_its_share() -> None:
    versions = [version(f"r{n}", n * HOUR) for n in range(1000)]
    drawn = [asked(versions, spine("record", sample=0.3, seed=seed)) for seed in (0, 1)]
    assert not drawn[0].equals(drawn[1])
    assert all(250 < frame.height < 350 for frame in drawn)


def test_negative_rows_are_drawn_and_their_weights_add_up() -> None:
    versions = [version(f"r{n}", n * HOUR)._replace(subject=f"s{n}") for n in range(200)]
    versions += [
        version(f"later{n}", 210 * HOUR)._replace(subject=f"s{n}", positive=True) for n in range(3)
    ]
    within = {"within": days(1), "known_until": FAR}
    every = asked(versions, spine("subject", "daily", label=label(**within)))
    found = asked(versions, spine("subject", "daily", label=label(**within, negatives=2)))
    n_positive = every["label"].sum()
    negative = found.filter(~pl.col("label"))
    assert found["label"].sum() == n_positive > 0
    assert negative.height == 2 * n_positive
    assert negative["weight"].sum() == pytest.approx(every.height - n_positive)
    assert set(found.filter("label")["weight"]) == {1.0}


# --- what cannot be asked ---

WRONG = [
    (lambda: spine("subject", at="hourly"), "at='hourly': say 'each record', 'daily', 'weekly'"),
    (lambda: spine("subjects"), "did you mean subject"),
    (lambda: spine(["subject", "author"], at="daily"), "rows are of one entity"),
    (lambda: label(within=timedelta(0)), "say within=days"),
    (lambda: label(within=days(1), take="mean"), "any, count, next, own"),
    (lambda: label(within=days(1), take="count", negatives=2), "needs a label of true and false"),
    (
        lambda: spine(label=label("text", take="own", within=days(1), negatives=2)),
        "negatives: text is VARCHAR",
    ),
    (lambda: spine("subject", "daily", label=label(take="own", within=days(1))), "own record"),
    (lambda: spine(sample=0), "sample=0"),
    (lambda: spine(per_entity=0), "per_entity=0"),
    (lambda: spine("subject", "select 1 as subject_id"), "no column event_timestamp"),
    (lambda: spine("subject", "from nowhere at all"), "the query cannot be run"),
    (lambda: spine(label=label("(select 1)", within=days(1))), "may not contain a subquery"),
    (
        lambda: spine("subject", "daily", label=label(within=days(1), negatives=1)),
        "there is no positive row",
    ),
]


@pytest.mark.parametrize(("ask", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_cannot_be_asked_is_said_in_one_line(ask: Any, said: str) -> None:
    versions = [version("a", 0), version("b", 3 * DAY)]
    with staged(versions) as connection, pytest.raises(QuestionError) as found:
        question_rows(connection, ask())
    assert said in str(found.value)
    assert "\n" not in str(found.value)
