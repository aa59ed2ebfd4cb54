"""Feast's own command line and server on a home: apply, list, materialize, serve, read by HTTP."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from feature_repo import training_set
from flows.stages import PipelineParameters, run_plain
from transforms.features.registry import views

ROOT = Path(__file__).parent.parent.parent
FEAST = str(Path(sys.executable).parent / "feast")
END = datetime(2024, 6, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home after one run on one day of the sample."""
    folder = tmp_path_factory.mktemp("feast")
    (folder / "data" / "cve_events").mkdir(parents=True)
    shutil.copy(
        ROOT / "sources" / "data" / "cve_events" / "2024-05-13.jsonl.zst",
        folder / "data" / "cve_events",
    )
    source = shutil.copy(ROOT / "sources" / "cve_events.yaml", folder)
    run_plain(PipelineParameters(source=str(source), home=str(folder / "home")))
    return folder / "home"


def feast(home: Path, *arguments: str) -> str:
    """Run a Feast command on the home's own settings."""
    command = [FEAST, "-c", "feature_repo", "-f", str(home / "feature_store.yaml"), *arguments]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@contextmanager
def serving(command: list[str], port: int, path: str, **environment: str) -> Iterator[str]:
    """Start a server, wait until it answers, end it by its process id."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, "the server ended before it answered"
            try:
                httpx.get(address + path, timeout=5).raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_definitions_are_listed(home: Path) -> None:
    listed = feast(home, "feature-views", "list")
    for view in (*(view.name for view in views()), "author_tenure"):
        assert view in listed


@pytest.mark.service
def test_apply_materialize_serve_read(home: Path) -> None:
    # its rows are newer than the requested span and must not be overwritten
    (home / "feast" / "online.db").unlink()
    feast(home, "apply")
    feast(home, "materialize", "2024-01-01T00:00:00", f"{END:%FT%T}")
    port = free_port()
    settings = ["--home", str(home)]
    with serving(
        [sys.executable, "-m", "flows.cli", "serve", *settings, "--port", str(port)],
        port,
        "/health",
    ) as address:
        body = {
            "features": ["author_activity:n_records_lifetime", "author_activity:n_records_28d"],
            "entities": {"author_id": ["mitre"]},
        }
        past = {**body, "entities": {**body["entities"], "event_timestamp": [END.isoformat()]}}
        then, now = (
            httpx.post(f"{address}/get-online-features", json=asked, timeout=30).json()
            for asked in (past, body)
        )
        unknown = httpx.post(
            f"{address}/get-online-features",
            json={**body, "features": ["author_activity:never"]},
            timeout=30,
        )
        nobody = httpx.post(
            f"{address}/get-online-features",
            json={**body, "entities": {"author_id": [None, "mitre"]}},
            timeout=30,
        )
    assert (unknown.status_code, nobody.status_code) == (422, 200)
    instants = {"event_timestamp": [END, datetime.now(UTC)]}
    spine = pl.DataFrame({"author_id": ["mitre"] * 2, **instants})
    trained = training_set(spine, body["features"], home).frame.drop(spine.columns).rows()
    assert [values_of(then), values_of(now)] == trained
    (lifetime, month), (_, month_now) = trained
    assert lifetime >= month > month_now == 0


def values_of(answer: dict[str, Any]) -> tuple[Any, ...]:
    """The two counts that the server answers of one author."""
    names, results = answer["metadata"]["feature_names"], answer["results"]
    served = {name: result["values"][0] for name, result in zip(names, results, strict=True)}
    return served["n_records_lifetime"], served["n_records_28d"]


@pytest.mark.service
def test_the_ui_knows_the_project(home: Path) -> None:
    port = free_port()
    command = [
        FEAST,
        "-c",
        "feature_repo",
        "-f",
        str(home / "feature_store.yaml"),
        "ui",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with serving(command, port, "/") as address:
        assert "millrace" in httpx.get(f"{address}/projects-list.json", timeout=30).text
