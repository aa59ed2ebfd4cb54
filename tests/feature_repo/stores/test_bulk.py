"""Whole stores, written by Feast's writer and by ours: older, equal, broken and concurrent rows."""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest
import redis
from feast import Entity, FeatureView, Field, FileSource, RepoConfig
from feast.infra.online_stores.helpers import get_online_store_from_config
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.online_stores.sqlite import SqliteOnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type
from feast.types import Array, Float32, from_value_type
from feast.utils import _convert_arrow_to_proto
from feast.value_type import ValueType
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql

from benchmarks.servers import Address
from feature_repo.stores import bulk
from feature_repo.stores.bulk import bulk_writer
from tests.feature_repo.stores.feast_values import (
    COLLECTIONS,
    SCALARS,
    column,
    instants,
    numbers,
    texts,
)

EVENT, CREATED = "event_timestamp", "created_timestamp"
INSTANT = pa.timestamp("us", "UTC")
START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
EVERY_TYPE = {
    f"{value_type.name.lower()}'s_{place}": case
    for place, case in enumerate([*SCALARS, *COLLECTIONS])
    if (value_type := case[0])
}
EXAMPLES = settings(max_examples=15)


@dataclass
class Online:
    """A test's own online store: `contents` reads all of it, `clear` empties it."""

    config: RepoConfig
    store: OnlineStore
    contents: Callable[[], Any]
    clear: Callable[[FeatureView], None]

    def write(self, view: FeatureView, *batches: pa.RecordBatch) -> list[int]:
        with bulk_writer(self.config, self.store, view) as write:
            return [write(batch) for batch in batches]

    def write_as_feast(self, view: FeatureView, batch: pa.RecordBatch) -> None:
        self.store.online_write_batch(
            self.config, view, _convert_arrow_to_proto(batch, view, bulk._join_keys(view)), None
        )

    def read(self, view: FeatureView, key: str, feature: str) -> Any:
        entity = EntityKey(join_keys=["user"], entity_values=[Value(string_val=key)])
        _, values = self.store.online_read(self.config, view, [entity], [feature])[0]
        return feast_value_type_to_python_type((values or {}).get(feature, Value()))


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def online(request: pytest.FixtureRequest) -> Online:
    opened: Online = request.getfixturevalue(f"{request.param}_online")
    return opened


@pytest.fixture
def sqlite_online(tmp_path: Path) -> Online:
    path = tmp_path / "online.db"
    config = repo_config(tmp_path, type="sqlite", path=str(path))
    store = get_online_store_from_config(config.online_store)

    def contents() -> list[Any]:
        with closing(sqlite3.connect(path)) as connection:
            tables = connection.execute(
                "select name from sqlite_master where type = 'table' order by 1"
            ).fetchall()
            return [
                connection.execute(
                    f'select * from "{name}" order by entity_key, feature_name'
                ).fetchall()
                for (name,) in tables
            ]

    def clear(view: FeatureView) -> None:
        store.update(config, [view], [], [], [], partial=False)
        store.update(config, [], [view], [], [], partial=False)

    return Online(config, store, contents, clear)


@pytest.fixture
def redis_online(
    tmp_path: Path, redis_address: Address, redis_databases: Iterator[int]
) -> Iterator[Online]:
    database = next(redis_databases)
    config = repo_config(
        tmp_path,
        type="redis",
        connection_string=f"{redis_address.host}:{redis_address.port},db={database}",
        key_ttl_seconds=3600,
    )
    with redis.Redis(*redis_address, db=database) as client:

        def contents() -> dict[bytes, Any]:
            keys = sorted(client.keys())
            return {
                key: (list(client.hgetall(key).items()), client.ttl(key) > 3500) for key in keys
            }

        yield Online(
            config,
            get_online_store_from_config(config.online_store),
            contents,
            lambda _: client.flushdb(),
        )
        client.flushdb()


@pytest.fixture
def postgres_online(tmp_path: Path, postgres_address: Address) -> Iterator[Online]:
    host, port = postgres_address
    place = {
        "host": host,
        "port": port,
        "database": "postgres",
        "user": "postgres",
        "password": "any",
        "sslmode": "disable",
    }
    config = repo_config(tmp_path, type="postgres", db_schema="bulk", **place)
    store: Any = get_online_store_from_config(config.online_store)
    with psycopg.connect(
        host=host, port=port, user="postgres", dbname="postgres", autocommit=True
    ) as connection:

        def contents() -> list[Any]:
            tables = connection.execute(
                "select tablename from pg_tables where schemaname = 'bulk' order by 1"
            ).fetchall()
            rows = sql.SQL("select * from {} order by entity_key, feature_name")
            return [
                connection.execute(rows.format(sql.Identifier("bulk", name))).fetchall()
                for (name,) in tables
            ]

        def clear(view: FeatureView) -> None:
            connection.execute("drop schema if exists bulk cascade")
            store.update(config, [], [view], [], [], partial=False)

        yield Online(config, store, contents, clear)
        store._conn.close()
        connection.execute("drop schema if exists bulk cascade")


def repo_config(folder: Path, **online_store: Any) -> RepoConfig:
    return RepoConfig(
        project="bulk",
        provider="local",
        registry=str(folder / "registry.db"),
        online_store=online_store,
        repo_path=folder,
        entity_key_serialization_version=3,
    )


def make_view(
    features: dict[str, ValueType], keys: dict[str, ValueType] | None = None, created: str = CREATED
) -> FeatureView:
    keys = {"user": ValueType.STRING} if keys is None else keys
    return FeatureView(
        name="activity",
        entities=[Entity(name=key, join_keys=[key], value_type=kind) for key, kind in keys.items()],
        schema=[
            Field(name=name, dtype=from_value_type(kind))
            for name, kind in {**keys, **features}.items()
        ],
        source=FileSource(
            name="activity",
            path="activity.parquet",
            timestamp_field=EVENT,
            created_timestamp_column=created,
        ),
    )


def users(
    values: dict[str, Any],
    event: datetime,
    created: datetime | None = START,
    feature: str = "n_words",
) -> pa.RecordBatch:
    """One row a user, all of the same instants."""
    times = {
        EVENT: pa.array([event] * len(values), INSTANT),
        CREATED: pa.array([created] * len(values), INSTANT),
    }
    return pa.RecordBatch.from_pydict(
        {"user": list(values), feature: list(values.values()), **times}
    )


VIEW = make_view({"n_words": ValueType.INT64})


# --- byte for byte what Feast writes ---


@st.composite
def batches_of_every_type(draw: st.DrawFn) -> tuple[FeatureView, pa.RecordBatch]:
    keys = {"user": ValueType.STRING, "account": ValueType.INT64}
    rows = draw(st.lists(st.tuples(texts, numbers), min_size=1, max_size=4, unique=True))
    columns = {
        "user": pa.array([user for user, _ in rows]),
        "account": pa.array([account for _, account in rows]),
    }
    for name, (_, kind, elements) in EVERY_TYPE.items():
        columns[name] = draw(column(kind, elements, len(rows)))
    columns[EVENT] = pa.array(
        draw(st.lists(instants, min_size=len(rows), max_size=len(rows))),
        draw(st.sampled_from(TIMES)),
    )
    columns[CREATED] = pa.array(
        draw(st.lists(instants, min_size=len(rows), max_size=len(rows))),
        draw(st.sampled_from(TIMES)),
    )
    view = make_view(
        {name: value_type for name, (value_type, _, _) in EVERY_TYPE.items()},
        keys,
        draw(st.sampled_from(["", CREATED])),
    )
    return view, pa.RecordBatch.from_pydict(columns)


TIMES = [INSTANT, pa.timestamp("us"), pa.timestamp("us", "America/New_York")]


@EXAMPLES
@given(case=batches_of_every_type())
def test_an_empty_store_gets_what_feast_would_have_written(
    online: Online, case: tuple[FeatureView, pa.RecordBatch]
) -> None:
    view, batch = case
    online.clear(view)
    online.write_as_feast(view, batch)
    expected = online.contents()
    online.clear(view)
    assert online.write(view, batch) == [batch.num_rows]
    assert online.contents() == expected


def test_nanoseconds_are_cut_off_as_feast_cuts_them(online: Online) -> None:
    nanoseconds = pa.array([-1_500, 1_767_225_600_123_456_789], pa.timestamp("ns"))
    batch = pa.RecordBatch.from_pydict(
        {"user": ["a", "b"], "n_words": [1, 2], EVENT: nanoseconds, CREATED: nanoseconds}
    )
    online.clear(VIEW)
    with pytest.warns(UserWarning, match="nanoseconds"):  # Feast's writer
        online.write_as_feast(VIEW, batch)
    expected = online.contents()
    online.clear(VIEW)
    online.write(VIEW, batch)
    assert online.contents() == expected


@pytest.mark.parametrize("zone", ["America/New_York", "UTC"])
def test_instants_are_what_feast_makes_of_them_in_any_zone(
    online: Online, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        patch.setenv("PGTZ", zone)
        time.tzset()
        online.clear(VIEW)
        batch = users({"a": 1, "b": None}, START + timedelta(microseconds=1))
        online.write_as_feast(VIEW, batch)
        expected = online.contents()
        online.clear(VIEW)
        online.write(VIEW, batch)
        assert online.contents() == expected
    time.tzset()


def test_views_without_entities_and_empty_batches_are_written(online: Online) -> None:
    view = make_view({"n_words": ValueType.INT64}, {"__dummy_id": ValueType.STRING})
    batch = users({"": 3}, START).rename_columns(["__dummy_id", "n_words", EVENT, CREATED])
    online.clear(view)
    online.write_as_feast(view, batch)
    expected = online.contents()
    online.clear(view)
    assert online.write(view, batch.slice(0, 0), batch, batch.slice(0, 0)) == [0, 1, 0]
    assert online.contents() == expected


def test_wide_views_and_many_entities_are_written(online: Online) -> None:
    names = [f"count_{number}" for number in range(700)]
    view = make_view(dict.fromkeys(names, ValueType.INT64))
    narrow = users({f"user {number}": number for number in range(120)}, START)
    batch = pa.RecordBatch.from_pydict(
        {
            "user": narrow["user"],
            EVENT: narrow[EVENT],
            CREATED: narrow[CREATED],
            **dict.fromkeys(names, narrow["n_words"]),
        }
    )
    online.clear(view)
    assert online.write(view, batch) == [120]
    assert online.read(view, "user 77", "count_699") == 77


def test_views_wider_than_a_statement_are_written(
    sqlite_online: Online, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = make_view({f"count_{number}": ValueType.INT64 for number in range(25)})
    batch = users({"a": 1, "b": 2}, START)
    columns = {"user": batch["user"], EVENT: batch[EVENT], CREATED: batch[CREATED]}
    batch = pa.RecordBatch.from_pydict(
        columns | {feature.name: batch["n_words"] for feature in view.features}
    )
    sqlite_online.clear(view)
    sqlite_online.write_as_feast(view, batch)
    expected = sqlite_online.contents()
    sqlite_online.clear(view)
    connect = sqlite3.connect

    def connect_narrowly(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 30)
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", connect_narrowly)
        assert sqlite_online.write(view, batch) == [2]
    assert sqlite_online.contents() == expected


# --- older, equal, newer ---


def test_an_older_value_never_overwrites_a_newer_one(online: Online) -> None:
    online.clear(VIEW)
    later, earlier = START + HOUR, START - timedelta(days=40_000)
    assert online.write(
        VIEW,
        users({"a": 1, "b": 1}, START),
        users({"a": 2}, later),
        users({"a": 3, "b": 3, "c": 3}, START),
    ) == [2, 1, 2]
    assert [online.read(VIEW, user, "n_words") for user in "abc"] == [2, 3, 3]
    assert online.write(
        VIEW, users({"d": 1}, earlier), users({"d": 2}, earlier + HOUR), users({"d": 3}, earlier)
    ) == [1, 1, 0]
    assert online.read(VIEW, "d", "n_words") == 2


@pytest.mark.parametrize(
    "event",
    [datetime(1970, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), START],
)
def test_microseconds_and_the_epoch_are_distinguished(
    redis_online: Online, event: datetime
) -> None:
    redis_online.clear(VIEW)
    tick = timedelta(microseconds=1)
    batches = [
        users({"a": 1}, event),
        users({"a": 2}, event + tick),
        users({"a": 3}, event),
        users({"a": 4}, event + tick),
    ]
    assert redis_online.write(VIEW, *batches) == [1, 1, 0, 1]
    assert redis_online.read(VIEW, "a", "n_words") == 4


def test_an_equal_instant_is_overwritten(online: Online) -> None:
    online.clear(VIEW)
    assert online.write(VIEW, users({"a": 1}, START), users({"a": 2}, START)) == [1, 1]
    assert online.read(VIEW, "a", "n_words") == 2


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_of_equal_events_the_later_created_stays(request: pytest.FixtureRequest, kind: str) -> None:
    online: Online = request.getfixturevalue(f"{kind}_online")
    online.clear(VIEW)
    batches = [
        users({"a": 1}, START, START),
        users({"a": 2}, START, None),
        users({"a": 3}, START, START + HOUR),
    ]
    assert online.write(VIEW, *batches, batches[0]) == [1, 0, 1, 0]
    assert online.read(VIEW, "a", "n_words") == 3


def test_a_feature_that_a_view_has_gained_is_written_to_stored_entities(online: Online) -> None:
    online.clear(VIEW)
    online.write(VIEW, users({"a": 1}, START))
    wider = make_view({"n_words": ValueType.INT64, "n_links": ValueType.INT64})
    batch = users({"a": 2}, START).append_column("n_links", pa.array([5]))
    assert online.write(wider, batch) == [1]
    assert [online.read(wider, "a", feature) for feature in ("n_words", "n_links")] == [2, 5]


def test_writers_at_once_leave_the_newest(online: Online) -> None:
    online.clear(VIEW)
    names = [f"user {number}" for number in range(300)]

    def write(hours: range) -> None:
        online.write(
            VIEW, *(users(dict.fromkeys(names, hour), START + hour * HOUR) for hour in hours)
        )

    writers = [threading.Thread(target=write, args=(range(first, 12, 2),)) for first in (0, 1)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert {online.read(VIEW, name, "n_words") for name in names} == {11}


def test_entities_that_another_writer_has_just_stored_are_merged(
    postgres_online: Online, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres_online.clear(VIEW)
    postgres_online.write(VIEW, users({"a": 1, "b": 1}, START))
    # as if they were not there yet
    monkeypatch.setattr(bulk, "_stored_keys", lambda *_: pa.array([], pa.large_binary()))
    assert postgres_online.write(
        VIEW, users({"a": 2, "c": 2}, START + HOUR), users({"a": 0, "b": 3}, START)
    ) == [2, 1]
    assert [postgres_online.read(VIEW, user, "n_words") for user in "abc"] == [2, 3, 2]


# --- failures ---


def test_a_batch_that_fails_leaves_nothing_and_the_writer_usable(online: Online) -> None:
    online.clear(VIEW)
    with bulk_writer(online.config, online.store, VIEW) as write:
        write(users({"a": 1}, START))
        before = online.contents()
        with pytest.raises(
            ValueError,
            match=r"view activity: column 'n_words' \(string\) does not fit its type INT64",
        ):
            write(users({"a": "many"}, START))
        with pytest.raises(ValueError, match="no column 'n_words'"):
            write(users({"a": 1}, START, feature="n_word"))
        with pytest.raises(ValueError, match="has null instants"):
            write(users({"a": 1}, None))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="1 of 1 entity keys are null"):
            write(users({None: 1}, START))  # type: ignore[dict-item]
        assert online.contents() == before
        assert write(users({"a": 2}, START)) == 1


def test_sqlite_takes_back_a_batch_that_breaks_in_the_middle(sqlite_online: Online) -> None:
    sqlite_online.clear(VIEW)
    with sqlite3.connect(sqlite_online.config.online_store.path) as connection:
        connection.execute(
            "create trigger full before insert on bulk_activity when new.value_text = '13' "
            "begin select raise(abort, 'disk full'); end"
        )
    connection.close()
    with bulk_writer(sqlite_online.config, sqlite_online.store, VIEW) as write:
        with pytest.raises(sqlite3.IntegrityError, match="disk full"):
            write(users({"a": 1, "b": 13}, START))
        assert sqlite_online.contents() == [[]]
        assert write(users({"a": 2}, START)) == 1


def test_postgres_takes_back_a_batch_that_breaks_in_the_middle(postgres_online: Online) -> None:
    view = make_view({"title": ValueType.STRING})
    postgres_online.clear(view)
    with bulk_writer(postgres_online.config, postgres_online.store, view) as write:
        with pytest.raises(psycopg.DataError):
            write(users({"a": "fine", "b": "not \0 fine"}, START, feature="title"))
        assert postgres_online.contents() == [[]]
        assert write(users({"a": "fine"}, START, feature="title")) == 1


def test_redis_goes_on_after_an_error(redis_online: Online, redis_address: Address) -> None:
    redis_online.clear(VIEW)
    database = int(redis_online.config.online_store.connection_string.rpartition("=")[2])
    with (
        bulk_writer(redis_online.config, redis_online.store, VIEW) as write,
        redis.Redis(*redis_address, db=database) as client,
    ):
        write(users({"a": 1}, START))
        (key,) = client.keys()
        client.set(key, "not a hash")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            write(users({"a": 1}, START))
        client.delete(key)
        assert write(users({"a": 2}, START)) == 1
    assert redis_online.read(VIEW, "a", "n_words") == 2


# --- readers ---


def test_readers_go_on_while_sqlite_is_written(
    sqlite_online: Online, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite_online.clear(VIEW)
    sqlite_online.write(VIEW, users({"a": 1}, START))
    seen: list[Any] = []
    statement = bulk._sqlite_statement

    def read_meanwhile(*arguments: Any) -> str:
        seen.append(sqlite_online.read(VIEW, "a", "n_words"))
        with closing(sqlite3.connect(sqlite_online.config.online_store.path, timeout=0)) as reader:
            seen.append(reader.execute("select count(*) from bulk_activity").fetchone()[0])
        return statement(*arguments)

    monkeypatch.setattr(bulk, "_sqlite_statement", read_meanwhile)
    with bulk_writer(sqlite_online.config, sqlite_online.store, VIEW) as write:
        write(users({"a": 2, "b": 2}, START))
        write(users({"c": 3}, START))
    assert seen == [1, 1, 2, 2]


@pytest.mark.parametrize("is_held_open", [False, True])
def test_sqlite_keeps_its_journal(sqlite_online: Online, is_held_open: bool) -> None:  # noqa: FBT001
    sqlite_online.clear(VIEW)
    path = sqlite_online.config.online_store.path
    sqlite_online.store._conn.close()  # type: ignore[attr-defined]
    sqlite_online.store._conn = None  # type: ignore[attr-defined]
    with bulk_writer(sqlite_online.config, sqlite_online.store, VIEW) as write:
        write(users({"a": 1}, START))
        if is_held_open:
            assert sqlite_online.read(VIEW, "a", "n_words") == 1
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("pragma journal_mode").fetchone()[0] == (
            "wal" if is_held_open else "delete"
        )
    assert sqlite_online.read(VIEW, "a", "n_words") == 1


# --- stores without a fast path ---


class CountingOnlineStore(SqliteOnlineStore):
    """A store with a writer of its own."""

    written = 0

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: Sequence[Any], progress: Any
    ) -> None:
        self.written += len(data)
        super().online_write_batch(config, table, list(data), progress)


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "_told", set())


@pytest.mark.usefixtures("forgetful")
def test_a_store_with_its_own_writer_is_written_by_it_and_says_so_once(
    sqlite_online: Online, caplog: pytest.LogCaptureFixture
) -> None:
    own = CountingOnlineStore()
    online = Online(sqlite_online.config, own, sqlite_online.contents, sqlite_online.clear)
    online.clear(VIEW)
    with caplog.at_level(logging.WARNING):
        assert online.write(VIEW, users({"a": 1, "b": 1}, START)) == [2]
        assert online.write(
            VIEW, users({"a": 0, "b": 2}, START - HOUR), users({"b": 3, "c": 3}, START + HOUR)
        ) == [0, 2]
    assert own.written == 4
    assert [online.read(VIEW, user, "n_words") for user in "abc"] == [1, 3, 3]
    (said,) = caplog.messages
    assert said.startswith("CountingOnlineStore: written through Feast's own writer")


@pytest.mark.usefixtures("forgetful")
def test_options_that_change_the_layout_are_left_to_feast(
    sqlite_online: Online, caplog: pytest.LogCaptureFixture
) -> None:
    sqlite_online.config.online_store.enable_openai_compatible_store = True
    sqlite_online.clear(VIEW)
    assert sqlite_online.write(VIEW, users({"a": 7}, START)) == [1]
    assert [row[:5] for row in sqlite_online.contents()[0]] == [
        (*sqlite_online.contents()[0][0][:3], "7", 7.0)
    ]
    assert "enable_openai_compatible_store" in caplog.text


@pytest.mark.usefixtures("forgetful")
def test_a_redis_cluster_is_left_to_feast(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = repo_config(
        tmp_path, type="redis", redis_type="redis_cluster", connection_string="127.0.0.1:1"
    )
    with bulk_writer(config, get_online_store_from_config(config.online_store), VIEW):
        pass
    assert "a cluster needs a connection a slot" in caplog.text


def test_vectors_of_differing_widths_are_refused_as_feast_refuses_them(
    sqlite_online: Online,
) -> None:
    view = make_view({"n_words": ValueType.INT64})
    view.features = [
        Field(name="embedding", dtype=Array(Float32), vector_index=True, vector_length=2)
    ]
    sqlite_online.clear(view)
    with pytest.raises(ValueError, match="Vector length 3 does not match"):
        sqlite_online.write(view, users({"a": [1.0, 2.0, 3.0]}, START, feature="embedding"))
