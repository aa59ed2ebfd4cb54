"""From contracts to Feast: fields, sources, views. Nothing is listed twice, so nothing can drift."""

from datetime import timedelta

import polars as pl
from feast import Entity, FeatureView, Field, FileSource
from feast.data_format import DeltaFormat
from feast.types import Float64, Int64, PrimitiveFeastType, String, UnixTimestamp

from transforms.featurize import view_name
from transforms.schemas.base import Contract

FEAST_TYPES: dict[pl.DataType, PrimitiveFeastType] = {
    pl.String(): String,
    pl.Int64(): Int64,
    pl.Float64(): Float64,
    pl.Datetime("us", "UTC"): UnixTimestamp,
}
FOR_EVER = timedelta(0)


def feast_fields(contract: type[Contract]) -> list[Field]:
    """Derive the fields of a feature view: its entity key and every feature, with type and description."""
    times = {"event_timestamp", "created_timestamp"}
    return [
        Field(name=column.name, dtype=FEAST_TYPES[column.dtype], description=column.description)
        for column in contract.columns()
        if column.name not in times
    ]


def feature_view(contract: type[Contract], entity: Entity, owner: str = "") -> FeatureView:
    """Define the view of a contract over its Delta table; its path is relative to the offline store's warehouse.

    A row holds until the next one (windows change at their own instants), so nothing expires.
    """
    name = view_name(contract)
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
        description=contract.__doc__ or "",
        owner=owner,
    )
