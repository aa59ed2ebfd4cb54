"""Data files written anew without some rows: those that hold one of them, and no others."""

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
    """List those data files that hold a row of a relation of places; where rows are to leave, only these are written anew."""
    if not files:
        return []
    parquet(connection, files, filename=True).create_view("searched_files")
    held = f"select distinct filename from searched_files semi join {places} using ({', '.join(PLACE)})"
    return [file for (file,) in connection.sql(held).fetchall()]


def rows_staying(
    connection: duckdb.DuckDBPyConnection,
    warehouse: Warehouse,
    contract: type[Contract],
    files: Sequence[str],
    places: str,
) -> Iterator[pa.RecordBatch]:
    """Stream the rows of data files that are not in a relation of places."""
    if files:
        parquet(connection, files).create_view("rewritten_files")
        staying = connection.sql(
            f"from rewritten_files anti join {places} using ({', '.join(PLACE)})"
        )
        yield from staying.select(*contract.arrow_schema().names).to_arrow_reader(
            warehouse.settings.batch_rows
        )
