"""Backfill: find what the feature views lack in a span of time, or other code made there, and compute it chunk by chunk.

A chunk is a share of the entities, small enough for memory, and one commit. What is under way stands in the home until it is
done: who reads meanwhile is given the tables as they were before it, and a backfill that was stopped goes on at its chunk.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from transforms.activity import announced, bucket_rows, create_changes, create_published, create_record_changes, take_bucket
from transforms.code import RECORD_KERNELS, code_digest
from transforms.duplicate_index import bring_index_up
from transforms.duplicates import duplicate_rows
from transforms.errors import MillraceError
from transforms.featurize import (
    OF_RECORDS,
    TRANSACTION,
    VIEWS,
    Counted,
    Unfinished,
    has_columns_as_defined,
    is_made_by_other_code,
    read_unfinished,
    write_unfinished,
)
from transforms.records import record_rows
from transforms.schemas.base import Contract
from transforms.schemas.duplicates import KnownDocument
from transforms.schemas.features import RecordDuplicates, RecordQuality
from transforms.schemas.staging import StagedRecord
from transforms.sql import model
from transforms.warehouse import Rows, Warehouse

VERSIONS_OF_A_CHUNK = 250_000
LAST = 2**62
# no code has this digest: a view that holds rows of two codes is made again, whichever of them comes back
MIXED_CODE = 0


class Span(NamedTuple):
    """Instants from `start` to before `end`, UTC; None is without bound."""

    start: datetime | None = None
    end: datetime | None = None


class Due(NamedTuple):
    """What a view lacks in a span, or holds of other code: rows, of how many entities, from when to when."""

    relation: str
    is_other_code: bool
    n_rows: int
    n_entities: int
    first: datetime | None
    last: datetime | None


def find(warehouse: Warehouse, span: Span) -> list[Due]:
    """List what is due in a span, one item a view; nothing is written to the tables.

    Raises `MillraceError` where records are staged that the views have not seen: they are a run's work.
    """
    _refuse_pending(warehouse)
    return [_find(contract, warehouse, _of_view(contract, span)) for contract in VIEWS]


def fill(warehouse: Warehouse, span: Span, now: datetime) -> dict[str, Rows]:
    """Compute what is due in a span and publish it, a commit a chunk; what became of the rows of each view, by relation.

    Killed, it goes on at the chunk it was in. Raises as `find` does.
    """
    _refuse_pending(warehouse)
    unfinished = _begin(warehouse, span)
    rows = {contract.relation(): _fill(contract, warehouse, _of_view(contract, span), now, unfinished) for contract in VIEWS}
    write_unfinished(warehouse, None)
    return rows


def _of_view(contract: type[Contract], span: Span) -> Span:
    """Windows look back: what they add up must be there from the beginning."""
    return span._replace(start=None) if contract in OF_RECORDS else span


def _refuse_pending(warehouse: Warehouse) -> None:
    version = warehouse.versions().get(StagedRecord.relation(), -1)
    is_behind = any(warehouse.consumed(contract.relation(), TRANSACTION) != version for contract in VIEWS)
    if is_behind or not all(has_columns_as_defined(contract, warehouse) for contract in VIEWS):
        message = f"{warehouse.settings.root}: there are records or columns that no feature view has taken up yet; millrace run first"
        raise MillraceError(message)


def _begin(warehouse: Warehouse, span: Span) -> Unfinished:
    """Note what is begun; go on with what was, if neither the span nor the records nor the code have changed."""
    version = warehouse.versions()[StagedRecord.relation()]
    basis = repr((span, version, [code_digest(contract) for contract in VIEWS]))
    before = read_unfinished(warehouse)
    if before and before.basis == basis:
        return before
    newest = {contract.relation().removeprefix("features."): warehouse.versions()[contract.relation()] for contract in VIEWS}
    n_chunks = 1 + warehouse.n_rows(StagedRecord.relation()) // VERSIONS_OF_A_CHUNK
    unfinished = Unfinished(uuid.uuid4().hex, basis, n_chunks, before.versions if before else newest)
    write_unfinished(warehouse, unfinished)
    return unfinished


def _find(contract: type[Contract], warehouse: Warehouse, span: Span) -> Due:
    is_other_code = is_made_by_other_code(contract, warehouse)
    n_chunks = 1 + warehouse.n_rows(StagedRecord.relation()) // VERSIONS_OF_A_CHUNK
    found: list[tuple[int, int, datetime | None, datetime | None]] = []
    with _opened(contract, warehouse, span, is_other_code=is_other_code, is_filling=False) as connection:
        for chunk in range(n_chunks):
            take_bucket(connection, chunk, n_chunks)
            counted = "count(*), count(distinct entity_id), make_timestamptz(min(instant_us)), make_timestamptz(max(instant_us))"
            found += connection.sql(f"select {counted} from ({model('backfill/missing_instants')})").fetchall()
    firsts, lasts = [item[2] for item in found if item[2]], [item[3] for item in found if item[3]]
    n_rows, n_entities = sum(item[0] for item in found), sum(item[1] for item in found)
    return Due(contract.relation(), is_other_code, n_rows, n_entities, min(firsts, default=None), max(lasts, default=None))


def _fill(contract: type[Contract], warehouse: Warehouse, span: Span, now: datetime, unfinished: Unfinished) -> Rows:
    relation, transaction = contract.relation(), f"backfill:{unfinished.name}"
    is_other_code = is_made_by_other_code(contract, warehouse)
    if is_other_code:
        warehouse.publish(contract, [], {}, MIXED_CODE)
    if contract is RecordDuplicates:
        bring_index_up(warehouse, now, {TRANSACTION: warehouse.consumed(relation, TRANSACTION)}, code_digest(contract))
    n_before, n_new, n_rows = warehouse.n_rows(relation), 0, 0
    with _opened(contract, warehouse, span, is_other_code=is_other_code, is_filling=True) as connection:
        for chunk in range(max(0, warehouse.consumed(relation, transaction)), unfinished.n_chunks):
            take_bucket(connection, chunk, unfinished.n_chunks)
            connection.execute(f"create or replace table due as {model('backfill/missing_instants')}")
            if connection.sql("from due limit 1").fetchall():
                rows = _due_rows(connection, contract, warehouse.settings.batch_rows, now, span, is_other_code=is_other_code)
                counted = Counted(rows, contract)
                n_rows += warehouse.publish(contract, counted, {transaction: chunk + 1}).n_rows
                n_new += counted.n_new
    if is_other_code and span == Span():
        warehouse.publish(contract, [], {TRANSACTION: warehouse.consumed(relation, TRANSACTION)}, code_digest(contract))
    return Rows(n_new, n_rows - n_new, n_before - (n_rows - n_new))


@contextmanager
def _opened(
    contract: type[Contract], warehouse: Warehouse, span: Span, *, is_other_code: bool, is_filling: bool
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the tables, with the instants that a view should hold and those that it holds, of the chunk that is taken."""
    entity = contract.key()[0]
    with warehouse.connect() as connection:
        for name, instant, default in (("from_us", span.start, -LAST), ("until_us", span.end, LAST)):
            microseconds = int(instant.timestamp() * 1_000_000) if instant else default
            connection.execute(f"set variable {name} = $instant", {"instant": microseconds})
        connection.execute(f"create view activity as select * rename ({entity} as entity_id) from {contract.relation()}")
        held = "select entity_id, epoch_us(event_timestamp) as instant_us from activity"
        connection.execute(f"create view held_instants as {held} where {not is_other_code}")
        expected = model("backfill/effective_instants")
        if contract not in OF_RECORDS:
            if not is_filling:  # a record whose own score is lacking has its instants all the same
                scored = "entity_id as record_id, make_timestamptz(instant_us) as event_timestamp, 0 as n_words, 0 as n_characters"
                scores = f"select {scored}, now() as created_timestamp from ({expected})"
                connection.execute(f"create or replace view {RecordQuality.relation()} as {scores}")
            create_record_changes(connection, "select *, 1 as sign from staging.records")
            expected = f"select {entity} as entity_id, instant_us from record_changes where {entity} is not null"
        of_chunk = "hash(entity_id) % getvariable('n_buckets') = getvariable('bucket')"
        connection.execute(f"create view expected_instants as select * from ({expected}) where {of_chunk}")
        yield connection


def _due_rows(
    connection: duckdb.DuckDBPyConnection, contract: type[Contract], batch_rows: int, now: datetime, span: Span, *, is_other_code: bool
) -> Iterator[pa.RecordBatch]:
    """Compute the entities in `due` from all that is staged; stream what lies in the span and is new or differs."""
    is_due = "in (select entity_id from due)"
    if contract in RECORD_KERNELS:
        connection.execute(f"create or replace view arrived as select * from staging.records where record_id {is_due}")
        connection.execute("create or replace view gone as select * from staging.records limit 0")
        rows = record_rows(connection, contract, batch_rows, now, is_whole=False, kernel=RECORD_KERNELS[contract])
    elif contract is RecordDuplicates:
        documents = f"select * from {KnownDocument.relation()} where record_id {is_due}"
        connection.execute(f"create or replace view index_documents as {documents}")
        rows = duplicate_rows(connection, contract, batch_rows, now, is_whole=False)
    else:
        entity = contract.key()[0]
        changes = f"select *, {entity} as entity_id from record_changes where {entity} {is_due}"
        create_published(connection, "select distinct entity_id, '-infinity'::timestamptz as event_timestamp from due")
        create_changes(connection, f"{changes} union all by name {announced('published')}")
        rows = bucket_rows(connection, contract, batch_rows, now)
    # what is computed of a text alone stands once it is there, unless other code made it
    is_kept = contract not in OF_RECORDS or is_other_code
    start, end = span.start or datetime.min.replace(tzinfo=UTC), span.end or datetime.max.replace(tzinfo=UTC)
    for batch in rows:
        instants = batch.column("event_timestamp")
        inside = pc.and_(pc.greater_equal(instants, pa.scalar(start)), pc.less(instants, pa.scalar(end)))
        yield batch.filter(inside if is_kept else pc.and_(inside, batch.column("is_new")))
