"""Contracts of what is measured of serving: numbers and names, never a value or an id."""

from typing import Annotated

import pandera.polars as pa
import polars as pl

from transforms.schemas.base import Contract

CAUSES = {
    "store_older": "Differences because the online store was behind the tables at the read.",
    "record_known_later": "Differences by records that the tables did not have at the read.",
    "record_corrected": "Differences by newer versions of records that the tables had by then.",
    "code_changed": "Differences because other code has computed the view since.",
    "altered_online": "Differences by values that the tables never had for that instant.",
    "unknown": "Differences of which the tables no longer show the cause.",
}


class Consistency(Contract):
    """What was served of one feature, compared with what a training set says of it now."""

    checked_timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        description="When it was compared."
    )
    service: str = pa.Field(description="The service that was asked for, or a list's own name.")
    view: str = pa.Field(description="The feature's view.")
    feature: str = pa.Field(description="The feature.")
    n_compared: int = pa.Field(ge=0, description="Values compared (Chronon: `total`).")
    n_matched: int = pa.Field(ge=0, description="Those that are equal, nulls included.")
    n_missing: int = pa.Field(
        ge=0, description="Served null where training has a value (Chronon: `right_null`)."
    )
    n_extra: int = pa.Field(
        ge=0, description="Served a value where training has null (Chronon: `left_null`)."
    )
    n_differing: int = pa.Field(
        ge=0, description="Both have a value, another one (Chronon: `mismatch`)."
    )
    largest_difference: float = pa.Field(
        ge=0, nullable=True, description="The largest difference of two numbers."
    )
    smape: float = pa.Field(
        ge=0,
        le=2,
        nullable=True,
        description="Mean of 2 |a - b| / (|a| + |b|) of two numbers (Chronon: `smape`).",
    )
    n_store_older: int = pa.Field(ge=0, description=CAUSES["store_older"])
    n_record_known_later: int = pa.Field(ge=0, description=CAUSES["record_known_later"])
    n_record_corrected: int = pa.Field(ge=0, description=CAUSES["record_corrected"])
    n_code_changed: int = pa.Field(ge=0, description=CAUSES["code_changed"])
    n_altered_online: int = pa.Field(ge=0, description=CAUSES["altered_online"])
    n_unknown: int = pa.Field(ge=0, description=CAUSES["unknown"])
    first_instant: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        description="The first instant compared."
    )
    last_instant: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        description="The last instant compared."
    )

    class Config(Contract.Config):
        """Relation and key."""

        name = "serving.consistency"
        metadata = {"key": ["checked_timestamp", "service", "view", "feature"]}  # noqa: RUF012
