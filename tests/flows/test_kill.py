"""SIGKILL before and after every commit of a run, and at random moments: the next run ends where an undisturbed one does."""

import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.flows.conftest import INCREMENTS, VIEWS, Notes, Warm, contents
from transforms.settings import Settings
from transforms.warehouse import RELATIONS, Warehouse

PREPARED = ("quarantine.records", "accounting.files", "staging.repeats", "staging.records")
COMMITS = ("raw.records", *PREPARED, *(f"features.{view}" for view in VIEWS))
POINTS = [
    *(f"{side}:{commit}" for commit in COMMITS for side in ("before", "after")),
    "after:apply",
    *(f"{side}:online.{view}" for view in ("record_quality", "subject_activity") for side in ("before", "after")),
]


class Lives:
    """Homes of the growing source: after each increment what an undisturbed home holds, how long its run took, and a copy of it."""

    def __init__(self, folder: Path, warm: Warm) -> None:
        self.folder, self.warm, self.home = folder, warm, folder / "home"
        self.contents: list[dict[str, Any]] = []
        self.seconds: list[float] = []
        notes = Notes(folder / "source")
        self.source = notes.source
        (folder / "copies" / "0" / "home").mkdir(parents=True)
        shutil.copytree(notes.folder, folder / "copies" / "0" / "source")
        for number in range(1, len(INCREMENTS) + 1):
            notes.add()
            start = time.monotonic()
            warm.run("run", self.source, self.home)
            self.seconds.append(time.monotonic() - start)
            self.contents.append(contents(self.home))
            for name in ("home", "source"):
                shutil.copytree(folder / name, folder / "copies" / str(number) / name)

    def go_back(self, number: int) -> None:
        """Put home and source back to where `number` increments were in, and let the next one arrive."""
        for name in ("home", "source"):
            shutil.rmtree(self.folder / name)
        shutil.copytree(self.folder / "copies" / str(number) / "home", self.home)
        shutil.copytree(self.folder / "copies" / str(number + 1) / "source", self.folder / "source")

    def assert_ends_as_undisturbed(self, number: int, told: str) -> None:
        """Run to the end; everything must be as after that increment, and nothing left over of what was killed."""
        self.warm.run("run", self.source, self.home)
        found = contents(self.home)
        assert [name for name in found if found[name] != self.contents[number][name]] == [], told
        assert leftovers(self.home) == [], told


def leftovers(home: Path) -> list[str]:
    """Name the files that no table's versions name, and what lies in the folder for what passes."""
    warehouse = Warehouse(Settings(home=home))
    stray = [str(path.relative_to(home)) for path in (home / "tmp").iterdir()]
    for relation in RELATIONS:
        table = warehouse.table(relation)
        assert table is not None
        named = set()
        for version in range(table.version() + 1):
            table.load_as_version(version)
            named |= {Path(file).name for file in table.file_uris()}
        stray += [str(path) for path in warehouse.folder(relation).glob("*.parquet") if path.name not in named]
    return stray


@pytest.fixture(scope="module")
def lives(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Lives:
    """The growing source's homes."""
    return Lives(tmp_path_factory.mktemp("lives"), warm)


@pytest.mark.parametrize("point", POINTS)
def test_run_after_a_kill_ends_where_an_undisturbed_one_does(lives: Lives, point: str) -> None:
    number = 0 if point == "after:apply" else 1
    lives.go_back(number)
    pid = lives.warm.start("run_until", point, lives.source, lives.home)
    assert lives.warm.wait(pid) == -signal.SIGKILL, lives.warm.log.read_text()
    lives.assert_ends_as_undisturbed(number, point)


@pytest.mark.timeout(3600)
def test_run_that_is_killed_at_any_moment_is_finished_by_the_next(lives: Lives, request: pytest.FixtureRequest) -> None:
    chance = random.Random(20240509)  # noqa: S311 - a seed, so that a failure can be had again
    n_killed = 0
    for kill in range(request.config.getoption("--kills")):
        number = kill % len(INCREMENTS)
        lives.go_back(number)
        delays = [chance.uniform(0, lives.seconds[number]) for _ in range(1 + (kill % 4 == 3))]  # every fourth is killed twice
        for delay in delays:
            n_killed += kill_after(lives, delay)
        lives.assert_ends_as_undisturbed(number, f"kill {kill}, of increment {number + 1}, after {delays} s")
    assert n_killed > 0.5 * request.config.getoption("--kills")  # most were still at work


def kill_after(lives: Lives, delay: float) -> bool:
    pid = lives.warm.start("run", lives.source, lives.home)
    killer = threading.Timer(delay, os.kill, (pid, signal.SIGKILL))
    killer.start()
    ended = lives.warm.wait(pid)
    killer.cancel()
    killer.join()
    assert ended in {0, -signal.SIGKILL}, lives.warm.log.read_text()
    return ended == -signal.SIGKILL
