"""What parts of views have in common, however they are computed: their place and their files.

A worker sees a bucket of what a view reads as if it were all there is. It writes its files into the
view's table under names of its own, which no reader sees before the commit.
"""

import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import duckdb
import pyarrow as pa
from deltalake.transaction import AddAction

from transforms.engines.exchange import Read, bucket_rows
from transforms.engines.writing import writing_part
from transforms.errors import EngineError
from transforms.expressions import literal
from transforms.features.engine.duplicate_index import INDEX
from transforms.features.registry import registry
from transforms.features.view import Run, View
from transforms.home import Settings, settings_of
from transforms.schemas.staging import StagedRecord
from transforms.warehouse.snapshot import connect, create_view
from transforms.warehouse.tables import Warehouse, n_rows_of

ROWS_OF_A_BUCKET = 1_000_000
STAGED = StagedRecord.relation()
# what decides which version of a record is in effect
DECISIVE = {"record_id", "known_timestamp", "event_timestamp", "is_tombstone", "content_digest"}


class Place(NamedTuple):
    """What a worker cannot know by itself: the home, what is declared, the folder of the run."""

    settings: Settings
    features: str
    embedder: str | None
    folder: str


class Part(NamedTuple):
    """What a worker wrote of a view, how many rows are of new instants, and by which code.

    `incomplete` are entities of which it could compute nothing without all their records.
    """

    view: str
    files: list[AddAction]
    n_rows: int
    n_new: int
    code: int
    host: str
    incomplete: pa.Table | None = None


def n_arrived(run: Run) -> int:
    """Count the versions in the data files that were added since the views were computed."""
    return sum(map(n_rows_of, run.warehouse.changes(STAGED, run.since).added))


def place_of(settings: Settings, folder: Path) -> Place:
    """Describe the place of this process to workers."""
    declared = settings_of()
    features = os.pathsep.join(map(str, declared.feature_folders))
    embedder = str(declared.embedder) if declared.embedder else None
    return Place(settings, features, embedder, str(folder))


def staged_columns(read: Iterable[str]) -> str:
    """SQL of the columns of staging, null where nobody reads one: texts are what takes time.

    >>> "case when false then text end as text" in staged_columns({"author_id"})
    True
    """
    kept = DECISIVE.union(read)
    return ", ".join(
        name if name in kept else f"case when false then {name} end as {name}"
        for name in StagedRecord.arrow_schema().names
    )


class FromWorker(Protocol):
    """What a worker made of a view, and by which code."""

    @property
    def view(self) -> str:
        """The name of the view."""

    @property
    def code(self) -> int:
        """The digest of the code that made it."""

    @property
    def host(self) -> str:
        """Where it was made."""


Made = TypeVar("Made", bound=FromWorker)


def checked(made: Iterable[Sequence[Made]], views: Sequence[View]) -> Iterator[tuple[View, Made]]:
    """Yield what workers made of each task, with its view.

    Raises `EngineError` if it was made by other code than this process has.
    """
    by_name = {view.name: view for view in views}
    for item in (item for of_task in made for item in of_task):
        view = by_name[item.view]
        if item.code != view.digest():
            message = (
                f"{view.relation}: {item.host} computes it by other code; its millrace, "
                "declarations, Python and libraries must be those of the driver"
            )
            raise EngineError(message)
        yield view, item


def write_touched(run: Run, folder: Path) -> str:
    """Write the ids of the records of which a version was inserted or deleted; return the file."""
    path = f"{folder}/touched.parquet"
    touched = "select record_id from inserted union select record_id from deleted"
    run.connection.execute(f"copy ({touched}) to {literal(path)} (format parquet)")
    return path


def records_read(run: Run, columns: str, only: str | None) -> dict[str, Read]:
    """List what is read of records: versions that were `added` and `removed`, and those staged.

    Of those staged, the versions of the records of a file; without one all were added.
    """
    added, removed = run.warehouse.changes(STAGED, run.since)
    reads = {"added": Read(added, columns), "removed": Read(removed, columns)}
    if only:
        reads[STAGED] = Read(run.warehouse.files(STAGED), columns, only)
    return reads


@contextmanager
def opened(
    place: Place, inputs: Mapping[str, Sequence[str]], bucket: int
) -> Iterator[tuple[Warehouse, duckdb.DuckDBPyConnection]]:
    """Bring this worker to the place of the driver; open the home, and a bucket of the inputs.

    Each input is a view: a relation's, or one with the columns of staging.
    """
    os.environ["MILLRACE_FEATURES"] = place.features
    if place.embedder:
        os.environ["MILLRACE_EMBEDDER"] = place.embedder
    warehouse = Warehouse(place.settings)
    declared = (view.contract for view in registry().views.values())
    contracts = {contract.relation(): contract for contract in (*INDEX, *declared)}
    with connect(warehouse, of=()) as connection:
        connection.execute("set threads = 1")
        for name, files in inputs.items():
            schema = contracts.get(name, StagedRecord).arrow_schema()
            create_view(connection, name, [], schema)  # makes its schema, and will do for no files
            if files:
                connection.execute(f"create or replace view {name} as {bucket_rows(files, bucket)}")
        yield warehouse, connection


def write_parts(
    rows: Iterable[tuple[View, pa.RecordBatch]],
    views: Sequence[View],
    warehouse: Warehouse,
    place: Place,
    task: int,
) -> list[Part]:
    """Check and write rows that come with the column `is_new`."""
    with ExitStack() as stack:
        writers = {
            view: stack.enter_context(
                writing_part(view.contract, warehouse, Path(place.folder), task)
            )
            for view in views
        }
        n_new = dict.fromkeys(views, 0)
        for view, batch in rows:
            n_new[view] += batch.column("is_new").true_count
            writers[view].write(batch.drop_columns("is_new"))
        host = socket.gethostname()
        return [
            Part(view.name, writer.close(), writer.n_rows, n_new[view], view.digest(), host)
            for view, writer in writers.items()
        ]
