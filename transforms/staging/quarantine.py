"""Rejected rows: count them by rule, show them, and replay them once a rule or mapping is fixed."""

from collections.abc import Iterator
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa

from transforms.errors import MillraceError
from transforms.schemas.fields import SourceField
from transforms.schemas.staging import AccountedFile, QuarantinedRecord
from transforms.sources.source import Source
from transforms.sql import model
from transforms.staging.checks import refuse_replayed
from transforms.staging.prepare import (
    Account,
    account,
    finish_prepare,
    mapping_digest,
    quarantined,
    refuse_other_mapping,
    split,
    total,
)
from transforms.staging.versions import writing_versions
from transforms.warehouse.checkpoint import publish_once, replaying
from transforms.warehouse.scratch import scratch_folder
from transforms.warehouse.snapshot import connect, create_view
from transforms.warehouse.tables import Warehouse, data_files

RELATION = QuarantinedRecord.relation()


def list_rules(warehouse: Warehouse, n_loads: int = 8) -> pl.DataFrame:
    """Count the rejected rows by source, column and rule, in all and by the newest loads."""
    if warehouse.table(RELATION) is None:
        return pl.DataFrame()
    with connect(warehouse) as connection:
        rules: pl.DataFrame = connection.sql(
            model("staging/quarantine_by_rule"), params={"n_loads": n_loads}
        ).pl()
    return rules


def show(warehouse: Warehouse, rule: str | None, limit: int) -> list[dict[str, Any]]:
    """Fetch whole rejected rows, in the order of their files."""
    if warehouse.table(RELATION) is None:
        return []
    with connect(warehouse) as connection:
        rows: pl.DataFrame = connection.sql(
            model("staging/quarantine_rows"), params={"rule": rule, "n_rows": limit}
        ).pl()
    return rows.to_dicts()


def replay(source: Source, warehouse: Warehouse, *, accept_load: bool = False) -> Account:
    """Check a source's rejected rows again, by its present mapping and rules.

    A row that passes moves to staging or to the duplicate rows; any other stays, with the rule it
    breaks now. `read` of the account is how many rows were tried. A killed run or replay is
    finished first. Raises `ChecksError`, unless `accept_load`, if the keys, dates or ids of the
    rows that pass would stop a load.
    """
    if warehouse.table(RELATION) is None:
        message = f"{warehouse.settings.root}: nothing was ever quarantined here"
        raise MillraceError(message)
    finish_prepare(source, warehouse)
    finish_replay(source, warehouse)
    return _replay_until(warehouse.versions()[RELATION], source, warehouse, is_accepted=accept_load)


def finish_replay(source: Source, warehouse: Warehouse) -> None:
    """Finish a replay that was killed after its first commit, on the rows it began with."""
    begun = replaying(source.name).unfinished(warehouse, AccountedFile.relation(), RELATION)
    if begun is not None:
        refuse_other_mapping(
            warehouse, replaying(source.name), AccountedFile.relation(), begun, source
        )
        # a replay that began to commit had passed the checks or was accepted
        _replay_until(begun, source, warehouse, is_accepted=True)


def _replay_until(
    version: int, source: Source, warehouse: Warehouse, *, is_accepted: bool
) -> Account:
    """Replay the rows of one version of quarantine; each table's commit records that version."""
    transactions = replaying(source.name).at(version, mapping_digest(source))
    with scratch_folder(warehouse.settings.root) as scratch, connect(warehouse) as connection:
        files = data_files(warehouse.table_at(RELATION, version))
        create_view(connection, "tried", files, QuarantinedRecord.arrow_schema())
        connection.execute("set variable source = $name", {"name": source.name})
        connection.execute(
            "create view incoming as select * from tried where source = getvariable('source')"
        )
        buffer = scratch / "accepted"
        compared = split(connection, source, warehouse, buffer, is_replay=True)
        if not is_accepted:
            refuse_replayed(connection, source, warehouse)
        tried = account(connection, source)
        n_passed = pl.col("n_staged") + pl.col("n_duplicates")
        passed = tried.with_columns(n_read=pl.lit(0, pl.Int64), n_quarantined=-n_passed).filter(
            n_passed > 0
        )
        if passed.height:
            with writing_versions(connection, warehouse, buffer, transactions) as publish_versions:
                publish_versions(passed)
            publish_once(warehouse, SourceField, compared.batches(), transactions)
        publish_once(
            warehouse,
            QuarantinedRecord,
            _left(connection, warehouse),
            transactions,
            without=warehouse.files(RELATION),
        )
    return total(tried)


def _left(connection: duckdb.DuckDBPyConnection, warehouse: Warehouse) -> Iterator[pa.RecordBatch]:
    """Stream the rows that stay in quarantine: those that fail again, then those not tried."""
    yield from quarantined(connection, warehouse)
    yield from connection.sql(model("staging/untried")).to_arrow_reader(
        warehouse.settings.batch_rows
    )
