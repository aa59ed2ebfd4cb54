"""One rule for keys in training and serving: what is equal, what matches nothing, what fails."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Bytes, Int64, String

from feature_repo import online_features, training_set
from feature_repo.online import materialize
from feature_repo.stores.serving import OpenStore
from transforms.warehouse.tables import Warehouse

AT = datetime(2026, 1, 1, tzinfo=UTC)
KEYS: dict[str, tuple[Any, ValueType, pa.Array]] = {
    "text": (String, ValueType.STRING, pa.array(["5"])),
    "whole": (Int64, ValueType.INT64, pa.array([5])),
    "raw": (Bytes, ValueType.BYTES, pa.array([b"5"])),
}
FOUND, NOTHING, REFUSED = 7, None, "refused"
CASES: list[tuple[str, Any, Any]] = [
    *(("text", value, FOUND) for value in ("5", 5, np.int64(5), np.str_("5"))),
    *(("text", value, NOTHING) for value in ("", "05", 6, None)),
    *(("text", value, REFUSED) for value in (True, 5.0, Decimal(5), b"5", ["5"])),
    *(("whole", value, FOUND) for value in (5, "5", 5.0, Decimal(5), np.int32(5), np.float64(5))),
    *(
        ("whole", value, NOTHING)
        for value in ("05", "+5", " 5", "x", "9" * 30, 5.5, float("nan"), float("inf"), 2**63, None)
    ),
    *(("whole", value, REFUSED) for value in (True, b"5", [5])),
    ("raw", b"5", FOUND),
    ("raw", b"6", NOTHING),
    ("raw", None, NOTHING),
    *(("raw", value, REFUSED) for value in ("5", 5)),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("keys")
    config = RepoConfig(
        project="keys",
        provider="local",
        registry=str(folder / "registry.db"),
        offline_store={
            "type": "feature_repo.stores.asof.AsofOfflineStore",
            "warehouse": str(folder),
        },
        batch_engine={"type": "feature_repo.stores.columnar.ColumnarComputeEngine"},
        online_store={
            "type": "feature_repo.stores.online.SqliteOnlineStore",
            "path": str(folder / "online.db"),
        },
        entity_key_serialization_version=3,
    )
    opened = FeatureStore(config=config)
    for name, (kind, value_type, keys) in KEYS.items():
        pq.write_table(
            pa.table(
                {
                    name: keys,
                    "count": [FOUND],
                    "event_timestamp": pa.array([AT], pa.timestamp("us", "UTC")),
                }
            ),
            folder / name,
        )
        entity = Entity(name=name, join_keys=[name], value_type=value_type)
        source = FileSource(name=name, path=str(folder / name), timestamp_field="event_timestamp")
        schema = [Field(name=name, dtype=kind), Field(name="count", dtype=Int64)]
        opened.apply(
            [
                entity,
                FeatureView(name=f"by_{name}", entities=[entity], schema=schema, source=source),
            ]
        )
    opened.materialize(AT, AT)
    return opened


def trained(store: FeatureStore, name: str, value: Any) -> Any:
    spine = pl.DataFrame({name: [value], "event_timestamp": [AT]}).to_arrow()
    return (
        store.get_historical_features(spine, [f"by_{name}:count"])
        .to_arrow()["count"]
        .to_pylist()[0]
    )


def served(store: FeatureStore, name: str, value: Any) -> Any:
    return store.get_online_features([f"by_{name}:count"], [{name: value}]).to_dict()["count"][0]


def framed(store: FeatureStore, name: str, value: Any) -> Any:
    return OpenStore(store).read([f"by_{name}:count"], [{name: value}])[f"by_{name}__count"][0]


@pytest.mark.parametrize("read", [trained, served, framed])
def test_keys_match_by_one_rule_in_training_and_in_serving(store: FeatureStore, read: Any) -> None:
    for name, value, expected in CASES:
        if expected == REFUSED:
            with pytest.raises(ValueError, match=f"key '{name}'"):
                read(store, name, value)
        else:
            assert read(store, name, value) == expected, (name, value)


def test_null_of_pandas_matches_nothing_and_fails_nobody(store: FeatureStore) -> None:
    for name, keys in (
        ("text", ["5", None]),
        ("text", ["5", float("nan")]),
        ("text", ["5", pd.NA]),
        ("whole", [5, None]),
    ):
        spine = pd.DataFrame({name: keys, "event_timestamp": [AT, AT]})
        assert store.get_historical_features(spine, [f"by_{name}:count"]).to_arrow()[
            "count"
        ].to_pylist() == [FOUND, None]
        rows = [{name: key} for key in spine[name]]
        assert store.get_online_features([f"by_{name}:count"], rows).to_dict()["count"] == [
            FOUND,
            None,
        ]
        frame = OpenStore(store).read([f"by_{name}:count"], rows)
        assert frame[f"by_{name}__count"].to_list() == [FOUND, None]


def test_rule_applies_to_a_home(small: Warehouse) -> None:
    feature, home = "author_activity:n_records_lifetime", small.settings.root
    materialize(small, datetime(2024, 9, 1, tzinfo=UTC), lambda _relation, _rows, _bytes: None)
    spine = pl.DataFrame({"author_id": [5], "event_timestamp": [AT]})
    assert training_set(spine, [feature], home).frame[
        "author_activity__n_records_lifetime"
    ].to_list() == [0]
    assert online_features([feature], [{"author_id": 5}], home)[
        "author_activity__n_records_lifetime"
    ].to_list() == [0]
    with pytest.raises(ValueError, match="key 'author_id'"):
        training_set(spine.with_columns(author_id=True), [feature], home)
    with pytest.raises(ValueError, match="key 'author_id'"):
        online_features([feature], [{"author_id": True}], home)
