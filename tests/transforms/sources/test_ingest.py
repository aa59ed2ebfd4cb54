"""source -> raw: every byte of every file exactly once, in repeated and concurrent runs."""

import gzip
import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transforms.home import Settings
from transforms.schemas.raw import RawRecord
from transforms.sources import ingest as ingest_module
from transforms.sources.ingest import Ingested, ingest, pending_files
from transforms.sources.source import Source
from transforms.staging.prepare import prepare
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

MakeSource = Callable[..., Source]
Query = Callable[..., list[tuple[Any, ...]]]
Write = Callable[..., Path]
COUNTS = "select parse_filename(source_uri), count(*) from raw.records group by 1 order by 1"
# an ingest in a separate process, which waits for a signal to begin
INGEST = """
import sys
from pathlib import Path
from transforms.sources.ingest import ingest
from transforms.home import Settings
from transforms.sources.source import load_source
from transforms.warehouse.tables import Warehouse

source, warehouse = load_source(Path(sys.argv[1])), Warehouse(Settings(home=Path(sys.argv[2])))
print("ready", flush=True)
sys.stdin.readline()
print(ingest(source, warehouse).files_loaded)
"""


def test_rows_arrive_unchanged_and_numbered(
    make_source: MakeSource, warehouse: Warehouse, write: Write, query: Query
) -> None:
    rows = [b'{"id": 1}', b"", b"\xff\x00\r", b" <html> "]
    write("data/a.jsonl", *rows)
    assert ingest(make_source(write("data/b.jsonl", b"x").parent), warehouse) == Ingested(
        2, 5, [], []
    )
    sql = (
        "select row_number, payload, header, source from raw.records "
        "where source_uri like '%a.jsonl' order by 1"
    )
    assert query(sql) == [(number, row, None, "notes") for number, row in enumerate(rows, start=1)]


def test_a_csv_row_carries_its_header(
    make_source: MakeSource, warehouse: Warehouse, write: Write, query: Query
) -> None:
    header = b"id,author,subject,written,known,text,label"
    ingest(make_source(write("a.csv", header, b'1,"a', b'b",c')), warehouse)
    assert query("select row_number, header, payload from raw.records order by 1") == [
        (1, header.decode(), b'1,"a'),
        (2, header.decode(), b'b",c'),
    ]


def test_a_second_ingest_loads_nothing(
    make_source: MakeSource, warehouse: Warehouse, write: Write
) -> None:
    source = make_source(write("a.jsonl", b"1", b"2"))
    assert ingest(source, warehouse).rows_loaded == 2
    version = warehouse.versions()
    assert ingest(source, warehouse) == Ingested(0, 0, [], [])
    assert warehouse.versions() == version
    assert pending_files(source, warehouse).files == []


def test_an_empty_file_is_loaded_once_too(
    make_source: MakeSource, warehouse: Warehouse, write: Write
) -> None:
    source = make_source(write("a.jsonl"))
    assert ingest(source, warehouse) == Ingested(1, 0, [], [])
    assert ingest(source, warehouse) == Ingested(0, 0, [], [])


def test_a_file_that_changed_is_loaded_as_a_new_one_and_named(
    make_source: MakeSource, warehouse: Warehouse, write: Write, query: Query
) -> None:
    file = write("a.jsonl", b"1")
    source = make_source(file)
    ingest(source, warehouse)
    prepare(source, warehouse)
    write("a.jsonl", b"2")
    assert ingest(source, warehouse) == Ingested(
        1, 1, [f"{file}: has changed since it was loaded; loaded again, as a new file"], []
    )
    assert query("select payload from raw.records order by load_id") == [(b"1",), (b"2",)]


def test_two_sources_may_read_one_file(
    make_source: MakeSource, warehouse: Warehouse, write: Write, query: Query
) -> None:
    file = write("a.jsonl", b"1")
    assert ingest(make_source(file), warehouse).files_loaded == 1
    assert ingest(make_source(file, name="others"), warehouse) == Ingested(1, 1, [], [])
    assert query("select source from raw.records order by 1") == [("notes",), ("others",)]


def test_a_refused_file_does_not_stop_its_neighbours(
    make_source: MakeSource, warehouse: Warehouse, write: Write, query: Query
) -> None:
    write("data/a.jsonl", b"1")
    broken = write("data/b.jsonl.gz")
    broken.write_bytes(gzip.compress(bytes(range(256)) * 100)[:-200])
    source = make_source(write("data/c.jsonl", b"2", b"3").parent)
    ingested = ingest(source, warehouse)
    assert ingested[:3] == (2, 3, [])
    (line,) = ingested.refused
    assert line.startswith(f"{broken}: refused, cannot be read to its end")
    assert "\n" not in line
    assert query(COUNTS) == [("a.jsonl", 1), ("c.jsonl", 2)]


def test_a_refused_file_is_loaded_once_it_is_whole(
    make_source: MakeSource, warehouse: Warehouse, write: Write, query: Query
) -> None:
    file = write("a.jsonl.gz")
    whole = gzip.compress(b"1\n2\n")
    file.write_bytes(whole[:-3])
    assert len(ingest(make_source(file), warehouse).refused) == 1
    assert len(ingest(make_source(file), warehouse).refused) == 1
    file.write_bytes(whole)
    assert ingest(make_source(file), warehouse) == Ingested(1, 2, [], [])
    assert query(COUNTS) == [("a.jsonl.gz", 2)]


def test_a_file_that_cannot_be_opened_is_refused_in_one_line(
    make_source: MakeSource, warehouse: Warehouse, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = write("data/a.jsonl", b"1")
    source = make_source(write("data/b.jsonl", b"2").parent)

    def digest(stream: Any, name: str) -> Any:
        if stream.name == str(locked):
            raise PermissionError(13, "Permission denied")
        return hashlib.new(name, stream.read())

    monkeypatch.setattr(ingest_module.hashlib, "file_digest", digest)
    assert ingest(source, warehouse) == Ingested(
        1, 1, [], [f"{locked}: refused, cannot be opened (Permission denied)"]
    )


def test_nothing_of_a_refused_file_is_left_on_disk(
    make_source: MakeSource, warehouse: Warehouse, write: Write
) -> None:
    file = write("a.jsonl.gz")
    file.write_bytes(gzip.compress(b"1\n" * 100)[:-3])
    ingest(make_source(file), warehouse)
    assert list(warehouse.folder("raw.records").glob("*.parquet")) == []


def test_files_are_grouped_into_loads_by_their_bytes(
    make_source: MakeSource, tmp_path: Path, write: Write
) -> None:
    for name in "abcde":
        write(f"data/{name}.jsonl", b"x" * (9 if name != "c" else 99))
    warehouse = Warehouse(Settings(home=tmp_path / "home", load_bytes=25))
    assert ingest(make_source(tmp_path / "data"), warehouse) == Ingested(5, 5, [], [])
    with connect(warehouse) as connection:
        sql = (
            "select string_agg(parse_filename(source_uri), ' ' order by source_uri) "
            "from raw.records group by load_id order by load_id"
        )
        assert connection.execute(sql).fetchall() == [
            ("a.jsonl b.jsonl",),
            ("c.jsonl",),
            ("d.jsonl e.jsonl",),
        ]


def test_two_ingests_at_once_load_every_file_once(
    make_source: MakeSource, warehouse: Warehouse, tmp_path: Path, write: Write, query: Query
) -> None:
    for number in range(8):
        write(f"data/{number}.jsonl", *[b"row"] * (number + 1))
    make_source(tmp_path / "data")
    warehouse.create(RawRecord)
    command = [sys.executable, "-c", INGEST, str(tmp_path / "source.yaml"), str(tmp_path / "home")]
    runs = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"MILLRACE_LOAD_BYTES": "20"},
        )
        for _ in range(2)
    ]
    assert [run.stdout.readline() for run in runs if run.stdout] == ["ready\n"] * 2
    for run in runs:
        assert run.stdin
        run.stdin.write("go\n")
        run.stdin.flush()
    loaded = [int(run.communicate(timeout=120)[0]) for run in runs]
    assert sum(loaded) == 8
    assert query(COUNTS) == [(f"{number}.jsonl", number + 1) for number in range(8)]
