"""How many bytes the tables of a home take, by their Delta logs and folders: no data is read.

What maintenance deletes is found in `maintain`, the online store's size in `feature_repo.sizes`.
"""

import json
import os
import shutil
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from transforms.paths import file_bytes
from transforms.upkeep.maintain import Vacuumed, vacuum
from transforms.warehouse.tables import Warehouse

WEEK = timedelta(days=7)


class Size(NamedTuple):
    """What a table takes: its rows and the bytes of its newest version's data files.

    `n_grown` is by how much these are more than a week before, negative if they are less. `n_older`
    are the other bytes in its folder: data files that only older versions need, and the log.
    Maintenance would delete `n_freed` of them now.
    """

    relation: str
    n_rows: int
    n_bytes: int
    n_grown: int
    n_older: int
    n_freed: int

    @property
    def a_row(self) -> float | None:
        """Bytes that a row takes; None without rows."""
        return self.n_bytes / self.n_rows if self.n_rows else None


def sizes(
    warehouse: Warehouse, locked: Iterable[Mapping[str, int]], now: datetime
) -> dict[str, Size]:
    """Measure every table; `locked` has the views and versions that locks name."""
    found = vacuum(warehouse, locked, is_dry=True)
    return {item.relation: _size(warehouse, item, now) for item in found}


def _size(warehouse: Warehouse, freed: Vacuumed, now: datetime) -> Size:
    folder, n_bytes = warehouse.folder(freed.relation), table_bytes(warehouse, freed.relation)
    return Size(
        freed.relation,
        warehouse.n_rows(freed.relation),
        n_bytes,
        n_bytes - _bytes_at(folder, _version_before(warehouse, freed.relation, now - WEEK)),
        max(0, folder_bytes(folder) - n_bytes),
        freed.n_bytes,
    )


def table_bytes(warehouse: Warehouse, relation: str) -> int:
    """Sum the bytes of a table's data files, by its log; 0 for a table that is not there."""
    table = warehouse.table(relation)
    return _bytes_of(table) if table else 0


def folder_bytes(folder: Path) -> int:
    """Sum the bytes of all files in a folder and its subfolders."""
    walked = os.walk(folder)  # which passes over a folder that is gone meanwhile
    return sum(file_bytes(Path(parent, name)) for parent, _, names in walked for name in names)


def free_bytes(folder: Path) -> int:
    """Return the bytes that are free where a folder is, or would be created."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(there).free


def in_words(n_bytes: float) -> str:
    """Say a number of bytes as people do, in powers of 1000.

    >>> in_words(999), in_words(1_234_567), in_words(-5e12), in_words(999_999)
    ('999 B', '1.2 MB', '-5.0 TB', '1.0 MB')
    """
    if abs(n_bytes) < 999.5:  # noqa: PLR2004
        return f"{n_bytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        n_bytes /= 1000
        if abs(n_bytes) < 999.95:  # noqa: PLR2004
            return f"{n_bytes:.1f} {unit}"
    return f"{n_bytes / 1000:,.1f} TB"


def _bytes_of(table: DeltaTable) -> int:
    return sum(pa.table(table.get_add_actions())["size_bytes"].to_pylist())


def _bytes_at(folder: Path, version: int) -> int:
    """Sum the data files of a version; 0 before the first, and where its log is gone."""
    with suppress(DeltaError):
        return _bytes_of(DeltaTable(str(folder), version=version)) if version >= 0 else 0
    return 0


def _version_before(warehouse: Warehouse, relation: str, instant: datetime) -> int:
    """Return the last version committed before an instant; -1 if there is none.

    Commits follow each other in time, so that a few entries of the log are enough. If maintenance
    has deleted those of then, it is the oldest version that has one.
    """
    log, newest = warehouse.folder(relation) / "_delta_log", warehouse.versions()[relation]
    oldest = min(int(entry.stem) for entry in log.glob("*.json"))
    found = bisect_left(
        range(newest + 1),
        instant.timestamp() * 1000,
        key=lambda version: _committed_ms(log / f"{version:020d}.json"),
    )
    return max(found - 1, oldest if oldest > 0 else -1)


def _committed_ms(entry: Path) -> int:
    """When a log entry was committed, in milliseconds since 1970; 0 for one that is gone."""
    if not entry.is_file():
        return 0
    with entry.open(encoding="utf-8") as lines:
        found = (json.loads(line).get("commitInfo") for line in lines)
        return next((int(info["timestamp"]) for info in found if info), 0)
