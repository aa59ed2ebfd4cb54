"""Duplicates: an index of all texts and documents, and the view `record_duplicates` made from it.

A document is what a record says from an instant on. Its values depend only on the documents before
it, in the order of instants and record ids. So new arrivals change nothing before the first instant
at which a record says something else (`first_change`). From there on all documents are labelled
again, and those with other values are added to the index. Each text is read once, when it arrives.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from tempfile import NamedTemporaryFile

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from transforms.features.rows import view_batches
from transforms.schemas.base import Contract
from transforms.schemas.duplicates import KnownContent, KnownDocument
from transforms.sql import model
from transforms.text.duplicates import BANDS, digest_contents, normalise, sign
from transforms.text.likeness import Signed

# finds the parents of texts within some bytes of memory
Find = Callable[[Signed, int], pl.DataFrame]


def duplicate_rows(
    connection: duckdb.DuckDBPyConnection,
    contract: type[Contract],
    batch_rows: int,
    now: datetime,
    *,
    is_whole: bool,
) -> Iterator[pa.RecordBatch]:
    """Compute the new and changed rows of `record_duplicates` from the view `index_documents`.

    `is_new` marks the instants that were not published before.
    """
    published = f"from {contract.relation()} where {not is_whole}"
    connection.execute(f"create or replace view published_duplicates as {published}")
    for batch in connection.sql(model("duplicates/record_duplicates")).to_arrow_reader(batch_rows):
        created = pa.repeat(pa.scalar(now, pa.timestamp("us", "UTC")), batch.num_rows)
        yield from view_batches(
            contract, pa.table(batch).append_column("created_timestamp", created)
        )


def new_contents(
    connection: duckdb.DuckDBPyConnection, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """Digest arriving texts into `arriving_documents`; stream those never seen before, signed.

    The latter are also kept in the table `new_contents`.
    """
    columns = "record_id varchar, event_timestamp timestamptz, content_id bigint"
    connection.execute(f"create table arriving_documents ({columns})")
    connection.from_arrow(KnownContent.arrow_schema().empty_table()).create("new_contents")
    connection.execute(f"create table indexed_documents as {model('duplicates/indexed_documents')}")
    touched = (
        "record_id in (select record_id from inserted union all select record_id from deleted)"
    )
    instants = f"select record_id, event_timestamp from indexed_documents where {touched}"
    connection.execute(f"create table published_instants as {instants}")
    connection.execute(
        f"create table seen_contents as select content_id from {KnownContent.relation()}"
    )
    writing = connection.cursor()  # the first connection is busy streaming
    in_effect = (
        f"select record_id, event_timestamp, text from ({model('features/versions_in_effect')})"
    )
    for batch in connection.sql(in_effect).to_arrow_reader(batch_rows):
        documents = pl.DataFrame(batch).with_columns(normal=normalise(pl.col("text")))
        documents = documents.with_columns(content_id=digest_contents(documents["normal"]))
        writing.register(
            "batch_documents",
            documents.select("record_id", "event_timestamp", "content_id").to_arrow(),
        )
        writing.execute("insert into arriving_documents from batch_documents")
        writing.register(
            "batch_contents",
            documents.select("content_id", "normal").drop_nulls().unique("content_id").to_arrow(),
        )
        fresh: pl.DataFrame = writing.sql(
            "from batch_contents anti join seen_contents using (content_id)"
        ).pl()
        signed = (
            fresh.select("content_id", sign(fresh["normal"]))
            .to_arrow()
            .cast(KnownContent.arrow_schema())
        )
        writing.register("batch_signed", signed)
        writing.execute("insert into new_contents from batch_signed")
        writing.execute("insert into seen_contents select content_id from batch_signed")
        yield from signed.to_batches()


def changed_documents(
    connection: duckdb.DuckDBPyConnection, batch_rows: int, now: datetime, find: Find
) -> Iterator[pa.RecordBatch]:
    """Label documents from the first change on; stream those that the index lacks.

    A document that the index has with other values is among them.
    """
    connection.execute(f"set variable first_change = ({model('duplicates/first_change')})")
    known = f"select * from {KnownContent.relation()} union all select * from new_contents"
    connection.execute(f"create view signed_contents as {known}")
    is_first = not connection.execute("from indexed_documents limit 1").fetchall()
    for name in (
        "described_documents",
        "fresh_contents",
        "neighbours",
        "known_contents",
        "members",
    ):
        # a first run has no neighbours, and looking for them would cost as much as all else
        limit = "limit 0" if is_first and name == "neighbours" else ""
        connection.execute(f"create table {name} as {model(f'duplicates/{name}')} {limit}")
    _find_parents(connection, batch_rows, find)
    for name in ("labelled_contents", "labelled_documents"):
        connection.execute(f"create table {name} as {model(f'duplicates/{name}')}")
    schema = KnownDocument.arrow_schema()
    for batch in connection.sql(model("duplicates/changed_documents")).to_arrow_reader(batch_rows):
        created = pa.repeat(pa.scalar(now, pa.timestamp("us", "UTC")), batch.num_rows)
        yield from (
            pa.table(batch)
            .append_column("created_timestamp", created)
            .select(schema.names)
            .cast(schema)
            .to_batches()
        )


def _find_parents(connection: duckdb.DuckDBPyConnection, batch_rows: int, find: Find) -> None:
    """Find the text that each fresh one nearly repeats, as the table `parents`.

    Signatures are in a file beside what DuckDB spills, and a third of its memory limit comes on
    top of it for buckets and pairs.
    """
    connection.execute("set variable n_bands = $n_bands", {"n_bands": BANDS})
    limit = "parse_formatted_bytes(current_setting('memory_limit'))"
    ((folder, memory),) = connection.sql(
        f"select current_setting('temp_directory'), {limit} // 3"
    ).fetchall()
    marks = [np.empty((0, 2), bool)]
    with NamedTemporaryFile(dir=folder) as file:
        for batch in connection.sql(model("duplicates/signatures")).to_arrow_reader(batch_rows):
            marks.append(pl.DataFrame(batch).select("is_fresh", "is_signed").to_numpy())
            file.write(batch["band_keys"].flatten().to_numpy())
        file.flush()
        parents = find(Signed(Path(file.name), *np.concatenate(marks).T), memory)
    connection.register("found_parents", parents.to_arrow())
    connection.execute("create table parents as from found_parents")
