"""Entities with so many records that one of them would be a task of its own: cut into stretches.

Without this, an entity with most of all records would decide how long its group takes. Each worker
that made spans names the entities with a large share of them. Their spans are then divided between
stretches of time, and a stretch is a task.
"""

import socket
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import duckdb
import polars as pl
import pyarrow as pa

from transforms.engines import exchange
from transforms.engines.engine import Engine
from transforms.engines.exchange import BUCKET, bucket_rows, write_buckets
from transforms.expressions import literal
from transforms.features.engine.group_by import GroupView, create_published_instants
from transforms.features.engine.parts import (
    Part,
    Place,
    checked,
    columns_of,
    groups_of,
    opened,
    write_parts,
)
from transforms.features.engine.spans import change_points
from transforms.features.engine.stretches import (
    Cut,
    Stretch,
    carried_parts,
    cut,
    lasting_parts,
    stretches_between,
)
from transforms.features.rows import Kept
from transforms.features.view import Run
from transforms.paths import parquet_relation
from transforms.warehouse.tables import n_rows_of

# of an entity's change points a worker names those that divide them into so many equal shares
SHARES = 64


class Heavy(NamedTuple):
    """The large entities of a group: a file of them, and the stretches of all, in order.

    The file has each `entity_id` with its bucket, the number of its first stretch and its cuts.
    """

    path: str
    stretches: list[tuple[int, Stretch]]


class OfSpans(NamedTuple):
    """The task of dividing a file's spans of large entities between stretches."""

    view: str
    spans: str
    heavy: str
    place: Place


class CutSpans(NamedTuple):
    """The files of spans that change in stretches and of those that last, and by which code."""

    view: str
    changing: str
    lasting: str
    code: int
    host: str


class OfStretch(NamedTuple):
    """The task of computing one stretch of a large entity of the file `heavy`."""

    number: int
    stretch: int
    bucket: int
    bounds: Stretch
    view: str
    heavy: str
    changing: list[str]
    carried: str
    published: list[str]
    now: datetime
    is_whole: bool
    kept: Kept
    place: Place


def large_entities(
    connection: duckdb.DuckDBPyConnection, view: GroupView, spans: str, n_buckets: int
) -> pa.Table:
    """List the entities with at least a bucket's share of some spans, given as SQL.

    Beside `entity_id` there are `n_spans`, and `instants` that divide its change points evenly. Who
    has such a share of all spans has it in one worker's at least.
    """
    share = f"count(*) * {n_buckets} >= (select count(*) from ({spans}))"
    of = f"select entity_id, count(*) as n_spans from ({spans}) group by entity_id having {share}"
    connection.execute(f"create or replace table large as {of}")
    points = change_points(view, f"select * from ({spans}) semi join large using (entity_id)")
    shares = [n / SHARES for n in range(1, SHARES)]
    return connection.sql(
        f"select entity_id, any_value(n_spans) as n_spans, "
        f"quantile_disc(instant_us, {shares}) as instants "
        f"from ({points}) join large using (entity_id) group by entity_id"
    ).to_arrow_table()


def find_heavy(
    connection: duckdb.DuckDBPyConnection,
    found: Sequence[pa.Table],
    spans: Sequence[str],
    n_buckets: int,
    place: Place,
) -> Heavy | None:
    """Cut the entities with more than a bucket's share of the files' spans, of those `found`."""
    size = max(sum(map(n_rows_of, spans)) / n_buckets, exchange.LEAST_ROWS)
    connection.register("large_entities", pa.concat_tables(found))
    large = connection.sql(f"""
        select
            entity_id,
            (hash(entity_id) % {n_buckets})::int as bucket,
            ceil(sum(n_spans) / {size})::int as n_stretches,
            list_sort(flatten(list(instants))) as instants
        from large_entities
        group by entity_id
        having sum(n_spans) > {size}
    """).pl()
    if large.is_empty():
        return None
    stretches: list[tuple[int, Stretch]] = []
    first, cuts = [], []
    for bucket, n, instants in large.select("bucket", "n_stretches", "instants").iter_rows():
        at = sorted({instants[len(instants) * nth // n] for nth in range(1, n)})
        first.append(len(stretches))
        cuts.append(at)
        stretches += [(bucket, stretch) for stretch in stretches_between(at)]
    path = f"{place.folder}/{uuid.uuid4().hex}.parquet"
    kept = large.select("entity_id", first=pl.Series(first), cuts=pl.Series(cuts))
    kept.write_parquet(path)
    return Heavy(path, stretches)


def cut_spans_of(
    engine: Engine, run: Run, view: GroupView, heavy: Heavy, spans: Sequence[str], place: Place
) -> tuple[list[str], str]:
    """Divide the spans of large entities by an engine.

    Returns the files of spans by stretch, and that of what is carried over to each.
    """
    tasks = [OfSpans(view.name, file, heavy.path, place) for file in spans]
    made = [item for _, item in checked(engine.map(cut_spans, tasks), [view])]
    carried = f"{place.folder}/{uuid.uuid4().hex}.parquet"
    lasting = parquet_relation([item.lasting for item in made])
    parts = carried_parts(lasting, view.wanted(columns_of(view)))
    run.connection.execute(f"copy ({parts}) to {literal(carried)} (format parquet)")
    return [item.changing for item in made], carried


def cut_spans(task: OfSpans) -> list[CutSpans]:
    """Divide a file's spans of large entities between stretches, in a worker."""
    (view,) = groups_of([task.view])
    with opened(task.place, {}, 0) as (_, connection):
        heavy = parquet_relation([task.heavy])
        rows = f"{parquet_relation([task.spans])} as spans join {heavy} as heavy using (entity_id)"
        found = connection.sql(f"select * exclude ({BUCKET}) from {rows}").pl()
        cuts = [_numbered(view, of) for of in found.partition_by("first") or [found]]
        connection.register("changing", pl.concat(of.changing for of in cuts).to_arrow())
        connection.register("lasting", pl.concat(of.lasting for of in cuts).to_arrow())
        in_order = f"select * exclude (stretch), stretch as {BUCKET} from changing"
        changing = write_buckets(connection, in_order, task.place.folder)
        lasting = f"{task.place.folder}/{uuid.uuid4().hex}.parquet"
        parts = lasting_parts("lasting", view.wanted(columns_of(view)))
        connection.execute(f"copy ({parts}) to {literal(lasting)} (format parquet)")
    return [CutSpans(view.name, changing, lasting, view.digest(), socket.gethostname())]


def _numbered(view: GroupView, spans: pl.DataFrame) -> Cut:
    """Cut one entity's spans; its stretches are numbered from `first` on."""
    first, cuts = spans.select("first", "cuts").row(0) if spans.height else (0, [])
    made = cut(spans.drop("first", "cuts"), view, stretches_between(cuts))
    return Cut(
        made.changing.with_columns(pl.col("stretch") + first),
        made.lasting.with_columns(pl.col("first", "last") + first),
    )


def compute_stretch(task: OfStretch) -> list[Part]:
    """Compute a group for one stretch of an entity and write its files, in a worker."""
    (view,) = groups_of([task.view])
    with opened(task.place, {view.relation: task.published}, task.bucket) as (
        warehouse,
        connection,
    ):
        carried = (
            f"select * exclude (stretch) from {parquet_relation([task.carried])} "
            f"where stretch = {task.stretch}"
        )
        changing = bucket_rows(task.changing, task.stretch)
        of = (
            f"select entity_id from {parquet_relation([task.heavy])} "
            f"where {task.stretch} between first and first + len(cuts)"
        )
        instants = task.bounds.has("epoch_us(event_timestamp)")
        create_published_instants(connection, view, f"{instants} and entity_id in ({of})")
        run = Run(warehouse, connection, task.now, (view,))
        batches = view.in_stretch(
            run, task.bounds, (changing, carried), columns_of(view), is_whole=task.is_whole
        )
        rows = ((view, task.kept.of(batch)) for batch in batches)
        return write_parts(rows, [view], warehouse, task.place, task.number)
