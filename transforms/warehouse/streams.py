"""Rows of a run on their way: Arrow streams in files, and a folder of them, read in order."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa


@contextmanager
def writing_stream(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatchStreamWriter]:
    """Open a file to write batches into."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        yield stream


def read_stream(path: Path) -> Iterator[pa.RecordBatch]:
    """Stream the batches of a file.

    It is read, not mapped: mapped pages would count as this process's memory.
    """
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
        yield from stream


def read_streams(folder: Path) -> Iterator[pa.RecordBatch]:
    """Stream the batches of all files in a folder, in the order of their names."""
    for path in sorted(folder.iterdir()):
        yield from read_stream(path)


def rows_of_ids(batches: Iterable[pa.RecordBatch], ids: np.ndarray) -> Iterator[pa.RecordBatch]:
    """Take rows of batches by their numbers, counted from 0 over all of them; `ids` ascend.

    >>> batches = pa.table({"n": [10, 11, 12, 13]}).to_batches(2)
    >>> [batch["n"].to_pylist() for batch in rows_of_ids(batches, np.array([1, 2]))]
    [[11], [12]]
    """
    first = 0
    for batch in batches:
        start, end = np.searchsorted(ids, [first, first + batch.num_rows])
        if end > start:
            yield batch.take(pa.array(ids[start:end] - first))
        first += batch.num_rows
