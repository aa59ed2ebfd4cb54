"""Paths for readers that interpret them. DuckDB and Polars take patterns and guess columns off folders; here a path is a path.

Whatever reads the files of a source or of a home opens them by these functions.
"""

import glob
import re
from collections.abc import Sequence
from pathlib import Path

import duckdb
import polars as pl

from transforms.errors import HomeError
from transforms.expressions import literal

NO_TEXT = re.compile("[\ud800-\udfff]")
# what Delta cannot open a table under: it would decode an escape once more, and read a backslash as a slash
NO_DELTA = re.compile(r"%[0-9A-Fa-f]{2}|[\x00-\x1f\x7f\\\ud800-\udfff]")


def parquet(
    connection: duckdb.DuckDBPyConnection, files: Sequence[str | Path], *, filename: bool = False
) -> duckdb.DuckDBPyRelation:
    """Read Parquet files with DuckDB; with `filename`, each row has the path of its file."""
    return connection.read_parquet(
        [as_pattern(file) for file in files], hive_partitioning=False, filename=filename
    )


def parquet_sql(files: Sequence[str | Path], *, is_partitioned: bool = False) -> str:
    """Read Parquet files in the text of a query, for people to run."""
    paths = ", ".join(literal(as_pattern(file)) for file in files)
    return f"read_parquet([{paths}], union_by_name = true, hive_partitioning = {str(is_partitioned).lower()})"


def scan_parquet(files: Sequence[str | Path], schema: pl.Schema | None = None) -> pl.LazyFrame:
    """Read Parquet files with Polars, lazily."""
    return pl.scan_parquet(
        [str(file) for file in files], glob=False, hive_partitioning=False, schema=schema
    )


def refuse_path(folder: Path) -> None:
    """Raise `HomeError` where no Delta table can be opened."""
    if found := NO_DELTA.search(str(folder)):
        message = f"{str(folder)!r}: no table can be kept under a path with {found[0]!r}; choose another folder (--home, MILLRACE_HOME)"
        raise HomeError(message)


def fault(path: Path, *, is_parquet: bool) -> str | None:
    """Say why a path cannot be handed to readers: to the system a name is any bytes, to them it is UTF-8."""
    if NO_TEXT.search(str(path)):
        return "its name is not UTF-8"
    # in a pattern DuckDB takes a backslash for an escape or for the end of a folder
    return (
        "its path has a backslash beside one of *?["
        if is_parquet and "\\" in str(path) and glob.has_magic(str(path))
        else None
    )


def as_pattern(file: str | Path) -> str:
    """Escape a path where patterns are taken, so that it matches itself alone."""
    return glob.escape(str(file))
