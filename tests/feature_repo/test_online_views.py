"""Online are entities always and records on request; anything else is refused with the remedy."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import Mock

import polars as pl
import pytest

from feature_repo import online_features, similar_records, store, training_set
from feature_repo.online import (
    apply,
    due_views,
    is_applied,
    materialize,
    need_refresh,
    refresh,
)
from feature_repo.online_views import keep, online_views
from feature_repo.stores import clock
from feature_repo.stores.online import NotOnlineError
from flows import planning
from flows.migrations import migrate
from transforms.errors import HomeError
from transforms.features.build import featurize
from transforms.features.registry import views
from transforms.home import Settings
from transforms.warehouse.tables import Warehouse, silent

NOW = datetime(2024, 9, 1, tzinfo=UTC)
ENTITIES = ["author_activity", "subject_activity"]
RECORDS = [view.name for view in views() if view.is_of_records]
N_RECORDS = 40
N_WORDS = "record_quality:n_words"


def _first(staged: pl.DataFrame) -> pl.DataFrame:
    return (
        staged.unique("record_id", keep="first", maintain_order=True)
        .drop_nulls("subject_id")
        .head(N_RECORDS)
    )


@pytest.fixture(scope="module")
def featurized(
    tmp_path_factory: pytest.TempPathFactory, staged: pl.DataFrame, stage: Callable[..., Warehouse]
) -> Warehouse:
    """A home with features of N_RECORDS records, where nothing is registered yet."""
    warehouse = stage(
        Warehouse(Settings(home=tmp_path_factory.mktemp("featurized") / "home")), _first(staged)
    )
    featurize(warehouse, NOW)
    return warehouse


@pytest.fixture
def home(tmp_path: Path, featurized: Warehouse) -> Warehouse:
    """A copy of it, where nobody has asked for records online."""
    return Warehouse(
        Settings(home=Path(shutil.copytree(featurized.settings.root, tmp_path / "home")))
    )


def bring_up(warehouse: Warehouse) -> dict[str, int]:
    apply(warehouse)
    return materialize(warehouse, NOW, lambda *_: None)


def tables(warehouse: Warehouse) -> dict[str, int]:
    """How many entities of each view are in the online store."""
    with closing(sqlite3.connect(warehouse.settings.root / "feast" / "online.db")) as connection:
        names = [
            name
            for (name,) in connection.execute(
                "select name from sqlite_master where type = 'table' and name like 'millrace_%'"
            )
        ]
        counts = {
            name.removeprefix("millrace_").removesuffix(".compact"): connection.execute(
                f"select count(*) from \"{name}\" where entity_key <> x'00000000'"
            ).fetchone()[0]
            for name in names
        }
    return {view: count for view, count in counts.items() if count}


def test_a_new_home_keeps_entities_online_and_no_records(home: Warehouse) -> None:
    assert list(bring_up(home)) == list(tables(home)) == ENTITIES
    assert is_applied(home)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("record_quality, record_vector", ["record_quality", "record_vector"]),
        ("all", RECORDS),
        ("", []),
    ],
)
def test_a_home_keeps_what_was_asked_for_once(
    asked: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_ONLINE", asked)
    chosen = online_views(tmp_path)
    assert chosen == [*expected, *ENTITIES]
    keep(tmp_path, chosen)
    monkeypatch.delenv("MILLRACE_ONLINE")
    assert online_views(tmp_path) == chosen


def test_a_name_that_is_no_view_of_records_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_ONLINE", "record_qualty")
    with pytest.raises(
        HomeError, match="'record_qualty' is no view of records; there are record_duplicates, "
    ):
        online_views(tmp_path)


def test_views_come_online_and_leave_with_their_bytes(
    home: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring_up(home)
    path = home.settings.root / "feast" / "online.db"
    before = path.stat().st_size
    monkeypatch.setenv("MILLRACE_ONLINE", "record_text")
    assert bring_up(home)["record_text"] == N_RECORDS
    assert "record_text" in tables(home)
    assert path.stat().st_size > 2 * before
    monkeypatch.delenv("MILLRACE_ONLINE")
    assert is_applied(home)  # the choice is the home's now
    monkeypatch.setenv("MILLRACE_ONLINE", "")
    assert list(bring_up(home)) == list(tables(home)) == ENTITIES
    assert path.stat().st_size <= before
    monkeypatch.setenv("MILLRACE_ONLINE", "record_text")
    # nothing counts as still online, so all is written again
    assert bring_up(home)["record_text"] == N_RECORDS


def test_a_choice_outlives_a_run_that_was_killed_while_it_took_effect(
    home: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring_up(home)
    monkeypatch.setenv("MILLRACE_ONLINE", "record_quality")
    with monkeypatch.context() as killed:
        killed.setattr(
            "feature_repo.online._register", lambda _: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            apply(home)
    monkeypatch.delenv("MILLRACE_ONLINE")
    assert "record_quality" in bring_up(home)
    assert "record_quality" in tables(home)


def test_a_home_of_a_version_that_kept_everything_online_goes_on(
    home: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_ONLINE", "all")
    bring_up(home)
    monkeypatch.delenv("MILLRACE_ONLINE")
    (home.settings.root / "feast" / "online_views").unlink()  # such a home has no choice of its own
    (home.settings.root / "layout").unlink()
    migrate(home.settings.root)
    assert online_views(home.settings.root) == [view.name for view in views()]
    apply(home)
    assert set(tables(home)) == {view.name for view in views()}


def test_definitions_of_another_homes_choice_are_registered_again(
    home: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_ONLINE", "record_quality")
    apply(home)
    monkeypatch.delenv("MILLRACE_ONLINE")
    opened = store(home.settings.root)
    view = opened.get_feature_view("record_quality")
    view.online = False
    opened.apply([view])  # what `feast apply` does where MILLRACE_HOME is not this home
    assert materialize(home, NOW, lambda *_: None)["record_quality"] == N_RECORDS


@pytest.mark.parametrize(
    "features", [[N_WORDS], "triage_v1", ["author_activity:n_records_lifetime", N_WORDS]]
)
def test_what_is_not_online_is_refused_with_the_way_to_have_it(
    home: Warehouse, staged: pl.DataFrame, features: list[str] | str
) -> None:
    bring_up(home)
    root = home.settings.root
    row = _first(staged).row(0, named=True)
    keys = {name: row[name] for name in ("record_id", "author_id", "subject_id")}
    advice = (
        "record_quality: is not online in this home; run once with MILLRACE_ONLINE=record_quality"
    )
    with pytest.raises(NotOnlineError, match=advice) as refused:
        online_features(features, [keys], root)
    assert refused.value.http_status_code() == 422
    opened = store(root)
    references = opened.get_feature_service(features) if isinstance(features, str) else features
    with pytest.raises(NotOnlineError, match=advice):
        opened.get_online_features(
            references, [{**keys, "event_timestamp": NOW}], full_feature_names=True
        )
    spine = pl.DataFrame([{**keys, "event_timestamp": NOW}]).cast(
        {"event_timestamp": pl.Datetime("us", "UTC")}
    )
    assert training_set(spine, features, root).frame["record_quality__n_words"].to_list() != [None]


def test_a_search_needs_its_vectors_online(home: Warehouse) -> None:
    bring_up(home)
    with pytest.raises(NotOnlineError, match="MILLRACE_ONLINE=record_vector"):
        similar_records("login", home=home.settings.root)
    with pytest.raises(NotOnlineError, match="MILLRACE_ONLINE=record_vector"):
        store(home.settings.root).retrieve_online_documents_v2(
            features=["record_vector:hash_vec_256"], query=[0.0] * 256, top_k=1
        )


def test_the_service_of_activity_is_online_everywhere(
    home: Warehouse, staged: pl.DataFrame
) -> None:
    bring_up(home)
    row = _first(staged).row(0, named=True)
    keys = {"author_id": row["author_id"], "subject_id": row["subject_id"]}
    (served,) = online_features("activity_v1", [keys], home.settings.root).to_dicts()
    assert served["author_activity__n_records_lifetime"] >= 1
    assert served["subject_activity__n_records_lifetime"] >= 1


OWN = """
from transforms.features import RecordSql, days, minutes
shape = RecordSql("record_shape", {{"n_letters": "length(text)"}}, online={online})
"""


@pytest.fixture
def declare(
    home: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Warehouse]:
    """Declare a view of records of one's own, and compute it in the home."""
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.setenv("MILLRACE_FEATURES", str(folder))

    def declared(online: str) -> Warehouse:
        (folder / "own.py").write_text(OWN.format(online=online))
        featurize(home, NOW)
        return home

    return declared


def shapes(warehouse: Warehouse) -> pl.DataFrame:
    return pl.read_delta(str(warehouse.folder("features.record_shape"))).sort("event_timestamp")


def test_a_view_of_records_is_online_for_as_long_as_it_says(
    declare: Callable[[str], Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    minutes = (NOW - shapes(declare("False"))["event_timestamp"].median()) // timedelta(minutes=1)
    home = declare(f"minutes({minutes})")
    rows = shapes(home)
    stay = timedelta(minutes=minutes)
    held = rows.filter(pl.col("event_timestamp") >= NOW - stay)
    assert 0 < held.height < rows.height == N_RECORDS
    with monkeypatch.context() as then:
        then.setattr(planning, "datetime", Mock(now=lambda _: NOW))
        assert planning._online(home, {})["record_shape"] == held.height
    assert bring_up(home)["record_shape"] == tables(home)["record_shape"] == held.height

    reference, root = ["record_shape:n_letters"], home.settings.root
    asked = rows.select("record_id", event_timestamp=pl.lit(NOW)).to_dicts()
    keys = [{"record_id": row["record_id"]} for row in asked]
    assert online_features(reference, keys, root)["record_shape__n_letters"].null_count() == 40
    with monkeypatch.context() as then:
        then.setattr(clock, "now", lambda: NOW)
        served = online_features(reference, keys, root)["record_shape__n_letters"]
    lengths = dict(held.select("record_id", "n_letters").iter_rows())
    assert served.to_list() == [lengths.get(key["record_id"]) for key in keys]
    spine = pl.DataFrame(asked).cast({"event_timestamp": pl.Datetime("us", "UTC")})
    trained = training_set(spine, reference, root).frame["record_shape__n_letters"]
    assert trained.to_list() == rows["n_letters"].to_list()

    assert due_views(home, NOW) == []
    later = held["event_timestamp"][0] + stay
    assert due_views(home, later) == []  # as old as it may be
    gone = later + timedelta(microseconds=1)
    assert due_views(home, gone) == ["record_shape"]
    assert materialize(home, gone, lambda *_: None)["record_shape"] == 0
    assert tables(home)["record_shape"] == (held["event_timestamp"] >= gone - stay).sum()
    assert due_views(home, gone) == []
    everything = held["event_timestamp"][-1] + stay + timedelta(days=1)
    materialize(home, everything, lambda *_: None)
    assert "record_shape" not in tables(home)
    assert due_views(home, everything) == []


def test_a_view_that_stays_for_a_time_is_right_at_any_instant_after_a_run(
    declare: Callable[[str], Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = shapes(declare("False"))
    instants = rows["event_timestamp"].unique().sort()
    ahead, last = instants[-2:]  # of records that take effect after the run
    end, stay, microsecond = (
        ahead - timedelta(seconds=1),
        timedelta(days=30),
        timedelta(microseconds=1),
    )
    home = declare("days(30)")
    apply(home)
    materialize(home, end, silent)
    root, reference = home.settings.root, ["record_shape:n_letters"]

    def check(at: datetime) -> bool:
        """Whether all is served at an instant as training has it, and what is too old is not."""
        spine = rows.select("record_id", event_timestamp=pl.lit(at))
        trained = training_set(spine, reference, root).frame["record_shape__n_letters"]
        is_young = rows["event_timestamp"] >= at - stay
        monkeypatch.setattr(clock, "now", lambda: at)
        keys = rows.select("record_id").to_dicts()
        served = online_features(reference, keys, root)["record_shape__n_letters"]
        return served.equals(pl.select(pl.when(is_young).then(trained)).to_series())

    assert check(end)
    assert check(ahead - microsecond)
    assert check(ahead)
    assert check(last)
    for instant in instants:
        for at in (instant + stay, instant + stay + microsecond):
            assert at < end or check(at)
    assert need_refresh(root) == ["record_shape"]  # what is too old leaves
    assert refresh(home, last, silent)["record_shape"] >= 2
    assert refresh(home, last, silent) == {"record_shape": 0}
    assert check(last)


def test_a_declaration_puts_a_view_online_and_a_run_may_take_it_off(
    declare: Callable[[str], Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    def online_of_records(asked: str | None) -> set[str]:
        """What is online after a run with such a setting, and one without any."""
        if asked is not None:
            monkeypatch.setenv("MILLRACE_ONLINE", asked)
            apply(home)
            monkeypatch.delenv("MILLRACE_ONLINE")
        assert is_applied(home) or asked is None
        return set(online_views(home.settings.root)) - set(ENTITIES)

    home = declare("True")
    assert online_of_records(None) == {"record_shape"}
    assert bring_up(home)["record_shape"] == tables(home)["record_shape"] == N_RECORDS
    assert online_of_records("record_text") == {"record_shape", "record_text"}
    assert online_of_records("") == set()
    assert "record_shape" not in tables(home)
    assert online_of_records("record_shape") == {"record_shape"}
    declare("minutes(5)")
    apply(home)
    bring_up(home)
    assert online_of_records("record_text,record_shape") == {"record_shape", "record_text"}
    assert "record_shape" not in due_views(home, NOW)  # whose time is what it was
    declare("False")
    assert online_of_records(None) == {"record_shape", "record_text"}  # both by name
    declare("True")
    assert online_of_records("record_text") == {"record_shape", "record_text"}
    declare("False")
    assert online_of_records(None) == {"record_text"}


def test_a_change_of_how_long_a_view_stays_online_computes_nothing_again(
    declare: Callable[[str], Warehouse],
) -> None:
    home = declare("minutes(5)")
    assert bring_up(home)["record_shape"] == 0
    version = home.versions()["features.record_shape"]
    declare("True")
    assert home.versions()["features.record_shape"] == version
    assert bring_up(home)["record_shape"] == N_RECORDS
    declare("minutes(5)")
    bring_up(home)
    assert "record_shape" not in tables(home)
    declare("days(900)")
    bring_up(home)
    assert tables(home)["record_shape"] == N_RECORDS
    declare("False")
    bring_up(home)
    assert "record_shape" not in tables(home)
