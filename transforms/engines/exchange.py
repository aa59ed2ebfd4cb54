"""Rows of a table on their way to the tasks that need them together: by hash of a key, in buckets.

A task reads some row groups of data files and writes one Parquet file, in the order of buckets. The
task of a bucket reads that bucket's row groups of all these files.
"""

import math
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow.parquet as pq

from transforms.engines.engine import Engine
from transforms.errors import EngineError
from transforms.expressions import literal
from transforms.home import Settings
from transforms.paths import parquet_relation
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse, n_rows_of

BUCKET = "__bucket"
# of a bucket's rows, few are in a row group of another's
ROWS_OF_A_GROUP = 20_480
ROWS_OF_A_SLICE = 500_000
# with fewer rows a task costs more than its work
LEAST_ROWS = 5_000


class Slice(NamedTuple):
    """Rows of a data file, those of some row groups: from `first` to before `end`."""

    path: str
    first: int
    end: int


class Read(NamedTuple):
    """What is read of a table: data files, and SQL of the columns that are kept.

    With `only`, a Parquet file of keys in its one column, rows of other keys are left out.
    """

    files: Sequence[str]
    columns: str = "*"
    only: str | None = None


class Scatter(NamedTuple):
    """The task of writing slices of what is read in the order of buckets; `key` is hashed."""

    name: str
    slices: tuple[Slice, ...]
    columns: str
    only: str | None
    key: str
    n_buckets: int
    folder: str
    settings: Settings


class Scattered(NamedTuple):
    """The file that was written, and the version of DuckDB that hashed its keys."""

    name: str
    path: str
    duckdb: str


def exchange(
    engine: Engine,
    reads: Mapping[str, Read],
    key: str,
    n_buckets: int,
    folder: Path,
    settings: Settings,
) -> dict[str, list[str]]:
    """Scatter all that is read into buckets; return the files by name."""
    n_rows = sum(n_rows_of(file) for read in reads.values() for file in read.files)
    of_a_task = n_rows // tasks_of(n_rows, engine.n_workers, ROWS_OF_A_SLICE) + 1
    tasks = [
        Scatter(name, slices, read.columns, read.only, key, n_buckets, str(folder), settings)
        for name, read in reads.items()
        for slices in slices_of(read.files, of_a_task)
    ]
    scattered: dict[str, list[str]] = {name: [] for name in reads}
    for made in engine.map(scatter, tasks):
        if made.duckdb != duckdb.__version__:  # two versions may hash a key differently
            message = (
                f"a worker has DuckDB {made.duckdb}, the driver {duckdb.__version__}; install the "
                "same version everywhere"
            )
            raise EngineError(message)
        scattered[made.name].append(made.path)
    return scattered


def slices_of(files: Sequence[str], n_rows: int) -> list[tuple[Slice, ...]]:
    """Divide data files between row groups, into tasks of about some rows each.

    >>> import tempfile
    >>> import pyarrow as pa
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/part.parquet"
    ...     pq.write_table(pa.table({"n": range(10)}), path, row_group_size=4)
    ...     [[(item.first, item.end) for item in task] for task in slices_of([path], 5)]
    [[(0, 8)], [(8, 10)]]
    """
    tasks: list[tuple[Slice, ...]] = []
    task: list[Slice] = []
    n_of_task = 0
    for path in files:
        metadata = pq.read_metadata(path)
        first = end = 0
        for group in range(metadata.num_row_groups):
            end += metadata.row_group(group).num_rows
            if n_of_task + end - first >= n_rows:
                tasks.append((*task, Slice(path, first, end)))
                task, n_of_task, first = [], 0, end
        if end > first:
            task.append(Slice(path, first, end))
            n_of_task += end - first
    return [*tasks, tuple(task)] if task else tasks


def tasks_of(n_rows: int, n_workers: int, at_most: int) -> int:
    """Choose into how many tasks rows are divided.

    There are several for each worker, so that none waits long for the last one.

    >>> tasks_of(1_000, 2, 500_000), tasks_of(100_000, 2, 500_000), tasks_of(10**9, 32, 500_000)
    (1, 4, 2000)
    """
    wanted = max(2 * n_workers, math.ceil(n_rows / at_most))
    return max(min(wanted, n_rows // LEAST_ROWS), 1)


def scatter(task: Scatter) -> Scattered:
    """Write the rows of a task, in the order of their buckets."""
    rows = " union all ".join(map(slice_rows, task.slices))
    only = f"where {task.key} in (from {parquet_relation([task.only])})" if task.only else ""
    kept = f"select {task.columns} from ({rows}) {only}"
    with connect(Warehouse(task.settings), of=()) as connection:
        connection.execute("set threads = 1")
        path = write_scattered(connection, kept, task.key, task.n_buckets, task.folder)
    return Scattered(task.name, path, duckdb.__version__)


def write_scattered(
    connection: duckdb.DuckDBPyConnection, rows: str, key: str, n_buckets: int, folder: str
) -> str:
    """Write rows, given as SQL, in the order of their buckets by hash of a key; return the file."""
    bucket = f"(hash({key}) % {n_buckets})::int as {BUCKET}"
    return write_buckets(connection, f"select *, {bucket} from ({rows})", folder)


def write_buckets(connection: duckdb.DuckDBPyConnection, rows: str, folder: str) -> str:
    """Write rows, given as SQL with the number of their bucket, in its order; return the file."""
    path = f"{folder}/{uuid.uuid4().hex}.parquet"
    connection.execute(
        f"copy (select * from ({rows}) order by {BUCKET}) to {literal(path)} "
        f"(format parquet, compression lz4, row_group_size {ROWS_OF_A_GROUP})"
    )
    return path


def slice_rows(of: Slice) -> str:
    """SQL of the rows of a slice."""
    relation = parquet_relation([of.path]).removesuffix(")")
    return (
        f"select * exclude (file_row_number) from {relation}, file_row_number = true) "
        f"where file_row_number >= {of.first} and file_row_number < {of.end}"
    )


def bucket_rows(files: Sequence[str], bucket: int) -> str:
    """SQL of a bucket's rows in files that were scattered."""
    return f"select * exclude ({BUCKET}) from {parquet_relation(files)} where {BUCKET} = {bucket}"
