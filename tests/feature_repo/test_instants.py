"""What is served at any instant from a run on is what is trained on of it, with no run between."""

import asyncio
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import polars as pl
import pytest
from fastapi import FastAPI
from feast import FeatureStore
from feast.feature_server import get_app
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from feature_repo import online_features, store, training_set
from feature_repo.online import apply, materialize, refresh
from feature_repo.stores import clock
from feature_repo.stores.online import watchers
from feature_repo.stores.server import load_artifacts
from flows.commands import serve
from flows.stages import RefreshParameters, run_refresh
from tests.feature_repo.conftest import OUR, store_at
from tests.transforms import histories
from tests.transforms.histories import HISTORIES, HOUR, OFFSETS, Version
from transforms.features.build import featurize
from transforms.features.registry import view_of
from transforms.home import Settings
from transforms.warehouse.tables import Warehouse, silent

EPOCH, MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
VIEWS = ("author_activity", "subject_activity")
STORED = [f"{view}:{name}" for view in VIEWS for name in view_of(view).features]
TENURE = "author_tenure:days_since_first_record"
FEATURES = [*STORED, TENURE]
NUMBERS = [name for name in STORED if not name.endswith("timestamp")]
KEYS = [
    {"author_id": author, "subject_id": subject}
    for author, subject in [("u1", "s1"), ("u2", "s2"), ("never", "s1"), (None, None)]
]


class Home:
    """A home with an online store of a kind."""

    def __init__(self, folder: Path) -> None:
        """Begin with nothing."""
        self.warehouse = Warehouse(Settings(home=folder))
        self.root = folder

    def run(self, versions: Sequence[Version], now: datetime) -> None:
        """Let a run find versions of records."""
        histories.stage(self.warehouse, versions)
        featurize(self.warehouse, now)
        apply(self.warehouse)
        materialize(self.warehouse, now, silent)

    def to_come(self, now: datetime) -> list[datetime]:
        """The instants at which values change after an instant."""
        rows = [histories.rows_of(self.warehouse, view).select("event_timestamp") for view in VIEWS]
        found = pl.concat(rows)["event_timestamp"].unique().sort()
        return [at for us in found if (at := EPOCH + us * MICROSECOND) > now]

    def trained(self, instants: Sequence[datetime]) -> list[list[dict[str, Any]]]:
        """The values of all keys at instants, as in training."""
        spine = pl.DataFrame(
            [{**keys, "event_timestamp": at} for at in instants for keys in KEYS],
            {
                "author_id": pl.String,
                "subject_id": pl.String,
                "event_timestamp": pl.Datetime("us", "UTC"),
            },
        )
        found = training_set(spine, FEATURES, self.root).frame.drop(spine.columns).to_dicts()
        return [found[first : first + len(KEYS)] for first in range(0, len(found), len(KEYS))]

    def served(self, features: list[str], at: datetime | None = None) -> list[dict[str, Any]]:
        """The values of all keys, now or at an instant."""
        asked = [{**keys, **({"event_timestamp": at} if at else {})} for keys in KEYS]
        found = online_features(features, asked, self.root)
        return found.select(column_names(features)).to_dicts()

    def served_by_feast(self, features: list[str], at: datetime | None) -> list[dict[str, Any]]:
        """The same by Feast."""
        asked = [{**keys, **({"event_timestamp": at} if at else {})} for keys in KEYS]
        found = store(self.root).get_online_features(features, asked, full_feature_names=True)
        return rows_of(found.to_dict(), features)

    def served_over_http(self, features: list[str], at: datetime | None) -> list[dict[str, Any]]:
        """The same by Feast's feature server."""
        entities = {name: [keys[name] for keys in KEYS] for name in KEYS[0]}
        instants = {"event_timestamp": [at.isoformat()] * len(KEYS)} if at else {}
        app = get_app(store(self.root))
        body = {"features": features, "entities": {**entities, **instants}}

        async def post() -> httpx.Response:
            at_app = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=at_app, base_url="http://server") as session:
                named = {**body, "full_feature_names": True}
                return await session.post("/get-online-features", json=named)

        with started(app):
            answer = asyncio.run(post())
        assert answer.status_code == 200, answer.text
        found = answer.json()
        names = found["metadata"]["feature_names"]
        columns = [result["values"] for result in found["results"]]
        return rows_of(dict(zip(names, columns, strict=True)), features)


def column_names(features: Sequence[str]) -> list[str]:
    return [name.replace(":", "__") for name in features]


def rows_of(columns: Mapping[str, Sequence[Any]], features: list[str]) -> list[dict[str, Any]]:
    names = column_names(features)
    values = zip(*(columns[name] for name in names), strict=True)
    return [dict(zip(names, row, strict=True)) for row in values]


def only(rows: Sequence[Mapping[str, Any]], features: Sequence[str]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in column_names(features)} for row in rows]


def tenures(rows: Sequence[Mapping[str, Any]]) -> list[float | None]:
    return [row["author_tenure__days_since_first_record"] for row in rows]


def approximately(days: Sequence[float | None]) -> list[Any]:
    """Feast reads the time of a feature to the second."""
    return [day if day is None else pytest.approx(day, abs=1 / 86_400) for day in days]


@contextmanager
def started(app: FastAPI) -> Iterator[None]:
    """Prepare an application as a server's process does; Feast's class is as before afterwards."""
    methods, watching = dict(vars(FeatureStore)), list(watchers)
    try:
        load_artifacts(app)
        yield
    finally:
        watchers[:] = watching
        for name, method in methods.items():
            if vars(FeatureStore)[name] is not method:
                setattr(FeatureStore, name, method)


@contextmanager
def clock_at(instant: datetime) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "now", lambda: instant)
        yield


@contextmanager
def home_in(folder: Path, place: Mapping[str, Any]) -> Iterator[Home]:
    """A home whose online store is at a place."""
    with pytest.MonkeyPatch.context() as patch:
        store_at(place, patch)
        yield Home(folder)


# --- a store that does not go by the clock ---

FIRST = datetime(2026, 1, 10, tzinfo=UTC)


@pytest.fixture
def of_feast(tmp_path: Path) -> Iterator[Home]:
    """A home in Feast's layout: u1 has a record that leaves the last day at noon, u2 has not."""
    place = {"type": f"{OUR}.online.SqliteOnlineStore", "path": "", "layout": "feast"}
    hours = (FIRST - EPOCH) // MICROSECOND - histories.START
    versions = [
        histories.version("r1", hours - 12 * HOUR, author="u1"),
        histories.version("r2", hours - 3 * 24 * HOUR, author="u2"),
    ]
    with home_in(tmp_path / "home", place) as home:
        home.run(versions, FIRST)
        yield home


def served_and_trained(home: Home, at: datetime) -> tuple[Any, Any]:
    with clock_at(at):
        return home.served(NUMBERS), only(home.trained([at])[0], NUMBERS)


def test_a_store_in_feasts_layout_is_refreshed_of_windows_that_ended(of_feast: Home) -> None:
    noon = FIRST + timedelta(hours=12)
    before = noon - MICROSECOND
    assert refresh(of_feast.warehouse, before, silent)["author_activity"] == 0
    served, trained = served_and_trained(of_feast, before)
    assert served == trained
    served, trained = served_and_trained(of_feast, noon)
    assert served != trained
    assert refresh(of_feast.warehouse, noon, silent) == {
        "author_activity": 1,
        "subject_activity": 1,
    }
    served, trained = served_and_trained(of_feast, noon)
    assert served == trained
    assert set(refresh(of_feast.warehouse, noon, silent).values()) == {0}


def test_the_refresh_flow_writes_what_ended_and_nothing_where_the_store_goes_by_the_clock(
    of_feast: Home, tmp_path: Path
) -> None:
    asked = RefreshParameters(home=str(of_feast.root))
    assert run_refresh(asked) == {"author_activity": 2, "subject_activity": 1}
    now = datetime.now(UTC)
    served, trained = served_and_trained(of_feast, now)
    assert served == trained
    assert run_refresh(asked) == {"author_activity": 0, "subject_activity": 0}
    with home_in(tmp_path / "compact", {}) as home:
        home.run([histories.version("r1", 0)], FIRST)
        assert run_refresh(RefreshParameters(home=str(home.root))) == {}


def test_serving_refreshes_a_store_that_does_not_go_by_the_clock(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refreshed, started = [], queue.SimpleQueue[threading.Thread]()

    def run(command: list[str], **_: Any) -> Any:
        refreshed.append(command)
        if len(refreshed) == 2:
            started.put(threading.current_thread())
            sys.exit()  # of the thread
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # ignores an exit
    monkeypatch.setattr(serve, "subprocess", SimpleNamespace(run=run, DEVNULL=None))
    serve.keep_fresh(tmp_path, seconds=0.01)
    started.get(timeout=60).join(60)
    assert [command[-3:] for command in refreshed] == [["refresh", "--home", str(tmp_path)]] * 2


# --- any instant: homes are made too slowly for examples to be shrunk ---

# a change point after the run, by its number, and a microsecond beside it; or any instant
LATER = st.tuples(st.integers(0, 60), st.sampled_from([-1, 0, 0, 1])) | OFFSETS.map(abs)


@settings(max_examples=5, phases=[Phase.reuse, Phase.generate])
@given(
    history=HISTORIES,
    cuts=st.lists(st.integers(0, 9), max_size=2),
    after=st.sampled_from([0, 1, HOUR]),
    later=st.lists(LATER, min_size=1, max_size=4),
)
def test_what_is_served_at_an_instant_is_what_is_trained_on_of_it(
    place: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
    history: list[Version],
    cuts: list[int],
    after: int,
    later: list[tuple[int, int] | int],
) -> None:
    with home_in(tmp_path_factory.mktemp("instants"), place) as home:
        now = EPOCH
        for versions in histories.cut(histories.by_known(history), cuts):
            now = max(now, EPOCH + (max(v.known for v in versions) + after) * MICROSECOND)
            home.run(versions, now)
            to_come = home.to_come(now) or [now]
            drawn = [
                to_come[item[0] % len(to_come)] + item[1] * MICROSECOND
                if isinstance(item, tuple)
                else now + item * MICROSECOND
                for item in later
            ]
            instants = [now, *(at for at in drawn if at >= now)]
            for at, expected in zip(instants, home.trained(instants), strict=True):
                with clock_at(at):
                    assert home.served(FEATURES) == expected
                    assert home.served_by_feast(NUMBERS, None) == only(expected, NUMBERS)
                    assert home.served_over_http(NUMBERS, None) == only(expected, NUMBERS)
                assert home.served(FEATURES, at) == expected
                derived = home.served_by_feast([*NUMBERS, TENURE], at)
                assert only(derived, NUMBERS) == only(expected, NUMBERS)
                assert tenures(derived) == approximately(tenures(expected))
                assert home.served_over_http(NUMBERS, at) == only(expected, NUMBERS)
