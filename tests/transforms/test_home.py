"""A small file is replaced whole despite concurrent use; a killed writer's leftovers are swept."""

import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from transforms.home import replace_file, sweep_halves


def test_threads_replace_a_file_at_once_and_every_reader_sees_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "note.json"

    def replace(number: int) -> None:
        for _ in range(100):
            replace_file(path, b"%d" % number * 10_000)
            assert len(set(path.read_bytes())) == 1

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(replace, range(4)))
    assert list(path.parent.iterdir()) == [path]


def test_disk_without_room_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    replace_file(path, b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            replace_file(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"before"


def test_half_of_a_dead_process_is_swept_and_of_a_living_one_kept(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "feast" / "materialized").mkdir(parents=True)
    kept = tmp_path / f"note.json.{os.getpid()}-1.half"
    for half in (
        kept,
        tmp_path / f"note.json.{dead.pid}-1.half",
        tmp_path / "feast" / "materialized" / f"view.json.{dead.pid}-1.half",
    ):
        half.touch()
    sweep_halves(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]
