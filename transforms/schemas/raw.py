"""Contract of `raw.records`: the rows of sources, unchanged."""

from typing import Annotated

import pandera.polars as pa
import polars as pl

from transforms.schemas.base import Contract


class RawRecord(Contract):
    """One row of a source, as it came; malformed ones too."""

    load_id: str = pa.Field(description="The load that brought the row; sorts by time.")
    source: str = pa.Field(description="Name of the source, as its YAML file gives it.")
    source_uri: str = pa.Field(description="File, post or partition the row came from.")
    row_number: int = pa.Field(
        ge=1, description="Position of the row there, from 1; a CSV header is not counted."
    )
    header: str = pa.Field(
        nullable=True,
        description="Header line of a CSV file; null where rows name their own fields.",
    )
    payload: pl.Binary = pa.Field(description="The row's bytes, unchanged, without the line end.")
    loaded_timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        description="When the load began; of what is posted or streamed, when its commit began."
    )

    class Config(Contract.Config):
        """Relation and key."""

        name = "raw.records"
        metadata = {"key": ["load_id", "source_uri", "row_number"]}  # noqa: RUF012
