"""Materialization by column fills an empty store as Feast does, then writes only what changed."""

import itertools
import logging
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from deltalake import DeltaTable, write_deltalake
from feast import (
    BatchFeatureView,
    Entity,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    RepoConfig,
    StreamFeatureView,
    ValueType,
)
from feast.data_format import DeltaFormat, ParquetFormat
from feast.infra.common.materialization_job import MaterializationTask
from feast.infra.key_encoding_utils import deserialize_entity_key
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Int64, Json, String
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from feature_repo.done import Done, done_path, read_done, write_done
from feature_repo.online import due_views
from feature_repo.online import materialize as bring_up_to_date
from feature_repo.stores import columnar
from feature_repo.stores.bulk import bulk_writer
from feature_repo.stores.columnar import Materialization, reporting
from transforms.warehouse.tables import Warehouse

EPOCH, DAY = datetime(1970, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)
EVENT, CREATED = "event_timestamp", "created_timestamp"
ENGINE = "feature_repo.stores.columnar.ColumnarComputeEngine"
Row = tuple[str | None, int, int]  # user, event hour, created hour
Online = dict[str, dict[str, Any]]
# a chunk is two of these
MANY: list[Row] = [(name, hour, hour) for hour, name in enumerate("abcdefg")]
VALUES = {name: 101 * hour for hour, name in enumerate("abcdefg")}

user = Entity(name="user", join_keys=["user"], value_type=ValueType.STRING)
item = Entity(name="item", join_keys=["item"], value_type=ValueType.INT64)
FIELDS = [Field(name="user", dtype=String), Field(name="value", dtype=Int64)]


class KilledError(Exception):
    pass


def at(hour: int) -> datetime:
    return DAY + timedelta(hours=hour)


def table(*rows: Row, zone: str | None = "UTC") -> pa.Table:
    """Rows whose value names their event and created hour."""
    hours = [
        pa.array(
            [at(row[place]).replace(tzinfo=zone and UTC) for row in rows], pa.timestamp("us", zone)
        )
        for place in (1, 2)
    ]
    users, values = (
        pa.array([row[0] for row in rows], pa.string()),
        pa.array([100 * row[1] + row[2] for row in rows], pa.int64()),
    )
    return pa.table({"user": users, "value": values, EVENT: hours[0], CREATED: hours[1]})


def open_store(folder: Path, *objects: Any, **changes: Any) -> FeatureStore:
    """Open a folder's store, with the objects applied."""
    options = {
        "project": "tables",
        "provider": "local",
        "registry": str(folder / "registry.db"),
        "offline_store": {
            "type": "feature_repo.stores.asof.AsofOfflineStore",
            "warehouse": str(folder / "home"),
        },
        "online_store": {"type": "sqlite", "path": str(folder / "online.db")},
        "batch_engine": {"type": ENGINE, "chunk_rows": 2},
        "entity_key_serialization_version": 3,
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(options), "utf-8")
    store = FeatureStore(config=RepoConfig(**options, repo_path=folder))
    if objects:
        store.apply(list(objects))
    return store


def stored(folder: Path, view: str) -> dict[tuple[Any, ...], int]:
    """Read the value of every entity in a folder's SQLite store."""
    with closing(sqlite3.connect(folder / "online.db")) as connection:
        rows = connection.execute(
            f"select entity_key, value from tables_{view} where feature_name = 'value'"
        ).fetchall()
    keys = [
        deserialize_entity_key(key, entity_key_serialization_version=3).entity_values
        for key, _ in rows
    ]
    names = [tuple(getattr(value, value.WhichOneof("val")) for value in key) for key in keys]
    return dict(zip(names, [Value.FromString(value).int64_val for _, value in rows], strict=True))


def entities_written(run: Callable[[], Any]) -> int:
    chunks: list[int] = []
    with reporting(lambda _view, entities, _total: chunks.append(entities)):
        run()
    return sum(chunks)


def failing_after(chunks: int) -> Callable[..., Any]:
    written = itertools.count()

    @contextmanager
    def open_writer(*arguments: Any) -> Iterator[Callable[[pa.RecordBatch], int]]:
        with bulk_writer(*arguments) as write:

            def write_or_fail(rows: pa.RecordBatch) -> int:
                if next(written) >= chunks:
                    raise KilledError
                return write(rows)

            yield write_or_fail

    return open_writer


class Home:
    """A view `stats` over a growing source, and the store that serves it."""

    def __init__(
        self,
        folder: Path,
        *rows: Row,
        layout: str = "delta",
        ttl: timedelta | None = None,
        **changes: Any,
    ) -> None:
        self.folder, self.layout, self.source, self.changes, self.files = (
            folder,
            layout,
            folder / "source",
            changes,
            itertools.count(),
        )
        self.append(*rows)
        self.view = self.define(ttl=ttl)
        self.store = open_store(folder, user, self.view, **changes)

    def define(self, *extra: Field, ttl: timedelta | None = None) -> FeatureView:
        layout = DeltaFormat() if self.layout == "delta" else ParquetFormat()
        times = {"timestamp_field": EVENT, "created_timestamp_column": CREATED}
        source = FileSource(name="stats_source", path=str(self.source), file_format=layout, **times)
        return FeatureView(
            name="stats", entities=[user], ttl=ttl, schema=[*FIELDS, *extra], source=source
        )

    def append(self, *rows: Row) -> None:
        if self.layout == "delta":
            write_deltalake(str(self.source), table(*rows), mode="append")
        else:
            self.source.mkdir(parents=True, exist_ok=True)
            pq.write_table(table(*rows), self.source / f"{next(self.files)}.parquet")

    def reopen(self, **changes: Any) -> None:
        self.store = open_store(self.folder, **{**self.changes, **changes})

    def span(self, start: int | None, end: int) -> int:
        return entities_written(
            lambda: self.store.materialize(EPOCH if start is None else at(start), at(end))
        )

    def first(self, end: int) -> int:
        return self.span(None, end)

    def increment(self, end: int) -> int:
        return entities_written(lambda: self.store.materialize_incremental(at(end)))

    def killed(self, chunks: int, run: Callable[[int], Any], *arguments: Any) -> bool:
        """Run with a writer that fails after some chunks; whether it came so far."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(columnar, "bulk_writer", failing_after(chunks))
            try:
                run(*arguments)
            except KilledError:
                return True
        return False

    def online(self) -> dict[str, int]:
        return {key: value for (key,), value in stored(self.folder, "stats").items()}

    def served(self, *users: str) -> list[int | None]:
        response = self.store.get_online_features(
            ["stats:value"], [{"user": name} for name in users]
        )
        return list(response.to_dict()["value"])

    def wipe(self) -> None:
        with closing(sqlite3.connect(self.folder / "online.db")) as connection, connection:
            connection.execute("delete from tables_stats")

    def compact(self) -> None:
        """Rewrite a Delta table into one file and remove the files that it was made of."""
        if self.layout == "delta":
            DeltaTable(str(self.source)).optimize.compact()
            DeltaTable(str(self.source)).vacuum(0, dry_run=False, enforce_retention_duration=False)

    def done(self) -> Done | None:
        return read_done(done_path(self.folder / "home", "tables", "stats"))


@pytest.fixture
def make_home(tmp_path: Path) -> Callable[..., Home]:
    numbers = itertools.count()
    return lambda *rows, **options: Home(tmp_path / f"home{next(numbers)}", *rows, **options)


# --- an empty store ---

TIES: list[Row] = [
    ("a", 1, 1),
    ("a", 2, 2),
    ("a", 2, 3),
    ("a", 2, 1),
    ("b", 5, 5),
    ("b", 6, 6),
    ("c", 0, 0),
    ("d", 9, 9),
    ("e", 1, 9),
]
HISTORY = table(*TIES)
PAIRS = HISTORY.append_column("item", pa.array([1, 2, 1, 1, 1, 2, 1, 1, 1], pa.int64()))
CASES: dict[str, tuple[pa.Table, tuple[str, ...], dict[str, str]]] = {
    "one key": (HISTORY, ("user",), {}),
    "two keys": (PAIRS, ("user", "item"), {}),
    "no key": (HISTORY.drop_columns("user"), (), {}),
    "naive": (table(("a", 1, 1), ("a", 2, 3), ("b", 6, 6), zone=None), ("user",), {}),
    "no created": (HISTORY.slice(4).drop_columns(CREATED), ("user",), {}),
    "mapped": (
        HISTORY.rename_columns(["the_user", "raw value", EVENT, CREATED]),
        ("user",),
        {"the_user": "user", "raw value": "value"},
    ),
    "mapped times": (
        HISTORY.slice(3).rename_columns(["user", "value", "seen", "known"]),
        ("user",),
        {"seen": EVENT, "known": CREATED},
    ),
    "names of our own": (
        PAIRS.rename_columns(["user", "instant", EVENT, CREATED, "has_arrived"]),
        ("user",),
        {},
    ),
}


def both_engines(
    folder: Path, view: FeatureView, online: Online | None = None
) -> tuple[FeatureStore, FeatureStore]:
    """Open Feast's own engine over its own offline store, and ours, with a store each."""
    changes = {kind: {"online_store": settings} for kind, settings in (online or {}).items()}
    stock = {
        "offline_store": {"type": "dask"},
        "batch_engine": {"type": "local"},
        **changes.get("stock", {}),
    }
    return open_store(folder / "stock", user, item, view, **stock), open_store(
        folder / "ours", user, item, view, **changes.get("ours", {})
    )


def dump(folder: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "online.db")) as connection:
        return connection.execute(
            "select * from tables_history order by entity_key, feature_name"
        ).fetchall()


@pytest.mark.parametrize("case", list(CASES))
def test_empty_store_gets_what_feast_writes(
    tmp_path: Path, write_view: Callable[..., FeatureView], case: str
) -> None:
    rows, keys, mapping = CASES[case]
    view = write_view("history", rows, keys, layout="file", mapping=mapping)
    for store in both_engines(tmp_path, view):
        store.materialize(at(1), at(6))
    assert dump(tmp_path / "ours") == dump(tmp_path / "stock") != []


@pytest.mark.parametrize(("ttl", "expected"), [(10, 2), (0, 3)])
def test_first_increment_starts_where_feast_starts(
    tmp_path: Path, write_view: Callable[..., FeatureView], ttl: int, expected: int
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    instants = pa.array(
        [now - timedelta(days=days) for days in (1, 9, 11, 400)], pa.timestamp("us", "UTC")
    )
    view = write_view(
        "history",
        pa.table({"user": list("abcd"), "value": range(4), EVENT: instants}),
        layout="file",
        ttl=timedelta(days=ttl),
    )
    for store in both_engines(tmp_path, view):
        store.materialize_incremental(now)
    assert dump(tmp_path / "ours") == dump(tmp_path / "stock")
    assert len(dump(tmp_path / "ours")) == expected


def test_redis_gets_what_feast_writes(
    tmp_path: Path,
    write_view: Callable[..., FeatureView],
    redis_address: Any,
    redis_databases: Iterator[int],
) -> None:
    from redis import Redis

    place = f"{redis_address.host}:{redis_address.port},db="
    databases = {"stock": next(redis_databases), "ours": next(redis_databases)}
    online: Online = {
        kind: {"type": "redis", "connection_string": f"{place}{number}"}
        for kind, number in databases.items()
    }
    for store in both_engines(
        tmp_path, write_view("history", PAIRS, ("user", "item"), layout="file"), online
    ):
        store.materialize(at(1), at(6))
    hashes = []
    for number in databases.values():
        with closing(Redis(redis_address.host, redis_address.port, number)) as client:
            hashes.append({key: client.hgetall(key) for key in client.scan_iter()})
    assert hashes[0] == hashes[1] != {}


def test_postgres_gets_what_feast_writes(
    tmp_path: Path, write_view: Callable[..., FeatureView], postgres_address: Any
) -> None:
    from psycopg import connect

    login = {
        "host": postgres_address.host,
        "port": postgres_address.port,
        "user": "postgres",
        "password": "",
        "sslmode": "disable",
    }
    online: Online = {
        kind: {"type": "postgres", "database": "postgres", "db_schema": kind, **login}
        for kind in ("stock", "ours")
    }
    for store in both_engines(
        tmp_path, write_view("history", PAIRS, ("user", "item"), layout="file"), online
    ):
        store.materialize(at(1), at(6))
        # the server does not stop before its last connection is closed
        store.provider.online_store._conn.close()
    with connect(dbname="postgres", **login) as connection:
        tables = [
            connection.execute(f"table {kind}.tables_history order by 1, 2").fetchall()
            for kind in online
        ]
    assert tables[0] == tables[1] != []


# --- increments ---

NEVER = (-1, -1, -1)
ROWS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(0, 20), st.integers(0, 3)), max_size=6
)
FORWARD, BACK = (
    st.tuples(st.just("increment"), st.integers(0, 8)),
    st.tuples(st.just("increment"), st.integers(-8, 8)),
)
SPAN = st.tuples(st.just("span"), st.none() | st.integers(0, 25), st.integers(0, 25)).filter(
    lambda step: (step[1] or 0) <= step[2]
)
APPEND = st.tuples(st.just("append"), ROWS)
KILLED = st.tuples(st.just("killed"), st.integers(0, 2), st.integers(-3, 8))
ANEW = st.sampled_from([("wipe",), ("compact",), ("chunks_of", 1), ("chunks_of", 3)])
LAYOUTS = st.sampled_from(["delta", "folder"])


class Model:
    """What ought to be online, computed row by row."""

    def __init__(self, *rows: Row) -> None:
        self.rows: list[tuple[str | None, tuple[int, int, int]]] = []
        self.online: dict[str | None, tuple[int, int, int]] = {}
        self.known: dict[str | None, tuple[int, int, int]] = {}
        self.arrivals = itertools.count()
        self.append(*rows)

    def append(self, *rows: Row) -> None:
        arrival = next(self.arrivals)
        self.rows += [(name, (event, created, arrival)) for name, event, created in rows]

    def span(self, start: int | None, end: int) -> dict[str | None, tuple[int, int, int]]:
        newest: dict[str | None, tuple[int, int, int]] = {}
        for name, row in self.rows:
            if (start or 0) <= row[0] <= end:
                newest[name] = max(newest.get(name, NEVER), row)
        self.online |= {
            name: max(self.online.get(name, NEVER), row) for name, row in newest.items()
        }
        return newest

    def increment(self, end: int) -> int:
        """Write, and return how many entities have a new newest row."""
        before, self.known = self.known, self.span(None, end)
        return sum(before.get(name) != row for name, row in self.known.items())

    def values(self) -> dict[str | None, int]:
        return {name: 100 * event + created for name, (event, created, _) in self.online.items()}


@given(ROWS, st.integers(0, 10), st.lists(FORWARD | SPAN | APPEND, max_size=8), LAYOUTS)
@settings(max_examples=20)
def test_increment_writes_exactly_what_changed(
    make_home: Callable[..., Home], rows: list[Row], end: int, steps: list[Any], layout: str
) -> None:
    home, model, asked = make_home(*rows, layout=layout), Model(*rows), False
    assert home.first(end) == model.increment(end)
    for kind, *step in steps:
        if kind == "span" and step[0] == end:
            continue  # to Feast this is an increment
        if kind == "append":
            home.append(*step[0])
            model.append(*step[0])
        elif kind == "span":
            assert home.span(*step) == len(model.span(*step))
            asked, end = True, max(end, step[1])
        else:
            end += step[0]
            written, changed = home.increment(end), model.increment(end)
            # what was asked for in between need not be written again
            assert written == changed or (asked and written < changed)
            asked = False
        assert home.online() == model.values()


@given(
    ROWS, st.integers(0, 10), st.lists(BACK | KILLED | SPAN | APPEND | ANEW, max_size=8), LAYOUTS
)
# a row between two ends, the later first
@example([("a", 1, 0)], 20, [("append", [("b", 15, 0)]), ("increment", -8)], "delta")
# a span is not all that is missing
@example([("a", 1, 1), ("b", 2, 2), ("c", 6, 6)], 9, [("wipe",), ("span", 4, 9)], "delta")
# a rerun that is killed, then a span
@example([*TIES], 9, [("append", [("f", 0, 0)]), ("span", None, 9), ("span", 4, 9)], "folder")
# what the killed run read is deleted
@example([*TIES], 0, [("append", [("f", 0, 0)]), ("killed", 1, 9), ("compact",)], "delta")
@settings(max_examples=20)
def test_whatever_happened_the_next_increment_catches_up(
    make_home: Callable[..., Home], rows: list[Row], end: int, steps: list[Any], layout: str
) -> None:
    home, everything = make_home(*rows, layout=layout), [*rows]
    home.first(end)
    for kind, *step in steps:
        if kind == "append":
            home.append(*step[0])
            everything += step[0]
        elif kind == "increment":
            home.increment(end + step[0])
        elif kind == "killed":
            home.killed(step[0], home.increment, end + step[1])
        elif kind == "span":
            home.killed(1, home.span, *step)
        elif kind == "chunks_of":
            home.reopen(batch_engine={"type": ENGINE, "chunk_rows": step[0]})
        else:
            getattr(home, kind)()
    home.increment(99)
    model = Model(*everything)
    model.increment(99)
    assert (home.online(), home.increment(99)) == (model.values(), 0)


def test_increment_goes_by_arrival_and_by_instants_passed(make_home: Callable[..., Home]) -> None:
    home = make_home(("a", 1, 1), ("b", 5, 1), ("c", 9, 1))
    assert home.first(5) == 2
    home.append(("d", 0, 1), ("a", 0, 9), ("b", 5, 2))  # late; late and not the newest; corrected
    assert home.increment(6) == 2
    assert home.increment(9) == 1  # c's instant has passed
    assert home.online() == {"a": 101, "b": 502, "c": 901, "d": 1}


def test_of_rows_of_one_instant_the_last_to_arrive_counts(
    tmp_path: Path, define_view: Callable[..., FeatureView]
) -> None:
    rows, source = table(("a", 5, 5)).drop_columns(CREATED), str(tmp_path / "rows")
    write_deltalake(source, rows)
    store = open_store(
        tmp_path, user, define_view("plain", source, rows.schema, file_format=DeltaFormat())
    )
    store.materialize(EPOCH, at(6))
    for value in (9, 1):
        write_deltalake(source, rows.set_column(1, "value", [[value]]), mode="append")
        store.materialize_incremental(at(6))
        assert stored(tmp_path, "plain") == {("a",): value}


@pytest.mark.parametrize("keys", [("user", "item"), ()])
def test_row_of_two_keys_or_of_none_arrives_late(
    tmp_path: Path, define_view: Callable[..., FeatureView], keys: tuple[str, ...]
) -> None:
    rows, source = PAIRS if keys else HISTORY.drop_columns("user"), str(tmp_path / "rows")
    write_deltalake(source, rows)
    store = open_store(
        tmp_path,
        user,
        item,
        define_view("history", source, rows.schema, keys, file_format=DeltaFormat()),
    )
    store.materialize(EPOCH, at(20))
    before = stored(tmp_path, "history")
    corrected = rows.slice(7, 1).set_column(rows.column_names.index("value"), "value", [[7]])
    write_deltalake(source, corrected, mode="append")
    assert entities_written(lambda: store.materialize_incremental(at(21))) == 1
    assert stored(tmp_path, "history") == {
        key: 7 if value == 909 else value for key, value in before.items()
    }


def test_older_span_changes_nothing(make_home: Callable[..., Home]) -> None:
    home = make_home(("a", 1, 1), ("b", 2, 2), ("a", 6, 1))
    home.span(4, 9)
    home.first(3)
    assert home.online() == {"a": 601, "b": 202}


def test_null_keys_are_left_out(make_home: Callable[..., Home]) -> None:
    home = make_home((None, 1, 1), ("a", 1, 1), ("", 2, 2))
    assert home.first(9) == 2
    home.append((None, 2, 2))
    assert (home.increment(10), home.online()) == (0, {"a": 101, "": 202})


def test_view_without_rows_is_served_from_its_first_row_on(make_home: Callable[..., Home]) -> None:
    home = make_home()
    assert (home.first(9), home.increment(10)) == (0, 0)
    home.append(("a", 3, 3))
    assert (home.increment(10), home.online()) == (1, {"a": 303})


def test_nothing_to_do_leaves_the_database_as_it_is(make_home: Callable[..., Home]) -> None:
    home = make_home(*MANY)
    home.first(9)
    before = (home.folder / "online.db").read_bytes()
    assert home.increment(10) == 0
    assert (home.folder / "online.db").read_bytes() == before


# --- runs that end early ---


@given(st.integers(1, 3), ROWS, st.sampled_from([2, 1, 3]))
@example(2, [("a", 0, 0)], 4)
@settings(max_examples=10)
def test_killed_run_goes_on_after_its_last_whole_chunk(
    make_home: Callable[..., Home], chunks: int, rows: list[Row], chunk_rows: int
) -> None:
    home, model = make_home(("old", 1, 1)), Model(("old", 1, 1))
    assert home.first(2) == model.increment(2)
    home.append(*MANY)
    model.append(*MANY)
    assert home.killed(chunks, home.increment, 8)
    left = model.increment(8) - 2 * chunks
    home.append(*rows)
    model.append(*rows)
    home.reopen(batch_engine={"type": ENGINE, "chunk_rows": chunk_rows})
    assert home.increment(30) == left + model.increment(30)
    assert (home.online(), home.increment(30)) == (model.values(), 0)


@pytest.mark.parametrize(("layout", "again"), [("delta", 3), ("folder", 7)])
def test_first_run_killed_continues_over_delta_and_restarts_over_parquet(
    make_home: Callable[..., Home], layout: str, again: int
) -> None:
    home = make_home(*MANY, layout=layout)
    assert home.killed(2, home.first, 9)
    home.append(("late", 0, 0))
    assert home.first(9) == again + 1
    assert (home.online(), home.increment(9)) == ({**VALUES, "late": 0}, 0)


def test_run_killed_before_its_end_is_recorded_still_detects_an_empty_store(
    make_home: Callable[..., Home],
) -> None:
    home, notes = make_home(*MANY), itertools.count(1)

    def fail_at_the_end(path: Path, done: Done) -> None:
        if next(notes) > 4:
            raise KilledError
        write_done(path, done)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columnar, "write_done", fail_at_the_end)
        with pytest.raises(KilledError):
            home.first(9)
    home.first(9)
    home.wipe()
    home.increment(9)
    assert home.online() == VALUES


# the version that the killed run read is deleted, or another table's
@pytest.mark.parametrize("n_commits", [1, 2])
def test_table_recreated_after_a_killed_run_is_read_from_its_beginning(
    make_home: Callable[..., Home], n_commits: int
) -> None:
    home = make_home(("x", 0, 0))
    home.first(1)
    home.append(*MANY)
    assert home.killed(2, home.increment, 9)
    shutil.rmtree(home.source)
    for _ in range(n_commits):
        home.append(*MANY, ("a", 8, 8))
    home.increment(10)
    assert home.online() == {**VALUES, "x": 0, "a": 808}


PROGRAM = """
import os, sys
from datetime import datetime
from feast import FeatureStore
from feature_repo.stores.columnar import reporting

chunks = []

def report(*chunk):
    chunks.append(chunk)
    if len(chunks) == 3:
        os.kill(os.getpid(), 9)

with reporting(report):
    FeatureStore(sys.argv[1]).materialize_incremental(datetime.fromisoformat(sys.argv[2]))
"""


def test_process_that_is_killed_in_a_chunk_goes_on(make_home: Callable[..., Home]) -> None:
    home = make_home(("old", 1, 1))
    home.first(2)
    home.append(*MANY)
    arguments = [str(home.folder), at(8).isoformat()]
    killed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, *arguments],
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    home.append(("late", 0, 0), ("a", 8, 8))
    home.reopen()
    assert home.increment(8) <= len(MANY) - 2 * 2 + 2  # the third chunk may not be recorded yet
    assert (home.online(), home.increment(8)) == ({**VALUES, "old": 101, "late": 0, "a": 808}, 0)


# --- what was done is no longer valid ---


def test_emptied_store_is_filled_again(make_home: Callable[..., Home]) -> None:
    home = make_home(*MANY)
    home.first(8)
    home.wipe()
    assert (home.increment(9), home.online()) == (7, VALUES)
    (home.folder / "online.db").unlink()
    home.reopen()
    home.store.apply([user, home.view])
    assert (home.increment(9), home.online()) == (7, VALUES)


def test_flushed_redis_is_filled_again(
    make_home: Callable[..., Home], redis_address: Any, redis_databases: Iterator[int]
) -> None:
    from redis import Redis

    database = next(redis_databases)
    place = f"{redis_address.host}:{redis_address.port},db={database}"
    home = make_home(*MANY, online_store={"type": "redis", "connection_string": place})
    assert (home.first(8), home.increment(8)) == (7, 0)
    with closing(Redis(redis_address.host, redis_address.port, database)) as client:
        client.flushdb()
    assert (home.increment(9), home.served("a", "g")) == (7, [0, 606])


def test_values_from_before_1970_do_not_look_missing(make_home: Callable[..., Home]) -> None:
    home = make_home(("a", -24 * 365 * 60, 1))
    home.store.materialize(datetime(1900, 1, 1, tzinfo=UTC), at(0))
    assert (len(home.online()), home.increment(1)) == (1, 0)


def test_changed_definition_is_written_again(make_home: Callable[..., Home]) -> None:
    home = make_home()
    write_deltalake(
        str(home.source),
        table(*MANY).append_column("extra", pa.array(range(7))),
        mode="overwrite",
        schema_mode="overwrite",
    )
    home.first(8)
    home.store.apply([home.define(Field(name="extra", dtype=Int64))])
    assert (home.increment(9), home.increment(9)) == (7, 0)
    response = home.store.get_online_features(["stats:extra"], [{"user": "c"}, {"user": "g"}])
    assert response.to_dict()["extra"] == [2, 6]


def test_changed_keys_are_written_again(
    tmp_path: Path, define_view: Callable[..., FeatureView]
) -> None:
    write_deltalake(str(tmp_path / "pairs"), PAIRS)
    define = partial(
        define_view, "pairs", str(tmp_path / "pairs"), PAIRS.schema, file_format=DeltaFormat()
    )
    store = open_store(tmp_path, user, item, define(keys=("user",)))
    store.materialize(EPOCH, at(20))
    store.apply([define(keys=("user", "item"))])
    assert entities_written(lambda: store.materialize_incremental(at(21))) == 7
    assert {(1, "a"), (2, "a"), (1, "b"), (2, "b")} <= stored(tmp_path, "pairs").keys()


@pytest.mark.parametrize(
    "forget",
    [
        lambda home: home.store.teardown(),
        lambda home: home.store.apply([user], [home.view], partial=False),
    ],
)
def test_removed_view_is_forgotten(
    make_home: Callable[..., Home], forget: Callable[[Home], None]
) -> None:
    home = make_home(*MANY)
    home.first(9)
    assert home.done()
    forget(home)
    assert home.done() is None
    home.reopen()
    home.store.apply([user, home.view])
    assert (home.first(9), home.online()) == (7, VALUES)


def test_view_of_an_emptied_store_is_due(
    staged: pl.DataFrame, home_of: Callable[..., Warehouse]
) -> None:
    warehouse, now = home_of(staged.head(5)), datetime(2024, 9, 1, tzinfo=UTC)
    first = bring_up_to_date(warehouse, now, lambda *_: None)
    assert due_views(warehouse, now) == []
    with (
        closing(sqlite3.connect(warehouse.settings.root / "feast" / "online.db")) as connection,
        connection,
    ):
        for view in first:
            connection.execute(f'delete from "millrace_{view}.compact"')
    assert bring_up_to_date(warehouse, now, lambda *_: None) == first


# --- errors, reads and other runs meanwhile ---


def test_errors_raise_and_the_next_run_works(make_home: Callable[..., Home]) -> None:
    home = make_home(*MANY)
    home.first(3)
    state = home.store.get_feature_view("stats").state
    home.source.rename(home.folder / "away")
    with pytest.raises(FileNotFoundError, match="stats_source"):
        home.increment(4)
    assert home.store.get_feature_view("stats").state == state
    (home.folder / "away").rename(home.source)
    assert home.killed(0, home.increment, 5)
    assert home.store.get_feature_view("stats").state == state
    assert (home.increment(9), home.online()) == (3, VALUES)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_reads_go_on_during_a_materialization(
    make_home: Callable[..., Home], request: pytest.FixtureRequest, kind: str
) -> None:
    options: dict[str, Any] = {}
    if kind == "redis":
        address = request.getfixturevalue("redis_address")
        database = next(request.getfixturevalue("redis_databases"))
        options["online_store"] = {
            "type": "redis",
            "connection_string": f"{address.host}:{address.port},db={database}",
        }
    home = make_home(*MANY, **options)
    options["registry"] = {
        "path": str(home.folder / "registry.db"),
        "serve_features_while_materializing": True,
    }
    home.reopen(**options)
    home.first(9)
    home.append(*[(name, 9, 9) for name in VALUES])
    seen = []

    def read(*_: Any) -> None:
        reader = open_store(home.folder, **options)
        seen.append(
            reader.get_online_features(["stats:value"], [{"user": "a"}, {"user": "g"}]).to_dict()[
                "value"
            ]
        )

    with reporting(read):
        home.store.materialize_incremental(at(9))
    assert seen == [[909, 606]] * 3 + [[909, 909]]


@pytest.mark.parametrize("chunk", range(3))
def test_increment_in_the_midst_of_another_leaves_the_right_state(
    make_home: Callable[..., Home], chunk: int
) -> None:
    home, chunks = make_home(("a", 1, 1)), itertools.count()
    home.first(2)
    home.append(*MANY)
    other = open_store(home.folder)

    def run_another(*_: Any) -> None:
        if next(chunks) == chunk:
            home.append(("late", 0, 0), ("a", 7, 7))
            other.materialize_incremental(at(9))

    with reporting(run_another):
        home.store.materialize_incremental(at(9))
    assert home.online() == {**VALUES, "late": 0, "a": 707}
    home.increment(9)
    assert (home.increment(9), len(home.online())) == (0, 8)


def test_threads_materialize_one_view_at_once(make_home: Callable[..., Home]) -> None:
    home = make_home(*MANY)
    home.first(2)
    home.append(*[(name, 8, 8) for name in "abcdefghij"])
    stores = [home.store, open_store(home.folder)]
    task = MaterializationTask("tables", home.store.get_feature_view("stats"), at(2), at(9))
    runs = [
        Materialization(store.config, store.provider.online_store, task.feature_view, 1)
        for store in stores
    ]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda run: run.run(task), runs))
    assert home.online() == dict.fromkeys("abcdefghij", 808)
    assert home.increment(9) == 0


def test_threads_record_progress_at_once(tmp_path: Path) -> None:
    def note(number: int) -> None:
        for _ in range(100):
            write_done(
                tmp_path / "view.json", Done("digest", str(number), "", ["file"] * 100 * number)
            )
            assert read_done(tmp_path / "view.json")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(note, range(4)))


def test_progress_adds_up(make_home: Callable[..., Home], monkeypatch: pytest.MonkeyPatch) -> None:
    home, reports, bars = make_home(*MANY), [], []

    def build_bar(**options: Any) -> tqdm:
        bars.append(tqdm(**options))
        return bars[-1]

    monkeypatch.setattr("feast.feature_store.tqdm", build_bar)
    with reporting(lambda *report: reports.append(report)):
        home.store.materialize(EPOCH, at(9))
    assert reports == [("stats", 2, 7)] * 3 + [("stats", 1, 7)]
    assert [(bar.n, bar.total) for bar in bars] == [(7, 7)]


# --- what is left to Feast, and to the reader ---


def doubled(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(value=frame["value"] * 2)


@pytest.mark.filterwarnings("ignore:.*experimental.*:RuntimeWarning")
@pytest.mark.parametrize("kind", ["batch", "stream"])
def test_view_that_feast_transforms_arrives_transformed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    write_deltalake(str(tmp_path / "rows"), table(*MANY))
    rows = FileSource(
        name="rows", path=str(tmp_path / "rows"), file_format=DeltaFormat(), timestamp_field=EVENT
    )
    common = {
        "name": "stats",
        "entities": [user],
        "schema": FIELDS,
        "mode": "pandas",
        "udf": doubled,
        "online": True,
        "ttl": timedelta(0),
    }
    if kind == "batch":
        view: FeatureView = BatchFeatureView(source=rows, **common)
    else:
        view = StreamFeatureView(
            source=PushSource(name="pushed", batch_source=rows), timestamp_field=EVENT, **common
        )
    open_store(tmp_path, user, view).materialize(EPOCH, at(9))
    assert stored(tmp_path, "stats") == {(name,): 2 * value for name, value in VALUES.items()}
    assert "view stats" in caplog.text


def test_other_offline_store_is_left_to_feast(
    tmp_path: Path, write_view: Callable[..., FeatureView], caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(
        tmp_path,
        user,
        write_view("history", HISTORY, layout="file"),
        offline_store={"type": "dask"},
    )
    store.materialize(EPOCH, at(9))
    assert len(stored(tmp_path, "history")) == 5
    assert ("left to Feast" in caplog.text, caplog.records[0].levelno) == (True, logging.WARNING)
    shutil.rmtree(tmp_path / "sources")
    with pytest.raises(FileNotFoundError):
        store.materialize(EPOCH, at(9))


def test_view_to_be_validated_is_validated(tmp_path: Path) -> None:
    pq.write_table(
        table(*MANY).set_column(1, "value", [["no json"] * 7]), tmp_path / "rows.parquet"
    )
    source = FileSource(path=str(tmp_path / "rows.parquet"), timestamp_field=EVENT)
    schema = [FIELDS[0], Field(name="value", dtype=Json)]
    for store in both_engines(
        tmp_path,
        FeatureView(
            name="texts", entities=[user], schema=schema, source=source, enable_validation=True
        ),
    ):
        with pytest.raises(ValueError, match="JSON"):
            store.materialize(EPOCH, at(9))


def test_expired_value_is_written_and_reads_as_expired(tmp_path: Path) -> None:
    online = {
        "type": "feature_repo.stores.online.SqliteOnlineStore",
        "layout": "feast",
        "path": str(tmp_path / "online.db"),
    }
    home, now = (
        Home(tmp_path, ("old", 1, 1), ttl=timedelta(days=2), online_store=online),
        datetime.now(UTC),
    )
    hour = (now - DAY) // timedelta(hours=1)
    home.append(("fresh", hour, 1))
    home.store.materialize(EPOCH, now)
    assert home.increment(hour + 2) == 0
    assert home.online() == {"old": 101, "fresh": 100 * hour + 1}
    assert home.served("old", "fresh") == [None, 100 * hour + 1]
