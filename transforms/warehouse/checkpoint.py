"""Checkpoints: how far a consumer has read its input, recorded in the commits that it writes.

A consumer writes one table or several, in one commit each. Each commit records up to which version
of the input it goes. A consumer that was killed between two commits has begun a version and not
finished it; the next run finishes that version first.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import takewhile
from threading import Event
from typing import NamedTuple

import pyarrow as pa

from transforms.schemas.base import Contract
from transforms.warehouse.publishing import (
    AlreadyPublishedError,
    Publication,
    Written,
    publish,
    publishing,
)
from transforms.warehouse.tables import Warehouse


class Consumer(NamedTuple):
    """A reader of one table that writes others, named by its transactions in their commits."""

    name: str

    def at(self, version: int, basis: str = "") -> dict[str, int]:
        """Return the transactions of a commit that goes up to a version of the input.

        `basis` digests whatever else decides what is written.

        >>> profiling("staging.records").at(4, basis="1f0c")
        {'profile:staging.records': 4, 'profile:staging.records:1f0c': 4}
        """
        return {self.name: version, **({f"{self.name}:{basis}": version} if basis else {})}

    def consumed(self, warehouse: Warehouse, relation: str) -> int:
        """Return the version of the input that a table goes up to; -1 if it was never written."""
        return consumed_version(warehouse, relation, self.name)

    def unfinished(self, warehouse: Warehouse, first: str, last: str) -> int | None:
        """Return the version that was begun and not finished, if there is one.

        The table written first shows what was begun, the one written last what was finished.
        """
        begun = self.consumed(warehouse, first)
        return begun if self.consumed(warehouse, last) < begun else None

    def is_on_basis(self, warehouse: Warehouse, relation: str, version: int, basis: str) -> bool:
        """Return whether a table goes up to a version, on the given basis."""
        return all(
            consumed_version(warehouse, relation, name) == version
            for name in self.at(version, basis)
        )


FEATURIZE = Consumer("featurize")
ERASE = Consumer("erase")
PROFILE = Consumer("profile")


def taking(source: str) -> Consumer:
    """Name the consumer of a source's posts; its versions number its commits.

    >>> taking('tickets').name
    'take:tickets'
    """
    return Consumer(f"take:{source}")


def following(source: str) -> Consumer:
    """Name the consumer of a source's stream; its versions number its commits.

    >>> following('tickets').name
    'follow:tickets'
    """
    return Consumer(f"follow:{source}")


def preparing(source: str) -> Consumer:
    """Name the consumer of raw that stages a source.

    >>> preparing('tickets').name
    'prepare:tickets'
    """
    return Consumer(f"prepare:{source}")


def replaying(source: str) -> Consumer:
    """Name the consumer of quarantine that retries the rejected rows of a source.

    >>> replaying('tickets').name
    'replay:tickets'
    """
    return Consumer(f"replay:{source}")


def backfilling(name: str) -> Consumer:
    """Name the consumer of the chunks of a backfill.

    >>> backfilling('2024').name
    'backfill:2024'
    """
    return Consumer(f"backfill:{name}")


def profiling(relation: str) -> Consumer:
    """Name the consumer that profiles a published view.

    >>> profiling('features.record_text').name
    'profile:features.record_text'
    """
    return Consumer(f"profile:{relation}")


def consumed_version(warehouse: Warehouse, relation: str, transaction: str) -> int:
    """Return the version of the input that a `transaction` goes up to; -1 if there is none."""
    version = warehouse.transaction_version(relation, transaction)
    return -1 if version is None else version


def publish_once(
    warehouse: Warehouse,
    contract: type[Contract],
    batches: Iterator[pa.RecordBatch] | Sequence[pa.RecordBatch],
    transactions: Mapping[str, int],
    without: Sequence[str] = (),
) -> None:
    """Publish batches, unless an earlier, interrupted run already has."""
    if _is_published(warehouse, contract, transactions):
        return
    try:
        publish(warehouse, contract, batches, transactions, without=without)
    except AlreadyPublishedError:
        return


@contextmanager
def publishing_once(
    warehouse: Warehouse,
    contract: type[Contract],
    batches: Iterator[pa.RecordBatch | Written],
    transactions: Mapping[str, int],
    without: Sequence[str] = (),
) -> Iterator[Callable[[], None]]:
    """Begin to write batches in a second thread; yield what publishes them, as `publish_once`.

    Files that workers of an engine have written may be among them.

    So whether they may be published is found out meanwhile. If not, what is written is deleted.
    """
    with ExitStack() as stack:
        publication = None
        if not _is_published(warehouse, contract, transactions):
            with suppress(AlreadyPublishedError):
                publication = stack.enter_context(
                    publishing(warehouse, contract, transactions, without=without)
                )
        if publication is None:
            yield lambda: None
            return
        second = stack.enter_context(ThreadPoolExecutor(1))
        has_ended = Event()
        stack.callback(has_ended.set)  # nothing more is written where nobody wants it
        written = second.submit(_write, publication, batches, has_ended)

        def publish_written() -> None:
            written.result()
            with suppress(AlreadyPublishedError):
                publication.commit()

        yield publish_written


def _write(
    publication: Publication, batches: Iterator[pa.RecordBatch | Written], has_ended: Event
) -> None:
    for batch in takewhile(lambda _: not has_ended.is_set(), batches):
        if isinstance(batch, Written):
            publication.adopt(batch.files, batch.n_rows)
        else:
            publication.write(batch)


def _is_published(
    warehouse: Warehouse, contract: type[Contract], transactions: Mapping[str, int]
) -> bool:
    return any(
        consumed_version(warehouse, contract.relation(), name) >= version
        for name, version in transactions.items()
    )
