"""SIGKILL of the consumer, anywhere: what was acknowledged is there once, and equals a batch."""

import random
import signal
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import polars as pl
import pytest

from tests.feature_repo.test_feast_cli import free_port
from tests.flows.conftest import INCREMENTS, Notes, Warm, contents, leftovers
from tests.flows.consumers import differing
from transforms.home import Settings
from transforms.sources.ingest import ingest
from transforms.sources.source import load_source
from transforms.staging.prepare import prepare
from transforms.warehouse.checkpoint import preparing
from transforms.warehouse.tables import Warehouse

pytestmark = [pytest.mark.service, pytest.mark.timeout(1200)]

LINES = [line for increment in INCREMENTS for line in increment]
POSTS = {
    f"k{first}": "\n".join(LINES[first : first + size])
    for size in (3,)
    for first in range(0, len(LINES), size)
}


# rows of what one pass published of a view, and findings that name a file
OF_PASSES = {"profiles.columns", "profiles.checks"}


class Home(NamedTuple):
    """A home that a consumer fills, its source, and the port of the consumer."""

    notes: Notes
    path: Path
    port: int
    warm: Warm

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, point: str | None = None) -> int:
        """Start a consumer; its process id."""
        name, first = ("consume_until", [point]) if point else ("consume", [])
        return self.warm.start(name, *first, self.notes.source, self.path, self.port)

    def uris(self) -> set[str]:
        """The posts that raw has."""
        files = Warehouse(Settings(home=self.path)).files("raw.records")
        return {uri for file in files for uri in pl.read_parquet(file)["source_uri"]}

    def post(self, key: str, **parameters: Any) -> dict[str, Any]:
        """Send a post until it is acknowledged, as a client has to; what the answer says."""
        while True:
            try:
                answer = httpx.post(
                    f"{self.url}/records",
                    content=POSTS[key],
                    headers={"Idempotency-Key": key},
                    params=parameters,
                    timeout=60,
                )
            except httpx.TransportError:
                time.sleep(0.1)
                continue
            if answer.status_code not in {429, 503}:
                assert answer.status_code in {200, 202}, answer.text
                return dict(answer.json())
            time.sleep(0.1)


@pytest.fixture
def home(tmp_path: Path, warm: Warm) -> Home:
    return Home(Notes(tmp_path / "source"), tmp_path / "home", free_port(), warm)


def loads_of_passes(home: Home) -> list[list[str]]:
    """The loads that each pass staged, as staging's commits say: up to which version of raw."""
    warehouse = Warehouse(Settings(home=home.path))
    transaction = preparing("notes").name
    passes: list[list[str]] = []
    known: set[str] = set()
    for version in range(warehouse.version("staging.records") + 1):
        upto = warehouse.table_at("staging.records", version).transaction_version(transaction)
        if upto is None:
            continue
        raw = pl.read_delta(str(warehouse.folder("raw.records")), version=upto)
        if new := sorted({*raw["load_id"]} - known):
            passes.append(new)
            known.update(new)
    return passes


def assert_is_batch(home: Home) -> None:
    """Every key is in raw once; all tables are as in a home that stages the same loads of files.

    It stages together what a pass did: a duplicate row that later rows make a version is recorded
    only if it was staged before they came.
    """
    raw = pl.read_delta(str(home.path / "raw" / "records")).sort("load_id", "row_number")
    by_key = raw.group_by("source_uri").agg(pl.len(), pl.col("load_id").n_unique().alias("loads"))
    assert {uri: (n_rows, loads) for uri, n_rows, loads in by_key.rows()} == {
        f"post:{key}": (body.count("\n") + 1, 1) for key, body in POSTS.items()
    }
    batch = home.path.parent / "batch"
    notes = Notes(home.path.parent / "files")
    source, warehouse = load_source(notes.source), Warehouse(Settings(home=batch))
    for loads in loads_of_passes(home):
        for load_id in loads:
            for uri in raw.filter(load_id=load_id)["source_uri"].unique():
                key = uri.removeprefix("post:")
                (notes.folder / "data" / f"{key}.jsonl").write_text(POSTS[key])
            ingest(source, warehouse)
        prepare(source, warehouse)
    home.warm.run("run", notes.source, batch)
    assert differing(contents(home.path), contents(batch)) <= OF_PASSES
    assert leftovers(home.path) == []


def test_killed_at_any_moment_it_ends_as_a_batch(
    home: Home, request: pytest.FixtureRequest
) -> None:
    chance = random.Random(20261127)  # noqa: S311 - a seed, so that a failure can be had again
    keys = list(POSTS)
    chance.shuffle(keys)
    acknowledged: list[str] = []

    def send(mine: list[str]) -> None:
        for number, key in enumerate(mine):
            home.post(key, wait=("raw", "staged")[number % 4 == 3])
            acknowledged.append(key)
            home.post(mine[number // 2], wait="raw")  # again, long after it was acknowledged
            time.sleep(0.3)

    senders = [threading.Thread(target=send, args=(keys[n::3],)) for n in range(3)]
    for sender in senders:
        sender.start()
    for _ in range(request.config.getoption("--kills")):
        pid = home.start()
        time.sleep(chance.uniform(0.5, 5))
        home.warm.end(pid, signal.SIGKILL)
        assert {f"post:{key}" for key in list(acknowledged)} <= home.uris()
    pid = home.start()
    for sender in senders:
        sender.join()
    assert sorted(acknowledged) == sorted(keys)
    answers = [home.post(key, wait="online", timeout=60) for key in keys]
    assert {answer["reached"] for answer in answers} == {"online"}
    assert sum(answer["quarantined"] for answer in answers) == 2
    home.warm.end(pid)  # as uvicorn ends
    home.warm.run("run", home.notes.source, home.path)
    assert_is_batch(home)


def test_killed_around_commits_it_ends_as_a_batch(home: Home) -> None:
    points = ("after:raw.records", "before:staging.records", "after:staging.records")
    keys = iter(POSTS)
    for point in points:
        pid = home.start(point)
        sender = threading.Thread(target=home.post, args=(next(keys),), kwargs={"wait": "online"})
        sender.start()
        assert home.warm.wait(pid) == -signal.SIGKILL, home.warm.log.read_text()
        # an answer or none: what is not acknowledged is sent again, with its key
        pid = home.start()
        sender.join()
        home.warm.end(pid, signal.SIGKILL)
    pid = home.start()
    for key in POSTS:
        # k42 has a duplicate row until a version between comes
        home.post(key, wait="staged" if key == "k42" else "raw")
    assert home.post("k0", wait="online", timeout=60)["reached"] == "online"
    home.warm.end(pid, signal.SIGKILL)  # with most of it in raw alone
    home.warm.run("run", home.notes.source, home.path)
    assert_is_batch(home)
