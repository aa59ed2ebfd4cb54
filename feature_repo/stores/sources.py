"""Where a feature view's rows are and how they are read: Delta or Parquet, local or remote.

A `Snapshot` is fixed when it is taken: a Delta table at one version, or the Parquet files of that
moment.
"""

import fcntl
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote
from uuid import uuid4

import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError
from feast.data_format import DeltaFormat
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.offline_stores.file_source import FileSource
from feast.repo_config import RepoConfig

from feature_repo.stores.columns import carried, gathered
from feature_repo.stores.empty import empty_values
from feature_repo.stores.timeline import CREATED, INSTANT, TimeUnit, to_instant
from transforms.paths import refuse_path
from transforms.replica import have_here
from transforms.warehouse.tables import Warehouse, n_rows_of

# what Spark and others put beside the data; Arrow's own rule would also leave out a partition such
# as __log_date=2026-01-01
NO_DATA = (".", "_SUCCESS", "_metadata", "_common_metadata", "_delta_log", "_temporary")

_warehouse: ContextVar[Warehouse | None] = ContextVar("warehouse", default=None)
SAMPLE_ROWS = 10_000
FEW_ROWS = 10_000
# columns that Arrow adds to every file that it scans
NAMES_OF_ARROWS = {"__fragment_index", "__batch_index", "__last_in_fragment", "__filename"}


@dataclass(frozen=True)
class Snapshot:
    """A source's rows at one moment; `version` is None where the source keeps none (plain Parquet).

    Arrow alone reads the rows: it distinguishes `x` from `X`, and knows every type that a source
    may have.
    """

    uri: str
    version: int | None
    files: tuple[str, ...]
    schema: pa.Schema
    partitions: tuple[str, ...]
    storage_options: Mapping[str, str]

    def kinds(self, columns: Mapping[str, str]) -> pa.Schema:
        """Return the source's own types of columns, under their given names."""
        return pa.schema(
            [self.schema.field(column).with_name(name) for name, column in columns.items()]
        )

    def batches(self, columns: Mapping[str, str]) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Read columns under given names, in file order, each batch with its file's identity.

        Types are those of `carried`; `picked` and `gathered` return the source's own.
        """
        for identity, (_, batches) in zip(self.identities, self.by_file(columns), strict=True):
            for batch in batches:
                yield identity, batch

    def by_file(self, columns: Mapping[str, str]) -> Iterator[tuple[int, Iterator[pa.RecordBatch]]]:
        """Yield of each file how many rows it has, and its batches, which are read if asked for."""
        projection = {name: pads.field(column) for name, column in columns.items()}
        dataset = self._dataset
        for file, n_rows in zip(dataset.get_fragments(), self.counts, strict=True):
            yield n_rows, _batches(file, dataset.schema, projection, n_rows)

    def carried(self, columns: Mapping[str, str]) -> pa.Schema:
        """Return the types in which columns are read."""
        return pa.schema([field.with_type(carried(field.type)) for field in self.kinds(columns)])

    def table(self, columns: Mapping[str, str]) -> pa.Table:
        """Read columns at once, with the types of `carried`."""
        return self._dataset.to_table(
            columns={name: pads.field(column) for name, column in columns.items()}
        )

    def row_bytes(self, columns: Mapping[str, str]) -> float:
        """The bytes a row takes in memory, by the types if they say so, else by the first rows."""
        kinds = self.carried(columns).types
        if all(pa.types.is_primitive(kind) for kind in kinds):
            return float(sum(kind.bit_width for kind in kinds) / 8)
        projection = {name: pads.field(column) for name, column in columns.items()}
        few = {
            "batch_size": SAMPLE_ROWS,
            "batch_readahead": 0,
            "fragment_readahead": 0,
        }  # else whole files are read ahead
        sample = self._dataset.head(SAMPLE_ROWS, columns=projection, **few)
        return float(sample.nbytes / max(1, sample.num_rows))

    def picked(
        self, batch: pa.RecordBatch, places: pa.Array, columns: Mapping[str, str]
    ) -> pa.Table:
        """Take rows of a batch, as the source's own types."""
        kinds = self.kinds(columns)
        values = [
            gathered(pa.chunked_array([column]), places, kind)
            for column, kind in zip(batch.columns, kinds.types, strict=True)
        ]
        return pa.table(values, kinds)

    def n_rows(self) -> int:
        """Count the rows, by what the files say of themselves."""
        return sum(self.counts)

    @cached_property
    def counts(self) -> list[int]:
        """The rows of each file, by what it says of itself; Delta never rewrites one."""
        if self.version is not None and not is_remote(self.uri):
            return [n_rows_of(file) for file in self.files]
        return [file.count_rows() for file in self._dataset.get_fragments()]

    def is_whole(self) -> bool:
        """Whether all files still exist: old versions of a Delta table are eventually removed."""
        return all(info.type == pafs.FileType.File for info in self._infos())

    @property
    def identities(self) -> list[str]:
        """Name each file so that a rewritten one has another name.

        Delta never rewrites a file; for others, time and size show it.
        """
        if self.version is not None:
            return [file.removeprefix(self.uri) for file in self.files]
        return [f"{info.path} {info.mtime_ns} {info.size}" for info in self._infos()]

    @cached_property
    def _dataset(self) -> pads.Dataset:
        """Open the files, in their order; what their footers say is read once."""
        have_here(self.files)
        schema = pa.schema([field.with_type(carried(field.type)) for field in self.schema])
        filesystem, path = file_system(self.uri, self.storage_options)
        if self.version is None or not (self.partitions or is_remote(self.uri)):
            fields = pa.schema([schema.field(name) for name in self.partitions])
            partitioning = pads.partitioning(fields, flavor="hive") if self.partitions else None
            files, base = [_path(file) for file in self.files], _base(filesystem, path)
            return pads.dataset(
                files, schema, "parquet", filesystem, partitioning, partition_base_dir=base
            )
        table = DeltaTable(
            self.uri, version=self.version, storage_options=dict(self.storage_options)
        )
        dataset = table.to_pyarrow_dataset(
            schema=schema
        )  # a Delta file lacks its partition's columns
        files_by_name = {file.path.rsplit("/", 1)[-1]: file for file in dataset.get_fragments()}
        fragments = [files_by_name[file.rsplit("/", 1)[-1]] for file in self.files]
        return pads.FileSystemDataset(fragments, schema, dataset.format, dataset.filesystem)

    def _infos(self) -> list[pafs.FileInfo]:
        have_here(self.files)
        filesystem, _ = file_system(self.uri, self.storage_options)
        infos: list[pafs.FileInfo] = filesystem.get_file_info([_path(file) for file in self.files])
        return infos


def _batches(
    file: pads.Fragment, schema: pa.Schema, projection: Mapping[str, pads.Expression], n_rows: int
) -> Iterator[pa.RecordBatch]:
    # threads cost more than few rows
    yield from file.to_batches(schema, projection, use_threads=n_rows > FEW_ROWS)


@dataclass(frozen=True)
class ViewRead:
    """What a retrieval reads of one view: features, snapshot and columns of the spine."""

    view: FeatureView
    features: list[str]
    rows: Snapshot

    @property
    def name(self) -> str:
        """The view's name, or its alias."""
        return str(self.view.projection.name_to_use())

    @property
    def spine_keys(self) -> dict[str, str]:
        """For each of the view's keys the spine's column, which an alias may name differently."""
        return {
            key: self.view.projection.join_key_map.get(key, key)
            for key in self.view.join_keys
            if key != DUMMY_ENTITY_ID
        }

    @property
    def columns(self) -> dict[str, str]:
        """For each key and feature the source's column."""
        return {name: self._mapped.get(name, name) for name in (*self.spine_keys, *self.features)}

    @property
    def index(self) -> "Index":
        """Keys and times of the rows."""
        return Index(self.rows, [self.columns[key] for key in self.spine_keys], self.timestamps)

    @property
    def feature_columns(self) -> dict[str, str]:
        """For each feature a name of ours and the source's column."""
        return numbered("feature", [self.columns[feature] for feature in self.features])

    @property
    def empty(self) -> list[pa.Scalar | None]:
        """For each feature its value where nothing counts, None where that is null."""
        values = empty_values(self.view, self.features)
        kinds = [self.rows.schema.field(self.columns[feature]).type for feature in self.features]
        return [
            pa.scalar(values[name], kind) if name in values else None
            for name, kind in zip(self.features, kinds, strict=True)
        ]

    @property
    def _mapped(self) -> dict[str, str]:
        return {name: column for column, name in self.view.batch_source.field_mapping.items()}

    @property
    def timestamps(self) -> dict[str, str]:
        """The source's event timestamp and, where it has one, its created timestamp."""
        source = self.view.batch_source
        named = {INSTANT: source.timestamp_field, CREATED: source.created_timestamp_column}
        return {name: self._mapped.get(column, column) for name, column in named.items() if column}

    def check(self) -> None:
        """Raise `ValueError` for a column that the source lacks or that is no time."""
        for name, column in {**self.columns, **self.timestamps}.items():
            if column not in self.rows.schema.names:
                message = (
                    f"view {self.view.name}: its source at {self.rows.uri} has no column "
                    f"{column!r} (for {name}); it has "
                )
                raise ValueError(message + ", ".join(self.rows.schema.names))
        for column in self.timestamps.values():
            kind = self.rows.schema.field(column).type
            if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
                message = (
                    f"view {self.view.name}: {column} of its source at {self.rows.uri} is {kind}, "
                    "not a timestamp"
                )
                raise ValueError(message)


@dataclass(frozen=True)
class Index:
    """Keys and times of a source's rows, named and typed for the engines that find rows.

    An engine that finds rows sees no name of a user's (DuckDB does not distinguish `x` from `X`)
    and no feature.
    """

    rows: Snapshot
    keys: Sequence[str]
    times: Mapping[str, str]

    @property
    def columns(self) -> dict[str, str]:
        """For each name of ours the source's column."""
        return {**numbered("key", self.keys), **self.times}

    @property
    def unit(self) -> TimeUnit:
        """Count in nanoseconds only where there are some, since those end in the year 2262."""
        kinds = [self.rows.schema.field(column).type for column in self.times.values()]
        return (
            "ns"
            if any(pa.types.is_timestamp(kind) and kind.unit == "ns" for kind in kinds)
            else "us"
        )

    def frame(self, rows: pa.Table | pa.RecordBatch) -> pl.DataFrame:
        """Return the index of rows that have its columns: keys, `INSTANT` and `CREATED`."""
        frame = known(rows.select(list(self.columns)))
        created = pl.lit(None, pl.Int64).alias(CREATED)
        times = [to_instant(name, frame.schema[name], self.unit).alias(name) for name in self.times]
        return frame.with_columns(*([] if CREATED in self.times else [created]), *times)

    @property
    def schema(self) -> pl.Schema:
        """Types of what `frame` returns."""
        return self.frame(self.rows.kinds(self.columns).empty_table()).schema


def numbered(what: str, columns: Iterable[str]) -> dict[str, str]:
    """Name columns by their position.

    >>> numbered('key', ['author_id', 'subject_id'])
    {'key_0': 'author_id', 'key_1': 'subject_id'}
    """
    return {f"{what}_{number}": column for number, column in enumerate(columns)}


def known(rows: pa.Table | pa.RecordBatch) -> pl.DataFrame:
    """Pass keys and times to Polars: dictionaries decoded, extensions unwrapped, instants naive."""
    return pl.DataFrame(
        {name: pl.from_arrow(_plain(rows.column(name))) for name in rows.schema.names}
    )


def _plain(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return column.cast(kind.storage_type)
    return (
        column.cast(pa.timestamp(kind.unit)) if pa.types.is_timestamp(kind) and kind.tz else column
    )


def snapshot(config: RepoConfig, source: DataSource, version: int | None = None) -> Snapshot:
    """Pin a source's rows: a Delta table's newest or given version, or the current Parquet files.

    Raises `FileNotFoundError` where there is nothing, `TypeError` for a source that is not a
    `FileSource`, and `ValueError` for one that Arrow cannot read.
    """
    if not isinstance(source, FileSource):
        message = (
            f"source {source.name!r} is a {type(source).__name__}; this store reads FileSource only"
        )
        raise TypeError(message)
    uri, options = location(config, source.path), storage_options(config, source)
    found = _snapshot(source, uri, options, version)
    taken = NAMES_OF_ARROWS & set(found.schema.names)
    if taken:
        message = (
            f"source {source.name!r}: {uri} has a column {min(taken)!r}, a name that Arrow keeps "
            "for itself; rename it"
        )
        raise ValueError(message)
    return found


def _snapshot(
    source: FileSource, uri: str, options: dict[str, str], version: int | None
) -> Snapshot:
    if _is_delta(uri, options):
        table = _delta_table(source, uri, version, options)
        partitions = tuple(table.metadata().partition_columns)
        files = tuple(table.file_uris() if is_remote(uri) else map(unquote, table.file_uris()))
        unread = {"columnMapping", "deletionVectors"} & set(table.protocol().reader_features or ())
        if unread:
            message = (
                f"source {source.name!r}: {uri} uses {', '.join(sorted(unread))}, which this store "
                "cannot read; write the table without"
            )
            raise ValueError(message)
        return Snapshot(
            uri, table.version(), files, pa.schema(table.schema().to_arrow()), partitions, options
        )
    if version is not None:
        message = (
            f"source {source.name!r}: {uri} is Parquet, which keeps no versions; take version "
            f"{version} out of as_of_versions"
        )
        raise ValueError(message)
    dataset = None if isinstance(source.file_format, DeltaFormat) else parquet(uri, options)
    if dataset is None or not dataset.files:
        message = (
            f"source {source.name!r}: nothing at {uri}; run the pipeline first (millrace run "
            "--source ...), or mend the source's path"
        )
        raise FileNotFoundError(message)
    prefix = f"{uri.split('://', 1)[0]}://" if is_remote(uri) else ""
    files = tuple(prefix + file for file in sorted(dataset.files))
    schema = pa.unify_schemas(
        [dataset.schema, *(file.physical_schema for file in dataset.get_fragments())],
        promote_options="permissive",
    )
    return Snapshot(
        uri, None, files, schema, _partitions(*file_system(uri, options), files), options
    )


def _path(file: str) -> str:
    return file.split("://", 1)[-1]


def known_zones(table: pa.Table) -> pa.Table:
    """Convert to UTC the times whose zone is an offset, as `+05:30`: Polars knows zones by name."""
    zoned = [
        field
        for field in table.schema
        if pa.types.is_timestamp(field.type) and (field.type.tz or "").startswith(("+", "-"))
    ]
    for field in zoned:
        place = table.schema.get_field_index(field.name)
        table = table.set_column(
            place, field.name, table[place].cast(pa.timestamp(field.type.unit, "UTC"))
        )
    return table


def parquet(uri: str, options: Mapping[str, str]) -> pads.FileSystemDataset | None:
    """Open Parquet, a file, a folder or a glob, as a dataset; None where nothing is."""
    filesystem, path = file_system(uri, options)
    files: str | list[str] = path
    if (
        filesystem.get_file_info(path).type == pafs.FileType.NotFound
    ):  # a name may hold what a pattern has
        files = (
            sorted(map(str, Path(path).parent.glob(Path(path).name)))
            if any(character in path for character in "*?[")
            else []
        )
    if not files:
        return None
    base = _base(filesystem, path)
    return pads.dataset(
        files,
        None,
        "parquet",
        filesystem,
        "hive",
        partition_base_dir=base,
        ignore_prefixes=list(NO_DATA),
    )


def _base(filesystem: pafs.FileSystem, path: str) -> str:
    """Find the root of a source's partition folders: the source itself, or where its files are."""
    return (
        path
        if filesystem.get_file_info(path).type == pafs.FileType.Directory
        else path.rpartition("/")[0]
    )


def append(config: RepoConfig, source: FileSource, rows: pa.Table) -> None:
    """Add rows to a source as one more file or commit; only a single Parquet file is rewritten.

    Raises `ValueError` for a single file on object storage, where two who write at once cannot wait
    for each other.
    """
    uri, options = location(config, source.path), storage_options(config, source)
    if isinstance(source.file_format, DeltaFormat) or _is_delta(uri, options):
        write_deltalake(uri, rows, mode="append", storage_options=options)
        return
    filesystem, path = file_system(uri, options)
    if filesystem.get_file_info(path).type != pafs.FileType.File:
        add_file(rows, uri, options, _partitions(filesystem, path, snapshot(config, source).files))
        return
    if is_remote(uri):
        message = (
            f"source {source.name!r}: {uri} is one Parquet file, which cannot be appended to "
            "there; give the source a folder"
        )
        raise ValueError(message)
    with _alone(Path(path)) as file:
        before = pq.ParquetFile(file)
        kinds = before.schema_arrow
        groups = (before.read_row_group(number) for number in range(before.num_row_groups))
        batches = (
            batch
            for table in (*groups, rows.select(kinds.names).cast(kinds))
            for batch in table.to_batches()
        )
        write_parquet(pa.RecordBatchReader.from_batches(kinds, batches), uri, options)


@contextmanager
def _alone(path: Path) -> Iterator[BinaryIO]:
    """Open a file that nobody else is replacing.

    Whoever waited for a file that was replaced waits for the new one.
    """
    while True:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield file
                return


def add_file(
    rows: pa.Table, uri: str, options: Mapping[str, str], partitions: Collection[str] = ()
) -> None:
    """Add rows to a Parquet folder as a new file, one in each partition (`column=value`)."""
    filesystem, path = file_system(uri, options)
    fields = [rows.schema.field(name) for name in partitions]
    pads.write_dataset(
        rows,
        path,
        filesystem=filesystem,
        format="parquet",
        basename_template=f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex}-{{i}}.parquet",
        partitioning=pads.partitioning(pa.schema(fields), flavor="hive") if fields else None,
        existing_data_behavior="overwrite_or_ignore",
    )


def exists(uri: str, options: Mapping[str, str]) -> bool:
    """Whether a file or folder is there."""
    filesystem, path = file_system(uri, options)
    return bool(filesystem.get_file_info(path).type != pafs.FileType.NotFound)


def write_parquet(batches: pa.RecordBatchReader, uri: str, options: Mapping[str, str]) -> int:
    """Write batches to one Parquet file, which appears when complete; returns its row count.

    What was there is replaced; where that is a folder, the file becomes the only one in it.
    """
    filesystem, path = file_system(uri, options)
    unfinished = f"{path}.{uuid4().hex}.unfinished"
    rows = 0
    try:
        with pq.ParquetWriter(unfinished, batches.schema, filesystem=filesystem) as writer:
            for batch in batches:
                writer.write_batch(batch)
                rows += batch.num_rows
        if filesystem.get_file_info(path).type == pafs.FileType.Directory:
            filesystem.delete_dir_contents(path)
            path = f"{path}/{uuid4().hex}.parquet"
        filesystem.move(unfinished, path)
    finally:
        if filesystem.get_file_info(unfinished).type != pafs.FileType.NotFound:
            filesystem.delete_file(unfinished)
    return rows


def location(config: RepoConfig, path: str) -> str:
    """Resolve a path against the warehouse, unless it is absolute or has a scheme.

    The warehouse is relative to the repository.
    """
    return path if is_remote(path) else str(warehouse_folder(config) / path)


def warehouse_folder(config: RepoConfig) -> Path:
    """Resolve the warehouse's folder against the feature repository."""
    return Path(config.repo_path or ".", config.offline_store.warehouse).resolve()


def storage_options(config: RepoConfig, source: Any) -> dict[str, str]:
    """Gather object storage options from outside its own environment variables."""
    options = dict(config.offline_store.storage_options)
    if source.s3_endpoint_override:
        options |= {"AWS_ENDPOINT_URL": source.s3_endpoint_override, "AWS_ALLOW_HTTP": "true"}
    return options


def file_system(uri: str, options: Mapping[str, str]) -> tuple[pafs.FileSystem, str]:
    """Open the file system of a URI, and the path in it."""
    if not is_remote(uri):
        return pafs.LocalFileSystem(), uri
    if not uri.startswith(("s3://", "s3a://")):
        filesystem, path = pafs.FileSystem.from_uri(uri)
        return filesystem, path
    known = {**os.environ, **options}
    given = {
        "access_key": known.get("AWS_ACCESS_KEY_ID"),
        "secret_key": known.get("AWS_SECRET_ACCESS_KEY"),
        "session_token": known.get("AWS_SESSION_TOKEN"),
        "region": known.get("AWS_REGION") or known.get("AWS_DEFAULT_REGION"),
        "endpoint_override": known.get("AWS_ENDPOINT_URL"),
    }
    return pafs.S3FileSystem(**{name: value for name, value in given.items() if value}), uri.split(
        "://", 1
    )[1]


def is_remote(uri: str) -> bool:
    """Whether a path names a place on object storage.

    >>> is_remote('s3://bucket/rows'), is_remote('/rows')
    (True, False)
    """
    return "://" in uri


def _partitions(filesystem: pafs.FileSystem, path: str, files: Sequence[str]) -> tuple[str, ...]:
    """Read the partition columns off a file's path."""
    below = _path(files[0]).removeprefix(_base(filesystem, path)).split("/")[:-1] if files else []
    return tuple(part.split("=")[0] for part in below if "=" in part)


def _delta_table(
    source: FileSource, uri: str, version: int | None, options: dict[str, str]
) -> DeltaTable:
    if not is_remote(uri):
        refuse_path(Path(uri))
        if version is None and (lent := _lent(Path(uri))):
            return lent
    try:
        return DeltaTable(uri, version=version, storage_options=options)
    except DeltaError as error:
        message = (
            f"source {source.name!r}: {uri} cannot be read at version {version}; see "
            f"as_of_versions: {error}"
        )
        raise ValueError(message) from error


@contextmanager
def reading_of(warehouse: Warehouse) -> Iterator[None]:
    """Read the tables of a warehouse as it has them open: nobody may write to them meanwhile."""
    token = _warehouse.set(warehouse)
    try:
        yield
    finally:
        _warehouse.reset(token)


def _lent(folder: Path) -> DeltaTable | None:
    warehouse, relation = _warehouse.get(), f"{folder.parent.name}.{folder.name}"
    if warehouse is None or warehouse.folder(relation) != folder:
        return None
    return warehouse.table(relation)


def _is_delta(uri: str, options: Mapping[str, str]) -> bool:
    return (
        DeltaTable.is_deltatable(uri, dict(options))
        if is_remote(uri)
        else Path(uri, "_delta_log").is_dir()
    )
