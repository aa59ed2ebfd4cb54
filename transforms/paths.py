"""Paths for readers that interpret them.

DuckDB and Polars take patterns and infer columns from folders; here a path is only a path. All code
that reads the files of a source or of a home opens them by these functions.
"""

import glob
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import duckdb
import polars as pl

from transforms.errors import HomeError
from transforms.expressions import literal
from transforms.replica import have_here

NO_TEXT = re.compile("[\ud800-\udfff]")
# Delta cannot open a table under these: it decodes escapes again, and reads a backslash as a slash
NO_DELTA = re.compile(r"%[0-9A-Fa-f]{2}|[\x00-\x1f\x7f\\\ud800-\udfff]")


def parquet(
    connection: duckdb.DuckDBPyConnection, files: Sequence[str | Path], *, filename: bool = False
) -> duckdb.DuckDBPyRelation:
    """Read Parquet files with DuckDB; with `filename`, each row has the path of its file."""
    have_here(files)
    return connection.read_parquet(
        [as_pattern(file) for file in files], hive_partitioning=False, filename=filename
    )


def parquet_relation(files: Sequence[str | Path]) -> str:
    """Write the SQL that reads Parquet files: a view of it is bound in half of `parquet`'s time.

    >>> print(parquet_relation(["it's[1].parquet"]))
    read_parquet(['it''s[[]1].parquet'], hive_partitioning = false)
    """
    have_here(files)
    paths = ", ".join(literal(as_pattern(file)) for file in files)
    return f"read_parquet([{paths}], hive_partitioning = false)"


def parquet_sql(files: Sequence[str | Path], *, is_partitioned: bool = False) -> str:
    """Write the SQL that reads Parquet files, for people to run.

    >>> print(parquet_sql(["part[1].parquet"]))
    read_parquet(['part[[]1].parquet'], union_by_name = true, hive_partitioning = false)
    """
    have_here(files)
    paths = ", ".join(literal(as_pattern(file)) for file in files)
    options = f"union_by_name = true, hive_partitioning = {str(is_partitioned).lower()}"
    return f"read_parquet([{paths}], {options})"


def scan_parquet(files: Sequence[str | Path], schema: pl.Schema | None = None) -> pl.LazyFrame:
    """Read Parquet files with Polars, lazily.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "part*1.parquet")
    ...     pl.DataFrame({"n": [1, 2]}).write_parquet(path)
    ...     scan_parquet([path]).collect()["n"].to_list()
    [1, 2]
    """
    have_here(files)
    return pl.scan_parquet(
        [str(file) for file in files], glob=False, hive_partitioning=False, schema=schema
    )


def refuse_path(folder: Path) -> None:
    """Raise `HomeError` if no Delta table can be opened under a folder.

    >>> refuse_path(Path("50%20off"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    transforms.errors.HomeError: '50%20off': no table can be kept under a path with '%20'; ...
    """
    if found := NO_DELTA.search(str(folder)):
        message = (
            f"{str(folder)!r}: no table can be kept under a path with {found[0]!r}; "
            "choose another folder (--home, MILLRACE_HOME)"
        )
        raise HomeError(message)


def fault(path: Path, *, is_parquet: bool) -> str | None:
    """Return why readers cannot open a path, or None.

    To the system a name is any bytes; to readers it is UTF-8.

    >>> fault(Path("a\\\\b*.parquet"), is_parquet=True)
    'its path has a backslash beside one of *?['
    """
    if NO_TEXT.search(str(path)):
        return "its name is not UTF-8"
    # in a pattern DuckDB takes a backslash for an escape or for the end of a folder
    return (
        "its path has a backslash beside one of *?["
        if is_parquet and "\\" in str(path) and glob.has_magic(str(path))
        else None
    )


def as_pattern(file: str | Path) -> str:
    """Escape a path for readers that take patterns, so that it matches only itself.

    >>> as_pattern("part[1]*.parquet")
    'part[[]1][*].parquet'
    """
    return glob.escape(str(file))


def file_bytes(path: Path) -> int:
    """Return the bytes of a file; 0 for a folder, and for a file that is gone meanwhile."""
    with suppress(FileNotFoundError):
        return path.stat().st_size if path.is_file() else 0
    return 0
