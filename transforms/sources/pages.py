"""Databases -> raw: every page of rows in one commit, which also says where the next one begins.

A commit's entry in the log has the cursor after its rows: a source is read on from there, whatever
was killed. A transaction numbers the commits of a source, so that of two processes which read the
same page one commits it; another leads to the entry. Where no column says what is new, or to find
rows that are deleted, all rows are compared with those that raw had last.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from transforms.errors import HomeError, SourceError
from transforms.home import replace_file
from transforms.schemas.raw import RawRecord
from transforms.sources.databases import Before, Database, Page, Value, connected
from transforms.sources.loads import begin_load
from transforms.sources.source import DELETED_AT, Source
from transforms.sql import model
from transforms.warehouse.checkpoint import Consumer, following
from transforms.warehouse.publishing import AlreadyPublishedError, publishing
from transforms.warehouse.scratch import scratch_folder
from transforms.warehouse.snapshot import connect, create_view
from transforms.warehouse.tables import Warehouse

RAW = RawRecord.relation()
NOTE = "millrace.cursor"
# what a row has at its end where deleted ones are looked for
NOT_DELETED = [DELETED_AT]
# a look need not count further
LOOKED_AT = 1_000_000
FOUND = pa.schema({"payload": pa.binary()})


class Position(NamedTuple):
    """How many pages raw has of a source, and the cursor's values in the last row of the last."""

    n_pages: int
    after: list[Value] | None


class Taken(NamedTuple):
    """What was taken into raw, and what to know."""

    n_rows: int
    notices: list[str]


def look(source: Source, warehouse: Warehouse) -> int:
    """Count the rows to read, up to a million; where all are compared, all that there are."""
    with connected(source) as database:
        before = database.before().value
        after = None if source.is_compared else position(source, warehouse).after
        return database.count(before, after, LOOKED_AT)


def take_all(source: Source, warehouse: Warehouse) -> Taken:
    """Take into raw what the database has by now; what comes meanwhile is for the next time.

    Raises `SourceError` if the database cannot be read, or its rows cannot be told apart.
    """
    with connected(source) as database:
        before = database.before()
        n_rows = sum(_pages(database, before, warehouse)) if source.cursor else 0
        if source.is_compared:
            n_rows += _compare(database, warehouse)
    notices = [f"{source.name}: {before.notice}"] if before.notice and n_rows else []
    return Taken(n_rows, notices)


def position(source: Source, warehouse: Warehouse) -> Position:
    """Find where raw is with a source, by the entry of the last page's commit."""
    n_pages = max(following(source.name).consumed(warehouse, RAW), 0)
    if not n_pages:
        return Position(0, None)
    first = _leading(source.name).consumed(warehouse, RAW)
    for version in range(first, warehouse.version(RAW) + 1):
        note = _note_of(warehouse, version)
        if (note.get("source"), note.get("page")) == (source.name, n_pages):
            _refuse_other_cursor(source, note["columns"])
            return Position(n_pages, note["after"])
    message = f"{warehouse.settings.root}: the log of raw lacks the cursor of {source.name}"
    raise HomeError(message)


def carry_cursors(warehouse: Warehouse, n_kept: int) -> None:
    """Commit cursors once more that are in old entries of raw's log, for these may be deleted.

    That is if more than twice as many entries are there as are to be kept. Nobody else may commit.
    """
    versions = warehouse.entries(RAW)
    if len(versions) <= 2 * n_kept:
        return
    newest: dict[str, tuple[int, dict[str, Any]]] = {}
    for version in versions:
        if note := _note_of(warehouse, version):
            newest[note["source"]] = version, note
    for name, (version, note) in newest.items():
        if version <= versions[-1] - n_kept // 2:
            number = note["page"] + 1
            transactions = following(name).at(number)
            transactions |= _leading(name).at(warehouse.version(RAW) + 1)
            notes = {NOTE: json.dumps({**note, "page": number})}
            with publishing(warehouse, RawRecord, transactions, notes=notes) as publication:
                publication.commit()


def forget_cursors(warehouse: Warehouse) -> None:
    """Take the values of cursors out of the log, but for the one from which a source is read on.

    They are of single rows, which may have been erased.
    """
    notes = {version: _note_of(warehouse, version) for version in warehouse.entries(RAW)}
    newest = {note["source"]: version for version, note in notes.items() if note}
    for version, note in notes.items():
        if note.get("after") is not None and newest[note["source"]] != version:
            _note_instead(warehouse, version, json.dumps({**note, "after": None}))


def _note_instead(warehouse: Warehouse, version: int, note: str) -> None:
    """Write another note into an entry of raw's log, which is all that it changes."""
    entry = warehouse.folder(RAW) / "_delta_log" / f"{version:020d}.json"
    actions = [json.loads(line) for line in entry.read_text("utf-8").splitlines()]
    for action in actions:
        if "commitInfo" in action:
            action["commitInfo"][NOTE] = note
    stat = entry.stat()
    replace_file(entry, "\n".join(map(json.dumps, actions)).encode())
    os.utime(entry, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # by which a version is dated


def _note_of(warehouse: Warehouse, version: int) -> dict[str, Any]:
    return dict(json.loads(warehouse.note(RAW, version, NOTE) or "{}"))


def _pages(database: Database, before: Before, warehouse: Warehouse) -> Iterator[int]:
    """Take pages until none is full; yield the rows of each."""
    source, page_rows = database.source, warehouse.settings.page_rows
    is_checked = False
    while True:
        at = position(source, warehouse)
        if not is_checked and database.count(before.value, at.after, 1):
            database.refuse_without_place()
            is_checked = True
        page = database.page(before.value, at.after, page_rows)
        with closing(page.payloads(NOT_DELETED if source.is_compared else [])) as payloads:
            n_rows = _commit(database, warehouse, at, payloads, page)
        if n_rows is not None:
            yield n_rows
            if n_rows < page_rows:
                return


def _commit(
    database: Database,
    warehouse: Warehouse,
    at: Position,
    payloads: Iterable[pa.Array],
    page: Page | None = None,
) -> int | None:
    """Commit rows with the cursor after them; None if another process has committed meanwhile."""
    source, number = database.source, at.n_pages + 1
    load, uri = begin_load(source.name), f"{database.place}#{number}"
    transactions = following(source.name).at(number)
    transactions |= _leading(source.name).at(warehouse.version(RAW) + 1)
    notes: dict[str, str] = {}
    try:
        with publishing(warehouse, RawRecord, transactions, notes=notes) as publication:
            n_rows = 0
            for rows in payloads:
                first, n_rows = n_rows + 1, n_rows + len(rows)
                publication.write(load.rows(uri, range(first, n_rows + 1), rows))
            if n_rows:
                after = page.last if page else at.after
                notes[NOTE] = _note(source, number, after)
                publication.commit()
    except AlreadyPublishedError:
        return None
    return n_rows


def _note(source: Source, page: int, after: list[Value] | None) -> str:
    return json.dumps(
        {"source": source.name, "page": page, "columns": source.cursor, "after": after}
    )


def _leading(source: str) -> Consumer:
    """Name the transaction whose version is one before which the last page's commit is not."""
    return Consumer(f"{following(source).name}:since")


def _refuse_other_cursor(source: Source, columns: list[str]) -> None:
    if columns != list(source.cursor):
        message = (
            f"{source.name}: cursor: was {columns} when rows were last read, and is "
            f"{list(source.cursor)}; it can be changed for a source of another name only"
        )
        raise SourceError(message)


def _compare(database: Database, warehouse: Warehouse) -> int:
    """Take rows that raw has not as they are, and those that the database has no more.

    With a cursor the pages have taken what is new, so that only keys are read. What is deleted
    comes once more as it was last, with the time at which it was missed.
    """
    source = database.source
    warehouse.create(RawRecord)
    while True:
        at = position(source, warehouse)
        deleted_at = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}+00"
        with scratch_folder(warehouse.settings.root) as scratch:
            found = scratch / "found.parquet"
            _write(database.whole(only_key=bool(source.cursor)), found)
            with connect(warehouse, of=(RAW,)) as connection:
                create_view(connection, "found", [str(found)], FOUND)
                _refuse_same_key(connection, source)
                rows = connection.sql(
                    model("sources/compared_rows"),
                    params={
                        "source": source.name,
                        "paths": _paths(source),
                        "is_whole": not source.cursor,
                        "deleted_at": deleted_at,
                    },
                ).to_arrow_reader(warehouse.settings.batch_rows)
                batches = (batch.column(0).cast(pa.binary()) for batch in rows)
                n_rows = _commit(database, warehouse, at, batches)
        if n_rows is not None:
            return n_rows


def _write(page: Page, path: Path) -> None:
    """Write rows to a file: there may be more of them than memory has room for."""
    with closing(page.payloads(NOT_DELETED)) as rows, pq.ParquetWriter(path, FOUND) as writer:
        for payloads in rows:
            writer.write_batch(pa.record_batch([payloads], schema=FOUND))


def _refuse_same_key(connection: duckdb.DuckDBPyConnection, source: Source) -> None:
    """Raise `SourceError` if rows of the database cannot be told apart by their key."""
    key = "json_extract(decode(payload), $paths::varchar[])::varchar"
    sql = f"select count(*) - count(distinct {key}) from found"
    ((n_same,),) = connection.execute(sql, {"paths": _paths(source)}).fetchall()
    if n_same:
        message = (
            f"key: {n_same:,} rows have the {', '.join(source.compared_by)} of another; name the "
            "columns that identify a row"
        )
        raise SourceError(message)


def _paths(source: Source) -> list[str]:
    """Write where a row has its key, as JSON pointers."""
    return ["/" + name.replace("~", "~0").replace("/", "~1") for name in source.compared_by]
