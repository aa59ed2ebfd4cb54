"""Every record accounted for: what the books say, held against what the tables hold."""

import polars as pl

from transforms.schemas.raw import RawRecord
from transforms.schemas.staging import (
    AccountedFile,
    QuarantinedRecord,
    RepeatedRecord,
    StagedRecord,
)
from transforms.sql import model
from transforms.warehouse.tables import Warehouse


def recount(warehouse: Warehouse) -> pl.DataFrame:
    """Count every load's rows in raw, staging, repeats and quarantine; `adds_up` says whether the accounting agrees.

    Columns: source, load_id, n_read, n_staged, n_duplicates, n_quarantined, adds_up. A load that is not staged yet, or of
    which a row went missing, does not add up.
    """
    contracts = (RawRecord, StagedRecord, RepeatedRecord, QuarantinedRecord, AccountedFile)
    with warehouse.connect() as connection:
        for missing in (
            contract for contract in contracts if warehouse.table(contract.relation()) is None
        ):
            warehouse.create_view(connection, missing.relation(), [], missing.arrow_schema())
        counted: pl.DataFrame = connection.sql(model("staging/recount")).pl()
    return counted
