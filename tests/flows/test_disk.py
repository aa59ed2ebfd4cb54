"""A full or read-only disk: one clear line, nothing broken, and the next run finishes."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from feature_repo import training_set
from tests.flows.conftest import Notes, Warm, contents

SPINE = (
    "select record_id, author_id, known_timestamp as event_timestamp from staging.records "
    "order by all"
)
MEGABYTE = 1 << 20


def mount(*arguments: object) -> None:
    done = subprocess.run(
        ["mount", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"needs to mount a small disk, which this user may not: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MB in memory."""
    if not shutil.which("mount"):
        pytest.skip("needs mount")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=64m", "none", folder)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def undisturbed(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two increments leave on a disk with room."""
    folder = tmp_path_factory.mktemp("room")
    notes = Notes(folder / "source")
    for _ in range(2):
        notes.add()
        warm.run("run", notes.source, folder / "home")
    return contents(folder / "home")


def the_line(warm: Warm, source: Path, home: Path) -> str:
    """Run; return its one-line error, or nothing if it succeeded."""
    before = len(warm.log.read_text()) if warm.log.is_file() else 0
    code = warm.wait(warm.start("run", source, home))
    said = warm.log.read_text()[before:].strip()
    assert (code, len(said.splitlines())) in {(0, 0), (1, 1)}, said
    return said


def fill(disk: Path, n_free: int) -> Path:
    """Take all of a disk but a few bytes."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    free = shutil.disk_usage(disk).free - n_free
    with ballast.open("wb") as file:
        file.write(b"\0" * max(0, free))
    return ballast


def test_full_disk_is_one_line_and_the_next_run_finishes(
    warm: Warm, undisturbed: dict[str, Any], disk: Path, tmp_path: Path
) -> None:
    notes, home = Notes(tmp_path / "source"), disk / "home"
    notes.add()
    warm.run("run", notes.source, home)
    before = training_set(SPINE, ["author_activity:n_records_lifetime"], home)
    notes.add()
    said = []
    # from nothing at all to nearly enough, so that every stage meets it
    for n_free in range(0, 120_000, 8_000):
        ballast = fill(disk, n_free)
        said.append(the_line(warm, notes.source, home))
        if not said[-1]:
            break
        assert f"{home}: the disk is full" in said[-1]
        assert (
            training_set(SPINE, ["author_activity:n_records_lifetime"], home).frame.height
            >= before.frame.height
        )
    ballast.unlink()
    warm.run("run", notes.source, home)
    assert contents(home) == undisturbed
    assert len(said) > 3


def test_disk_that_may_not_be_written_is_one_line_and_the_next_run_finishes(
    warm: Warm, undisturbed: dict[str, Any], disk: Path, tmp_path: Path
) -> None:
    notes, home = Notes(tmp_path / "source"), disk / "home"
    notes.add()
    warm.run("run", notes.source, home)
    notes.add()
    mount("-o", "remount,ro", disk)
    line = the_line(warm, notes.source, home)
    assert str(home) in line
    assert "cannot be written" in line
    mount("-o", "remount,rw", disk)
    warm.run("run", notes.source, home)
    assert contents(home) == undisturbed
