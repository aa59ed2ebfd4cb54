"""Databases as sources: every row once, whatever is open, deleted, changed or killed."""

import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pytest

from benchmarks.servers import Address
from transforms.errors import SchemaChangedError, SourceError
from transforms.home import Settings
from transforms.schemas.raw import RawRecord
from transforms.sources import databases, pages
from transforms.sources.databases import Postgres, Sqlite, Standard, connected, connection_of
from transforms.sources.ingest import ingest, pending_files
from transforms.sources.source import Source, load_source
from transforms.staging.prepare import Account, prepare
from transforms.upkeep import log
from transforms.upkeep.maintain import vacuum
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

MakeSource = Callable[..., Source]
Query = Callable[..., list[tuple[Any, ...]]]
Stage = Callable[[Source], Account]
RECORD = {
    "record_id": "id",
    "author_id": "author",
    "event_timestamp": "written",
    "text": "text",
    "label": "label",
}
RAW = RawRecord.relation()
# what staging says of records, whatever they were loaded from
CONTENT = """
select record_id, author_id, event_timestamp, known_timestamp, text, label, is_tombstone,
    attributes, content_digest
from staging.records order by all
"""
# rows of raw: how many came in each page, which are there, which are there twice
PAGES = "select count(*) from raw.records group by load_id order by load_id"
IDS = "select (decode(payload)->>'id')::int from raw.records order by load_id, row_number"
# an ingest that is killed as it is about to commit a page, or as soon as it has
KILLED = """
import os, signal, sys
from pathlib import Path
from transforms.home import Settings
from transforms.sources.ingest import ingest
from transforms.sources.source import load_source
from transforms.warehouse import publishing
from transforms.warehouse.tables import Warehouse

commit, left = publishing._commit, int(sys.argv[3])

def dying(*arguments):
    global left
    left -= 1
    if left == 0 and sys.argv[4] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    commit(*arguments)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

publishing._commit = dying
print("ready", flush=True)
sys.stdin.readline()
ingest(load_source(Path(sys.argv[1])), Warehouse(Settings(home=Path(sys.argv[2]))))
"""


class Shop:
    """A schema of PostgreSQL with a table of tickets, for one test."""

    def __init__(self, address: Address, name: str) -> None:
        self.address, self.name = address, name
        place = f"{address.host}:{address.port}/postgres?options=-csearch_path%3D{name}"
        self.uri = f"postgresql://postgres@{place}"
        self.connection = self.connect()
        self.connection.execute(f"create schema {name}")
        self.connection.execute(
            "create table tickets (id int primary key, author text, written timestamptz, "
            "updated_at timestamptz not null, text text, label text, status text)"
        )

    def connect(self, *, autocommit: bool = True) -> psycopg.Connection[Any]:
        return psycopg.connect(self.uri, autocommit=autocommit)

    def add(self, first: int, last: int, minutes_ago: float = 60) -> None:
        """Add tickets; three neighbours were updated at one instant."""
        self.connection.execute(
            "insert into tickets select n, 'u' || n %% 7, '2026-01-01'::timestamptz + n * "
            "interval '1 s', now() - %s * interval '1 min' + (n / 3) * interval '1 us', "
            "'text of \"' || n || '\" \u00e9', 'bug', 'open' "
            "from generate_series(%s::int, %s::int) n",
            [minutes_ago, first, last],
        )


@pytest.fixture
def shop(postgres_address: Address, numbers: Iterator[int]) -> Iterator[Shop]:
    made = Shop(postgres_address, f"shop_{next(numbers)}")
    yield made
    made.connection.close()


@pytest.fixture(scope="session")
def numbers() -> Iterator[int]:
    return itertools.count()


@pytest.fixture
def tickets(make_source: MakeSource, shop: Shop) -> Callable[..., Source]:
    """The source of the table of tickets; a test passes what matters to it."""

    def make(**changes: object) -> Source:
        given: dict[str, object] = {
            "table": "tickets",
            "cursor": ["updated_at", "id"],
            "known": {"column": "updated_at"},
            "record": RECORD,
            "attributes": ["status"],
        }
        uri = str(changes.pop("uri", shop.uri))
        return make_source(uri, **{**given, **changes})

    return make


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(Settings(home=tmp_path / "home", page_rows=40))


def export(shop: Shop, folder: Path) -> Path:
    """Write the tickets to a Parquet file, by another way than the one that is tested."""
    cursor = shop.connection.execute("select * from tickets order by id")
    columns = [column.name for column in cursor.description or ()]
    rows = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
    lines = folder / "rows.json"
    lines.write_text("\n".join(json.dumps(row, default=str) for row in rows))
    path = folder / "files" / "tickets.parquet"
    path.parent.mkdir()
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.execute(
            f"copy (select * replace (written::timestamptz as written, updated_at::timestamptz "
            f"as updated_at) from read_json('{lines}')) to '{path}' (format parquet)"
        )
    return path


def test_rows_are_staged_as_those_of_a_file_a_page_a_load(
    shop: Shop,
    tickets: MakeSource,
    tmp_path: Path,
    query: Query,
    stage: Stage,
) -> None:
    shop.add(1, 100)
    stage(tickets())
    of_database = query(CONTENT)
    assert query(PAGES) == [(40,), (40,), (20,)]
    assert len(of_database) == 100
    file = export(shop, tmp_path)
    of_file = tickets().model_copy(
        update={"uri": str(file), "table": None, "cursor": (), "format": "parquet"}
    )
    other = Warehouse(Settings(home=tmp_path / "other"))
    ingest(of_file, other)
    prepare(of_file, other)
    with connect(other) as connection:
        assert connection.sql(CONTENT).fetchall() == of_database


def test_only_what_is_new_is_loaded(
    shop: Shop, tickets: MakeSource, warehouse: Warehouse, query: Query
) -> None:
    shop.add(1, 100)
    source = tickets()
    assert pending_files(source, warehouse).n_rows == 100
    assert ingest(source, warehouse).rows_loaded == 100
    assert pending_files(source, warehouse).n_rows == 0
    assert ingest(source, warehouse).rows_loaded == 0
    shop.add(101, 110, minutes_ago=30)
    shop.connection.execute(
        "update tickets set text = 'new', updated_at = now() - interval '20 min' where id = 5"
    )
    assert pending_files(source, warehouse).n_rows == 11
    # another process: nothing is known but what the home has
    assert ingest(source, Warehouse(warehouse.settings)).rows_loaded == 11
    assert sorted(query(IDS)) == sorted((id_,) for id_ in [*range(1, 111), 5])


def test_a_page_that_ends_among_rows_of_one_instant_loses_none(
    shop: Shop, tickets: MakeSource, warehouse: Warehouse, query: Query
) -> None:
    shop.add(1, 100)
    shop.connection.execute("update tickets set updated_at = '2026-02-02T00:00:00.123456Z'")
    ingest(tickets(), warehouse)
    assert query(IDS) == [(id_,) for id_ in range(1, 101)]


@pytest.mark.parametrize("kind", ["uuid", "numeric", "text", "bigint"])
def test_pages_go_by_keys_of_every_type(
    shop: Shop, tickets: MakeSource, warehouse: Warehouse, query: Query, kind: str
) -> None:
    made = {"uuid": "md5(id::text)::uuid", "text": "'it''s \\ ' || id"}.get(kind, f"id::{kind}")
    shop.add(1, 100)
    shop.connection.execute(f"alter table tickets add column key {kind}")
    shop.connection.execute(f"update tickets set key = {made}, updated_at = '2026-02-02'")
    ingest(tickets(cursor=["updated_at", "key"]), warehouse)
    assert sorted(query(IDS)) == [(id_,) for id_ in range(1, 101)]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_that_is_killed_between_pages_is_continued_exactly(
    shop: Shop, tickets: MakeSource, tmp_path: Path, warehouse: Warehouse, query: Query, when: str
) -> None:
    shop.add(1, 100)
    source = tickets()
    command = [
        sys.executable,
        "-c",
        KILLED,
        str(tmp_path / "source.yaml"),
        str(tmp_path / "home"),
        "2",
        when,
    ]
    environment = {**os.environ, "MILLRACE_PAGE_ROWS": "40"}
    ended = subprocess.run(
        command, input="go\n", text=True, env=environment, capture_output=True, check=False
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert query(PAGES) == ([(40,)] if when == "before" else [(40,), (40,)])
    ingest(source, warehouse)
    assert query(PAGES) == [(40,), (40,), (20,)]
    assert query(IDS) == [(id_,) for id_ in range(1, 101)]


def test_two_ingests_at_once_load_every_row_once(
    shop: Shop, tickets: MakeSource, tmp_path: Path, warehouse: Warehouse, query: Query
) -> None:
    shop.add(1, 100)
    tickets()
    warehouse.create(RawRecord)
    command = [
        sys.executable,
        "-c",
        KILLED,
        str(tmp_path / "source.yaml"),
        str(tmp_path / "home"),
        "0",
        "",
    ]
    runs = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "MILLRACE_PAGE_ROWS": "5"},
        )
        for _ in range(2)
    ]
    assert [run.stdout.readline() for run in runs if run.stdout] == ["ready\n"] * 2
    for run in runs:
        run.communicate("go\n", timeout=120)
    assert [run.returncode for run in runs] == [0, 0]
    assert sorted(query(IDS)) == [(id_,) for id_ in range(1, 101)]


def test_a_page_that_another_process_commits_meanwhile_is_not_loaded_twice(
    shop: Shop,
    tickets: MakeSource,
    warehouse: Warehouse,
    query: Query,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shop.add(1, 100)
    source, commit = tickets(), pages._commit

    def late(*arguments: Any) -> int | None:
        monkeypatch.setattr(pages, "_commit", commit)
        ingest(source, Warehouse(warehouse.settings))
        shop.add(101, 110, minutes_ago=30)  # which the other process did not see
        return commit(*arguments)

    monkeypatch.setattr(pages, "_commit", late)
    ingest(source, warehouse)
    assert query(IDS) == [(id_,) for id_ in range(1, 111)]


def test_rows_of_an_open_transaction_are_waited_for(
    shop: Shop, tickets: MakeSource, warehouse: Warehouse, query: Query
) -> None:
    source = tickets(lag=0)
    shop.add(1, 10)
    with closing(shop.connect(autocommit=False)) as open_one:
        # it has begun, and says nothing yet
        open_one.execute("select 1")
        shop.connection.execute("insert into tickets values (12, 'u', now(), now(), 'late', null)")
        open_one.execute("insert into tickets values (11, 'u', now(), now(), 'early', null)")
        assert ingest(source, warehouse).rows_loaded == 10
        open_one.commit()
    assert ingest(source, warehouse).rows_loaded == 2
    assert query(IDS) == [(id_,) for id_ in range(1, 13)]


def test_other_readers_are_not_waited_for(
    shop: Shop, tickets: MakeSource, warehouse: Warehouse
) -> None:
    source = tickets(lag=0)
    shop.add(1, 5)
    with connected(source) as other, closing(other.whole(only_key=True).payloads()) as rows:
        assert len(next(rows)) == 5
        shop.add(6, 10, minutes_ago=0)
        assert ingest(source, warehouse).rows_loaded == 10


def test_rows_younger_than_the_lag_wait(
    shop: Shop, tickets: MakeSource, warehouse: Warehouse
) -> None:
    shop.add(1, 10)
    shop.add(11, 12, minutes_ago=5)
    assert ingest(tickets(lag=600), warehouse).rows_loaded == 10
    assert ingest(tickets(lag=60), warehouse).rows_loaded == 2


def test_who_cannot_see_other_transactions_is_told_what_that_costs(
    shop: Shop, tickets: MakeSource, warehouse: Warehouse
) -> None:
    role = f"reader_of_{shop.name}"
    shop.connection.execute(f"create role {role} login")
    shop.connection.execute(f"grant usage on schema {shop.name} to {role}")
    shop.connection.execute(f"grant select on tickets to {role}")
    shop.add(1, 10)
    source = tickets(uri=shop.uri.replace("postgres@", f"{role}@"))
    (notice,) = ingest(source, warehouse).notices
    assert "grant pg_read_all_stats" in notice
    shop.connection.execute(f"grant pg_read_all_stats to {role}")
    shop.add(11, 12)
    assert ingest(source, warehouse).notices == []


def test_a_column_takes_records_out(
    shop: Shop, tickets: MakeSource, query: Query, stage: Stage
) -> None:
    shop.add(1, 10)
    source = tickets(tombstone="status = 'deleted'")
    stage(source)
    shop.connection.execute(
        "update tickets set status = 'deleted', updated_at = now() - interval '2 min' where id = 3"
    )
    stage(source)
    assert query("select record_id from staging.records where is_tombstone") == [("3",)]


@pytest.mark.parametrize(
    "how",
    [
        {"deletes": "compare"},
        {"deletes": "compare", "schema": "freeze"},
        {"cursor": [], "key": ["id"], "known": "at_load"},
    ],
    ids=["by cursor", "frozen", "whole"],
)
def test_rows_that_are_no_more_are_found_by_comparison(
    shop: Shop, tickets: MakeSource, query: Query, stage: Stage, how: dict[str, object]
) -> None:
    shop.add(1, 100)
    source = tickets(**how)
    assert stage(source).staged == 100
    assert stage(source).read == 0
    shop.connection.execute("delete from tickets where id in (3, 40)")
    shop.connection.execute(
        "update tickets set text = 'new', updated_at = now() - interval '2 min' where id = 7"
    )
    shop.add(101, 101, minutes_ago=1.5)
    assert stage(source).staged == 4
    gone = "select record_id, text, author_id from staging.records where is_tombstone order by all"
    assert query(gone) == [("3", 'text of "3" é', "u3"), ("40", 'text of "40" é', "u5")]
    assert stage(source).read == 0
    # one comes back, after it was missed
    shop.add(3, 3, minutes_ago=0)
    source = source.model_copy(update={"lag": 0.0})
    assert stage(source).staged == 1
    current = (
        "select arg_max(is_tombstone, known_timestamp) from staging.records where record_id = '3'"
    )
    assert query(current) == [(False,)]
    assert stage(source).read == 0


def test_a_frozen_source_stops_over_a_new_column(
    shop: Shop, tickets: MakeSource, warehouse: Warehouse
) -> None:
    shop.add(1, 10)
    source = tickets(schema="freeze")
    ingest(source, warehouse)
    prepare(source, warehouse)
    shop.connection.execute("alter table tickets add column priority int default 3")
    shop.connection.execute("update tickets set updated_at = now() - interval '2 min' where id = 3")
    ingest(source, warehouse)
    with pytest.raises(SchemaChangedError, match="priority"):
        prepare(source, warehouse)


TYPES = {
    "n": ("1.10::numeric", 1.1),
    "huge": ("12345678901234567890.123456789012345678::numeric", 12345678901234567890.123456789),
    "nan_numeric": ("'NaN'::numeric", None),
    "endless_numeric": ("'-Infinity'::numeric", None),
    "nan": ("'NaN'::float8", None),
    "endless": ("'Infinity'::float4", None),
    "half": ("0.5::float4", 0.5),
    "big": ("9007199254740993::int8", 9007199254740993),
    "at": ("'2026-01-15 10:00:00.5+02'::timestamptz", "2026-01-15 08:00:00.5+00"),
    "local": ("'2026-01-15 10:00:00'::timestamp", "2026-01-15 10:00:00"),
    "never": ("'infinity'::timestamptz", None),
    "always": ("'-infinity'::timestamp", None),
    "far": ("'294276-01-01'::timestamptz", None),
    "no_day": ("'infinity'::date", None),
    "day": ("'2026-01-15'::date", "2026-01-15"),
    "hour": ("'10:00:00.5'::time", "10:00:00.5"),
    "span": ("'1 day 02:00'::interval", "1 day 02:00:00"),
    "yes": ("true", True),
    "nothing": ("null::text", None),
    "document": ("""'{"a": [1.10, {"b": null}]}'::jsonb""", {"a": [1.1, {"b": None}]}),
    "as_written": ("""'{"a": 1e3}'::json""", {"a": 1000.0}),
    "list": ("array[1, null, 3]", [1, None, 3]),
    "table_": ("array[[1, 2], [3, 4]]", [[1, 2], [3, 4]]),
    "texts": ("array['a', 'b\"c']", ["a", 'b"c']),
    "amounts": ("array[1.50::numeric]", [1.5]),
    "mood": ("'glad'::mood", "glad"),
    "moods": ("array['glad'::mood]", ["glad"]),
    "pair": ("row(1, 'x')::pair", {"a": 1, "b": "x"}),
    "mail": ("'a@b'::mail", "a@b"),
    "bytes": (r"'\xff41'::bytea", r"\xFFA"),
    "uuid": (
        "'d15620b1-4646-40bc-b6db-889ae83f823d'::uuid",
        "d15620b1-4646-40bc-b6db-889ae83f823d",
    ),
    "host": ("'127.0.0.1'::inet", "127.0.0.1"),
    "range": ("'[1,3)'::int4range", "[1,3)"),
    "id_of": ("4000000000::oid", "4000000000"),
    "bits": ("B'101'", "101"),
    "padded": ("'a'::char(3)", "a  "),
    'odd "name"': ("'x'::text", "x"),
}


def test_every_type_has_its_outcome(
    shop: Shop, tickets: MakeSource, warehouse: Warehouse, query: Query
) -> None:
    shop.add(1, 1)
    for made in (
        "type mood as enum ('glad')",
        "type pair as (a int, b text)",
        "domain mail as text",
    ):
        shop.connection.execute(f"create {made}")
    columns = ", ".join(
        f'''{sql} as "{name.replace('"', '""')}"''' for name, (sql, _) in TYPES.items()
    )
    ingest(tickets(table=None, query=f"select *, {columns} from tickets;"), warehouse)
    ((payload,),) = query("select payload from raw.records")
    found = json.loads(payload)
    assert {name: found[name] for name in TYPES} == {
        name: value for name, (_, value) in TYPES.items()
    }
    # digits and zeros as PostgreSQL writes them
    assert b'"n":1.10' in payload
    assert b'"huge":12345678901234567890.123456789012345678' in payload


@pytest.mark.parametrize(
    ("columns", "nulls", "payload"),
    [
        ({"a": 1}, [], '{"a":1}'),
        ({"a": 1}, ["z"], '{"a":1,"z":null}'),
        ({"j": "[1.10]"}, [], '{"j":[1.10]}'),
        ({"j": None, "k": "{}"}, ["z"], '{"j":null,"k":{},"z":null}'),
        (
            {"a": float("nan"), "j": "1e3", "\u00e9": "\u00e9"},
            [],
            '{"j":1e3,"a":null,"\u00e9":"\u00e9"}',
        ),
    ],
)
def test_documents_are_put_into_a_row_as_they_are(
    columns: dict[str, object], nulls: list[str], payload: str
) -> None:
    json_columns = {
        name: pa.ExtensionArray.from_storage(pa.json_(), pa.array([value], pa.string()))
        if name in "jk"
        else pa.array([value])
        for name, value in columns.items()
    }
    with duckdb.connect() as connection:
        (row,) = databases.payloads_of(connection, pa.record_batch(json_columns), nulls)
    assert row.as_py().decode() == payload


SECRET = "s3cr3t/p@ss"  # noqa: S105


def test_a_secret_is_nowhere(
    shop: Shop,
    tickets: MakeSource,
    tmp_path: Path,
    warehouse: Warehouse,
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    query: Query,
) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", SECRET)
    shop.add(1, 10)
    source = tickets(uri=shop.uri.replace("postgres@", "postgres:${SHOP_PASSWORD}@"))
    stage(source)
    place = f"postgresql://{shop.address.host}:{shop.address.port}/postgres/tickets#1"
    assert query("select distinct source_uri from raw.records") == [(place,)]
    for path in (tmp_path / "home").rglob("*"):
        assert not path.is_file() or b"s3cr3t" not in path.read_bytes(), path
    for uri in (
        "postgresql://x:${SHOP_PASSWORD}@127.0.0.1:1/x",
        "postgresql://${SHOP_PASSWORD}@127.0.0.1:1/x",
    ):
        with pytest.raises(SourceError) as caught:
            ingest(tickets(uri=uri), warehouse)
        assert "s3cr3t" not in str(caught.value)
        assert "\n" not in str(caught.value)
    monkeypatch.delenv("SHOP_PASSWORD")
    with pytest.raises(SourceError, match=r"\$\{SHOP_PASSWORD\} is not set"):
        ingest(source, warehouse)


def test_a_secret_that_a_driver_quotes_is_blotted_out(
    make_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", SECRET)
    monkeypatch.setenv("PGPASSWORD", "0ther")
    source = make_source(
        "postgresql://a:${SHOP_PASSWORD}@h/d", table="t", cursor=["at", "id"], record=RECORD
    )
    uri, _ = databases.expanded(source.uri)

    def refuse(_: str) -> None:
        message = f"IO: bad {uri}, {SECRET}, 0ther"
        raise OSError(message)

    monkeypatch.setattr(Postgres, "connect", staticmethod(refuse))
    with (
        pytest.raises(SourceError, match=r"bad postgresql://a:\*\*\*@h/d, \*\*\*, \*\*\*\); "),
        connected(source),
    ):
        pass


@pytest.mark.parametrize(
    "uri",
    [
        f"postgresql://ann:{SECRET.replace('/', '%2F').replace('@', '%40')}@host/shop",
        "postgresql://ann:s3cr3t@host/shop",
        "postgresql://ann:${A}s3cr3t@host/shop",
        "postgresql://host/shop?user=ann&password=s3cr3t",
        "snowflake://ann:s3cr3t@account/shop",
    ],
)
def test_a_secret_in_a_source_file_is_refused_and_not_said(
    make_source: MakeSource, uri: str
) -> None:
    with pytest.raises(SourceError, match="variable of the environment") as caught:
        make_source(uri, table="tickets", cursor=["id"], record=RECORD)
    assert "s3cr3t" not in str(caught.value)


def test_the_whole_uri_may_be_a_variable(
    shop: Shop, tickets: MakeSource, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_URL", shop.uri)
    shop.add(1, 10)
    assert ingest(tickets(uri="${SHOP_URL}"), warehouse).rows_loaded == 10


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"table": None}, "table: name the table"),
        ({"query": "select 1"}, "not both"),
        ({"format": "csv"}, "format: is about files"),
        ({"cursor": []}, "cursor: say which columns"),
        ({"cursor": ["id", "id"]}, "names each column once"),
        ({"deletes": "compare", "known": "at_event"}, "known: that a row was deleted"),
        ({"uri": "tickets/*.csv"}, "cursor: goes with a database"),
    ],
)
def test_a_source_file_that_does_not_fit_is_refused(
    tickets: MakeSource, changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(SourceError, match=reason):
        tickets(**changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cursor": ["updated_at", "nope"]}, "no column 'nope'; there are id, author"),
        ({"cursor": ["updated_at"]}, "rows share updated_at"),
        ({"cursor": ["updated_at", "status"]}, "rows share updated_at, status"),
        ({"cursor": ["id"]}, "'id' is no time"),
        ({"table": "nope"}, 'relation "nope" does not exist'),
        ({"table": None, "query": 'select *, id as "ID" from tickets'}, "differ by case only"),
        (
            {
                "table": None,
                "query": "select *, nullif(id, 5) as n from tickets",
                "cursor": ["updated_at", "n"],
            },
            "rows without updated_at, n",
        ),
        (
            {
                "table": None,
                "query": "select *, case when id > 50 then author::int end from tickets",
            },
            r"reading stopped \(invalid input syntax for type integer\)",
        ),
        (
            {"cursor": [], "key": ["author"], "known": "at_load"},
            "93 rows have the author of another",
        ),
    ],
)
def test_rows_that_cannot_be_read_exactly_are_refused_in_a_line(
    shop: Shop, tickets: MakeSource, warehouse: Warehouse, changes: dict[str, object], reason: str
) -> None:
    shop.add(1, 100)
    source = tickets(**changes)
    with pytest.raises(SourceError, match=reason) as caught:
        ingest(source, warehouse)
    assert str(caught.value).startswith("notes: ")
    assert "\n" not in str(caught.value)


def test_another_cursor_is_refused(shop: Shop, tickets: MakeSource, warehouse: Warehouse) -> None:
    shop.add(1, 10)
    ingest(tickets(), warehouse)
    with pytest.raises(SourceError, match=r"cursor: was \['updated_at', 'id'\]"):
        ingest(tickets(cursor=["written", "id"]), warehouse)


def test_ids_that_appear_in_order_are_a_cursor_once_that_is_said(
    shop: Shop, tickets: MakeSource, warehouse: Warehouse, query: Query
) -> None:
    shop.add(1, 100)
    source = tickets(cursor=["id"], lag=0)
    ingest(source, warehouse)
    shop.add(101, 105)
    assert ingest(source, warehouse).rows_loaded == 5
    assert query(IDS) == [(id_,) for id_ in range(1, 106)]


@pytest.fixture
def notes_db(tmp_path: Path) -> Path:
    path = tmp_path / "notes.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "create table notes (id integer primary key, author, written, updated_at, text, score)"
        )
        connection.executemany(
            "insert into notes values (?, 'ann', '2026-01-01 10:00:00', ?, ?, ?)",
            [
                (id_, f"2026-01-02 10:00:{id_ // 3:02}", f"text {id_} é", id_ / 2)
                for id_ in range(1, 101)
            ],
        )
    return path


def notes_source(
    make_source: MakeSource, uri: str = "sqlite://notes.db", **changes: object
) -> Source:
    record = {key: column for key, column in RECORD.items() if key != "label"}
    given = {"table": "notes", "cursor": ["updated_at", "id"], "known": {"column": "updated_at"}}
    return make_source(uri, **{**given, "record": record, "attributes": ["score"], **changes})


def test_sqlite_is_staged_as_a_file_of_the_same_rows(
    make_source: MakeSource, notes_db: Path, tmp_path: Path, query: Query, stage: Stage
) -> None:
    stage(notes_source(make_source))
    of_database = query(CONTENT)
    assert query(PAGES) == [(40,), (40,), (20,)]
    with closing(sqlite3.connect(notes_db)) as connection:
        connection.row_factory = sqlite3.Row
        rows = [json.dumps(dict(row)) for row in connection.execute("select * from notes")]
    (tmp_path / "notes.jsonl").write_text("\n".join(rows))
    other = Warehouse(Settings(home=tmp_path / "other"))
    source = load_source(tmp_path / "source.yaml").model_copy(
        update={"uri": str(tmp_path / "notes.jsonl"), "table": None, "cursor": ()}
    )
    ingest(source, other)
    prepare(source, other)
    with connect(other) as connection:
        assert connection.sql(CONTENT).fetchall() == of_database


@pytest.mark.parametrize(
    "form", ["strftime('%Y-%m-%dT%H:%M:%fZ', 'now', {})", "unixepoch('now', {})"]
)
def test_sqlite_waits_for_the_second_to_be_over(
    make_source: MakeSource, notes_db: Path, warehouse: Warehouse, form: str
) -> None:
    with closing(sqlite3.connect(notes_db)) as connection, connection:
        for id_, ago in ((1, "-90 seconds"), (2, "-10 seconds"), (3, "-80 seconds")):
            connection.execute(
                f"update notes set updated_at = {form.format('?')} where id = ?", (ago, id_)
            )
        connection.execute("delete from notes where id > 3")
    assert ingest(notes_source(make_source), warehouse).rows_loaded == 2
    assert ingest(notes_source(make_source, lag=5), warehouse).rows_loaded == 1


def test_sqlite_finds_deleted_rows_and_writes_nothing(
    make_source: MakeSource, notes_db: Path, query: Query, stage: Stage
) -> None:
    source = notes_source(make_source, deletes="compare")
    before = notes_db.read_bytes()
    stage(source)
    assert notes_db.read_bytes() == before
    with closing(sqlite3.connect(notes_db)) as connection, connection:
        connection.execute("delete from notes where id = 3")
    stage(source)
    assert query("select record_id from staging.records where is_tombstone") == [("3",)]


def test_a_value_of_another_type_is_not_said(
    make_source: MakeSource, notes_db: Path, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "SQLITE_BATCH_ROWS", 10)
    with closing(sqlite3.connect(notes_db)) as connection, connection:
        connection.execute("update notes set score = 'private' where id = 60")
    with pytest.raises(
        SourceError, match=r"reading stopped .*Type mismatch.*cast the column"
    ) as caught:
        ingest(notes_source(make_source), warehouse)
    assert "private" not in str(caught.value)


def test_a_cursor_outlives_the_entries_of_the_log(
    make_source: MakeSource,
    notes_db: Path,
    warehouse: Warehouse,
    query: Query,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log, "KEPT_ENTRIES", 4)
    few = Warehouse(warehouse.settings.model_copy(update={"page_rows": 5}))
    ingest(notes_source(make_source), warehouse)
    ingest(notes_source(make_source, name="others"), few)
    before = min(warehouse.entries(RAW))
    for _ in range(3):  # nothing changes after the first time
        vacuum(Warehouse(warehouse.settings), [], is_dry=False)
    assert (before, min(warehouse.entries(RAW))) == (0, 20)
    with closing(sqlite3.connect(notes_db)) as connection, connection:
        connection.execute("insert into notes values (101, 'ann', '2026', '2026-02-01', 'x', 1)")
    for source in (notes_source(make_source), notes_source(make_source, name="others")):
        assert ingest(source, Warehouse(warehouse.settings)).rows_loaded == 1
    assert len(query(IDS)) == 202


def test_pages_by_plain_sql_lose_nothing(
    make_source: MakeSource,
    notes_db: Path,
    warehouse: Warehouse,
    query: Query,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with closing(sqlite3.connect(notes_db)) as connection, connection:
        # the higher the id, the earlier
        connection.execute("update notes set updated_at = printf('2026-01-02 %03d', 50 - id / 3)")
    # what all other databases get, tried where SQLite answers
    plain = type("Plain", (Standard,), {"value": Sqlite.value})  # an empty result has no types
    monkeypatch.setattr(databases, "database_of", plain)
    warehouse = Warehouse(warehouse.settings.model_copy(update={"page_rows": 7}))
    ingest(notes_source(make_source, cursor=["updated_at", "author", "id"]), warehouse)
    assert sorted(query(IDS)) == [(id_,) for id_ in range(1, 101)]


def test_plain_sql_compares_times_as_a_column_has_them() -> None:
    plain, before = Standard("mysql"), datetime(2026, 1, 2, 3, tzinfo=UTC)
    assert plain.is_ripe(pa.field("at", pa.timestamp("us", "UTC")), before) == (
        "`at` < ?",
        [before],
    )
    naive = before.replace(tzinfo=None)
    assert plain.is_ripe(pa.field("at", pa.timestamp("us")), before) == ("`at` < ?", [naive])
    assert plain.is_ripe(pa.field("at", pa.date32()), before) == ("`at` < ?", [date(2026, 1, 2)])
    assert plain.is_ripe(pa.field("id", pa.int64()), before) == ("1 = 1", ())


@pytest.mark.parametrize(
    ("driver", "uri", "arguments"),
    [
        ("postgresql", "postgresql://ann:pw@host/shop", {"uri": "postgresql://ann:pw@host/shop"}),
        ("sqlite", "sqlite:///srv/a b.db", {"uri": "file:/srv/a%20b.db?mode=ro"}),
        (
            "snowflake",
            "snowflake://ann:pw@account/shop/public?warehouse=w",
            {"uri": "ann:pw@account/shop/public?warehouse=w"},
        ),
        (
            "bigquery",
            "bigquery://project/sales",
            {
                "db_kwargs": {
                    "adbc.bigquery.sql.project_id": "project",
                    "adbc.bigquery.sql.dataset_id": "sales",
                }
            },
        ),
        (
            "flightsql",
            "grpc+tls://ann:pw@host:443",
            {"uri": "grpc+tls://host:443", "db_kwargs": {"username": "ann", "password": "pw"}},
        ),
        ("flightsql", "grpc://host:31337", {"uri": "grpc://host:31337"}),
    ],
)
def test_each_driver_is_given_what_it_asks_for(
    driver: str, uri: str, arguments: dict[str, object]
) -> None:
    assert connection_of(driver, uri) == arguments


def test_a_missing_driver_is_said_with_what_to_install(
    make_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "adbc_driver_snowflake.dbapi", None)
    monkeypatch.setitem(sys.modules, "adbc_driver_postgresql.dbapi", None)
    for uri, package in (
        ("snowflake://a/b", "adbc-driver-snowflake"),
        ("postgresql://h/d", r"millrace\[postgres-source\]"),
    ):
        source = make_source(uri, table="t", cursor=["at", "id"], record=RECORD)
        with (
            pytest.raises(SourceError, match=f"install its driver: pip install '?{package}"),
            connected(source),
        ):
            pass
