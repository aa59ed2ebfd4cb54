"""However a row reaches an online store, its entity's newest row stays, as in plain Python."""

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pytest
from feast import (
    Entity,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    RepoConfig,
    ValueType,
)
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Int64, String
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.stores.bulk import bulk_writer
from feature_repo.stores.store import Store

KINDS = {
    "sqlite": "feature_repo.stores.online.SqliteOnlineStore",
    "redis": "feature_repo.stores.online_redis.RedisOnlineStore",
    "postgres": "feature_repo.stores.online_postgres.PostgresOnlineStore",
}
START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
FEATURES = ["count", "title"]
numbers = itertools.count()  # every example has entities of its own

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
source = FileSource(
    name="batch",
    path="batch.parquet",
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
)
activity = FeatureView(
    name="activity",
    entities=[user],
    schema=[
        Field(name="user_id", dtype=String),
        Field(name="count", dtype=Int64),
        Field(name="title", dtype=String),
    ],
    source=PushSource(name="pushed", batch_source=source),
)


class Row(NamedTuple):
    """One entity at one event, as it was known when it was created."""

    user: str
    event: datetime
    created: datetime
    count: int | None
    title: str | None


class Online(NamedTuple):
    """A store of ours, and what kind it is, in which layout."""

    kind: str
    layout: str
    store: FeatureStore

    def served(self, users: Sequence[str]) -> dict[str, tuple[int | None, str | None]]:
        rows = [{"user_id": name} for name in users]
        found = self.store.get_online_features(
            [f"activity:{feature}" for feature in FEATURES], rows
        ).to_dict()
        return {
            name: (found["count"][place], found["title"][place]) for place, name in enumerate(users)
        }


@pytest.fixture(scope="module", params=itertools.product(KINDS, ["compact", "feast"]), ids="-".join)
def online(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Online]:
    (kind, layout), folder = request.param, tmp_path_factory.mktemp("guarded")
    if kind == "sqlite":
        where = {"path": str(folder / "online.db")}
    else:
        address = request.getfixturevalue(f"{kind}_address")
        login = {
            "user": "postgres",
            "password": "",
            "database": "postgres",
            "db_schema": f"guarded_{layout}",
            "sslmode": "disable",
        }
        where = {"host": address.host, "port": address.port, **login}
        if kind == "redis":
            database = next(request.getfixturevalue("redis_databases"))
            where = {"connection_string": f"{address.host}:{address.port},db={database}"}
    store = open_store(folder, {"type": KINDS[kind], "layout": layout, **where})
    store.apply([user, activity])
    yield Online(kind, layout, store)
    if kind == "postgres":  # it does not end before its last connection
        store.provider.online_store._conn.close()


def open_store(folder: Path, online_store: dict[str, Any]) -> Store:
    config = RepoConfig(
        project="guarded",
        provider="local",
        registry={"path": str(folder / "registry.db"), "cache_ttl_seconds": 0},
        offline_store={"type": "dask"},
        online_store=online_store,
        entity_key_serialization_version=3,
    )
    return Store(config=config)


# --- the ways in ---


def table(rows: Sequence[Row]) -> pa.Table:
    names, events, created, counts, titles = zip(*rows, strict=True)
    instant = pa.timestamp("us", "UTC")
    columns = {
        "user_id": pa.array(names),
        "count": pa.array(counts, pa.int64()),
        "title": pa.array(titles, pa.string()),
    }
    return pa.table(
        {
            **columns,
            "event_timestamp": pa.array(events, instant),
            "created_timestamp": pa.array(created, instant),
        }
    )


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    return table(rows).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)


def materialize(online: Online, rows: Sequence[Row]) -> None:
    with bulk_writer(online.store.config, online.store.provider.online_store, activity) as write:
        write(table(rows).to_batches()[0])


def push(online: Online, rows: Sequence[Row]) -> None:
    online.store.push("pushed", frame(rows))


def push_awaited(online: Online, rows: Sequence[Row]) -> None:
    asyncio.run(online.store.push_async("pushed", frame(rows)))


def write_to_online_store(online: Online, rows: Sequence[Row]) -> None:
    online.store.write_to_online_store("activity", inputs=table(rows).to_pydict())


def online_write_batch(online: Online, rows: Sequence[Row]) -> None:
    data = [
        (
            EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=row.user)]),
            {
                "count": Value() if row.count is None else Value(int64_val=row.count),
                "title": Value() if row.title is None else Value(string_val=row.title),
            },
            row.event,
            row.created,
        )
        for row in rows
    ]
    online.store.provider.online_store.online_write_batch(online.store.config, activity, data, None)


ROUTES = [materialize, push, push_awaited, write_to_online_store, online_write_batch]
ROWS = st.builds(
    Row,
    user=st.sampled_from(["ann", "bob"]),
    event=st.integers(0, 3).map(lambda hours: START + hours * HOUR),
    created=st.integers(0, 2).map(lambda hours: START + hours * HOUR),
    count=st.none() | st.integers(-(2**63), 2**63 - 1),
    title=st.none() | st.sampled_from(["", "a", "b"]),
)
WRITES = st.lists(
    st.tuples(st.sampled_from(ROUTES), st.lists(ROWS, min_size=1, max_size=3)),
    min_size=1,
    max_size=6,
)


def newest(writes: Sequence[tuple[Any, Sequence[Row]]], *, is_created_kept: bool) -> dict[str, Row]:
    """What must be served.

    The last event, of equal ones the last created, of these the last written.

    Feast's layout in Redis keeps no time of creation, so between two writes of the same event the
    last one stays.
    """
    stored: dict[str, Row] = {}
    for _, rows in writes:
        of_write: dict[str, Row] = {}
        for row in rows:
            known = of_write.get(row.user)
            if known is None or known[1:3] <= row[1:3]:
                of_write[row.user] = row
        for name, row in of_write.items():
            known = stored.get(name)
            last = 3 if is_created_kept else 2
            if known is None or known[1:last] <= row[1:last]:
                stored[name] = row
    return stored


@settings(max_examples=30)
@given(writes=WRITES)
def test_the_newest_row_is_served_whatever_way_and_order_rows_come(
    online: Online, writes: list[tuple[Any, list[Row]]]
) -> None:
    example = next(numbers)
    own = [
        (route, [row._replace(user=f"{row.user} {example}") for row in rows])
        for route, rows in writes
    ]
    for route, rows in own:
        route(online, rows)
    is_created_kept = (online.kind, online.layout) != ("redis", "feast")
    served = newest(own, is_created_kept=is_created_kept)
    expected = {name: (row.count, row.title) for name, row in served.items()}
    names = [f"{name} {example}" for name in ("ann", "bob", "nobody")]
    assert online.served(names) == {**dict.fromkeys(names, (None, None)), **expected}


@pytest.mark.parametrize("route", ROUTES)
def test_row_of_nulls_takes_the_place_of_what_was_there(online: Online, route: Any) -> None:
    name = f"deleted by {route.__name__}"
    materialize(online, [Row(name, START, START, 7, "x")])
    route(online, [Row(name, START + HOUR, START, None, None)])
    assert online.served([name]) == {name: (None, None)}


@pytest.mark.parametrize("route", ROUTES)
def test_older_row_does_not_overwrite_and_no_row_without_a_key_or_an_instant_is_written(
    online: Online, route: Any
) -> None:
    name = f"kept by {route.__name__}"
    route(online, [Row(name, START + HOUR, START, 7, "new")])
    route(online, [Row(name, START, START + HOUR, 1, "old")])
    with pytest.raises(ValueError, match="null"):
        route(
            online, [Row(name, START + 2 * HOUR, START, 2, "half"), Row(None, START, START, 1, "x")]
        )  # type: ignore[arg-type]
    if route is not online_write_batch:
        with pytest.raises(ValueError, match="null"):
            route(online, [Row(name, None, START, 3, "x")])  # type: ignore[arg-type]
    assert online.served([name]) == {name: (7, "new")}
