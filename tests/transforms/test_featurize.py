"""`featurize`: held against the definition in plain Python, at every instant at which anything changes and around it.

Instants are whole microseconds since 1970 here, as in the SQL models.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transforms.code import code_digest
from transforms.errors import GateError
from transforms.featurize import VIEWS, Rows, consistent_versions, featurize, stale_views
from transforms.schemas.features import AuthorActivity, RecordQuality, SubjectActivity
from transforms.schemas.staging import StagedRecord
from transforms.settings import Settings
from transforms.text import quality
from transforms.warehouse import Warehouse

HOUR = 3_600_000_000
DAY = 24 * HOUR
START = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
WINDOWS = {"1d": (DAY, HOUR), "7d": (7 * DAY, HOUR), "28d": (28 * DAY, DAY)}
NOW = datetime(2026, 6, 1, tzinfo=UTC)
TIMES = ("event_timestamp", "first_event_timestamp")
ENTITIES = {"author_activity": "author", "subject_activity": "subject"}


class Version(NamedTuple):
    record: str
    author: str
    subject: str | None
    event: int
    known: int
    text: str | None
    positive: bool

    @property
    def effective(self) -> int:
        return max(self.event, self.known)


def version(record: str, known: int, event: int | None = None, author: str = "u", text: str | None = "two words") -> Version:
    """A version on subject `s`, with the negative label; no text makes it a tombstone. Times count from START."""
    return Version(record, author, "s", START + (known if event is None else event), START + known, text, positive=False)


# --- a home, filled ---


@pytest.fixture
def new_home(tmp_path: Path) -> Callable[[], Warehouse]:
    numbers = itertools.count()
    return lambda: Warehouse(Settings(home=tmp_path / str(next(numbers))))


def stage(warehouse: Warehouse, versions: Sequence[Version], *, is_all: bool = False) -> None:
    """Publish versions, beside those that are there; as all that is there, in new files, if `is_all`."""
    rows = [
        {
            "record_id": v.record,
            "author_id": v.author,
            "subject_id": v.subject,
            "event_timestamp": v.event,
            "known_timestamp": v.known,
            "text": v.text,
            "label": None if v.text is None else "bad" if v.positive else "good",
            "is_positive": v.positive,
            "is_tombstone": v.text is None,
            "attributes": None,
            "content_digest": repr(v),
            "source": "notes",
            "load_id": "load",
            "source_uri": "file",
            "row_number": number,
            "loaded_timestamp": v.known,
        }
        for number, v in enumerate(versions, 1)
    ]
    table = pa.Table.from_pylist(rows, pa.schema([(name, _as_integer(field)) for name, field in _fields(StagedRecord)]))
    replaced = warehouse.files(StagedRecord.relation()) if is_all else []
    warehouse.publish(StagedRecord, table.cast(StagedRecord.arrow_schema()).to_batches(), {}, without=replaced)


def _fields(contract: type[StagedRecord]) -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in contract.arrow_schema()]


def _as_integer(kind: pa.DataType) -> pa.DataType:
    return pa.int64() if pa.types.is_timestamp(kind) else kind


def run(warehouse: Warehouse, *increments: Sequence[Version]) -> Warehouse:
    """Stage and featurize increments one after another, an hour between runs."""
    for number, increment in enumerate(increments):
        stage(warehouse, increment)
        featurize(warehouse, NOW + timedelta(hours=number))
    return warehouse


def rows_of(warehouse: Warehouse, view: str) -> pl.DataFrame:
    """All rows of a view, its times as microseconds."""
    frame = pl.read_delta(str(warehouse.folder(f"features.{view}")))
    return frame.with_columns(pl.col(name).dt.timestamp("us") for name in TIMES if name in frame.columns)


def newest(warehouse: Warehouse, view: str) -> pl.DataFrame:
    """The newest row of every entity and instant, in order, without when it was computed."""
    rows = rows_of(warehouse, view)
    key = next(name for name in rows.columns if name in ("record_id", "author_id", "subject_id"))
    last = rows.sort("created_timestamp").unique([key, "event_timestamp"], keep="last").sort(key, "event_timestamp")
    return last.select(key, "event_timestamp", pl.exclude(key, "event_timestamp", "created_timestamp"))


def by_entity(warehouse: Warehouse, view: str) -> dict[str, list[dict[str, Any]]]:
    rows = newest(warehouse, view)
    return {str(key[0]): group.to_dicts() for key, group in rows.group_by(rows.columns[0], maintain_order=True)}


def row_at(rows: Iterable[dict[str, Any]], instant: int) -> dict[str, Any] | None:
    """The newest row at or before an instant, as a point-in-time join finds it."""
    return max((row for row in rows if row["event_timestamp"] <= instant), key=lambda row: row["event_timestamp"], default=None)


# --- the definition, in plain Python ---


def standing(versions: Sequence[Version], instant: int) -> list[Version]:
    """Each record's newest version known before an instant; none where that is a tombstone."""
    known = sorted((v for v in versions if v.known < instant), key=lambda v: v.known)
    return [v for v in {v.record: v for v in known}.values() if v.text is not None]


def counting(versions: Sequence[Version], instant: int) -> list[Version]:
    return [v for v in standing(versions, instant) if v.effective < instant]


def in_window(v: Version, window: str, instant: int) -> bool:
    if window == "lifetime":
        return True
    span, hop = WINDOWS[window]
    return instant < -(-(v.event + span) // hop) * hop


def activity(versions: Sequence[Version], level: str, entity: str, instant: int) -> dict[str, Any]:
    """An entity's activity at an instant, by the definition."""
    mine = [v for v in counting(versions, instant) if getattr(v, level) == entity]
    have_counted = [v for v in versions if getattr(v, level) == entity and v in counting(versions, min(instant, v.effective + 1))]
    # to the second: what Feast serves online, and so what may be trained on
    expected: dict[str, Any] = {"first_event_timestamp": min((v.event // 1_000_000 * 1_000_000 for v in have_counted), default=None)}
    for window in (*WINDOWS, "lifetime"):
        inside = [v for v in mine if in_window(v, window, instant)]
        expected[f"n_records_{window}"] = len(inside)
        expected[f"n_words_{window}"] = sum(len((v.text or "").split()) for v in inside)
        expected[f"mean_characters_{window}"] = sum(len(v.text or "") for v in inside) / len(inside) if inside else None
        expected[f"positive_ratio_{window}"] = sum(v.positive for v in inside) / len(inside) if inside else None
    return expected


def instants_of(versions: Sequence[Version]) -> list[int]:
    """All instants at which anything may change, and a microsecond before and after each."""
    points = {point for v in versions for point in (v.event, v.known, v.known + 1, v.effective + 1)}
    points |= {-(-(v.event + span) // hop) * hop for v in versions for span, hop in WINDOWS.values()}
    return sorted({point + step for point in points for step in (-1, 0, 1)})


def assert_activity_is_as_defined(
    warehouse: Warehouse, versions: Sequence[Version], instants: Iterable[int], also: Sequence[Version] = ()
) -> None:
    """Hold both views against the definition; of entities that only `also` names, which were there once, nothing may count."""
    instants = list(instants)
    for view, level in ENTITIES.items():
        found = by_entity(warehouse, view)
        entities = {getattr(v, level) for v in (*versions, *also)} - {None}
        assert set(found) <= entities
        for entity, instant in itertools.product(sorted(entities), instants):
            expected = activity(versions, level, entity, instant)
            row = row_at(found.get(entity, []), instant)
            # no row yet says the same as counts of zero
            actual = {name: row[name] for name in expected} if row else activity([], level, entity, instant)
            assert actual == expected, (view, entity, instant - START)


def assert_quality_is_as_defined(
    warehouse: Warehouse, versions: Sequence[Version], instants: Iterable[int], also: Sequence[Version] = ()
) -> None:
    found = by_entity(warehouse, "record_quality")
    for record, instant in itertools.product(sorted({v.record for v in (*versions, *also)}), instants):
        stands = max((v for v in versions if v.record == record and v.effective <= instant), key=lambda v: v.known, default=None)
        row = row_at(found.get(record, []), instant)
        n_characters = row["n_characters"] if row else None
        assert n_characters == (None if stands is None or stands.text is None else len(stands.text)), (record, instant - START)


# --- histories ---

# offsets that meet: on a hop, a microsecond beside it, within an hour, at a window's end
OFFSETS = st.builds(
    sum,
    st.tuples(
        st.sampled_from([0, 1, 6, 7, 8, 27, 28, 40]).map(lambda days: days * DAY),
        st.sampled_from([0, 0, 1, 5, 23]).map(lambda hours: hours * HOUR),
        st.sampled_from([0, 0, 1, -1, 1234567]),
    ),
)
# known before it is written (less than a day), at once, late, after it has left windows
LAGS = st.sampled_from([-DAY + 1, -5 * HOUR, -1, 0, 0, 0, 1, HOUR, DAY, 7 * DAY, 8 * DAY, 30 * DAY])
# an author alone is common; a null subject too
VERSIONS = st.builds(
    lambda record, author, subject, event, lag, text, positive: Version(
        record, author, subject, START + event, START + event + lag, text, positive=positive and text is not None
    ),
    st.sampled_from(["r1", "r2", "r3", "r4"]),
    st.sampled_from(["u1", "u1", "u2"]),
    st.sampled_from(["s1", "s1", "s2", None]),
    OFFSETS,
    LAGS,
    st.sampled_from(["a", "two words", "now three words", None]),
    st.booleans(),
)
HISTORIES = st.lists(VERSIONS, min_size=1, max_size=9, unique_by=lambda v: (v.record, v.known))


def cut(versions: Sequence[Version], cuts: Iterable[int]) -> list[list[Version]]:
    bounds = [0, *sorted(min(at, len(versions)) for at in cuts), len(versions)]
    return [list(versions[start:end]) for start, end in itertools.pairwise(bounds) if end > start]


def by_known(versions: Sequence[Version]) -> list[Version]:
    return sorted(versions, key=lambda v: v.known)


# --- (1) right by the definition ---


@settings(max_examples=20)
@given(HISTORIES, st.lists(st.integers(-DAY, 80 * DAY), max_size=5))
def test_activity_and_quality_are_as_defined_at_any_instant(
    new_home: Callable[[], Warehouse], versions: list[Version], more: list[int]
) -> None:
    warehouse = run(new_home(), versions)
    instants = instants_of(versions) + [START + offset for offset in more]
    assert_activity_is_as_defined(warehouse, versions, instants)
    assert_quality_is_as_defined(warehouse, versions, instants)


def test_record_counts_from_the_microsecond_after_it_is_known(new_home: Callable[[], Warehouse]) -> None:
    rows = by_entity(run(new_home(), [version("r", known=5)]), "author_activity")["u"]
    assert row_at(rows, START + 5) is None
    assert rows[0]["event_timestamp"] == START + 6


def test_record_leaves_a_window_at_the_next_hop_after_it(new_home: Callable[[], Warehouse]) -> None:
    rows = by_entity(run(new_home(), [version("r", known=1)]), "author_activity")["u"]
    counts = [(row["event_timestamp"] - START, row["n_records_1d"], row["n_records_7d"], row["n_records_28d"]) for row in rows]
    assert counts == [(2, 1, 1, 1), (DAY + HOUR, 0, 1, 1), (7 * DAY + HOUR, 0, 0, 1), (29 * DAY, 0, 0, 0)]


def test_record_on_a_hop_leaves_a_window_exactly_at_its_end(new_home: Callable[[], Warehouse]) -> None:
    rows = by_entity(run(new_home(), [version("r", known=0)]), "author_activity")["u"]
    assert [row["event_timestamp"] - START for row in rows] == [1, DAY, 7 * DAY, 28 * DAY]


def test_record_known_after_it_left_a_window_never_enters_it(new_home: Callable[[], Warehouse]) -> None:
    rows = by_entity(run(new_home(), [version("r", event=0, known=2 * DAY)]), "author_activity")["u"]
    assert {row["n_records_1d"] for row in rows} == {0}
    assert rows[0]["n_records_7d"] == 1


def test_author_whose_only_record_is_taken_out_before_it_counts_has_zeros(new_home: Callable[[], Warehouse]) -> None:
    versions = [version("r", known=0, event=2 * HOUR), version("r", known=HOUR, text=None)]
    warehouse = run(new_home(), versions)
    row = row_at(by_entity(warehouse, "author_activity").get("u", []), START + 3 * HOUR) or activity([], "author", "u", 0)
    assert (row["n_records_lifetime"], row["n_words_lifetime"], row["first_event_timestamp"]) == (0, 0, None)


def test_record_that_changes_its_author_moves_with_its_words(new_home: Callable[[], Warehouse]) -> None:
    versions = [version("r", known=0, author="u1"), version("r", known=HOUR, author="u2", text="now three words")]
    found = by_entity(run(new_home(), versions), "author_activity")
    at = START + HOUR + 1
    stands = [row_at(found["u1"], at - 1), row_at(found["u1"], at), row_at(found["u2"], at)]
    assert [row["n_words_lifetime"] for row in stands if row] == [2, 0, 3]


# --- (2) increments ---


@settings(max_examples=10)
@given(HISTORIES, st.lists(st.integers(1, 8), min_size=1, max_size=2))
# an older version, announced for later, is taken out or changes hands before it counts
@example([version("r", known=0, event=2 * HOUR), version("r", known=HOUR, text=None)], [1])
@example([version("r", known=0, event=2 * HOUR), version("r", known=HOUR, author="v")], [1])
def test_increments_in_order_of_knowledge_equal_a_rebuild(
    new_home: Callable[[], Warehouse], versions: list[Version], cuts: list[int]
) -> None:
    increments = cut(by_known(versions), cuts)
    grown, rebuilt = run(new_home(), *increments), run(new_home(), versions)
    for view in ("record_quality", *ENTITIES):
        assert newest(grown, view).rows(named=True) == newest(rebuilt, view).rows(named=True)


@settings(max_examples=10)
@given(HISTORIES, st.lists(st.integers(1, 8), min_size=1, max_size=2))
# a version from between comes last and shifts when the older one ends; another record comes with it
@example([version("r", 0), version("r", 3 * HOUR, text=None), version("r", HOUR, author="v"), version("q", 2 * HOUR)], [2])
def test_increments_in_any_order_have_the_values_of_a_rebuild(
    new_home: Callable[[], Warehouse], versions: list[Version], cuts: list[int]
) -> None:
    warehouse = run(new_home(), *cut(versions, cuts))
    instants = instants_of(versions)
    assert_activity_is_as_defined(warehouse, versions, instants)
    assert_quality_is_as_defined(warehouse, versions, instants)


@settings(max_examples=15)
@given(HISTORIES, HISTORIES)
# the author's first record is gone; a record is gone whole; another text stands in the same place
@example([version("r", 0), version("q", HOUR)], [version("q", HOUR)])
@example([version("r", 0)], [version("q", HOUR)])
@example([version("r", 0, event=2 * HOUR), version("q", 0)], [version("r", 0, text="now three words"), version("q", 0)])
def test_versions_that_are_moved_replaced_or_gone_leave_what_the_others_say(
    new_home: Callable[[], Warehouse], before: list[Version], after: list[Version]
) -> None:
    warehouse = run(new_home(), before)
    stage(warehouse, after, is_all=True)
    featurize(warehouse, NOW + timedelta(hours=1))
    instants = instants_of(before + after)
    assert_activity_is_as_defined(warehouse, after, instants, also=before)
    assert_quality_is_as_defined(warehouse, after, instants, also=before)


def test_rows_that_are_only_moved_to_other_files_are_no_work(new_home: Callable[[], Warehouse]) -> None:
    versions = [version("r1", 0), version("r2", HOUR)]
    warehouse = run(new_home(), versions)
    stage(warehouse, versions, is_all=True)
    before = {view: rows_of(warehouse, view) for view in ("record_quality", *ENTITIES)}
    assert {(rows.new, rows.recomputed) for rows in featurize(warehouse, NOW + timedelta(hours=1)).values()} == {(0, 0)}
    assert all(rows_of(warehouse, view).equals(rows) for view, rows in before.items())


def test_late_version_is_computed_from_when_it_was_known_and_nobody_else_is(new_home: Callable[[], Warehouse]) -> None:
    first = [version("r1", 0), version("r2", 3 * HOUR), version("q1", 0, author="v"), version("q2", 3 * HOUR, author="v")]
    warehouse = run(new_home(), first)
    stage(warehouse, [version("r3", 2 * HOUR)])
    again = NOW + timedelta(hours=1)
    rows = featurize(warehouse, again)["author_activity"]
    added = rows_of(warehouse, "author_activity").filter(created_timestamp=again)
    assert set(added["author_id"]) == {"u"}
    assert added["event_timestamp"].min() == START + 2 * HOUR + 1
    # new: it comes, and leaves two windows; from the third it goes with r2. Again: all seven rows of the author's that follow
    assert (rows.new, rows.recomputed) == (3, 7)
    assert rows.untouched == len(rows_of(warehouse, "author_activity")) - rows.new - 2 * rows.recomputed


# --- (3) a live source only appends ---


@settings(max_examples=8)
@given(HISTORIES, st.integers(1, 8))
def test_increment_of_a_live_source_adds_rows_from_its_arrival_on(
    new_home: Callable[[], Warehouse], versions: list[Version], at: int
) -> None:
    increments = cut(by_known(versions), [at])
    warehouse = run(new_home(), *increments)
    arrival = increments[-1][0].known
    for view in ("record_quality", *ENTITIES):
        added = rows_of(warehouse, view).filter(created_timestamp=NOW + timedelta(hours=len(increments) - 1))
        assert added.filter(pl.col("event_timestamp") < arrival).is_empty()


# --- (4) nothing new, nothing done ---


def test_second_run_publishes_nothing(new_home: Callable[[], Warehouse]) -> None:
    warehouse = run(new_home(), [version("r1", 0), version("r2", HOUR)])
    before = warehouse.versions()
    untouched = {view: Rows(untouched=warehouse.n_rows(f"features.{view}")) for view in ("record_quality", *ENTITIES)}
    assert featurize(warehouse, NOW + timedelta(days=1)) == untouched
    assert warehouse.versions() == before


def test_home_without_a_staged_record_gets_empty_views(new_home: Callable[[], Warehouse]) -> None:
    warehouse = new_home()
    warehouse.create(StagedRecord)
    assert featurize(warehouse, NOW) == dict.fromkeys(("record_quality", *ENTITIES), Rows())
    assert [warehouse.n_rows(contract.relation()) for contract in (RecordQuality, AuthorActivity, SubjectActivity)] == [0, 0, 0]


def test_run_reports_the_rows_it_added(new_home: Callable[[], Warehouse]) -> None:
    warehouse = new_home()
    stage(warehouse, [version("r", 0)])
    assert featurize(warehouse, NOW) == {"record_quality": Rows(new=1), "author_activity": Rows(new=4), "subject_activity": Rows(new=4)}


# --- (5) a gate that fails ---


def test_failing_gate_names_the_rule_and_leaves_nothing(new_home: Callable[[], Warehouse], monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = run(new_home(), [version("r1", 0)])
    folder = warehouse.folder("features.record_quality")
    monkeypatch.setattr("transforms.featurize.score_quality", too_many_digits)
    stage(warehouse, [version("r2", HOUR), version("r3", HOUR)])
    versions, files, rows = warehouse.versions(), set(folder.rglob("*.parquet")), rows_of(warehouse, "record_quality")
    rule = r"features\.record_quality: 2 rows .* break digit_ratio: less_than_or_equal_to\(1\).*nothing was committed"
    with pytest.raises(GateError, match=rule):
        featurize(warehouse, NOW + timedelta(days=1))
    assert warehouse.versions() == versions
    assert set(folder.rglob("*.parquet")) == files
    assert rows_of(warehouse, "record_quality").equals(rows)


def test_run_after_a_failed_gate_does_what_was_left(new_home: Callable[[], Warehouse], monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = run(new_home(), [version("r1", 0)])
    stage(warehouse, [version("r2", HOUR)])
    with monkeypatch.context() as patched:
        patched.setattr("transforms.featurize.score_quality", too_many_digits)
        with pytest.raises(GateError):
            featurize(warehouse, NOW + timedelta(days=1))
    featurize(warehouse, NOW + timedelta(days=1))
    whole = run(new_home(), [version("r1", 0), version("r2", HOUR)])
    assert newest(warehouse, "author_activity").equals(newest(whole, "author_activity"))


def too_many_digits(records: pl.LazyFrame) -> pl.LazyFrame:
    return quality.score_quality(records).with_columns(digit_ratio=pl.lit(2.0))


# --- (6) code that has changed ---


def other_code(patched: pytest.MonkeyPatch) -> None:
    """Make the kernel count one word more, and the code's digest tell it."""
    patched.setattr("transforms.featurize.score_quality", one_word_more)
    patched.setattr("transforms.featurize.code_digest", lambda contract: 1 + code_digest(contract))


def one_word_more(records: pl.LazyFrame) -> pl.LazyFrame:
    return quality.score_quality(records).with_columns(pl.col("n_words") + 1)


def n_words(warehouse: Warehouse) -> tuple[int, int]:
    last = by_entity(warehouse, "author_activity")["u"][-1]
    return by_entity(warehouse, "record_quality")["r1"][-1]["n_words"], last["n_words_lifetime"]


def test_changed_code_makes_every_view_that_rests_on_it_again(new_home: Callable[[], Warehouse], monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = run(new_home(), [version("r1", 0), version("r2", HOUR)])
    assert n_words(warehouse) == (2, 4)
    with monkeypatch.context() as patched:
        other_code(patched)
        assert stale_views(warehouse) == list(VIEWS)
        featurize(warehouse, NOW + timedelta(days=1))
        assert n_words(warehouse) == (3, 6)
        assert stale_views(warehouse) == []
    featurize(warehouse, NOW + timedelta(days=2))  # and back: the code before is other code too
    assert n_words(warehouse) == (2, 4)
    assert stale_views(warehouse) == []


def test_changed_code_and_new_records_come_together(new_home: Callable[[], Warehouse], monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = run(new_home(), [version("r1", 0)])
    other_code(monkeypatch)
    stage(warehouse, [version("r2", HOUR), version("r1", 2 * HOUR, text=None)])
    featurize(warehouse, NOW + timedelta(days=1))
    whole = run(new_home(), [version("r1", 0), version("r2", HOUR), version("r1", 2 * HOUR, text=None)])
    for view in ("record_quality", *ENTITIES):
        assert newest(warehouse, view).equals(newest(whole, view))


# --- (7) a reader beside a run ---


def test_reader_between_two_views_of_a_run_sees_the_run_before(new_home: Callable[[], Warehouse], monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = run(new_home(), [version("r1", 0)])
    before = consistent_versions(warehouse)
    stage(warehouse, [version("r2", HOUR)])
    with monkeypatch.context() as patched:
        patched.setattr("transforms.featurize.stale_views", lambda _warehouse: [RecordQuality])
        assert featurize(warehouse, NOW + timedelta(days=1))["record_quality"].new == 1
    assert consistent_versions(warehouse) == before
    featurize(warehouse, NOW + timedelta(days=1))
    after = consistent_versions(warehouse)
    assert after == {view: warehouse.versions()[f"features.{view}"] for view in after}
    assert min(after[view] - before[view] for view in before) > 0
