"""Feature views over sources of every layout, and stores that know them."""

import shutil
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.data_format import DeltaFormat, FileFormat, ParquetFormat
from feast.type_map import pa_to_feast_value_type
from feast.types import from_value_type

EVENT, CREATED = "event_timestamp", "created_timestamp"


@pytest.fixture
def write_view(tmp_path: Path) -> Callable[..., FeatureView]:
    """Write or replace a view's source and define the view; its columns become features.

    Column types become Feast's; a `created_timestamp` column breaks ties; `mapping` renames the
    source's columns. Keys and timestamps are no features.
    """

    def write(
        name: str,
        rows: pa.Table,
        keys: Sequence[str] = ("user",),
        *,
        ttl: timedelta | None = None,
        layout: str = "delta",
        mapping: dict[str, str] | None = None,
        folder: str = "sources",
    ) -> FeatureView:
        path = tmp_path / folder / (f"{name}.parquet" if layout == "file" else name)
        file_format = write_source(path, rows, layout)
        return make_view(
            name, str(path), rows.schema, keys, ttl=ttl, file_format=file_format, mapping=mapping
        )

    return write


def make_view(
    name: str,
    path: str,
    schema: pa.Schema,
    keys: Sequence[str] = ("user",),
    *,
    ttl: timedelta | None = None,
    file_format: FileFormat | None = None,
    mapping: dict[str, str] | None = None,
) -> FeatureView:
    types = {
        (mapping or {}).get(field.name, field.name): pa_to_feast_value_type(str(field.type))
        for field in schema
    }
    return FeatureView(
        name=name,
        entities=[Entity(name=key, join_keys=[key], value_type=types[key]) for key in keys],
        ttl=ttl,
        schema=[
            Field(name=column, dtype=from_value_type(kind))
            for column, kind in types.items()
            if column not in (EVENT, CREATED)
        ],
        source=FileSource(
            name=f"{name}_source",
            path=path,
            file_format=file_format or ParquetFormat(),
            timestamp_field=EVENT,
            created_timestamp_column=CREATED if CREATED in schema.names else "",
            field_mapping=mapping,
        ),
    )


@pytest.fixture
def define_view() -> Callable[..., FeatureView]:
    """Define a view of a source that exists or never will: name, path, schema, keys."""
    return make_view


def write_source(path: Path, rows: pa.Table, layout: str) -> FileFormat:
    """Write rows as a Delta table, one Parquet file, two files, or hive folders by `half`."""
    if layout == "file":
        path.parent.mkdir(exist_ok=True)
        pq.write_table(rows, path)
        return ParquetFormat()
    shutil.rmtree(path, ignore_errors=True)
    if layout == "delta":
        write_deltalake(str(path), rows)
        return DeltaFormat()
    if "half" not in rows.column_names:
        rows = rows.append_column(
            "half", pa.array([number % 2 for number in range(rows.num_rows)], pa.int32())
        )
    for half in (0, 1):
        file = path / (f"half={half}/rows.parquet" if layout == "hive" else f"{half}.parquet")
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows.filter(pc.field("half") == half).drop_columns("half"), file)
    return ParquetFormat()


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., FeatureStore]:
    """Apply views and services to a store of this test; `options` configure the offline store."""

    def make(*objects: Any, **options: Any) -> FeatureStore:
        offline = {
            "type": "feature_repo.stores.asof.AsofOfflineStore",
            "warehouse": str(tmp_path / "home"),
            **options,
        }
        if options.get("type") == "dask":
            offline = options
        config = RepoConfig(
            project="asof",
            provider="local",
            registry=str(tmp_path / "registry.db"),
            offline_store=offline,
            online_store={"type": "sqlite", "path": str(tmp_path / "online.db")},
            repo_path=tmp_path,
            entity_key_serialization_version=3,
        )
        store = FeatureStore(config=config)
        store.apply([*entities_of(objects), *objects])
        return store

    return make


def entities_of(objects: Sequence[Any]) -> list[Entity]:
    """Gather the entities that views are about, each once."""
    columns = [
        column
        for view in objects
        if isinstance(view, FeatureView)
        for column in view.entity_columns
    ]
    types = {
        column.name: column.dtype.to_value_type()
        for column in columns
        if column.name != "__dummy_id"
    }
    return [Entity(name=name, join_keys=[name], value_type=kind) for name, kind in types.items()]
