"""Feast's store, which writes to our online stores what it is given: exactly, and nulls too."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pandas as pd
from feast import FeatureStore, FeatureView
from feast.errors import FeatureViewNotFoundException
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from feature_repo.stores.bulk import GuardedWrites, Row
from feature_repo.stores.online import refuse_not_online
from feature_repo.stores.values import RequestError, key_values, proto_values
from transforms.errors import InstantError
from transforms.instants import instants_of

_write_as_feast = FeatureStore.write_to_online_store  # as it is here, whatever the class gets later


class Store(FeatureStore):
    """A `FeatureStore` whose pushes are written as they are.

    Feast's own drops rows that are null in all features, so that older values stay served, takes a
    null inside of a list for 0, and hands integers beside nulls on as floats.
    """

    def write_to_online_store(
        self,
        feature_view_name: str,
        df: Any = None,
        inputs: Any = None,
        allow_registry_cache: bool = True,  # noqa: FBT001, FBT002
        transform_on_write: bool = True,  # noqa: FBT001, FBT002
    ) -> None:
        """Write rows of one view, a frame or a mapping of columns.

        `push` does so for all of a source.

        Raises ValueError, naming view and column, where a column is missing, a key is null, or a
        value does not fit its type.
        """
        views = {view.name: view for view in self.list_all_feature_views(allow_registry_cache)}
        if feature_view_name not in views:
            raise FeatureViewNotFoundException(feature_view_name, self.project)
        view, online_store = views[feature_view_name], self.provider.online_store
        if not isinstance(view, FeatureView) or not isinstance(online_store, GuardedWrites):
            _write_as_feast(
                self, feature_view_name, df, inputs, allow_registry_cache, transform_on_write
            )
            return
        refuse_not_online(self.config, view)
        given = inputs if df is None else df
        frame = (
            given if isinstance(given, pd.DataFrame) else pd.DataFrame(given, dtype=object)
        )  # a dtype of its own would lose digits
        self._validate_vector_features(view, frame)
        if len(frame):
            online_store.online_write_batch(self.config, view, _rows(view, frame), None)

    async def write_to_online_store_async(
        self,
        feature_view_name: str,
        df: Any = None,
        inputs: Any = None,
        allow_registry_cache: bool = True,  # noqa: FBT001, FBT002
    ) -> None:
        """Write rows of one view by a thread of their own."""
        await asyncio.to_thread(
            self.write_to_online_store, feature_view_name, df, inputs, allow_registry_cache
        )


def _rows(view: FeatureView, frame: pd.DataFrame) -> list[Row]:
    """Turn a frame into what Feast hands to an online store."""
    source = view.batch_source
    mapped = frame.rename(columns=dict(source.field_mapping or {}))
    if DUMMY_ENTITY_ID in view.join_keys:
        mapped = mapped.assign(**{DUMMY_ENTITY_ID: DUMMY_ENTITY_VAL})
    keys = {field.name: _keys(view, mapped, field) for field in view.entity_columns}
    features = {field.name: _values(view, mapped, field) for field in view.features}
    events = _instants(view, mapped, source.timestamp_field)
    created = (
        _instants(view, mapped, source.created_timestamp_column)
        if source.created_timestamp_column
        else [None] * len(events)
    )
    entities = [
        EntityKey(join_keys=list(keys), entity_values=key)
        for key in zip(*keys.values(), strict=True)
    ]
    rows = [
        dict(zip(features, values, strict=True)) for values in zip(*features.values(), strict=True)
    ]
    return list(zip(entities, rows, events, created, strict=True))


def _column(view: FeatureView, frame: pd.DataFrame, name: str) -> list[Any]:
    if name not in frame.columns:
        message = (
            f"view {view.name}: the rows have no column {name!r}; they have "
            f"{', '.join(map(str, frame.columns))}"
        )
        raise RequestError(message)
    return list(frame[name])


def _keys(view: FeatureView, frame: pd.DataFrame, field: Any) -> Sequence[Value]:
    kind = field.dtype.to_value_type()
    values = key_values(field.name, _column(view, frame, field.name), kind)
    if None in values:
        message = (
            f"view {view.name}: {values.count(None)} of {len(values)} entity keys {field.name!r} "
            f"are null, or no {kind.name}"
        )
        raise RequestError(message)
    return proto_values(values, kind)


def _values(view: FeatureView, frame: pd.DataFrame, field: Any) -> Sequence[Value]:
    try:
        return proto_values(_column(view, frame, field.name), field.dtype.to_value_type())
    except RequestError:
        raise
    except ValueError as error:
        message = f"view {view.name}: column {field.name!r}: {error}"
        raise RequestError(message) from error


def _instants(view: FeatureView, frame: pd.DataFrame, name: str) -> Sequence[Any]:
    try:
        return list(instants_of(_column(view, frame, name), name).to_pylist())
    except InstantError as error:
        message = f"view {view.name}: {error}"
        raise RequestError(message) from error
