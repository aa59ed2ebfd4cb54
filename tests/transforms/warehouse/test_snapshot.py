"""DuckDB over the warehouse: one engine after the other's work, and nothing of it is left."""

import multiprocessing
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from transforms.home import Settings
from transforms.schemas.raw import RawRecord
from transforms.warehouse import snapshot
from transforms.warehouse.publishing import publish
from transforms.warehouse.snapshot import connect, create_arrivals
from transforms.warehouse.tables import Warehouse


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The memory limits of the engines that are started, none of which was before."""
    snapshot._close_idle()
    monkeypatch.setattr(snapshot, "_idle", type(snapshot._idle)(list))
    limits: list[str] = []

    class Engine(snapshot._Engine):
        def __init__(self, memory_limit: str) -> None:
            limits.append(memory_limit)
            super().__init__(memory_limit)

    monkeypatch.setattr(snapshot, "_Engine", Engine)
    yield limits
    snapshot._close_idle()


def test_an_engine_is_lent_again_without_what_was_made_in_it(
    warehouse: Warehouse, started: list[str]
) -> None:
    with connect(warehouse) as connection:
        for statement in (
            "create schema staging",
            "create view staging.records as select 1 as n",
            "create table kept as select 1 as n",
            "create temp table passing as select 1 as n",
            "create macro plus_one(n) as n + 1",
            "set variable n = 1",
        ):
            connection.execute(statement)
        assert connection.cursor().sql("select n from kept").fetchall() == [(1,)]
    with connect(warehouse) as connection:
        for left in ("staging.records", "kept", "passing", "(select plus_one(1))"):
            with pytest.raises(duckdb.CatalogException):
                connection.sql(f"from {left}").fetchall()
        connection.execute("create table kept as select getvariable('n') as n")
        assert connection.cursor().sql("select n from kept").fetchall() == [(None,)]
        assert connection.sql("select current_setting('TimeZone')").fetchall() == [("UTC",)]
    assert len(started) == 1


def test_connections_at_once_have_an_engine_each(warehouse: Warehouse, started: list[str]) -> None:
    with connect(warehouse) as one, connect(warehouse) as other:
        one.execute("create table kept as select 1 as n")
        other.execute("create table kept as select 2 as n")
        assert one.sql("from kept").fetchall() == [(1,)]
    less = Warehouse(Settings(home=warehouse.settings.home, memory_limit="99MB"))
    with connect(less) as connection:
        limit = connection.sql("select current_setting('memory_limit')").fetchall()
    assert limit == [("94.4 MiB",)]
    assert started == ["1GB", "1GB", "99MB"]


def test_an_engine_that_failed_or_spilled_is_not_lent_again(
    tmp_path: Path, started: list[str]
) -> None:
    warehouse = Warehouse(Settings(home=tmp_path, memory_limit="60MB"))
    with pytest.raises(ZeroDivisionError), connect(warehouse):
        raise ZeroDivisionError
    rows = "select md5(i::varchar) as one, uuid() as other from range(1_500_000) as r(i)"
    with connect(warehouse) as connection:
        connection.execute(f"create table large as {rows}")
        assert list(tmp_path.glob("tmp/*/*"))
    assert not list((tmp_path / "tmp").iterdir())
    with connect(warehouse) as connection:
        connection.execute("select 1")
    assert len(started) == 3


def test_an_engine_ends_after_some_loans(
    warehouse: Warehouse, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "LOANS_OF_AN_ENGINE", 3)
    for _ in range(7):
        with connect(warehouse) as connection:
            assert connection.execute("select 42").fetchall() == [(42,)]
    assert len(started) == 3


def test_a_forked_process_starts_its_own(warehouse: Warehouse, started: list[str]) -> None:
    with connect(warehouse):
        pass
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def ask() -> None:
        with connect(warehouse) as connection:
            answers.put((connection.sql("select 42").fetchall(), len(started)))

    child = context.Process(target=ask)
    child.start()
    child.join(30)
    child.kill()
    assert answers.get() == ([(42,)], 2)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads what Linux tells")
def test_memory_of_tables_goes_back_to_the_system(warehouse: Warehouse, started: list[str]) -> None:
    before = resident_mb()
    with connect(warehouse) as connection:
        connection.execute("create table numbers as select i, hash(i) from range(8_000_000) r(i)")
        taken = resident_mb() - before
    assert started
    until = time.monotonic() + 20
    while resident_mb() - before > taken / 2 and time.monotonic() < until:
        time.sleep(0.1)
    assert resident_mb() - before <= taken / 2


def resident_mb() -> float:
    """Memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * resource.getpagesize() / 1e6


@pytest.mark.parametrize(("few_bytes", "kind"), [(snapshot.FEW_BYTES, "BASE TABLE"), (0, "VIEW")])
def test_arrivals_are_what_was_added_and_removed_and_not_what_only_moved(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, few_bytes: int, kind: str
) -> None:
    monkeypatch.setattr(snapshot, "FEW_BYTES", few_bytes)
    publish(warehouse, RawRecord, _raw(1, 2), {})
    publish(warehouse, RawRecord, _raw(2, 3), {}, without=warehouse.files(RawRecord.relation()))
    with connect(warehouse) as connection:
        create_arrivals(connection, warehouse, RawRecord, since=1)
        found = {
            name: connection.sql(f"select row_number from {name}").fetchall()
            for name in ("inserted", "deleted")
        }
        kinds = connection.sql(
            "select table_type from information_schema.tables where table_name like '%ted'"
        )
        assert kinds.fetchall() == [(kind,)] * 2
    assert found == {"inserted": [(3,)], "deleted": [(1,)]}


def _raw(*numbers: int) -> list[pa.RecordBatch]:
    names = RawRecord.arrow_schema().names
    row = dict.fromkeys(names) | {"loaded_timestamp": 0, "payload": b"{}"}
    texts = {"load_id": "l1", "source": "own", "source_uri": "file:///a"}
    rows = [row | texts | {"row_number": number} for number in numbers]
    batches: list[pa.RecordBatch] = pa.Table.from_pylist(
        rows, RawRecord.arrow_schema()
    ).to_batches()
    return batches
