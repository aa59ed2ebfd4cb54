"""A topic that a consumer follows: served as it comes, and once, whatever is killed."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.broker import N_PARTITIONS, Broker
from tests.feature_repo.test_feast_cli import free_port
from tests.flows.conftest import INCREMENTS, Notes, Warm, contents, leftovers, note
from tests.flows.consumers import (
    consume_and_die,
    differing,
    health,
    until,
    until_healthy,
    until_stopped,
)
from transforms.home import Settings
from transforms.schemas.raw import RawRecord
from transforms.sources.ingest import ingest
from transforms.sources.source import load_source
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

pytestmark = [pytest.mark.service, pytest.mark.timeout(1200)]

# what depends on what a pass found in raw: of one row a load, or a pass
OF_LOADS = {
    "accounting.files",
    "profiles.fields",
    "profiles.columns",
    "profiles.checks",
    "profiles.drift",
}


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker() as made:
        yield made


def topic_of_notes(folder: Path, broker: Broker, topic: str) -> Notes:
    notes = Notes(folder)
    notes.source.write_text(notes.source.read_text().replace("data/*.jsonl", broker.uri(topic)))
    broker.make(topic)
    return notes


def places(home: Path) -> list[tuple[str, int]]:
    """The rows that raw has, by partition and position, in order."""
    warehouse = Warehouse(Settings(home=home))
    if warehouse.table(RawRecord.relation()) is None:
        return []
    with connect(warehouse, of=(RawRecord.relation(),)) as connection:
        sql = "select parse_filename(source_uri), row_number from raw.records order by all"
        return connection.sql(sql).fetchall()


def known(line: str) -> str:
    return line.partition('"known": ')[2][:12]


def partition_of(line: str) -> int:
    """A record's partition: its messages are in one, in the order in which they could be known."""
    digits = "".join(filter(str.isdigit, line[:12])) or "0"
    return int(digits) % N_PARTITIONS


def test_killed_at_any_moment_a_topic_ends_as_a_batch(
    broker: Broker, warm: Warm, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    chance = random.Random(20261127)  # noqa: S311 - a seed, so that a failure can be had again
    notes, home = topic_of_notes(tmp_path / "source", broker, "killed"), tmp_path / "home"
    lines = sorted((line for increment in INCREMENTS[:2] for line in increment), key=known)
    parts: list[list[str]] = [[] for _ in range(N_PARTITIONS)]
    for line in lines:
        parts[partition_of(line)].append(line)
    waiting = [(number, line) for number, part in enumerate(parts) for line in part]
    waiting.sort(key=lambda item: parts[item[0]].index(item[1]))
    n_kills = request.config.getoption("--kills")
    size = -(-len(waiting) // n_kills)
    points = ("after:raw.records", "before:raw.records", "before:staging.records")
    for number in range(n_kills):
        for partition, line in waiting[number * size : (number + 1) * size]:
            broker.send("killed", [line.encode()], partition)
        point = points[number] if number < len(points) else None
        consume_and_die(warm, notes.source, home, point, chance)
    warm.run("run", notes.source, home)
    expected = [
        (f"partition-{n}", 1 + row) for n, part in enumerate(parts) for row in range(len(part))
    ]
    assert places(home) == expected
    files = Notes(tmp_path / "files")
    for number, part in enumerate(parts):
        (files.folder / "data" / f"{number}.jsonl").write_text("\n".join(part))
    warm.run("run", files.source, tmp_path / "batch")
    assert differing(contents(home), contents(tmp_path / "batch")) <= OF_LOADS
    assert leftovers(home) == []


def test_topic_is_followed_beside_posts_and_runs(
    broker: Broker, warm: Warm, tmp_path: Path
) -> None:
    notes, home = topic_of_notes(tmp_path / "source", broker, "followed"), tmp_path / "home"
    port = free_port()
    pid = warm.start("consume", notes.source, home, port)
    broker.send("followed", [note(1, "2024-01-01T10:00:00Z").encode()])
    until(lambda: len(places(home)) == 1)
    answer = httpx.post(
        f"http://127.0.0.1:{port}/records",
        content=note(2, "2024-01-01T10:00:00Z"),
        params={"wait": "online", "timeout": 120},
        timeout=150,
    )
    assert answer.json()["reached"] == "online", answer.text
    broker.send("followed", [note(3, "2024-01-01T10:00:00Z").encode()], partition=2)
    source, warehouse = load_source(notes.source), Warehouse(Settings(home=home))
    ingest(source, warehouse)  # whoever is first
    until(lambda: len(places(home)) == 3)
    until(lambda: Warehouse(Settings(home=home)).n_rows("staging.records") == 3)
    found = until(lambda: health(port))
    assert (found.status_code, found.json()["stopped"]) == (200, None)
    warm.end(pid)
    warm.run("run", notes.source, home)
    assert len(places(home)) == 3


def test_messages_that_are_lost_are_said_until_a_run_accepts_it(
    broker: Broker, warm: Warm, tmp_path: Path, millrace: Any
) -> None:
    notes, home = topic_of_notes(tmp_path / "source", broker, "lost"), tmp_path / "home"
    broker.send("lost", [note(1, "2024-01-01T10:00:00Z").encode()])
    run = ("run", "--plain", "--source", str(notes.source), "--home", str(home))
    assert millrace(*run).returncode == 0
    lines = [note(n, "2024-01-02T10:00:00Z", text="long " * 200).encode() for n in range(6_000)]
    broker.send("lost", lines)
    port = free_port()
    pid = warm.start("consume", notes.source, home, port)
    assert "messages from offset 1 on were deleted" in until_stopped(port)
    refused = millrace(*run)
    assert refused.returncode == 2
    assert "--accept-gap goes on with what is still there" in refused.stderr
    accepted = millrace(*run, "--accept-gap")
    assert accepted.returncode == 0, accepted.stderr
    assert "deleted before they were read" in accepted.stderr
    until_healthy(port)
    warm.end(pid)
    assert places(home)[-1] == ("partition-0", 6_001)
