"""Contract of `profiles.fields`: which fields the rows of a source had, load by load."""

from typing import Annotated

import pandera.polars as pa
import polars as pl

from transforms.schemas.base import Contract

TYPES = ("text", "integer", "number", "boolean", "object", "array", "null")
CHANGES = ("first", "same", "new", "retyped", "missing")


class SourceField(Contract):
    """One field, of one type, as one load of a source had it.

    A replay that lets rows in adds their count as a row of its own.
    """

    source: str = pa.Field(description="Name of the source.")
    load_id: str = pa.Field(description="The load.")
    loaded_timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        description="When the load began."
    )
    field: str = pa.Field(description="Name of the field, identifiers in it masked.")
    type: str = pa.Field(
        isin=TYPES, description="JSON type of its values; of a missing field, the type it had."
    )
    n_rows: int = pa.Field(
        ge=0,
        description="Rows let in that had it with this type; "
        "0 where it is missing or its rows were rejected.",
    )
    change: str = pa.Field(
        isin=CHANGES,
        description="How it compares with all earlier loads that let it in: "
        "same, new, retyped, missing.",
    )

    class Config(Contract.Config):
        """Relation and key. Rows that a replay adds share the key, so it identifies no row."""

        name = "profiles.fields"
        metadata = {"key": ["source", "load_id", "field", "type"]}  # noqa: RUF012
