"""`featurize` equals its definition in plain Python, at and around every instant of change.

Instants are whole microseconds since 1970, as in the SQL models.
"""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.transforms.histories import (
    DAY,
    HISTORIES,
    HOUR,
    NOW,
    START,
    Version,
    activity,
    assert_activity_is_as_defined,
    assert_quality_is_as_defined,
    by_entity,
    by_known,
    cut,
    instants_of,
    newest,
    row_at,
    rows_of,
    run,
    stage,
    version,
)
from transforms.errors import GateError
from transforms.features import build, fingerprint
from transforms.features.build import consistent_versions, featurize, stale_views
from transforms.features.engine import near_duplicates
from transforms.features.registry import view_of, views
from transforms.features.view import View
from transforms.schemas.staging import StagedRecord
from transforms.text import quality
from transforms.warehouse.tables import Rows, Warehouse

NAMES = [view.name for view in views()]

# --- (1) right by the definition ---


@settings(max_examples=8)
@given(HISTORIES, st.lists(st.integers(-DAY, 80 * DAY), max_size=5))
def test_activity_and_quality_are_as_defined_at_any_instant(
    new_home: Callable[[], Warehouse], versions: list[Version], more: list[int]
) -> None:
    warehouse = run(new_home(), versions)
    instants = instants_of(versions) + [START + offset for offset in more]
    assert_activity_is_as_defined(warehouse, versions, instants)
    assert_quality_is_as_defined(warehouse, versions, instants)


def test_record_counts_from_the_microsecond_after_it_is_known(
    new_home: Callable[[], Warehouse],
) -> None:
    rows = by_entity(run(new_home(), [version("r", known=5)]), "author_activity")["u"]
    assert row_at(rows, START + 5) is None
    assert rows[0]["event_timestamp"] == START + 6


def test_record_leaves_a_window_at_the_next_hop_after_it(new_home: Callable[[], Warehouse]) -> None:
    rows = by_entity(run(new_home(), [version("r", known=1)]), "author_activity")["u"]
    counts = [
        (
            row["event_timestamp"] - START,
            row["n_records_1d"],
            row["n_records_7d"],
            row["n_records_28d"],
        )
        for row in rows
    ]
    assert counts == [
        (2, 1, 1, 1),
        (DAY + HOUR, 0, 1, 1),
        (7 * DAY + HOUR, 0, 0, 1),
        (29 * DAY, 0, 0, 0),
    ]


def test_record_on_a_hop_leaves_a_window_exactly_at_its_end(
    new_home: Callable[[], Warehouse],
) -> None:
    rows = by_entity(run(new_home(), [version("r", known=0)]), "author_activity")["u"]
    assert [row["event_timestamp"] - START for row in rows] == [1, DAY, 7 * DAY, 28 * DAY]


def test_record_known_after_it_left_a_window_never_enters_it(
    new_home: Callable[[], Warehouse],
) -> None:
    rows = by_entity(run(new_home(), [version("r", event=0, known=2 * DAY)]), "author_activity")[
        "u"
    ]
    assert {row["n_records_1d"] for row in rows} == {0}
    assert rows[0]["n_records_7d"] == 1


def test_author_whose_only_record_is_taken_out_before_it_counts_has_zeros(
    new_home: Callable[[], Warehouse],
) -> None:
    versions = [version("r", known=0, event=2 * HOUR), version("r", known=HOUR, text=None)]
    warehouse = run(new_home(), versions)
    row = row_at(
        by_entity(warehouse, "author_activity").get("u", []), START + 3 * HOUR
    ) or activity([], "author", "u", 0)
    assert (row["n_records_lifetime"], row["n_words_lifetime"], row["first_event_timestamp"]) == (
        0,
        0,
        None,
    )


def test_record_that_changes_its_author_moves_with_its_words(
    new_home: Callable[[], Warehouse],
) -> None:
    versions = [
        version("r", known=0, author="u1"),
        version("r", known=HOUR, author="u2", text="now three words"),
    ]
    found = by_entity(run(new_home(), versions), "author_activity")
    at = START + HOUR + 1
    current = [row_at(found["u1"], at - 1), row_at(found["u1"], at), row_at(found["u2"], at)]
    assert [row["n_words_lifetime"] for row in current if row] == [2, 0, 3]


# --- (2) increments ---


@settings(max_examples=5)
@given(HISTORIES, st.lists(st.integers(1, 8), min_size=1, max_size=2))
# an older version, dated later, is removed or changes author before it counts
@example([version("r", known=0, event=2 * HOUR), version("r", known=HOUR, text=None)], [1])
@example([version("r", known=0, event=2 * HOUR), version("r", known=HOUR, author="v")], [1])
# so is one that another record preceded: its view no longer says of that instant what it brought
@example(
    [
        version("q", known=0),
        version("r", known=HOUR, event=3 * HOUR),
        version("r", known=2 * HOUR, text=None),
    ],
    [2],
)
@example(
    [
        version("q", known=0),
        version("r", known=HOUR, event=3 * HOUR),
        version("r", known=2 * HOUR, text="now three words"),
    ],
    [2],
)
def test_increments_in_order_of_knowledge_equal_a_rebuild(
    new_home: Callable[[], Warehouse], versions: list[Version], cuts: list[int]
) -> None:
    increments = cut(by_known(versions), cuts)
    grown, rebuilt = run(new_home(), *increments), run(new_home(), versions)
    for view in NAMES:
        assert newest(grown, view).rows(named=True) == newest(rebuilt, view).rows(named=True)


@settings(max_examples=5)
@given(HISTORIES, st.lists(st.integers(1, 8), min_size=1, max_size=2))
# a version in between arrives last and moves the older one's end; another record arrives too
@example(
    [
        version("r", 0),
        version("r", 3 * HOUR, text=None),
        version("r", HOUR, author="v"),
        version("q", 2 * HOUR),
    ],
    [2],
)
def test_increments_in_any_order_have_the_values_of_a_rebuild(
    new_home: Callable[[], Warehouse], versions: list[Version], cuts: list[int]
) -> None:
    warehouse = run(new_home(), *cut(versions, cuts))
    instants = instants_of(versions)
    assert_activity_is_as_defined(warehouse, versions, instants)
    assert_quality_is_as_defined(warehouse, versions, instants)


@settings(max_examples=4)
@given(HISTORIES, HISTORIES)
# an author's first record is removed; a whole record is removed; another text replaces one
@example([version("r", 0), version("q", HOUR)], [version("q", HOUR)])
@example([version("r", 0)], [version("q", HOUR)])
@example(
    [version("r", 0, event=2 * HOUR), version("q", 0)],
    [version("r", 0, text="now three words"), version("q", 0)],
)
def test_versions_that_are_moved_replaced_or_removed_leave_what_the_others_say(
    new_home: Callable[[], Warehouse], before: list[Version], after: list[Version]
) -> None:
    warehouse = run(new_home(), before)
    stage(warehouse, after, is_all=True)
    featurize(warehouse, NOW + timedelta(hours=1))
    instants = instants_of(before + after)
    assert_activity_is_as_defined(warehouse, after, instants, also=before)
    assert_quality_is_as_defined(warehouse, after, instants, also=before)


def test_rows_that_are_only_moved_to_other_files_are_no_work(
    new_home: Callable[[], Warehouse],
) -> None:
    versions = [version("r1", 0), version("r2", HOUR)]
    warehouse = run(new_home(), versions)
    stage(warehouse, versions, is_all=True)
    before = {view: rows_of(warehouse, view) for view in NAMES}
    assert {
        (rows.new, rows.recomputed)
        for rows in featurize(warehouse, NOW + timedelta(hours=1)).values()
    } == {(0, 0)}
    assert all(rows_of(warehouse, view).equals(rows) for view, rows in before.items())


def test_late_version_is_computed_from_when_it_was_known_and_nobody_else_is(
    new_home: Callable[[], Warehouse],
) -> None:
    first = [
        version("r1", 0),
        version("r2", 3 * HOUR),
        version("q1", 0, author="v"),
        version("q2", 3 * HOUR, author="v"),
    ]
    warehouse = run(new_home(), first)
    stage(warehouse, [version("r3", 2 * HOUR)])
    again = NOW + timedelta(hours=1)
    rows = featurize(warehouse, again)["author_activity"]
    added = rows_of(warehouse, "author_activity").filter(created_timestamp=again)
    assert set(added["author_id"]) == {"u"}
    assert added["event_timestamp"].min() == START + 2 * HOUR + 1
    # new: it arrives and leaves two windows (it leaves the third with r2);
    # recomputed: all seven later rows of the author
    assert (rows.new, rows.recomputed) == (3, 7)
    assert (
        rows.untouched
        == len(rows_of(warehouse, "author_activity")) - rows.new - 2 * rows.recomputed
    )


# --- (3) a live source only appends ---


@settings(max_examples=4)
@given(HISTORIES, st.integers(1, 8))
def test_increment_of_a_live_source_adds_rows_from_its_arrival_on(
    new_home: Callable[[], Warehouse], versions: list[Version], at: int
) -> None:
    increments = cut(by_known(versions), [at])
    warehouse = run(new_home(), *increments)
    arrival = increments[-1][0].known
    for view in NAMES:
        added = rows_of(warehouse, view).filter(
            created_timestamp=NOW + timedelta(hours=len(increments) - 1)
        )
        assert added.filter(pl.col("event_timestamp") < arrival).is_empty()


# --- (4) nothing new, nothing done ---


def test_second_run_publishes_nothing(new_home: Callable[[], Warehouse]) -> None:
    warehouse = run(new_home(), [version("r1", 0), version("r2", HOUR)])
    before = warehouse.versions()
    untouched = {view: Rows(untouched=warehouse.n_rows(f"features.{view}")) for view in NAMES}
    assert featurize(warehouse, NOW + timedelta(days=1)) == untouched
    assert warehouse.versions() == before


def test_home_without_a_staged_record_gets_empty_views(new_home: Callable[[], Warehouse]) -> None:
    warehouse = new_home()
    warehouse.create(StagedRecord)
    assert featurize(warehouse, NOW) == dict.fromkeys(NAMES, Rows())
    assert [view.name for view in views() if warehouse.n_rows(view.relation)] == []


def test_run_reports_the_rows_it_added(new_home: Callable[[], Warehouse]) -> None:
    warehouse = new_home()
    stage(warehouse, [version("r", 0)])
    records = {view.name: Rows(new=1) for view in views() if view.is_of_records}
    assert featurize(warehouse, NOW) == {
        **records,
        "author_activity": Rows(new=4),
        "subject_activity": Rows(new=4),
    }


# --- (5) a gate that fails ---


def test_failing_gate_names_the_rule_and_leaves_nothing(
    new_home: Callable[[], Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = run(new_home(), [version("r1", 0)])
    folder = warehouse.folder("features.record_quality")
    monkeypatch.setattr(view_of("record_quality"), "kernel", too_many_digits)
    stage(warehouse, [version("r2", HOUR), version("r3", HOUR)])
    versions, files, rows = (
        warehouse.versions(),
        set(folder.rglob("*.parquet")),
        rows_of(warehouse, "record_quality"),
    )
    rule = (
        r"features\.record_quality: 2 rows .* break digit_ratio: "
        r"less_than_or_equal_to\(1\).*nothing was committed"
    )
    with pytest.raises(GateError, match=rule):
        featurize(warehouse, NOW + timedelta(days=1))
    # the passes before it in a run are done; neither the views of its pass nor those after it are
    left = [f"features.{view}" for view in NAMES if view != "record_duplicates"]
    assert {relation: warehouse.versions()[relation] for relation in left} == {
        relation: versions[relation] for relation in left
    }
    assert set(folder.rglob("*.parquet")) == files
    assert rows_of(warehouse, "record_quality").equals(rows)


def test_run_after_a_failed_gate_does_what_was_left(
    new_home: Callable[[], Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = run(new_home(), [version("r1", 0)])
    stage(warehouse, [version("r2", HOUR)])
    with monkeypatch.context() as patched:
        patched.setattr(view_of("record_quality"), "kernel", too_many_digits)
        with pytest.raises(GateError):
            featurize(warehouse, NOW + timedelta(days=1))
    featurize(warehouse, NOW + timedelta(days=1))
    whole = run(new_home(), [version("r1", 0), version("r2", HOUR)])
    assert newest(warehouse, "author_activity").equals(newest(whole, "author_activity"))


def too_many_digits(records: pl.LazyFrame) -> pl.LazyFrame:
    return quality.score_quality(records).with_columns(digit_ratio=pl.lit(2.0))


# --- (6) code that has changed ---


def other_code(patched: pytest.MonkeyPatch) -> None:
    """Make the kernel count one word more, and the digests differ."""
    patched.setattr(view_of("record_quality"), "kernel", one_word_more)
    patched.setattr(fingerprint, "_code", lambda *_: "other code")


def one_word_more(records: pl.LazyFrame) -> pl.LazyFrame:
    return quality.score_quality(records).with_columns(pl.col("n_words") + 1)


def n_words(warehouse: Warehouse) -> tuple[int, int]:
    last = by_entity(warehouse, "author_activity")["u"][-1]
    return by_entity(warehouse, "record_quality")["r1"][-1]["n_words"], last["n_words_lifetime"]


def test_changed_code_makes_every_view_that_rests_on_it_again(
    new_home: Callable[[], Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = run(new_home(), [version("r1", 0), version("r2", HOUR)])
    assert n_words(warehouse) == (2, 4)
    with monkeypatch.context() as patched:
        other_code(patched)
        assert stale_views(warehouse) == list(views())
        featurize(warehouse, NOW + timedelta(days=1))
        assert n_words(warehouse) == (3, 6)
        assert stale_views(warehouse) == []
    featurize(warehouse, NOW + timedelta(days=2))  # and back: the code before is other code too
    assert n_words(warehouse) == (2, 4)
    assert stale_views(warehouse) == []


def test_changed_code_and_new_records_come_together(
    new_home: Callable[[], Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = run(new_home(), [version("r1", 0)])
    other_code(monkeypatch)
    stage(warehouse, [version("r2", HOUR), version("r1", 2 * HOUR, text=None)])
    featurize(warehouse, NOW + timedelta(days=1))
    whole = run(
        new_home(), [version("r1", 0), version("r2", HOUR), version("r1", 2 * HOUR, text=None)]
    )
    for view in NAMES:
        assert newest(warehouse, view).equals(newest(whole, view))


# --- (7) a reader beside a run ---


def test_reader_between_two_views_of_a_run_sees_the_run_before(
    new_home: Callable[[], Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = run(new_home(), [version("r1", 0)])
    before = consistent_versions(warehouse)
    stage(warehouse, [version("r2", HOUR)])
    with monkeypatch.context() as patched:
        patched.setattr(
            "transforms.features.build.stale_views",
            lambda _warehouse, _wanted=None: [view_of("record_quality")],
        )
        assert featurize(warehouse, NOW + timedelta(days=1))["record_quality"].new == 1
    assert consistent_versions(warehouse) == before
    featurize(warehouse, NOW + timedelta(days=1))
    after = consistent_versions(warehouse)
    assert after == {view: warehouse.versions()[f"features.{view}"] for view in after}
    assert min(after[view] - before[view] for view in before) > 0


def test_near_duplicates_are_found_while_the_other_views_are_computed(
    new_home: Callable[[], Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    others_are_published = threading.Event()
    publish_views, bring_index_up = build._publish, near_duplicates.bring_index_up

    def published(warehouse: Warehouse, now: datetime, beside: list[View]) -> dict[str, Rows]:
        rows = publish_views(warehouse, now, beside)
        if beside[-1].name == "subject_activity":
            others_are_published.set()
        return rows

    def brought_up(*arguments: Any, **options: Any) -> dict[str, int]:
        assert others_are_published.wait(60)
        return bring_index_up(*arguments, **options)

    monkeypatch.setattr(build, "_publish", published)
    monkeypatch.setattr(near_duplicates, "bring_index_up", brought_up)
    warehouse = new_home()
    stage(warehouse, [version("r", 0)])
    rows = featurize(warehouse, NOW)
    assert {rows[name].new for name in ("record_duplicates", "record_quality")} == {1}


def test_a_view_that_is_read_or_reads_is_not_computed_aside(
    new_home: Callable[[], Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = run(new_home(), [version("r", 0)])
    due = [view_of(name) for name in ("record_quality", "record_duplicates", "author_activity")]
    assert build._aside(due, warehouse) == [view_of("record_duplicates")]
    monkeypatch.setattr(type(due[2]), "reads", ("record_duplicates",))
    assert build._aside(due, warehouse) == []
