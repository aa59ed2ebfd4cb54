"""The compact layout.

What is written is what is read, in any order of writes, beside Feast's own layout.
"""

import itertools
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float64, Int64, String
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from benchmarks.servers import Address
from feature_repo import sizes
from feature_repo.stores import compact
from feature_repo.stores.deletion import delete_views

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
TYPES = {
    "sqlite": "feature_repo.stores.online.SqliteOnlineStore",
    "redis": "feature_repo.stores.online_redis.RedisOnlineStore",
    "postgres": "feature_repo.stores.online_postgres.PostgresOnlineStore",
}
FEATURES: Mapping[str, Any] = {"count": Int64, "title": String, "share": Float64}
numbers = itertools.count()
user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)


def view(name: str, features: Sequence[str] = tuple(FEATURES)) -> FeatureView:
    fields = [Field(name=feature, dtype=FEATURES[feature]) for feature in features]
    source = FileSource(name=name, path=f"{name}.parquet", timestamp_field="event_timestamp")
    schema = [Field(name="user_id", dtype=String), *fields]
    return FeatureView(name=name, entities=[user], schema=schema, source=source)


activity = view("activity")


def open_store(folder: Path, online_store: dict[str, Any]) -> FeatureStore:
    config = RepoConfig(
        project="compact",
        provider="local",
        registry={"path": str(folder / "registry.db"), "cache_ttl_seconds": 0},
        offline_store={"type": "dask"},
        online_store=online_store,
        entity_key_serialization_version=3,
    )
    return FeatureStore(config=config)


@pytest.fixture(scope="module", params=list(TYPES))
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FeatureStore]:
    kind, folder = request.param, tmp_path_factory.mktemp("compact")
    where: dict[str, Any] = {"path": str(folder / "online.db")}
    if kind == "redis":
        address = request.getfixturevalue("redis_address")
        database = next(request.getfixturevalue("redis_databases"))
        where = {"connection_string": f"{address.host}:{address.port},db={database}"}
    if kind == "postgres":
        address = request.getfixturevalue("postgres_address")
        login = {"user": "postgres", "password": "", "database": "postgres", "sslmode": "disable"}
        where = {"host": address.host, "port": address.port, "db_schema": "compact", **login}
    opened = open_store(folder, {"type": TYPES[kind], **where})
    opened.apply([user, activity])
    yield opened
    if kind == "postgres":  # the server does not end before its last connection
        opened.provider.online_store._conn.close()


def test_size_of_a_store_is_told_or_said_to_be_unknown(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configured = store.config.online_store
    monkeypatch.setattr(
        sizes,
        "store_settings",
        lambda _: {"online_store": configured.model_dump(exclude_none=True)},
    )
    monkeypatch.setattr(sizes, "store", lambda _: store)
    before = sizes.online_size(tmp_path)
    for number in range(300):
        write(store, f"sized {number}", START, {"title": f"{number:>0500}"})
    after = sizes.online_size(tmp_path)
    assert (
        after.store
        == {"sqlite": "SQLite", "redis": "Redis", "postgres": "PostgreSQL"}[
            next(kind for kind, name in TYPES.items() if name == configured.type)
        ]
    )
    if after.store == "Redis":
        assert after == (after.store, None, "not measured: the store does not tell it by home")
        return
    assert before.n_bytes is not None
    assert after.n_bytes is not None
    assert after.n_bytes - before.n_bytes > 300 * 100
    assert after.n_bytes < 10_000_000


def test_store_that_does_not_answer_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(_: Path) -> FeatureStore:
        raise ConnectionError

    monkeypatch.setattr(sizes, "store_settings", lambda _: {"online_store": {"type": "redis"}})
    monkeypatch.setattr(sizes, "store", refuse)
    note = "not measured: no answer (ConnectionError)"
    assert sizes.online_size(tmp_path) == ("redis", None, note)


def key_of(name: str) -> EntityKey:
    return EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=name)])


def value_of(feature: str, value: Any) -> Value:
    field = {"count": "int64_val", "title": "string_val", "share": "double_val"}[feature]
    return Value() if value is None else Value(**{field: value})


def write(store: FeatureStore, name: str, event: datetime, values: Mapping[str, Any]) -> None:
    protos = {feature: value_of(feature, value) for feature, value in values.items()}
    row = (key_of(name), protos, event, None)
    store.provider.online_store.online_write_batch(store.config, activity, [row], None)


def read(
    store: FeatureStore, *names: str, of: FeatureView = activity
) -> list[tuple[datetime | None, dict[str, Any] | None]]:
    rows = store.provider.online_store.online_read(
        store.config, of, [key_of(name) for name in names], [field.name for field in of.features]
    )
    return [
        (instant, None if values is None else {key: plain(item) for key, item in values.items()})
        for instant, values in rows
    ]


def plain(value: Value) -> Any:
    kind = value.WhichOneof("val")
    return None if kind is None else getattr(value, kind)


def test_a_user_of_redis_who_may_run_no_script_reads_the_same(
    redis_address: Address, redis_databases: Iterator[int], tmp_path: Path
) -> None:
    where = f"{redis_address.host}:{redis_address.port},db={next(redis_databases)}"
    writer = open_store(tmp_path, {"type": TYPES["redis"], "connection_string": where})
    writer.apply([user, activity])
    write(writer, "ann", START, {"count": 3})
    client = Redis(redis_address.host, redis_address.port)
    client.acl_setuser(
        "reader",
        enabled=True,
        passwords="+secret",
        keys=["*"],
        categories=["+@read", "+@connection"],
    )
    asked = f"{where},username=reader,password=secret"
    reader = open_store(tmp_path, {"type": TYPES["redis"], "connection_string": asked})
    online = reader.provider.online_store
    for _ in range(2):
        assert read(reader, "ann", "nobody") == read(writer, "ann", "nobody")
        assert not online._may_run_scripts
    assert read(writer, "ann")[0][1] == {"count": 3}
    assert writer.provider.online_store._may_run_scripts


VALUES = {
    "count": st.none() | st.integers(-(2**63), 2**63 - 1),
    "title": st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
    "share": st.none() | st.floats(allow_nan=False),
}
WRITES = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob"]),
        st.integers(-3, 3).map(lambda step: START + step * timedelta(microseconds=1)),
        st.fixed_dictionaries({}, optional=VALUES).filter(bool),
    ),
    max_size=8,
)


@settings(max_examples=30)
@given(writes=WRITES)
def test_read_gives_the_newest_write_of_each_entity_with_earlier_values_of_other_features(
    store: FeatureStore, writes: list[tuple[str, datetime, dict[str, Any]]]
) -> None:
    example = next(numbers)
    expected: dict[str, tuple[datetime | None, dict[str, Any] | None]] = {}
    for name, event, values in writes:
        write(store, f"{name} {example}", event, values)
        before, known = expected.get(name, (None, None))
        if before is None or before <= event:
            expected[name] = event, (known or {}) | values
    names = ["ann", "bob", "nobody"]
    found = read(store, *(f"{name} {example}" for name in names))
    assert found == [expected.get(name, (None, None)) for name in names]


INSTANTS = st.integers(-(2**62), 2**62)
COLUMNS = st.dictionaries(
    st.text(max_size=5), st.lists(st.binary(max_size=40), min_size=3, max_size=3), min_size=1
)


@given(st.lists(INSTANTS, min_size=3, max_size=3), COLUMNS, st.sampled_from([1, 3_000]))
def test_features_come_out_of_a_value_as_they_went_in(
    instants: list[int], columns: dict[str, list[bytes]], times: int
) -> None:
    event = np.array(instants, "datetime64[us]")
    features = {
        name: pa.array([value * times for value in values], pa.large_binary())
        for name, values in columns.items()
    }
    values = compact.pack(event, np.full(3, "NaT", "datetime64[us]"), features)
    found = compact.unpack([*values, None], [*columns, "another feature"], [compact.EVER] * 4)
    for (column, _), expected in zip(found[:-1], features.values(), strict=True):
        assert column == [*expected.to_pylist(), None]
    assert found[-1] == ([None] * 4, [None] * 4)
    assert [compact.event_us(value) for value in values] == instants
    order = sorted(range(3), key=lambda place: values[place][compact.AGE])
    assert [instants[place] for place in order] == sorted(instants)
    completed = [compact.merged(value, value) for value in values]
    again = compact.unpack(completed, list(columns), [compact.EVER] * 3)
    assert [column for column, _ in again] == [column.to_pylist() for column in features.values()]


@given(st.integers(0), st.integers(1, 255))
def test_damaged_value_is_refused(place: int, change: int) -> None:
    age = np.array([START.replace(tzinfo=None)], "datetime64[us]")
    (value,) = compact.pack(age, age, {"count": pa.array([b"\x20\x05"], pa.large_binary())})
    damaged = bytearray(value)
    damaged[place % len(value)] ^= change
    with pytest.raises(compact.BrokenValueError, match="materialize again"):
        compact.unpack([bytes(damaged)], ["count"], [compact.EVER])


def test_feature_of_another_definition_is_not_there_and_the_others_are(store: FeatureStore) -> None:
    name = f"old {next(numbers)}"
    write(store, name, START, {"count": 5, "title": "x", "share": 0.5})
    instant, values = read(store, name, of=view("activity", ["share", "count"]))[0]
    assert (instant, values) == (START, {"share": 0.5, "count": 5})


def test_view_that_is_dropped_leaves_nothing_behind(store: FeatureStore) -> None:
    if "Redis" in store.config.online_store.type:
        store.config.online_store.full_scan_for_deletion = True
    name = f"dropped {next(numbers)}"
    write(store, name, START, {"count": 5})
    delete_views(store.config, store.provider.online_store, [activity])
    store.provider.online_store.update(store.config, [], [activity], [], [], partial=True)
    assert read(store, name) == [(None, None)]


def test_view_that_was_never_applied_in_this_layout_is_refused_with_the_fix(
    store: FeatureStore,
) -> None:
    if "Redis" not in store.config.online_store.type:  # a hash needs no table
        with pytest.raises(compact.NotAppliedError, match=r"^unknown: .*; run once"):
            read(store, "ann", of=view("unknown"))


def test_view_that_is_dropped_stays_in_a_project_whose_name_ends_alike(
    store: FeatureStore, tmp_path: Path
) -> None:
    settings = store.config.online_store.model_dump()
    if "Redis" in settings["type"]:
        store.config.online_store.full_scan_for_deletion = True
    other = open_store(tmp_path, settings)
    other.config.project = f"x{store.config.project}"
    other.provider.online_store.update(other.config, [], [activity], [], [], partial=True)
    name = f"of another project {next(numbers)}"
    write(other, name, START, {"count": 5})
    delete_views(store.config, store.provider.online_store, [activity])
    store.provider.online_store.update(store.config, [], [activity], [], [], partial=True)
    assert read(other, name) == [(START, {"count": 5})]
    if "Postgres" in settings["type"]:
        other.provider.online_store._conn.close()


@pytest.mark.parametrize(("layout", "other"), [("compact", "feast"), ("feast", "compact")])
def test_store_of_the_other_layout_is_written_again_and_keeps_no_room(
    tmp_path: Path, layout: str, other: str
) -> None:
    settings = {"type": TYPES["sqlite"], "path": str(tmp_path / "online.db")}
    before = open_store(tmp_path, {**settings, "layout": other})
    before.apply([user, activity])
    write(before, "ann", START, {"count": 5})
    after = open_store(tmp_path, {**settings, "layout": layout})
    after.apply([user, activity])
    assert read(after, "ann") == [(None, None)]
    write(after, "ann", START, {"count": 6})
    assert read(after, "ann") == [(START, {"count": 6})]
    with closing(sqlite3.connect(tmp_path / "online.db")) as connection:
        names = {name for (name,) in connection.execute("select name from sqlite_master")}
    table = "compact_activity" + (".compact" if layout == "compact" else "")
    assert {name for name in names if not name.startswith("sqlite_autoindex")} == {table}


def test_settings_that_only_feasts_layout_allows_are_refused(tmp_path: Path) -> None:
    options = {"type": TYPES["sqlite"], "path": str(tmp_path / "online.db")}
    store = open_store(tmp_path, {**options, "enable_openai_compatible_store": True})
    with pytest.raises(ValueError, match="layout: feast"):
        store.apply([user, activity])
