"""What tests of consumers share: to wait for one, to kill one, and to compare what it left."""

import random
import signal
import time
from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import httpx

from tests.feature_repo.test_feast_cli import free_port
from tests.flows.conftest import Warm


def until(is_so: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait until something is so; what it is then."""
    end = time.monotonic() + seconds
    while not (found := is_so()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def health(port: int) -> httpx.Response | None:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=60)
    except httpx.TransportError:
        return None


def until_stopped(port: int) -> str:
    """Wait until a consumer's stages have stopped; why they did."""
    found = until(lambda: (answer := health(port)) and answer.status_code == 503 and answer)
    return str(found.json()["stopped"])


def until_healthy(port: int) -> None:
    until(lambda: (answer := health(port)) and answer.status_code == 200)


def consume_and_die(
    warm: Warm, source: Path, home: Path, point: str | None, chance: random.Random
) -> None:
    """Start a consumer that is killed at a point, or at any moment of its first seconds."""
    of = (source, home, free_port())
    if point:
        warm.die("consume_until", point, *of)
    else:
        pid = warm.start("consume", *of)
        time.sleep(chance.uniform(0.5, 5))
        warm.end(pid, signal.SIGKILL)


def as_read(relation: str, rows: Any) -> Any:
    """Leave out rows of features that repeat the row before of their entity: they change no read.

    They stay of an instant that was published before its version turned out to be a duplicate row.
    """
    if not relation.startswith("features.") and relation != "duplicates.documents":
        return rows

    def but_its_instant(row: tuple[Any, ...]) -> tuple[Any, ...]:
        return row[:1] + row[2:]

    return [next(found) for _, found in groupby(rows, but_its_instant)]


def differing(found: Mapping[str, Any], expected: Mapping[str, Any]) -> set[str]:
    """The relations of which readers see something else."""
    assert sorted(found) == sorted(expected)
    return {
        name for name in expected if as_read(name, found[name]) != as_read(name, expected[name])
    }


def served(contents: Mapping[str, Any]) -> dict[str, Any]:
    """What a home contains of features."""
    return {
        name: rows for name, rows in contents.items() if name.startswith(("features.", "online "))
    }
