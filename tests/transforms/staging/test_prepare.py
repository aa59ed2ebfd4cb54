"""raw -> staging: each version that changes something, once, with both times, despite kills."""

import json
import logging
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from transforms.errors import DriftError, SourceError
from transforms.home import Settings
from transforms.profiles.drift import watch
from transforms.schemas.base import Contract
from transforms.schemas.staging import (
    AccountedFile,
    DuplicateRow,
    QuarantinedRecord,
    StagedRecord,
)
from transforms.sources.ingest import ingest
from transforms.sources.source import Source, list_files, load_source
from transforms.staging import judging
from transforms.staging import prepare as prepare_module
from transforms.staging.accounting import recount
from transforms.staging.prepare import Account, is_prepared, prepare
from transforms.warehouse.tables import Warehouse

Killed = Callable[..., AbstractContextManager[None]]
MakeSource = Callable[..., Source]
Note = Callable[..., bytes]
Query = Callable[..., list[tuple[Any, ...]]]
Stage = Callable[[Source], Account]
Write = Callable[..., Path]

SAMPLE = Path(__file__).parents[3] / "sources" / "cve_events.yaml"
PLACE = "load_id, source_uri, row_number"
VERSIONS = (
    "select record_id, text, known_timestamp from staging.records "
    "order by record_id, known_timestamp"
)
EVERYTHING = {
    "staging.records": "select * from staging.records order by record_id, known_timestamp",
    # a row that came back as a version is recorded as a duplicate row too
    "staging.duplicate_rows": (
        f"from staging.duplicate_rows anti join staging.records using ({PLACE}) order by {PLACE}"
    ),
    "quarantine.records": f"select * from quarantine.records order by {PLACE}",
    "accounting.files": (
        "select load_id, source, source_uri, sum(columns('n_.*')) from accounting.files "
        "group by all order by all"
    ),
}


# load and stage in a separate process
STAGE = """
import sys
from pathlib import Path
from transforms.sources.ingest import ingest
from transforms.staging.prepare import prepare
from transforms.home import Settings
from transforms.sources.source import load_source
from transforms.warehouse.tables import Warehouse

source, warehouse = load_source(Path(sys.argv[1])), Warehouse(Settings(home=Path(sys.argv[2])))
ingest(source, warehouse)
prepare(source, warehouse)
"""
FIELDS_OF_THE_SAMPLE = (
    *("cve_id", "assigner", "vendor", "product", "date_published", "date_updated", "ingested_at"),
    *("text", "ssvc_exploitation", "state", "cwe", "cvss_severity", "lang"),
)


def day(number: int, hour: int = 10) -> str:
    return f"2026-01-{number:02}T{hour:02}:00:00Z"


def at(number: int, hour: int = 10) -> datetime:
    return datetime(2026, 1, number, hour, tzinfo=UTC)


def test_a_record_is_staged_with_all_its_columns(
    make_source: MakeSource, stage: Stage, write: Write, note: Note, query: Query
) -> None:
    row = note("r1", label="bad", written=day(1), known=day(2), lang="en")
    stage(make_source(write("a.jsonl", row), attributes=["lang"]))
    columns = (
        "record_id, author_id, subject_id, event_timestamp, known_timestamp, text, label, "
        "is_positive, is_tombstone, attributes, source"
    )
    (found,) = query(f"select {columns} from staging.records")
    assert found == (
        "r1",
        "ann",
        "tea",
        at(1),
        at(2),
        "hi",
        "bad",
        True,
        False,
        '{"lang":"en"}',
        "notes",
    )


def test_every_version_that_changes_something_is_kept(
    make_source: MakeSource, stage: Stage, write: Write, note: Note, query: Query
) -> None:
    rows = [
        note(known=day(number), text=text) for number, text in enumerate(["a", "b", "a"], start=1)
    ]
    assert stage(make_source(write("a.jsonl", *rows))) == Account(read=3, staged=3)
    assert query(VERSIONS) == [("r1", "a", at(1)), ("r1", "b", at(2)), ("r1", "a", at(3))]


def test_a_row_that_changes_nothing_is_a_duplicate_row(
    make_source: MakeSource, stage: Stage, write: Write, note: Note, query: Query
) -> None:
    rows = [note(known=day(number)) for number in (1, 2, 3)]
    assert stage(make_source(write("a.jsonl", *rows))) == Account(read=3, staged=1, duplicates=2)
    assert query(VERSIONS) == [("r1", "hi", at(1))]


@pytest.mark.parametrize(
    "change",
    [
        {"author": "bob"},
        {"subject": None},
        {"written": day(1, 9)},
        {"text": "ho"},
        {"label": "bad"},
        {"lang": "de"},
    ],
)
def test_a_change_of_any_column_is_a_version(
    make_source: MakeSource, stage: Stage, write: Write, note: Note, change: dict[str, object]
) -> None:
    rows = [
        note(written=day(1), known=day(2), lang="en"),
        note(**{"written": day(1), "known": day(3), "lang": "en", **change}),
    ]
    assert stage(make_source(write("a.jsonl", *rows), attributes=["lang"])) == Account(
        read=2, staged=2
    )


def test_a_field_that_nobody_maps_makes_no_version(
    make_source: MakeSource, stage: Stage, write: Write, note: Note
) -> None:
    rows = [note(known=day(1), delivery=1), note(known=day(2), delivery=2)]
    assert stage(make_source(write("a.jsonl", *rows))) == Account(read=2, staged=1, duplicates=1)


def test_a_duplicate_row_may_be_of_a_later_load(
    make_source: MakeSource, stage: Stage, write: Write, note: Note, query: Query
) -> None:
    source = make_source(write("data/a.jsonl", note(known=day(1))).parent)
    stage(source)
    write("data/b.jsonl", note(known=day(2)), note("r2", known=day(2)))
    assert stage(source) == Account(read=2, staged=1, duplicates=1)
    assert query(VERSIONS) == [("r1", "hi", at(1)), ("r2", "hi", at(2))]


def test_a_version_known_before_what_is_staged_is_kept_at_its_own_time(
    make_source: MakeSource, stage: Stage, write: Write, note: Note, query: Query
) -> None:
    source = make_source(write("data/a.jsonl", note(text="new", known=day(5))).parent)
    stage(source)
    write("data/b.jsonl", note(text="old", known=day(1)))
    assert stage(source) == Account(read=1, staged=1)
    assert query(VERSIONS) == [("r1", "old", at(1)), ("r1", "new", at(5))]


def test_of_one_instant_the_newest_written_counts(
    make_source: MakeSource, stage: Stage, write: Write, note: Note, query: Query
) -> None:
    rows = [
        note(text="first", written=day(1)),
        note(text="newest", written=day(1, 11)),
        note(text="third", written=day(1)),
    ]
    assert stage(make_source(write("a.jsonl", *rows))) == Account(read=3, staged=1, duplicates=2)
    assert query("select text from staging.records") == [("newest",)]


def test_of_one_instant_written_at_once_the_last_row_counts(
    make_source: MakeSource, stage: Stage, write: Write, note: Note, query: Query
) -> None:
    write("data/a.jsonl", note(text="first"), note(text="second"))
    stage(make_source(write("data/b.jsonl", note(text="third"), note(text="last")).parent))
    assert query("select text from staging.records") == [("last",)]


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_of_one_instant_the_same_row_counts_whichever_is_loaded_first(
    make_source: MakeSource, stage: Stage, write: Write, note: Note, query: Query, names: str
) -> None:
    source = make_source(write("data/_").parent)
    for name in names:
        write(f"data/{name}.jsonl", note(text=name))
        stage(source)
    assert query("select text from staging.records") == [("b",)]


def test_of_rows_that_say_the_same_at_one_instant_the_first_loaded_is_staged(
    make_source: MakeSource, stage: Stage, write: Write, note: Note, query: Query
) -> None:
    source = make_source(write("data/b.jsonl", note(), note()).parent)
    stage(source)
    write("data/a.jsonl", note())
    assert stage(source) == Account(read=1, duplicates=1)
    assert query("select parse_filename(source_uri), row_number from staging.records") == [
        ("b.jsonl", 1)
    ]


def test_a_tombstone_is_a_version_and_needs_no_text(
    make_source: MakeSource, stage: Stage, write: Write, note: Note, query: Query
) -> None:
    rows = [
        note(known=day(1)),
        note(known=day(2), text=None, state="gone"),
        note(known=day(3), state="here"),
    ]
    assert stage(make_source(write("a.jsonl", *rows), tombstone="state = 'gone'")) == Account(
        read=3, staged=3
    )
    assert query("select text, is_tombstone from staging.records order by known_timestamp") == [
        ("hi", False),
        (None, True),
        ("hi", False),
    ]


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ("at_event", [at(1), at(2)]),
        ({"column": "known"}, [at(3), at(3)]),
        ({"column": "known::timestamptz + interval 1 day"}, [at(4), at(4)]),
    ],
)
def test_the_source_says_when_a_row_was_known(
    make_source: MakeSource,
    stage: Stage,
    write: Write,
    note: Note,
    query: Query,
    known: object,
    expected: list[datetime],
) -> None:
    rows = [note(f"r{number}", written=day(number), known=day(3)) for number in (1, 2)]
    stage(make_source(write("a.jsonl", *rows), known=known))
    assert [
        known
        for (known,) in query("select known_timestamp from staging.records order by row_number")
    ] == expected


def test_a_live_source_knows_a_row_when_it_is_loaded(
    make_source: MakeSource, stage: Stage, write: Write, note: Note, query: Query
) -> None:
    begin = datetime.now(UTC)
    stage(make_source(write("a.jsonl", note()), known="at_load"))
    ((known, loaded),) = query("select known_timestamp, loaded_timestamp from staging.records")
    assert known == loaded
    assert begin <= known <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2024-05-08T20:00:12", datetime(2024, 5, 8, 20, 0, 12, tzinfo=UTC)),
        ("2024-05-08T20:00:12Z", datetime(2024, 5, 8, 20, 0, 12, tzinfo=UTC)),
        ("2024-05-08T20:00:12.345Z", datetime(2024, 5, 8, 20, 0, 12, 345_000, tzinfo=UTC)),
        ("2024-05-08T20:00:12.345678", datetime(2024, 5, 8, 20, 0, 12, 345_678, tzinfo=UTC)),
        ("2024-05-08T20:00:12.345678Z", datetime(2024, 5, 8, 20, 0, 12, 345_678, tzinfo=UTC)),
        ("2024-05-08T20:00:12.345678999Z", datetime(2024, 5, 8, 20, 0, 12, 345_678, tzinfo=UTC)),
        ("2024-05-08T20:00:12+02:00", datetime(2024, 5, 8, 18, 0, 12, tzinfo=UTC)),
        ("2024-05-08 20:00:12 Europe/Berlin", datetime(2024, 5, 8, 18, 0, 12, tzinfo=UTC)),
        ("2024-05-08", datetime(2024, 5, 8, tzinfo=UTC)),
        ("1970-01-01T00:00:00.000001Z", datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
    ],
)
def test_a_time_is_read_as_utc_unless_it_says_otherwise(
    make_source: MakeSource,
    stage: Stage,
    write: Write,
    note: Note,
    query: Query,
    written: str,
    expected: datetime,
) -> None:
    stage(make_source(write("a.jsonl", note(written=written))))
    assert query("select event_timestamp from staging.records") == [(expected,)]


def test_the_time_zone_of_the_machine_changes_nothing(
    make_source: MakeSource,
    warehouse: Warehouse,
    write: Write,
    note: Note,
    query: Query,
    tmp_path: Path,
) -> None:
    write("data/a.jsonl", note(written="2026-01-01T10:00:00"))
    write(
        "data/b.csv",
        b"id,author,subject,written,known,text,label",
        b"r2,ann,tea,2026-01-01 10:00:00,2026-01-01,hi,",
    )
    make_source(tmp_path / "data", known="at_load")
    command = [sys.executable, "-c", STAGE, str(tmp_path / "source.yaml"), str(tmp_path / "home")]
    begin = datetime.now(UTC)
    subprocess.run(command, check=True, env={"TZ": "Asia/Tokyo"})
    assert query("select distinct event_timestamp from staging.records") == [(at(1),)]
    assert all(
        begin <= known <= datetime.now(UTC)
        for (known,) in query("select known_timestamp from staging.records")
    )
    assert recount(warehouse)["adds_up"].all()


def test_attributes_keep_the_types_of_json(
    make_source: MakeSource, stage: Stage, write: Write, note: Note, query: Query
) -> None:
    fields = {
        "score": 9.8,
        "n": 12345678901234567,
        "ok": True,
        "nothing": None,
        "tags": ["a", {"b": 1}],
        'it\'s "a.b"': "\u00fc",
    }
    stage(make_source(write("a.jsonl", note(**fields)), attributes=[*fields, "missing"]))
    ((attributes,),) = query("select attributes from staging.records")
    assert json.loads(attributes) == {**fields, "missing": None}


def test_attributes_of_a_csv_are_text(
    make_source: MakeSource, stage: Stage, write: Write, query: Query
) -> None:
    header, record = (
        b"id,author,subject,written,known,text,label,score,note",
        b"r1,ann,tea,2026-01-01,2026-01-01,hi,,9.8,",
    )
    stage(make_source(write("a.csv", header, record), attributes=["score", "note"]))
    ((attributes,),) = query("select attributes from staging.records")
    assert json.loads(attributes) == {"score": "9.8", "note": None}


def test_without_attributes_there_are_none(
    make_source: MakeSource, stage: Stage, write: Write, note: Note, query: Query
) -> None:
    stage(make_source(write("a.jsonl", note())))
    assert query("select attributes from staging.records") == [(None,)]


def test_a_label_is_positive_if_the_source_says_so(
    make_source: MakeSource, stage: Stage, write: Write, note: Note, query: Query
) -> None:
    rows = [
        note(f"r{number}", label=label) for number, label in enumerate(["poc", "PoC", "none", None])
    ]
    record = {
        "record_id": "id",
        "author_id": "author",
        "event_timestamp": "written",
        "text": "text",
        "label": "lower(label)",
    }
    stage(make_source(write("a.jsonl", *rows), positive_labels=["poc", "active"], record=record))
    labels = query("select label, is_positive from staging.records order by row_number")
    assert labels == [("poc", True), ("poc", True), ("none", False), (None, False)]


def test_a_parquet_file_is_staged_like_any_other(
    make_source: MakeSource, stage: Stage, tmp_path: Path, query: Query
) -> None:
    frame = pl.DataFrame(
        {
            "id": [1],
            "author": ["ann"],
            "subject": [None],
            "written": [at(1)],
            "known": [at(2)],
            "text": ["hi"],
            "label": [""],
        }
    )
    frame.write_parquet(tmp_path / "a.parquet")
    assert stage(make_source(tmp_path / "a.parquet")) == Account(read=1, staged=1)
    assert query("select record_id, event_timestamp, known_timestamp from staging.records") == [
        ("1", at(1), at(2))
    ]


def test_files_of_all_formats_stand_side_by_side(
    make_source: MakeSource, stage: Stage, write: Write, note: Note, query: Query
) -> None:
    write("data/a.jsonl", note("r1"), b"{", note("r2"))
    write(
        "data/b.csv",
        b"id,author,subject,written,known,text,label",
        b"r3,ann,tea,2026-01-01,2026-01-01,hi,",
        b"r4",
    )
    pl.DataFrame(
        {"id": ["r5"], "author": "ann", "written": at(1), "known": at(1), "text": "hi"}
    ).write_parquet(write("data/c.parquet"))
    assert stage(make_source(write("data/_").parent)) == Account(read=6, staged=4, quarantined=2)
    assert query("select record_id from staging.records order by 1") == [
        ("r1",),
        ("r2",),
        ("r3",),
        ("r5",),
    ]


def test_small_batches_change_nothing(
    make_source: MakeSource, tmp_path: Path, write: Write, note: Note
) -> None:
    source = make_source(
        write("a.jsonl", *[row for number in range(25) for row in (note(f"r{number}"), b"{")])
    )
    warehouse = Warehouse(Settings(home=tmp_path / "home", batch_rows=3))
    ingest(source, warehouse)
    assert prepare(source, warehouse) == Account(read=50, staged=25, quarantined=25)
    assert recount(warehouse)["adds_up"].to_list() == [True]


def test_a_second_prepare_does_nothing(
    make_source: MakeSource, warehouse: Warehouse, stage: Stage, write: Write, note: Note
) -> None:
    source = make_source(write("a.jsonl", note()))
    ingest(source, warehouse)
    assert not is_prepared(source, warehouse)
    stage(source)
    versions = warehouse.versions()
    assert prepare(source, warehouse) == Account()
    assert warehouse.versions() == versions
    assert is_prepared(source, warehouse)


def test_a_home_without_rows_is_prepared_to_nothing(
    make_source: MakeSource, warehouse: Warehouse, write: Write
) -> None:
    assert prepare(make_source(write("a.jsonl")), warehouse) == Account()
    assert recount(warehouse).is_empty()


def test_what_was_loaded_and_not_staged_does_not_add_up(
    make_source: MakeSource, warehouse: Warehouse, write: Write, note: Note
) -> None:
    assert recount(warehouse).is_empty()
    ingest(make_source(write("a.jsonl", note())), warehouse)
    assert recount(warehouse).select("n_read", "n_staged", "adds_up").rows() == [(1, 0, False)]


def test_sources_are_prepared_each_with_its_own_mapping(
    make_source: MakeSource, warehouse: Warehouse, write: Write, note: Note, query: Query
) -> None:
    notes = make_source(write("a.jsonl", note("r1")))
    others = make_source(write("b.jsonl", note("r2")), name="others", positive_labels=[])
    ingest(notes, warehouse)
    ingest(others, warehouse)
    assert prepare(others, warehouse) == Account(read=1, staged=1)
    assert recount(warehouse)["adds_up"].to_list() == [False, True]
    assert prepare(notes, warehouse) == Account(read=1, staged=1)
    assert recount(warehouse)["adds_up"].to_list() == [True, True]
    assert query("select source, record_id from staging.records order by 1") == [
        ("notes", "r1"),
        ("others", "r2"),
    ]


@pytest.mark.parametrize("contract", [QuarantinedRecord, AccountedFile, DuplicateRow, StagedRecord])
@pytest.mark.parametrize("is_more_loaded", [False, True])
def test_a_killed_prepare_is_finished_with_nothing_twice(
    make_source: MakeSource,
    warehouse: Warehouse,
    write: Write,
    note: Note,
    query: Query,
    killed_before: Killed,
    contract: type[Contract],
    is_more_loaded: bool,  # noqa: FBT001 - a case
) -> None:
    source = make_source(write("data/a.jsonl", note("r1"), b"{", note("r2"), note("r2")).parent)
    ingest(source, warehouse)
    with killed_before(contract):
        prepare(source, warehouse)
    if is_more_loaded:
        write("data/b.jsonl", b"}", note("r3"))
        ingest(source, warehouse)
    more = int(is_more_loaded)
    assert prepare(source, warehouse) == Account(4 + 2 * more, 2 + more, 1, 1 + more)
    assert recount(warehouse)["adds_up"].to_list() == [True] * (1 + more)
    assert query("select count(*) from quarantine.records") == [(1 + more,)]
    assert query("select count(*), count(distinct record_id) from staging.records") == [
        (2 + more, 2 + more)
    ]
    assert query("select sum(n_read)::int from accounting.files") == [(4 + 2 * more,)]


@pytest.mark.parametrize("contract", [AccountedFile, DuplicateRow, StagedRecord])
def test_a_killed_prepare_is_not_finished_with_another_mapping(
    make_source: MakeSource,
    warehouse: Warehouse,
    write: Write,
    note: Note,
    killed_before: Killed,
    contract: type[Contract],
) -> None:
    source = make_source(write("a.jsonl", note(), note("r2", author=None)))
    ingest(source, warehouse)
    with killed_before(contract):
        prepare(source, warehouse)
    edited = make_source(
        source.uri, record={**source.record.model_dump(), "author_id": "coalesce(author, 'nobody')"}
    )
    with pytest.raises(
        SourceError,
        match=(
            r"^notes: its source file was edited after a run that was killed half-way; put the "
            r"old one back"
        ),
    ):
        prepare(edited, warehouse)
    assert prepare(source, warehouse) == Account(read=2, staged=1, quarantined=1)
    assert prepare(edited, warehouse) == Account()
    assert recount(warehouse)["adds_up"].to_list() == [True]


@pytest.mark.parametrize("is_refused", [False, True])
def test_versions_are_written_while_the_load_is_profiled_and_deleted_if_it_is_refused(
    make_source: MakeSource,
    warehouse: Warehouse,
    write: Write,
    note: Note,
    monkeypatch: pytest.MonkeyPatch,
    is_refused: bool,  # noqa: FBT001 - a case
) -> None:
    source = make_source(write("a.jsonl", note("r1"), note("r2")))
    ingest(source, warehouse)
    folder = warehouse.folder(StagedRecord.relation())
    refused: tuple[str, dict[str, Any]] = ("refused", {})

    def waiting(*arguments: Any, **options: Any) -> None:
        deadline = time.monotonic() + 20
        while not list(folder.glob("*.parquet")) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert list(folder.glob("*.parquet"))
        assert warehouse.files(StagedRecord.relation()) == []
        watch(*arguments, **options)
        if is_refused:
            raise DriftError(*refused)

    with monkeypatch.context() as patch, pytest.raises(DriftError) if is_refused else nullcontext():
        patch.setattr(prepare_module, "watch", waiting)
        assert prepare(source, warehouse) == Account(read=2, staged=2)
    assert len(list(folder.glob("*.parquet"))) == (not is_refused)
    assert prepare(source, warehouse) == Account(*((2, 2) if is_refused else ()))


def test_nothing_is_left_in_the_scratch_folder(
    make_source: MakeSource, warehouse: Warehouse, stage: Stage, write: Write, note: Note
) -> None:
    stage(make_source(write("a.jsonl", note(), b"{")))
    assert list((warehouse.settings.root / "tmp").iterdir()) == []


MARK = "x7Kq9mark"


def marked_rows(note: Note) -> Iterator[bytes]:
    """Rows that carry the mark in every field, and break as many rules as there are."""
    yield from (note(MARK), note(MARK, known="2026-01-01T10:00:00Z", text=f"{MARK}2"))
    yield from (
        note("r1", **{field: value})
        for field in ("author", "text", "written", "known")
        for value in ({MARK: MARK}, None, MARK)
    )
    yield from (
        note(None, text=MARK),
        note(MARK)[:-9],
        MARK.encode(),
        b'"' + MARK.encode() + b'"',
        MARK.encode() + b"\xff",
    )
    yield note("r2", text=MARK).replace(b'"r2"', b'"\\ud800"')


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_no_log_line_nor_account_carries_a_text(
    make_source: MakeSource,
    stage: Stage,
    write: Write,
    note: Note,
    query: Query,
    encoding: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    stage(
        make_source(
            write("a.jsonl", *marked_rows(note)), encoding=encoding, max_quarantined_ratio=1
        )
    )
    printed = capfd.readouterr()
    reasons = query('select "column", rule, digest, source_uri from quarantine.records')
    assert len(reasons) >= 10
    assert MARK not in caplog.text + printed.out + printed.err + str(reasons)


def test_a_gate_that_fails_shows_no_text(
    make_source: MakeSource,
    warehouse: Warehouse,
    write: Write,
    note: Note,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = make_source(
        write(
            "a.jsonl",
            *[note(f"{MARK}{number}", text=MARK) for number in range(9)],
            note(MARK, text=""),
        )
    )
    ingest(source, warehouse)
    nothing_fails = pl.DataFrame(
        schema={
            "row": pl.UInt32,
            **dict.fromkeys(judging.REJECTED.names, pl.String),
            "row_number": pl.Int64,
        }
    )
    monkeypatch.setattr(judging, "judge", lambda _candidates: nothing_fails)
    with pytest.raises(
        Exception, match=r"staging\.records: 1 rows .*break text: empty; nothing was committed"
    ) as caught:
        prepare(source, warehouse)
    assert MARK not in "".join(traceback.format_exception(caught.value))
    monkeypatch.undo()
    assert prepare(source, warehouse) == Account(10, 9, 0, 1)


def rebuild(
    source: Source, warehouse: Warehouse, query: Query
) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Rebuild everything from raw; return the tables before and after."""
    before = {relation: query(sql) for relation, sql in EVERYTHING.items()}
    for relation in EVERYTHING:
        shutil.rmtree(warehouse.folder(relation))
    prepare(source, warehouse)
    return before, {relation: query(sql) for relation, sql in EVERYTHING.items()}


def test_a_rebuild_makes_the_same_tables(
    make_source: MakeSource,
    warehouse: Warehouse,
    stage: Stage,
    write: Write,
    note: Note,
    query: Query,
) -> None:
    source = make_source(tmp := write("data/_").parent)
    write(
        "data/a.jsonl",
        note("r1", known=day(1)),
        b"{",
        note("r2", written=day(1), known=day(2)),
        note("r1", known=day(2)),
    )
    stage(source)
    write(
        "data/b.jsonl",
        note("r2", known=day(2), written=day(2), text="same instant, newer"),
        note("r1", known=day(3), text="new"),
    )
    stage(source)
    write(
        "data/0.jsonl",
        note("r2", known=day(2), text="same instant, first by name"),
        note("r0", written="2999-01-01"),
        note("r3"),
    )
    stage(source)
    before, after = rebuild(source, warehouse, query)
    assert after == before
    assert len(list(tmp.iterdir())) == 4


def test_a_rebuild_makes_the_same_tables_after_a_late_version_between_duplicate_rows(
    make_source: MakeSource,
    warehouse: Warehouse,
    stage: Stage,
    write: Write,
    note: Note,
    query: Query,
) -> None:
    source = make_source(write("data/_").parent)
    for name, number, text in (("a", 1, "a"), ("c", 3, "a"), ("b", 2, "b")):
        write(f"data/{name}.jsonl", note(known=day(number), text=text))
        stage(source)
    before, after = rebuild(source, warehouse, query)
    assert after == before


def sample_content(event: dict[str, Any]) -> tuple[Any, ...]:
    """What makes a version of a sample record differ from the version before."""
    folded = [
        (event[name] or "").lower() if event["vendor"] and event["product"] else ""
        for name in ("vendor", "product")
    ]
    label = event["ssvc_exploitation"] and event["ssvc_exploitation"].lower()
    names = ("assigner", "text", "cwe", "cvss_score", "cvss_severity", "state", "lang")
    return (written_of(event), *folded, label, *(event[name] for name in names))


def written_of(event: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(
        (event["date_updated"] or event["date_published"]).removesuffix("Z")
    )


def reference_versions(events: list[dict[str, Any]]) -> int:
    """Count the sample's versions in plain Python: each instant's newest that changes anything."""
    one_an_instant: dict[tuple[str, datetime], dict[str, Any]] = {}
    for event in events:
        place = (event["cve_id"], datetime.fromisoformat(event["ingested_at"]))
        rival = one_an_instant.get(place)
        if rival is None or written_of(event) >= written_of(rival):
            one_an_instant[place] = event
    n_versions = 0
    last: dict[str, tuple[Any, ...]] = {}
    for (cve_id, _), event in sorted(one_an_instant.items(), key=lambda item: item[0]):
        content = sample_content(event)
        n_versions += last.get(cve_id) != content
        last[cve_id] = content
    return n_versions


def test_the_shipped_sample_is_staged_as_a_plain_reference_counts_it(
    warehouse: Warehouse, stage: Stage, query: Query
) -> None:
    source = load_source(SAMPLE)
    fields = {**dict.fromkeys(FIELDS_OF_THE_SAMPLE, pl.String), "cvss_score": pl.Float64}
    events = [
        event
        for file in list_files(source).files
        for event in pl.read_ndjson(file.path, schema=fields).to_dicts()
    ]
    n_versions = reference_versions(events)
    assert len(events) > 30_000
    assert stage(source) == Account(len(events), n_versions, len(events) - n_versions, 0)
    assert query("select count(distinct record_id) from staging.records") == [
        (len({event["cve_id"] for event in events}),)
    ]
    assert warehouse.n_rows("staging.records") == n_versions
