"""Parquet files of a table, checked against its contract as they are written.

No reader sees a file before it is committed.
"""

import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.transaction import AddAction

from transforms.home import remove_files
from transforms.replica import replica_of
from transforms.schemas.base import Contract

ROWS_OF_A_FILE = 2_000_000
DICTIONARY_BYTES = 64 * 1024
FEW_ROWS = 10_000  # written in a fiftieth of a second
# the first values of a file, by which its encodings are chosen
SAMPLED_VALUES = 4096


class Encoding(NamedTuple):
    """How values that hardly repeat are stored; None is by a dictionary, as those that repeat."""

    name: str | None
    level: int = 1


REPEATING = Encoding(None)
DIFFERENCES = Encoding("DELTA_BINARY_PACKED")
# at a still higher level ids take more room, not less
TEXTS = Encoding("DELTA_LENGTH_BYTE_ARRAY", level=2)
PLAIN = Encoding("PLAIN", level=2)
# greater differences than these are between digests, and are as long as these
GREATEST_DIFFERENCE = 1 << 48


def parquet_writer(path: Path, schema: pa.Schema, first: pa.RecordBatch) -> pq.ParquetWriter:
    """Open a zstd Parquet file in the encodings that its first rows take least room in.

    Values that repeat have a dictionary. Of others, instants and whole numbers are stored as
    differences, and texts apart from their lengths.

    >>> import tempfile
    >>> rows = pa.record_batch({"at": range(5000), "label": ["a"] * 5000})
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     with parquet_writer(Path(file.name), rows.schema, rows) as writer:
    ...         writer.write_batch(rows)
    ...     written = pq.read_metadata(file.name).row_group(0)
    >>> ["RLE_DICTIONARY" in written.column(number).encodings for number in (0, 1)]
    [False, True]
    """
    chosen = {}
    for name, column in zip(schema.names, first.columns, strict=True):
        path_of_values, values = _values(name, column[:SAMPLED_VALUES])
        chosen[path_of_values] = _encoding(values[:SAMPLED_VALUES])
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level={name: encoding.level for name, encoding in chosen.items()},
        use_dictionary=[name for name, encoding in chosen.items() if not encoding.name] or False,
        column_encoding={name: of.name for name, of in chosen.items() if of.name},
        dictionary_pagesize_limit=DICTIONARY_BYTES,
    )


def _values(name: str, column: pa.Array) -> tuple[str, pa.Array]:
    """Return the path in Parquet and the values of a column; of lists, those in them."""
    if pa.types.is_list(column.type):
        return _values(f"{name}.list.element", column.flatten())
    return name, column


def _encoding(values: pa.Array) -> Encoding:
    """Choose how values are stored by how many of them are different ones."""
    of = values.type
    share = pc.count_distinct(values).as_py() / (len(values) or 1)
    if pa.types.is_timestamp(of):
        return DIFFERENCES
    if pa.types.is_integer(of):
        return _encoding_of_numbers(values) if share > 1 / 32 else REPEATING
    if share <= 1 / 4 or pa.types.is_boolean(of):
        return REPEATING
    return TEXTS if pa.types.is_string(of) else PLAIN


def _encoding_of_numbers(values: pa.Array) -> Encoding:
    least, greatest = pc.min_max(values).values()
    return PLAIN if greatest.as_py() - least.as_py() > GREATEST_DIFFERENCE else DIFFERENCES


class PartWriter:
    """Check batches and write them as zstd Parquet files of bounded size, in two threads.

    The next batch is computed meanwhile. Encoding dominates the cost of writing, and with one
    thread the other core was idle. A second file is begun only if the first cannot keep up and has
    more than a few rows.
    """

    def __init__(
        self, folder: Path, contract: type[Contract], journal: Path, name: str = "part"
    ) -> None:
        """Write into a table's folder, files of names that begin with `name`.

        Each file's name is written to `journal` first, so that `sweep` can delete it after a kill.
        """
        self.n_rows = 0
        self._lanes = [_Lane(folder, contract, journal, name) for _ in range(2)]

    def write(self, batch: pa.RecordBatch) -> None:
        """Write a batch in an idle thread.

        Raises `GateError` if an earlier batch of that thread broke its contract.
        """
        lanes = self._lanes[: 1 if self.n_rows < FEW_ROWS else 2]
        lane = next((lane for lane in lanes if lane.is_idle), lanes[self.n_rows % len(lanes)])
        lane.write(batch)
        self.n_rows += batch.num_rows

    def close(self) -> list[AddAction]:
        """Finish the files and return the actions that add them to a commit."""
        return [action for lane in self._lanes for action in lane.close()]

    def discard(self) -> None:
        """Delete what was written."""
        for lane in self._lanes:
            lane.discard()


class _Lane:
    """One of a writer's threads, and the files that it writes in turn."""

    def __init__(self, folder: Path, contract: type[Contract], journal: Path, name: str) -> None:
        self.folder, self.contract, self.journal, self.name = folder, contract, journal, name
        self.schema = contract.arrow_schema()
        self._actions: list[AddAction] = []
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self._part: pq.ParquetWriter | None = None
        self._path: Path | None = None
        self._rows_of_part = 0

    @property
    def is_idle(self) -> bool:
        return self._pending is None or self._pending.done()

    def write(self, batch: pa.RecordBatch) -> None:
        self._wait()
        self._pending = self._thread.submit(self._write, batch)

    def close(self) -> list[AddAction]:
        self._wait()
        self._finish_part()
        self._thread.shutdown()
        return self._actions

    def discard(self) -> None:
        self._thread.shutdown(wait=True)
        if self._part:
            self._part.close()
        paths = (*(self.folder / action.path for action in self._actions), self._path)
        remove_files([path for path in paths if path])

    def _wait(self) -> None:
        if self._pending:
            self._pending.result()

    def _write(self, batch: pa.RecordBatch) -> None:
        self.contract.gate(pl.DataFrame(batch))
        rows = batch.cast(self.schema)
        if self._part is None:
            self._path = self.folder / f"{self.name}-{uuid.uuid4().hex}.parquet"
            with self.journal.open("a", encoding="utf-8") as file:
                file.write(f"{self.contract.relation()} {self._path.name}\n")
            self._part = parquet_writer(self._path, self.schema, rows)
        self._part.write_batch(rows)
        self._rows_of_part += rows.num_rows
        if self._rows_of_part >= ROWS_OF_A_FILE:
            self._finish_part()

    def _finish_part(self) -> None:
        if self._part is None or self._path is None:
            return
        self._part.close()
        stat = self._path.stat()
        if there := replica_of(self._path):
            there.put(self._path)
        stats = f'{{"numRecords": {self._rows_of_part}}}'
        self._actions.append(
            AddAction(
                self._path.name,
                stat.st_size,
                {},
                int(stat.st_mtime * 1000),
                data_change=True,
                stats=stats,
            )
        )
        self._part, self._path, self._rows_of_part = None, None, 0
