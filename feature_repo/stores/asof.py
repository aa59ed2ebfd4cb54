"""Feast's offline store over the warehouse: committed Delta snapshots, read by DuckDB, joined as of each instant.

Feast's own DuckDB store cannot read Delta without an extension from the network, and joins every spine row with every
earlier row of its key; a table of change points has too many of those. Here the join is DuckDB's ASOF join.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeAlias

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_view import FeatureView
from feast.infra.offline_stores.file_source import FileSource, SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from feast.utils import _get_requested_feature_views_to_features_dict, _get_requested_on_demand_feature_views

from transforms.settings import Settings
from transforms.warehouse import Warehouse

Spine: TypeAlias = pd.DataFrame | pl.DataFrame | pl.LazyFrame | pa.Table | str
EVENT_TIMESTAMP = "event_timestamp"


class AsofOfflineStoreConfig(FeastConfigBaseModel):
    """Where the warehouse is: a folder, relative to the feature repository or absolute."""

    type: Literal["feature_repo.stores.asof.AsofOfflineStore"] = "feature_repo.stores.asof.AsofOfflineStore"
    warehouse: str = "../.millrace"


class AsofRetrievalJob(RetrievalJob):
    """A retrieval that runs when its result is asked for."""

    def __init__(
        self,
        run: Callable[[], pa.Table],
        metadata: RetrievalMetadata | None = None,
        on_demand_feature_views: list[OnDemandFeatureView] | None = None,
        *,
        full_feature_names: bool = False,
    ) -> None:
        """Keep what to run, and what Feast asks a job about."""
        self._run = run
        self._metadata = metadata
        self._on_demand_feature_views = on_demand_feature_views or []
        self._full_feature_names = full_feature_names

    @property
    def full_feature_names(self) -> bool:
        """Whether a feature's column carries its view's name."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """Views that Feast computes on top of the result."""
        return self._on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """Features and keys of the retrieval."""
        return self._metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002
        return self._run()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:  # noqa: ARG002
        frame: pd.DataFrame = self._run().to_pandas()
        return frame

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:  # noqa: FBT001, FBT002
        """Write the result to one Parquet file."""
        if not isinstance(storage, SavedDatasetFileStorage):
            message = f"{type(storage).__name__}: this store persists to SavedDatasetFileStorage only"
            raise TypeError(message)
        path = Path(storage.file_options.uri)
        if path.exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(str(path))
        pq.write_table(self.to_arrow(timeout=timeout), path)


class AsofOfflineStore(OfflineStore):
    """Point-in-time joins over Delta tables and Parquet files."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Spine | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,  # noqa: FBT001, FBT002
        **options: Any,
    ) -> RetrievalJob:
        """Join the newest feature row at or before each spine row's instant; every spine row comes back, in order.

        The spine is a pandas, Polars or Arrow frame or an SQL query over the warehouse, with an `event_timestamp` (naive
        means UTC) and the views' keys.
        """
        if entity_df is None or options:
            message = "give an entity frame: this store does not retrieve by start and end date, or by created timestamp, yet"
            raise ValueError(message)
        on_demand = _get_requested_on_demand_feature_views(feature_refs, project, registry)
        requested, _ = _get_requested_feature_views_to_features_dict(feature_refs, feature_views, on_demand)
        views = {view: list(dict.fromkeys(features)) for view, features in requested.items()}
        with _connect(config) as connection:
            spine = to_arrow(connection, entity_df)
        _check_spine(spine, list(views))

        def run() -> pa.Table:
            with _connect(config) as connection:
                return _join(connection, config, spine, views, full_names=full_feature_names)

        keys = [name for name in spine.column_names if name != EVENT_TIMESTAMP]
        return AsofRetrievalJob(run, RetrievalMetadata(feature_refs, keys), on_demand, full_feature_names=full_feature_names)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Take each entity's newest row of a span of time, both ends included."""
        columns = [*join_key_columns, *feature_name_columns, timestamp_field, *_present(created_timestamp_column)]
        newest = ", ".join(f"{_name(column)} desc" for column in (timestamp_field, *_present(created_timestamp_column)))
        keys = ", ".join(map(_name, join_key_columns)) or "1"
        sql = f"""
            select {", ".join(map(_name, columns))} from feature_rows
            where {_name(timestamp_field)} between $start and $end
            qualify row_number() over (partition by {keys} order by {newest}) = 1
        """
        return _pull(config, data_source, sql, {"start": start_date, "end": end_date})

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Take all rows of a span of time, both ends included."""
        columns = [*join_key_columns, *feature_name_columns, timestamp_field, *_present(created_timestamp_column)]
        sql = f"""
            select {", ".join(map(_name, columns))} from feature_rows
            where {_name(timestamp_field)} >= coalesce($start, '-infinity'::timestamptz)
            and {_name(timestamp_field)} <= coalesce($end, 'infinity'::timestamptz)
        """
        return _pull(config, data_source, sql, {"start": start_date, "end": end_date})


def snapshot(config: RepoConfig, source: DataSource) -> list[str]:
    """List the committed Parquet files of a source: a Delta table's newest version, or plain Parquet."""
    if not isinstance(source, FileSource):
        message = f"source {source.name!r} is a {type(source).__name__}; this store reads FileSource only"
        raise TypeError(message)
    path = _root(config) / source.path
    if DeltaTable.is_deltatable(str(path)):
        return DeltaTable(str(path)).file_uris()
    files = sorted(map(str, path.glob("**/*.parquet"))) if path.is_dir() else [str(path)] if path.is_file() else []
    if not files:
        message = f"source {source.name!r}: nothing at {path}; run the pipeline first: millrace run --source ..."
        raise FileNotFoundError(message)
    return files


def _root(config: RepoConfig) -> Path:
    return Path(config.repo_path or ".", config.offline_store.warehouse).resolve()


@contextmanager
def _connect(config: RepoConfig) -> Iterator[duckdb.DuckDBPyConnection]:
    with Warehouse(Settings(home=_root(config))).connect() as connection:
        yield connection


def _pull(config: RepoConfig, source: DataSource, sql: str, parameters: dict[str, datetime | None]) -> RetrievalJob:
    def run() -> pa.Table:
        with _connect(config) as connection:
            _create_rows(connection, config, source, "feature_rows")
            return connection.sql(sql, params=parameters).to_arrow_table()

    return AsofRetrievalJob(run)


def _create_rows(connection: duckdb.DuckDBPyConnection, config: RepoConfig, source: DataSource, view: str) -> None:
    files = snapshot(config, source)
    if files:
        connection.read_parquet(files).create_view(view)
    else:  # a Delta table without a row
        table = DeltaTable(str(_root(config) / source.path))
        connection.from_arrow(pa.schema(table.schema().to_arrow()).empty_table()).create_view(view)


def to_arrow(connection: duckdb.DuckDBPyConnection, spine: Spine) -> pa.Table:
    """Make a spine an Arrow table, whatever it came as; SQL runs over the warehouse."""
    if isinstance(spine, str):
        return connection.sql(spine).to_arrow_table()
    if isinstance(spine, pd.DataFrame):
        return pa.Table.from_pandas(spine, preserve_index=False)
    if isinstance(spine, pl.LazyFrame):
        spine = spine.collect()
    return spine.to_arrow() if isinstance(spine, pl.DataFrame) else spine


def _check_spine(spine: pa.Table, views: list[FeatureView]) -> None:
    wanted = {EVENT_TIMESTAMP: "every view"}
    for view in views:
        wanted |= dict.fromkeys(_spine_keys(view), f"view {view.name}")
    for column, reader in wanted.items():
        if column not in spine.column_names:
            message = f"the spine has no column {column!r}, which {reader} needs; it has {', '.join(spine.column_names)}"
            raise ValueError(message)
    kind = spine.schema.field(EVENT_TIMESTAMP).type
    if not pa.types.is_timestamp(kind):
        message = f"the spine's {EVENT_TIMESTAMP} is {kind}, not a timestamp; convert it, naive times count as UTC"
        raise ValueError(message)


def _spine_keys(view: FeatureView) -> list[str]:
    return [view.projection.join_key_map.get(key, key) for key in view.join_keys]


def _join(
    connection: duckdb.DuckDBPyConnection, config: RepoConfig, spine: pa.Table, views: dict[FeatureView, list[str]], *, full_names: bool
) -> pa.Table:
    """Add each view's features to the spine, whose own columns are passed on untouched."""
    rows = pa.array(range(spine.num_rows), pa.int64())
    keys = list(dict.fromkeys([EVENT_TIMESTAMP, *(key for view in views for key in _spine_keys(view))]))
    connection.register("spine", spine.select(keys).append_column("spine_row", rows))
    result = spine
    for number, (view, features) in enumerate(views.items()):
        _create_rows(connection, config, view.batch_source, f"view_{number}")
        joined = connection.sql(asof_sql(view, features, f"view_{number}")).to_arrow_table()
        prefix = f"{view.projection.name_to_use()}__" if full_names else ""
        for feature in features:
            result = result.append_column(prefix + feature, joined.column(feature))
    return result


def asof_sql(view: FeatureView, features: list[str], relation: str) -> str:
    """Compose the point-in-time join of the table `spine` with one view's rows.

    Of several rows with one key and instant the last created counts. A row older than the view's TTL gives nulls; a TTL
    of zero never ends. A null key matches nothing.
    """
    source = view.batch_source
    columns = {mapped: column for column, mapped in source.field_mapping.items()}
    keys = [(columns.get(key, key), spine_key) for key, spine_key in zip(view.join_keys, _spine_keys(view), strict=True)]
    created = f"order by {_name(source.created_timestamp_column)} desc" if source.created_timestamp_column else ""
    row_keys = [_name(key) for key, _ in keys]
    ttl = f"interval '{view.ttl // timedelta(microseconds=1)} microseconds'" if view.ttl else ""
    lives = f"and spine.instant - feature_rows.instant <= {ttl}" if ttl else ""
    values = ",\n    ".join(
        f"case when feature_rows.instant is not null {lives} then feature_rows.{_name(column)} end as {_name(feature)}"
        for feature, column in ((feature, columns.get(feature, feature)) for feature in features)
    )
    wanted = " and ".join(f"{_name(key)} in (select spine.{_name(spine_key)} from spine)" for key, spine_key in keys) or "true"
    equal = " and ".join(f"spine.{_name(spine_key)} = feature_rows.{_name(key)}" for key, spine_key in keys) or "true"
    return f"""
with feature_rows as (
    select *, {_name(source.timestamp_field)}::timestamptz as instant from {relation}
    where {wanted}
    qualify row_number() over (partition by {", ".join([*row_keys, "instant"])} {created}) = 1
)
select
    {values}
from (select *, {EVENT_TIMESTAMP}::timestamptz as instant from spine) as spine
asof left join feature_rows on {equal} and spine.instant >= feature_rows.instant
order by spine.spine_row
"""


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _present(column: str | None) -> list[str]:
    return [column] if column else []
