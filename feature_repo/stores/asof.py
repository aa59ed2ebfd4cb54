"""Feast's offline store over the warehouse: point-in-time joins that grow with n log n and stream, over fixed snapshots."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores.file_source import FileLoggingDestination, FileSource, SavedDatasetFileStorage
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from feast.utils import (
    _get_requested_feature_views_to_features_dict,
    _get_requested_on_demand_feature_views,
    compute_non_entity_date_range,
    make_tzaware,
)
from pydantic import ByteSize, Field, TypeAdapter

from feature_repo.stores import sources
from feature_repo.stores.sources import ViewRead, snapshot
from feature_repo.stores.spine import EVENT_TIMESTAMP, Spine, SpineRows, read_spine
from feature_repo.stores.sql import point_in_time_sql
from feature_repo.stores.timeline import CREATED, INSTANT, INSTANT_UP, Partitions, Timeline, n_partitions, to_instant, ttl_units
from transforms.expressions import quoted
from transforms.instants import in_utc, instants_in
from transforms.settings import Settings
from transforms.warehouse import Warehouse

PULLED_ROWS = 100_000
Batches = Callable[[], Iterator[pa.Table]]


class AsofOfflineStoreConfig(FeastConfigBaseModel):
    """Where the rows are and how much memory may be used.

    `warehouse` is the folder that relative source paths start from, itself relative to the feature repository.
    `memory_limit` (`"2GB"`; unset, `MILLRACE_MEMORY_LIMIT`) bounds what is held of the views; a larger view is read in
    parts. A spine is joined and given out `batch_rows` rows at a time. `as_of_versions` names Delta versions of views to
    read instead of the newest (`{author_activity: 12}`). `storage_options` go to object storage.
    """

    type: Literal["feature_repo.stores.asof.AsofOfflineStore"] = "feature_repo.stores.asof.AsofOfflineStore"
    warehouse: str = "."
    memory_limit: str | None = None
    batch_rows: int = 1_000_000
    as_of_versions: dict[str, int] = Field(default_factory=dict)
    storage_options: dict[str, str] = Field(default_factory=dict)


class AsofRetrievalMetadata(RetrievalMetadata):
    """What a retrieval asks for, and `versions`: the Delta version of each view it reads, None for plain Parquet."""

    def __init__(
        self,
        features: list[str],
        keys: list[str],
        versions: Mapping[str, int | None],
        span: tuple[datetime | None, datetime | None] = (None, None),
    ) -> None:
        """Keep the versions beside what Feast keeps."""
        super().__init__(features, keys, *span)
        self.versions = dict(versions)


class AsofRetrievalJob(RetrievalJob):
    """A retrieval that runs when its result is asked for; asked again, it gives the same."""

    def __init__(
        self,
        batches: Batches,
        sql: str,
        config: RepoConfig,
        metadata: RetrievalMetadata | None = None,
        on_demand_feature_views: list[OnDemandFeatureView] | None = None,
        *,
        full_feature_names: bool = False,
    ) -> None:
        """Keep what gives the batches (at least one, maybe without rows), and what Feast asks a job about."""
        self._batches = batches
        self._sql = sql
        self._config = config
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
        """Features, keys and table versions of the retrieval."""
        return self._metadata

    def to_sql(self) -> str:
        """Give DuckDB SQL with the same result; a spine that is no file and no query is the relation `spine` in it."""
        return self._sql

    def to_df(self, validation_reference: Any = None, timeout: int | None = None) -> pd.DataFrame:
        """Run, as a pandas frame. Feast's own copies the whole frame once more to number the rows."""
        frame: pd.DataFrame = self.to_arrow(validation_reference, timeout).to_pandas()
        return frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index(drop=True)

    def to_polars(self) -> pl.DataFrame:
        """Run, as a Polars frame."""
        return pl.DataFrame(sources.known_zones(self.to_arrow()))

    def to_arrow_reader(self) -> pa.RecordBatchReader:
        """Run as the result is read, one batch of the spine at a time, so that memory holds one batch."""
        tables = self._finished_batches()
        first = next(tables)

        def batches() -> Iterator[pa.RecordBatch]:
            yield from first.to_batches()
            for table in tables:
                yield from table.cast(first.schema).to_batches()

        return pa.RecordBatchReader.from_batches(first.schema, batches())

    def to_parquet(self, path: str | Path) -> int:
        """Run into one Parquet file, a local path or a URI, which appears when it is whole; the number of its rows."""
        return sources.write_parquet(self.to_arrow_reader(), str(path), self._config.offline_store.storage_options)

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:  # noqa: ARG002, FBT001, FBT002
        """Write the result where a saved dataset is to be: one Parquet file."""
        if not isinstance(storage, SavedDatasetFileStorage):
            message = f"{type(storage).__name__}: this store persists to SavedDatasetFileStorage only"
            raise TypeError(message)
        uri, options = sources.location(self._config, storage.file_options.uri), sources.storage_options(self._config, storage.file_options)
        if sources.exists(uri, options) and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(uri)
        sources.write_parquet(self.to_arrow_reader(), uri, options)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002
        return pa.concat_tables(self._batches(), promote_options="permissive")

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:  # noqa: ARG002
        frame: pd.DataFrame = self._to_arrow_internal().to_pandas()
        return frame

    def _finished_batches(self) -> Iterator[pa.Table]:
        for batch in self._batches():
            job = AsofRetrievalJob(
                lambda batch=batch: iter([batch]),  # type: ignore[misc]
                self._sql,
                self._config,
                self._metadata,
                self._on_demand_feature_views,
                full_feature_names=self._full_feature_names,
            )
            yield job.to_arrow()  # Feast's own, which puts the on-demand views on top


class AsofOfflineStore(OfflineStore):
    """Point-in-time joins over Delta tables and Parquet files."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Spine | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,  # noqa: FBT001, FBT002
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        filter_by_created_timestamp: bool = False,  # noqa: FBT001, FBT002
    ) -> AsofRetrievalJob:
        """Join the newest feature row at or before each spine row's instant; every spine row comes back, in order.

        The spine is a pandas, Polars or Arrow frame, an SQL query over the warehouse, or a path to Parquet (a file, folder
        or glob), with an `event_timestamp` (naive means UTC, text is ISO 8601) and the views' keys. Without one the keys are those with
        a row from `start_date` to `end_date`, both included, as of `end_date`.
        With `filter_by_created_timestamp` only rows created by the spine's instant count.

        Raises `ValueError` naming view and column where a column is missing or of a type that cannot match.
        """
        span = None
        on_demand = _get_requested_on_demand_feature_views(feature_refs, project, registry)
        requested, _ = _get_requested_feature_views_to_features_dict(feature_refs, feature_views, on_demand)
        reads = [_read(config, view, features) for view, features in requested.items()]
        if entity_df is None:
            span = compute_non_entity_date_range(feature_views, start_date, end_date)
            entity_df = _entities_between(reads, *span)
        with connect(config) as connection:
            spine = read_spine(entity_df, connection, config.offline_store.storage_options)
        spine.check({read.name: read.spine_keys.values() for read in reads}, _names(reads, full_feature_names=full_feature_names))
        join = Join(config, reads, full_feature_names, filter_by_created_timestamp)
        join.check(spine)
        keys = [name for name in spine.schema.names if name != spine.event_timestamp]
        metadata = AsofRetrievalMetadata(feature_refs, keys, {read.name: read.rows.version for read in reads}, span or spine.span())
        sql = point_in_time_sql(spine, reads, full_names=full_feature_names, as_known=filter_by_created_timestamp)
        batches = partial(join.batches, spine)
        return AsofRetrievalJob(batches, sql, config, metadata, on_demand, full_feature_names=full_feature_names)

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
        times = [timestamp_field, *_present(created_timestamp_column)]
        newest = ", ".join(f"{quoted(column)} desc nulls last" for column in times)
        keys = ", ".join(map(quoted, join_key_columns)) or "1"
        latest = f"qualify row_number() over (partition by {keys} order by {newest}) = 1"
        return _pull(config, data_source, join_key_columns, feature_name_columns, times, (start_date, end_date), latest)

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
        times = [timestamp_field, *_present(created_timestamp_column)]
        return _pull(config, data_source, join_key_columns, feature_name_columns, times, (start_date, end_date))

    @staticmethod
    def offline_write_batch(config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None) -> None:
        """Add rows to a view's source as one more file or commit.

        Raises `ValueError` where the table lacks a column of the source, or the source is one single Parquet file.
        """
        source = feature_view.batch_source
        schema = snapshot(config, source).schema
        mapped = {name: column for column, name in source.field_mapping.items()}
        table = table.rename_columns([mapped.get(name, name) for name in table.column_names])  # Feast has mapped it by now
        missing = [name for name in schema.names if name not in table.column_names]
        if missing:
            message = f"view {feature_view.name}: the rows to write lack {', '.join(missing)}, which its source {source.name!r} has"
            raise ValueError(message)
        for name in _present(source.timestamp_field) + _present(source.created_timestamp_column):
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, instants_in(table[place], name))
        sources.append(config, source, table.select(schema.names).cast(schema))
        if progress:
            progress(table.num_rows)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,  # noqa: ARG004
        logging_config: LoggingConfig,
        registry: BaseRegistry,  # noqa: ARG004
    ) -> None:
        """Add served features to the folder of Parquet that the logging destination names."""
        destination = logging_config.destination
        if not isinstance(destination, FileLoggingDestination):
            message = f"{type(destination).__name__}: this store logs to FileLoggingDestination only"
            raise TypeError(message)
        rows = data if isinstance(data, pa.Table) else pads.dataset(data).to_table()
        uri = sources.location(config, destination.path)
        sources.add_file(rows, uri, sources.storage_options(config, destination), destination.partition_by or [])

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """Accept a source that is not there yet (the pipeline makes it later); refuse one of another kind."""
        if not isinstance(data_source, FileSource):
            snapshot(config, data_source)

    def get_table_column_names_and_types_from_data_source(self, config: RepoConfig, data_source: DataSource) -> Iterable[tuple[str, str]]:
        """Look the columns of a source up, for views that leave their schema to it."""
        schema = snapshot(config, data_source).schema
        return zip(schema.names, map(str, schema.types), strict=True)


@dataclass(frozen=True)
class Join:
    """The join of views to a spine, one batch after the other."""

    config: RepoConfig
    reads: list[ViewRead]
    full_names: bool
    as_known: bool

    def check(self, spine: SpineRows) -> None:
        """Raise `ValueError` where a key of the spine cannot match a view's."""
        for read in self.reads:
            self._asked(read, spine, spine.schema.empty_table())

    def batches(self, spine: SpineRows) -> Iterator[pa.Table]:
        """Add each view's features to the spine's batches, whose own columns are passed on untouched."""
        with ExitStack() as stack:
            views = {read.name: self._open(read, stack) for read in self.reads}
            for batch in spine.batches(self.config.offline_store.batch_rows):
                result = batch
                for read in self.reads:
                    values = views[read.name].values(self._asked(read, spine, batch))
                    for feature, column in zip(read.features, values.to_arrow(compat_level=pl.CompatLevel.oldest()).columns, strict=True):
                        result = result.append_column(_name(read, feature, full_names=self.full_names), column)
                yield result

    def _open(self, read: ViewRead, stack: ExitStack) -> Timeline | Partitions:
        keys, schema = list(read.spine_keys), read.rows.scan().collect_schema()
        times = {name: to_instant(column, schema[column], _unit(read)) for name, column in read.timestamps.items()}
        named = [pl.col(column).alias(name) for name, column in read.columns.items()]
        rows = read.rows.scan().select(*named, **{CREATED: pl.lit(None, pl.Int64), **times})
        make = partial(
            Timeline,
            keys=keys,
            features=read.features,
            ttl_units=ttl_units(read.view.ttl, _unit(read)),
            as_known=self.as_known and CREATED in read.timestamps,
        )
        number = n_partitions(rows, _memory_limit(self.config) // 2 // len(self.reads)) if keys else 1
        if number == 1:
            return make(rows.collect())
        folder = stack.enter_context(_warehouse(self.config).scratch())
        return Partitions.write(rows, keys, folder, number, make)

    def _asked(self, read: ViewRead, spine: SpineRows, batch: pa.Table) -> pl.DataFrame:
        schema = read.rows.scan().collect_schema()
        columns = list(dict.fromkeys([spine.event_timestamp, *read.spine_keys.values()]))
        instants = instants_in(batch[spine.event_timestamp], spine.event_timestamp)
        named = batch.select(columns).set_column(columns.index(spine.event_timestamp), spine.event_timestamp, instants)
        frame = pl.DataFrame(sources.known_zones(named))
        keys = [
            matching(spine_key, frame.schema[spine_key], schema[read.columns[key]], read.view.name).alias(key)
            for key, spine_key in read.spine_keys.items()
        ]
        at = partial(to_instant, spine.event_timestamp, frame.schema[spine.event_timestamp], _unit(read))
        return frame.select(*keys, at().alias(INSTANT), at(up=True).alias(INSTANT_UP))


def matching(spine_key: str, kind: pl.DataType, wanted: pl.DataType, view: str) -> pl.Expr:
    """Make a spine's key column of the view's type; a value that type cannot hold becomes null, which matches nothing.

    An integer and the text of its digits are the same key, as online. Raises `ValueError` where the types have nothing in common.
    """
    column = pl.col(spine_key)
    if kind == wanted:
        return column
    if kind == pl.Null or (_is_text(kind) and _is_text(wanted)) or (kind.is_integer() and wanted.is_numeric()):
        return column.cast(wanted, strict=False)
    if kind.is_numeric() and wanted.is_numeric():  # pandas makes integers with gaps floats
        cast = column.cast(wanted, strict=False)
        return pl.when(cast.cast(kind, strict=False) == column).then(cast)
    if kind.is_integer() and _is_text(wanted):
        return column.cast(wanted)
    if _is_text(kind) and wanted.is_integer():  # only the digits of an integer are that integer: not 007, not +7
        cast = column.cast(pl.String).cast(wanted, strict=False)
        return pl.when(cast.cast(pl.String) == column.cast(pl.String)).then(cast)
    message = f"view {view}: its key {spine_key!r} is {wanted}, the spine's is {kind}; convert the spine's column"
    raise ValueError(message)


def _is_text(kind: pl.DataType) -> bool:
    return isinstance(kind, pl.String | pl.Categorical | pl.Enum)


def _name(read: ViewRead, feature: str, *, full_names: bool) -> str:
    return f"{read.name}__{feature}" if full_names else feature


def _names(reads: list[ViewRead], *, full_feature_names: bool) -> dict[str, str]:
    return {_name(read, feature, full_names=full_feature_names): read.name for read in reads for feature in read.features}


def _unit(read: ViewRead) -> Literal["us", "ns"]:
    """Compare in nanoseconds only where the view has them, since those end in the year 2262."""
    kinds = [read.rows.schema.field(column).type for column in read.timestamps.values()]
    return "ns" if any(pa.types.is_timestamp(kind) and kind.unit == "ns" for kind in kinds) else "us"


def _read(config: RepoConfig, view: FeatureView, features: list[str]) -> ViewRead:
    version = config.offline_store.as_of_versions.get(view.name)
    read = ViewRead(view, list(dict.fromkeys(features)), snapshot(config, view.batch_source, version))
    read.check()
    return read


def _entities_between(reads: list[ViewRead], start: datetime, end: datetime) -> pl.DataFrame:
    """List the keys with a row in a span of time, as a spine at its end; a view's keys are null in another view's rows."""
    found = []
    for read in reads:
        schema, column = read.rows.scan().collect_schema(), read.timestamps[INSTANT]
        instant = to_instant(column, schema[column], _unit(read))
        first, last = (pl.lit(in_utc(make_tzaware(time))).cast(pl.Datetime(_unit(read), "UTC")).to_physical() for time in (start, end))
        keys = [pl.col(read.columns[key]).alias(spine_key) for key, spine_key in read.spine_keys.items()]
        if keys:
            found.append(read.rows.scan().filter(instant.is_between(first, last)).select(keys).unique())
    keys_of_all = pl.concat(found, how="diagonal_relaxed").unique().collect() if found else pl.DataFrame([{}])
    sorted_keys = keys_of_all.sort(pl.all()) if keys_of_all.width else keys_of_all
    return sorted_keys.with_columns(pl.lit(in_utc(make_tzaware(end))).cast(pl.Datetime("us", "UTC")).alias(EVENT_TIMESTAMP))


def _warehouse(config: RepoConfig) -> Warehouse:
    limit = {"memory_limit": config.offline_store.memory_limit} if config.offline_store.memory_limit else {}
    return Warehouse(Settings(home=sources.warehouse_folder(config), **limit))


def _memory_limit(config: RepoConfig) -> int:
    return int(TypeAdapter(ByteSize).validate_python(_warehouse(config).settings.memory_limit))


@contextmanager
def connect(config: RepoConfig) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open DuckDB over the warehouse, within the store's memory limit."""
    with _warehouse(config).connect() as connection:
        yield connection


def _pull(
    config: RepoConfig,
    source: DataSource,
    keys: list[str],
    features: list[str],
    times: list[str],
    span: tuple[datetime | None, datetime | None],
    latest: str = "",
) -> RetrievalJob:
    rows = snapshot(config, source)
    dummy = [] if keys else [f"'{DUMMY_ENTITY_VAL}' as {DUMMY_ENTITY_ID}"]
    given = [*map(quoted, [*keys, *features, *times])] if features else ["*"]  # Feast names none where it transforms the rows itself
    instant = f"{quoted(times[0])}::timestamptz"
    sql = f"""
        select {", ".join([*given, *dummy])} from feature_rows
        where {instant} >= coalesce($start, '-infinity'::timestamptz) and {instant} <= coalesce($end, 'infinity'::timestamptz)
        {latest}
    """
    parameters = dict(zip(("start", "end"), (time and make_tzaware(time) for time in span), strict=True))

    def batches() -> Iterator[pa.Table]:
        with connect(config) as connection:
            rows.create_view(connection, "feature_rows")
            reader = connection.sql(sql, params=parameters).to_arrow_reader(PULLED_ROWS)
            yield reader.schema.empty_table()
            for batch in reader:
                yield pa.Table.from_batches([batch])

    return AsofRetrievalJob(batches, sql, config)


def _present(column: str | None) -> list[str]:
    return [column] if column else []
