"""Corrections: rejected rows leave as CSV and return corrected; every rebuild uses them."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors import CorrectionError
from transforms.features.build import featurize
from transforms.home import Settings
from transforms.layout import LAYOUT, write_layout
from transforms.schemas.raw import RawRecord
from transforms.schemas.staging import Correction
from transforms.sources.ingest import ingest
from transforms.sources.source import Source
from transforms.staging.accounting import recount
from transforms.staging.corrections import Broken, Imported, export, import_corrections
from transforms.staging.prepare import Account, prepare
from transforms.staging.quarantine import replay
from transforms.staging.readable import guarded, readable, unguarded, visible
from transforms.upkeep.erase import (
    Wanted,
    begin,
    begun_erasure,
    delete_files,
    erase_rows,
    find,
    recompute_views,
    refuse_what_is_left,
)
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

MakeOnce = Callable[[Callable[[], object]], None]
MakeSource = Callable[..., Source]
Note = Callable[..., bytes]
Query = Callable[..., list[tuple[Any, ...]]]
Rejections = Callable[[], dict[int, str]]
Stage = Callable[[Source], Account]
Write = Callable[..., Path]
Correct = Callable[..., Path]

PERSON = "ann.smith@example.org"
STAGED = "select * exclude (loaded_timestamp) from staging.records order by record_id"


@pytest.fixture
def tmp_path(same_path: Path) -> Path:
    return same_path


@pytest.fixture
def rejected(
    make_once: MakeOnce, stage: Stage, make_source: MakeSource, write: Write, note: Note
) -> Source:
    """Stage a good row, one with an invalid time, and one that is not JSON."""
    rows = [note("r1"), note("r2", written="soon", text=f"from {PERSON}"), b'=cmd("{"']
    source = make_source(write("data/a.jsonl", *rows).parent)

    def make() -> None:
        assert stage(source) == Account(read=3, staged=1, quarantined=2)

    make_once(make)
    return source


@pytest.fixture
def correct(warehouse: Warehouse, tmp_path: Path) -> Correct:
    """Export the rejected rows and fill in corrections by row number; `changes` may edit others."""

    def run(
        corrections: dict[int, str],
        *,
        is_revealed: bool = True,
        delimiter: str = ",",
        **changes: str,
    ) -> Path:
        path = tmp_path / "rows.csv"
        export(warehouse, path, None, is_revealed=is_revealed)
        rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline="")))
        for row in rows:
            row["correction"] = corrections.get(int(row["row_number"]), "")
            row.update(changes)
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
        return path

    return run


@given(st.text())
def test_guarding_from_formulas_is_undone_exactly(text: str) -> None:
    assert unguarded(guarded(text)) == text
    assert not guarded(text).startswith(("=", "+", "-", "@", "\t", "\r"))


@given(st.binary(), st.booleans())
def test_any_bytes_can_be_shown(payload: bytes, is_revealed: bool) -> None:  # noqa: FBT001
    (text,) = readable([payload], is_revealed=is_revealed)
    assert visible(text).isprintable() or not visible(text).isascii()
    assert "\x1b" not in visible(text)


@pytest.mark.parametrize(
    "payload",
    [
        json.dumps({"text": f"from {PERSON}, thanks", "n": [PERSON]}),
        json.dumps({"text": f"from\n{PERSON}"}).replace("@", "\\u0040"),
        '{"text": "' + PERSON.replace("@", "\\u0040"),  # no JSON
        f"r1,{PERSON},hi",
        json.dumps({PERSON: 1}),
    ],
)
def test_identifiers_are_masked_however_they_are_written(payload: str) -> None:
    (shown,) = readable([payload.encode()], is_revealed=False)
    assert "smith" not in shown
    assert "<EMAIL_ADDRESS>" in shown
    assert readable([payload.encode()], is_revealed=True) == [payload]


def test_long_number_is_masked_in_json_too() -> None:
    (shown,) = readable(
        [b'{"card": 4111111111111111, "n": 1234567, "x": "\\ud800"}'], is_revealed=False
    )
    assert "4111" not in shown
    assert '"n": 1234567' in shown


def test_export_is_masked_unless_revealed_and_safe_in_a_spreadsheet(
    rejected: Source, warehouse: Warehouse, tmp_path: Path
) -> None:
    for is_revealed in (False, True):
        assert export(warehouse, tmp_path / "rows.csv", None, is_revealed=is_revealed) == 2
        content = (tmp_path / "rows.csv").read_bytes()
        assert content.startswith(b"\xef\xbb\xbf")
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))
        assert (PERSON in rows[0]["payload"]) == is_revealed
        assert rows[1]["payload"] == '\'=cmd("{"'
        assert [row["correction"] for row in rows] == ["", ""]
    assert export(warehouse, tmp_path / "rows.csv", "not_json", is_revealed=False) == 1
    assert rejected.name == "notes"


def test_export_that_cannot_be_written_is_one_line(
    rejected: Source, warehouse: Warehouse, tmp_path: Path
) -> None:
    with pytest.raises(CorrectionError, match="cannot be written"):
        export(warehouse, tmp_path / "no" / "rows.csv", None, is_revealed=False)
    assert rejected.name == "notes"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_corrected_rows_pass_in_their_place_and_raw_stays(
    rejected: Source,
    correct: Correct,
    warehouse: Warehouse,
    note: Note,
    query: Query,
    rejections: Rejections,
    delimiter: str,
) -> None:
    raw = query("select * from raw.records order by row_number")
    path = correct({2: note("r2").decode(), 3: "{"}, delimiter=delimiter)
    version = warehouse.versions()
    expected = Imported(2, 2, [Broken(3, "payload", "not_json")])
    assert import_corrections(path, rejected, warehouse, is_dry=True) == expected
    assert warehouse.versions() == version
    assert import_corrections(path, rejected, warehouse, is_dry=False) == expected
    assert import_corrections(path, rejected, warehouse, is_dry=False) == Imported(2, 0, [])
    assert replay(rejected, warehouse) == Account(read=2, staged=1, quarantined=1)
    assert query(
        "select source_uri like '%/a.jsonl', row_number, text from staging.records "
        "where record_id = 'r2'"
    ) == [(True, 2, "hi")]
    assert rejections() == {3: "payload:not_json"}
    assert query("select payload from quarantine.records") == [(b'=cmd("{"',)]  # as it came
    assert query("select * from raw.records order by row_number") == raw
    assert recount(warehouse)["adds_up"].all()


def test_newest_correction_counts_and_older_ones_are_kept(
    rejected: Source, correct: Correct, warehouse: Warehouse, note: Note, query: Query
) -> None:
    for written in ("later", "2026-01-02T00:00:00Z"):
        import_corrections(
            correct({2: note("r2", written=written).decode()}), rejected, warehouse, is_dry=False
        )
    assert replay(rejected, warehouse).staged == 1
    assert query(
        "select count(*), count(distinct original_digest) from quarantine.corrections"
    ) == [(2, 1)]


def test_rebuild_from_raw_and_corrections_gives_the_same(
    rejected: Source,
    correct: Correct,
    warehouse: Warehouse,
    note: Note,
    query: Query,
    tmp_path: Path,
) -> None:
    import_corrections(correct({2: note("r2").decode()}), rejected, warehouse, is_dry=False)
    replay(rejected, warehouse)
    for contract in (RawRecord, Correction):
        shutil.copytree(
            warehouse.folder(contract.relation()),
            tmp_path / "again" / contract.relation().replace(".", "/"),
        )
    again = Warehouse(Settings(home=tmp_path / "again"))
    write_layout(again.settings.root, LAYOUT)
    prepare(rejected, again)
    with connect(again) as connection:
        assert connection.sql(STAGED).fetchall() == query(STAGED)
        kept = "select row_number, rule, payload from quarantine.records"
        assert connection.sql(kept).fetchall() == query(kept)
    assert recount(again).drop("source").rows() == recount(warehouse).drop("source").rows()


def test_rows_of_csv_are_corrected_as_csv_in_the_encoding_of_their_file(
    make_source: MakeSource,
    warehouse: Warehouse,
    stage: Stage,
    write: Write,
    correct: Correct,
    query: Query,
) -> None:
    file = write(
        "a.csv",
        b"id,author,subject,written,known,text,label",
        b"r1,ann,tea,soon,2026-01-31 10:00,caf\xe9,",
    )
    source = make_source(file, encoding="latin-1")
    assert stage(source) == Account(read=1, quarantined=1)
    path = correct({1: "r1,ann,tea,2026-01-31 10:00,2026-01-31 10:00,\u00e9t\u00e9,"})
    assert import_corrections(path, source, warehouse, is_dry=False) == Imported(1, 1, [])
    assert replay(source, warehouse) == Account(read=1, staged=1)
    assert query("select text from staging.records") == [("\u00e9t\u00e9",)]
    with pytest.raises(
        CorrectionError, match="row 2: its correction has characters that iso8859-1"
    ):
        import_corrections(_one(path, "\u20ac"), source, warehouse, is_dry=False)


def _one(path: Path, correction: str) -> Path:
    (row,) = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline="")))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow({**row, "correction": correction})
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"load_id": "other"}, "row 2: no such row of notes is in quarantine"),
        ({"row_number": "x"}, "row 2: row_number is not a whole number"),
        ({"payload_digest": "0"}, "row 2: payload_digest is not that of the row"),
        ({"row_number": "2"}, "row 3: corrects a row that is corrected above already"),
    ],
)
def test_file_that_does_not_fit_is_refused_whole_by_its_row(
    rejected: Source,
    correct: Correct,
    warehouse: Warehouse,
    note: Note,
    query: Query,
    changes: dict[str, str],
    said: str,
) -> None:
    path = correct({2: note("r2").decode(), 3: note("r3").decode()}, **changes)
    with pytest.raises(CorrectionError, match=said) as refused:
        import_corrections(path, rejected, warehouse, is_dry=False)
    assert str(path) in str(refused.value)
    assert query("select count(*) from quarantine.corrections") == [(0,)]


def test_mask_in_a_correction_is_refused(
    rejected: Source, correct: Correct, warehouse: Warehouse, note: Note
) -> None:
    path = correct({2: note("r2", text="from <EMAIL_ADDRESS>").decode()}, is_revealed=False)
    with pytest.raises(
        CorrectionError, match="row 2: its correction contains the mask <EMAIL_ADDRESS>"
    ):
        import_corrections(path, rejected, warehouse, is_dry=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", "is not UTF-8"),
        (b"a,b\n1,2\n", "has no column 'load_id'"),
        (b"", "has no column 'load_id'"),
        (None, "cannot be read"),
    ],
)
def test_file_that_is_none_is_one_line(
    rejected: Source, warehouse: Warehouse, tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "rows.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CorrectionError, match=said):
        import_corrections(path, rejected, warehouse, is_dry=False)


def test_later_loads_are_read_as_they_come(
    rejected: Source,
    correct: Correct,
    warehouse: Warehouse,
    note: Note,
    write: Write,
    rejections: Rejections,
) -> None:
    import_corrections(correct({2: note("r2").decode()}), rejected, warehouse, is_dry=False)
    replay(rejected, warehouse)
    write("data/b.jsonl", note("r4"), note("r5", written="soon"))
    ingest(rejected, warehouse)
    assert prepare(rejected, warehouse) == Account(read=2, staged=1, quarantined=1)
    assert rejections() == {2: "event_timestamp:not_a_time", 3: "payload:not_json"}


@pytest.mark.parametrize("author", ["ann", "bob", "cid"])
def test_erasing_who_a_row_named_before_or_after_it_was_corrected_takes_its_corrections_too(
    rejected: Source, correct: Correct, warehouse: Warehouse, note: Note, query: Query, author: str
) -> None:
    """The row came as ann's, was corrected to bob's, which failed, then to cid's, which passed."""
    for name, written in (("bob", "later"), ("cid", "2026-01-02T00:00:00Z")):
        import_corrections(
            correct({2: note("r2", author=name, written=written).decode()}),
            rejected,
            warehouse,
            is_dry=False,
        )
    replay(rejected, warehouse)
    featurize(warehouse, datetime(2026, 6, 1, tzinfo=UTC))
    wanted = Wanted(author=author)
    with connect(warehouse) as connection:
        assert find(connection, warehouse, wanted).rows["quarantine.corrections"] == 2
    begin(warehouse, wanted)
    note_of = begun_erasure(warehouse)
    assert note_of
    erase_rows(warehouse, note_of)
    recompute_views(warehouse, note_of, datetime(2026, 6, 2, tzinfo=UTC))
    delete_files(warehouse, note_of)
    refuse_what_is_left(warehouse, note_of)
    assert query("select count(*) from quarantine.corrections") == [(0,)]
    assert query("select count(*) from staging.records where record_id = 'r2'") == [(0,)]
    payloads = [
        path.read_bytes() for path in warehouse.folder("quarantine.corrections").glob("*.parquet")
    ]
    assert all(len(pl.read_parquet(io.BytesIO(payload))) == 0 for payload in payloads)
    assert recount(warehouse)["adds_up"].all()
