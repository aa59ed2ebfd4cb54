"""Lean reads return what Feast's own reads return; beyond Feast, the time to live applies."""

import asyncio
import itertools
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import polars as pl
import pytest
import redis
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    RepoConfig,
    RequestSource,
    ValueType,
)
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.online_store import OnlineStore
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.types import (
    Array,
    Bool,
    Bytes,
    Float32,
    Float64,
    Int32,
    Int64,
    Map,
    String,
    UnixTimestamp,
    Uuid,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo import online_features, training_set
from feature_repo.online import materialize
from feature_repo.stores import clock, serving
from feature_repo.stores.deletion import can_delete, delete_entities
from feature_repo.stores.serving import OpenStore, opened
from transforms.warehouse.tables import Warehouse

BORN = datetime(2024, 1, 31, 12, tzinfo=UTC)
INT64, FLOAT = st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = st.integers(86400, 2**32).map(lambda seconds: EPOCH + timedelta(seconds=seconds))
MICROSECOND = st.integers(10**12, 2**52).map(
    lambda microseconds: EPOCH + timedelta(microseconds=microseconds)
)
KINDS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "whole": (Int64, INT64),
    "small": (Int32, st.integers(-(2**31), 2**31 - 1)),
    "share": (Float64, FLOAT),
    "single": (Float32, st.floats(allow_nan=False, allow_infinity=False, width=32)),
    "text": (
        String,
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=300),
    ),
    "raw": (Bytes, st.binary(max_size=200)),
    "flag": (Bool, st.booleans()),
    "seen": (UnixTimestamp, SECOND),
    "wholes": (Array(Int64), st.lists(INT64, min_size=1, max_size=4)),
    "texts": (Array(String), st.lists(st.text("abc", max_size=4), min_size=1, max_size=4)),
    "vector": (
        Array(Float32),
        st.lists(
            st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=40
        ),
    ),
    "map": (
        Map,
        st.dictionaries(
            st.text("abc", max_size=3), st.text("abc", max_size=3), min_size=1, max_size=2
        ),
    ),
}
FEATURES = list(KINDS)
ROW = st.fixed_dictionaries(
    {}, optional={name: st.none() | strategy for name, (_, strategy) in KINDS.items()}
)
STATS = [f"stats:{name}" for name in FEATURES]

driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
origin = Entity(name="origin", join_keys=["origin_id"], value_type=ValueType.INT64)
target = Entity(name="target", join_keys=["target_id"], value_type=ValueType.INT64)
person = Entity(name="person", join_keys=["person_id"], value_type=ValueType.STRING)


def view(
    name: str, entities: list[Entity], fields: dict[str, Any], ttl: timedelta | None = None
) -> FeatureView:
    source = FileSource(
        name=f"{name}_source", path=f"{name}.parquet", timestamp_field="event_timestamp"
    )
    keys = [
        Field(name=entity.join_key, dtype=String if entity is person else Int64)
        for entity in entities
    ]
    schema = keys + [Field(name=feature, dtype=kind) for feature, kind in fields.items()]
    return FeatureView(name=name, entities=entities, schema=schema, source=source, ttl=ttl)


stats = view("stats", [driver], {name: kind for name, (kind, _) in KINDS.items()})
pairs = view("pairs", [origin, target], {"distance": Float64})
world = view("world", [], {"weather": String})
people = view("people", [person], {"badge": Uuid, "age": Int64})
brief = view(
    "brief", [driver], {"value": Int64, "other": String}, ttl=timedelta(hours=1, microseconds=3)
)
instant = RequestSource(name="instant", schema=[Field(name="event_timestamp", dtype=UnixTimestamp)])
amount = RequestSource(name="amount", schema=[Field(name="amount", dtype=Int64)])


@on_demand_feature_view(
    sources=[stats[["seen"]], instant],
    schema=[Field(name="age_seconds", dtype=Int64)],
    mode="pandas",
)
def age(inputs: pd.DataFrame) -> pd.DataFrame:
    lived = pd.to_datetime(inputs["event_timestamp"], utc=True) - pd.to_datetime(
        inputs["seen"], utc=True
    )
    return pd.DataFrame({"age_seconds": lived // pd.Timedelta(seconds=1)})


@on_demand_feature_view(
    sources=[stats[["whole"]], amount], schema=[Field(name="total", dtype=Int64)], mode="python"
)
def total(inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        "total": [
            None if w is None else w + a
            for w, a in zip(inputs["whole"], inputs["amount"], strict=True)
        ]
    }


both = FeatureService(
    name="both",
    features=[
        stats[["whole"]].with_name("near").with_join_key_map({"driver_id": "near_id"}),
        stats[["text", "whole"]].with_name("far").with_join_key_map({"driver_id": "far_id"}),
        pairs,
    ],
)
OBJECTS = [driver, origin, target, person, stats, pairs, world, people, brief, age, total, both]
LEAN = {
    "sqlite": "feature_repo.stores.online.SqliteOnlineStore",
    "redis": "feature_repo.stores.online_redis.RedisOnlineStore",
    "postgres": "feature_repo.stores.online_postgres.PostgresOnlineStore",
}
numbers = itertools.count(1000, 1000)  # every example has entities of its own


class Stores(NamedTuple):
    """Feast's own store and ours over the same bytes."""

    kind: str
    stock: FeatureStore
    lean: FeatureStore

    def write(
        self,
        table: FeatureView,
        key: dict[str, Any],
        values: dict[str, Any],
        event: datetime = BORN,
    ) -> None:
        """Write one entity's row with Feast's own store."""
        key_types = {column.name: column.dtype.to_value_type() for column in table.entity_columns}
        protos = [
            python_values_to_proto_values([value], key_types[name])[0]
            for name, value in key.items()
        ]
        types = {field.name: field.dtype.to_value_type() for field in table.features}
        row = {
            name: python_values_to_proto_values([value], types[name])[0]
            for name, value in values.items()
        }
        data = [(EntityKey(join_keys=key, entity_values=protos), row, event, event)]
        self.stock.provider.online_store.online_write_batch(self.stock.config, table, data, None)

    def frame(self, features: list[str] | str, rows: list[dict[str, Any]]) -> pl.DataFrame:
        return OpenStore(self.lean).read(features, rows)


@pytest.fixture(scope="module", params=list(LEAN))
def stores(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stores]:
    """Both stores in Feast's layout; what differs in ours is in `test_compact`."""
    kind, folder = request.param, tmp_path_factory.mktemp("stores")
    if kind == "sqlite":
        where = {"path": str(folder / "online.db")}
    elif kind == "redis":
        address = request.getfixturevalue("redis_address")
        database = next(request.getfixturevalue("redis_databases"))
        where = {"connection_string": f"{address.host}:{address.port},db={database}"}
    else:
        address = request.getfixturevalue("postgres_address")
        login = {
            "user": "postgres",
            "password": "",
            "database": "postgres",
            "db_schema": "lean",
            "sslmode": "disable",
        }
        where = {"host": address.host, "port": address.port, **login}
    stock = feature_store(folder / "registry.db", {"type": kind, **where})
    register(stock, OBJECTS)
    both_stores = Stores(
        kind,
        stock,
        feature_store(folder / "registry.db", {"type": LEAN[kind], "layout": "feast", **where}),
    )
    yield both_stores
    if kind == "postgres":  # it does not end before its last connection
        for store in both_stores[1:]:
            store.provider.online_store._conn.close()


def register(store: FeatureStore, objects: list[Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # Feast on views computed on demand
        store.apply(objects)


def feature_store(registry: Path, online_store: dict[str, Any]) -> FeatureStore:
    config = RepoConfig(
        project="lean",
        provider="local",
        registry=str(registry),
        offline_store={"type": "dask"},
        online_store=online_store,
        entity_key_serialization_version=3,
    )
    return FeatureStore(config=config)


def answer(response: Any) -> dict[str, list[tuple[bytes, int, int]]]:
    """A response as Feast serializes it, without the event timestamps of missing values."""
    vectors = zip(response.proto.metadata.feature_names.val, response.proto.results, strict=True)
    return {
        name: [
            (
                value.SerializeToString(),
                status,
                0 if status == FieldStatus.NOT_FOUND else event.ToNanoseconds(),
            )
            for value, status, event in zip(
                vector.values, vector.statuses, vector.event_timestamps, strict=True
            )
        ]
        for name, vector in vectors
    }


def served(
    store: FeatureStore, features: Any, rows: list[dict[str, Any]]
) -> dict[str, list[tuple[bytes, int, int]]]:
    return answer(store.get_online_features(features, rows, full_feature_names=True))


# --- the same as Feast's own ---


@given(
    st.dictionaries(st.integers(0, 20), st.tuples(ROW, MICROSECOND)),
    st.lists(st.integers(0, 25), min_size=1, max_size=40),
    st.lists(st.sampled_from(FEATURES), min_size=1, unique=True),
)
@settings(max_examples=60)
def test_any_entities_are_answered_as_by_feast(
    stores: Stores,
    written: dict[int, tuple[dict[str, Any], datetime]],
    asked: list[int],
    names: list[str],
) -> None:
    first = next(numbers)
    for key, (values, event) in written.items():
        if values:
            stores.write(stats, {"driver_id": first + key}, values, event)
    rows = [{"driver_id": first + key} for key in asked]
    features = [f"stats:{name}" for name in names]
    assert served(stores.lean, features, rows) == served(stores.stock, features, rows)
    expected = stores.stock.get_online_features(features, rows, full_feature_names=True).to_dict()
    frame = stores.frame(features, rows)
    assert frame.columns == ["driver_id", *(f"stats__{name}" for name in names)]
    assert [maps_alone(row) for row in frame.to_dicts()] == [
        maps_alone({name: expected[name][position] for name in frame.columns})
        for position in range(len(rows))
    ]


def maps_alone(row: dict[str, Any]) -> dict[str, Any]:
    """A frame has one struct type a column, so every map of it has the keys of all."""
    maps = {
        name: {key: text for key, text in value.items() if text is not None}
        for name, value in row.items()
        if isinstance(value, dict)
    }
    return row | maps


def test_two_keys_do_not_collide(stores: Stores) -> None:
    trips = [(1, 12), (11, 2), (12, 1), (2, 11)]
    for number, (start, end) in enumerate(trips):
        stores.write(pairs, {"origin_id": start, "target_id": end}, {"distance": float(number)})
    rows = [{"target_id": end, "origin_id": start} for start, end in [*trips, (1, 1), (11, 2)]]
    assert served(stores.lean, ["pairs:distance"], rows) == served(
        stores.stock, ["pairs:distance"], rows
    )
    assert stores.frame(["pairs:distance"], rows)["pairs__distance"].to_list() == [
        0.0,
        1.0,
        2.0,
        3.0,
        None,
        1.0,
    ]


def test_view_without_entities_is_served(stores: Stores) -> None:
    stores.write(world, {"__dummy_id": ""}, {"weather": "rain"})
    rows = [{"driver_id": 1}, {"driver_id": 2}]
    features = ["world:weather", "stats:whole"]
    assert served(stores.lean, features, rows) == served(stores.stock, features, rows)
    assert stores.frame(["world:weather"], rows).to_dicts() == [
        {**row, "world__weather": "rain"} for row in rows
    ]
    assert stores.frame(["world:weather"], [{}, {}])["world__weather"].to_list() == ["rain", "rain"]


def test_service_with_aliases_is_served(stores: Stores) -> None:
    first = next(numbers)
    for key in (first, first + 1):
        stores.write(stats, {"driver_id": key}, {"whole": key, "text": str(key)})
    stores.write(pairs, {"origin_id": first, "target_id": 1}, {"distance": 0.5})
    rows = [{"near_id": first + 1, "far_id": first, "origin_id": first, "target_id": 1}]
    service = stores.stock.get_feature_service("both")
    assert served(stores.lean, service, rows) == served(stores.stock, service, rows)
    (row,) = stores.frame("both", rows).to_dicts()
    features = {
        "near__whole": first + 1,
        "far__whole": first,
        "far__text": str(first),
        "pairs__distance": 0.5,
    }
    assert row == {**rows[0], **features}


def test_key_may_stand_under_its_entity_name(stores: Stores) -> None:
    key = next(numbers)
    stores.write(stats, {"driver_id": key}, {"whole": 5})
    assert stores.frame(["stats:whole"], [{"driver": key}]).to_dicts() == [
        {"driver": key, "stats__whole": 5}
    ]


def test_plain_names_and_versions_are_answered_as_by_feast(stores: Stores) -> None:
    key = next(numbers)
    stores.write(stats, {"driver_id": key}, {"whole": 5, "text": "a"})
    options = {
        "features": ["stats:whole", "stats:text"],
        "entity_rows": [{"driver_id": key}],
        "include_feature_view_version_metadata": True,
    }
    lean, stock = (store.get_online_features(**options) for store in (stores.lean, stores.stock))
    assert answer(lean) == answer(stock)
    assert lean.proto.metadata.feature_view_metadata == stock.proto.metadata.feature_view_metadata


def test_awaited_answer_is_the_same(stores: Stores) -> None:
    key = next(numbers)
    stores.write(stats, {"driver_id": key}, dict.fromkeys(FEATURES) | {"whole": 5})
    stores.write(pairs, {"origin_id": key, "target_id": 1}, {"distance": 0.5})
    rows = [{"driver_id": key, "origin_id": key, "target_id": 1}]

    async def read() -> Any:
        try:
            return await stores.lean.get_online_features_async(
                [*STATS, "pairs:distance"], rows, full_feature_names=True
            )
        finally:
            if stores.kind == "postgres":
                await stores.lean.provider.online_store._conn_async.close()

    if stores.kind == "sqlite":
        with pytest.raises(NotImplementedError):
            asyncio.run(read())
    else:
        assert answer(asyncio.run(read())) == served(stores.lean, [*STATS, "pairs:distance"], rows)


@given(
    st.dictionaries(st.integers(0, 5), ROW, min_size=1),
    st.lists(st.sampled_from(FEATURES), unique=True),
)
@settings(max_examples=20)
def test_online_read_gives_what_is_stored(
    stores: Stores, written: dict[int, dict[str, Any]], names: list[str]
) -> None:
    first = next(numbers)
    for key, values in written.items():
        if values:
            stores.write(stats, {"driver_id": first + key}, values)
    keys = [
        EntityKey(join_keys=["driver_id"], entity_values=[Value(int64_val=first + key)])
        for key in (3, 1, 0, 3, 5)
    ]
    # without names Feast's Postgres store sends a wrong query
    every = FEATURES.copy() if stores.kind == "postgres" else None
    lean, stock = (
        store.provider.online_store.online_read(store.config, stats, keys, names.copy() or every)
        for store in (stores.lean, stores.stock)
    )
    wanted = [
        (event, {name: value for name, value in (row or {}).items() if name in (names or FEATURES)})
        for event, row in stock
    ]
    assert [(event, row or {}) for event, row in lean] == [
        (event if row else None, row) for event, row in wanted
    ]


# --- a frame of its own ---


def test_column_of_nulls_has_the_type_of_its_feature(stores: Stores) -> None:
    frame = stores.frame(
        [*STATS[:-1], "people:badge"], [{"driver_id": next(numbers), "person_id": "nobody"}]
    )
    assert frame.schema == {
        "driver_id": pl.Int64,
        "person_id": pl.String,
        "stats__whole": pl.Int64,
        "stats__small": pl.Int32,
        "stats__share": pl.Float64,
        "stats__single": pl.Float32,
        "stats__text": pl.String,
        "stats__raw": pl.Binary,
        "stats__flag": pl.Boolean,
        "stats__seen": pl.Datetime("us", "UTC"),
        "stats__wholes": pl.List(pl.Int64),
        "stats__texts": pl.List(pl.String),
        "stats__vector": pl.List(pl.Float32),
        "people__badge": pl.String,
    }
    assert frame.drop("driver_id", "person_id").null_count().row(0) == (1,) * 12


def test_rows_keep_their_own_columns_and_their_order(stores: Stores) -> None:
    first = next(numbers)
    stores.write(stats, {"driver_id": first}, {"whole": 5})
    rows = [
        {"note": "x", "driver_id": key, "event_timestamp": BORN}
        for key in (first + 1, first, None, first)
    ]
    frame = stores.frame(["stats:whole"], rows)
    assert frame.to_dicts() == [
        {**row, "stats__whole": found} for row, found in zip(rows, [None, 5, None, 5], strict=True)
    ]


def test_no_rows_give_an_empty_frame(stores: Stores) -> None:
    schema = {"stats__whole": pl.Int64, "pairs__distance": pl.Float64, "age__age_seconds": pl.Int64}
    assert stores.frame([name.replace("__", ":") for name in schema], []).schema == schema


def test_uuid_is_text(stores: Stores) -> None:
    badge = "6f1f1a0e-5f0c-4a93-8f35-7e9a8e1f2c11"
    stores.write(people, {"person_id": "ä"}, {"badge": badge, "age": 3})
    assert stores.frame(["people:badge"], [{"person_id": "ä"}])["people__badge"].to_list() == [
        badge
    ]


@pytest.mark.parametrize(
    ("features", "rows", "message"),
    [
        (["stats:whole"], [{"person_id": "a"}], "no 'driver_id', which view stats needs"),
        (["pairs:distance"], [{"origin_id": 1}], "no 'target_id', which view pairs needs"),
        (["total:total"], [{"driver_id": 1}], "no 'amount', which a view computed on demand needs"),
        (["stats:whole"], [{"driver_id": 1}, {"driver": 1}], "all rows must have the same columns"),
    ],
)
def test_what_rows_lack_is_named(
    stores: Stores, features: list[str], rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        stores.frame(features, rows)


def test_store_without_lean_reads_is_read_by_feast(stores: Stores) -> None:
    first = next(numbers)
    stores.write(stats, {"driver_id": first}, {"whole": 5, "seen": BORN})
    rows = [{"driver_id": key, "note": "x"} for key in (first, first + 1)]
    features = ["stats:whole", "age:age_seconds", "stats:wholes"]
    moment = [{**row, "event_timestamp": BORN + timedelta(hours=1)} for row in rows]
    assert OpenStore(stores.stock).read(features, moment).equals(stores.frame(features, moment))
    assert OpenStore(stores.stock).read(features[:1], rows).equals(stores.frame(features[:1], rows))


# --- views computed on demand ---


def test_view_on_demand_is_computed_as_by_feast(stores: Stores) -> None:
    first = next(numbers)
    stores.write(stats, {"driver_id": first}, {"seen": BORN})
    rows = [
        {"driver_id": key, "event_timestamp": BORN + timedelta(seconds=90)}
        for key in (first, first + 1, first)
    ]
    assert served(stores.lean, ["age:age_seconds"], rows) == served(
        stores.stock, ["age:age_seconds"], rows
    )
    frame = stores.frame(["age:age_seconds", "stats:whole"], rows)
    assert frame["age__age_seconds"].to_list() == [90, None, 90]
    assert frame.columns == ["driver_id", "event_timestamp", "age__age_seconds", "stats__whole"]


def test_view_on_demand_is_asked_of_now(stores: Stores) -> None:
    key = next(numbers)
    stores.write(stats, {"driver_id": key}, {"seen": BORN})
    frame = stores.frame(["age:age_seconds"], [{"driver_id": key}])
    assert frame.columns == ["driver_id", "age__age_seconds"]
    assert abs(frame["age__age_seconds"][0] - (datetime.now(UTC) - BORN).total_seconds()) < 3600


def test_view_on_demand_in_python_is_served(stores: Stores) -> None:
    first = next(numbers)
    stores.write(stats, {"driver_id": first}, {"whole": 5})
    rows = [{"driver_id": key, "amount": 2} for key in (first, first + 1)]
    assert stores.frame(["total:total"], rows)["total__total"].to_list() == [7, None]


# --- time to live ---


@pytest.mark.parametrize(
    ("after", "is_served"),
    [(timedelta(0), True), (timedelta(microseconds=1), False), (timedelta(days=-9), True)],
)
def test_ttl_is_exact_to_the_microsecond(
    stores: Stores,
    monkeypatch: pytest.MonkeyPatch,
    after: timedelta,
    is_served: bool,  # noqa: FBT001
) -> None:
    # SQLite keeps whole seconds
    born = BORN if stores.kind == "sqlite" else BORN + timedelta(microseconds=7)
    key = next(numbers)
    stores.write(brief, {"driver_id": key}, {"value": 5, "other": None}, born)
    assert brief.ttl
    now = born + brief.ttl + after
    monkeypatch.setattr(clock, "now", lambda: now)
    rows = [{"driver_id": key}, {"driver_id": key + 1}]
    lean, stock = (
        served(store, ["brief:value", "brief:other"], rows) for store in (stores.lean, stores.stock)
    )
    expired = [
        (b"", FieldStatus.OUTSIDE_MAX_AGE, event) for _, _, event in stock["brief__value"][:1]
    ]
    assert lean["brief__value"] == (
        stock["brief__value"] if is_served else [*expired, stock["brief__value"][1]]
    )
    assert lean["brief__other"][0][1] == (
        FieldStatus.PRESENT if is_served else FieldStatus.OUTSIDE_MAX_AGE
    )
    assert stores.frame(["brief:value"], rows)["brief__value"].to_list() == [
        5 if is_served else None,
        None,
    ]


def test_value_is_judged_by_its_own_age(stores: Stores) -> None:
    key, now = next(numbers), datetime.now(UTC)
    stores.write(brief, {"driver_id": key}, {"value": 5}, now - timedelta(days=1))
    stores.write(brief, {"driver_id": key}, {"other": "new"}, now)
    (row,) = stores.frame(["brief:value", "brief:other"], [{"driver_id": key}]).to_dicts()
    assert row["brief__other"] == "new"
    # Redis keeps one event timestamp for a view's row
    assert row["brief__value"] == (5 if stores.kind == "redis" else None)


def test_what_is_stored_does_not_expire_for_online_read(stores: Stores) -> None:
    key = EntityKey(join_keys=["driver_id"], entity_values=[Value(int64_val=next(numbers))])
    stores.write(brief, {"driver_id": key.entity_values[0].int64_val}, {"value": 5})
    ((event, row),) = stores.lean.provider.online_store.online_read(
        stores.lean.config, brief, [key], ["value"]
    )
    assert (event, row["value"].int64_val) == (BORN, 5)


# --- a store kept open ---


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "feast").mkdir()
    register(open_home(tmp_path), OBJECTS)
    yield tmp_path
    serving._open.pop(tmp_path, None)


def open_home(home: Path) -> FeatureStore:
    return feature_store(
        home / "feast" / "registry.db",
        {"type": LEAN["sqlite"], "path": str(home / "feast" / "online.db")},
    )


def test_store_stays_open_until_something_is_applied(home: Path) -> None:
    before = opened(home, open_home)
    assert opened(home, open_home) is before
    with pytest.raises(Exception, match="newcomer"):
        before.read(["newcomer:value"], [{"driver_id": 1}])
    open_home(home).apply([view("newcomer", [driver], {"value": Int64})])
    assert opened(home, open_home).read(["newcomer:value"], [{"driver_id": 1}]).to_dicts() == [
        {"driver_id": 1, "newcomer__value": None}
    ]


def test_threads_read_at_once(stores: Stores) -> None:
    first = next(numbers)
    for key in range(first, first + 30):
        stores.write(stats, {"driver_id": key}, {"whole": key, "text": str(key)})
    shared = OpenStore(stores.lean)

    def read(start: int) -> bool:
        rows = [{"driver_id": first + (start + step) % 30} for step in range(start % 7 + 1)]
        frame = shared.read(["stats:whole", "stats:text"], rows)
        served_by_feast = stores.lean.get_online_features(["stats:whole"], rows).to_dict()["whole"]
        asked = [row["driver_id"] for row in rows]
        return frame["stats__whole"].to_list() == served_by_feast == asked and frame[
            "stats__text"
        ].to_list() == [str(key) for key in asked]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(200)))


def test_sqlite_store_needs_no_other_driver() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['redis', 'psycopg', 'psycopg_pool'])); "
        "import feature_repo.stores.serving"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_null_key_finds_nothing(stores: Stores) -> None:
    stores.write(people, {"person_id": ""}, {"age": 3})
    rows = [{"person_id": None}, {"person_id": ""}]
    assert stores.frame(["people:age"], rows)["people__age"].to_list() == [None, 3]
    assert stores.frame(["people:age"], rows[:1])["people__age"].to_list() == [None]


@pytest.mark.parametrize("stores", ["redis"], indirect=True)
def test_read_after_a_failed_one_is_right(stores: Stores) -> None:
    first = next(numbers)
    stores.write(stats, {"driver_id": first}, {"whole": 5})
    wrong = (
        serialize_entity_key(
            EntityKey(join_keys=["driver_id"], entity_values=[Value(int64_val=first + 1)]), 3
        )
        + b"lean"
    )
    stores.stock.provider.online_store._client.set(wrong, "not a hash")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        stores.frame(["stats:whole"], [{"driver_id": first + 1}, {"driver_id": first + 2}])
    assert stores.frame(["stats:whole"], [{"driver_id": first}])["stats__whole"].to_list() == [5]


@pytest.mark.parametrize("stores", ["postgres"], indirect=True)
def test_pooled_connections_read_the_same(stores: Stores) -> None:
    key = next(numbers)
    stores.write(stats, {"driver_id": key}, {"whole": 5})
    settings = {
        **stores.lean.config.online_store.model_dump(),
        "conn_type": "pool",
        "min_conn": 1,
        "max_conn": 2,
    }
    pooled = feature_store(Path(stores.lean.config.registry.path), settings)
    try:
        assert OpenStore(pooled).read(["stats:whole"], [{"driver_id": key}])[
            "stats__whole"
        ].to_list() == [5]
        assert served(pooled, ["stats:whole"], [{"driver_id": key}]) == served(
            stores.stock, ["stats:whole"], [{"driver_id": key}]
        )
    finally:
        pooled.provider.online_store._conn_pool.close()


# --- training and serving ---


def test_every_record_is_served_what_it_would_be_trained_on(
    small: Warehouse, spine: pl.DataFrame
) -> None:
    now = datetime(2024, 9, 1, tzinfo=UTC)
    materialize(small, now, lambda _relation, _rows, _bytes: None)
    asked = spine.select(
        "record_id",
        "author_id",
        "subject_id",
        event_timestamp=pl.lit(now).cast(pl.Datetime("us", "UTC")),
    )
    trained = training_set(asked, "triage_v1", small.settings.root).frame
    answered = online_features("triage_v1", asked.to_dicts(), small.settings.root)
    assert answered.columns[: asked.width] == asked.columns
    assert answered.select(trained.columns).equals(trained)
    assert answered.schema == trained.select(answered.columns).schema


# --- deleting ---


def named(*people: str) -> list[dict[str, Any]]:
    return [{"person_id": name} for name in people]


def test_entity_of_several_keys_is_deleted_by_all_of_them(stores: Stores) -> None:
    first = next(numbers)
    trips = [
        {"origin_id": first + start, "target_id": end} for start, end in ((1, 1), (1, 2), (2, 1))
    ]
    for trip in trips:
        stores.write(pairs, trip, {"distance": 0.5})
    delete_entities(
        stores.lean.config,
        stores.lean.provider.online_store,
        pairs,
        pl.DataFrame(trips[:1]).reverse(),
    )
    delete_entities(stores.lean.config, stores.lean.provider.online_store, pairs, [])
    assert stores.frame(["pairs:distance"], trips)["pairs__distance"].to_list() == [None, 0.5, 0.5]
    with pytest.raises(
        ValueError, match=r"^view pairs: the rows to delete lack the key 'target_id'$"
    ):
        delete_entities(
            stores.lean.config, stores.lean.provider.online_store, pairs, [{"origin_id": first}]
        )


def test_deleted_entity_is_removed_and_no_other(stores: Stores) -> None:
    for name in ("ann", "anne", "bob"):
        stores.write(people, {"person_id": name}, {"age": 40})
    stores.write(stats, {"driver_id": 1}, {"whole": 7})
    delete_entities(
        stores.lean.config,
        stores.lean.provider.online_store,
        people,
        named("ann", "bob", "never there"),
    )
    ages = served(
        stores.lean, ["people:age"], [{"person_id": name} for name in ("ann", "anne", "bob")]
    )
    assert [bool(value) for value, _, _ in ages["people__age"]] == [False, True, False]
    assert served(stores.lean, ["stats:whole"], [{"driver_id": 1}])["stats__whole"][0][0]


def test_deleted_entity_leaves_no_bytes_behind(stores: Stores) -> None:
    for number in range(300):
        stores.write(people, {"person_id": f"quisling-{number}"}, {"age": number})
    everyone = pl.DataFrame(named(*(f"quisling-{number}" for number in range(300))))
    delete_entities(stores.lean.config, stores.lean.provider.online_store, people, everyone)
    assert not any(b"quisling" in key for key in every_key(stores))


def every_key(stores: Stores) -> list[bytes]:
    """All keys of a server; of SQLite the whole file, for deleted rows may stay in it."""
    settings = stores.lean.config.online_store
    if stores.kind == "sqlite":
        return [path.read_bytes() for path in Path(settings.path).parent.glob("online.db*")]
    if stores.kind == "redis":
        host, port = settings.connection_string.split(",")[0].split(":")
        return list(redis.Redis(host, int(port), 7).keys())
    with stores.lean.provider.online_store._get_conn(
        stores.lean.config, autocommit=True
    ) as connection:
        return [
            key
            for (key,) in connection.execute(
                'select entity_key from "lean"."lean_people"'
            ).fetchall()
        ]


class OtherStore(OnlineStore):
    """A store of another kind."""

    def online_write_batch(self, *_: Any) -> None: ...
    def online_read(self, *_: Any) -> Any: ...
    def update(self, *_: Any) -> None: ...
    def teardown(self, *_: Any) -> None: ...


def test_store_of_another_kind_is_refused_before_anything_goes() -> None:
    assert not can_delete(OtherStore())
    with pytest.raises(ValueError, match="OtherStore: entities cannot be deleted"):
        delete_entities(None, OtherStore(), people, named("ann"))  # type: ignore[arg-type]
