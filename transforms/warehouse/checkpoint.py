"""Checkpoints: how far whoever reads a table has come, kept in the commits of what it writes."""

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from transforms.schemas.base import Contract
from transforms.warehouse.tables import AlreadyPublishedError, Warehouse


def publish_once(
    warehouse: Warehouse,
    contract: type[Contract],
    batches: Iterator[pa.RecordBatch] | Sequence[pa.RecordBatch],
    transactions: Mapping[str, int],
    without: Sequence[str] = (),
) -> None:
    """Publish unless an earlier, interrupted run already did."""
    if any(warehouse.consumed(contract.relation(), name) >= version for name, version in transactions.items()):
        return
    try:
        warehouse.publish(contract, batches, transactions, without=without)
    except AlreadyPublishedError:
        return
