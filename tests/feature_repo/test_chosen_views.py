"""A home computes the views that are asked for, and what it computes is what any home would."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from feature_repo import online_features, similar_records, store, training_set
from feature_repo.online import apply
from feature_repo.stores.online import NotOnlineError
from flows.stages import MaintainParameters, run_maintenance
from transforms.errors import HomeError, MillraceError
from transforms.features.backfill import Span, fill
from transforms.features.build import consistent_versions, featurize, stale_views
from transforms.features.chosen import chosen_views, home_views, is_kept, off_views
from transforms.features.registry import view_of, views
from transforms.home import Settings
from transforms.lineage.trace import trace_feature
from transforms.warehouse.publishing import Publication
from transforms.warehouse.tables import Rows, Warehouse

NOW = datetime(2024, 9, 1, tzinfo=UTC)
N_RECORDS = 30
OFF = "record_duplicates"
FEW = "author_tenure"  # which reads author_activity, and that no other view
ALL = [view.name for view in views()]


@pytest.fixture(scope="module")
def parts(staged: pl.DataFrame) -> list[pl.DataFrame]:
    """Two arrivals."""
    first = staged.unique("record_id", keep="first", maintain_order=True).head(2 * N_RECORDS)
    return [first.head(N_RECORDS), first.tail(N_RECORDS)]


@pytest.fixture(scope="module")
def references(
    tmp_path_factory: pytest.TempPathFactory,
    stage: Callable[..., Warehouse],
    parts: list[pl.DataFrame],
) -> list[Warehouse]:
    """Homes that compute every view at once, after the first arrival and after both; read only."""
    made = []
    for number in (1, 2):
        home = Warehouse(Settings(home=tmp_path_factory.mktemp(f"after-{number}")))
        stage(home, pl.concat(parts[:number]))
        featurize(home, NOW)
        made.append(home)
    return made


@pytest.fixture(scope="module")
def few(
    tmp_path_factory: pytest.TempPathFactory,
    stage: Callable[..., Warehouse],
    parts: list[pl.DataFrame],
) -> Warehouse:
    """A home after the first arrival that computes one view; read only."""
    home = stage(Warehouse(Settings(home=tmp_path_factory.mktemp("few"))), parts[0])
    with pytest.MonkeyPatch.context() as patch:
        choose(patch, FEW)
        featurize(home, NOW)
    apply(home)
    return home


def copied(home: Warehouse, folder: Path) -> Warehouse:
    """A copy of a home, where only what it keeps is chosen."""
    shutil.copytree(home.settings.root, folder)
    return Warehouse(Settings(home=folder))


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


def names_of(found: list[Any]) -> list[str]:
    return [view.name for view in found]


def test_service_is_computed_with_what_it_reads_and_nothing_else(
    references: list[Warehouse],
    stage: Callable[..., Warehouse],
    parts: list[pl.DataFrame],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choose(monkeypatch, "activity_v1")
    some = stage(Warehouse(Settings(home=tmp_path)), parts[0])
    featurize(some, NOW)
    choose(monkeypatch, None)  # the home keeps its choice
    chosen = names_of(chosen_views(tmp_path))
    assert set(chosen) < set(ALL)
    assert {*chosen} == {
        name.removeprefix("features.") for name in some.versions() if name.startswith("features.")
    }
    assert not stale_views(some)
    assert_equal(some, references[0], chosen)


def test_home_with_every_view_keeps_no_choice(
    few: Warehouse, references: list[Warehouse], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not (references[0].settings.root / "views").exists()
    home = copied(few, tmp_path / "home")
    assert (tmp_path / "home" / "views").read_text() == FEW
    choose(monkeypatch, f"all,{FEW}")
    featurize(home, NOW)
    assert not (tmp_path / "home" / "views").exists()


SPINE = pl.DataFrame(
    {"record_id": ["r"], "author_id": ["a"], "subject_id": ["s"], "event_timestamp": [NOW]}
)
SUBJECT = "subject_activity:n_records_lifetime"


@pytest.mark.parametrize(
    ("ask", "view", "error"),
    [
        (lambda home: training_set(SPINE, ["record_pii:pii_any"], home), "record_pii", HomeError),
        (lambda home: training_set(SPINE, "activity_v1", home), "subject_activity", HomeError),
        (
            lambda home: store(home).get_historical_features(SPINE.to_pandas(), [SUBJECT]).to_df(),
            "subject_activity",
            HomeError,
        ),
        (
            lambda home: online_features([SUBJECT], [{"subject_id": "s"}], home),
            "subject_activity",
            NotOnlineError,
        ),
        (  # as the feature server does
            lambda home: store(home).get_online_features([SUBJECT], [{"subject_id": "s"}]),
            "subject_activity",
            NotOnlineError,
        ),
        (lambda home: similar_records("login", home=home), "record_vector", NotOnlineError),
        (
            lambda home: trace_feature(
                Warehouse(Settings(home=home)), "subject_activity", "s", NOW
            ),
            "subject_activity",
            HomeError,
        ),
    ],
)
def test_whoever_asks_for_a_view_that_is_off_is_told_how_to_take_it_back(
    few: Warehouse, ask: Callable[[Path], object], view: str, error: type[MillraceError]
) -> None:
    advice = f"^{view}: is off in this home.*MILLRACE_VIEWS={FEW},{view}, or MILLRACE_VIEWS=all"
    with pytest.raises(error, match=advice) as refused:
        ask(few.settings.root)
    assert ("MILLRACE_ONLINE=record_vector" in str(refused.value)) == (view == "record_vector")


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
            before = home.versions()
            featurize(home, NOW + timedelta(days=day))
            assert_equal(home, references[day], names_of(chosen_views(root)))
            for name in off_views(root):
                assert home.versions().get(f"features.{name}") == before.get(f"features.{name}")
        choose(patch, "all")
        featurize(home, NOW + timedelta(days=2))
        assert_equal(home, references[-1], ALL)


class KilledError(Exception):
    """A run ends after its first commit."""


@pytest.mark.parametrize("before", ["all", FEW])
def test_choice_applies_once_its_run_is_complete(
    references: list[Warehouse],
    few: Warehouse,
    stage: Callable[..., Warehouse],
    parts: list[pl.DataFrame],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: str,
) -> None:
    home = copied(few if before == FEW else references[0], tmp_path / "home")
    root = home.settings.root
    stage(home, parts[1])
    was, views_before = consistent_versions(home), names_of(home_views(root))
    real = Publication.commit

    def commit_and_die(publication: Publication) -> None:
        real(publication)
        raise KilledError

    choose(monkeypatch, FEW if before == "all" else "all")
    assert not is_kept(root)
    with monkeypatch.context() as patch:
        patch.setattr(Publication, "commit", commit_and_die)
        with pytest.raises(KilledError):
            featurize(home, NOW + timedelta(days=1))
    assert consistent_versions(home) == was  # readers still see the views as they agree
    choose(monkeypatch, None)
    featurize(home, NOW + timedelta(days=2))
    assert names_of(home_views(root)) == views_before
    assert_equal(home, references[1], views_before)


def test_all_that_a_home_is_kept_by_goes_on_while_views_are_off(
    references: list[Warehouse],
    stage: Callable[..., Warehouse],
    parts: list[pl.DataFrame],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = copied(references[0], tmp_path / "home")
    root = home.settings.root
    apply(home)
    spine = parts[0].select("record_id", event_timestamp=pl.lit(NOW))
    made = training_set(spine, ["record_quality:n_words"], root)
    made.register("before")
    stage(home, parts[1])
    choose(monkeypatch, FEW)
    featurize(home, NOW + timedelta(days=1))
    choose(monkeypatch, None)
    monkeypatch.setattr("transforms.upkeep.maintain.FEW_FILES", 1)
    kept = run_maintenance(MaintainParameters(home=str(root), keep_days=0))
    moved = {item["relation"] for item in kept["compacted"]}
    assert {"staging.records", "features.author_activity"} <= moved
    assert training_set.rebuild("before", home=root).lock["result"] == made.lock["result"]
    author = rows(home, "author_activity")["author_id"][0]
    assert trace_feature(home, "author_activity", author, NOW).mismatches == []
    filled = fill(home, Span(), NOW + timedelta(days=2))
    assert names_of(home_views(root)) == [name.removeprefix("features.") for name in filled]
    assert {counts._replace(untouched=0) for counts in filled.values()} == {Rows()}
    choose(monkeypatch, "all")
    featurize(home, NOW + timedelta(days=3))
    assert_equal(home, references[1], ALL)


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
