"""Real processes at work on one home at once: nothing is lost, nothing comes twice, no reader sees an error or a half."""

from pathlib import Path
from typing import Any

import pytest

from tests.flows.conftest import INCREMENTS, Notes, Warm, contents

N_READERS = 10


@pytest.fixture(scope="module")
def undisturbed(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What a home holds after each increment, if one run at a time works on it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    notes, found = Notes(folder / "source"), []
    for _ in INCREMENTS:
        notes.add()
        warm.run("run", notes.source, folder / "home")
        found.append(contents(folder / "home"))
    return found


def assert_good(warm: Warm, pids: list[int]) -> None:
    assert [warm.wait(pid) for pid in pids] == [0] * len(pids), warm.log.read_text()


@pytest.mark.timeout(3600)
def test_two_runs_at_once_end_as_one(warm: Warm, undisturbed: list[dict[str, Any]], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for number in range(request.config.getoption("--rounds")):
        notes, home = Notes(tmp_path / str(number) / "source"), tmp_path / str(number) / "home"
        last = number % len(INCREMENTS)
        for _ in range(last + 1):
            notes.add()
            assert_good(warm, [warm.start("run", notes.source, home) for _ in range(2)])
        assert contents(home) == undisturbed[last], f"round {number}"


@pytest.mark.parametrize("other", ["maintain", "backfill"])
def test_run_beside_another_kind_of_work_ends_as_alone(warm: Warm, undisturbed: list[dict[str, Any]], tmp_path: Path, other: str) -> None:
    notes, home = Notes(tmp_path / "source"), tmp_path / "home"
    notes.add()
    warm.run("run", notes.source, home)
    for expected in undisturbed[1:]:
        notes.add()
        pids = [warm.start("run", notes.source, home), warm.start(other, home), warm.start("run", notes.source, home)]
        assert_good(warm, pids)
        assert contents(home) == expected


def test_readers_beside_runs_see_no_error_and_nothing_half(warm: Warm, undisturbed: list[dict[str, Any]], tmp_path: Path) -> None:
    notes, home, done = Notes(tmp_path / "source"), tmp_path / "home", tmp_path / "done"
    notes.add()
    warm.run("run", notes.source, home)
    readers = [warm.start("read", home, done) for _ in range(N_READERS)]
    for _ in undisturbed[1:]:
        notes.add()
        warm.run("run", notes.source, home)
        warm.run("maintain", home)
    done.touch()
    assert_good(warm, readers)
    assert contents(home) == undisturbed[-1]
