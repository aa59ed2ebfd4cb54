"""Feast's offline store over the warehouse: streamed point-in-time joins over fixed snapshots."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
from deltalake import write_deltalake
from feast.data_format import DeltaFormat
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores.file_source import (
    FileLoggingDestination,
    FileSource,
    SavedDatasetFileStorage,
)
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

from feature_repo.stores import monitoring, sources
from feature_repo.stores.columns import Files
from feature_repo.stores.newest import latest, list_rows, picked
from feature_repo.stores.sources import (
    Index,
    ViewRead,
    known,
    numbered,
    snapshot,
    warehouse_folder,
)
from feature_repo.stores.spine import EVENT_TIMESTAMP, Spine, SpineRows, read_spine
from feature_repo.stores.sql import point_in_time_sql, pull_sql
from feature_repo.stores.timeline import (
    CREATED,
    INSTANT,
    INSTANT_UP,
    Partitions,
    Timeline,
    instant_of,
    n_partitions,
    to_instant,
    ttl_units,
    units_since_1970,
)
from transforms.features.chosen import refuse_off
from transforms.home import settings_of
from transforms.instants import in_utc, instants_in
from transforms.warehouse.scratch import scratch_folder
from transforms.warehouse.snapshot import connect as connect_warehouse
from transforms.warehouse.tables import Warehouse

PULLED_ROWS = 100_000
Batches = Callable[[], Iterator[pa.Table]]


class AsofOfflineStoreConfig(FeastConfigBaseModel):
    """Where the rows are and how much memory may be used.

    `warehouse` is the folder that relative source paths start from, itself relative to the feature
    repository. `memory_limit` (`"2GB"`; unset, `MILLRACE_MEMORY_LIMIT`) bounds what is in memory of
    the views; a larger view is read in parts. A spine is joined and given out `batch_rows` rows at
    a time. `as_of_versions` names Delta versions of views to read instead of the newest
    (`{author_activity: 12}`). `storage_options` go to object storage.
    """

    type: Literal["feature_repo.stores.asof.AsofOfflineStore"] = (
        "feature_repo.stores.asof.AsofOfflineStore"
    )
    warehouse: str = "."
    memory_limit: str | None = None
    batch_rows: int = 1_000_000
    as_of_versions: dict[str, int] = Field(default_factory=dict)
    storage_options: dict[str, str] = Field(default_factory=dict)


class AsofRetrievalMetadata(RetrievalMetadata):
    """What a retrieval asks for, and the Delta version of each view (None: plain Parquet)."""

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
    """A retrieval that runs when its result is asked for; asked again, it returns the same."""

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
        """Take what returns the batches (at least one, maybe empty) and what Feast asks a job."""
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

    def tables(self) -> Iterator[pa.Table]:
        """Run as the result is read, without on-demand views: at least one table, maybe empty."""
        return self._batches()

    def to_sql(self) -> str:
        """Return DuckDB SQL with the same result.

        A spine in memory is the relation `spine` in it.
        """
        return self._sql

    def to_df(self, validation_reference: Any = None, timeout: int | None = None) -> pd.DataFrame:
        """Run, as a pandas frame. Feast's own method copies the whole frame to number the rows."""
        frame: pd.DataFrame = self.to_arrow(validation_reference, timeout).to_pandas()
        return frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index(drop=True)

    def to_polars(self) -> pl.DataFrame:
        """Run, as a Polars frame."""
        return pl.DataFrame(sources.known_zones(self.to_arrow()))

    def to_arrow_reader(self) -> pa.RecordBatchReader:
        """Run as the result is read, with one batch of the spine in memory at a time."""
        tables = self._finished_batches()
        first = next(tables)

        def batches() -> Iterator[pa.RecordBatch]:
            yield from first.to_batches()
            for table in tables:
                yield from table.cast(first.schema).to_batches()

        return pa.RecordBatchReader.from_batches(first.schema, batches())

    def to_parquet(self, path: str | Path) -> int:
        """Run into one Parquet file, a path or URI, which appears when complete.

        Returns its row count.
        """
        return sources.write_parquet(
            self.to_arrow_reader(), str(path), self._config.offline_store.storage_options
        )

    def persist(
        self,
        storage: SavedDatasetStorage,
        allow_overwrite: bool = False,  # noqa: FBT001, FBT002
        timeout: int | None = None,  # noqa: ARG002
    ) -> None:
        """Write a saved dataset: a Delta table if its storage says so, else one Parquet file."""
        if not isinstance(storage, SavedDatasetFileStorage):
            message = (
                f"{type(storage).__name__}: this store persists to SavedDatasetFileStorage only"
            )
            raise TypeError(message)
        uri, options = (
            sources.location(self._config, storage.file_options.uri),
            sources.storage_options(self._config, storage.file_options),
        )
        if sources.exists(uri, options) and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(uri)
        if isinstance(storage.file_options.file_format, DeltaFormat):
            write_deltalake(
                uri,
                self.to_arrow_reader(),
                mode="overwrite",
                schema_mode="overwrite",
                storage_options=options,
            )
        else:
            sources.write_parquet(self.to_arrow_reader(), uri, options)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002
        return pa.concat_tables(self._batches())

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
        """Join the newest feature row at or before each spine row's instant.

        Keeps all rows, in order.

        Where a key has no row by then, a feature is what its field's tag `empty` says, else null.

        The spine is a pandas, Polars or Arrow frame, an SQL query over the warehouse, or a path to
        Parquet (a file, folder or glob), with an `event_timestamp` (naive means UTC, text is ISO
        8601) and the views' keys. Without one the keys are those with a row from `start_date` to
        `end_date`, both included, as of `end_date`. With `filter_by_created_timestamp` only rows
        created by the spine's instant count.

        Raises `ValueError` naming view and column where a column is missing or of a type that
        cannot match.
        """
        span = None
        on_demand = _get_requested_on_demand_feature_views(feature_refs, project, registry)
        requested, _ = _get_requested_feature_views_to_features_dict(
            feature_refs, feature_views, on_demand
        )
        reads = [_read(config, view, features) for view, features in requested.items()]
        _refuse_same_names(reads, full_feature_names=full_feature_names)
        if entity_df is None:
            span = compute_non_entity_date_range(feature_views, start_date, end_date)
            entity_df = _entities_between(reads, *span)
        # a query may name any table; opening all of them takes a tenth of a second
        with connect(config, of=("",) if isinstance(entity_df, str) else ()) as connection:
            spine = read_spine(entity_df, connection, config.offline_store.storage_options)
        spine.check(
            {read.name: read.spine_keys.values() for read in reads},
            _names(reads, full_feature_names=full_feature_names),
        )
        join = Join(config, reads, full_feature_names, filter_by_created_timestamp)
        join.check(spine)
        keys = [name for name in spine.schema.names if name != spine.event_timestamp]
        metadata = AsofRetrievalMetadata(
            feature_refs,
            keys,
            {read.name: read.rows.version for read in reads},
            span or spine.span(),
        )
        sql = point_in_time_sql(
            spine, reads, full_names=full_feature_names, as_known=filter_by_created_timestamp
        )
        batches = partial(join.batches, spine)
        return AsofRetrievalJob(
            batches, sql, config, metadata, on_demand, full_feature_names=full_feature_names
        )

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
    ) -> AsofRetrievalJob:
        """Take each entity's newest row of a span of time, both ends included."""
        times = [timestamp_field, *_present(created_timestamp_column)]
        return _pull(
            config,
            data_source,
            join_key_columns,
            feature_name_columns,
            times,
            (start_date, end_date),
            only_newest=True,
        )

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
    ) -> AsofRetrievalJob:
        """Take all rows of a span of time, both ends included."""
        times = [timestamp_field, *_present(created_timestamp_column)]
        return _pull(
            config,
            data_source,
            join_key_columns,
            feature_name_columns,
            times,
            (start_date, end_date),
            only_newest=False,
        )

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Add rows to a view's source as one more file or commit.

        A source that is one single Parquet file is written again. Raises `ValueError` where the
        table lacks a column of the source, or the single file is on object storage.
        """
        source = feature_view.batch_source
        schema = snapshot(config, source).schema
        mapped = {name: column for column, name in source.field_mapping.items()}
        table = table.rename_columns(
            [mapped.get(name, name) for name in table.column_names]
        )  # Feast has mapped it by now
        missing = [name for name in schema.names if name not in table.column_names]
        if missing:
            message = (
                f"view {feature_view.name}: the rows to write lack {', '.join(missing)}, which its "
                f"source {source.name!r} has"
            )
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
            message = (
                f"{type(destination).__name__}: this store logs to FileLoggingDestination only"
            )
            raise TypeError(message)
        rows = data if isinstance(data, pa.Table) else pads.dataset(data).to_table()
        uri = sources.location(config, destination.path)
        sources.add_file(
            rows, uri, sources.storage_options(config, destination), destination.partition_by or []
        )

    @staticmethod
    def compute_monitoring_metrics(
        config: RepoConfig,
        data_source: DataSource,
        feature_columns: list[tuple[str, str]],
        timestamp_field: str,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        histogram_bins: int = 20,
        top_n: int = 10,
    ) -> list[dict[str, Any]]:
        """Describe the features of a time span, ends included, for Feast's monitoring.

        No text is kept.
        """
        names = [name for name, _ in feature_columns]
        job = AsofOfflineStore.pull_all_from_table_or_query(
            config, data_source, [], names, timestamp_field, None, start_date, end_date
        )
        return monitoring.describe(job.tables(), feature_columns, histogram_bins, top_n)

    @staticmethod
    def get_monitoring_max_timestamp(
        config: RepoConfig, data_source: DataSource, timestamp_field: str
    ) -> datetime | None:
        """Find the newest instant of a source; None where it has none."""
        try:
            index = Index(snapshot(config, data_source), [], {INSTANT: timestamp_field})
        except FileNotFoundError:  # nothing is written yet
            return None
        newest = [
            index.frame(batch).select(pl.col(INSTANT).max()).item()
            for _, batch in index.rows.batches(index.columns)
        ]
        found = [units for units in newest if units is not None]
        return instant_of(max(found), index.unit) if found else None

    @staticmethod
    def ensure_monitoring_tables(config: RepoConfig) -> None:
        """Do nothing: what is saved makes its file."""

    @staticmethod
    def save_monitoring_metrics(
        config: RepoConfig, metric_type: str, metrics: list[dict[str, Any]]
    ) -> None:
        """Keep metrics; those of the same key are replaced."""
        monitoring.save(_monitored(config), metric_type, metrics)

    @staticmethod
    def query_monitoring_metrics(
        config: RepoConfig,
        project: str,
        metric_type: str,
        filters: dict[str, Any] | None = None,
        start_date: date | None = None,
        end_date: date | None = None,
    ) -> list[dict[str, Any]]:
        """Read a project's metrics (of all, where it is empty), the oldest first."""
        return monitoring.query(
            _monitored(config), project, metric_type, filters or {}, (start_date, end_date)
        )

    @staticmethod
    def clear_monitoring_baseline(
        config: RepoConfig,
        project: str,
        feature_view_name: str | None = None,
        feature_name: str | None = None,
        data_source_type: str | None = None,
    ) -> None:
        """Let no feature metric that matches be a baseline any more."""
        wanted = {
            "feature_view_name": feature_view_name,
            "feature_name": feature_name,
            "data_source_type": data_source_type,
        }
        monitoring.clear_baseline(_monitored(config), project, wanted)

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """Accept a source that does not exist yet (the pipeline creates it).

        Refuse one of another kind.
        """
        if not isinstance(data_source, FileSource):
            snapshot(config, data_source)

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> Iterable[tuple[str, str]]:
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
        """Add each view's features to the spine's batches, whose own columns stay untouched."""
        with ExitStack() as stack:
            views = {read.name: self._open(read, stack) for read in self.reads}
            for batch in spine.batches(self.config.offline_store.batch_rows):
                result = batch
                for read in self.reads:
                    values = views[read.name].values(self._asked(read, spine, batch))
                    for feature, column in zip(read.features, values.columns, strict=True):
                        result = result.append_column(
                            _name(read, feature, full_names=self.full_names), column
                        )
                yield result

    def _open(self, read: ViewRead, stack: ExitStack) -> Timeline | Partitions:
        index, columns = read.index, {**read.index.columns, **read.feature_columns}
        make = partial(self._timeline, read)
        budget = memory_limit(self.config) // 2 // len(self.reads)
        number = n_partitions(read.rows.n_rows(), read.rows.row_bytes(columns), budget)
        if number == 1:
            return make(read.rows.table(columns))
        files = Files(
            stack.enter_context(scratch_folder(warehouse(self.config).settings.root)),
            read.rows.carried(columns),
        )
        return Partitions.write(
            (batch for _, batch in read.rows.batches(columns)), index.frame, files, number, make
        )

    def _timeline(self, read: ViewRead, rows: pa.Table) -> Timeline:
        return Timeline(
            read.index.frame(rows),
            rows.select(list(read.feature_columns)),
            read.rows.kinds(read.feature_columns),
            read.empty,
            ttl_units(read.view.ttl, read.index.unit),
            self.as_known and CREATED in read.timestamps,
        )

    def _asked(self, read: ViewRead, spine: SpineRows, batch: pa.Table) -> pl.DataFrame:
        """Return the spine's keys and instants as the view's index has them."""
        columns = numbered("key", read.spine_keys.values())
        instants = instants_in(batch[spine.event_timestamp], spine.event_timestamp)
        frame = known(
            pa.table(
                {**{name: batch[column] for name, column in columns.items()}, INSTANT: instants}
            )
        )
        wanted, unit = read.index.schema, read.index.unit
        keys = [
            matching(
                pl.col(name), frame.schema[name], wanted[name], (read.view.name, column)
            ).alias(name)
            for name, column in columns.items()
        ]
        at = partial(to_instant, INSTANT, frame.schema[INSTANT], unit)
        return frame.select(*keys, at().alias(INSTANT), at(up=True).alias(INSTANT_UP))


def matching(
    column: pl.Expr, kind: pl.DataType, wanted: pl.DataType, named: tuple[str, str]
) -> pl.Expr:
    """Cast a spine's key column to the view's type.

    What it cannot represent becomes null: no match.

    An integer and the text of its digits are the same key, as online. Raises `ValueError`, naming
    view and key, where the types have nothing in common.
    """
    if kind == wanted:
        return column
    if (
        kind == pl.Null
        or (_is_text(kind) and _is_text(wanted))
        or (kind.is_integer() and wanted.is_numeric())
    ):
        return column.cast(wanted, strict=False)
    if kind.is_numeric() and wanted.is_numeric():  # pandas makes integers with gaps floats
        cast = column.cast(wanted, strict=False)
        return pl.when(cast.cast(kind, strict=False) == column).then(cast)
    if kind.is_integer() and _is_text(wanted):
        return column.cast(wanted)
    if (
        _is_text(kind) and wanted.is_integer()
    ):  # only the digits of an integer are that integer: not 007, not +7
        cast = column.cast(pl.String).cast(wanted, strict=False)
        return pl.when(cast.cast(pl.String) == column.cast(pl.String)).then(cast)
    if _is_instant(kind) and _is_instant(wanted):  # pandas counts in nanoseconds
        cast = column.cast(wanted, strict=False)
        return pl.when(cast.cast(kind, strict=False) == column).then(cast)
    view, key = named
    message = (
        f"view {view}: its key {key!r} is {wanted}, the spine's is {kind}; convert the spine's "
        "column"
    )
    raise ValueError(message)


def _is_instant(kind: pl.DataType) -> bool:
    return isinstance(kind, pl.Datetime | pl.Date)


def _is_text(kind: pl.DataType) -> bool:
    return isinstance(kind, pl.String | pl.Categorical | pl.Enum)


def _name(read: ViewRead, feature: str, *, full_names: bool) -> str:
    return f"{read.name}__{feature}" if full_names else feature


def _names(reads: list[ViewRead], *, full_feature_names: bool) -> dict[str, str]:
    return {
        _name(read, feature, full_names=full_feature_names): read.name
        for read in reads
        for feature in read.features
    }


def _refuse_same_names(reads: list[ViewRead], *, full_feature_names: bool) -> None:
    """Raise `ValueError` where features of two views would share a column name.

    Feast checks this only for the features named in a request.
    """
    first: dict[str, str] = {}
    for read in reads:
        for feature in read.features:
            name = _name(read, feature, full_names=full_feature_names)
            if first.setdefault(name, read.name) != read.name:
                message = (
                    f"views {first[name]} and {read.name} both have a feature {feature!r}; ask "
                    "with full_feature_names=True"
                )
                raise ValueError(message)


def _read(config: RepoConfig, view: FeatureView, features: list[str]) -> ViewRead:
    version = config.offline_store.as_of_versions.get(view.name)
    if version is None:  # a lock names versions of views that may be off by now
        refuse_off(warehouse_folder(config), view.name)
    read = ViewRead(
        view, list(dict.fromkeys(features)), snapshot(config, view.batch_source, version)
    )
    read.check()
    return read


def _entities_between(reads: list[ViewRead], start: datetime, end: datetime) -> pa.Table:
    """List the keys with a row in a time span, as a spine at its end.

    Keys of other views are null.
    """
    kinds = {
        key: _stored(read.rows.schema.field(read.columns[own]).type)
        for read in reversed(reads)
        for own, key in read.spine_keys.items()
    }
    names = list(dict.fromkeys(key for read in reads for key in read.spine_keys.values()))
    found = [
        part for read in reads if read.spine_keys for part in _keys_between(read, names, start, end)
    ]
    at = pa.scalar(in_utc(make_tzaware(end)), pa.timestamp("us", "UTC"))
    if not found:
        return pa.table({EVENT_TIMESTAMP: pa.array([at])})
    keys = pl.concat(found, how="diagonal_relaxed").unique()
    rows = keys.select(map(str, range(len(names)))).sort(pl.all()).to_arrow()
    columns = [rows[str(number)].cast(kinds[name]) for number, name in enumerate(names)]
    return pa.table([*columns, pa.repeat(at, rows.num_rows)], names=[*names, EVENT_TIMESTAMP])


def _keys_between(
    read: ViewRead, names: list[str], start: datetime, end: datetime
) -> Iterator[pl.DataFrame]:
    """Return the keys of a view's rows in a span, named by their place in `names`."""
    index = read.index
    first, last = (units_since_1970(make_tzaware(time), index.unit) for time in (start, end))
    keys = [
        pl.col(name).alias(str(names.index(key)))
        for name, key in numbered("key", read.spine_keys.values()).items()
    ]
    yield index.schema.to_frame().select(keys)
    for _, batch in read.rows.batches(index.columns):
        yield (
            index.frame(batch).filter(pl.col(INSTANT).is_between(first, last)).select(keys).unique()
        )


def _stored(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _monitored(config: RepoConfig) -> Path:
    return sources.warehouse_folder(config) / "feast" / "monitoring"


def warehouse(config: RepoConfig) -> Warehouse:
    """Open the warehouse, within the store's memory limit."""
    settings = settings_of(sources.warehouse_folder(config))
    limit = config.offline_store.memory_limit or settings.memory_limit
    return Warehouse(settings.model_copy(update={"memory_limit": limit}))


def memory_limit(config: RepoConfig) -> int:
    """Count the bytes of the store's memory limit."""
    return int(TypeAdapter(ByteSize).validate_python(warehouse(config).settings.memory_limit))


@contextmanager
def connect(config: RepoConfig, of: tuple[str, ...] = ()) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open DuckDB within the store's memory limit, over those tables whose names begin so."""
    with connect_warehouse(warehouse(config), of=of) as connection:
        yield connection


def _pull(
    config: RepoConfig,
    source: DataSource,
    keys: list[str],
    features: list[str],
    times: list[str],
    span: tuple[datetime | None, datetime | None],
    *,
    only_newest: bool,
) -> AsofRetrievalJob:
    rows = snapshot(config, source)
    names = (
        list(dict.fromkeys([*keys, *features, *times])) if features else rows.schema.names
    )  # Feast names none where it transforms the rows
    index = Index(rows, keys, dict(zip((INSTANT, CREATED), times, strict=False)))
    first, last = (
        units_since_1970(make_tzaware(time), index.unit) if time else end
        for time, end in zip(span, (-(2**63), 2**63 - 1), strict=True)
    )
    values = numbered("value", names)

    def batches() -> Iterator[pa.Table]:
        yield rows.kinds(values).empty_table()
        if not only_newest:
            for _, batch in rows.batches({**index.columns, **values}):
                is_in = index.frame(batch)[INSTANT].is_between(first, last).fill_null(value=False)
                yield rows.picked(batch.select(list(values)), is_in.arg_true().to_arrow(), values)
            return
        with connect(config) as connection:
            list_rows(connection, index)
            found = latest(connection, index, first, last)
            yield from (
                rows.picked(batch, places, values)
                for _, batch, places in picked(rows, values, found)
            )

    def named() -> Iterator[pa.Table]:
        for table in batches():
            given = table.rename_columns(names)
            yield (
                given
                if keys
                else given.append_column(
                    DUMMY_ENTITY_ID, pa.repeat(DUMMY_ENTITY_VAL, given.num_rows)
                )
            )

    return AsofRetrievalJob(
        named, pull_sql(index, values, names, span, only_newest=only_newest), config
    )


def _present(column: str | None) -> list[str]:
    return [column] if column else []
