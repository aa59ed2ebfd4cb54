"""Contracts of measurements of whole loads and publications: numbers and digests, never a text."""

from typing import Annotated

import pandera.polars as pa
import polars as pl

from transforms.schemas.base import Contract

KINDS = ["number", "category", "vocabulary"]
STATISTICS = ["psi", "js_distance", "wasserstein"]
CHECKS = ["quarantined", "collisions", "dates", "ids", "expression"]
VERDICTS = ["still", "warn", "stop", "no_reference"]


class ColumnProfile(Contract):
    """The distribution of one column in one load, or in one publication of a feature view."""

    of_relation: str = pa.Field(
        alias="relation",
        description="`staging.records` for a load, the view's relation for a publication.",
    )
    source: str = pa.Field(description="Name of the load's source; empty for a publication.")
    load_id: str = pa.Field(
        description="The load; for a publication the `created_timestamp` of its rows, as ISO 8601."
    )
    loaded_timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        description="When the load began, or the rows were computed."
    )
    column: str = pa.Field(
        description="What was counted; for a load see docs/drift.md, "
        "for a publication the view's column."
    )
    kind: str = pa.Field(
        isin=KINDS,
        description="number: DDSketch buckets; category: values; "
        "vocabulary: texts with a word of a bucket.",
    )
    n_rows: int = pa.Field(
        ge=0, description="Rows counted; of an expensive column a sample of the load."
    )
    n_null: int = pa.Field(ge=0, description="Those of them that have no value.")
    bucket_keys: Annotated[pl.List, pl.String()] = pa.Field(
        description="Buckets with a row, sorted."
    )
    bucket_counts: Annotated[pl.List, pl.Int64()] = pa.Field(
        description="Rows of each bucket, in the order of the keys."
    )

    class Config(Contract.Config):
        """Relation and key."""

        name = "profiles.columns"
        metadata = {"key": ["relation", "source", "load_id", "column"]}  # noqa: RUF012


class DriftStatistic(Contract):
    """How far one column of one load is from the loads before it, by one statistic."""

    source: str = pa.Field(description="Name of the source.")
    load_id: str = pa.Field(description="The load that was judged.")
    loaded_timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        description="When the load began."
    )
    column: str = pa.Field(description="The column, as in `profiles.columns`.")
    statistic: str = pa.Field(isin=STATISTICS, description="The effect size.")
    value: float = pa.Field(
        ge=0, nullable=True, description="Its value; null where there is nothing to compare."
    )
    n_reference_loads: int = pa.Field(
        ge=0, description="Loads of the reference window that have the column."
    )
    n_reference_rows: int = pa.Field(ge=0, description="Rows counted in them.")
    warn: float = pa.Field(
        ge=0, nullable=True, description="The value from which on a run warns; null for never."
    )
    stop: float = pa.Field(
        ge=0, nullable=True, description="The value from which on a run stops; null for never."
    )
    verdict: str = pa.Field(
        isin=VERDICTS,
        description="What follows; no_reference where the window is too small to judge.",
    )

    class Config(Contract.Config):
        """Relation and key."""

        name = "profiles.drift"
        metadata = {"key": ["source", "load_id", "column", "statistic"]}  # noqa: RUF012


class LoadCheck(Contract):
    """What one check found in one load.

    Every load has the share of rejected rows and of colliding keys; other checks appear if they
    find something.
    """

    source: str = pa.Field(description="Name of the source.")
    load_id: str = pa.Field(description="The load that was checked.")
    loaded_timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        description="When the load began."
    )
    check_: str = pa.Field(
        alias="check", isin=CHECKS, description="What was looked for, see docs/sources.md."
    )
    column: str = pa.Field(description="The canonical column; empty where it is about whole rows.")
    n_rows: int = pa.Field(ge=0, description="Rows that were checked.")
    n_broken: int = pa.Field(ge=0, description="Those of them in which it was found.")
    warn: float = pa.Field(
        ge=0, nullable=True, description="The share above which a run warns; null for never."
    )
    stop: float = pa.Field(
        ge=0, nullable=True, description="The share above which a run stops; null for never."
    )
    verdict: str = pa.Field(isin=VERDICTS, description="What follows: still, warn or stop.")
    reason: str = pa.Field(
        description="What was found, in words; never a value, nor the name of a file."
    )
    place: str = pa.Field(
        description="Where it was found first: row and file; empty where it was not."
    )

    class Config(Contract.Config):
        """Relation and key."""

        name = "profiles.checks"
        metadata = {"key": ["source", "load_id", "check", "column"]}  # noqa: RUF012
