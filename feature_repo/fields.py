"""From contracts to Feast: fields, sources, views. Nothing is listed twice, so nothing can drift."""

from datetime import timedelta

import feature_repo.importing  # noqa: F401

# isort: split
import polars as pl
from feast import Entity, FeatureView, Field, FileSource
from feast.data_format import DeltaFormat
from feast.types import Array, FeastType, Float32, Float64, Int64, String, UnixTimestamp

from feature_repo.online_views import online_views
from transforms.schemas.base import Column, Contract
from transforms.settings import Settings

FEAST_TYPES: dict[pl.DataType, FeastType] = {
    pl.String(): String,
    pl.Int64(): Int64,
    pl.Float64(): Float64,
    pl.Datetime("us", "UTC"): UnixTimestamp,
    pl.List(pl.Float32()): Array(Float32),
}
FOR_EVER = timedelta(0)


def feast_fields(contract: type[Contract]) -> list[Field]:
    """Derive the fields of a feature view: its entity key and every feature, with type and description."""
    times = {"event_timestamp", "created_timestamp"}
    return [_field(column) for column in contract.columns() if column.name not in times]


def _field(column: Column) -> Field:
    """Define a field; one whose contract says `vector_length` (0: as the model has it) can be searched for its neighbours."""
    searched = {"vector_index": True, "vector_length": column.vector_length, "vector_search_metric": "cosine"}
    options = {} if column.vector_length is None else searched
    return Field(name=column.name, dtype=FEAST_TYPES[column.dtype], description=column.description, **options)


def feature_view(contract: type[Contract], entity: Entity, owner: str = "") -> FeatureView:
    """Define the view of a contract over its Delta table; its path is relative to the offline store's warehouse.

    A row holds until the next one (windows change at their own instants), so nothing expires. Whether it is online is the
    home's choice: that of `MILLRACE_HOME` here, and of the home that is registered in `feature_repo.online.apply`.
    """
    name = contract.relation().removeprefix("features.")
    source = FileSource(
        name=name,
        path=contract.relation().replace(".", "/"),
        file_format=DeltaFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        description=contract.__doc__ or "",
    )
    return FeatureView(
        name=name,
        entities=[entity],
        ttl=FOR_EVER,
        schema=feast_fields(contract),
        source=source,
        online=name in online_views(Settings().root),
        description=contract.__doc__ or "",
        owner=owner,
    )
