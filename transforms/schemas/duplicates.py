"""Contracts of the index that duplicates are found with: numbers made from texts, never a text."""

from typing import Annotated

import pandera.polars as pa
import polars as pl

from transforms.schemas.base import Contract


class KnownContent(Contract):
    """One text that was ever seen, by the number of its normal form, with its signature.

    Which records had it is in `duplicates.documents`.
    """

    content_id: int = pa.Field(ge=0, description="Number of the normal form: 63 bits of its MD5.")
    band_keys: Annotated[pl.List, pl.Int64()] = pa.Field(
        nullable=True,
        description="MinHash signature of 128 values of 8 bits, as 16 bands of 8; "
        "null where the text has neither letter nor digit.",
    )

    class Config(Contract.Config):
        """Relation, key, and version."""

        name = "duplicates.contents"
        metadata = {"key": ["content_id"], "version": 1}  # noqa: RUF012


class KnownDocument(Contract):
    """What a record said from an instant on, and which record said it first.

    A newer `created_timestamp` wins; nulls mean that no version is in effect.
    """

    record_id: str = pa.Field(description="Key of the record.")
    event_timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        description="When the version takes effect: written and known."
    )
    created_timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        description="When the row was computed."
    )
    content_id: int = pa.Field(ge=0, nullable=True, description="Number of the text's normal form.")
    root_id: int = pa.Field(
        ge=0,
        nullable=True,
        description="The cluster: number of the text at which its chain of likenesses begins.",
    )
    origin_id: str = pa.Field(
        nullable=True,
        description="The record that had this text, or one nearly the same, first of all; "
        "may be the record itself.",
    )
    origin_similarity: float = pa.Field(
        ge=0, le=1, nullable=True, description="Similarity to the origin's text; 1 is the same."
    )
    cluster_size: int = pa.Field(
        ge=1, nullable=True, description="Records of the cluster so far, this one counted."
    )

    class Config(Contract.Config):
        """Relation, key, and version."""

        name = "duplicates.documents"
        metadata = {"key": ["record_id", "event_timestamp", "created_timestamp"], "version": 1}  # noqa: RUF012
