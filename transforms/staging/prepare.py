"""raw -> staging: parse, map and check rows, set duplicates and rejects aside, count them all."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from transforms.errors import SchemaChangedError, SourceError
from transforms.profiles.drift import watch
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
from transforms.staging.checks import watch_checks
from transforms.staging.judging import ACCEPTED, KEYED, REJECTED, judged_rows
from transforms.staging.row_parts import RowParts, row_parts
from transforms.staging.treatment import keep_treatment
from transforms.staging.versions import decide, writing_versions
from transforms.warehouse.checkpoint import Consumer, preparing, publish_once
from transforms.warehouse.publishing import refuse_other_columns
from transforms.warehouse.rewrite import PLACE
from transforms.warehouse.scratch import scratch_folder
from transforms.warehouse.snapshot import connect, create_arrivals
from transforms.warehouse.tables import Warehouse

MAX_STOPS = 8
# the tables that are read beside what arrives
READ = (
    *(StagedRecord.relation(), DuplicateRow.relation(), Correction.relation()),
    *(AccountedFile.relation(), SourceField.relation()),
    *(ColumnProfile.relation(), DriftStatistic.relation()),
)
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
        connect(warehouse, of=READ) as connection,
        row_parts(source, warehouse, (consumed, version), scratch) as parts,
    ):
        create_arrivals(connection, warehouse, RawRecord, consumed, version)
        connection.execute("set variable source = $name", {"name": source.name})
        connection.execute(
            "create view incoming as select * from inserted where source = getvariable('source')"
        )
        buffer = scratch / "accepted"
        compared = split(connection, source, warehouse, buffer, parts)
        if not accepted.schema:
            refuse_stops(source, compared)
        transactions = preparing(source.name).at(version, mapping_digest(source))
        accounts = account(connection, source)
        watch_checks(connection, source, warehouse, is_accepted=accepted.load)
        with writing_versions(
            connection, warehouse, buffer, transactions, parts
        ) as publish_versions:
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
    parts: RowParts | None = None,
    *,
    is_replay: bool = False,
) -> Compared:
    """Split `incoming` into tables `accepted` and `rejected`, and decide which rows are versions.

    Returns the fields of the rows, compared with those of earlier loads. Table `accepted` has the
    keys alone, on which `decide` sorts. The whole rows wait in the folder `buffer` as Arrow, since
    inserting a million texts into DuckDB took as long as parsing them. With `parts`, an engine
    judges the rows.
    """
    known = known_fields(connection, source.name, [] if is_replay else loads_of(connection))
    shapes = Shapes(expect(connection, source, known))
    writer = connection.cursor()
    _create_table(writer, "accepted", ACCEPTED)
    _create_table(writer, "rejected", REJECTED)
    n_accepted = 0
    buffer.mkdir()
    judged = (
        parts.judged(connection, buffer)
        if parts
        else judged_rows(connection, source, warehouse, buffer / "0")
    )
    for item in judged:
        shape_ids = shapes.count(item.candidates)
        ids = np.arange(n_accepted, n_accepted + item.accepted.num_rows)
        keyed = (
            pa.table(item.accepted)
            .append_column("accepted_id", pa.array(ids))
            .append_column("shape_id", pa.array(shape_ids[item.is_good]))
        )
        _insert(writer, "accepted", keyed, f"{', '.join(KEYED)}, {item.hashes}")
        _insert(writer, "rejected", item.rejected)
        n_accepted += item.accepted.num_rows
        warehouse.report("candidates", item.candidates.num_rows, item.candidates.nbytes)
    compared = compare(shapes, known, source, is_replay=is_replay)
    _reject_shapes(connection, compared.rejected)
    decide(connection)
    return compared


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
