"""Backfill finds and computes what is missing or of other code, by chunks, and nothing else."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transforms.histories import (
    DAY,
    HISTORIES,
    HOUR,
    NOW,
    START,
    Version,
    cut,
    newest,
    rows_of,
    run,
    stage,
    version,
)
from transforms.errors import MillraceError
from transforms.features import fingerprint
from transforms.features.backfill import Span, fill, find
from transforms.features.build import (
    consistent_versions,
    featurize,
    read_unfinished,
    stale_views,
    write_unfinished,
)
from transforms.features.registry import view_of, views
from transforms.schemas.base import Contract
from transforms.warehouse import publishing
from transforms.warehouse.publishing import publish
from transforms.warehouse.tables import Rows, Warehouse

AUTHORS = [version(f"r{number}", number * DAY, author=f"u{number}") for number in range(8)]
LATER = NOW + timedelta(days=1)
NAMES = [view.name for view in views()]


def at(microseconds: int) -> datetime:
    return datetime.fromtimestamp((START + microseconds) / 1_000_000, UTC)


def lose(warehouse: Warehouse, *keep: str) -> None:
    """Remove rows from every view: all but those of the keys to keep."""
    for contract in (view.contract for view in views()):
        files = warehouse.files(contract.relation())
        rows = pl.concat([pl.DataFrame(pq.read_table(file)) for file in files])
        left = (
            rows.filter(pl.col(contract.key()[0]).is_in(keep))
            .to_arrow()
            .cast(contract.arrow_schema())
        )
        publish(warehouse, contract, left.to_batches(), {}, without=files)


@pytest.fixture
def holed(new_home: Callable[[], Warehouse]) -> Warehouse:
    """A home of eight authors, a record a day each, after `lose` removed most feature rows."""
    warehouse = run(new_home(), AUTHORS)
    lose(warehouse, "u0", "u5", "r0", "r5")
    return warehouse


def assert_equal(warehouse: Warehouse, other: Warehouse) -> None:
    for view in NAMES:
        assert newest(warehouse, view).equals(newest(other, view)), view


@settings(max_examples=4)
@given(HISTORIES, st.lists(st.integers(1, 8), min_size=1, max_size=2))
def test_runs_in_any_order_leave_nothing_due(
    new_home: Callable[[], Warehouse], versions: list[Version], cuts: list[int]
) -> None:
    warehouse = run(new_home(), *cut(versions, cuts))
    assert [due.n_rows for due in find(warehouse, Span())] == [0] * len(NAMES)


def test_holes_are_found_and_filled(holed: Warehouse, new_home: Callable[[], Warehouse]) -> None:
    *of_records, author, subject = find(holed, Span())
    assert {(due.n_rows, due.n_entities, due.is_other_code) for due in of_records} == {
        (6, 6, False)
    }
    assert (author.n_rows, author.n_entities, author.first) == (24, 6, at(DAY + 1))
    assert (subject.n_rows, subject.n_entities) == (
        len(newest(run(new_home(), AUTHORS), "subject_activity")),
        1,
    )
    rows = fill(holed, Span(), LATER)
    assert rows["features.author_activity"] == Rows(new=24, recomputed=0, untouched=8)
    assert_equal(holed, run(new_home(), AUTHORS))
    assert [due.n_rows for due in find(holed, Span())] == [0] * len(NAMES)


def test_rows_outside_of_the_span_stay_as_they_are(
    holed: Warehouse, new_home: Callable[[], Warehouse]
) -> None:
    before = {view: rows_of(holed, view) for view in NAMES}
    span = Span(at(2 * DAY), at(4 * DAY))
    fill(holed, span, LATER)
    whole = run(new_home(), AUTHORS)
    for view in NAMES:
        start = START if view.startswith("record_") else START + 2 * DAY  # windows look back
        inside = newest(whole, view).filter(
            pl.col("event_timestamp").is_between(start, START + 4 * DAY, closed="left")
        )
        added = rows_of(holed, view).filter(created_timestamp=LATER).select(inside.columns)
        due = inside.join(before[view], on=inside.columns[:2], how="anti")
        assert not due.is_empty()
        assert added.sort(inside.columns[:2]).equals(due)
        assert rows_of(holed, view).height == before[view].height + added.height
    assert [due.n_rows for due in find(holed, span)] == [0] * len(NAMES)
    assert min(due.n_rows for due in find(holed, Span())) > 0


def test_stopped_backfill_goes_on_at_its_chunk(
    holed: Warehouse, new_home: Callable[[], Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transforms.features.backfill.VERSIONS_OF_A_CHUNK", 2)
    before, commit, published = consistent_versions(holed), publishing._commit, []

    def stopping_at(number: int) -> Callable[..., Any]:
        def run_until(
            warehouse: Warehouse,
            contract: type[Contract],
            added: Any,
            without: Any,
            transactions: dict[str, int],
            *rest: Any,
        ) -> Any:
            if len(published) == number:
                raise KeyboardInterrupt
            published.append((contract.relation(), *transactions.items()))
            return commit(warehouse, contract, added, without, transactions, *rest)

        return run_until

    with monkeypatch.context() as patched:
        patched.setattr(publishing, "_commit", stopping_at(3))
        with pytest.raises(KeyboardInterrupt):
            fill(holed, Span(), LATER)
    assert (
        consistent_versions(holed)
        == before
        != {view: holed.versions()[f"features.{view}"] for view in NAMES}
    )
    with monkeypatch.context() as patched:
        patched.setattr(publishing, "_commit", stopping_at(-1))
        fill(holed, Span(), LATER)
    assert len(published) == len(set(published)) > 6  # no chunk a second time
    assert consistent_versions(holed) == {
        view: holed.versions()[f"features.{view}"] for view in NAMES
    }
    assert_equal(holed, run(new_home(), AUTHORS))


def test_run_after_a_stopped_backfill_takes_nothing_twice(
    holed: Warehouse, new_home: Callable[[], Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(
            "transforms.features.backfill.home_views",
            lambda _: [view_of("record_quality"), view_of("author_activity")],
        )
        patched.setattr(
            "transforms.features.backfill.write_unfinished",
            lambda warehouse, item: item and write_unfinished(warehouse, item),
        )
        fill(holed, Span(), LATER)  # as if it was killed before the last view
    assert read_unfinished(holed)
    more = [version("r9", 9 * DAY, author="u5"), version("r10", 2 * DAY + HOUR, author="u2")]
    stage(holed, more)
    featurize(holed, LATER + timedelta(minutes=1))
    assert read_unfinished(holed) is None
    fill(holed, Span(), LATER + timedelta(hours=1))
    assert_equal(holed, run(new_home(), [*AUTHORS, *more]))


def test_other_code_is_replaced_chunk_by_chunk(
    new_home: Callable[[], Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = run(new_home(), AUTHORS)
    monkeypatch.setattr("transforms.features.backfill.VERSIONS_OF_A_CHUNK", 2)
    with monkeypatch.context() as patched:
        patched.setattr(fingerprint, "_code", lambda *_: "other code")
        assert [due.is_other_code for due in find(warehouse, Span())] == [True] * len(NAMES)
        partial = fill(warehouse, Span(at(0), at(DAY)), LATER)
        assert partial["features.record_quality"].recomputed == 1
        assert stale_views(warehouse) == list(views())  # the rest is still of the code before
        fill(warehouse, Span(), LATER + timedelta(hours=1))
        assert stale_views(warehouse) == []
    assert stale_views(warehouse) == list(views())
    assert_equal(warehouse, run(new_home(), AUTHORS))


def test_views_of_two_codes_are_made_again_when_the_first_comes_back(
    new_home: Callable[[], Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = run(new_home(), AUTHORS)
    with monkeypatch.context() as patched:
        patched.setattr(fingerprint, "_code", lambda *_: "other code")
        fill(warehouse, Span(at(0), at(DAY)), LATER)
    assert stale_views(warehouse) == list(views())


def test_what_no_run_has_seen_is_a_runs_work(new_home: Callable[[], Warehouse]) -> None:
    warehouse = run(new_home(), AUTHORS)
    stage(warehouse, [version("r9", 9 * DAY)])
    with pytest.raises(MillraceError, match="millrace run first"):
        find(warehouse, Span())
    with pytest.raises(MillraceError, match="millrace run first"):
        fill(warehouse, Span(), LATER)
