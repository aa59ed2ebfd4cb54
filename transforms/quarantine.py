"""Rejected rows: what keeps them out, one of them whole, and another try once a rule or the mapping is mended."""

from typing import Any

import polars as pl
from deltalake import write_deltalake

from transforms.errors import MillraceError
from transforms.prepare import Account, account, kept_versions, publish_once, quarantined, split, total
from transforms.schemas.staging import AccountedFile, QuarantinedRecord, StagedRecord
from transforms.source import Source
from transforms.sql import model
from transforms.warehouse import Warehouse

RELATION = QuarantinedRecord.relation()


def list_rules(warehouse: Warehouse) -> pl.DataFrame:
    """Count the rejected rows by source, column and rule."""
    if warehouse.table(RELATION) is None:
        return pl.DataFrame()
    with warehouse.connect() as connection:
        rules: pl.DataFrame = connection.sql(model("staging/quarantine_by_rule")).pl()
    return rules


def show(warehouse: Warehouse, rule: str | None, limit: int) -> list[dict[str, Any]]:
    """Fetch rejected rows, whole, in the order of their files."""
    if warehouse.table(RELATION) is None:
        return []
    with warehouse.connect() as connection:
        rows: pl.DataFrame = connection.sql(f"select * from {RELATION}").pl().filter(pl.lit(rule is None) | (pl.col("rule") == rule))
    return rows.sort("source_uri", "row_number").head(limit).to_dicts()


def replay(source: Source, warehouse: Warehouse) -> Account:
    """Hold a source's rejected rows against its mapping and rules as they are now.

    What passes moves to staging (or counts as a duplicate), the rest stays with the rule it breaks now. `read` of the
    account is how many were tried. A replay that is killed is finished by the next: staging and the accounting commit once
    for the quarantine's version, which the last commit raises.
    """
    table = warehouse.table(RELATION)
    if table is None:
        message = f"{warehouse.settings.root}: nothing was ever quarantined here"
        raise MillraceError(message)
    transactions = {f"replay:{source.name}": table.version()}
    with warehouse.scratch() as scratch, warehouse.connect() as connection:
        connection.execute("set variable source = $name", {"name": source.name})
        connection.execute(f"create view incoming as select * from {RELATION} where source = getvariable('source')")
        spool = scratch / "accepted.arrow"
        split(connection, source, warehouse, spool)
        tried = account(connection, source)
        moved = pl.col("n_staged") + pl.col("n_duplicates")
        moves = tried.with_columns(n_read=pl.lit(0, pl.Int64), n_quarantined=-moved).filter(moved > 0)
        if moves.height:
            publish_once(warehouse, AccountedFile, iter(moves.to_arrow().to_batches()), transactions)
            publish_once(warehouse, StagedRecord, kept_versions(connection, spool), transactions)
        left = pl.concat([pl.DataFrame(batch) for batch in quarantined(connection, warehouse)] or [_none()])
    QuarantinedRecord.gate(left)
    rows = left.to_arrow().cast(QuarantinedRecord.arrow_schema())
    write_deltalake(table, rows, mode="overwrite", predicate=f"source = '{source.name}'")
    return total(tried)


def _none() -> pl.DataFrame:
    frame = pl.from_arrow(QuarantinedRecord.arrow_schema().empty_table())
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table gives a frame
    return frame
