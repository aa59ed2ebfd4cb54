"""Concurrent processes on one home: no row is missing or doubled, no reader sees an error."""

from pathlib import Path

import pytest

from tests.flows.conftest import INCREMENTS, Lives, Notes, Warm, contents

N_READERS = 10


def assert_good(warm: Warm, pids: list[int]) -> None:
    assert [warm.wait(pid) for pid in pids] == [0] * len(pids), warm.log.read_text()


@pytest.mark.timeout(3600)
def test_two_runs_at_once_end_as_one(
    warm: Warm, lives: Lives, request: pytest.FixtureRequest
) -> None:
    for turn in range(request.config.getoption("--rounds")):
        number = turn % len(INCREMENTS)
        lives.go_back(number)
        assert_good(warm, [warm.start("run", lives.source, lives.home) for _ in range(2)])
        assert contents(lives.home) == lives.contents[number], f"round {turn}"


def test_two_runs_at_once_compute_what_the_home_has_chosen(warm: Warm, lives: Lives) -> None:
    lives.go_back(1)
    (lives.home / "views").write_text("subject_activity")
    chosen, off = "features.subject_activity", "features.author_activity"
    before = contents(lives.home)
    assert_good(warm, [warm.start("run", lives.source, lives.home) for _ in range(2)])
    after = contents(lives.home)
    assert after[chosen] == lives.contents[1][chosen] != before[chosen]
    assert after[off] == before[off] != lives.contents[1][off]


@pytest.mark.parametrize("other", ["maintain", "backfill"])
def test_run_beside_another_kind_of_work_ends_as_alone(
    warm: Warm, lives: Lives, other: str
) -> None:
    for number in range(1, len(INCREMENTS)):
        lives.go_back(number)
        run = ("run", lives.source, lives.home)
        assert_good(warm, [warm.start(*run), warm.start(other, lives.home), warm.start(*run)])
        assert contents(lives.home) == lives.contents[number]


def test_readers_beside_runs_see_no_error_and_nothing_half(
    warm: Warm, lives: Lives, tmp_path: Path
) -> None:
    notes, home, done = Notes(tmp_path / "source"), tmp_path / "home", tmp_path / "done"
    notes.add()
    warm.run("run", notes.source, home)
    readers = [warm.start("read", home, done) for _ in range(N_READERS)]
    for _ in INCREMENTS[1:]:
        notes.add()
        warm.run("run", notes.source, home)
        warm.run("maintain", home)
    done.touch()
    assert_good(warm, readers)
    assert contents(home) == lives.contents[-1]
