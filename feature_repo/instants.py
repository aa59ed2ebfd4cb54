"""Instants as views computed on demand read them, from a spine, a request or another view."""

import feature_repo.importing  # noqa: F401

# isort: split
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.stores.values import RequestError
from transforms.errors import InstantError
from transforms.instants import INSTANT, instants_in, instants_of


def instants(column: pd.Series | pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Read a column as instants in UTC, in microseconds. Raises `RequestError`."""
    try:
        if isinstance(column, pd.Series) and column.dtype == object:
            return pa.chunked_array([instants_of(column.tolist(), name)])
        given = (
            pa.chunked_array([pa.Array.from_pandas(column)])
            if isinstance(column, pd.Series)
            else column
        )
        found = instants_in(given, name)
    except InstantError as error:
        raise RequestError(str(error)) from None
    return (
        pc.floor_temporal(found, unit="microsecond") if found.type.unit == "ns" else found
    ).cast(INSTANT)
