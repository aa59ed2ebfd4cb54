"""Record views in parts: the same kernels over the records of a bucket, in workers of an engine.

What the views read is scattered by hash of the record, for a record's versions decide together
which of them is in effect. A worker then sees a bucket as if it were all there is. It writes its
files into the views' tables under names of its own, which no reader sees before the commit.
"""

import os
import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import duckdb
from deltalake.transaction import AddAction

from transforms.engines.engine import Engine, engine_of
from transforms.engines.exchange import Read, bucket_rows, exchange, tasks_of
from transforms.errors import EngineError
from transforms.expressions import literal
from transforms.features.registry import registry
from transforms.features.view import Run, View
from transforms.home import Settings, settings_of
from transforms.schemas.staging import StagedRecord
from transforms.warehouse.scratch import PARTS, scratch_folder, sweep_parts
from transforms.warehouse.snapshot import connect, create_changes, create_view
from transforms.warehouse.tables import Warehouse
from transforms.warehouse.writer import PartWriter

ROWS_OF_A_BUCKET = 1_000_000
# with fewer versions to compute, to hand them out takes longer than the work
FEW_ROWS = 10_000
STAGED = StagedRecord.relation()
# what decides which version is in effect, and of which text
DECISIVE = {
    "record_id",
    "known_timestamp",
    "event_timestamp",
    "is_tombstone",
    "content_digest",
    "text",
}
INSTANTS = "record_id, event_timestamp"


class Place(NamedTuple):
    """What a worker cannot know by itself: the home, and what is declared."""

    settings: Settings
    features: str
    embedder: str | None


class Bucket(NamedTuple):
    """The task of computing views for the records of one bucket.

    `inputs` has the scattered files of `added` and `removed` versions and of relations, and
    `folder` is that of the run.
    """

    number: int
    inputs: dict[str, list[str]]
    views: tuple[str, ...]
    now: datetime
    is_whole: bool
    folder: str
    place: Place


class Part(NamedTuple):
    """What a worker wrote of a view, how many rows are of new instants, and by which code."""

    view: str
    files: list[AddAction]
    n_rows: int
    n_new: int
    code: int
    host: str


def engine_for(run: Run, views: Sequence[View]) -> Engine | None:
    """Return the engine that is to compute views; None is this process."""
    n_rows = run.warehouse.n_rows(STAGED, since=run.since)
    is_in_parts = n_rows > FEW_ROWS and any(view.is_computed_beside for view in views)
    return engine_of(run.warehouse.settings) if is_in_parts else None


@contextmanager
def computed_parts(
    engine: Engine, run: Run, views: Sequence[View], *, is_whole: bool
) -> Iterator[Iterator[tuple[View, Part]]]:
    """Compute record views by an engine: their parts, as they are written.

    At the end, files that no commit made visible are deleted: those of an attempt whose worker
    ended after it wrote them, and all of them where the run fails.
    """
    with scratch_folder(run.warehouse.settings.root) as folder:
        try:
            yield _parts(engine, run, views, folder, is_whole=is_whole)
        finally:
            sweep_parts(run.warehouse, folder / PARTS)


def _parts(
    engine: Engine, run: Run, views: Sequence[View], folder: Path, *, is_whole: bool
) -> Iterator[tuple[View, Part]]:
    n_rows = run.warehouse.n_rows(STAGED, since=run.since)
    n_buckets = tasks_of(n_rows, engine.n_workers, ROWS_OF_A_BUCKET)
    reads = _reads(run, views, folder, is_whole=is_whole)
    settings = run.warehouse.settings
    inputs = exchange(engine, reads, "record_id", n_buckets, folder, settings)
    place, names = place_of(settings), tuple(view.name for view in views)
    tasks = [
        Bucket(number, inputs, names, run.now, is_whole, str(folder), place)
        for number in range(n_buckets)
    ]
    by_name = {view.name: view for view in views}
    for parts in engine.map(compute_bucket, tasks):
        for part in parts:
            refuse_other_code(by_name[part.view], part)
            yield by_name[part.view], part


def _reads(run: Run, views: Sequence[View], folder: Path, *, is_whole: bool) -> dict[str, Read]:
    """List what views read, by relation; `added` and `removed` are versions of records."""
    warehouse = run.warehouse
    only = None if is_whole else str(_write_touched(run, folder))
    columns = _staged_columns(views)
    added, removed = warehouse.changes(STAGED, run.since)
    reads = {"added": Read(added, columns), "removed": Read(removed, columns)}
    if not is_whole:  # else all that is there was added
        reads[STAGED] = Read(warehouse.files(STAGED), columns, only)
    for view in views:
        reads[view.relation] = Read(warehouse.files(view.relation), INSTANTS, only)
    for relation in sorted({f"features.{name}" for view in views for name in view.reads}):
        reads[relation] = Read(warehouse.files(relation), only=only)
    return reads


def _write_touched(run: Run, folder: Path) -> Path:
    """Write the ids of the records of which a version was inserted or deleted."""
    path = folder / "touched.parquet"
    touched = "select record_id from inserted union select record_id from deleted"
    run.connection.execute(f"copy ({touched}) to {literal(str(path))} (format parquet)")
    return path


def _staged_columns(views: Sequence[View]) -> str:
    """SQL of the columns of staging, null where no view reads one: texts are what takes time."""
    read = DECISIVE.union(*(view.columns_read for view in views))
    return ", ".join(
        name if name in read else f"case when false then {name} end as {name}"
        for name in StagedRecord.arrow_schema().names
    )


def place_of(settings: Settings) -> Place:
    """Describe the place of this process to workers."""
    declared = settings_of()
    features = os.pathsep.join(map(str, declared.feature_folders))
    return Place(settings, features, str(declared.embedder) if declared.embedder else None)


def refuse_other_code(view: View, part: Part) -> None:
    """Raise `EngineError` if a worker computed a view by other code than this process would."""
    if part.code != view.digest():
        message = (
            f"{view.relation}: {part.host} computes it by other code; its millrace, declarations, "
            "Python and libraries must be those of the driver"
        )
        raise EngineError(message)


def compute_bucket(task: Bucket) -> list[Part]:
    """Compute the views of a bucket and write their files, in a worker."""
    warehouse = take_place(task.place)
    views = [registry().views[name] for name in task.views]
    with connect(warehouse, of=()) as connection, ExitStack() as stack:
        connection.execute("set threads = 1")
        _create_inputs(connection, task)
        writers = {view: stack.enter_context(_writing(view, task, warehouse)) for view in views}
        n_new = dict.fromkeys(views, 0)
        run = Run(warehouse, connection, task.now, tuple(views))
        for view, batch in views[0].rows_beside(run, views, is_whole=task.is_whole):
            n_new[view] += batch.column("is_new").true_count
            writers[view].write(batch.drop_columns("is_new"))
        host = socket.gethostname()
        return [
            Part(view.name, writer.close(), writer.n_rows, n_new[view], view.digest(), host)
            for view, writer in writers.items()
        ]


def take_place(place: Place) -> Warehouse:
    """Bring this worker to the place of the driver, and open its home."""
    os.environ["MILLRACE_FEATURES"] = place.features
    if place.embedder:
        os.environ["MILLRACE_EMBEDDER"] = place.embedder
    return Warehouse(place.settings)


def _create_inputs(connection: duckdb.DuckDBPyConnection, task: Bucket) -> None:
    """Create the views that kernels read, with the rows of the bucket."""
    staged = StagedRecord.arrow_schema()
    contracts = {view.relation: view.contract for view in registry().views.values()}
    for name, files in {STAGED: task.inputs["added"], **task.inputs}.items():
        schema = contracts[name].arrow_schema() if name in contracts else staged
        create_view(connection, name, [], schema)  # with its schema, and for no files
        if files:
            connection.execute(
                f"create or replace view {name} as {bucket_rows(files, task.number)}"
            )
    create_changes(connection, StagedRecord)


@contextmanager
def _writing(view: View, task: Bucket, warehouse: Warehouse) -> Iterator[PartWriter]:
    """Write files of a view under names that no other attempt has; delete them if it fails."""
    run = Path(task.folder)
    name = f"part-{run.name}-{task.number}-{uuid.uuid4().hex}"
    writer = PartWriter(warehouse.folder(view.relation), view.contract, run / PARTS, name)
    try:
        yield writer
        _refuse_ended(run)
    except BaseException:
        writer.discard()
        raise


def _refuse_ended(run: Path) -> None:
    """Raise `EngineError` if the run has ended without this task: nobody would delete its files."""
    if not run.exists():
        message = "the run has ended"
        raise EngineError(message)
