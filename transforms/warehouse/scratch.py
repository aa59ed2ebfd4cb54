"""Scratch folders of runs, and what killed runs left in them and in the tables."""

import fcntl
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transforms.home import remove_files, sweep_halves
from transforms.warehouse.tables import Warehouse

PARTS = "parts"


@contextmanager
def scratch_folder(home: Path) -> Iterator[Path]:
    """Make a folder in the home for what does not fit in memory.

    It is removed at the end, or by `sweep` if the process is killed.
    """
    folder = home / "tmp" / uuid.uuid4().hex
    folder.parent.mkdir(parents=True, exist_ok=True)
    alive = folder.with_suffix(".alive")
    with alive.open("w") as file:
        # the operating system releases this when the process ends, however it ends
        fcntl.flock(file, fcntl.LOCK_EX)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            alive.unlink(missing_ok=True)


def sweep(warehouse: Warehouse) -> None:
    """Remove the scratch folders and the uncommitted data files of killed processes."""
    sweep_halves(warehouse.settings.root)
    for alive in (warehouse.settings.root / "tmp").glob("*.alive"):
        with alive.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            folder = alive.with_suffix("")
            sweep_parts(warehouse, folder / PARTS)
            shutil.rmtree(folder, ignore_errors=True)
            alive.unlink(missing_ok=True)


def sweep_parts(warehouse: Warehouse, journal: Path) -> None:
    """Remove the data files that a journal names and that no commit made visible."""
    for line in journal.read_text("utf-8").splitlines() if journal.is_file() else []:
        relation, _, name = line.partition(" ")
        path = warehouse.folder(relation) / name
        if str(path) not in warehouse.files(relation):
            remove_files([path])
