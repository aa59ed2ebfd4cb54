"""A home computes the views that are asked for, and what it computes is what any home would."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from feature_repo import training_set
from feature_repo.online import apply, is_applied
from feature_repo.online_views import online_views
from transforms.errors import HomeError
from transforms.features.build import featurize, stale_views
from transforms.features.chosen import chosen_views, off_views
from transforms.features.registry import view_of, views
from transforms.home import Settings
from transforms.warehouse.tables import Warehouse

NOW = datetime(2024, 9, 1, tzinfo=UTC)
N_RECORDS = 30
OFF = "record_duplicates"


@pytest.fixture(scope="module")
def parts(staged: pl.DataFrame) -> list[pl.DataFrame]:
    """Two arrivals."""
    first = staged.unique("record_id", keep="first", maintain_order=True).head(2 * N_RECORDS)
    return [first.head(N_RECORDS), first.tail(N_RECORDS)]


@pytest.fixture
def new_home(tmp_path: Path) -> Callable[[str], Warehouse]:
    return lambda name: Warehouse(Settings(home=tmp_path / name))


def rows(warehouse: Warehouse, view: str) -> pl.DataFrame:
    files = warehouse.files(f"features.{view}")
    keys = [*view_of(view).entity.columns, "event_timestamp"]
    newest = pl.read_parquet(files).sort("created_timestamp").unique(keys, keep="last")
    return newest.drop("created_timestamp").sort(keys)


def assert_equal(one: Warehouse, other: Warehouse, names: list[str]) -> None:
    for name in names:
        assert_frame_equal(rows(one, name), rows(other, name), check_column_order=False)


def choose(monkeypatch: pytest.MonkeyPatch, names: str | None) -> None:
    if names is None:
        monkeypatch.delenv("MILLRACE_VIEWS", raising=False)
    else:
        monkeypatch.setenv("MILLRACE_VIEWS", names)


def test_service_is_computed_with_what_it_reads_and_nothing_else(
    new_home: Callable[[str], Warehouse],
    stage: Callable[..., Warehouse],
    parts: list[pl.DataFrame],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    every = stage(new_home("every"), parts[0])
    featurize(every, NOW)
    choose(monkeypatch, "activity_v1")
    some = stage(new_home("some"), parts[0])
    featurize(some, NOW)
    choose(monkeypatch, None)  # the home keeps its choice
    chosen = [view.name for view in chosen_views(some.settings.root)]
    assert set(chosen) < {view.name for view in views()}
    assert {*chosen} == {
        name.removeprefix("features.") for name in some.versions() if name.startswith("features.")
    }
    assert not stale_views(some)
    assert_equal(some, every, chosen)
    apply(some)
    with pytest.raises(HomeError, match=r"record_pii: is off.*MILLRACE_VIEWS=activity_v1,record_p"):
        training_set(pl.DataFrame(), ["record_pii:n_emails"], home=some.settings.root)


def test_view_taken_off_and_back_equals_a_rebuild(
    new_home: Callable[[str], Warehouse],
    stage: Callable[..., Warehouse],
    parts: list[pl.DataFrame],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    every = stage(new_home("every"), pl.concat(parts))
    featurize(every, NOW)
    home = stage(new_home("home"), parts[0])
    featurize(home, NOW)
    apply(home)
    choose(monkeypatch, "subject_activity")
    assert not is_applied(home)  # a run has this to do
    stage(home, parts[1])
    before = home.versions()["features.author_activity"], home.versions()[f"features.{OFF}"]
    featurize(home, NOW + timedelta(days=1))
    assert online_views(home.settings.root) == ["subject_activity"]
    assert before == (
        home.versions()["features.author_activity"],
        home.versions()[f"features.{OFF}"],
    )
    choose(monkeypatch, "all")
    featurize(home, NOW + timedelta(days=2))
    assert off_views(home.settings.root) == []
    assert_equal(home, every, [view.name for view in views()])


def test_unknown_name_is_refused_with_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, "author_activty")
    with pytest.raises(HomeError, match=r"'author_activty' is no view.*author_activity.*triage_v1"):
        chosen_views(tmp_path)
