"""Searches by words and filters find what Feast's store finds; by vectors, what Python finds."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.filter_models import ComparisonFilter, CompoundFilter
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.types import Array, Bool, Float32, Float64, Int64, String

NOW = datetime.now(UTC)
OURS = "feature_repo.stores.online.SqliteOnlineStore"
FEATURES = {"title": String, "body": String, "pages": Int64, "score": Float64, "is_open": Bool}
DOCUMENTS: dict[str, tuple[Any, ...]] = {
    "a": ("Login fails", "after the password was reset", 3, 0.5, True),
    "b": ("Reset of passwords", "fails for an administrator", 5, 1.5, False),
    "c": ("Crash", "of the printer", 3, 2.5, True),
    "d": ("Printing", "is slow; the printers wait", None, None, None),
    "e": (None, "login", 9, -1.0, False),
}
VECTORS = {"a": [1.0, 0.0], "b": [0.9, 0.1], "c": [0.0, 1.0], "d": [0.5, 0.5], "e": [-1.0, 0.0]}


def view(ttl: timedelta | None = None) -> FeatureView:
    fields = [Field(name=name, dtype=kind) for name, kind in FEATURES.items()]
    vector = Field(
        name="vector",
        dtype=Array(Float32),
        vector_index=True,
        vector_length=2,
        vector_search_metric="L2",
    )
    return FeatureView(
        name="texts",
        entities=[Entity(name="text", join_keys=["text_id"], value_type=ValueType.STRING)],
        ttl=ttl,
        schema=[Field(name="text_id", dtype=String), *fields, vector],
        source=FileSource(name="texts", path="texts.parquet", timestamp_field="event_timestamp"),
    )


def filled(
    folder: Path,
    ages: dict[str, timedelta] | None = None,
    ttl: timedelta | None = None,
    **online_store: Any,
) -> FeatureStore:
    config = RepoConfig(
        project="search",
        provider="local",
        registry=str(folder / f"{online_store['type']}.registry"),
        offline_store={"type": "dask"},
        online_store={**online_store, "path": str(folder / f"{online_store['type']}.db")},
        entity_key_serialization_version=3,
    )
    store, table = FeatureStore(config=config), view(ttl)
    store.apply([Entity(name="text", join_keys=["text_id"], value_type=ValueType.STRING), table])
    types = {field.name: field.dtype.to_value_type() for field in table.features}
    data = []
    for name, values in DOCUMENTS.items():
        row = {**dict(zip(FEATURES, values, strict=True)), "vector": VECTORS[name]}
        protos = {
            feature: python_values_to_proto_values([value], types[feature])[0]
            for feature, value in row.items()
        }
        event = NOW - (ages or {}).get(name, timedelta(0))
        data.append(
            (
                EntityKey(join_keys=["text_id"], entity_values=[Value(string_val=name)]),
                protos,
                event,
                event,
            )
        )
    store.provider.online_store.online_write_batch(config, table, data, None)
    return store


@pytest.fixture(scope="module", params=["compact", "feast"])
def ours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return filled(tmp_path_factory.mktemp("ours"), type=OURS, layout=request.param)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("stock")
    return filled(
        folder, type="sqlite", text_search_enabled=True, enable_openai_compatible_store=True
    )


def found(store: FeatureStore, words: str | None = None, **options: Any) -> dict[str, list[Any]]:
    features = [f"texts:{name}" for name in FEATURES]
    answer = store.retrieve_online_documents_v2(
        features=features, query_string=words, **{"top_k": 50, **options}
    )
    documents: dict[str, list[Any]] = answer.to_dict()
    return documents


def is_(kind: str, key: str, value: Any) -> ComparisonFilter:
    return ComparisonFilter(type=kind, key=key, value=value)


FILTERS = [
    None,
    *(is_(kind, "pages", 3) for kind in ("eq", "ne", "gt", "gte", "lt", "lte")),
    is_("lt", "score", 1),
    is_("eq", "is_open", value=True),
    is_("ne", "title", "Crash"),
    is_("in", "pages", [3, 9]),
    is_("nin", "title", ["Crash", "Printing"]),
    is_("eq", "title", 0),
    CompoundFilter(type="and", filters=[is_("gte", "pages", 3), is_("eq", "is_open", value=False)]),
    CompoundFilter(
        type="or",
        filters=[
            is_("gt", "pages", 4),
            CompoundFilter(type="and", filters=[is_("lt", "score", 1)]),
        ],
    ),
]


@pytest.mark.parametrize(
    "words", ["login OR printer OR reset", "password", "title: reset", '"slow; the"', "never"]
)
def test_words_and_filters_find_what_they_find_in_feasts_own(
    ours: FeatureStore, stock: FeatureStore, words: str
) -> None:
    for chosen in FILTERS:
        with stock.provider.online_store._conn as connection:
            # every search of Feast's adds all rows to it once more
            connection.execute("drop table if exists search_table")
        mine, theirs = (found(store, words, filters=chosen) for store in (ours, stock))
        keys = mine.get("text_id", [])
        assert sorted(keys) == sorted(theirs.get("text_id", [])), chosen
        assert [tuple(mine[name][place] for name in FEATURES) for place in range(len(keys))] == [
            DOCUMENTS[key] for key in keys
        ]
    assert len(found(ours, words).get("text_id", [])) == {
        "login OR printer OR reset": 5,
        "never": 0,
        '"slow; the"': 1,
    }.get(words, 2 if words == "password" else 1)


def test_the_best_by_words_are_found_and_filters_choose_before(ours: FeatureStore) -> None:
    assert found(ours, "login", top_k=1)["text_id"] == ["e"]  # the shorter text
    assert found(ours, "login", top_k=1, filters=is_("lt", "pages", 9))["text_id"] == ["a"]


@pytest.mark.parametrize("chosen", FILTERS)
def test_the_nearest_of_those_that_filters_choose_are_found(
    ours: FeatureStore, chosen: Any
) -> None:
    everybody = found(ours, query=[1.0, 0.0], filters=chosen)
    wanted = [
        name
        for name in sorted(DOCUMENTS)
        if holds(chosen, dict(zip(FEATURES, DOCUMENTS[name], strict=True)))
    ]
    assert everybody.get("text_id", []) == wanted
    nearest = sorted(
        wanted,
        key=lambda name: sum((x - y) ** 2 for x, y in zip(VECTORS[name], [1.0, 0.0], strict=True)),
    )[:2]
    assert found(ours, query=[1.0, 0.0], filters=chosen, top_k=2).get("text_id", []) == sorted(
        nearest
    )


def holds(chosen: Any, row: dict[str, Any]) -> bool:
    """What a filter means, in Python: a null matches nothing, a number is not text."""
    if chosen is None:
        return True
    if isinstance(chosen, CompoundFilter):
        return (all if chosen.type == "and" else any)(holds(part, row) for part in chosen.filters)
    value, given = row[chosen.key], chosen.value
    if value is None or isinstance(value, str) != isinstance(
        given[0] if isinstance(given, list) else given, str
    ):
        return False
    meanings: dict[str, bool] = {"eq": value == given, "ne": value != given}
    if isinstance(given, list):
        meanings = {"in": value in given, "nin": value not in given}
    elif not isinstance(value, str):
        meanings |= {
            "gt": value > given,
            "gte": value >= given,
            "lt": value < given,
            "lte": value <= given,
        }
    return meanings[chosen.type]


def test_words_and_a_vector_find_the_nearest_of_those_with_the_words(ours: FeatureStore) -> None:
    assert found(ours, "printer", query=[1.0, 0.0], top_k=1)["text_id"] == ["d"]


def test_vectors_are_found_by_the_older_call_too(ours: FeatureStore) -> None:
    answer = ours.retrieve_online_documents(
        query=[1.0, 0.0], top_k=2, features=["texts:vector"], distance_metric="L2"
    ).to_dict()
    assert answer["vector"] == [VECTORS["a"], pytest.approx(VECTORS["b"])]


def test_what_is_past_its_time_to_live_is_found_by_no_search(tmp_path: Path) -> None:
    store = filled(tmp_path, {"a": timedelta(days=2)}, timedelta(days=1), type=OURS)
    assert (
        found(store, "login")["text_id"]
        == found(store, query=[-1.0, 0.0], top_k=1)["text_id"]
        == ["e"]
    )
    assert found(store, query=[1.0, 0.0], filters=is_("eq", "pages", 3))["text_id"] == ["c"]


@pytest.mark.parametrize("words", ["don't", '"open', "nothing: here", "AND"])
def test_a_query_that_is_none_says_so_and_not_what_it_was(ours: FeatureStore, words: str) -> None:
    with pytest.raises(ValueError, match="no full-text query") as raised:
        found(ours, words)
    assert words not in str(raised.value)


def test_searches_at_once_do_not_meet(ours: FeatureStore) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(lambda words: found(ours, words)["text_id"], ["login", "crash"] * 10)
        )
    assert answers == list(itertools.islice(itertools.cycle([["a", "e"], ["c"]]), 20))
