"""Feast's provider, which reads the instants of pushed rows as those of a spine (feature_store.yaml names it)."""

from typing import Any

import pandas as pd
from feast.feature_view import FeatureView
from feast.infra.passthrough_provider import PassthroughProvider

from feature_repo.instants import instants


class InstantProvider(PassthroughProvider):
    """Writes what is pushed and what is written to the online store, to the instants that it names."""

    @staticmethod
    def _prep_rows_to_write_for_ingestion(feature_view: FeatureView, df: pd.DataFrame, field_mapping: dict[str, str] | None = None) -> Any:
        """Feast would take a number for nanoseconds, and a text for whatever date pandas sees in it."""
        source = getattr(feature_view, "batch_source", None)
        times = [source.timestamp_field, source.created_timestamp_column] if source else []
        rows = df.assign(**{name: instants(df[name]) for name in times if name in df.columns})
        return PassthroughProvider._prep_rows_to_write_for_ingestion(feature_view, rows, field_mapping)  # noqa: SLF001
