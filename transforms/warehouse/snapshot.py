"""DuckDB over a snapshot of tables: views of their rows at a version, or of what changed."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from transforms.paths import parquet
from transforms.schemas.base import Contract
from transforms.warehouse.scratch import scratch_folder
from transforms.warehouse.tables import Warehouse, data_files


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
    with scratch_folder(warehouse.settings.root) as scratch:
        options: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": warehouse.settings.memory_limit,
            "temp_directory": str(scratch),
            "preserve_insertion_order": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
        }
        with duckdb.connect(config=options) as connection:
            connection.execute("set timezone = 'UTC'")
            for relation in (name for name in warehouse.relations() if name.startswith(of)):
                table = warehouse.table(relation)
                if table and at and relation in at:
                    table = warehouse.table_at(relation, at[relation])
                if table:
                    create_view(
                        connection,
                        relation,
                        data_files(table),
                        pa.schema(table.schema().to_arrow()),
                    )
            yield connection


def create_view(
    connection: duckdb.DuckDBPyConnection, name: str, files: list[str], schema: pa.Schema
) -> None:
    """Create a view of data files; without files, an empty one with the given schema."""
    schema_name, _, view = name.rpartition(".")
    rows = parquet(connection, files) if files else connection.from_arrow(schema.empty_table())
    connection.execute(f"create schema if not exists {schema_name or 'main'}")
    connection.execute(f"use {schema_name or 'main'}")
    rows.create_view(view)
    connection.execute("use main")


def create_arrivals(
    connection: duckdb.DuckDBPyConnection,
    warehouse: Warehouse,
    contract: type[Contract],
    since: int,
    until: int | None = None,
) -> None:
    """Create the views `inserted` and `deleted`: rows added to and removed from a relation.

    They compare the version `until`, by default the newest, with the version `since`. Rows only
    moved to another file, as compaction does, are in neither.
    """
    added, removed = warehouse.changes(contract.relation(), since, until)
    schema = contract.arrow_schema()
    if not removed:
        create_view(connection, "inserted", added, schema)
        create_view(connection, "deleted", [], schema)
        return
    create_view(connection, "added", added, schema)
    create_view(connection, "removed", removed, schema)
    same = [name for name in (*contract.key(), "content_digest") if name in schema.names]
    connection.execute(
        f"create view inserted as from added anti join removed using ({', '.join(same)})"
    )
    connection.execute(
        f"create view deleted as from removed anti join added using ({', '.join(same)})"
    )
