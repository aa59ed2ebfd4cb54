"""Exact neighbours: as plain NumPy over all vectors finds them, however they come."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Float32, String
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.stores import online
from feature_repo.stores.codec import encode_values
from feature_repo.stores.nearest import nearest, unpacked

COORDINATE = st.integers(-3, 3).map(float)  # so small that distances are often equal
VECTORS = st.lists(st.lists(COORDINATE, min_size=3, max_size=3), min_size=1, max_size=30)
NOW = datetime.now(UTC)


def serialized(vectors: Sequence[Sequence[float]]) -> list[bytes]:
    return list(
        encode_values(pa.array(vectors, pa.list_(pa.float32())), ValueType.FLOAT_LIST).to_pylist()
    )


def batches(
    vectors: Sequence[Sequence[float]], size: int
) -> Iterator[tuple[list[bytes], list[bytes]]]:
    keys, values = [b"%02d" % number for number in range(len(vectors))], serialized(vectors)
    for start in range(0, len(keys), size):
        yield keys[start : start + size], values[start : start + size]


def cosine(vector: Sequence[float], asked: Sequence[float]) -> float:
    lengths = float(np.linalg.norm(vector) * np.linalg.norm(asked))
    return 1 - float(np.dot(vector, asked)) / lengths if lengths else 1.0


def euclidean(vector: Sequence[float], asked: Sequence[float]) -> float:
    return float(np.linalg.norm(np.subtract(vector, asked)))


@given(
    VECTORS,
    st.lists(COORDINATE, min_size=3, max_size=3),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from(["cosine", "L2"]),
)
def test_neighbours_are_those_of_a_plain_comparison(
    vectors: list[list[float]], asked: list[float], top_k: int, size: int, metric: str
) -> None:
    distance = cosine if metric == "cosine" else euclidean
    found = nearest(batches(vectors, size), asked, top_k, metric)
    expected = sorted(distance(vector, asked) for vector in vectors)[:top_k]
    assert np.allclose([value for _, value in found], expected, atol=1e-6)
    assert np.allclose(
        [distance(vectors[int(key)], asked) for key, _ in found], expected, atol=1e-6
    )
    assert found == nearest(batches(vectors, len(vectors)), asked, top_k, metric.upper())


def test_of_equally_near_ones_the_lesser_keys_are_found() -> None:
    assert [key for key, _ in nearest(batches([[1.0, 0.0]] * 9, 2), [1.0, 0.0], 3, "cosine")] == [
        b"00",
        b"01",
        b"02",
    ]


def test_all_zeros_are_as_far_from_everything_as_a_right_angle() -> None:
    assert nearest(batches([[0.0, 0.0], [0.0, 2.0]], 2), [3.0, 0.0], 2, "cosine") == [
        (b"00", 1.0),
        (b"01", 1.0),
    ]


@given(VECTORS)
def test_unpacked_vectors_are_those_that_were_packed(vectors: list[list[float]]) -> None:
    assert unpacked(serialized(vectors), 3).tolist() == vectors


@pytest.mark.parametrize(
    ("length", "metric", "words"),
    [(3, "cosine", "asked for has 3"), (2, "jaccard", "cosine and l2")],
)
def test_what_cannot_be_compared_raises(length: int, metric: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        nearest(batches([[1.0, 0.0]], 1), [1.0] * length, 1, metric)


# --- through the SQLite store ---


def view(ttl: timedelta | None = None) -> FeatureView:
    return FeatureView(
        name="shapes",
        entities=[Entity(name="shape", join_keys=["shape"], value_type=ValueType.STRING)],
        ttl=ttl,
        schema=[
            Field(name="shape", dtype=String),
            Field(name="title", dtype=String),
            Field(
                name="vector",
                dtype=Array(Float32),
                vector_index=True,
                vector_length=2,
                vector_search_metric="cosine",
            ),
        ],
        source=FileSource(name="shapes", path="shapes.parquet", timestamp_field="event_timestamp"),
    )


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    config = RepoConfig(
        project="near",
        provider="local",
        registry=str(tmp_path / "registry.db"),
        offline_store={"type": "dask"},
        online_store={
            "type": "feature_repo.stores.online.SqliteOnlineStore",
            "path": str(tmp_path / "online.db"),
        },
        entity_key_serialization_version=3,
    )
    return FeatureStore(config=config)


def fill(
    store: FeatureStore,
    table: FeatureView,
    rows: Sequence[tuple[str, list[float] | None, datetime]],
) -> None:
    store.apply(
        [
            *(
                Entity(name=name, join_keys=[name], value_type=ValueType.STRING)
                for name in table.entities
            ),
            table,
        ]
    )
    data = []
    for name, vector, instant in rows:
        packed = Value.FromString(serialized([vector])[0]) if vector else Value()
        key = EntityKey(join_keys=["shape"], entity_values=[Value(string_val=name)])
        data.append(
            (key, {"vector": packed, "title": Value(string_val=f"the {name}")}, instant, instant)
        )
    store.provider.online_store.online_write_batch(store.config, table, data, None)


def asked(
    store: FeatureStore, vector: list[float], top_k: int, **options: Any
) -> dict[str, list[Any]]:
    features = ["shapes:title", "shapes:vector"]
    found: dict[str, list[Any]] = store.retrieve_online_documents_v2(
        features=features, query=vector, top_k=top_k, **options
    ).to_dict()
    return found


def test_feast_finds_neighbours_with_their_own_features_and_distances(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online, "VECTORS_AT_ONCE", 2)
    vectors = {"z": [1.0, 0.1], "yy": [0.0, 1.0], "x": [1.0, 1.0], "a": [-1.0, 0.0], "gone": None}
    fill(store, view(), [(name, vector, NOW) for name, vector in vectors.items()])
    found = asked(store, [2.0, 0.0], 3)
    assert found["shape"] == ["x", "yy", "z"]
    assert found["title"] == ["the x", "the yy", "the z"]
    assert found["vector"] == [[1.0, 1.0], [0.0, 1.0], [1.0, np.float32(0.1)]]
    assert np.allclose(
        found["distance"], [cosine(vector, [2.0, 0.0]) for vector in found["vector"]], atol=1e-6
    )
    assert sorted(asked(store, [2.0, 0.0], 9)["shape"]) == ["a", "x", "yy", "z"]


def test_what_is_past_its_time_to_live_is_not_found(store: FeatureStore) -> None:
    rows = [("old", [1.0, 0.0], NOW - timedelta(days=2)), ("new", [0.0, 1.0], NOW)]
    fill(store, view(ttl=timedelta(days=1)), rows)
    assert asked(store, [1.0, 0.0], 2)["shape"] == ["new"]


def test_nothing_is_found_in_an_empty_view(store: FeatureStore) -> None:
    fill(store, view(), [])
    assert asked(store, [1.0, 0.0], 2)["distance"] == []
