"""From contracts to Feast: fields, sources and views are derived, so none can drift."""

from datetime import timedelta

import feature_repo.importing  # noqa: F401

# isort: split
import polars as pl
from feast import Entity, FeatureView, Field, FileSource
from feast.data_format import DeltaFormat
from feast.types import Array, Bool, FeastType, Float32, Float64, Int64, String, UnixTimestamp

from feature_repo.online_views import online_views
from feature_repo.stores.empty import EMPTY
from feature_repo.stores.expiry import ONLINE_SECONDS
from transforms.home import Settings
from transforms.schemas.base import Column, Contract, describe

FEAST_TYPES: dict[pl.DataType, FeastType] = {
    pl.String(): String,
    pl.Int64(): Int64,
    pl.Float64(): Float64,
    pl.Datetime("us", "UTC"): UnixTimestamp,
    pl.Boolean(): Bool,
    pl.List(pl.String()): Array(String),
    pl.List(pl.Int64()): Array(Int64),
    pl.List(pl.Float32()): Array(Float32),
    pl.List(pl.Float64()): Array(Float64),
}
FOR_EVER = timedelta(0)


def feast_fields(contract: type[Contract]) -> list[Field]:
    """Derive a feature view's fields: its key and all served features, with their descriptions."""
    return [_field(column) for column in contract.served()]


def _field(column: Column) -> Field:
    """Define a field.

    One whose contract says `vector_length` (0: as the model has it) can be searched for its
    neighbours; `empty` becomes its tag.
    """
    searched = {
        "vector_index": True,
        "vector_length": column.vector_length,
        "vector_search_metric": "cosine",
    }
    options = {} if column.vector_length is None else searched
    tags = {} if column.empty is None else {EMPTY: str(column.empty)}
    return Field(
        name=column.name,
        dtype=FEAST_TYPES[column.dtype],
        description=column.description,
        tags=tags,
        **options,
    )


def feature_view(
    contract: type[Contract],
    entities: list[Entity],
    owner: str = "",
    online_for: timedelta | None = None,
) -> FeatureView:
    """Define the view of a contract over its Delta table.

    The table's path is relative to the offline store's warehouse.

    A key of several columns has one Feast entity for each of them, which other views may share.

    A row applies until the next one (windows change at their own instants), so nothing expires in
    training; online it does after `online_for`.
    Whether it is online is the home's choice: that of `MILLRACE_HOME` here, and of the home that is
    registered in `feature_repo.online.apply`.
    """
    name = contract.relation().removeprefix("features.")
    source = FileSource(
        name=name,
        path=contract.relation().replace(".", "/"),
        file_format=DeltaFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        description=describe(contract),
    )
    return FeatureView(
        name=name,
        entities=entities,
        ttl=FOR_EVER,
        schema=feast_fields(contract),
        source=source,
        online=name in online_views(Settings().root),
        tags={} if online_for is None else {ONLINE_SECONDS: str(int(online_for.total_seconds()))},
        description=describe(contract),
        owner=owner,
    )
