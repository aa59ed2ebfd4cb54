"""DuckDB over a snapshot of tables: views of their rows at a version, or of what changed."""

import atexit
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from transforms.expressions import literal, quoted
from transforms.paths import parquet_relation
from transforms.schemas.base import Contract
from transforms.warehouse.scratch import scratch_folder
from transforms.warehouse.tables import Warehouse, data_files

# idle engines of a memory limit that a process keeps
KEPT_ENGINES = 2
# arrivals whose data files have fewer bytes are read once: each statement over a file opens it
# again, which costs more than few rows do
FEW_BYTES = 1 << 20
# each statement leaves a few kilobytes in its engine that only its end gives back
LOANS_OF_AN_ENGINE = 100


@contextmanager
def connect(
    warehouse: Warehouse, at: Mapping[str, int] | None = None, of: tuple[str, ...] = ("",)
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open DuckDB over a snapshot of tables, each a view named as its relation.

    `at` gives the versions of relations to read at an earlier one. `of` names the relations to
    read, or the beginnings of their names; by default all. Each relation costs a few
    milliseconds, which matters when a load has ten rows. What DuckDB spills is removed at the
    end.
    """
    with (
        scratch_folder(warehouse.settings.root) as scratch,
        _lent(warehouse.settings.memory_limit, scratch) as connection,
    ):
        tables = {
            relation: warehouse.table_at(relation, at[relation]) if at and relation in at else table
            for relation in warehouse.relations()
            if relation.startswith(of) and (table := warehouse.table(relation))
        }
        for name in {relation.partition(".")[0] for relation in tables}:
            connection.execute(f"create schema {name}")
        for relation, table in tables.items():
            rows = _rows(connection, data_files(table), pa.schema(table.schema().to_arrow()))
            connection.execute(f"create view {relation} as {rows}")
        yield connection


class _Engine:
    """A DuckDB that is lent to one connection after the other, each with an empty database.

    To start one takes 15 ms, more than its work on ten records.
    """

    def __init__(self, memory_limit: str) -> None:
        options: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": memory_limit,
            "preserve_insertion_order": "false",
            # else a gigabyte that tables took stays with the process after they are dropped
            "allocator_background_threads": "true",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }
        self._connection = duckdb.connect(config=options)
        self._connection.execute("set global timezone = 'UTC'")
        # what a file says of itself is read once; no data file is ever changed
        self._connection.execute("set global parquet_metadata_cache = true")
        self._database, self.n_loans = "memory", 0

    def lend(self, scratch: Path) -> duckdb.DuckDBPyConnection:
        """Open a connection that spills to a folder."""
        self._connection.execute(f"set global temp_directory = {literal(str(scratch))}")
        return self._connection.cursor()

    def empty(self) -> None:
        """Replace the database by an empty one: the only one, so that cursors begin there."""
        former, self.n_loans = self._database, self.n_loans + 1
        self._database = f"emptied_{self.n_loans}"
        for statement in (
            f"attach ':memory:' as {self._database}",
            f"use {self._database}",
            f"detach {former}",
        ):
            self._connection.execute(statement)

    def close(self) -> None:
        """End its threads."""
        self._connection.close()


# by process, for a forked child has none of its parent's threads, and by memory limit
_idle: defaultdict[tuple[int, str], list[_Engine]] = defaultdict(list)


@contextmanager
def _lent(memory_limit: str, scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Lend a connection of an idle engine; one that has failed or spilled is not lent again."""
    idle = _idle[os.getpid(), memory_limit]
    try:
        engine = idle.pop()
    except IndexError:
        engine = _Engine(memory_limit)
    is_clean = False
    try:
        with engine.lend(scratch) as connection:
            yield connection
        with suppress(duckdb.Error):
            engine.empty()
            is_clean = not any(scratch.iterdir())
    finally:
        if is_clean and len(idle) < KEPT_ENGINES and engine.n_loans < LOANS_OF_AN_ENGINE:
            idle.append(engine)
        else:
            engine.close()


@atexit.register
def _close_idle() -> None:
    for (process, _), kept in _idle.items():
        while process == os.getpid() and kept:
            kept.pop().close()


def create_view(
    connection: duckdb.DuckDBPyConnection, name: str, files: list[str], schema: pa.Schema
) -> None:
    """Create a view of data files; without files, an empty one with the given schema."""
    schema_name, _, _ = name.rpartition(".")
    if schema_name:
        connection.execute(f"create schema if not exists {schema_name}")
    connection.execute(f"create or replace view {name} as {_rows(connection, files, schema)}")


def _rows(connection: duckdb.DuckDBPyConnection, files: list[str], schema: pa.Schema) -> str:
    """Compose a query of the rows of data files; without files, of none."""
    if files:
        return f"from {parquet_relation(files)}"
    if schema not in _no_rows:
        empty = connection.from_arrow(schema.empty_table())
        columns = zip(empty.columns, empty.types, strict=True)
        nulls = ", ".join(f"null::{kind} as {quoted(name)}" for name, kind in columns)
        _no_rows[schema] = f"select {nulls} limit 0"
    return _no_rows[schema]


# queries of no rows with a schema's columns, for a view that a file can hold
_no_rows: dict[pa.Schema, str] = {}


def read_few(
    connection: duckdb.DuckDBPyConnection, sql: str, parameters: Mapping[str, Any] | None = None
) -> duckdb.DuckDBPyRelation:
    """Run SQL that finds few rows, and return them as a relation until the next such call.

    A relation of the SQL itself binds it twice, which takes longer than to keep few rows.
    """
    connection.execute(f"create or replace temp table few_rows as {sql}", parameters)
    return connection.sql("from few_rows")


def create_arrivals(
    connection: duckdb.DuckDBPyConnection,
    warehouse: Warehouse,
    contract: type[Contract],
    since: int,
    until: int | None = None,
) -> None:
    """Create `inserted` and `deleted`: rows added to and removed from a relation.

    They compare the version `until`, by default the newest, with the version `since`. Rows only
    moved to another file, as compaction does, are in neither. They are views, or tables where the
    rows are few.
    """
    added, removed = warehouse.changes(contract.relation(), since, until)
    schema = contract.arrow_schema()
    is_few = sum(os.path.getsize(file) for file in (*added, *removed)) < FEW_BYTES  # noqa: PTH202
    kind = "table" if is_few else "view"
    if not removed:
        connection.execute(f"create {kind} inserted as {_rows(connection, added, schema)}")
        connection.execute(f"create {kind} deleted as from inserted limit 0")
        return
    create_view(connection, "added", added, schema)
    create_view(connection, "removed", removed, schema)
    create_changes(connection, contract, kind)


def create_changes(
    connection: duckdb.DuckDBPyConnection, contract: type[Contract], kind: str = "view"
) -> None:
    """Create `inserted` and `deleted` from `added` and `removed`, without moved rows."""
    schema = contract.arrow_schema()
    same = [name for name in (*contract.key(), "content_digest") if name in schema.names]
    for name, of, others in (("inserted", "added", "removed"), ("deleted", "removed", "added")):
        connection.execute(
            f"create {kind} {name} as from {of} anti join {others} using ({', '.join(same)})"
        )
