"""SIGKILL around every commit and at random moments: the next run ends as an undisturbed one."""

import os
import random
import signal
import threading

import pytest

from tests.flows.conftest import INCREMENTS, VIEWS, Lives

PROFILED = ("profiles.checks", "profiles.columns", "profiles.drift", "profiles.fields")
PREPARED = (
    *PROFILED,
    "quarantine.records",
    "accounting.files",
    "staging.duplicate_rows",
    "staging.records",
)
INDEX = ("duplicates.contents", "duplicates.documents")
# views of a record's text alone are written in one pass: its first commit, one between, its last
LIKE_QUALITY = {"record_text"}
COMMITS = (
    "raw.records",
    *PREPARED,
    *INDEX,
    *(f"features.{view}" for view in VIEWS if view not in LIKE_QUALITY),
)
STEPS = [*COMMITS, "apply", "online.author_activity", "online.subject_activity"]


@pytest.mark.parametrize("step", STEPS)
def test_run_after_two_kills_ends_where_an_undisturbed_one_does(lives: Lives, step: str) -> None:
    number = 0 if step == "apply" else 1
    lives.go_back(number)
    for side in ("before", "after"):
        lives.warm.die("run_until", f"{side}:{step}", lives.source, lives.home)
    lives.assert_ends_as_undisturbed(number, step)


@pytest.mark.timeout(3600)
def test_run_that_is_killed_at_any_moment_is_finished_by_the_next(
    lives: Lives, request: pytest.FixtureRequest
) -> None:
    chance = random.Random(20240509)  # noqa: S311 - a seed, so that a failure can be had again
    n_killed = 0
    for kill in range(request.config.getoption("--kills")):
        number = kill % len(INCREMENTS)
        lives.go_back(number)
        # every fourth is killed twice
        delays = [chance.uniform(0, lives.seconds[number]) for _ in range(1 + (kill % 4 == 3))]
        for delay in delays:
            n_killed += kill_after(lives, delay)
        lives.assert_ends_as_undisturbed(
            number, f"kill {kill}, of increment {number + 1}, after {delays} s"
        )
    # A busy machine may have measured longer undisturbed runs than these are.
    assert n_killed >= request.config.getoption("--kills") // 3


def kill_after(lives: Lives, delay: float) -> bool:
    pid = lives.warm.start("run", lives.source, lives.home)
    killer = threading.Timer(delay, os.kill, (pid, signal.SIGKILL))
    killer.start()
    ended = lives.warm.wait(pid)
    killer.cancel()
    killer.join()
    assert ended in {0, -signal.SIGKILL}, lives.warm.log.read_text()
    return ended == -signal.SIGKILL
