"""What a request to the feature server carries beside keys, as views computed on demand read it."""

from typing import cast

import feature_repo.importing  # noqa: F401

# isort: split
import pandas as pd
import pyarrow as pa

from feature_repo.stores.values import RequestError
from transforms.errors import InstantError
from transforms.instants import instants_in, instants_of


def instants(column: pd.Series) -> "pd.Series[pd.Timestamp]":
    """Read a column as instants in UTC, whether a spine's, a request's or a view's own. Raises `RequestError`."""
    name = str(column.name)
    try:
        if column.dtype == object:
            found = instants_of(column.tolist(), name)
        else:
            found = instants_in(pa.chunked_array([pa.Array.from_pandas(column)]), name)
    except InstantError as error:
        raise RequestError(str(error)) from None
    return cast("pd.Series[pd.Timestamp]", found.to_pandas()).set_axis(column.index)
