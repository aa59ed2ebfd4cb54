"""Migrations: what brings a home of an older layout up to the one that this code reads.

Each step is a function that looks what there is to do, does it, and may be done again: a migration
that was killed is finished by the next. `LAYOUT` is their number; new ones are added at the end.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import polars as pl

from transforms.home import settings_of
from transforms.layout import LAYOUT, has_tables, read_layout, refuse_newer, write_layout
from transforms.paths import scan_parquet
from transforms.schemas.profiles import ColumnProfile
from transforms.schemas.staging import StagedRecord
from transforms.warehouse.publishing import publish
from transforms.warehouse.scratch import sweep
from transforms.warehouse.tables import Warehouse

Step = Callable[[Warehouse], None]
logger = logging.getLogger(__name__)


def write_online_choice(warehouse: Warehouse) -> None:
    """Write down which views of records are online; homes of before 26 November 2026 had all."""
    from feature_repo.client import store_settings
    from feature_repo.done import done_path
    from feature_repo.online_views import choice_path, keep

    home = warehouse.settings.root
    if not choice_path(home).is_file():
        written = done_path(home, store_settings(home)["project"], "any").parent.glob("*.json")
        keep(home, [path.stem for path in written])


def rename_repeats(warehouse: Warehouse) -> None:
    """Rename `staging.repeats`, as it was called until 26 November 2026, `staging.duplicate_rows`.

    No home in object storage is that old.
    """
    former, folder = map(warehouse.folder, ("staging.repeats", "staging.duplicate_rows"))
    if former.exists() and not folder.exists():
        sweep(warehouse)  # what killed runs left is listed by the former name
        former.rename(folder)


def rename_repeats_in_profiles(warehouse: Warehouse) -> None:
    """Rename the outcome `repeat` in profiles of loads `duplicate`, as it is called since then."""
    is_former = (
        (pl.col("relation") == StagedRecord.relation())
        & (pl.col("column") == "outcome")
        & pl.col("bucket_keys").list.contains("repeat")
    )
    files = {
        file: scan_parquet([file]).collect() for file in warehouse.files(ColumnProfile.relation())
    }
    former = {file: rows for file, rows in files.items() if not rows.filter(is_former).is_empty()}
    if former:
        rows = pl.concat(former.values())
        others = [name for name in rows.columns if name not in {"bucket_keys", "bucket_counts"}]
        renamed = (
            rows.filter(is_former)
            .explode("bucket_keys", "bucket_counts")
            .with_columns(pl.col("bucket_keys").replace("repeat", "duplicate"))
            .sort("bucket_keys")
            .group_by(others, maintain_order=True)
            .agg("bucket_keys", "bucket_counts")
        )
        batches = pl.concat([rows.filter(~is_former), renamed.select(rows.columns)])
        publish(
            warehouse,
            ColumnProfile,
            batches.to_arrow().cast(ColumnProfile.arrow_schema()).to_batches(),
            {},
            without=list(former),
        )


def create_tables(warehouse: Warehouse) -> None:
    """Create the tables beside `staging.records` that the version which made it did not have."""
    from transforms.staging.prepare import WRITTEN

    if warehouse.table(StagedRecord.relation()):
        for contract in WRITTEN:
            warehouse.create(contract)


MIGRATIONS: tuple[Step, ...] = (
    write_online_choice,
    rename_repeats,
    rename_repeats_in_profiles,
    create_tables,
)


def pending_migrations(home: Path) -> list[Step]:
    """List what a home needs until this code reads it; nothing for a new one.

    Raises `HomeError` if newer code has written to it.
    """
    refuse_newer(home)
    return list(MIGRATIONS[read_layout(home) :]) if has_tables(home) else []


def migrate(home: Path) -> None:
    """Bring a home up to this code's layout; the caller has locked it.

    Raises `HomeError` if newer code has written to it.
    """
    steps = pending_migrations(home)
    for layout, step in enumerate(steps, LAYOUT - len(steps) + 1):
        logger.info("%s: layout %s, %s", home, layout, step.__name__)
        step(Warehouse(settings_of(home), of_any_layout=True))
        write_layout(home, layout)
