"""Where a feature view's rows are, and reading them: Delta tables and Parquet, on local folders and object storage.

A `Snapshot` is fixed when it is taken: a Delta table at one version, or the Parquet files of that moment.
"""

import glob
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote
from uuid import uuid4

import duckdb
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

from feature_repo.stores.timeline import CREATED, INSTANT
from transforms.paths import as_pattern, refuse_path

# what Spark and others put beside the data; Arrow's own rule would also leave out a partition such as __log_date=2026-01-01
NO_DATA = (".", "_SUCCESS", "_metadata", "_common_metadata", "_delta_log", "_temporary")


@dataclass(frozen=True)
class Snapshot:
    """A source's rows at one moment; `version` is None where the source keeps no versions (plain Parquet)."""

    uri: str
    version: int | None
    files: tuple[str, ...]
    schema: pa.Schema
    partitions: tuple[str, ...]
    storage_options: Mapping[str, str]

    def scan(self) -> pl.LazyFrame:
        """Read the rows with Polars, lazily."""
        empty = known_zones(self.schema.empty_table())
        if not self.files:
            return pl.LazyFrame(pl.DataFrame(empty))
        if empty.schema != self.schema:
            return pl.scan_pyarrow_dataset(_dataset(replace(self, schema=empty.schema), list(self.files)))
        # Polars takes the URI of a Delta file for its path, in which a blank is none
        if self.version is not None and (is_remote(self.uri) or self.partitions or quote(self.uri) == self.uri):
            return pl.scan_delta(self.uri, version=self.version, storage_options=dict(self.storage_options))
        if self._is_below_partitions:
            return pl.scan_pyarrow_dataset(_dataset(self, list(self.files)))
        options, is_partitioned = dict(self.storage_options) or None, bool(self.partitions)
        files = [pl.scan_parquet(file, glob=False, hive_partitioning=is_partitioned, storage_options=options) for file in self.files]
        return pl.concat(files, how="diagonal_relaxed")

    def create_view(self, connection: duckdb.DuckDBPyConnection, name: str, without: Collection[str] = ()) -> None:
        """Make the rows a view of DuckDB's, leaving out the files of these `identities`."""
        files = [file for file, identity in zip(self.files, self.identities, strict=True) if identity not in without]
        carried = pa.schema([field.with_type(_carried(field.type)) for field in self.schema])
        has_wide_decimals = "decimal256" in str(self.schema.types)
        if not files:
            connection.from_arrow(carried.empty_table()).create_view(name)
        elif is_remote(self.uri) or (self.partitions and self.version is not None) or self._is_below_partitions or has_wide_decimals:
            # DuckDB has no S3 here, a Delta file lacks its partition's columns, and DuckDB makes floats of wide decimals
            connection.register(name, _cast(_dataset(self, files), carried))
        else:
            patterns = [as_pattern(file) for file in files]
            connection.read_parquet(patterns, union_by_name=True, hive_partitioning=bool(self.partitions)).create_view(name)

    @property
    def _is_below_partitions(self) -> bool:
        """Whether others than Arrow would take folders above the source for partitions of it."""
        return bool(self.partitions) and self.version is None and "=" in self.uri

    def is_whole(self) -> bool:
        """Whether all files are still there: old versions of a Delta table are cleaned away at some time."""
        return all(info.type == pafs.FileType.File for info in self._infos())

    @property
    def identities(self) -> list[str]:
        """Name each file so that a rewritten one has another name: Delta never writes a file again, others tell by time and size."""
        if self.version is not None:
            return [file.removeprefix(self.uri) for file in self.files]
        return [f"{info.path} {info.mtime_ns} {info.size}" for info in self._infos()]

    def _infos(self) -> list[pafs.FileInfo]:
        filesystem, _ = file_system(self.uri, self.storage_options)
        infos: list[pafs.FileInfo] = filesystem.get_file_info([file.split("://", 1)[-1] for file in self.files])
        return infos


@dataclass(frozen=True)
class ViewRead:
    """What a retrieval reads of one view: which features, of which snapshot, by which of the spine's columns."""

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
        return {key: self.view.projection.join_key_map.get(key, key) for key in self.view.join_keys if key != DUMMY_ENTITY_ID}

    @property
    def columns(self) -> dict[str, str]:
        """For each key and feature the source's column."""
        return {name: self._mapped.get(name, name) for name in (*self.spine_keys, *self.features)}

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
                message = f"view {self.view.name}: its source at {self.rows.uri} has no column {column!r} (for {name}); it has "
                raise ValueError(message + ", ".join(self.rows.schema.names))
        for column in self.timestamps.values():
            kind = self.rows.schema.field(column).type
            if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
                message = f"view {self.view.name}: {column} of its source at {self.rows.uri} is {kind}, not a timestamp"
                raise ValueError(message)


def snapshot(config: RepoConfig, source: DataSource, version: int | None = None) -> Snapshot:
    """Fix a source's rows: a Delta table's newest version, or the one given, or the Parquet files there are now.

    Raises `FileNotFoundError` where there is nothing, and `TypeError` for a source that is not a `FileSource`.
    """
    if not isinstance(source, FileSource):
        message = f"source {source.name!r} is a {type(source).__name__}; this store reads FileSource only"
        raise TypeError(message)
    uri, options = location(config, source.path), storage_options(config, source)
    if _is_delta(uri, options):
        table = _delta_table(source, uri, version, options)
        partitions = tuple(table.metadata().partition_columns)
        files = tuple(table.file_uris() if is_remote(uri) else map(unquote, table.file_uris()))
        return Snapshot(uri, table.version(), files, pa.schema(table.schema().to_arrow()), partitions, options)
    if version is not None:
        message = f"source {source.name!r}: {uri} is Parquet, which keeps no versions; take version {version} out of as_of_versions"
        raise ValueError(message)
    dataset = None if isinstance(source.file_format, DeltaFormat) else parquet(uri, options)
    if dataset is None or not dataset.files:
        message = f"source {source.name!r}: nothing at {uri}; run the pipeline first (millrace run --source ...), or mend the source's path"
        raise FileNotFoundError(message)
    prefix = f"{uri.split('://', 1)[0]}://" if is_remote(uri) else ""
    files = tuple(prefix + file for file in sorted(dataset.files))
    schema = pa.unify_schemas([dataset.schema, *(file.physical_schema for file in dataset.get_fragments())], promote_options="permissive")
    return Snapshot(uri, None, files, schema, _partitions(uri, files), options)


def known_zones(table: pa.Table) -> pa.Table:
    """Give times in UTC whose zone is an offset, as `+05:30`: Polars knows zones by their names."""
    zoned = [field for field in table.schema if pa.types.is_timestamp(field.type) and (field.type.tz or "").startswith(("+", "-"))]
    for field in zoned:
        place = table.schema.get_field_index(field.name)
        table = table.set_column(place, field.name, table[place].cast(pa.timestamp(field.type.unit, "UTC")))
    return table


def parquet(uri: str, options: Mapping[str, str]) -> pads.FileSystemDataset | None:
    """Open Parquet, a file, a folder or a glob, as a dataset; None where nothing is."""
    filesystem, path = file_system(uri, options)
    kind = filesystem.get_file_info(path).type
    if kind == pafs.FileType.Directory:
        return pads.dataset(path, filesystem=filesystem, format="parquet", partitioning="hive", ignore_prefixes=list(NO_DATA))
    is_pattern = kind == pafs.FileType.NotFound and glob.has_magic(path)
    files = sorted(map(str, Path(path).parent.glob(Path(path).name))) if is_pattern else [path]
    return None if kind == pafs.FileType.NotFound and not (is_pattern and files) else _files(files, str(Path(path).parent), filesystem)


def _files(files: list[str], base: str, filesystem: pafs.FileSystem, schema: pa.Schema | None = None) -> pads.FileSystemDataset:
    """Open Parquet files, partitioned by the folders `column=value` between `base` and them, not by those above."""
    options = pads.FileSystemFactoryOptions(partition_base_dir=base, partitioning=pads.HivePartitioning.discover())
    return pads.FileSystemDatasetFactory(filesystem, files, pads.ParquetFileFormat(), options).finish(schema)


def append(config: RepoConfig, source: FileSource, rows: pa.Table) -> None:
    """Add rows to a source as one more file or commit; nothing that is there is written again.

    Raises `ValueError` for a source that is one single Parquet file, which cannot grow.
    """
    uri, options = location(config, source.path), storage_options(config, source)
    if isinstance(source.file_format, DeltaFormat) or _is_delta(uri, options):
        write_deltalake(uri, rows, mode="append", storage_options=options)
        return
    filesystem, path = file_system(uri, options)
    if filesystem.get_file_info(path).type == pafs.FileType.File or path.endswith(".parquet"):
        message = f"source {source.name!r}: {uri} is one Parquet file, which cannot be appended to; give the source a folder"
        raise ValueError(message)
    add_file(rows, uri, options, _partitions(uri, snapshot(config, source).files))


def add_file(rows: pa.Table, uri: str, options: Mapping[str, str], partitions: Collection[str] = ()) -> None:
    """Add rows to a folder of Parquet as a file of a new name, one in each partition (`column=value`)."""
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
    """Write batches to one Parquet file, which appears when it is whole; returns the number of rows."""
    filesystem, path = file_system(uri, options)
    unfinished = f"{path}.{uuid4().hex}.unfinished"
    rows = 0
    try:
        with pq.ParquetWriter(unfinished, batches.schema, filesystem=filesystem) as writer:
            for batch in batches:
                writer.write_batch(batch)
                rows += batch.num_rows
        filesystem.move(unfinished, path)
    finally:
        if filesystem.get_file_info(unfinished).type != pafs.FileType.NotFound:
            filesystem.delete_file(unfinished)
    return rows


def location(config: RepoConfig, path: str) -> str:
    """Resolve a path: absolute or with a scheme as it is, relative to the warehouse, which is relative to the repository."""
    return path if is_remote(path) else str(warehouse_folder(config) / path)


def warehouse_folder(config: RepoConfig) -> Path:
    """Resolve the warehouse's folder against the feature repository."""
    return Path(config.repo_path or ".", config.offline_store.warehouse).resolve()


def storage_options(config: RepoConfig, source: Any) -> dict[str, str]:
    """Gather what object storage wants to know beside its environment variables (AWS_ACCESS_KEY_ID and so on)."""
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
    return pafs.S3FileSystem(**{name: value for name, value in given.items() if value}), uri.split("://", 1)[1]


def is_remote(uri: str) -> bool:
    """Whether a path names a place on object storage."""
    return "://" in uri


def _partitions(uri: str, files: Sequence[str]) -> tuple[str, ...]:
    """Read the partition columns off a file's path."""
    return tuple(part.split("=")[0] for part in files[0].removeprefix(_base(uri, files)).split("/")[:-1] if "=" in part) if files else ()


def _base(path: str, files: Sequence[str]) -> str:
    """The folder of a source: itself, or the one that a file or a pattern is in."""
    return path if all(file.startswith(f"{path.rstrip('/')}/") for file in files) else str(Path(path).parent)


def _delta_table(source: FileSource, uri: str, version: int | None, options: dict[str, str]) -> DeltaTable:
    if not is_remote(uri):
        refuse_path(Path(uri))
    try:
        return DeltaTable(uri, version=version, storage_options=options)
    except DeltaError as error:
        message = f"source {source.name!r}: {uri} cannot be read at version {version}; see as_of_versions: {error}"
        raise ValueError(message) from error


def _is_delta(uri: str, options: Mapping[str, str]) -> bool:
    return DeltaTable.is_deltatable(uri, dict(options)) if is_remote(uri) else Path(uri, "_delta_log").is_dir()


def _carried(kind: pa.DataType) -> pa.DataType:
    """The type in which DuckDB carries a value that it has no type for without loss: wide decimals as text, half floats as floats."""
    if pa.types.is_decimal256(kind):
        return pa.string()
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _carried(kind.value_type)
        return kind if inner == kind.value_type else pa.list_(inner)
    return kind


def _cast(dataset: pads.Dataset, schema: pa.Schema) -> pads.Dataset | pads.Scanner:
    if dataset.schema.equals(schema):
        return dataset
    columns = {name: pads.field(name) for name in schema.names}
    other = [field for field in schema if field.type != dataset.schema.field(field.name).type]
    return dataset.scanner(columns={**columns, **{field.name: columns[field.name].cast(field.type) for field in other}})


def _dataset(rows: Snapshot, files: list[str]) -> pads.Dataset:
    filesystem, _ = file_system(rows.uri, rows.storage_options)
    if rows.version is None:
        paths = [file.split("://", 1)[-1] for file in files]
        return _files(paths, _base(rows.uri.split("://", 1)[-1], paths), filesystem, rows.schema)
    table = DeltaTable(rows.uri, version=rows.version, storage_options=dict(rows.storage_options))
    dataset = table.to_pyarrow_dataset(schema=rows.schema)
    if len(files) == len(rows.files):
        return dataset
    wanted = {file.rsplit("/", 1)[-1] for file in files}
    return pads.FileSystemDataset(
        [fragment for fragment in dataset.get_fragments() if fragment.path.rsplit("/", 1)[-1] in wanted],
        dataset.schema,
        dataset.format,
        dataset.filesystem,
    )
