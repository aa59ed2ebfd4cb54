"""Rewriting data files without some of their rows; files without such rows stay as they are.

A row's place, `PLACE`, says where it came from: its load, its file and its number there.
"""

from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa

from transforms.paths import parquet
from transforms.schemas.base import Contract
from transforms.warehouse.tables import Warehouse

PLACE = ["load_id", "source_uri", "row_number"]


def files_holding(
    connection: duckdb.DuckDBPyConnection, files: Sequence[str], places: str
) -> list[str]:
    """List the data files that have a row of a relation of places: the ones to rewrite."""
    if not files:
        return []
    parquet(connection, files, filename=True).create_view("searched_files")
    found = f"from searched_files semi join {places} using ({', '.join(PLACE)})"
    rows = connection.sql(f"select distinct filename {found}").fetchall()
    return [file for (file,) in rows]


def rows_staying(
    connection: duckdb.DuckDBPyConnection,
    warehouse: Warehouse,
    contract: type[Contract],
    files: Sequence[str],
    places: str,
) -> Iterator[pa.RecordBatch]:
    """Stream the rows of data files, except those in a relation of places."""
    if files:
        parquet(connection, files).create_view("rewritten_files")
        staying = connection.sql(
            f"from rewritten_files anti join {places} using ({', '.join(PLACE)})"
        )
        yield from staying.select(*contract.arrow_schema().names).to_arrow_reader(
            warehouse.settings.batch_rows
        )
