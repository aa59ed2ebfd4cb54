"""The logs of tables: entries that no reader needs any more are deleted.

Each commit adds an entry, and each commit lists them all: after a day of one a second that would
take it a quarter of a second. The newest entries stay, and of older versions those that are needed,
each as a checkpoint by which it can be opened without the entries before it.
"""

from collections.abc import Iterable
from pathlib import Path

from deltalake import DeltaTable

from transforms.replica import replica_of

# of about 4 microseconds each, whenever a table is committed to or opened
KEPT_ENTRIES = 1_000
# versions whose checkpoints stay, for open tables; each lists all files replaced in a week
KEPT_BY_CHECKPOINT = 200
DIGITS = 20


def trim_log(folder: Path, needed: Iterable[int], since: int | None = None) -> int:
    """Delete old entries of a table's log, once twice as many are there as stay; return how many.

    Old checkpoints are deleted every time. `needed` versions can be opened afterwards, and all from
    `since` on; tables that are open go on reading the checkpoint by which they were opened, as long
    as it is one of the newest. Nobody else may commit.
    """
    there = replica_of(folder)
    n_deleted = _trim(folder, needed, since)
    if there:
        there.settle(folder)
    return n_deleted


def _trim(folder: Path, needed: Iterable[int], since: int | None) -> int:
    log = folder / "_delta_log"
    entries = {int(path.stem) for path in log.glob("*.json") if _is_numbered(path)}
    if len(entries) <= 2 * KEPT_ENTRIES:
        return _drop_checkpoints(log, entries)
    table = DeltaTable(str(folder))
    newest = table.version()
    first = min(newest - KEPT_ENTRIES, newest if since is None else since)
    staying = {first, *(version for version in needed if 0 <= version < first)}
    for version in sorted(staying):
        if not _checkpoint(log, version).exists():
            DeltaTable(str(folder), version=version).create_checkpoint()
    table.create_checkpoint()  # last, so that readers begin with it
    leaving = [
        path
        for path in log.iterdir()
        if _is_numbered(path) and _leaves(path, staying, first, newest)
    ]
    for path in sorted(leaving):
        path.unlink()
    return len(leaving)


def _drop_checkpoints(log: Path, entries: set[int]) -> int:
    """Delete the checkpoints of older versions that can be opened by the entries before them."""
    oldest = max(entries) - KEPT_BY_CHECKPOINT
    leaving = [
        path
        for path in log.glob("*.checkpoint*.parquet")
        if (version := int(path.name[:DIGITS])) < oldest and {version - 1, version} <= entries
    ]
    for path in leaving:
        path.unlink()
    return len(leaving)


def _leaves(path: Path, staying: set[int], first: int, newest: int) -> bool:
    version = int(path.name[:DIGITS])
    is_superseded = ".checkpoint" in path.name and version < newest - KEPT_BY_CHECKPOINT
    if version < first and path.suffix == ".json":
        return True  # `Warehouse` takes a version with an entry, and none after it, for the newest
    return version not in staying and (version < first or is_superseded)


def _is_numbered(path: Path) -> bool:
    return path.name[:DIGITS].isdigit() and len(path.name) > DIGITS


def _checkpoint(log: Path, version: int) -> Path:
    return log / f"{version:0{DIGITS}d}.checkpoint.parquet"
