"""Groups in parts: the same timelines, over the spans of the entities of a bucket.

Spans are made of a record's versions, so what they are read from is scattered by hash of the record
first, and the spans then by hash of the entity.
"""

import socket
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from transforms.engines.engine import Engine
from transforms.engines.exchange import Read, bucket_rows, exchange, tasks_of, write_scattered
from transforms.expressions import literal, quoted
from transforms.features.engine.group_by import GroupView, create_published_instants
from transforms.features.engine.parts import (
    ROWS_OF_A_BUCKET,
    STAGED,
    Part,
    Place,
    checked,
    n_arrived,
    opened,
    place_of,
    staged_columns,
    write_parts,
    write_touched,
)
from transforms.features.engine.spans import inputs_of, spans_of, times_of
from transforms.features.registry import registry
from transforms.features.view import Run, View
from transforms.paths import parquet_relation
from transforms.schemas.staging import StagedRecord
from transforms.warehouse.snapshot import create_changes


class OfRecords(NamedTuple):
    """The task of making the spans of the records of one bucket, for some groups."""

    number: int
    inputs: dict[str, list[str]]
    views: tuple[str, ...]
    now: datetime
    is_whole: bool
    n_buckets: int
    place: Place


class OfEntities(NamedTuple):
    """The task of computing a group for the entities of one bucket, from files of their spans."""

    number: int
    bucket: int
    view: str
    spans: list[str]
    published: list[str]
    now: datetime
    is_whole: bool
    place: Place


class OwnSpans(NamedTuple):
    """The file of a group's spans of one bucket of records, and by which code they were made."""

    view: str
    path: str
    code: int
    host: str


def group_parts(
    engine: Engine, run: Run, views: Sequence[GroupView], folder: Path, *, is_whole: bool
) -> Iterator[tuple[View, Part]]:
    """Compute groups by an engine, and yield each part that was written.

    Entities of which all records are needed are computed in this process at the end.
    """
    place, settings = place_of(run.warehouse.settings, folder), run.warehouse.settings
    n_buckets = tasks_of(n_arrived(run), engine.n_workers, ROWS_OF_A_BUCKET)
    reads = _reads(run, views, folder, is_whole=is_whole)
    inputs = exchange(engine, reads, "record_id", n_buckets, folder, settings)
    names = tuple(view.name for view in views)
    of_records = [
        OfRecords(number, inputs, names, run.now, is_whole, n_buckets, place)
        for number in range(n_buckets)
    ]
    spans: dict[str, list[str]] = {name: [] for name in names}
    for view, made in checked(engine.map(scatter_spans, of_records), views):
        spans[view.name].append(made.path)
    tasks: list[OfEntities] = []
    for group in views:
        of_view = spans[group.name]
        read = {group.relation: _published(run, group, of_view, folder, is_whole=is_whole)}
        key = group.entity.id_of_columns
        published = exchange(engine, read, key, n_buckets, folder, settings)[group.relation]
        tasks += [
            OfEntities(len(tasks) + i, i, group.name, of_view, published, run.now, is_whole, place)
            for i in range(n_buckets)
        ]
    incomplete: dict[View, list[pa.Table]] = {view: [] for view in views}
    for view, part in checked(engine.map(compute_entities, tasks), views):
        incomplete[view] += [part.incomplete] if part.incomplete else []
        yield view, part
    for view in views:
        if entities := incomplete[view]:
            run.connection.register("entities", pa.concat_tables(entities))
            run.connection.execute("create or replace table incomplete as from entities")
            rows = ((view, batch) for batch in view.rebuild(run, "incomplete"))
            (part,) = write_parts(rows, [view], run.warehouse, place, len(tasks))
            yield view, part


def _reads(
    run: Run, views: Sequence[GroupView], folder: Path, *, is_whole: bool
) -> dict[str, Read]:
    """List what spans are made from, by relation; `added` and `removed` are versions of records."""
    warehouse = run.warehouse
    only = None if is_whole else write_touched(run, folder)
    references = set[tuple[str, ...]]().union(*(view.references for view in views))
    columns = staged_columns(column for column, *rest in references if not rest)
    relations = sorted({f"features.{view}" for view, *rest in references if rest})
    reads = {relation: Read(warehouse.files(relation), only=only) for relation in relations}
    reads[STAGED] = Read(warehouse.files(STAGED), columns, only)
    if not is_whole:
        added, removed = warehouse.changes(STAGED, run.since)
        reads |= {"added": Read(added, columns), "removed": Read(removed, columns)}
    return reads


def _published(
    run: Run, view: GroupView, spans: Sequence[str], folder: Path, *, is_whole: bool
) -> Read:
    """Read the published rows of the entities that have spans; of all, with `is_whole`.

    Nothing is read of a table whose keys were others.
    """
    table = run.warehouse.create(view.contract)
    if not set(view.entity.columns) <= set(pa.schema(table.schema().to_arrow()).names):
        return Read([])
    files = run.warehouse.files(view.relation)
    if is_whole:
        return Read(files, ", ".join(map(quoted, [*view.entity.columns, "event_timestamp"])))
    only = f"{folder}/entities-{view.name}.parquet"
    entities = f"select distinct entity_id from {parquet_relation(spans)}"
    run.connection.execute(f"copy ({entities}) to {literal(only)} (format parquet)")
    return Read(files, only=only)


def scatter_spans(task: OfRecords) -> list[OwnSpans]:
    """Make the spans of a bucket of records, in a worker, a file for each group."""
    with opened(task.place, task.inputs, task.number) as (warehouse, connection):
        views = _groups(task.views)
        run = Run(warehouse, connection, task.now, views)
        if not task.is_whole:
            create_changes(connection, StagedRecord)
        views[0].create_spans_beside(run, is_whole=task.is_whole)
        host, folder = socket.gethostname(), task.place.folder
        made = []
        for view in views:
            spans = _own_spans(view, run)
            path = write_scattered(connection, spans, "entity_id", task.n_buckets, folder)
            made.append(OwnSpans(view.name, path, view.digest(), host))
        return made


def _groups(names: Sequence[str]) -> tuple[GroupView, ...]:
    found = (registry().views[name] for name in names)
    return tuple(view for view in found if isinstance(view, GroupView))


def _own_spans(view: GroupView, run: Run) -> str:
    """SQL of a group's spans, with columns that are named alike in all buckets."""
    table, columns = run.spans[view.name]
    values = [f"{columns[sql]} as {name}" for sql, name in _columns(view).items()]
    own = ", ".join(["entity_id", *times_of([view]), *values])
    return f"select {own} from ({spans_of(view, table, columns)})"


def _columns(view: GroupView) -> dict[str, str]:
    return {sql: f"v{i}" for i, sql in enumerate(inputs_of(view))}


def compute_entities(task: OfEntities) -> list[Part]:
    """Compute a group for a bucket of entities and write its files, in a worker."""
    (view,) = _groups([task.view])
    inputs = {view.relation: task.published}
    with opened(task.place, inputs, task.bucket) as (warehouse, connection):
        create_published_instants(connection, view)
        run = Run(warehouse, connection, task.now, (view,))
        compute = view.whole if task.is_whole else view.extend
        batches = compute(run, bucket_rows(task.spans, task.bucket), _columns(view))
        rows = ((view, batch) for batch in batches)
        (part,) = write_parts(rows, [view], warehouse, task.place, task.number)
        if task.is_whole:
            return [part]
        return [part._replace(incomplete=connection.sql("from incomplete").to_arrow_table())]
