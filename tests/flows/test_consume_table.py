"""A Delta table that a consumer follows: what is appended is served, once, whatever is killed."""

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable

from tests.feature_repo.test_feast_cli import free_port
from tests.flows.conftest import INCREMENTS, Notes, Warm, contents, leftovers
from tests.flows.consumers import (
    consume_and_die,
    differing,
    health,
    served,
    until,
    until_healthy,
    until_stopped,
)
from transforms.home import Settings
from transforms.warehouse.tables import Warehouse

pytestmark = [pytest.mark.service, pytest.mark.timeout(1200)]

LINES = [line for line in (*INCREMENTS[0], *INCREMENTS[1]) if line.endswith("}")]


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    made = Notes(tmp_path / "source")
    made.source.write_text(made.source.read_text().replace("data/*.jsonl", "table\nformat: delta"))
    append(made, LINES[:1])
    return made


def append(notes: Notes, lines: list[str]) -> None:
    rows = [{"gone": False, **json.loads(line)} for line in lines]
    pl.DataFrame(rows, infer_schema_length=None).write_delta(notes.folder / "table", mode="append")


def raw_ids(home: Path) -> list[str]:
    files = Warehouse(Settings(home=home)).files("raw.records")
    payloads = [row for file in files for row in pl.read_parquet(file)["payload"]]
    return sorted(f"{json.loads(row)['id']} {json.loads(row)['known']}" for row in payloads)


def test_killed_at_any_moment_a_table_ends_as_a_batch(
    notes: Notes, warm: Warm, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    chance, home = random.Random(20261127), tmp_path / "home"  # noqa: S311 - a seed
    n_kills = request.config.getoption("--kills")
    size = -(-len(LINES[1:]) // n_kills)
    points = ("before:raw.records", "after:raw.records", "after:staging.records")
    for number in range(n_kills):
        lines = LINES[1:][number * size : (number + 1) * size]
        append(notes, lines[::2])
        append(notes, lines[1::2])
        point = points[number] if number < len(points) else None
        consume_and_die(warm, notes.source, home, point, chance)
        if number % 2:
            DeltaTable(notes.folder / "table").optimize.compact()
    warm.run("run", notes.source, home)
    rows = map(json.loads, LINES)
    assert raw_ids(home) == sorted(f"{row['id']} {row['known']}" for row in rows)
    files = Notes(tmp_path / "files")
    (files.folder / "data" / "all.jsonl").write_text("\n".join(LINES))
    warm.run("run", files.source, tmp_path / "batch")
    batch = served(contents(tmp_path / "batch"))
    assert len(batch) > 5
    assert differing(served(contents(home)), batch) == set()
    assert leftovers(home) == []


def test_what_is_appended_is_served_and_what_is_deleted_is_said(
    notes: Notes, warm: Warm, tmp_path: Path, millrace: Any
) -> None:
    home, port = tmp_path / "home", free_port()

    def n_staged() -> int:
        return Warehouse(Settings(home=home)).n_rows("staging.records")

    pid = warm.start("consume", notes.source, home, port)
    until(lambda: n_staged() == 1)
    append(notes, LINES[1:4])
    until(lambda: n_staged() == 4)
    assert until(lambda: health(port)).status_code == 200
    DeltaTable(notes.folder / "table").delete("id = 'r1'")
    append(notes, LINES[4:6])
    assert "version 2 (DELETE) deletes or overwrites rows" in until_stopped(port)
    assert n_staged() == 4
    run = ("run", "--plain", "--source", str(notes.source), "--home", str(home))
    refused = millrace(*run)
    assert (refused.returncode, "--accept-gap takes" in refused.stderr) == (2, True)
    assert millrace(*run, "--accept-gap").returncode == 0
    until_healthy(port)
    assert n_staged() == 6
    warm.end(pid)
