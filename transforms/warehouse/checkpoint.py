"""Checkpoints: how far a consumer has come in the table that it reads, kept in the commits of the tables that it writes.

A consumer writes one table or several, a commit each. Each commit says up to which version of its input it goes. A consumer that
was killed between two of them has begun with a version that it is not done with, and is finished at that version.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from transforms.schemas.base import Contract
from transforms.warehouse.tables import AlreadyPublishedError, Warehouse


class Consumer(NamedTuple):
    """Who reads a table and writes others, by the name of its transactions in their commits."""

    name: str

    def at(self, version: int, basis: str = "") -> dict[str, int]:
        """The transactions of a commit that goes up to a version of the input; `basis` digests what else decides what is written."""
        return {self.name: version, **({f"{self.name}:{basis}": version} if basis else {})}

    def consumed(self, warehouse: Warehouse, relation: str) -> int:
        """The version of the input that a table goes up to; -1 if it was never written."""
        return warehouse.consumed(relation, self.name)

    def unfinished(self, warehouse: Warehouse, first: str, last: str) -> int | None:
        """The version that was begun, by the table that is written first, and not done, by the one that is written last."""
        begun = self.consumed(warehouse, first)
        return begun if self.consumed(warehouse, last) < begun else None

    def is_on_basis(self, warehouse: Warehouse, relation: str, version: int, basis: str) -> bool:
        """Whether a table goes up to a version on the basis as it is now."""
        return all(
            warehouse.consumed(relation, name) == version for name in self.at(version, basis)
        )


FEATURIZE = Consumer("featurize")
ERASE = Consumer("erase")
PROFILE = Consumer("profile")


def preparing(source: str) -> Consumer:
    """The consumer of raw that stages a source."""
    return Consumer(f"prepare:{source}")


def replaying(source: str) -> Consumer:
    """The consumer of quarantine that tries the rejected rows of a source again."""
    return Consumer(f"replay:{source}")


def backfilling(name: str) -> Consumer:
    """The consumer of the chunks of a backfill."""
    return Consumer(f"backfill:{name}")


def profiling(relation: str) -> Consumer:
    """The consumer of a view that profiles what is published of it."""
    return Consumer(f"profile:{relation}")


def publish_once(
    warehouse: Warehouse,
    contract: type[Contract],
    batches: Iterator[pa.RecordBatch] | Sequence[pa.RecordBatch],
    transactions: Mapping[str, int],
    without: Sequence[str] = (),
) -> None:
    """Publish unless an earlier, interrupted run already did."""
    if any(
        warehouse.consumed(contract.relation(), name) >= version
        for name, version in transactions.items()
    ):
        return
    try:
        warehouse.publish(contract, batches, transactions, without=without)
    except AlreadyPublishedError:
        return
