"""Rejected rows: counted, shown whole, and passed exactly once after their cause is fixed."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from transforms.errors import MillraceError, SourceError
from transforms.schemas.base import Contract
from transforms.schemas.staging import (
    AccountedFile,
    DuplicateRow,
    QuarantinedRecord,
    StagedRecord,
)
from transforms.sources.ingest import ingest
from transforms.sources.source import Source
from transforms.staging.accounting import recount
from transforms.staging.prepare import Account, prepare
from transforms.staging.quarantine import list_rules, replay, show
from transforms.warehouse.tables import Warehouse

Killed = Callable[..., AbstractContextManager[None]]
MakeOnce = Callable[[Callable[[], object]], None]
MakeSource = Callable[..., Source]
Note = Callable[..., bytes]
Query = Callable[..., list[tuple[Any, ...]]]
Rejections = Callable[[], dict[int, str]]
Stage = Callable[[Source], Account]
Write = Callable[..., Path]

US_DATE = "01/31/2026 10:00"
MENDED = {
    "record_id": "id",
    "author_id": "author",
    "subject_id": "subject",
    "event_timestamp": (
        "coalesce(try_cast(written as timestamptz), strptime(written, '%m/%d/%Y %H:%M'))"
    ),
    "text": "text",
    "label": "label",
}
TABLES = (
    "select * exclude (loaded_timestamp) from staging.records order by record_id, known_timestamp",
    (
        "select * exclude (loaded_timestamp) from quarantine.records "
        "order by load_id, source_uri, row_number"
    ),
    "select source, load_id, sum(columns('n_.*')) from accounting.files group by all order by all",
)


@pytest.fixture
def tmp_path(same_path: Path) -> Path:
    return same_path


@pytest.fixture
def rejected(
    make_once: MakeOnce, stage: Stage, make_source: MakeSource, write: Write, note: Note
) -> Source:
    """Stage a good row, two with a date in US order (one repeats the other), and invalid JSON."""
    rows = [note("r1"), note("r2", written=US_DATE), b"{", note("r2", written=US_DATE)]
    source = make_source(write("data/a.jsonl", *rows).parent)

    def make() -> None:
        assert stage(source) == Account(read=4, staged=1, quarantined=3)

    make_once(make)
    return source


@pytest.fixture
def mended(rejected: Source, make_source: MakeSource) -> Source:
    """The same source, its mapping fixed to read the date."""
    return make_source(rejected.uri, record=MENDED)


def tables(query: Query) -> list[list[tuple[Any, ...]]]:
    return [query(sql) for sql in TABLES]


KILLS = [AccountedFile, DuplicateRow, StagedRecord, QuarantinedRecord]


@pytest.mark.usefixtures("rejected")
def test_rules_are_listed_with_their_counts(warehouse: Warehouse) -> None:
    rules = list_rules(warehouse)
    assert rules.select("source", "column", "rule", "n_rows", "n_files").rows() == [
        ("notes", "event_timestamp", "not_a_time", 2, 1),
        ("notes", "payload", "not_json", 1, 1),
    ]
    assert rules["first_file"].str.ends_with("/data/a.jsonl").all()


@pytest.mark.usefixtures("rejected")
def test_rejected_rows_are_shown_whole_in_the_order_of_their_files(
    warehouse: Warehouse, note: Note
) -> None:
    rows = show(warehouse, None, 10)
    assert [(row["row_number"], row["rule"]) for row in rows] == [
        (2, "not_a_time"),
        (3, "not_json"),
        (4, "not_a_time"),
    ]
    assert rows[0]["payload"] == note("r2", written=US_DATE)
    assert [row["row_number"] for row in show(warehouse, "not_json", 10)] == [3]
    assert [row["row_number"] for row in show(warehouse, "not_a_time", 1)] == [2]
    assert show(warehouse, "no_such_rule", 10) == []


def test_a_home_in_which_nothing_was_staged_lists_and_shows_nothing(warehouse: Warehouse) -> None:
    assert list_rules(warehouse).is_empty()
    assert show(warehouse, None, 10) == []


def test_replay_where_nothing_was_ever_quarantined_is_an_error(
    make_source: MakeSource, warehouse: Warehouse, write: Write
) -> None:
    with pytest.raises(MillraceError, match="nothing was ever quarantined here"):
        replay(make_source(write("a.jsonl")), warehouse)


def test_replay_of_an_empty_quarantine_does_nothing(
    make_source: MakeSource,
    warehouse: Warehouse,
    stage: Stage,
    write: Write,
    note: Note,
    query: Query,
) -> None:
    source = make_source(write("a.jsonl", note()))
    stage(source)
    found = tables(query)
    assert replay(source, warehouse) == Account()
    assert tables(query) == found
    assert list_rules(warehouse).is_empty()


def test_replay_moves_what_passes_once_the_mapping_is_mended(
    mended: Source, warehouse: Warehouse, query: Query, rejections: Rejections
) -> None:
    assert replay(mended, warehouse) == Account(read=3, staged=1, duplicates=1, quarantined=1)
    assert query("select record_id from staging.records order by 1") == [("r1",), ("r2",)]
    assert rejections() == {3: "payload:not_json"}
    assert recount(warehouse).select(
        "n_read", "n_staged", "n_duplicates", "n_quarantined", "adds_up"
    ).rows() == [(4, 2, 1, 1, True)]


def test_a_replayed_row_keeps_its_place_and_load(
    mended: Source, warehouse: Warehouse, query: Query
) -> None:
    replay(mended, warehouse)
    ((load, number),) = query(
        "select load_id, row_number from staging.records where record_id = 'r2'"
    )
    assert [(load,)] == query("select distinct load_id from raw.records")
    # of two alike the first in the file counts
    assert number == 2


def test_replay_with_the_same_mapping_changes_nothing(
    rejected: Source, warehouse: Warehouse, query: Query
) -> None:
    found = tables(query)
    assert replay(rejected, warehouse) == Account(read=3, quarantined=3)
    assert tables(query) == found


def test_a_second_replay_changes_nothing_more(
    mended: Source, warehouse: Warehouse, query: Query
) -> None:
    replay(mended, warehouse)
    found = tables(query)
    assert replay(mended, warehouse) == Account(read=1, quarantined=1)
    assert tables(query) == found
    assert recount(warehouse)["adds_up"].all()


def test_what_a_replay_let_through_stays_through(
    mended: Source,
    rejected: Source,
    warehouse: Warehouse,
    stage: Stage,
    write: Write,
    note: Note,
    query: Query,
) -> None:
    replay(mended, warehouse)
    write("data/b.jsonl", note("r3", written=US_DATE))
    stage(rejected)
    replay(rejected, warehouse)
    assert query(
        "select parse_filename(source_uri), row_number from quarantine.records order by 1"
    ) == [("a.jsonl", 3), ("b.jsonl", 1)]
    assert recount(warehouse)["adds_up"].all()


def test_replay_reports_the_rule_that_is_broken_now(
    rejected: Source, make_source: MakeSource, warehouse: Warehouse, rejections: Rejections
) -> None:
    replay(make_source(rejected.uri, record={**MENDED, "author_id": "nobody"}), warehouse)
    assert rejections() == {
        2: "author_id:not_nullable",
        3: "payload:not_json",
        4: "author_id:not_nullable",
    }
    assert recount(warehouse)["adds_up"].all()


def test_replay_leaves_other_sources_alone(
    mended: Source,
    make_source: MakeSource,
    warehouse: Warehouse,
    stage: Stage,
    write: Write,
    query: Query,
) -> None:
    stage(make_source(write("b.jsonl", b"[]"), name="others"))
    replay(mended, warehouse)
    assert query("select source, rule from quarantine.records order by 1") == [
        ("notes", "not_json"),
        ("others", "not_an_object"),
    ]
    assert recount(warehouse)["adds_up"].all()


@pytest.mark.parametrize("contract", KILLS)
def test_a_killed_replay_is_finished_by_the_next(
    mended: Source,
    warehouse: Warehouse,
    query: Query,
    rejections: Rejections,
    killed_before: Killed,
    contract: type[Contract],
) -> None:
    with killed_before(contract):
        replay(mended, warehouse)
    replay(mended, warehouse)
    assert query("select record_id from staging.records order by 1") == [("r1",), ("r2",)]
    assert rejections() == {3: "payload:not_json"}
    assert recount(warehouse).select(
        "n_read", "n_staged", "n_duplicates", "n_quarantined", "adds_up"
    ).rows() == [(4, 2, 1, 1, True)]


@pytest.mark.parametrize("contract", KILLS)
def test_a_killed_replay_is_finished_before_more_is_staged(
    mended: Source,
    warehouse: Warehouse,
    stage: Stage,
    write: Write,
    note: Note,
    query: Query,
    killed_before: Killed,
    contract: type[Contract],
) -> None:
    with killed_before(contract):
        replay(mended, warehouse)
    # says the same of r2, at the same instant
    write("data/b.jsonl", note("r2", written=US_DATE), note("r3", written=US_DATE), b"}")
    is_begun = contract is not AccountedFile
    assert stage(mended) == Account(
        read=3, staged=2 - is_begun, duplicates=0 + is_begun, quarantined=1
    )
    replay(mended, warehouse)
    assert query(
        "select record_id, parse_filename(source_uri) from staging.records order by 1"
    ) == [
        ("r1", "a.jsonl"),
        ("r2", "a.jsonl"),
        ("r3", "b.jsonl"),
    ]
    assert query("select payload from quarantine.records order by 1") == [(b"{",), (b"}",)]
    counts = recount(warehouse).select(
        "n_read", "n_staged", "n_duplicates", "n_quarantined", "adds_up"
    )
    assert counts.rows() == [(4, 2, 1, 1, True), (3, 1, 1, 1, True)]


@pytest.mark.parametrize("contract", [DuplicateRow, StagedRecord, QuarantinedRecord])
def test_a_killed_replay_is_not_finished_with_another_mapping(
    mended: Source,
    rejected: Source,
    warehouse: Warehouse,
    killed_before: Killed,
    contract: type[Contract],
) -> None:
    with killed_before(contract):
        replay(mended, warehouse)
    with pytest.raises(
        SourceError, match="its source file was edited after a run that was killed half-way"
    ):
        replay(rejected, warehouse)
    assert replay(mended, warehouse) == Account(read=1, quarantined=1)
    assert recount(warehouse)["adds_up"].to_list() == [True]


@pytest.mark.parametrize("contract", [AccountedFile, DuplicateRow, StagedRecord])
def test_a_killed_prepare_is_finished_before_a_replay(
    mended: Source,
    warehouse: Warehouse,
    write: Write,
    note: Note,
    killed_before: Killed,
    contract: type[Contract],
) -> None:
    write("data/b.jsonl", note("r2", written=US_DATE, known="2026-01-02T10:00:00Z"))
    ingest(mended, warehouse)
    with killed_before(contract):
        prepare(mended, warehouse)
    assert replay(mended, warehouse) == Account(read=3, staged=1, duplicates=1, quarantined=1)
    counts = recount(warehouse).select(
        "n_read", "n_staged", "n_duplicates", "n_quarantined", "adds_up"
    )
    assert counts.rows() == [(4, 2, 1, 1, True), (1, 0, 1, 0, True)]


def test_a_replay_of_csv_rows_reads_them_with_their_header(
    make_source: MakeSource, warehouse: Warehouse, stage: Stage, write: Write, query: Query
) -> None:
    header = b"id,author,subject,written,known,text,label"
    file = write("a.csv", header, b"r1,ann,tea,01/31/2026 10:00,2026-01-31 10:00,caf\xe9,")
    assert stage(make_source(file)) == Account(read=1, quarantined=1)
    assert replay(make_source(file, encoding="latin-1", record=MENDED), warehouse) == Account(
        read=1, staged=1
    )
    assert query("select text from staging.records") == [("caf\u00e9",)]
    assert recount(warehouse)["adds_up"].all()
