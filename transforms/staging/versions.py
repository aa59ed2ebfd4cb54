"""Which rows are versions of their record and which are duplicate rows; rows may change sides.

The decision is taken again for every record that a row arrives of, over all its rows, so the order
of arrival does not matter. Two commits publish it, duplicate rows first, then staging: no row is
ever in neither table, and a row in both is a version. So a killed run that is repeated finds the
same rows and decides the same.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from transforms.schemas.base import Contract
from transforms.schemas.staging import AccountedFile, DuplicateRow, StagedRecord
from transforms.sql import model
from transforms.staging.row_parts import RowParts
from transforms.warehouse.checkpoint import publish_once, publishing_once
from transforms.warehouse.publishing import Written
from transforms.warehouse.rewrite import files_holding, rows_staying
from transforms.warehouse.streams import read_streams, rows_of_ids
from transforms.warehouse.tables import Warehouse


def decide(connection: duckdb.DuckDBPyConnection) -> None:
    """Decide over the rows in table `accepted` and the earlier rows of the same records.

    View `kept` then names the accepted rows that are versions, table `moved_rows` the earlier rows
    that change sides.
    """
    for name in ("earlier_rows", "repeated_records", "versions", "moved_rows"):
        connection.execute(f"create table {name} as {model(f'staging/{name}')}")
    connection.execute(
        "create view kept as select accepted_id from versions where accepted_id is not null"
    )


@contextmanager
def writing_versions(
    connection: duckdb.DuckDBPyConnection,
    warehouse: Warehouse,
    buffer: Path,
    transactions: Mapping[str, int],
    parts: RowParts | None = None,
) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Begin to write the versions in a second thread; yield what publishes, given the accounts.

    With `parts`, an engine writes those that arrived.

    It publishes the accounts of accepted and moved rows, then duplicate rows, then the versions.
    """
    moved: pl.DataFrame = connection.sql(model("staging/moved_accounts")).pl()
    files = (
        files_holding(connection, warehouse.files(StagedRecord.relation()), "moved_rows")
        if moved.height
        else []
    )
    versions = _versions(connection.cursor(), warehouse, buffer, files, parts)
    with publishing_once(warehouse, StagedRecord, versions, transactions, files) as publish_written:

        def publish(accounts: pl.DataFrame) -> None:
            rows = pl.concat([accounts, moved]).to_arrow().to_batches()
            publish_once(warehouse, AccountedFile, rows, transactions)
            publish_once(
                warehouse,
                DuplicateRow,
                _duplicate_rows(connection, warehouse, buffer),
                transactions,
            )
            publish_written()

        yield publish


def _duplicate_rows(
    connection: duckdb.DuckDBPyConnection, warehouse: Warehouse, buffer: Path
) -> Iterator[pa.RecordBatch]:
    """Stream the accepted rows that are not versions, then the versions that no longer are."""
    yield from _buffered(
        connection, buffer, "from accepted anti join kept using (accepted_id)", DuplicateRow
    )
    yield from connection.sql(model("staging/superseded_versions")).to_arrow_reader(
        warehouse.settings.batch_rows
    )


def _versions(
    connection: duckdb.DuckDBPyConnection,
    warehouse: Warehouse,
    buffer: Path,
    rewritten: Sequence[str],
    parts: RowParts | None,
) -> Iterator[pa.RecordBatch | Written]:
    """Stream the accepted versions, the duplicate rows that become versions, and rewritten files.

    Of a rewritten file come the rows that stay.
    """
    yield from (
        parts.written(_ids(connection, "from kept"), buffer)
        if parts
        else _buffered(connection, buffer, "from kept", StagedRecord)
    )
    if connection.execute("select 1 from moved_rows where not is_staged limit 1").fetchall():
        schema = StagedRecord.arrow_schema()
        stream = pa.RecordBatchReader.from_batches(schema, read_streams(buffer))
        connection.register("buffered", stream)
        yield from connection.sql(model("staging/returned_versions")).to_arrow_reader(
            warehouse.settings.batch_rows
        )
    yield from rows_staying(connection, warehouse, StagedRecord, rewritten, "moved_rows")


def _buffered(
    connection: duckdb.DuckDBPyConnection, buffer: Path, wanted: str, contract: type[Contract]
) -> Iterator[pa.RecordBatch]:
    """Stream the rows of the buffer that a relation names by their `accepted_id`."""
    for batch in rows_of_ids(read_streams(buffer), _ids(connection, wanted)):
        yield batch.select(contract.arrow_schema().names)


def _ids(connection: duckdb.DuckDBPyConnection, wanted: str) -> np.ndarray:
    """List the `accepted_id` of the rows of a relation, in their order."""
    ordered = f"{wanted} select accepted_id order by accepted_id"
    ids: np.ndarray = connection.sql(ordered).fetchnumpy()["accepted_id"]
    return ids
