"""Contracts of staging, of quarantine, and of the books that account for every row."""

from typing import Annotated

import pandera.polars as pa
import polars as pl
from pandera.polars import PolarsData

from transforms.schemas.base import Contract


class StagedRecord(Contract):
    """One valid version of a record."""

    record_id: str = pa.Field(
        str_length={"min_value": 1}, description="Key of the record within the home."
    )
    author_id: str = pa.Field(str_length={"min_value": 1}, description="Who wrote it.")
    subject_id: str = pa.Field(
        nullable=True, description="What it is about: product, channel, thread, queue."
    )
    event_timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        description="When it was written."
    )
    known_timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        description="When it could have been known."
    )
    text: str = pa.Field(
        nullable=True,
        description="The text, redacted where the source says so; null only in a tombstone.",
    )
    text_redacted: str = pa.Field(
        nullable=True,
        description="The text, with a placeholder for what identifies a person, "
        "e.g. <EMAIL_ADDRESS>.",
    )
    label: str = pa.Field(nullable=True, description="The label, as the source gives it.")
    is_positive: bool = pa.Field(
        description="Whether the label is one of the source's positive labels."
    )
    is_tombstone: bool = pa.Field(
        description="Whether this version removes the record from then on."
    )
    attributes: str = pa.Field(
        nullable=True, description="Further fields of the source, as a JSON object."
    )
    content_digest: str = pa.Field(
        description="MD5 of the content without key and `known_timestamp`, before redaction."
    )
    source: str = pa.Field(description="Name of the source.")
    load_id: str = pa.Field(description="The load that brought it.")
    source_uri: str = pa.Field(description="File it came from.")
    row_number: int = pa.Field(ge=1, description="Position in that file.")
    loaded_timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        description="When the load began."
    )

    class Config(Contract.Config):
        """Relation and key."""

        name = "staging.records"
        metadata = {"key": ["record_id", "known_timestamp"], "version": 2}  # noqa: RUF012

    @pa.dataframe_check(name="text:empty")
    def _text_is_present(cls, data: PolarsData) -> pl.LazyFrame:  # noqa: N805
        return data.lazyframe.select(
            pl.col("is_tombstone") | (pl.col("text").fill_null("").str.len_bytes() > 0)
        )

    @pa.dataframe_check(name="event_timestamp:not_after_1970")
    def _event_is_after_1970(cls, data: PolarsData) -> pl.LazyFrame:  # noqa: N805
        return data.lazyframe.select(_after_1970("event_timestamp"))

    @pa.dataframe_check(name="event_timestamp:beyond_tomorrow")
    def _event_is_not_beyond_tomorrow(cls, data: PolarsData) -> pl.LazyFrame:  # noqa: N805
        return data.lazyframe.select(_until_tomorrow("event_timestamp"))

    @pa.dataframe_check(name="known_timestamp:not_after_1970")
    def _known_is_after_1970(cls, data: PolarsData) -> pl.LazyFrame:  # noqa: N805
        return data.lazyframe.select(_after_1970("known_timestamp"))

    @pa.dataframe_check(name="known_timestamp:beyond_tomorrow")
    def _known_is_not_beyond_tomorrow(cls, data: PolarsData) -> pl.LazyFrame:  # noqa: N805
        return data.lazyframe.select(_until_tomorrow("known_timestamp"))


class DuplicateRow(Contract):
    """One row that changed nothing when it came, without its text.

    A row that is in `staging.records` too became a version later.
    """

    record_id: str = pa.Field(description="Key of the record within the home.")
    author_id: str = pa.Field(description="Who wrote it.")
    subject_id: str = pa.Field(
        nullable=True, description="What it is about: product, channel, thread, queue."
    )
    event_timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        description="When it was written."
    )
    known_timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        description="When it could have been known."
    )
    content_digest: str = pa.Field(description="MD5 of the content, as in `staging.records`.")
    source: str = pa.Field(description="Name of the source.")
    load_id: str = pa.Field(description="The load that brought it.")
    source_uri: str = pa.Field(description="File it came from.")
    row_number: int = pa.Field(ge=1, description="Position in that file.")
    loaded_timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        description="When the load began."
    )

    class Config(Contract.Config):
        """Relation and key."""

        name = "staging.duplicate_rows"
        metadata = {"key": ["load_id", "source_uri", "row_number"]}  # noqa: RUF012


class QuarantinedRecord(Contract):
    """One rejected row, with the reason, whole, so that it can be replayed."""

    load_id: str = pa.Field(description="The load that brought it.")
    source: str = pa.Field(description="Name of the source.")
    source_uri: str = pa.Field(description="File it came from.")
    row_number: int = pa.Field(ge=1, description="Position in that file.")
    column: str = pa.Field(
        description="Canonical column that broke the rule; "
        "`payload` where the row cannot be parsed."
    )
    rule: str = pa.Field(description="The rule that failed.")
    digest: str = pa.Field(
        nullable=True, description="SHA-256 of the value that broke it; null where there is none."
    )
    schema_version: int = pa.Field(
        ge=1, description="Version of the `staging.records` contract it was checked against."
    )
    header: str = pa.Field(nullable=True, description="Header line of its CSV file.")
    payload: pl.Binary = pa.Field(description="The row's bytes, unchanged.")
    loaded_timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        description="When the load began."
    )

    class Config(Contract.Config):
        """Relation and key."""

        name = "quarantine.records"
        metadata = {"key": ["load_id", "source_uri", "row_number"]}  # noqa: RUF012


class Correction(Contract):
    """What a rejected row is to be read as instead; the newest correction counts.

    The row itself stays as it came.
    """

    load_id: str = pa.Field(description="The load that brought the row.")
    source: str = pa.Field(description="Name of the source.")
    source_uri: str = pa.Field(description="File the row came from.")
    row_number: int = pa.Field(ge=1, description="Position in that file.")
    original_digest: str = pa.Field(
        description="SHA-256 of the original bytes of the row, from which it was corrected."
    )
    payload: pl.Binary = pa.Field(description="The bytes to be read in their place.")
    corrected_timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        description="When the correction was imported."
    )

    class Config(Contract.Config):
        """Relation and key."""

        name = "quarantine.corrections"
        metadata = {"key": ["load_id", "source_uri", "row_number", "corrected_timestamp"]}  # noqa: RUF012


class AccountedFile(Contract):
    """What became of one file's rows.

    A later change adds a row of differences, so sums give the current state.
    """

    load_id: str = pa.Field(description="The load.")
    source: str = pa.Field(description="Name of the source.")
    source_uri: str = pa.Field(description="The file.")
    n_read: int = pa.Field(description="Rows read.")
    n_staged: int = pa.Field(description="Rows kept as a version of a record.")
    n_duplicates: int = pa.Field(description="Rows that changed nothing.")
    n_quarantined: int = pa.Field(description="Rows rejected.")

    class Config(Contract.Config):
        """Relation and key. A row and its differences share the key, so it identifies no row."""

        name = "accounting.files"
        metadata = {"key": ["load_id", "source_uri"]}  # noqa: RUF012

    @pa.dataframe_check(name="n_read:differs_from_staged_duplicates_quarantined")
    def _adds_up(cls, data: PolarsData) -> pl.LazyFrame:  # noqa: N805
        return data.lazyframe.select(
            pl.col("n_read")
            == pl.col("n_staged") + pl.col("n_duplicates") + pl.col("n_quarantined")
        )


def _after_1970(column: str) -> pl.Expr:
    """Accept times after the epoch.

    The epoch itself means "no time" in many systems, so it is rejected too.
    """
    return pl.col(column).dt.timestamp("us") > 0


def _until_tomorrow(column: str) -> pl.Expr:
    """Allow a day of clock skew after the load.

    The limit does not depend on today, because a rebuild must decide as the first run did.
    """
    return pl.col(column) <= pl.col("loaded_timestamp") + pl.duration(days=1)
