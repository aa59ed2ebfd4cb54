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

# what Delta cannot open a table under: it would decode an escape once more, or take the sign for one of a URL
NO_DELTA = re.compile(r"%[0-9A-Fa-f]{2}|[\x00-\x1f\x7f\[\]\\^|\ud800-\udfff]")


def parquet(connection: duckdb.DuckDBPyConnection, files: Sequence[str | Path], *, filename: bool = False) -> duckdb.DuckDBPyRelation:
    """Read Parquet files with DuckDB; with `filename`, each row has the path of its file."""
    return connection.read_parquet([_escaped(file) for file in files], hive_partitioning=False, filename=filename)


def parquet_sql(files: Sequence[str | Path]) -> str:
    """Read Parquet files in the text of a query, for people to run."""
    return f"read_parquet([{', '.join(literal(_escaped(file)) for file in files)}], hive_partitioning = false)"


def scan_parquet(files: Sequence[str | Path], schema: pl.Schema | None = None) -> pl.LazyFrame:
    """Read Parquet files with Polars, lazily."""
    return pl.scan_parquet([str(file) for file in files], glob=False, hive_partitioning=False, schema=schema)


def refuse_path(folder: Path) -> None:
    """Raise `HomeError` where no Delta table can be opened."""
    if found := NO_DELTA.search(str(folder)):
        message = f"{str(folder)!r}: no table can be kept under a path with {found[0]!r}; choose another folder (--home, MILLRACE_HOME)"
        raise HomeError(message)


def _escaped(file: str | Path) -> str:
    return glob.escape(str(file))
