"""A home computes the views that are asked for, and what it computes is what any home would."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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


@pytest.fixture(scope="module")
def references(
    tmp_path_factory: pytest.TempPathFactory,
    stage: Callable[..., Warehouse],
    parts: list[pl.DataFrame],
) -> list[Warehouse]:
    """Homes that compute every view at once, after the first arrival and after both."""
    made = []
    for number in (1, 2):
        home = Warehouse(Settings(home=tmp_path_factory.mktemp(f"after-{number}")))
        stage(home, pl.concat(parts[:number]))
        featurize(home, NOW)
        made.append(home)
    return made


ASKED = st.sampled_from(
    ["all", "activity_v1", "subject_activity", f"record_quality,{OFF}", "author_tenure"]
)


@given(asked=st.tuples(ASKED, ASKED))
@settings(max_examples=4)
def test_what_is_chosen_has_the_values_of_a_home_with_all_whatever_was_off_before(
    references: list[Warehouse],
    stage: Callable[..., Warehouse],
    parts: list[pl.DataFrame],
    asked: tuple[str, str],
) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root = Path(folder).resolve()
        home = Warehouse(Settings(home=root))
        for day, names in enumerate(asked):
            stage(home, parts[day])
            choose(patch, names)
            off = {name: home.versions().get(f"features.{name}") for name in off_views(root)}
            featurize(home, NOW + timedelta(days=day))
            assert_equal(home, references[day], [view.name for view in chosen_views(root)])
            assert off == {name: home.versions().get(f"features.{name}") for name in off}
        choose(patch, "all")
        featurize(home, NOW + timedelta(days=2))
        assert_equal(home, references[-1], [view.name for view in views()])


def test_choice_is_kept_and_a_changed_one_is_something_to_do(
    new_home: Callable[[str], Warehouse],
    stage: Callable[..., Warehouse],
    parts: list[pl.DataFrame],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = stage(new_home("home"), parts[0])
    featurize(home, NOW)
    apply(home)
    assert is_applied(home)
    choose(monkeypatch, "subject_activity")
    assert not is_applied(home)
    featurize(home, NOW)
    choose(monkeypatch, None)
    assert online_views(home.settings.root) == ["subject_activity"]


def test_choice_of_names_that_nothing_declares_any_more_is_refused(tmp_path: Path) -> None:
    (tmp_path / "views").write_text("removed_view")
    with pytest.raises(HomeError, match=r"nothing declares removed_view any more.*MILLRACE_VIEWS"):
        chosen_views(tmp_path)


def test_unknown_name_is_refused_with_those_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(monkeypatch, "author_activty")
    with pytest.raises(HomeError, match=r"'author_activty' is no view.*author_activity.*triage_v1"):
        chosen_views(tmp_path)
