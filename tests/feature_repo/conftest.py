"""A small home of the sample, and homes of any staged records, ready for retrieval."""

import itertools
import json
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

import feature_repo.importing  # noqa: F401 - Feast as the product has it, not checked by typeguard
from feature_repo import client
from feature_repo.online import apply
from feature_repo.online_views import keep
from transforms.features.build import featurize
from transforms.features.registry import views
from transforms.home import Settings
from transforms.schemas.staging import StagedRecord
from transforms.sources.ingest import ingest
from transforms.sources.source import load_source
from transforms.sql import model
from transforms.staging.prepare import prepare
from transforms.warehouse.publishing import publish
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

SOURCES = Path(__file__).parent.parent.parent / "sources"
DAYS = ("2024-05-25", "2024-05-26", "2024-06-09")
NOW = datetime(2024, 9, 1, tzinfo=UTC)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Three days of the sample, staged, featurized and registered; shared, so read only."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "data" / "cve_events").mkdir(parents=True)
    for day in DAYS:
        shutil.copy(
            SOURCES / "data" / "cve_events" / f"{day}.jsonl.zst", folder / "data" / "cve_events"
        )
    source = load_source(Path(shutil.copy(SOURCES / "cve_events.yaml", folder)))
    warehouse = Warehouse(Settings(home=folder / "home"))
    ingest(source, warehouse)
    prepare(source, warehouse)
    return ready(warehouse)


@pytest.fixture(scope="session")
def ann(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Two records of one author, each known when written, at 10:00 UTC on 1 and 2 January 2026."""
    folder = tmp_path_factory.mktemp("ann")
    written = [f"2026-01-0{day}T10:00:00Z" for day in (1, 2)]
    rows = [
        {"id": str(row), "author": "ann", "written": at, "text": f"note {row}"}
        for row, at in enumerate(written)
    ]
    (folder / "notes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fields = {
        "record_id": "id",
        "author_id": "author",
        "event_timestamp": "written",
        "text": "text",
    }
    document = {"name": "notes", "uri": "notes.jsonl", "known": "at_event", "record": fields}
    (folder / "notes.yaml").write_text(yaml.safe_dump(document))
    source, warehouse = (
        load_source(folder / "notes.yaml"),
        Warehouse(Settings(home=folder / "home")),
    )
    ingest(source, warehouse)
    prepare(source, warehouse)
    return ready(warehouse, datetime(2026, 2, 1, tzinfo=UTC))


@pytest.fixture(scope="session")
def staged(small: Warehouse) -> pl.DataFrame:
    """The small home's staged records, in the order in which they were known."""
    return pl.read_delta(str(small.folder("staging.records"))).sort(
        "known_timestamp", "record_id", "row_number"
    )


@pytest.fixture(scope="session")
def spine(small: Warehouse) -> pl.DataFrame:
    """Every record of the small home at the instant it was first known."""
    with connect(small) as connection:
        frame: pl.DataFrame = connection.sql(model("staging/first_known")).pl()
    return frame


@pytest.fixture
def home_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[pl.DataFrame], Warehouse]:
    """Make a home of staged records."""

    def make(records: pl.DataFrame) -> Warehouse:
        warehouse = Warehouse(Settings(home=tmp_path_factory.mktemp("home")))
        return ready(_stage(warehouse, records))

    return make


@pytest.fixture(scope="session")
def stage() -> Callable[[Warehouse, pl.DataFrame], Warehouse]:
    """Publish staged records to a home."""
    return _stage


def _stage(warehouse: Warehouse, records: pl.DataFrame) -> Warehouse:
    table = records.to_arrow().cast(StagedRecord.arrow_schema())
    publish(warehouse, StagedRecord, table.to_batches(), {})
    return warehouse


def ready(warehouse: Warehouse, now: datetime = NOW) -> Warehouse:
    """Featurize and register, with the views of records online too."""
    featurize(warehouse, now)
    keep(warehouse.settings.root, [view.name for view in views() if view.is_of_records])
    apply(warehouse)
    return warehouse


# --- online stores of every kind ---

OUR = "feature_repo.stores"
_numbers = itertools.count()


@pytest.fixture(scope="module", params=["sqlite", "redis", "postgres"])
def place(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings of a real store of each kind; none for the one that is shipped."""
    if request.param == "sqlite":
        return {}
    address = request.getfixturevalue(f"{request.param}_address")
    if request.param == "redis":
        database = next(request.getfixturevalue("redis_databases"))
        at = f"{address.host}:{address.port},db={database}"
        return {"type": f"{OUR}.online_redis.RedisOnlineStore", "connection_string": at}
    login = {"user": "postgres", "password": "", "database": "postgres", "sslmode": "disable"}
    kind = f"{OUR}.online_postgres.PostgresOnlineStore"
    at = {"host": address.host, "port": address.port, "db_schema": "served"}
    return {"type": kind, **at, **login}


def store_at(place: Mapping[str, Any], patch: pytest.MonkeyPatch) -> None:
    """Let homes have their online store at a place, in a project of its own."""
    shipped = yaml.safe_load((client.REPOSITORY / "feature_store.yaml").read_text("utf-8"))
    project = f"served{next(_numbers)}" if place else shipped["project"]
    changed = {**shipped, "project": project, "online_store": place or shipped["online_store"]}
    patch.setattr(client, "_parsed", lambda _: changed)
