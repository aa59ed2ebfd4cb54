"""The running feature server counts what it answers, says who is late, and logs what it served."""

import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import polars as pl
import pytest
from prometheus_client.parser import text_string_to_metric_families

from feature_repo.client import write_store_settings
from feature_repo.online import materialize
from feature_repo.stores.served_log import files_of
from feature_repo.watching.consistency import check, n_wrong
from feature_repo.watching.freshness import mark_fresh
from tests.feature_repo.test_feast_cli import free_port, serving
from transforms.home import Settings
from transforms.warehouse.tables import Warehouse, silent

pytestmark = pytest.mark.service

DECLARED = """
from transforms.features import Count, GroupBy, lifetime, minutes
from transforms.features.entities import author

author_notes = GroupBy(
    "author_notes", author, [Count("n_notes")], [lifetime], fresh_within=minutes(5)
)
"""
COUNT, MEAN = "author_activity:n_records_lifetime", "author_activity:mean_characters_lifetime"
TENURE = "author_tenure:days_since_first_record"


def materialized(ann: Warehouse, home: Path) -> Path:
    """Make a copy of ann's home, materialized."""
    shutil.copytree(ann.settings.root, home)
    write_store_settings(home)
    materialize(Warehouse(Settings(home=home)), datetime(2026, 2, 1, tzinfo=UTC), silent)
    return home


@pytest.fixture(scope="module")
def home(ann: Warehouse, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return materialized(ann, tmp_path_factory.mktemp("watched") / "home")


@pytest.fixture(scope="module")
def address(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server on the home, with a view that promises to be fresh, and a log of everything."""
    folder, port = tmp_path_factory.mktemp("features"), free_port()
    (folder / "author_notes.py").write_text(DECLARED)
    command = [sys.executable, "-m", "flows.cli", "serve", "--home", str(home), "--port", str(port)]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MILLRACE_FEATURES", str(folder))
        environment.setenv("MILLRACE_LOG_SERVED", "1")
        with serving(command, port, "/health") as address:
            yield address


def ask(address: str, *features: str) -> httpx.Response:
    at = [datetime.now(UTC).isoformat()] * 3
    asked = {"author_id": ["ann", "ann", "nobody"], "event_timestamp": at}
    body = {"features": list(features), "entities": asked}
    return httpx.post(f"{address}/get-online-features", json=body, timeout=100)


def metrics(address: str) -> dict[tuple[str, ...], float]:
    """The server's numbers, by name and the values of labels, sorted."""
    families = text_string_to_metric_families(httpx.get(f"{address}/metrics").text)
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def test_requests_their_seconds_nulls_and_ages_are_counted(address: str) -> None:
    route = "/get-online-features"
    before = metrics(address)
    assert ask(address, COUNT, MEAN).status_code == 200
    assert ask(address, "author_activity:never").status_code == 422
    assert httpx.get(f"{address}/no/such/route").status_code == 404
    after = metrics(address)

    def more(*name: str) -> float:
        key = (name[0], *sorted(name[1:]))
        return after.get(key, 0) - before.get(key, 0)

    assert more("millrace_requests_total", route, "200") == 1
    assert more("millrace_requests_total", route, "422") == 1
    assert more("millrace_requests_total", "other", "404") == 1
    assert more("millrace_request_seconds_count", route) == 2
    assert 0 < more("millrace_request_seconds_sum", route) < 60
    # each entity is read once: ann, and nobody, who has a count but no mean, and no age
    assert more("millrace_values_total", "author_activity", "mean_characters_lifetime") == 2
    assert more("millrace_null_values_total", "author_activity", "mean_characters_lifetime") == 1
    assert more("millrace_null_values_total", "author_activity", "n_records_lifetime") == 0
    assert more("millrace_value_age_seconds_count", "author_activity") == 1
    # the last of ann's windows ended with January
    age = (datetime.now(UTC) - datetime(2026, 1, 31, tzinfo=UTC)).total_seconds()
    assert abs(more("millrace_value_age_seconds_sum", "author_activity") - age) < 100


def test_health_and_metrics_say_who_is_late(address: str, home: Path) -> None:
    def state() -> tuple[str, int, float]:
        answer = httpx.get(f"{address}/health")
        assert answer.status_code == 200
        found = answer.json()
        return (
            found["status"],
            len(found["late"]),
            metrics(address)["millrace_view_late", "author_notes"],
        )

    assert state() == ("late", 1, 1)
    mark_fresh(home, datetime.now(UTC) - timedelta(minutes=4), ["author_notes"])
    assert state() == ("ok", 0, 0)
    assert 240 <= metrics(address)["millrace_view_age_seconds", "author_notes"] < 300
    mark_fresh(home, datetime.now(UTC) - timedelta(minutes=6), ["author_notes"])
    assert state() == ("late", 1, 1)


def test_what_the_server_answered_is_logged_and_is_what_training_says(
    ann: Warehouse, tmp_path: Path
) -> None:
    home, port = materialized(ann, tmp_path / "home"), free_port()
    command = [sys.executable, "-m", "flows.cli", "serve", "--home", str(home), "--port", str(port)]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MILLRACE_LOG_SERVED", "1")
        with serving(command, port, "/health") as address:
            answer = ask(address, COUNT, MEAN, TENURE).json()
    # in any order: Feast's is that of a set
    assert {result["values"][0] for result in answer["results"]} >= {2, 6.0}
    (files,) = files_of(home).values()  # written as the server ended
    logged = pl.read_parquet(files)
    assert logged["author_activity__n_records_lifetime"].to_list() == [2, 2, 0]
    rows = check(Warehouse(Settings(home=home)), datetime.now(UTC))
    assert (rows.height, set(rows["n_compared"]), n_wrong(rows)) == (3, {3}, 0)
