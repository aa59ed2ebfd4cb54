"""Duplicates: an index of all texts and documents, and the view `record_duplicates` made from it.

A document is what a record says from an instant on. Its values depend only on the documents before
it, in the order of instants and record ids. So new arrivals change nothing before the first instant
at which a record says something else (`first_change`). From there on all documents are labelled
again, and those with other values are added to the index. Each text is read once, when it arrives.
"""

from collections.abc import Iterator
from datetime import datetime

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from transforms.features.rows import view_batches
from transforms.schemas.base import Contract
from transforms.schemas.duplicates import KnownContent, KnownDocument
from transforms.sql import model
from transforms.text.duplicates import (
    BANDS,
    HEADS,
    MIN_SIMILARITY,
    digest_contents,
    estimate_similarity,
    normalise,
    sign,
)

# bands of few texts are searched together, of many one after the other, to bound memory
KEYS_AT_ONCE = 100_000


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
    connection: duckdb.DuckDBPyConnection, batch_rows: int, now: datetime
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
    _find_parents(connection, batch_rows)
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


def _find_parents(connection: duckdb.DuckDBPyConnection, batch_rows: int) -> None:
    """Find the text that each fresh one nearly repeats, and the first of its chain of parents.

    These are the tables `parents` and `roots`.
    """
    connection.execute("create table pairs (later bigint, earlier bigint)")
    connection.execute("set variable n_heads = $n_heads", {"n_heads": HEADS})
    (n_members,) = connection.execute("select count(*) from members").fetchall()[0]
    n_bands = max(1, min(BANDS, KEYS_AT_ONCE // max(1, n_members)))
    for first in range(1, BANDS + 1, n_bands):
        bands = list(range(first, min(first + n_bands, BANDS + 1)))
        connection.execute("set variable bands = $bands", {"bands": bands})
        connection.execute(f"insert into pairs {model('duplicates/bucket_pairs')}")
    connection.execute("create table likenesses (later bigint, earlier bigint, similarity double)")
    writing = connection.cursor()
    for batch in connection.sql(model("duplicates/compared_pairs")).to_arrow_reader(batch_rows):
        likenesses = compare_pairs(pl.DataFrame(batch))
        writing.register("batch_likenesses", likenesses.to_arrow())
        writing.execute("insert into likenesses from batch_likenesses")
    connection.execute(f"create table parents as {model('duplicates/parents')}")
    parents: pl.DataFrame = connection.sql("select position, parent from parents").pl()
    connection.register("batch_roots", find_roots(parents).to_arrow())
    connection.execute("create table roots as from batch_roots")


def compare_pairs(pairs: pl.DataFrame) -> pl.DataFrame:
    """Keep the pairs of signatures that are similar enough, with their similarity.

    >>> ours, theirs = list(range(BANDS)), [-1] * BANDS
    >>> pairs = {"later": [1, 2], "earlier": [0, 0]}
    >>> pairs |= {"later_keys": [ours, theirs], "earlier_keys": [ours, ours]}
    >>> compare_pairs(pl.DataFrame(pairs)).rows()
    [(1, 0, 1.0)]
    """
    later, earlier = (
        pairs[side].explode().to_numpy().reshape(-1, BANDS)
        for side in ("later_keys", "earlier_keys")
    )
    similarity = pl.Series("similarity", estimate_similarity(later, earlier))
    return pairs.select("later", "earlier", similarity).filter(
        pl.col("similarity") >= MIN_SIMILARITY
    )


def find_roots(parents: pl.DataFrame) -> pl.DataFrame:
    """Follow each position's chain of parents to its end.

    Each step doubles the distance, so a chain of n parents takes about log2(n) steps.

    >>> find_roots(pl.DataFrame({"position": [2, 5, 9], "parent": [0, 2, 5]})).rows()
    [(0, 0), (2, 0), (5, 0), (9, 0)]
    """
    positions = np.unique(
        parents.select(pl.concat_list("position", "parent").explode()).to_series().to_numpy()
    )
    above = np.arange(len(positions))
    above[np.searchsorted(positions, parents["position"].to_numpy())] = np.searchsorted(
        positions, parents["parent"].to_numpy()
    )
    while not np.array_equal(above, further := above[above]):
        above = further
    return pl.DataFrame({"position": positions, "root": positions[above]})
