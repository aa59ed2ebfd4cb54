"""raw -> staging: parse, map and check rows, set duplicates and rejects aside, count them all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from transforms.errors import SchemaChangedError, SourceError
from transforms.expressions import sealed
from transforms.profiles.drift import watch
from transforms.profiles.profile import FEW_ROWS
from transforms.schemas.base import Contract, digest_of
from transforms.schemas.fields import SourceField
from transforms.schemas.profiles import ColumnProfile, DriftStatistic, LoadCheck
from transforms.schemas.raw import RawRecord
from transforms.schemas.staging import (
    AccountedFile,
    Correction,
    DuplicateRow,
    QuarantinedRecord,
    StagedRecord,
)
from transforms.sources.schema_changes import (
    Compared,
    RejectedShape,
    Shapes,
    compare,
    expect,
    known_fields,
)
from transforms.sources.source import Source
from transforms.sql import model
from transforms.staging.checks import day_order, watch_checks
from transforms.staging.mapping import DECODED, candidates_parameters, candidates_sql, decode_rows
from transforms.staging.treatment import keep_treatment
from transforms.staging.versions import decide, writing_versions
from transforms.text.pii import redact
from transforms.warehouse.checkpoint import Consumer, preparing, publish_once
from transforms.warehouse.publishing import refuse_other_columns
from transforms.warehouse.rewrite import PLACE
from transforms.warehouse.scratch import scratch_folder
from transforms.warehouse.snapshot import connect, create_arrivals
from transforms.warehouse.tables import Warehouse

MAX_STOPS = 8
OF_LOADS = ("raw.", "staging.", "quarantine.", "accounting.", "profiles.")
# keys of a source that do not affect how a row is staged
UNMAPPED = {
    "uri",
    "table",
    "query",
    "cursor",
    "key",
    "lag",
    "deletes",
    "drift",
    "max_quarantined_ratio",
    "warn_quarantined_ratio",
    "max_collision_ratio",
}
FIX = (
    "name a new field in `record` or `attributes`, set `schema: evolve`, "
    "or accept all fields as they are, once: millrace run --accept-schema"
)
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

WRITTEN: tuple[type[Contract], ...] = (
    *(RawRecord, StagedRecord, DuplicateRow, QuarantinedRecord),
    *(Correction, AccountedFile, SourceField, ColumnProfile, DriftStatistic, LoadCheck),
)


class Account(NamedTuple):
    """What became of rows; `read` is the sum of the others."""

    read: int = 0
    staged: int = 0
    duplicates: int = 0
    quarantined: int = 0


class Accepted(NamedTuple):
    """What is accepted this once although it would stop a run."""

    schema: bool
    drift: bool
    load: bool


def prepare(
    source: Source,
    warehouse: Warehouse,
    *,
    accept_schema: bool = False,
    accept_drift: bool = False,
    accept_load: bool = False,
    until: int | None = None,
) -> Account:
    """Stage the raw rows of a source that are not staged yet; first finish a killed run or replay.

    `until` is the version of raw to go up to, by default the newest.

    Raises `SourceError` if that began with another mapping. Unless it is accepted, and before
    anything but profiles is committed, raises `SchemaChangedError` if fields of a frozen source
    changed, `ChecksError` if a check stops a load, `DriftError` if a load differs too much from
    those before it.
    """
    # imports this module
    from transforms.staging.quarantine import finish_replay

    keep_treatment(warehouse.settings.root, source)
    for contract in WRITTEN:
        warehouse.create(contract)
        refuse_other_columns(warehouse, contract)
    if is_prepared(source, warehouse):
        return Account()
    finish_replay(source, warehouse)
    finished = finish_prepare(source, warehouse)
    if is_prepared(source, warehouse):
        return finished
    newest = warehouse.versions()[RawRecord.relation()] if until is None else until
    if newest <= preparing(source.name).consumed(warehouse, StagedRecord.relation()):
        return finished
    accepted = Accepted(accept_schema, accept_drift, accept_load)
    staged = _prepare_until(newest, source, warehouse, accepted)
    return Account(*map(sum, zip(finished, staged, strict=True)))


def finish_prepare(source: Source, warehouse: Warehouse) -> Account:
    """Finish a run that was killed after its first commit, at the version of raw it began with."""
    begun = preparing(source.name).unfinished(
        warehouse, QuarantinedRecord.relation(), StagedRecord.relation()
    )
    if begun is None:
        return Account()
    refuse_other_mapping(
        warehouse, preparing(source.name), QuarantinedRecord.relation(), begun, source
    )
    # a run that began to commit had passed the checks or was accepted
    return _prepare_until(begun, source, warehouse, Accepted(schema=True, drift=True, load=True))


def _prepare_until(
    version: int, source: Source, warehouse: Warehouse, accepted: Accepted
) -> Account:
    """Stage what arrived up to a version of raw."""
    consumed = preparing(source.name).consumed(warehouse, StagedRecord.relation())
    with (
        scratch_folder(warehouse.settings.root) as scratch,
        connect(warehouse, of=OF_LOADS) as connection,
    ):
        create_arrivals(connection, warehouse, RawRecord, consumed, version)
        connection.execute("set variable source = $name", {"name": source.name})
        connection.execute(
            "create view incoming as select * from inserted where source = getvariable('source')"
        )
        buffer = scratch / "accepted.arrow"
        compared = split(connection, source, warehouse, buffer)
        if not accepted.schema:
            refuse_stops(source, compared)
        transactions = preparing(source.name).at(version, mapping_digest(source))
        accounts = account(connection, source)
        watch_checks(connection, source, warehouse, is_accepted=accepted.load)
        with writing_versions(connection, warehouse, buffer, transactions) as publish_versions:
            watch(connection, source, warehouse, buffer, is_accepted=accepted.drift)
            publish_once(
                warehouse, QuarantinedRecord, quarantined(connection, warehouse), transactions
            )
            publish_once(warehouse, SourceField, compared.batches(), transactions)
            publish_versions(accounts)
    return total(accounts)


def mapping_digest(source: Source) -> str:
    """Digest the keys that decide how a row is staged; `ids: shared` stages as no `ids` does."""
    return digest_of(
        source.model_dump_json(exclude=UNMAPPED | (set() if source.ids == "own" else {"ids"}))
    )


def refuse_other_mapping(
    warehouse: Warehouse, consumer: Consumer, relation: str, begun: int, source: Source
) -> None:
    """Raise `SourceError` if a killed run or replay began with another mapping of the source."""
    if not consumer.is_on_basis(warehouse, relation, begun, mapping_digest(source)):
        message = (
            f"{source.name}: its source file was edited after a run that was killed half-way; "
            "put the old one back, run it once so that the run is finished, then edit"
        )
        raise SourceError(message)


def is_prepared(source: Source, warehouse: Warehouse) -> bool:
    """Check whether `prepare` has read all raw rows for this source."""
    version = warehouse.versions().get(RawRecord.relation(), -1)
    return preparing(source.name).consumed(warehouse, StagedRecord.relation()) == version


def n_unstaged(source: Source, warehouse: Warehouse) -> int:
    """Count the raw rows, of any source, that `prepare` would read for this one."""
    return warehouse.n_rows(
        RawRecord.relation(),
        since=preparing(source.name).consumed(warehouse, StagedRecord.relation()),
    )


def refuse_stops(source: Source, compared: Compared) -> None:
    """Raise `SchemaChangedError` if the fields of a frozen source have changed."""
    if not compared.stops:
        return
    n_more = len(compared.stops) - MAX_STOPS
    changes = [*compared.stops[:MAX_STOPS], *([f"and {n_more:,} more"] if n_more > 0 else [])]
    head = f"{source.name}: fields have changed under `schema: freeze`, so nothing new was staged:"
    message = "\n  ".join([head, *changes, FIX])
    raise SchemaChangedError(message)


def split(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    warehouse: Warehouse,
    buffer: Path,
    *,
    is_replay: bool = False,
) -> Compared:
    """Split `incoming` into tables `accepted` and `rejected`, and decide which rows are versions.

    Returns the fields of the rows, compared with those of earlier loads. Table `accepted` has the
    keys alone, on which `decide` sorts. The whole rows wait in `buffer` as Arrow, since inserting a
    million texts into DuckDB took as long as parsing them.
    """
    known = known_fields(connection, source.name, [] if is_replay else loads_of(connection))
    shapes = Shapes(expect(connection, source, known))
    create_documents(connection, source, warehouse)
    writer = connection.cursor()
    _create_table(writer, "accepted", ACCEPTED)
    _create_table(writer, "rejected", REJECTED)
    n_accepted = 0
    with (
        _candidates(connection, source, warehouse) as candidates,
        pa.OSFile(str(buffer), "wb") as file,
        pa.ipc.new_stream(file, StagedRecord.arrow_schema()) as stream,
    ):
        for batch in (redact_texts(batch, source) for batch in candidates):
            shape_ids = shapes.count(batch)
            rejected = judge(pl.DataFrame(batch.drop_columns("structure")))
            good = np.ones(batch.num_rows, bool)
            good[rejected["row"].to_numpy()] = False
            accepted = batch.select(StagedRecord.arrow_schema().names).filter(pa.array(good))
            stream.write_batch(accepted.cast(StagedRecord.arrow_schema()))
            ids = np.arange(n_accepted, n_accepted + accepted.num_rows)
            keyed = (
                pa.table(accepted)
                .append_column("accepted_id", pa.array(ids))
                .append_column("shape_id", pa.array(shape_ids[good]))
            )
            _insert(writer, "accepted", keyed, f"{', '.join(KEYED)}, {HASHES}")
            _insert(writer, "rejected", rejected.select(REJECTED.names).to_arrow())
            n_accepted += accepted.num_rows
            warehouse.report("candidates", batch.num_rows, batch.nbytes)
    compared = compare(shapes, known, source, is_replay=is_replay)
    _reject_shapes(connection, compared.rejected)
    decide(connection)
    return compared


@contextmanager
def _candidates(
    connection: duckdb.DuckDBPyConnection, source: Source, warehouse: Warehouse
) -> Iterator[pa.RecordBatchReader]:
    """Apply the source's expressions to `documents`, on a connection that can read nothing else."""
    settings = warehouse.settings
    with sealed(settings.memory_limit) as mapping:
        mapping.register(
            "documents", connection.sql("from documents").to_arrow_reader(settings.batch_rows)
        )
        yield mapping.sql(
            candidates_sql(source), params=candidates_parameters(source)
        ).to_arrow_reader(settings.batch_rows)


def loads_of(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Name the loads of the incoming rows."""
    return [
        load for (load,) in connection.execute("select distinct load_id from incoming").fetchall()
    ]


def _reject_shapes(connection: duckdb.DuckDBPyConnection, rejected: list[RejectedShape]) -> None:
    """Move the rows of rejected shapes from table `accepted` to table `rejected`."""
    if not rejected:
        return
    shapes = pl.DataFrame(rejected, RejectedShape._fields, orient="row")
    connection.register("rejected_shapes", shapes)
    columns = f"{', '.join(PLACE)}, rejected_shapes.column, rejected_shapes.rule"
    rows = f"select {columns} from accepted join rejected_shapes using (shape_id)"
    connection.execute(f"insert into rejected by name {rows}")
    connection.execute(
        "delete from accepted where shape_id in (select shape_id from rejected_shapes)"
    )


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


def account(connection: duckdb.DuckDBPyConnection, source: Source) -> pl.DataFrame:
    """Count what became of the incoming rows, in one row per file.

    Raises `GateError`, before anything is committed, if the counts do not add up.
    """
    accounts: pl.DataFrame = connection.sql(
        model("staging/accounting"), params={"source": source.name}
    ).pl()
    return AccountedFile.gate(accounts)


def total(accounts: pl.DataFrame) -> Account:
    """Add up the accounts of files.

    >>> counts = {"n_read": [3, 2], "n_staged": [2, 1], "n_duplicates": [0, 1]}
    >>> total(pl.DataFrame({**counts, "n_quarantined": [1, 0]}))
    Account(read=5, staged=3, duplicates=1, quarantined=1)
    """
    return Account(*(int(accounts[f"n_{name}"].sum()) for name in Account._fields))


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
    table = "table_schema = 'quarantine' and table_name = 'corrections'"
    is_corrected = (
        connection.execute(f"select 1 from information_schema.tables where {table}").fetchall()
        and connection.execute("select 1 from quarantine.corrections limit 1").fetchall()
    )
    return model("staging/corrected_rows") if is_corrected else "select * from incoming"


def quarantined(
    connection: duckdb.DuckDBPyConnection, warehouse: Warehouse
) -> Iterator[pa.RecordBatch]:
    """Stream the whole rejected rows, each with the rule it breaks."""
    rows = connection.sql(
        model("staging/quarantine"), params={"schema_version": StagedRecord.version()}
    )
    return iter(rows.to_arrow_reader(warehouse.settings.batch_rows))


def _create_table(connection: duckdb.DuckDBPyConnection, name: str, schema: pa.Schema) -> None:
    connection.register("shape", schema.empty_table())
    connection.execute(f"create table {name} as select * from shape")
    connection.unregister("shape")


def _insert(
    connection: duckdb.DuckDBPyConnection, table: str, rows: pa.Table, columns: str = "*"
) -> None:
    if rows.num_rows:
        connection.register("batch", rows)
        connection.execute(f"insert into {table} by name select {columns} from batch")
        connection.unregister("batch")
