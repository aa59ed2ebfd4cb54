"""Views that stay online for a time: what is served, and that the rest leaves the store's bytes."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pyarrow as pa
import pytest
import redis
from deltalake import write_deltalake
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.data_format import DeltaFormat
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import String
from hypothesis import example, given, settings
from hypothesis import strategies as st

from feature_repo.stores import clock, columnar
from feature_repo.stores.bulk import bulk_writer
from feature_repo.stores.deletion import delete_entities
from feature_repo.stores.expiry import ONLINE_SECONDS, WindowError

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, STAY = timedelta(hours=1), timedelta(hours=5)
OUR = "feature_repo.stores"
EVENT, CREATED = "event_timestamp", "created_timestamp"
NAMES = ["ann", "bob", "cid"]
numbers = itertools.count()
user = Entity(name="user", join_keys=["user"], value_type=ValueType.STRING)


class KilledError(Exception):
    pass


class Row(NamedTuple):
    """A row of the source: of whom, and the hours of its event and of its creation."""

    user: str
    event: int
    created: int

    @property
    def text(self) -> str:
        """A value that is found in bytes, and is like no other."""
        return f"<{self.user} of {self.event:+05} and {self.created:+05}>"


class Step(NamedTuple):
    """What arrives, how many hours later, and after how many chunks a first run is killed."""

    events: list[tuple[str, int]]
    hours: int
    killed_after: int | None


STEPS = st.lists(
    st.builds(
        Step,
        st.lists(st.tuples(st.sampled_from(NAMES), st.integers(-9, 3)), max_size=4),
        st.integers(0, 8),
        st.none() | st.integers(0, 2),
    ),
    min_size=1,
    max_size=5,
)


def define(folder: Path, stay: timedelta | None = STAY) -> FeatureView:
    source = FileSource(
        name="notes",
        path=str(folder / "source"),
        file_format=DeltaFormat(),
        timestamp_field=EVENT,
        created_timestamp_column=CREATED,
    )
    return FeatureView(
        name="notes",
        entities=[user],
        ttl=timedelta(0),
        schema=[Field(name="user", dtype=String), Field(name="text", dtype=String)],
        source=source,
        tags={ONLINE_SECONDS: str(int(stay.total_seconds()))} if stay else {},
    )


class Home:
    """A view over a growing source, and a store in which it stays for some hours."""

    def __init__(self, folder: Path, place: Mapping[str, Any]) -> None:
        self.folder = folder / str(next(numbers))
        self.project = f"expiry{self.folder.name}"
        if "db_schema" not in place and "connection_string" not in place:
            place = {**place, "path": str(self.folder / "online.db")}
        self.append([])
        config = RepoConfig(
            project=self.project,
            provider="local",
            registry={"path": str(self.folder / "registry.db"), "cache_ttl_seconds": 0},
            offline_store={
                "type": f"{OUR}.asof.AsofOfflineStore",
                "warehouse": str(self.folder / "home"),
            },
            online_store=dict(place),
            batch_engine={"type": f"{OUR}.columnar.ColumnarComputeEngine", "chunk_rows": 1},
            entity_key_serialization_version=3,
            repo_path=self.folder,
        )
        self.store = FeatureStore(config=config)
        self.store.apply([user, define(self.folder)])

    def append(self, rows: list[Row]) -> None:
        instants = pa.timestamp("us", "UTC")
        columns = {
            "user": pa.array([row.user for row in rows], pa.string()),
            "text": pa.array([row.text for row in rows], pa.string()),
            EVENT: pa.array([START + row.event * HOUR for row in rows], instants),
            CREATED: pa.array([START + row.created * HOUR for row in rows], instants),
        }
        write_deltalake(str(self.folder / "source"), pa.table(columns), mode="append")

    def materialize(self, hour: int) -> None:
        self.store.materialize_incremental(START + hour * HOUR)

    def served(self, now: datetime) -> list[tuple[str | None, int]]:
        """Each user's value and its status, as answered at an instant."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(clock, "now", lambda: now)
            response = self.store.get_online_features(
                ["notes:text"], [{"user": name} for name in NAMES]
            )
        values = response.to_dict()["text"]
        (statuses,) = [
            vector.statuses
            for name, vector in zip(
                response.proto.metadata.feature_names.val, response.proto.results, strict=True
            )
            if name == "text"
        ]
        return list(zip(values, statuses, strict=True))

    def content(self) -> bytes:
        """All bytes that the store has."""
        settings_of = self.store.config.online_store
        if hasattr(settings_of, "path"):
            return b"".join(path.read_bytes() for path in sorted(self.folder.glob("online.db*")))
        if hasattr(settings_of, "connection_string"):
            with closing(connected(settings_of)) as client:
                return b"".join(
                    content(client, key) for key in client.scan_iter(f"*{self.project}*")
                )
        place = {"host": settings_of.host, "port": settings_of.port, "user": "postgres"}
        with psycopg.connect(**place, dbname="postgres", sslmode="disable") as connection:
            table = f'"{settings_of.db_schema}"."{self.project}_notes.compact"'
            rows = connection.execute(f"select entity_key || value from {table}").fetchall()
            return b"".join(row for (row,) in rows)


def connected(settings_of: Any) -> Any:
    address, database = settings_of.connection_string.split(",db=")
    host, port = address.split(":")
    return redis.Redis(host, int(port), int(database))


def content(client: Any, key: bytes) -> bytes:
    if client.type(key) == b"hash":
        return key + b"".join(itertools.chain(*client.hgetall(key).items()))
    return key + b"".join(client.zrange(key, 0, -1))


@pytest.fixture(scope="module", params=["sqlite", "redis", "postgres"])
def place(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings of a real store of each kind."""
    if request.param == "sqlite":
        return {"type": f"{OUR}.online.SqliteOnlineStore"}
    address = request.getfixturevalue(f"{request.param}_address")
    if request.param == "redis":
        database = next(request.getfixturevalue("redis_databases"))
        at = f"{address.host}:{address.port},db={database}"
        return {"type": f"{OUR}.online_redis.RedisOnlineStore", "connection_string": at}
    login = {"user": "postgres", "password": "", "database": "postgres", "sslmode": "disable"}
    return {
        "type": f"{OUR}.online_postgres.PostgresOnlineStore",
        "host": address.host,
        "port": address.port,
        "db_schema": "expiry",
        **login,
    }


@contextmanager
def opened(folder: Path, place: Mapping[str, Any]) -> Iterator[Home]:
    home = Home(folder, place)
    try:
        yield home
    finally:
        connection = getattr(home.store.provider.online_store, "_conn", None)
        if connection is not None:  # the server does not end before its last connection
            connection.close()


def dying_after(chunks: int) -> Callable[..., Any]:
    """A writer that fails after some chunks."""
    written = itertools.count()

    @contextmanager
    def open_writer(*arguments: Any) -> Iterator[Callable[[pa.RecordBatch], int]]:
        with bulk_writer(*arguments) as write:

            def write_or_die(rows: pa.RecordBatch) -> int:
                if next(written) >= chunks:
                    raise KilledError
                return write(rows)

            yield write_or_die

    return open_writer


def newest(rows: list[Row], name: str, hour: int) -> Row | None:
    """The row that holds for a user at an hour, however old it is."""
    known = [row for row in rows if row.user == name and row.event <= hour]
    return max(known, key=lambda row: (row.event, row.created), default=None)


def is_held(row: Row, hour: int) -> bool:
    return (hour - row.event) * HOUR <= STAY


def served(rows: list[Row], name: str, hour: int, at: int) -> tuple[str | None, int]:
    """What is served of a user at an hour, as of a run at another."""
    row = newest(rows, name, at)
    if row is None or not any(row.user == name and is_held(row, hour) for row in rows):
        return None, FieldStatus.NOT_FOUND
    if not is_held(row, at):
        return None, FieldStatus.OUTSIDE_MAX_AGE
    return row.text, FieldStatus.PRESENT


@settings(max_examples=10)
@given(steps=STEPS, later=st.integers(0, 6))
# a row that is too old before one to come, at a first run and at a later one
@example(steps=[Step([("ann", -6), ("ann", 3)], 0, None)], later=3)
@example(steps=[Step([("ann", -4), ("ann", 3)], 0, None), Step([], 2, None)], later=1)
def test_what_is_within_the_time_is_served_and_the_rest_leaves_the_bytes(
    place: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[Step],
    later: int,
) -> None:
    rows: list[Row] = []
    hour = 0
    with opened(tmp_path_factory.mktemp("expiry"), place) as home:
        for created, (events, hours, killed_after) in enumerate(steps):
            hour += hours
            arrived = [Row(name, hour + event, created) for name, event in dict.fromkeys(events)]
            rows += arrived
            home.append(arrived)
            if killed_after is not None:
                with pytest.MonkeyPatch.context() as patch, suppress(KilledError):
                    patch.setattr(columnar, "bulk_writer", dying_after(killed_after))
                    home.materialize(hour)
            home.materialize(hour)
            found = home.content()
            past = [row for row in rows if row.event <= hour and not is_held(row, hour)]
            assert [row for row in past if row.text.encode() in found] == []
            for at in (hour, hour + later):
                expected = [served(rows, name, hour, at) for name in NAMES]
                assert home.served(START + at * HOUR) == expected


def test_a_view_that_once_stayed_for_ever_loses_what_is_too_old(
    place: dict[str, Any], tmp_path: Path
) -> None:
    with opened(tmp_path, place) as home:
        old, fresh = Row("ann", 0, 0), Row("bob", 8, 0)
        home.append([old, fresh])
        home.store.apply(define(home.folder, stay=None))
        home.materialize(9)
        assert all(row.text.encode() in home.content() for row in (old, fresh))
        home.store.apply(define(home.folder))
        home.materialize(9)
        found = home.content()
        assert (old.text.encode() in found, fresh.text.encode() in found) == (False, True)


def test_what_is_deleted_by_its_key_leaves_nothing(place: dict[str, Any], tmp_path: Path) -> None:
    with opened(tmp_path, place) as home:
        home.append([Row("ann", 9, 0), Row("bob", 9, 0)])
        home.materialize(9)
        view, store = home.store.get_feature_view("notes"), home.store.provider.online_store
        delete_entities(home.store.config, store, view, [{"user": "ann"}])
        found = home.content()
        assert (b"ann" in found, b"bob" in found) == (False, True)


def test_a_pushed_value_stays_as_long_as_any_other(place: dict[str, Any], tmp_path: Path) -> None:
    with opened(tmp_path, place) as home:
        home.append([Row("ann", 0, 0)])
        home.materialize(0)
        key = EntityKey(join_keys=["user"], entity_values=[Value(string_val="ann")])
        text = {"text": Value(string_val="<pushed>")}
        view, store = home.store.get_feature_view("notes"), home.store.provider.online_store
        store.online_write_batch(home.store.config, view, [(key, text, START + HOUR, None)], None)
        home.materialize(6)
        at_last = b"<pushed>" in home.content()
        home.materialize(7)
        assert (at_last, b"<pushed>" in home.content()) == (True, False)


def test_a_run_after_the_last_written_value_left_writes_nothing_again(
    place: dict[str, Any], tmp_path: Path
) -> None:
    with opened(tmp_path, place) as home:
        home.append([Row("ann", 3, 0), Row("bob", 0, 0)])
        home.materialize(3)
        written: list[int] = []
        with columnar.reporting(lambda _view, entities, _total: written.append(entities)):
            home.materialize(6)
        assert written == []
        found = home.content()
        assert (b"<ann" in found, b"<bob" in found) == (True, False)


def test_values_of_other_views_stay(place: dict[str, Any], tmp_path: Path) -> None:
    with opened(tmp_path, place) as home:
        source = define(home.folder).batch_source
        schema = [Field(name="user", dtype=String), Field(name="text", dtype=String)]
        home.store.apply(FeatureView(name="kept", entities=[user], schema=schema, source=source))
        home.append([Row("ann", 0, 0)])
        home.materialize(0)
        home.materialize(9)
        asked = ["kept:text", "notes:text"]
        found = home.store.get_online_features(asked, [{"user": "ann"}], full_feature_names=True)
        assert found.to_dict() == {
            "user": ["ann"],
            "kept__text": [Row("ann", 0, 0).text],
            "notes__text": [None],
        }


@pytest.mark.parametrize("kind", [f"{OUR}.online.SqliteOnlineStore", "sqlite"])
def test_a_store_that_cannot_delete_is_refused_with_what_to_do(tmp_path: Path, kind: str) -> None:
    layout = {"layout": "feast"} if kind != "sqlite" else {}
    home = Home(tmp_path, {"type": kind, **layout})
    home.append([Row("ann", 0, 0)])
    with pytest.raises(WindowError, match=r"view notes stays online for 5:00:00 .*layout: compact"):
        home.materialize(1)
