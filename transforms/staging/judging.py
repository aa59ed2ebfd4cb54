"""From raw rows to judged candidates: mapped, redacted and checked, each by itself.

What depends on other rows does not belong here: which rows are versions, and how fields changed.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from transforms.expressions import sealed
from transforms.profiles.profile import FEW_ROWS
from transforms.schemas.base import digest_of
from transforms.schemas.staging import StagedRecord
from transforms.sources.source import Source
from transforms.sql import model
from transforms.staging.checks import day_order
from transforms.staging.mapping import DECODED, candidates_parameters, candidates_sql, decode_rows
from transforms.text.pii import redact
from transforms.warehouse.rewrite import PLACE
from transforms.warehouse.snapshot import read_few
from transforms.warehouse.streams import writing_stream
from transforms.warehouse.tables import Warehouse

FEW_BYTES = 1 << 24
REJECTED = pa.schema(
    {
        "load_id": pa.string(),
        "source_uri": pa.string(),
        "row_number": pa.int64(),
        "column": pa.string(),
        "rule": pa.string(),
        "digest": pa.string(),
        "day_order": pa.string(),
    }
)
ACCEPTED = pa.schema(
    {
        "accepted_id": pa.int64(),
        "shape_id": pa.int64(),
        "load_id": pa.string(),
        "record_id": pa.string(),
        "source_uri": pa.string(),
        "row_number": pa.int64(),
        "content_digest": pa.string(),
        "event_timestamp": pa.timestamp("us", "UTC"),
        "known_timestamp": pa.timestamp("us", "UTC"),
        "author_hash": pa.uint64(),
        "text_hash": pa.uint64(),
    }
)
KEYED = [name for name in ACCEPTED.names if not name.endswith("_hash")]
# author and text, for checks and profile; a tombstone has no author and may have no text
HASHES = """case when not is_tombstone then hash(author_id) end as author_hash,
    case when text is not null then hash(text) end as text_hash"""


class Judged(NamedTuple):
    """A batch of candidates, which of them are good, and those; what rules the others break.

    Of `candidates`, the columns that shapes are counted by are read, of `accepted` the keys.
    `hashes` is SQL of the hashes of author and text.
    """

    candidates: pa.RecordBatch
    is_good: np.ndarray
    accepted: pa.RecordBatch
    rejected: pa.Table
    hashes: str = HASHES


def judged_rows(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    warehouse: Warehouse,
    path: Path,
    **options: int,
) -> Iterator[Judged]:
    """Map `incoming` to candidates and check them, batch by batch.

    The accepted rows are written to a stream. `options` are DuckDB's, of the connection that maps.
    """
    create_documents(connection, source, warehouse)
    schema, is_few = StagedRecord.arrow_schema(), _are_few(connection)
    with (
        _candidates(connection, source, warehouse, is_few=is_few, **options) as candidates,
        writing_stream(path, schema) as stream,
    ):
        for batch in (redact_texts(batch, source) for batch in candidates):
            rejected = judge(pl.DataFrame(batch.drop_columns("structure")))
            is_good = np.ones(batch.num_rows, bool)
            is_good[rejected["row"].to_numpy()] = False
            accepted = batch.select(schema.names).filter(pa.array(is_good)).cast(schema)
            stream.write_batch(accepted)
            broken = rejected.select(REJECTED.names).to_arrow()
            yield Judged(batch, is_good, accepted, broken)


@contextmanager
def _candidates(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    warehouse: Warehouse,
    *,
    is_few: bool,
    **options: int,
) -> Iterator[pa.RecordBatchReader]:
    """Apply the source's expressions to `documents`, on a connection that can read nothing else."""
    settings = warehouse.settings
    with sealed(settings.memory_limit, **options) as mapping:
        mapping.register(
            "documents", connection.sql("from documents").to_arrow_reader(settings.batch_rows)
        )
        sql, parameters = candidates_sql(source), candidates_parameters(source)
        candidates = (
            read_few(mapping, sql, parameters) if is_few else mapping.sql(sql, params=parameters)
        )
        yield candidates.to_arrow_reader(settings.batch_rows)


def _are_few(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether `incoming` has few rows, and they are small."""
    first = f"select octet_length(payload) as size from incoming limit {FEW_ROWS}"
    ((n_rows, n_bytes),) = connection.execute(
        f"select count(*), coalesce(sum(size), 0) from ({first})"
    ).fetchall()
    return bool(n_rows < FEW_ROWS and n_bytes < FEW_BYTES)


def redact_texts(candidates: pa.RecordBatch, source: Source) -> pa.RecordBatch:
    """Add `text_redacted`; with `text: redact` in the source file it replaces the text too."""
    texts = pl.LazyFrame({"text": pl.Series(candidates.column("text"), dtype=pl.String)})
    # the streaming engine uses all cores; to start it costs more than few texts
    redacted = (
        texts.select(redact(pl.col("text")))
        .collect(engine="streaming" if candidates.num_rows >= FEW_ROWS else "in-memory")
        .to_series()
        .to_arrow()
        .cast(pa.string())
    )
    if source.text == "redact":
        candidates = candidates.set_column(
            candidates.schema.get_field_index("text"), "text", redacted
        )
    return candidates.append_column("text_redacted", redacted)


def judge(candidates: pl.DataFrame) -> pl.DataFrame:
    """Check candidates by `StagedRecord`; return a row for each that breaks it.

    The row has the candidate's position, the column and rule, and a digest of the value.
    """
    candidates = candidates.with_row_index("row")
    is_read = pl.col("rejected_rule").is_null()
    raw = ("event_raw", "known_raw")
    reasons = {"column": "rejected_column", "rule": "rejected_rule", "value": "rejected_value"}
    unread = candidates.filter(~is_read).select("row", *PLACE, *raw, **reasons)
    read = candidates.filter(is_read)
    failures = StagedRecord.failures(read.select(StagedRecord.arrow_schema().names))
    failing = read[failures["row"].to_list()].with_columns(failures["column", "rule"])
    values: list[pl.Expr] = [
        pl.when(pl.col("column") == name).then(pl.col(name).cast(pl.String))
        for name in failures["column"].unique()
    ]
    failed = failing.select(
        "row",
        *PLACE,
        *raw,
        "column",
        "rule",
        value=pl.coalesce(values or [pl.lit(None, pl.String)]),
    )
    # the value is text of the source, which must not be stored here
    digest = pl.col("value").map_elements(digest_of, return_dtype=pl.String, skip_nulls=True)
    is_time = pl.col("rule").is_in(["not_a_time", "not_nullable", "expression_failed"])
    written = pl.coalesce(
        pl.when(is_time & (pl.col("column") == column)).then(text)
        for column, text in (("event_timestamp", "event_raw"), ("known_timestamp", "known_raw"))
    )
    judged = pl.concat([unread, failed]).with_columns(digest=digest, day_order=day_order(written))
    return judged.drop("value", *raw)


def create_documents(
    connection: duckdb.DuckDBPyConnection, source: Source, warehouse: Warehouse
) -> None:
    """Create view `documents` of `incoming`; only UTF-8 JSON can be decoded in SQL."""
    limit = warehouse.settings.max_record_bytes
    connection.execute(f"create view corrected_rows as {_corrected_rows(connection)}")
    has_header = connection.execute("select count(header) from incoming").fetchall()
    if source.payload_encoding == "utf-8" and has_header == [(0,)]:
        connection.execute("set variable max_record_bytes = $limit", {"limit": limit})
        sql = model("staging/decoded").replace(
            "$max_record_bytes", "getvariable('max_record_bytes')"
        )
        connection.execute(f"create view decoded as {sql}")
    else:
        # reads while `connection` runs the query over these rows; a cursor has its own variables
        cursor = connection.cursor()
        cursor.execute("set variable source = $name", {"name": source.name})
        raw = cursor.sql("select * from corrected_rows").to_arrow_reader(
            warehouse.settings.batch_rows
        )
        connection.register(
            "decoded", pa.RecordBatchReader.from_batches(DECODED, decode_rows(raw, source, limit))
        )
    connection.execute(f"create view documents as {model('staging/documents')}")


def _corrected_rows(connection: duckdb.DuckDBPyConnection) -> str:
    """Compose the query for `incoming` as corrected, with a join only if there are corrections."""
    is_corrected = False
    with suppress(duckdb.CatalogException):  # a connection without that table
        found = connection.execute("select 1 from quarantine.corrections limit 1").fetchall()
        is_corrected = bool(found)
    return model("staging/corrected_rows") if is_corrected else "select * from incoming"
