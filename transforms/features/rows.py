"""The shape of computed rows."""

import pyarrow as pa

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
