"""Groups in parts: the same timelines, over the spans of the entities of a bucket.

Spans are made of a record's versions, so what they are read from is scattered by hash of the record
first, and the spans then by hash of the entity. A large entity is cut into stretches of time.
"""

import socket
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from transforms.engines.engine import Engine, engine_for
from transforms.engines.exchange import Read, bucket_rows, exchange, tasks_of, write_scattered
from transforms.expressions import literal, quoted
from transforms.features.engine.group_by import GroupView, create_published_instants
from transforms.features.engine.heavy_parts import (
    OfStretch,
    compute_stretch,
    cut_spans_of,
    find_heavy,
    large_entities,
)
from transforms.features.engine.parts import (
    ROWS_OF_A_BUCKET,
    STAGED,
    Part,
    Place,
    checked,
    columns_of,
    groups_of,
    n_arrived,
    opened,
    place_of,
    staged_columns,
    write_entities,
    write_parts,
    write_touched,
)
from transforms.features.engine.spans import spans_of, times_of
from transforms.features.rows import ALL, Kept
from transforms.features.view import Run, View
from transforms.paths import parquet, parquet_relation
from transforms.schemas.staging import StagedRecord
from transforms.warehouse.snapshot import create_changes


class Groups(NamedTuple):
    """Groups that an engine computes: as a whole, some entities again, else what arrived.

    `entities` is a file of the `entity_id` that are computed again; their rows `kept` are written.
    """

    engine: Engine
    run: Run
    views: Sequence[GroupView]
    folder: Path
    n_buckets: int
    is_whole: bool = False
    entities: str | None = None
    kept: Kept = ALL

    @property
    def place(self) -> Place:
        """What workers need to know."""
        return place_of(self.run.warehouse.settings, self.folder)


class OfRecords(NamedTuple):
    """The task of making the spans of the records of one bucket, for some groups.

    With `entities`, a file of `entity_id`, these are all spans of just those entities.
    """

    number: int
    inputs: dict[str, list[str]]
    views: tuple[str, ...]
    now: datetime
    is_whole: bool
    entities: str | None
    n_buckets: int
    place: Place


class OfEntities(NamedTuple):
    """The task of computing a group for the entities of one bucket, from files of their spans.

    Entities of the file `heavy` are left out. With `is_again`, the spans are all that there are.
    """

    number: int
    bucket: int
    view: str
    spans: list[str]
    heavy: str | None
    published: list[str]
    now: datetime
    is_whole: bool
    kept: Kept
    is_again: bool
    place: Place


class OwnSpans(NamedTuple):
    """The file of a group's spans of one bucket of records, and by which code they were made.

    `large` are the entities with many of them.
    """

    view: str
    path: str
    large: pa.Table | None
    code: int
    host: str


def group_parts(
    engine: Engine, run: Run, views: Sequence[GroupView], folder: Path, *, is_whole: bool
) -> Iterator[tuple[View, Part]]:
    """Compute groups by an engine, and yield each part that was written.

    In an increment, entities of which all records are needed are computed again at the end.
    """
    n_buckets = tasks_of(n_arrived(run), engine.n_workers, ROWS_OF_A_BUCKET)
    groups = Groups(engine, run, views, folder, n_buckets, is_whole)
    incomplete: dict[View, list[pa.Table]] = {view: [] for view in views}
    for view, part in _parts(groups):
        incomplete[view] += [part.incomplete] if part.incomplete else []
        yield view, part
    for view in views:
        if entities := incomplete[view]:
            run.connection.register("entities", pa.concat_tables(entities))
            run.connection.execute("create or replace table incomplete as from entities")
            yield from _incomplete_parts(run, view, folder)


def _incomplete_parts(run: Run, view: GroupView, folder: Path) -> Iterator[tuple[View, Part]]:
    """Compute the entities in `incomplete` again, by an engine if they have many published rows."""
    is_among = f"{view.entity.id_of_columns} in (select entity_id from incomplete)"
    of_them = f"select count(*) from {view.relation} where {is_among}"
    ((n_rows,),) = run.connection.sql(of_them).fetchall()
    if engine := engine_for(run.warehouse.settings, n_rows):
        yield from rebuilt_groups(engine, run, view, "incomplete", folder, ALL)
        return
    place = place_of(run.warehouse.settings, folder)
    rows = ((view, batch) for batch in view.rebuild(run, "incomplete"))
    yield from ((view, part) for part in write_parts(rows, [view], run.warehouse, place, 0))


def rebuilt_groups(
    engine: Engine, run: Run, view: GroupView, entities: str, folder: Path, kept: Kept
) -> Iterator[tuple[View, Part]]:
    """Compute some entities from all that is staged by an engine, as `rebuild` does."""
    path = write_entities(run, entities, folder)
    n_buckets = tasks_of(run.warehouse.n_rows(STAGED), engine.n_workers, ROWS_OF_A_BUCKET)
    yield from _parts(Groups(engine, run, [view], folder, n_buckets, entities=path, kept=kept))


def _parts(groups: Groups) -> Iterator[tuple[View, Part]]:
    """Make the spans of groups, then compute their entities, the large ones by stretches."""
    tasks: list[OfEntities | OfStretch] = []
    for view, spans in _spans(groups).items():
        tasks += _tasks(groups, view, spans, len(tasks))
    tasks.sort(key=lambda task: isinstance(task, OfEntities))  # what may take longest comes first
    yield from checked(groups.engine.map(compute_part, tasks), groups.views)


def _spans(groups: Groups) -> dict[GroupView, list[OwnSpans]]:
    """Make the spans of all groups, bucket by bucket of records."""
    run, n_buckets, names = groups.run, groups.n_buckets, tuple(of.name for of in groups.views)
    reads, settings = _reads(groups), run.warehouse.settings
    inputs = exchange(groups.engine, reads, "record_id", n_buckets, groups.folder, settings)
    how = (run.now, groups.is_whole, groups.entities, n_buckets, groups.place)
    tasks = [OfRecords(number, inputs, names, *how) for number in range(n_buckets)]
    made = [item for _, item in checked(groups.engine.map(scatter_spans, tasks), groups.views)]
    return {view: [item for item in made if item.view == view.name] for view in groups.views}


def _tasks(
    groups: Groups, view: GroupView, spans: Sequence[OwnSpans], first: int
) -> list[OfEntities | OfStretch]:
    """List the tasks of computing a group from its spans, numbered from `first` on."""
    run, n_buckets, place = groups.run, groups.n_buckets, groups.place
    files = [item.path for item in spans]
    large = [item.large for item in spans if item.large]
    heavy = find_heavy(run.connection, large, files, n_buckets, place) if large else None
    published = _published(groups, view, files)
    how = (published, run.now, groups.is_whole, groups.kept)
    path, is_again = heavy.path if heavy else None, groups.entities is not None
    tasks: list[OfEntities | OfStretch] = [
        OfEntities(first + bucket, bucket, view.name, files, path, *how, is_again, place)
        for bucket in range(n_buckets)
    ]
    if heavy:
        changing, carried = cut_spans_of(groups.engine, run, view, heavy, files, place)
        own = (view.name, heavy.path, changing, carried, *how, place)
        tasks += [
            OfStretch(len(tasks) + first + number, number, bucket, stretch, *own)
            for number, (bucket, stretch) in enumerate(heavy.stretches)
        ]
    return tasks


def _reads(groups: Groups) -> dict[str, Read]:
    """List what spans are made from, by relation; `added` and `removed` are versions of records."""
    warehouse = groups.run.warehouse
    is_increment = not groups.is_whole and groups.entities is None
    only = write_touched(groups.run, groups.folder) if is_increment else None
    references = set[tuple[str, ...]]().union(*(view.references for view in groups.views))
    columns = staged_columns(column for column, *rest in references if not rest)
    relations = sorted({f"features.{view}" for view, *rest in references if rest})
    reads = {relation: Read(warehouse.files(relation), only=only) for relation in relations}
    reads[STAGED] = Read(warehouse.files(STAGED), columns, only)
    if is_increment:
        added, removed = warehouse.changes(STAGED, groups.run.since)
        reads |= {"added": Read(added, columns), "removed": Read(removed, columns)}
    return reads


def _published(groups: Groups, view: GroupView, spans: Sequence[str]) -> list[str]:
    """Scatter the published rows of the entities that are computed; return the files.

    Nothing is read of a table whose keys were others.
    """
    table, run = groups.run.warehouse.create(view.contract), groups.run
    files = run.warehouse.files(view.relation)
    if not set(view.entity.columns) <= set(pa.schema(table.schema().to_arrow()).names):
        files = []
    read = Read(files, only=groups.entities)
    if groups.is_whole:
        read = Read(files, ", ".join(map(quoted, [*view.entity.columns, "event_timestamp"])))
    elif groups.entities is None:
        only = f"{groups.folder}/entities-{view.name}.parquet"
        entities = f"select distinct entity_id from {parquet_relation(spans)}"
        run.connection.execute(f"copy ({entities}) to {literal(only)} (format parquet)")
        read = Read(files, only=only)
    key, settings = view.entity.id_of_columns, run.warehouse.settings
    reads = {view.relation: read}
    return exchange(groups.engine, reads, key, groups.n_buckets, groups.folder, settings)[
        view.relation
    ]


def scatter_spans(task: OfRecords) -> list[OwnSpans]:
    """Make the spans of a bucket of records, in a worker, a file for each group."""
    with opened(task.place, task.inputs, task.number) as (warehouse, connection):
        views = groups_of(task.views)
        run = Run(warehouse, connection, task.now, views)
        made = []
        for view, rows in _own_spans(run, views, task):
            path = write_scattered(connection, rows, "entity_id", task.n_buckets, task.place.folder)
            large = None
            if view.may_be_cut and task.n_buckets > 1 and (task.is_whole or task.entities):
                spans = f"select * from {parquet_relation([path])}"
                large = large_entities(connection, view, spans, task.n_buckets)
            made.append(OwnSpans(view.name, path, large, view.digest(), socket.gethostname()))
        return made


def _own_spans(
    run: Run, views: Sequence[GroupView], task: OfRecords
) -> Iterator[tuple[GroupView, str]]:
    """Yield SQL of each group's spans, with columns that are named alike in all buckets."""
    if task.entities:
        parquet(run.connection, [task.entities]).create("entities")
    else:
        if not task.is_whole:
            create_changes(run.connection, StagedRecord)
        views[0].create_spans_beside(run, is_whole=task.is_whole)
    for view in views:
        if task.entities:
            spans, columns = view.create_spans_of(run, "entities")
        else:
            table, columns = run.spans[view.name]
            spans = spans_of(view, table, columns)
        values = [f"{columns[sql]} as {name}" for sql, name in columns_of(view).items()]
        own = ", ".join(["entity_id", *times_of([view]), *values])
        yield view, f"select {own} from ({spans})"


def compute_part(task: OfEntities | OfStretch) -> list[Part]:
    """Compute a group for a bucket of entities, or for a stretch of one, in a worker."""
    return compute_stretch(task) if isinstance(task, OfStretch) else compute_entities(task)


def compute_entities(task: OfEntities) -> list[Part]:
    """Compute a group for a bucket of entities and write its files."""
    (view,) = groups_of([task.view])
    with opened(task.place, {view.relation: task.published}, task.bucket) as (
        warehouse,
        connection,
    ):
        heavy = f"select entity_id from {parquet_relation([task.heavy])}" if task.heavy else ""
        is_light = f"entity_id not in ({heavy})" if heavy else "true"
        create_published_instants(connection, view, is_light)
        run = Run(warehouse, connection, task.now, (view,))
        compute = view.whole if task.is_whole else view.again if task.is_again else view.extend
        spans = f"select * from ({bucket_rows(task.spans, task.bucket)}) where {is_light}"
        batches = compute(run, spans, columns_of(view))
        rows = ((view, task.kept.of(batch)) for batch in batches)
        (part,) = write_parts(rows, [view], warehouse, task.place, task.number)
        if task.is_whole or task.is_again:
            return [part]
        return [part._replace(incomplete=connection.sql("from incomplete").to_arrow_table())]
