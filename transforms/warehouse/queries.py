"""Questions in SQL: a snapshot of a home's relations, read only, with texts and persons masked."""

import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
from deltalake import DeltaTable

from transforms.errors import QueryError
from transforms.expressions import SEALED, literal, quoted, walk
from transforms.paths import parquet_relation
from transforms.warehouse.snapshot import create_view
from transforms.warehouse.tables import Warehouse, data_files

# functions that make rows without reading a file or another query's text
ROWS = frozenset(
    "generate_series range unnest json_each json_tree duckdb_columns duckdb_functions "  # noqa: SIM905
    "duckdb_tables duckdb_views pragma_table_info".split()
)
EMAIL_ADDRESS = r"[^\s\"<>@]+@[^\s\"<>@]+\.[^\s\"<>@]+"
# also a phone number, where it is the whole value
PERSON = rf"{EMAIL_ADDRESS}|^\+[0-9][0-9 ()-]{{6,}}$"
# what is shown in place of a column, whatever its relation; every other text goes by `PERSON`
MASKS = {
    "payload": "'<' || octet_length(payload) || ' bytes>'",
    "text": "text_redacted",
    "text_redacted": "text_redacted",
    "attributes": f"regexp_replace(attributes, {literal(EMAIL_ADDRESS)}, '<EMAIL_ADDRESS>', 'g')",
}


def open_queries(
    warehouse: Warehouse, scratch: Path, at: datetime | None = None, *, reveal: bool = False
) -> duckdb.DuckDBPyConnection:
    """Open DuckDB over one version of every relation, for queries of people.

    Each relation is a view of its name. `at` shows each as it was at an instant, by default now.
    What is committed later is not seen. The connection reaches no other file, no network and no
    extension, its settings are locked, and it stays within the memory limit. It spills to
    `scratch`.

    Unless `reveal` is set, texts are shown as redacted, raw rows by their length, and what looks
    like an e-mail address or a phone number, as an id for example, by a digest: equal values have
    equal digests, so grouping and joining work. That keeps persons off screens; it is no access
    control, for who can read the home can read its files.

    Raises QueryError where nothing was there at that instant, or its files have been deleted.
    """
    config = SEALED | {
        "enable_external_access": "true",
        "memory_limit": warehouse.settings.memory_limit,
        "temp_directory": str(scratch),
    }
    connection = duckdb.connect(config=config)
    connection.execute("set global timezone = 'UTC'")
    files = create_relations(connection, warehouse, at, reveal=reveal)
    connection.execute(f"set allowed_paths = [{', '.join(map(literal, files))}]")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")
    return connection


def write_catalog(
    warehouse: Warehouse, path: Path, at: datetime | None = None, *, reveal: bool = False
) -> list[str]:
    """Write a DuckDB file with a view of each relation, for programs that open such files.

    The views read the data files of one version of each table, by their paths on this machine, and
    are masked as `open_queries` does. Whoever has the file open goes on with the one before.
    Returns the names of the relations. Raises QueryError as `open_queries` does.
    """
    half = path.with_name(f"{path.name}.{os.getpid()}.half")
    try:
        with duckdb.connect(half) as connection:
            create_relations(connection, warehouse, at, reveal=reveal)
            names = connection.sql(
                """select schema_name || '.' || view_name from duckdb_views()
                where not internal order by all"""
            ).fetchall()
        half.replace(path)
    except duckdb.IOException as error:
        message = f"{path}: cannot be written ({str(error).splitlines()[0]}); choose another file"
        raise QueryError(message) from None
    finally:
        half.unlink(missing_ok=True)
    return [name for (name,) in names]


def create_relations(
    connection: duckdb.DuckDBPyConnection,
    warehouse: Warehouse,
    at: datetime | None = None,
    *,
    reveal: bool = False,
) -> list[str]:
    """Create a view of each relation as `open_queries` does; return the files that they read."""
    read: list[str] = []
    for relation in warehouse.relations():
        table = warehouse.table(relation)
        if table is None or (at and (table := _at(warehouse, relation, at)) is None):
            continue
        files, schema = data_files(table), pa.schema(table.schema().to_arrow())
        if at and (missing := next((file for file in files if not Path(file).exists()), None)):
            message = (
                f"{relation} at {at:%Y-%m-%dT%H:%M:%SZ}: {missing} has been deleted by "
                f"maintenance, which keeps {warehouse.settings.keep_days} days "
                "(MILLRACE_KEEP_DAYS); ask for a later instant"
            )
            raise QueryError(message)
        create_view(connection, relation, files, schema)
        masks = ", ".join(_masks(schema))
        if files and masks and not reveal:
            connection.execute(
                f"create or replace view {relation} as "
                f"select * replace ({masks}) from {parquet_relation(files)}"
            )
        read += files
    if not read:
        message = f"{warehouse.settings.root}: nothing was there" + (
            f" at {at:%Y-%m-%dT%H:%M:%SZ}" if at else ""
        )
        raise QueryError(message)
    return read


def check_query(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Raise QueryError unless a text is one query that reads relations and nothing else.

    >>> check_query(duckdb.connect(), "from read_csv('/etc/passwd')")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    transforms.errors.QueryError: read_csv is no relation of the home; ...
    """
    ((text,),) = connection.execute("select json_serialize_sql($text)", {"text": sql}).fetchall()
    tree = json.loads(text)
    if tree.get("error"):
        message = str(tree["error_message"])
        if message.startswith("Only SELECT"):
            message = "only queries run here: select, from, with, describe, summarize, show"
        raise QueryError(message)
    if len(tree["statements"]) != 1:
        message = f"one query at a time; this is {len(tree['statements'])}"
        raise QueryError(message)
    for node in walk(tree):
        kind = node.get("type")
        if kind not in {"BASE_TABLE", "TABLE_FUNCTION"}:
            continue
        name = node.get("function", node)["qualified_name"]["path"][-1]
        # a table whose name is a path is read from that file, which may be one of the home's
        if name not in ROWS if kind == "TABLE_FUNCTION" else {*name} & {*"./\\"}:
            message = f"{name} is no relation of the home; show all tables lists the relations"
            raise QueryError(message)


def _at(warehouse: Warehouse, relation: str, at: datetime) -> DeltaTable | None:
    """Open a relation as it was at an instant; None if it was not there yet."""
    table = DeltaTable(str(warehouse.folder(relation)))
    milliseconds = at.timestamp() * 1000
    committed = {entry["version"]: entry["timestamp"] for entry in table.history()}
    version = max((v for v, made in committed.items() if made <= milliseconds), default=None)
    return None if version is None else warehouse.table_at(relation, version)


def _masks(schema: pa.Schema) -> Iterator[str]:
    """Write what is shown of each column that may name a person."""
    for field in schema:
        name, kind = quoted(field.name), field.type
        if field.name in MASKS:
            yield f"{MASKS[field.name]} as {name}"
        elif _is_text(kind):
            yield f"{_mask(name)} as {name}"
        elif pa.types.is_list(kind) and _is_text(kind.value_type):
            yield f"list_transform({name}, lambda each: {_mask('each')}) as {name}"


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_string_view(kind))


def _mask(value: str) -> str:
    return (
        f"case when regexp_matches({value}, {literal(PERSON)}) "
        f"then 'masked:' || left(md5({value}), 12) else {value} end"
    )
