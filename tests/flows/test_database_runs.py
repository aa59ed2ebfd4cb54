"""Runs, plans and the consumer over a database."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from flows.consumer.app import Consumer
from flows.consumer.passes import _Database
from flows.planning import plan_run
from flows.stages import (
    MaintainParameters,
    PipelineParameters,
    pending_work,
    run_erasure,
    run_maintenance,
    run_plain,
)
from transforms.errors import SourceError
from transforms.home import Settings
from transforms.sources.source import load_source
from transforms.upkeep.erase import Wanted
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

SOURCE = """
name: notes
uri: sqlite://notes.db
table: notes
cursor: [updated_at, id]
lag: 0
known: {column: updated_at}
record: {record_id: id, author_id: author, event_timestamp: updated_at, text: text}
"""
SECONDS_TO_SERVE = 120


class Notes:
    """A database of notes, its source file, and a home."""

    def __init__(self, folder: Path) -> None:
        self.file, self.source = folder / "notes.db", folder / "notes.yaml"
        self.source.write_text(SOURCE, "utf-8")
        self.execute("create table notes (id integer primary key, author, updated_at, text)")
        self.parameters = PipelineParameters(source=str(self.source), home=str(folder / "home"))
        self.warehouse = Warehouse(Settings(home=folder / "home"))

    def execute(self, sql: str) -> None:
        with closing(sqlite3.connect(self.file)) as connection, connection:
            connection.execute(sql)

    def add(self, first: int, last: int) -> None:
        self.execute(
            f"insert into notes with recursive n(id) as (select {first} union all select id + 1 "
            f"from n where id < {last}) select id, 'ann', '2026-01-02 10:00:00', 'text ' || id "
            "from n"
        )

    def n_staged(self) -> int:
        return self.warehouse.n_rows("staging.records")


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notes:
    monkeypatch.setenv("MILLRACE_VIEWS", "record_quality")
    return Notes(tmp_path)


def test_run_takes_what_is_new_and_a_second_run_has_nothing_to_do(notes: Notes) -> None:
    source = load_source(notes.source)
    notes.add(1, 20)
    (raw, *_) = plan_run(source, notes.warehouse).steps
    assert (raw.relation, raw.rows, raw.why) == ("raw.records", 20, f"new in {source.uri}")
    summary = run_plain(notes.parameters)
    assert (summary.read, summary.staged, summary.features["record_quality"]) == (20, 20, 20)
    assert pending_work(source, notes.warehouse).nothing
    notes.add(21, 25)
    assert not pending_work(source, notes.warehouse).nothing
    assert run_plain(notes.parameters).staged == 5
    with connect(notes.warehouse) as connection:
        sql = "select source_uri, n_read from accounting.files order by all"
        loads = connection.sql(sql).fetchall()
    assert loads == [(f"sqlite://{notes.file}/notes#{page}", n) for page, n in ((1, 20), (2, 5))]


def test_the_id_of_an_erased_row_leaves_the_log_once_rows_after_it_are_read(notes: Notes) -> None:
    home, sql = notes.warehouse.settings.root, "insert into notes values ({}, '{}', '{}', 'a text')"
    notes.execute(sql.format(17170001, "ann", "2026-01-02 10:00:00"))
    run_plain(notes.parameters)
    notes.execute(sql.format(17170002, "ben", "2026-01-02 11:00:00"))
    run_plain(notes.parameters)
    assert named(home, b"17170001") == [f"{1:020}.json"]
    run_erasure(home, Wanted(author="ann"), is_dry=False)
    assert named(home, b"17170001") == []
    assert named(home, b"17170002") == [f"{2:020}.json"]  # from here the source is read on
    notes.execute(sql.format(17170003, "cem", "2026-01-02 12:00:00"))
    assert run_plain(notes.parameters).staged == 1
    assert named(home, b"17170002") == [f"{2:020}.json"]
    run_maintenance(MaintainParameters(home=str(home)), n_reads=0)
    assert named(home, b"17170002") == []
    assert pending_work(load_source(notes.source), Warehouse(Settings(home=home))).nothing
    assert Warehouse(Settings(home=home)).table_at("raw.records", 2).version() == 2


def named(home: Path, value: bytes) -> list[str]:
    """The entries of raw's log that have a value."""
    log = home / "raw" / "records" / "_delta_log"
    return sorted(path.name for path in log.glob("*.json") if value in path.read_bytes())


def test_a_database_that_does_not_answer_stops_a_run_in_one_line(notes: Notes) -> None:
    notes.file.unlink()
    with pytest.raises(SourceError, match=r"^notes: sqlite://.*: cannot be read \(.*\); check"):
        run_plain(notes.parameters)


def test_database_is_due_when_it_has_rows_or_does_not_answer(
    notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.consumer.passes.SECONDS_BETWEEN_LOOKS", 0)
    source = load_source(notes.source)
    database = _Database(source, notes.parameters.settings())
    assert database.load(source, notes.warehouse).rows_loaded == 0
    assert not database.is_due()
    notes.add(1, 2)
    assert database.is_due()
    assert database.load(source, notes.warehouse).rows_loaded == 2
    assert not database.is_due()
    notes.file.unlink()
    assert database.is_due()


@pytest.mark.service
def test_consumer_takes_rows_as_they_appear(notes: Notes) -> None:
    consumer = Consumer(load_source(notes.source), notes.parameters, max_bytes=1 << 20)
    consumer.start()
    try:
        for last in (1, 2):
            notes.add(last, last)
            until = time.monotonic() + SECONDS_TO_SERVE
            while notes.n_staged() < last:
                assert time.monotonic() < until
                time.sleep(0.1)
    finally:
        consumer.stop()
