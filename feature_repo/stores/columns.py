"""Arrow columns of a source: read, picked and buffered without changing a value or its type.

Which rows to read does not belong here.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def carried(kind: pa.DataType) -> pa.DataType:
    """The type in which values are read and picked: no views, small offsets below 2 GiB of text.

    >>> carried(pa.list_(pa.string()))
    LargeListType(large_list<item: large_string>)
    """
    if pa.types.is_string(kind) or pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary(kind) or pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(carried(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(carried(field.type)) for field in kind])
    return kind


def gathered(column: pa.ChunkedArray, places: pa.Array, kind: pa.DataType) -> pa.ChunkedArray:
    """Pick values by place, null where there is none, in the source's type.

    Chunked as offsets need.

    >>> gathered(pa.chunked_array([['a', 'b']]), pa.array([1, None]), pa.string()).to_pylist()
    ['b', None]
    """
    try:
        return column.take(places).cast(kind)
    except pa.ArrowInvalid:  # too large for one chunk
        if len(places) <= 1:
            raise
        half = len(places) // 2
        parts = [gathered(column, part, kind) for part in (places[:half], places[half:])]
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks], kind)


class Files:
    """Rows spread over numbered files of a folder, which are read one at a time."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        """Begin with nothing written."""
        self._folder, self._schema = folder, schema
        self._writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
        self.n_rows = Counter[int]()

    def beside(self, name: str) -> "Files":
        """Begin other files of the same columns, in a folder of this one's."""
        folder = self._folder / name
        folder.mkdir()
        return Files(folder, self._schema)

    def add(self, rows: pa.RecordBatch | pa.Table, numbers: npt.NDArray[np.int64]) -> None:
        """Add each row to the file of its number, in order."""
        order = np.argsort(numbers, kind="stable")
        rows = rows.take(pa.array(order))
        for number, start, size in zip(
            *np.unique(numbers[order], return_index=True, return_counts=True), strict=True
        ):
            self._writer(int(number)).write(rows.slice(start, size))
            self.n_rows[int(number)] += int(size)

    def close(self) -> None:
        """End all files; then they may be read."""
        for writer in self._writers.values():
            writer.close()

    def read(self, number: int) -> pa.Table:
        """Read a file; no rows where there is none."""
        return pa.Table.from_batches(self.batches(number), self._schema)

    def batches(self, number: int) -> Iterator[pa.RecordBatch]:
        """Read a file, some rows at a time."""
        if number in self._writers:
            with pa.OSFile(str(self._file(number))) as file, pa.ipc.open_stream(file) as stream:
                yield from stream

    def remove(self, number: int) -> None:
        """Delete a file that is not read again."""
        self._file(number).unlink()
        del self._writers[number]

    def _file(self, number: int) -> Path:
        return self._folder / f"{number}.arrows"

    def _writer(self, number: int) -> pa.ipc.RecordBatchStreamWriter:
        if number not in self._writers:
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writers[number] = pa.ipc.new_stream(
                str(self._file(number)), self._schema, options=options
            )
        return self._writers[number]
