"""Groups in parts: the same timelines, over the spans of the entities of a bucket.

Spans are made of a record's versions, so what they are read from is scattered by hash of the record
first, and the spans then by hash of the entity.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from transforms.engines.engine import Engine
from transforms.engines.exchange import Read, bucket_rows, exchange, tasks_of, write_scattered
from transforms.expressions import quoted
from transforms.features.engine.group_by import GroupView, create_published_instants
from transforms.features.engine.parts import (
    ROWS_OF_A_BUCKET,
    STAGED,
    Part,
    Place,
    checked,
    opened,
    place_of,
    staged_columns,
    write_parts,
)
from transforms.features.engine.spans import inputs_of, spans_of, times_of
from transforms.features.registry import registry
from transforms.features.view import Run, View
from transforms.warehouse.tables import Warehouse


class OfRecords(NamedTuple):
    """The task of making the spans of the records of one bucket, for some groups."""

    number: int
    inputs: dict[str, list[str]]
    views: tuple[str, ...]
    now: datetime
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
    place: Place


def group_parts(
    engine: Engine, run: Run, views: Sequence[GroupView], folder: Path
) -> Iterator[tuple[View, Part]]:
    """Compute all rows of groups by an engine, and yield each part that was written."""
    warehouse, place = run.warehouse, place_of(run.warehouse.settings, folder)
    n_buckets = tasks_of(warehouse.n_rows(STAGED), engine.n_workers, ROWS_OF_A_BUCKET)
    inputs = exchange(
        engine, _reads(views, warehouse), "record_id", n_buckets, folder, warehouse.settings
    )
    names = tuple(view.name for view in views)
    of_records = [
        OfRecords(number, inputs, names, run.now, n_buckets, place) for number in range(n_buckets)
    ]
    spans: dict[str, list[str]] = {name: [] for name in names}
    for made in engine.map(scatter_spans, of_records):
        for name, path in made.items():
            spans[name].append(path)
    tasks: list[OfEntities] = []
    for view in views:
        published = _scatter_instants(engine, view, warehouse, n_buckets, folder)
        tasks += [
            OfEntities(len(tasks) + i, i, view.name, spans[view.name], published, run.now, place)
            for i in range(n_buckets)
        ]
    yield from checked(engine.map(compute_entities, tasks), views)


def _reads(views: Sequence[GroupView], warehouse: Warehouse) -> dict[str, Read]:
    """List what spans are made from, by relation."""
    references = set[tuple[str, ...]]().union(*(view.references for view in views))
    columns = staged_columns(column for column, *rest in references if not rest)
    relations = sorted({f"features.{view}" for view, *rest in references if rest})
    read = {relation: Read(warehouse.files(relation)) for relation in relations}
    return {STAGED: Read(warehouse.files(STAGED), columns), **read}


def _scatter_instants(
    engine: Engine, view: GroupView, warehouse: Warehouse, n_buckets: int, folder: Path
) -> list[str]:
    """Scatter the published instants of a view by entity; none if its keys were others."""
    table = warehouse.create(view.contract)
    is_there = set(view.entity.columns) <= set(pa.schema(table.schema().to_arrow()).names)
    files = warehouse.files(view.relation) if is_there else []
    columns = ", ".join(map(quoted, [*view.entity.columns, "event_timestamp"]))
    reads = {view.relation: Read(files, columns)}
    key, settings = view.entity.id_of_columns, warehouse.settings
    return exchange(engine, reads, key, n_buckets, folder, settings)[view.relation]


def scatter_spans(task: OfRecords) -> dict[str, str]:
    """Make the spans of a bucket of records, in a worker; return each group's file."""
    with opened(task.place, task.inputs, task.number) as (warehouse, connection):
        views = _groups(task.views)
        run = Run(warehouse, connection, task.now, views)
        views[0].create_spans_beside(run, is_whole=True)
        return {
            view.name: write_scattered(
                connection, _own_spans(view, run), "entity_id", task.n_buckets, task.place.folder
            )
            for view in views
        }


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
        batches = view.whole(run, bucket_rows(task.spans, task.bucket), _columns(view))
        rows = ((view, batch) for batch in batches)
        return write_parts(rows, [view], warehouse, task.place, task.number)
