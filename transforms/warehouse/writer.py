"""Parquet files of a table, checked against its contract as they are written.

No reader sees a file before it is committed.
"""

import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.transaction import AddAction

from transforms.schemas.base import Contract

ROWS_OF_A_FILE = 2_000_000
DICTIONARY_BYTES = 64 * 1024


def parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a zstd Parquet file in the encodings that tables of records take least room in.

    Instants are stored as differences. Ids, texts and numbers that hardly repeat leave their
    dictionary early, since a large one costs more bytes and time than it saves; lists have none.

    >>> import tempfile
    >>> at = pa.array(range(50_000), pa.timestamp("us"))
    >>> rows = pa.table({"at": at, "label": ["a"] * 50_000})
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     with parquet_writer(Path(file.name), rows.schema) as writer:
    ...         writer.write_table(rows)
    ...     written = pq.read_metadata(file.name).row_group(0)
    >>> ["DELTA_BINARY_PACKED" in written.column(number).encodings for number in (0, 1)]
    [True, False]
    """
    instants = [field.name for field in schema if pa.types.is_timestamp(field.type)]
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=[name for name in schema.names if name not in instants] or False,
        column_encoding=dict.fromkeys(instants, "DELTA_BINARY_PACKED"),
        dictionary_pagesize_limit=DICTIONARY_BYTES,
    )


class PartWriter:
    """Check batches and write them as zstd Parquet files of bounded size, in two threads.

    The next batch is computed meanwhile. Encoding dominates the cost of writing, and with one
    thread the other core was idle. A second file is begun only if the first cannot keep up.
    """

    def __init__(self, folder: Path, contract: type[Contract], journal: Path) -> None:
        """Write into a table's folder.

        Each file's name is written to `journal` first, so that `sweep` can delete it after a kill.
        """
        self.n_rows = 0
        self._lanes = [_Lane(folder, contract, journal), _Lane(folder, contract, journal)]

    def write(self, batch: pa.RecordBatch) -> None:
        """Write a batch in an idle thread.

        Raises `GateError` if an earlier batch of that thread broke its contract.
        """
        lane = next((lane for lane in self._lanes if lane.is_idle), self._lanes[self.n_rows % 2])
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

    def __init__(self, folder: Path, contract: type[Contract], journal: Path) -> None:
        self.folder, self.contract, self.journal = folder, contract, journal
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
        for path in (*(self.folder / action.path for action in self._actions), self._path):
            if path:
                path.unlink(missing_ok=True)

    def _wait(self) -> None:
        if self._pending:
            self._pending.result()

    def _write(self, batch: pa.RecordBatch) -> None:
        self.contract.gate(pl.DataFrame(batch))
        if self._part is None:
            self._path = self.folder / f"part-{uuid.uuid4().hex}.parquet"
            with self.journal.open("a", encoding="utf-8") as file:
                file.write(f"{self.contract.relation()} {self._path.name}\n")
            self._part = parquet_writer(self._path, self.schema)
        self._part.write_batch(batch.cast(self.schema))
        self._rows_of_part += batch.num_rows
        if self._rows_of_part >= ROWS_OF_A_FILE:
            self._finish_part()

    def _finish_part(self) -> None:
        if self._part is None or self._path is None:
            return
        self._part.close()
        stat = self._path.stat()
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
