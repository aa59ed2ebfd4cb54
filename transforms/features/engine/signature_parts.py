"""Signatures in parts: the texts of a bucket of records, digested and signed by the same code.

Which of them are new to the index, and what they repeat, is found where all come together.
"""

import socket
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from transforms.engines.engine import Engine, engine_for
from transforms.engines.exchange import Read, exchange, tasks_of
from transforms.expressions import literal
from transforms.features.engine.duplicates import new_contents
from transforms.features.engine.parts import (
    ROWS_OF_A_BUCKET,
    STAGED,
    Place,
    checked,
    n_arrived,
    opened,
    place_of,
    records_read,
    staged_columns,
    write_touched,
)
from transforms.features.registry import registry
from transforms.features.view import Run
from transforms.paths import parquet_relation
from transforms.schemas.duplicates import KnownContent, KnownDocument
from transforms.schemas.staging import StagedRecord
from transforms.sql import model
from transforms.warehouse.scratch import scratch_folder
from transforms.warehouse.snapshot import create_changes


class OfTexts(NamedTuple):
    """The task of signing the texts of the records of one bucket."""

    number: int
    inputs: dict[str, list[str]]
    view: str
    batch_rows: int
    place: Place


class SignedTexts(NamedTuple):
    """The files of a bucket's documents and of its texts, each once, and by which code."""

    view: str
    documents: str
    contents: str
    code: int
    host: str


def engine_for_texts(run: Run) -> Engine | None:
    """Return the engine that is to sign the texts that arrived; None is this process."""
    return engine_for(run.warehouse.settings, n_arrived(run))


def signed_parts(engine: Engine, run: Run) -> Iterator[pa.RecordBatch]:
    """Have texts signed by an engine; stream those never seen before, as `new_contents` does."""
    settings, (view,) = run.warehouse.settings, run.beside
    with scratch_folder(settings.root) as folder:
        n_buckets = tasks_of(n_arrived(run), engine.n_workers, ROWS_OF_A_BUCKET)
        inputs = exchange(engine, _reads(run, folder), "record_id", n_buckets, folder, settings)
        place = place_of(settings, folder)
        tasks = [
            OfTexts(number, inputs, view.name, run.batch_rows, place) for number in range(n_buckets)
        ]
        made = [item for _, item in checked(engine.map(sign_texts, tasks), [view])]
        yield from _merged(run, made)


def _merged(run: Run, made: Sequence[SignedTexts]) -> Iterator[pa.RecordBatch]:
    """Create the tables of `new_contents` of what it made of each bucket, and stream the last."""
    documents = f"from {parquet_relation([item.documents for item in made])}"
    contents = f"from {parquet_relation([item.contents for item in made])}"
    # which of equal texts is taken does not matter: their signatures are the same
    unseen = f"{contents} anti join {KnownContent.relation()} using (content_id)"
    for table, rows in (
        ("indexed_documents", model("duplicates/indexed_documents")),
        ("arriving_documents", documents),
        ("new_contents", f"select distinct on (content_id) * from ({unseen})"),
    ):
        run.connection.execute(f"create table {table} as {rows}")
    yield from run.connection.sql("from new_contents").to_arrow_reader(run.batch_rows)


def _reads(run: Run, folder: Path) -> dict[str, Read]:
    """List what is read, by relation."""
    only = write_touched(run, folder) if run.since >= 0 else None  # at first the index is empty
    reads = records_read(run, staged_columns({"text"}), only)
    if only:
        documents = KnownDocument.relation()
        reads[documents] = Read(run.warehouse.files(documents), only=only)
    return reads


def sign_texts(task: OfTexts) -> list[SignedTexts]:
    """Digest and sign the texts of a bucket, in a worker."""
    inputs = {
        STAGED: task.inputs["added"],
        KnownDocument.relation(): [],
        KnownContent.relation(): [],  # what is known is sorted out by the driver
        **task.inputs,
    }
    with opened(task.place, inputs, task.number) as (_, connection):
        create_changes(connection, StagedRecord)
        for _ in new_contents(connection, task.batch_rows):
            pass  # the table has them
        documents, contents = (
            f"{task.place.folder}/{table}-{uuid.uuid4().hex}.parquet"
            for table in ("arriving_documents", "new_contents")
        )
        connection.execute(f"copy arriving_documents to {literal(documents)} (format parquet)")
        connection.execute(f"copy new_contents to {literal(contents)} (format parquet)")
    code = registry().views[task.view].digest()
    return [SignedTexts(task.view, documents, contents, code, socket.gethostname())]
