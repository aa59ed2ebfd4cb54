"""What a request to the feature server carries beside keys, as views computed on demand read it."""

from typing import cast

import feature_repo.importing  # noqa: F401

# isort: split
import pandas as pd
import pyarrow as pa
from fastapi import status
from feast.errors import FeastError

from transforms.errors import InstantError
from transforms.instants import instants_in, instants_of


class BadRequestError(FeastError, ValueError):
    """A request cannot be read; the feature server answers it with 422, in the message's words."""

    def http_status_code(self) -> int:
        """Say that it is the client's to mend."""
        return int(status.HTTP_422_UNPROCESSABLE_CONTENT)


def instants(column: pd.Series) -> "pd.Series[pd.Timestamp]":
    """Read a column as instants in UTC, whether a spine's, a request's or a view's own. Raises `BadRequestError`."""
    name = str(column.name)
    try:
        if column.dtype == object:
            found = instants_of(column.tolist(), name)
        else:
            found = instants_in(pa.chunked_array([pa.Array.from_pandas(column)]), name)
    except InstantError as error:
        raise BadRequestError(str(error)) from None
    return cast("pd.Series[pd.Timestamp]", found.to_pandas()).set_axis(column.index)
