"""Rows in parts: slices of raw are judged by an engine, and their versions written by it.

Which rows are versions is decided in between by the driver, over the keys of all: so it does not
matter which rows came together.
"""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from transforms.engines.code import Origin, origin, refuse_other_code
from transforms.engines.engine import Engine, engine_for
from transforms.engines.exchange import (
    ROWS_OF_A_SLICE,
    Slice,
    slice_rows,
    slices_of,
    tasks_of,
)
from transforms.engines.writing import writing_part
from transforms.expressions import sealed
from transforms.home import Settings
from transforms.schemas.raw import RawRecord
from transforms.schemas.staging import Correction, StagedRecord
from transforms.sources.schema_changes import PLACE_OF_A_SHAPE
from transforms.sources.source import Source
from transforms.staging.judging import ACCEPTED, HASHES, REJECTED, Judged, judged_rows
from transforms.warehouse.publishing import Written
from transforms.warehouse.scratch import PARTS, sweep_parts
from transforms.warehouse.snapshot import connect
from transforms.warehouse.streams import read_stream, rows_of_ids, writing_stream
from transforms.warehouse.tables import Warehouse, n_rows_of

OWN = ("accepted_id", "shape_id")  # which the driver numbers
SHAPED = [*PLACE_OF_A_SHAPE, "loaded_timestamp"]
CANDIDATES = pa.schema(
    [
        *(field for field in ACCEPTED if field.name not in OWN),
        pa.field("structure", pa.string()),
        pa.field("loaded_timestamp", pa.timestamp("us", "UTC")),
        pa.field("is_good", pa.bool_()),
    ]
)


class OfRows(NamedTuple):
    """The task of judging the rows of a source in slices of raw.

    `paths` are the fields that rows probably have, `corrections` is the version of those.
    """

    slices: tuple[Slice, ...]
    source: Source
    paths: list[str]
    corrections: int
    folder: str
    settings: Settings


class JudgedRows(NamedTuple):
    """The files of a task: accepted rows, keys of all candidates, and what rules they break."""

    accepted: str
    candidates: str
    rejected: str
    origin: Origin


class OfVersions(NamedTuple):
    """The task of writing versions: rows of a file, of which another file has the numbers."""

    number: int
    accepted: str
    ids: str
    folder: str
    settings: Settings


class WrittenVersions(NamedTuple):
    """What a task wrote."""

    written: Written
    origin: Origin


class RowParts:
    """The rows of a source that arrived, as an engine works on them."""

    def __init__(
        self, engine: Engine, source: Source, warehouse: Warehouse, files: Sequence[str], run: Path
    ) -> None:
        """Take data files of raw, and the folder of the run."""
        self._engine, self._source, self._warehouse = engine, source, warehouse
        self._files, self._run = files, run
        self._n_accepted: list[int] = []

    def judged(self, connection: duckdb.DuckDBPyConnection, buffer: Path) -> Iterator[Judged]:
        """Judge all rows, and fill the folder of accepted rows."""
        settings, corrections = self._warehouse.settings, Correction.relation()
        n_rows = sum(map(n_rows_of, self._files))
        of_a_task = n_rows // tasks_of(n_rows, self._engine.n_workers, ROWS_OF_A_SLICE) + 1
        ((paths,),) = connection.sql("select getvariable('field_paths')").fetchall()
        at = self._warehouse.version(corrections)
        tasks = [
            OfRows(slices, self._source, paths, at, str(self._run), settings)
            for slices in slices_of(self._files, of_a_task)
        ]
        for number, made in enumerate(self._engine.map(judge_rows, tasks)):
            refuse_other_code(made.origin, StagedRecord.relation())
            Path(made.accepted).replace(buffer / f"{number:09}")
            self._n_accepted.append(0)
            for item in _judged(made):
                self._n_accepted[number] += item.accepted.num_rows
                yield item

    def written(self, ids: np.ndarray, buffer: Path) -> Iterator[Written]:
        """Write accepted rows into staging, by their numbers over all of them, which ascend."""
        tasks, first = [], 0
        paths = sorted(buffer.iterdir())
        for number, (path, n_rows) in enumerate(zip(paths, self._n_accepted, strict=True)):
            start, end = np.searchsorted(ids, [first, first + n_rows])
            if end > start:
                own = self._run / f"{path.name}.npy"
                np.save(own, ids[start:end] - first)
                settings = self._warehouse.settings
                tasks.append(OfVersions(number, str(path), str(own), str(self._run), settings))
            first += n_rows
        for made in self._engine.map(write_versions, tasks):
            refuse_other_code(made.origin, StagedRecord.relation())
            yield made.written


@contextmanager
def row_parts(
    source: Source, warehouse: Warehouse, versions: tuple[int, int], run: Path
) -> Iterator[RowParts | None]:
    """Open what an engine is to work on of raw, since one version up to another.

    None leaves it to this process: rows are few, or some have only moved to other files. At the
    end, files that no commit made visible are deleted.
    """
    added, removed = warehouse.changes(RawRecord.relation(), *versions)
    n_rows = 0 if removed else sum(map(n_rows_of, added))
    engine = engine_for(warehouse.settings, n_rows)
    try:
        yield RowParts(engine, source, warehouse, added, run) if engine else None
    finally:
        if engine:
            sweep_parts(warehouse, run / PARTS)


def _judged(made: JudgedRows) -> Iterator[Judged]:
    """Read what a task made; what rules are broken comes with the first batch."""
    with pa.OSFile(made.rejected) as file, pa.ipc.open_stream(file) as stream:
        rejected = stream.read_all()
    keys = [name for name in ACCEPTED.names if name not in OWN]
    rules = chain([rejected], repeat(rejected.slice(0, 0)))
    for batch, broken in zip(read_stream(Path(made.candidates)), rules, strict=False):
        is_good = batch.column("is_good")
        accepted = batch.select(keys).filter(is_good)
        good = is_good.to_numpy(zero_copy_only=False)
        yield Judged(batch.select(SHAPED), good, accepted, broken, "author_hash, text_hash")


def judge_rows(task: OfRows) -> JudgedRows:
    """Judge the rows of a task, in a worker."""
    warehouse, corrections = Warehouse(task.settings), Correction.relation()
    accepted, keys, rules = (
        Path(task.folder, f"{name}-{uuid.uuid4().hex}")
        for name in ("accepted", "candidates", "rejected")
    )
    with connect(warehouse, {corrections: task.corrections}, (corrections,)) as connection:
        connection.execute("set threads = 1")
        for name, value in (("source", task.source.name), ("field_paths", task.paths)):
            connection.execute(f"set variable {name} = $value", {"value": value})
        rows = " union all ".join(map(slice_rows, task.slices))
        own = f"select * from ({rows}) where source = getvariable('source')"
        connection.execute(f"create view incoming as {own}")
        with (
            writing_stream(keys, CANDIDATES) as candidates,
            writing_stream(rules, REJECTED) as rejected,
        ):
            for item in judged_rows(connection, task.source, warehouse, accepted, threads=1):
                candidates.write_table(_keyed(item))
                rejected.write_table(item.rejected.cast(REJECTED))
    return JudgedRows(str(accepted), str(keys), str(rules), origin())


def _keyed(item: Judged) -> pa.Table:
    """Reduce a batch of candidates to their keys, in the same order."""
    rows = pa.table(item.candidates).append_column("is_good", pa.array(item.is_good))
    with sealed(threads=1, preserve_insertion_order="true") as connection:
        connection.register("rows", rows)
        keyed = connection.sql(f"select *, {HASHES} from rows").select(*CANDIDATES.names)
        return keyed.to_arrow_table().cast(CANDIDATES)


def write_versions(task: OfVersions) -> WrittenVersions:
    """Check and write the versions of a task, in a worker."""
    warehouse = Warehouse(task.settings)
    with writing_part(StagedRecord, warehouse, Path(task.folder), task.number) as writer:
        for batch in rows_of_ids(read_stream(Path(task.accepted)), np.load(task.ids)):
            writer.write(batch)
        return WrittenVersions(Written(writer.close(), writer.n_rows), origin())
