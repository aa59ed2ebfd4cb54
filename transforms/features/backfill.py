"""Backfill: find what views lack in a span of time, or other code computed there, and compute it.

It runs chunk by chunk. A chunk is a share of the entities, small enough for memory, and one commit.
The home records the backfill until it is done: meanwhile readers get the tables as they were before
it, and a backfill that was stopped continues at its chunk.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

from transforms.engines.engine import engine_for
from transforms.errors import MillraceError
from transforms.features.build import (
    Counted,
    Unfinished,
    has_columns_as_defined,
    is_made_by_other_code,
    read_unfinished,
    write_unfinished,
)
from transforms.features.chosen import home_views
from transforms.features.engine.partitions import has_parts, rebuilt_parts
from transforms.features.rows import Kept
from transforms.features.view import Run, View
from transforms.schemas.staging import StagedRecord
from transforms.sql import model
from transforms.warehouse.checkpoint import FEATURIZE, backfilling
from transforms.warehouse.publishing import publish, publishing
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Rows, Warehouse

VERSIONS_OF_A_CHUNK = 250_000
LAST = 2**62
# no code has this digest: a view with rows of two codes is rebuilt, whichever of them comes back
MIXED_CODE = 0


class Span(NamedTuple):
    """The instants from `start` to before `end`, UTC; None is unbounded."""

    start: datetime | None = None
    end: datetime | None = None


class Due(NamedTuple):
    """What a view lacks in a span, or has from other code: rows, of how many entities, and when."""

    relation: str
    is_other_code: bool
    n_rows: int
    n_entities: int
    first: datetime | None
    last: datetime | None


def find(warehouse: Warehouse, span: Span) -> list[Due]:
    """List what is due in a span, one item a view; nothing is written to the tables.

    Raises `MillraceError` where records are staged that the views have not seen: a run must take
    them up first.
    """
    _refuse_pending(warehouse)
    return [
        _find(view, warehouse, _of_view(view, span)) for view in home_views(warehouse.settings.root)
    ]


def fill(warehouse: Warehouse, span: Span, now: datetime) -> dict[str, Rows]:
    """Compute what is due in a span and publish it, one commit a chunk.

    Returns what became of the rows of each view, by relation. After a kill it continues at the same
    chunk. Raises as `find` does.
    """
    _refuse_pending(warehouse)
    unfinished = _begin(warehouse, span)
    rows = {
        view.relation: _fill(view, warehouse, _of_view(view, span), now, unfinished)
        for view in home_views(warehouse.settings.root)
    }
    write_unfinished(warehouse, None)
    return rows


def _of_view(view: View, span: Span) -> Span:
    """Drop the start for record views: the windows that read them look back."""
    return span._replace(start=None) if view.is_of_records else span


def _refuse_pending(warehouse: Warehouse) -> None:
    version = warehouse.version(StagedRecord.relation())
    computed = home_views(warehouse.settings.root)
    is_behind = any(FEATURIZE.consumed(warehouse, view.relation) != version for view in computed)
    if is_behind or not all(has_columns_as_defined(view, warehouse) for view in computed):
        message = (
            f"{warehouse.settings.root}: there are records or columns that no feature view has "
            "taken up yet; millrace run first"
        )
        raise MillraceError(message)


def _begin(warehouse: Warehouse, span: Span) -> Unfinished:
    """Record the backfill that begins, or continue the one before it.

    It continues only if the span, the records and the code are the same.
    """
    version = warehouse.version(StagedRecord.relation())
    computed = home_views(warehouse.settings.root)
    basis = repr((span, version, [view.digest() for view in computed]))
    before = read_unfinished(warehouse)
    if before and before.basis == basis:
        return before
    newest = {view.name: warehouse.version(view.relation) for view in computed}
    n_chunks = 1 + warehouse.n_rows(StagedRecord.relation()) // VERSIONS_OF_A_CHUNK
    unfinished = Unfinished(
        uuid.uuid4().hex, basis, n_chunks, before.versions if before else newest
    )
    write_unfinished(warehouse, unfinished)
    return unfinished


def _find(view: View, warehouse: Warehouse, span: Span) -> Due:
    is_other_code = is_made_by_other_code(view, warehouse)
    n_chunks = 1 + warehouse.n_rows(StagedRecord.relation()) // VERSIONS_OF_A_CHUNK
    found: list[tuple[int, int, datetime | None, datetime | None]] = []
    with _opened(view, warehouse, span, datetime.now(UTC), is_other_code=is_other_code) as run:
        for chunk in range(n_chunks):
            _take_chunk(run, chunk, n_chunks)
            counted = (
                "count(*), count(distinct entity_id), "
                "make_timestamptz(min(instant_us)), make_timestamptz(max(instant_us))"
            )
            found += run.connection.sql(
                f"select {counted} from ({model('backfill/missing_instants')})"
            ).fetchall()
    firsts, lasts = [item[2] for item in found if item[2]], [item[3] for item in found if item[3]]
    n_rows, n_entities = sum(item[0] for item in found), sum(item[1] for item in found)
    return Due(
        view.relation,
        is_other_code,
        n_rows,
        n_entities,
        min(firsts, default=None),
        max(lasts, default=None),
    )


def _fill(
    view: View, warehouse: Warehouse, span: Span, now: datetime, unfinished: Unfinished
) -> Rows:
    relation, filling = view.relation, backfilling(unfinished.name)
    is_other_code = is_made_by_other_code(view, warehouse)
    if is_other_code:
        publish(warehouse, view.contract, [], {}, MIXED_CODE)
    view.prepare(warehouse, now, FEATURIZE.at(FEATURIZE.consumed(warehouse, relation)))
    kept = _kept(view, span, is_other_code=is_other_code)
    n_before, n_new, n_rows = warehouse.n_rows(relation), 0, 0
    with _opened(view, warehouse, span, now, is_other_code=is_other_code) as run:
        done = max(0, filling.consumed(warehouse, relation))
        for chunk, n_chunks, then_done in _chunks(view, warehouse, unfinished.n_chunks, done):
            _take_chunk(run, chunk, n_chunks)
            run.connection.execute(
                f"create or replace table due as {model('backfill/missing_instants')}"
            )
            run.connection.execute(
                "create or replace table due_entities as select distinct entity_id from due"
            )
            published = _publish_due(view, run, kept, filling.at(then_done))
            n_new, n_rows = n_new + published.new, n_rows + published.new + published.recomputed
    if is_other_code and span == Span():
        publish(
            warehouse,
            view.contract,
            [],
            FEATURIZE.at(FEATURIZE.consumed(warehouse, relation)),
            view.digest(),
        )
    return Rows(n_new, n_rows - n_new, n_before - (n_rows - n_new))


def _chunks(
    view: View, warehouse: Warehouse, n_chunks: int, done: int
) -> list[tuple[int, int, int]]:
    """List the chunks to compute, each with how many there are, and how many are done by then.

    An engine takes all entities at once: it divides them itself.
    """
    n_staged = warehouse.n_rows(StagedRecord.relation())
    if has_parts(view) and engine_for(warehouse.settings, n_staged):
        return [(0, 1, n_chunks)] if done < n_chunks else []
    return [(chunk, n_chunks, chunk + 1) for chunk in range(done, n_chunks)]


def _publish_due(view: View, run: Run, kept: Kept, transactions: dict[str, int]) -> Rows:
    """Compute the entities that are due from all that is staged; publish the rows that are kept."""
    ((n_due,),) = run.connection.sql("select count(*) from due").fetchall()
    if not n_due:
        return Rows()
    engine = engine_for(run.warehouse.settings, n_due) if has_parts(view) else None
    if engine is None:
        due = map(kept.of, view.rebuild(run, "due_entities"))
        counted = Counted(due, view.contract)
        n_rows = publish(run.warehouse, view.contract, counted, transactions).n_rows
        return Rows(counted.n_new, n_rows - counted.n_new)
    n_new = 0
    with (
        publishing(run.warehouse, view.contract, transactions) as publication,
        rebuilt_parts(engine, run, view, "due_entities", kept) as parts,
    ):
        for _, part in parts:
            n_new += part.n_new
            publication.adopt(part.files, part.n_rows)
        n_rows = publication.commit().n_rows
    return Rows(n_new, n_rows - n_new)


def _take_chunk(run: Run, chunk: int, n_chunks: int) -> None:
    for name, value in (("chunk", chunk), ("n_chunks", n_chunks)):
        run.connection.execute(f"set variable {name} = $value", {"value": value})


@contextmanager
def _opened(
    view: View, warehouse: Warehouse, span: Span, now: datetime, *, is_other_code: bool
) -> Iterator[Run]:
    """Open the tables, with the instants that a view should have and those that it has.

    Both are of the chunk that `_take_chunk` chose.
    """
    with connect(warehouse) as connection:
        run = Run(warehouse, connection, now)
        for name, instant, default in (
            ("from_us", span.start, -LAST),
            ("until_us", span.end, LAST),
        ):
            microseconds = int(instant.timestamp() * 1_000_000) if instant else default
            connection.execute(f"set variable {name} = $instant", {"instant": microseconds})
        known = (
            f"select {view.entity.id_of_columns} as entity_id, "
            f"epoch_us(event_timestamp) as instant_us from {view.relation}"
        )
        connection.execute(f"create view known_instants as {known} where {not is_other_code}")
        of_chunk = "hash(entity_id) % getvariable('n_chunks') = getvariable('chunk')"
        expected = f"select * from ({view.instants(run)}) where {of_chunk}"
        connection.execute(f"create view expected_instants as {expected}")
        yield run


def _kept(view: View, span: Span, *, is_other_code: bool) -> Kept:
    """Which rows of due entities are published.

    What is computed from a record alone never changes, unless other code computed it.
    """
    start, end = span.start or Kept().start, span.end or Kept().end
    return Kept(start, end, view.is_of_records and not is_other_code)
