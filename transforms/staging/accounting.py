"""Every row accounted for: the accounts, checked against the rows in the tables."""

import polars as pl

from transforms.schemas.raw import RawRecord
from transforms.schemas.staging import (
    AccountedFile,
    DuplicateRow,
    QuarantinedRecord,
    StagedRecord,
)
from transforms.sql import model
from transforms.warehouse.snapshot import connect, create_view
from transforms.warehouse.tables import Warehouse


def recount(warehouse: Warehouse) -> pl.DataFrame:
    """Count the rows of each load in raw, staging, duplicate rows and quarantine.

    Columns: source, load_id, n_read, n_staged, n_duplicates, n_quarantined, adds_up. `adds_up` is
    whether the accounts say the same: false for a load that is not staged yet or lacks a row.
    """
    contracts = (RawRecord, StagedRecord, DuplicateRow, QuarantinedRecord, AccountedFile)
    with connect(warehouse, of=tuple(contract.relation() for contract in contracts)) as connection:
        for missing in (
            contract for contract in contracts if warehouse.table(contract.relation()) is None
        ):
            create_view(connection, missing.relation(), [], missing.arrow_schema())
        counted: pl.DataFrame = connection.sql(model("staging/recount")).pl()
    return counted
