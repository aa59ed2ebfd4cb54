"""Files in parts: workers read files into raw, whole ones or extents of large ones.

A file is cut where rows end without a look into them: JSONL after line feeds, Parquet between row
groups. What is compressed, converted or CSV can only be read from its start.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.engines.code import Origin, origin, refuse_other_code
from transforms.engines.engine import Engine
from transforms.engines.exchange import slices_of
from transforms.engines.writing import writing_part
from transforms.errors import EngineError, FileRefusedError
from transforms.home import Settings
from transforms.schemas.raw import RawRecord
from transforms.sources.loads import Load, NewFile, begin_load
from transforms.sources.reading import Extent, read_rows
from transforms.sources.source import Source, SourceFile
from transforms.warehouse.publishing import Written, publishing
from transforms.warehouse.scratch import PARTS, scratch_folder, sweep_parts
from transforms.warehouse.tables import Warehouse

# with fewer bytes a task costs more than its work
LEAST_BYTES = 16 << 20
# a worker has so much in memory while it counts lines
MOST_BYTES = 64 << 20


class OfCut(NamedTuple):
    """The task of cutting a file into extents of about so many bytes."""

    file: SourceFile
    n_bytes: int


class OfFiles(NamedTuple):
    """The task of reading files into raw, or an extent of one file."""

    number: int
    files: Sequence[NewFile]
    extent: Extent | None
    source: Source
    load: Load
    folder: str
    settings: Settings


class Refusal(NamedTuple):
    """Why a worker has refused a file, and whether the file is not there at all."""

    message: str
    is_absent: bool


class WrittenFiles(NamedTuple):
    """What a task wrote, and which files it refused."""

    written: Written
    refused: dict[NewFile, Refusal]
    origin: Origin


class Loaded(NamedTuple):
    """How many rows of files are in raw, and why those of other files are not."""

    n_rows: int
    refused: list[str]


def publish_by_workers(
    engine: Engine, files: Sequence[NewFile], source: Source, warehouse: Warehouse
) -> Loaded:
    """Publish files in one commit, without those that workers refuse.

    Raises `AlreadyPublishedError` if another run has loaded one of them, and `EngineError` if a
    worker has other code or does not see a file.
    """
    settings, load = warehouse.settings, begin_load(source.name)
    transactions = {new.transaction: 1 for new in files}
    with (
        scratch_folder(settings.root) as run,
        publishing(warehouse, RawRecord, transactions) as publication,
    ):
        try:
            tasks = [
                OfFiles(number, of_task, extent, source, load, str(run), settings)
                for number, (of_task, extent) in enumerate(_divided(engine, files, source))
            ]
            made = list(_made(engine, tasks))
            refused = _refused(made)
            for item in made:
                publication.adopt(*item.written)
            for new in refused:
                del transactions[new.transaction]
            n_rows = publication.commit().n_rows if transactions else 0
        finally:
            sweep_parts(warehouse, run / PARTS)
    return Loaded(n_rows, [refused[new] for new in files if new in refused])


def group_files(files: Sequence[NewFile], n_bytes: int) -> Iterator[list[NewFile]]:
    """Split files into groups of at most so many bytes, a larger file alone."""
    group: list[NewFile] = []
    n_of_group = 0
    for new in files:
        if group and n_of_group + new.n_bytes > n_bytes:
            yield group
            group, n_of_group = [], 0
        group.append(new)
        n_of_group += new.n_bytes
    if group:
        yield group


def _divided(
    engine: Engine, files: Sequence[NewFile], source: Source
) -> Iterator[tuple[Sequence[NewFile], Extent | None]]:
    """Divide files into tasks: extents of large files where they can be cut, groups of others.

    There are several tasks for each worker, so that none waits long for the last one.
    """
    of_a_worker = sum(new.n_bytes for new in files) // engine.n_workers
    of_a_task = min(max(of_a_worker // 2, LEAST_BYTES), MOST_BYTES)
    large = [new for new in files if new.n_bytes > of_a_task and _can_be_cut(new.file, source)]
    tasks = [OfCut(new.file, of_a_task) for new in large]
    cuts = engine.map(cut_file, tasks) if tasks else ()
    cut = {new: found for new, found in zip(large, cuts, strict=True) if len(found) > 1}
    yield from (([new], extent) for new, extents in cut.items() for extent in extents)
    others = group_files([new for new in files if new not in cut], of_a_task)
    yield from ((group, None) for group in others)


def _can_be_cut(file: SourceFile, source: Source) -> bool:
    is_lines = file.format == "jsonl" and not file.compression and not source.is_transcoded
    return is_lines or file.format == "parquet"


def cut_file(task: OfCut) -> list[Extent]:
    """Cut a file, in a worker; of one that cannot be read there are no extents."""
    cut = _row_groups if task.file.format == "parquet" else _lines
    with suppress(OSError, pa.ArrowException):
        return list(cut(task.file.path, task.n_bytes))
    return []


def _lines(path: Path, n_bytes: int) -> Iterator[Extent]:
    """Cut a file after line feeds; the last line may lack one."""
    first, first_row = 0, 1
    with path.open("rb") as stream:
        while chunk := stream.read(n_bytes):
            line = stream.readline()
            is_open = not (line or chunk).endswith(b"\n")
            n_rows = chunk.count(b"\n") + line.count(b"\n") + is_open
            end = first + len(chunk) + len(line)
            yield Extent(first, end, first_row, n_rows)
            first, first_row = end, first_row + n_rows


def _row_groups(path: Path, n_bytes: int) -> Iterator[Extent]:
    """Cut a Parquet file between row groups."""
    n_rows = pq.read_metadata(path).num_rows * n_bytes // path.stat().st_size
    for slices in slices_of([str(path)], n_rows):
        for item in slices:
            yield Extent(item.first, item.end, item.first + 1, item.end - item.first)


def write_files(task: OfFiles) -> WrittenFiles:
    """Read the files of a task into raw, in a worker; one that is refused leaves nothing there."""
    warehouse, files = Warehouse(task.settings), list(task.files)
    refused: dict[NewFile, Refusal] = {}
    while True:
        try:
            with writing_part(RawRecord, warehouse, Path(task.folder), task.number) as writer:
                for new in files:
                    of = (new.file, task.source, task.load, task.settings.batch_rows, task.extent)
                    for batch in read_rows(*of, threads=1):
                        writer.write(batch)
                return WrittenFiles(Written(writer.close(), writer.n_rows), refused, origin())
        except FileRefusedError as error:
            refused[new] = Refusal(str(error), not new.file.path.exists())
            files.remove(new)


def _made(engine: Engine, tasks: Sequence[OfFiles]) -> Iterator[WrittenFiles]:
    """Let workers read files; a cut one of which they refuse an extent is read again, whole.

    So a file is refused for the reason that one process finds, or not at all: DuckDB cannot number
    the rows of a file with a column `file_row_number`.
    """
    made = list(zip(tasks, engine.map(write_files, tasks), strict=True))
    again = {
        task.files[0]: task._replace(extent=None)
        for task, item in made
        if task.extent and item.refused
    }
    yield from (item for task, item in made if not again.keys() & task.files)
    if again:
        yield from engine.map(write_files, list(again.values()))


def _refused(made: Sequence[WrittenFiles]) -> dict[NewFile, str]:
    """Collect why files are refused; raises `EngineError` if a worker cannot do its work."""
    messages: dict[NewFile, str] = {}
    for item in made:
        refuse_other_code(item.origin, RawRecord.relation())
        for new, refusal in item.refused.items():
            if refusal.is_absent and new.file.path.exists():
                message = (
                    f"{new.file.place}: {item.origin.host} has no such file; have its folder there "
                    "too, at the same path"
                )
                raise EngineError(message)
            messages[new] = refusal.message
    return messages
