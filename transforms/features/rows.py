"""The shape of computed rows."""

import pyarrow as pa

from transforms.schemas.base import Contract


def view_batches(contract: type[Contract], rows: pa.Table) -> list[pa.RecordBatch]:
    """Bring computed rows into their view's columns and types, with `is_new` last."""
    schema = contract.arrow_schema().append(pa.field("is_new", pa.bool_()))
    batches: list[pa.RecordBatch] = (
        rows.select(schema.names).cast(schema).combine_chunks().to_batches()
    )
    return batches
