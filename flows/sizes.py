"""What a home takes on disk: its tables, its online store, and all of it."""

from datetime import datetime
from typing import NamedTuple

from feature_repo.locks import registered
from feature_repo.sizes import OnlineSize, online_size
from flows.history import online_bytes_before
from transforms.schemas.staging import StagedRecord
from transforms.upkeep.sizes import WEEK, Size, folder_bytes, sizes
from transforms.warehouse.tables import Warehouse


class HomeSize(NamedTuple):
    """The bytes of a home, by table and online store; `n_bytes` is every file in its folder.

    `online_grown` is by how much the online store is larger than a week before; None if unknown.
    """

    tables: dict[str, Size]
    online: OnlineSize
    online_grown: int | None
    n_bytes: int

    @property
    def n_freed(self) -> int:
        """Bytes that maintenance would delete now."""
        return sum(size.n_freed for size in self.tables.values())

    @property
    def a_record(self) -> float | None:
        """Bytes of the home for each staged version of a record; None without any."""
        staged = self.tables.get(StagedRecord.relation())
        return self.n_bytes / staged.n_rows if staged and staged.n_rows else None


def measure(warehouse: Warehouse, now: datetime) -> HomeSize:
    """Measure a home by its logs and folders; no data is read."""
    root = warehouse.settings.root
    online, before = online_size(root), online_bytes_before(root, now - WEEK)
    return HomeSize(
        sizes(warehouse, [lock.tables for lock in registered(root)], now),
        online,
        None if before is None or online.n_bytes is None else online.n_bytes - before,
        folder_bytes(root),
    )
