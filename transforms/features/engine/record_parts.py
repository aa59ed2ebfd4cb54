"""Record views in parts: the same kernels, over the records of a bucket.

What they read is scattered by hash of the record, for a record's versions decide together which of
them is in effect.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from transforms.engines.engine import Engine
from transforms.engines.exchange import Read, exchange, tasks_of
from transforms.features.engine.parts import (
    ROWS_OF_A_BUCKET,
    STAGED,
    Part,
    Place,
    checked,
    n_arrived,
    opened,
    place_of,
    records_read,
    staged_columns,
    write_parts,
    write_touched,
)
from transforms.features.registry import registry
from transforms.features.view import Run, View
from transforms.schemas.staging import StagedRecord
from transforms.warehouse.snapshot import create_changes

INSTANTS = "record_id, event_timestamp"


class Bucket(NamedTuple):
    """The task of computing views for the records of one bucket.

    `inputs` has the scattered files of `added` and `removed` versions and of relations.
    """

    number: int
    inputs: dict[str, list[str]]
    views: tuple[str, ...]
    now: datetime
    is_whole: bool
    place: Place


def record_parts(
    engine: Engine, run: Run, views: Sequence[View], folder: Path, *, is_whole: bool
) -> Iterator[tuple[View, Part]]:
    """Compute record views by an engine, and yield each part that was written."""
    settings = run.warehouse.settings
    n_buckets = tasks_of(n_arrived(run), engine.n_workers, ROWS_OF_A_BUCKET)
    reads = _reads(run, views, folder, is_whole=is_whole)
    inputs = exchange(engine, reads, "record_id", n_buckets, folder, settings)
    place, names = place_of(settings, folder), tuple(view.name for view in views)
    tasks = [Bucket(number, inputs, names, run.now, is_whole, place) for number in range(n_buckets)]
    yield from checked(engine.map(compute_bucket, tasks), views)


def _reads(run: Run, views: Sequence[View], folder: Path, *, is_whole: bool) -> dict[str, Read]:
    """List what views read, by relation."""
    warehouse = run.warehouse
    only = None if is_whole else write_touched(run, folder)
    columns = staged_columns({"text"}.union(*(view.columns_read for view in views)))
    reads = records_read(run, columns, only)
    for view in views:
        reads[view.relation] = Read(warehouse.files(view.relation), INSTANTS, only)
    for relation in sorted({f"features.{name}" for view in views for name in view.reads}):
        reads[relation] = Read(warehouse.files(relation), only=only)
    return reads


def compute_bucket(task: Bucket) -> list[Part]:
    """Compute the views of a bucket and write their files, in a worker."""
    inputs = {STAGED: task.inputs["added"], **task.inputs}
    with opened(task.place, inputs, task.number) as (warehouse, connection):
        create_changes(connection, StagedRecord)
        views = [registry().views[name] for name in task.views]
        run = Run(warehouse, connection, task.now, tuple(views))
        rows = views[0].rows_beside(run, views, is_whole=task.is_whole)
        return write_parts(rows, views, warehouse, task.place, task.number)
