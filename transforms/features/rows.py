"""The shape of computed rows."""

from datetime import UTC, datetime
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from transforms.schemas.base import Contract


def view_batches(contract: type[Contract], rows: pa.Table) -> list[pa.RecordBatch]:
    """Bring computed rows into their view's columns and types, with `is_new` last.

    >>> from transforms.schemas.duplicates import KnownContent
    >>> rows = pa.table({"is_new": [True], "band_keys": [[1, 2]], "content_id": [7]})
    >>> view_batches(KnownContent, rows)[0].schema.names
    ['content_id', 'band_keys', 'is_new']
    """
    schema = contract.arrow_schema().append(pa.field("is_new", pa.bool_()))
    batches: list[pa.RecordBatch] = (
        rows.select(schema.names).cast(schema).combine_chunks().to_batches()
    )
    return batches


class Kept(NamedTuple):
    """Which of computed rows are published: those from `start` to before `end`.

    With `is_new`, of these only the new ones.
    """

    start: datetime = datetime.min.replace(tzinfo=UTC)
    end: datetime = datetime.max.replace(tzinfo=UTC)
    is_new: bool = False

    def of(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Leave out the other rows of a batch, which has `is_new`.

        >>> at = pa.array([0, 5], pa.timestamp("us", "UTC"))
        >>> rows = pa.record_batch({"event_timestamp": at, "is_new": [True, False]})
        >>> Kept().of(rows).num_rows, Kept(is_new=True).of(rows).num_rows
        (2, 1)
        """
        at, start, end = batch.column("event_timestamp"), pa.scalar(self.start), pa.scalar(self.end)
        inside = pc.and_(pc.greater_equal(at, start), pc.less(at, end))
        return batch.filter(pc.and_(inside, batch.column("is_new")) if self.is_new else inside)


ALL = Kept()
