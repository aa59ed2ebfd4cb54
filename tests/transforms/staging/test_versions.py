"""Versions and duplicate rows, in any order of arrival: as in plain Python and as in a rebuild."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.home import Settings
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
from transforms.staging.quarantine import replay
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

Killed = Callable[..., AbstractContextManager[None]]
MakeSource = Callable[..., Source]
Note = Callable[..., bytes]
Query = Callable[..., list[tuple[Any, ...]]]
Stage = Callable[[Source], Account]
Write = Callable[..., Path]

FILES = "abcd"
PLACE = "load_id, source_uri, row_number"
BOOKS = (
    "select load_id, source_uri, sum(columns('n_.*')) from accounting.files group by all "
    "order by all"
)
TABLES = (
    "select * from staging.records order by all",
    f"from staging.duplicate_rows anti join staging.records using ({PLACE}) order by all",
    "select * from quarantine.records order by all",
    BOOKS,
)


def day(number: int) -> str:
    return f"2026-01-{number:02}T10:00:00Z"


def at(number: int) -> datetime:
    return datetime(2026, 1, number, 10, tzinfo=UTC)


# --- moves ---


@pytest.fixture
def arrive(
    make_source: MakeSource, stage: Stage, write: Write, note: Note
) -> Callable[..., Account]:
    """Write a file of rows, given as (text, day known), of one record; stage it."""

    def run(name: str, *rows: tuple[str, int]) -> Account:
        return stage(
            make_source(
                write(
                    f"data/{name}.jsonl",
                    *[note(text=text, known=day(known)) for text, known in rows],
                ).parent
            )
        )

    return run


@pytest.fixture
def versions(query: Query) -> Callable[[], list[tuple[str, int]]]:
    """Return the versions of the record, as (text, day known)."""
    return lambda: query(
        "select text, day(known_timestamp) from staging.records order by known_timestamp"
    )


Arrive = Callable[..., Account]
Versions = Callable[[], list[tuple[str, int]]]


def test_a_late_version_makes_a_duplicate_row_a_version_again(
    arrive: Arrive, versions: Versions, query: Query
) -> None:
    arrive("first", ("x", 1), ("x", 3), ("x", 4))
    # the account is of what arrived; the books have the duplicate row that became a version
    assert arrive("late", ("y", 2)) == Account(read=1, staged=1)
    assert versions() == [("x", 1), ("y", 2), ("x", 3)]
    assert query(
        "select parse_filename(source_uri), row_number from staging.records "
        "where day(known_timestamp) = 3"
    ) == [("first.jsonl", 2)]
    books = [tuple(map(int, counts)) for _, _, *counts in query(BOOKS)]
    assert books == [(3, 2, 1, 0), (1, 1, 0, 0)]


def test_a_late_version_makes_an_equal_version_a_duplicate_row(
    arrive: Arrive, versions: Versions, query: Query
) -> None:
    arrive("first", ("x", 1), ("y", 3))
    assert arrive("late", ("y", 2)) == Account(read=1, staged=1)
    assert versions() == [("x", 1), ("y", 2)]
    assert query(
        "select day(known_timestamp), parse_filename(source_uri), row_number "
        "from staging.duplicate_rows"
    ) == [(3, "first.jsonl", 2)]


def test_a_row_may_move_back_and_forth_and_is_remembered_once(
    arrive: Arrive, versions: Versions, query: Query
) -> None:
    arrive("first", ("x", 1), ("x", 9))
    arrive("back", ("y", 5))
    arrive("forth", ("x", 7))
    assert versions() == [("x", 1), ("y", 5), ("x", 7)]
    arrive("back again", ("z", 8))
    assert versions() == [("x", 1), ("y", 5), ("x", 7), ("z", 8), ("x", 9)]
    assert query("select count(*), count(distinct row_number) from staging.duplicate_rows") == [
        (1, 1)
    ]


def test_what_was_not_taken_of_an_instant_comes_back_when_it_is_said_again(
    arrive: Arrive, versions: Versions, query: Query
) -> None:
    arrive("a", ("x", 1))
    arrive("b", ("y", 1))
    assert versions() == [("y", 1)]
    arrive("c", ("x", 1))
    assert versions() == [("x", 1)]
    assert query("select parse_filename(source_uri) from staging.records") == [("a.jsonl",)]


def test_only_files_that_a_row_leaves_are_rewritten(arrive: Arrive, warehouse: Warehouse) -> None:
    relation = StagedRecord.relation()
    arrive("a", ("x", 1))
    arrive("b", ("y", 5), ("z", 6))
    first, second = sorted(
        warehouse.files(relation), key=lambda file: Path(file).stat().st_mtime_ns
    )
    before = warehouse.versions()[relation]
    arrive("c", ("z", 7), ("x", 8))
    assert warehouse.changes(relation, since=before).removed == []
    arrive("late", ("y", 4))
    assert warehouse.changes(relation, since=before).removed == [second]
    assert first in warehouse.files(relation)


@pytest.mark.parametrize("contract", [QuarantinedRecord, AccountedFile, DuplicateRow, StagedRecord])
def test_a_move_that_was_killed_is_finished_with_no_row_missing_or_doubled(
    arrive: Arrive,
    make_source: MakeSource,
    warehouse: Warehouse,
    write: Write,
    note: Note,
    killed_before: Killed,
    versions: Versions,
    contract: type[Contract],
) -> None:
    arrive("first", ("x", 1), ("x", 3), ("y", 5))
    source = make_source(
        write(
            "data/late.jsonl", note(text="y", known=day(2)), note(text="y", known=day(4)), b"{"
        ).parent
    )
    ingest(source, warehouse)
    with killed_before(contract):
        prepare(source, warehouse)
    assert prepare(source, warehouse) == Account(read=3, staged=2, quarantined=1)
    assert versions() == [("x", 1), ("y", 2), ("x", 3), ("y", 4)]
    assert recount(warehouse)["adds_up"].to_list() == [True, True]
    found = ask(warehouse, TABLES)
    rebuild(source, warehouse)
    assert ask(warehouse, TABLES) == found


# --- histories in any order ---


class Row(NamedTuple):
    """A source row about a record, in days; if `is_odd`, rejected until the mapping is fixed."""

    record: str
    known: int
    written: int
    text: str
    is_odd: bool = False

    @property
    def line(self) -> bytes:
        written = f"odd {day(self.written)}" if self.is_odd else day(self.written)
        return json.dumps(
            {
                "id": self.record,
                "author": "ann",
                "known": day(self.known),
                "written": written,
                "text": self.text,
            }
        ).encode()


class Step(NamedTuple):
    """A file that arrives and is staged, or a replay (no file); killed before a commit if named."""

    file: str | None
    killed_before: type[Contract] | None


History = dict[str, list[Row]]
RECORD = {"record_id": "id", "author_id": "author", "event_timestamp": "written", "text": "text"}
MENDED = {**RECORD, "event_timestamp": "ltrim(written, 'od ')"}
COMMITS = [None, QuarantinedRecord, AccountedFile, DuplicateRow, StagedRecord]

rows = st.builds(
    Row,
    st.sampled_from("rstu"),
    st.integers(1, 4),
    st.integers(1, 2),
    st.sampled_from("xyz"),
    st.booleans(),
)
histories = st.fixed_dictionaries({file: st.lists(rows, max_size=12) for file in FILES})


@st.composite
def steps(draw: st.DrawFn) -> tuple[list[Step], int]:
    """All files in some order and two replays, then after how many steps the mapping is fixed."""
    order = draw(st.permutations([*FILES, None, None]))
    return [Step(file, draw(st.sampled_from(COMMITS))) for file in order], draw(
        st.integers(0, len(order))
    )


def reference(history: History) -> list[tuple[str, datetime, datetime, str]]:
    """Versions in plain Python: each instant's newest (or last), if it changes anything."""
    placed = sorted(
        (row.written, file, number, row)
        for file, rows in history.items()
        for number, row in enumerate(rows)
    )
    one_an_instant = {(row.record, row.known): row for *_, row in placed}
    versions = []
    for _, group in itertools.groupby(sorted(one_an_instant.items()), key=lambda item: item[0][0]):
        said = None
        for _, row in group:
            if said != (row.written, row.text):
                versions.append((row.record, at(row.known), at(row.written), row.text))
            said = (row.written, row.text)
    return versions


def rebuild(source: Source, warehouse: Warehouse) -> None:
    for contract in (StagedRecord, DuplicateRow, QuarantinedRecord, AccountedFile):
        shutil.rmtree(warehouse.folder(contract.relation()))
    prepare(source, warehouse)


def ask(warehouse: Warehouse, queries: Iterable[str]) -> list[list[tuple[Any, ...]]]:
    with connect(warehouse) as connection:
        return [connection.execute(query).fetchall() for query in queries]


class Home:
    """A home to which the files of a history arrive."""

    def __init__(self, folder: Path, make_source: MakeSource, killed_before: Killed) -> None:
        self.folder, self.make_source, self.killed_before = folder, make_source, killed_before
        self.warehouse = Warehouse(Settings(home=folder / "home"))
        (folder / "data").mkdir(parents=True)
        (folder / "data" / "_").touch()
        self.use(RECORD)

    def use(self, mapping: dict[str, str]) -> None:
        # any row may be bad
        self.source = self.make_source(
            self.folder / "data", record=mapping, max_quarantined_ratio=1
        )

    def take(self, step: Step, history: History) -> None:
        if step.file:
            (self.folder / "data" / f"{step.file}.jsonl").write_bytes(
                b"".join(row.line + b"\n" for row in history[step.file])
            )
            ingest(self.source, self.warehouse)
        with (
            self.killed_before(step.killed_before, is_certain=False)
            if step.killed_before
            else nullcontext()
        ):
            (prepare if step.file else replay)(self.source, self.warehouse)


@settings(max_examples=6)
@given(history=histories, plan=steps())
def test_any_order_of_loads_replays_and_kills_ends_as_a_rebuild_does(
    history: History,
    plan: tuple[list[Step], int],
    make_source: MakeSource,
    killed_before: Killed,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    home = Home(tmp_path_factory.mktemp("history"), make_source, killed_before)
    for number, step in enumerate(plan[0]):
        if number == plan[1]:
            # nothing is left unfinished by the mapping that goes
            prepare(home.source, home.warehouse)
            home.use(MENDED)
        if step.file or home.warehouse.table(QuarantinedRecord.relation()):
            home.take(step, history)
    if plan[1] == len(plan[0]):
        prepare(home.source, home.warehouse)
        home.use(MENDED)
    prepare(home.source, home.warehouse)
    replay(home.source, home.warehouse)
    versions = (
        "select record_id, known_timestamp, event_timestamp, text from staging.records order by all"
    )
    assert ask(home.warehouse, [versions]) == [reference(history)]
    assert recount(home.warehouse)["adds_up"].all()
    found = ask(home.warehouse, TABLES)
    rebuild(home.source, home.warehouse)
    assert ask(home.warehouse, TABLES) == found
