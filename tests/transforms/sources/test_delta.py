"""A Delta table that others append to -> raw: every row once; what is no append is said."""

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.errors import GapError, SourceError
from transforms.home import Settings
from transforms.sources import delta
from transforms.sources.ingest import Ingested, ingest, pending_files
from transforms.sources.source import Source
from transforms.sources.streams import Following
from transforms.staging.prepare import prepare
from transforms.warehouse.tables import Warehouse

MakeSource = Callable[..., Source]
Query = Callable[..., list[tuple[Any, ...]]]
ALL = 1 << 30


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The folder of a table that has a row."""
    append(tmp_path / "table", "a")
    return tmp_path / "table"


@pytest.fixture
def source(make_source: MakeSource, table: Path) -> Source:
    return make_source(table, format="delta")


def again(warehouse: Warehouse) -> Warehouse:
    """The same home, as another process opens it."""
    return Warehouse(Settings(home=warehouse.settings.root))


def append(table: Path, *ids: str, **options: Any) -> None:
    rows = pa.table({"id": list(ids), "text": [f"text of {name}" for name in ids]})
    write_deltalake(table, rows, mode="append", **options)


def ids(warehouse: Warehouse) -> list[str]:
    """The rows that raw has, in the order in which they were committed."""
    files: list[str] = []
    for version in range(warehouse.version("raw.records") + 1):
        files += warehouse.changes("raw.records", version - 1, version).added
    payloads = [row for file in files for row in pa.parquet.read_table(file)["payload"].to_pylist()]
    return [json.loads(payload)["id"] for payload in payloads]


def test_rows_of_a_table_are_in_raw_once_with_file_and_position(
    table: Path, source: Source, warehouse: Warehouse, query: Query
) -> None:
    assert pending_files(source, warehouse).n_rows == 1
    assert ingest(source, warehouse) == Ingested(0, 1, [], [])
    append(table, "b", "c")
    append(table, "d")
    assert pending_files(source, warehouse).n_rows == 3
    assert ingest(source, again(warehouse)) == Ingested(0, 3, [], [])
    assert ids(warehouse) == ["a", "b", "c", "d"]
    version = warehouse.version("raw.records")
    assert ingest(source, again(warehouse)) == Ingested(0, 0, [], [])
    assert warehouse.version("raw.records") == version
    (data_file,) = DeltaTable(table, version=0).file_uris()
    assert query("select source_uri, row_number, payload from raw.records order by load_id")[0] == (
        Path(data_file).as_uri(),
        1,
        b'{"id":"a","text":"text of a"}',
    )


def test_rows_of_a_long_file_have_their_position_in_it(
    table: Path,
    source: Source,
    warehouse: Warehouse,
    query: Query,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delta, "BATCH_ROWS", 2048)
    append(table, *(f"r{number}" for number in range(5_000)))
    ingest(source, warehouse)
    sql = "select max(row_number), count(distinct (source_uri, row_number)) from raw.records"
    assert query(sql) == [(5_000, 5_001)]


def test_table_is_read_as_files_of_its_rows_are(
    make_source: MakeSource, warehouse: Warehouse, query: Query, tmp_path: Path, note: Any
) -> None:
    rows = [json.loads(note(name)) for name in ("a", "b", "a")]
    write_deltalake(tmp_path / "table", pa.Table.from_pylist(rows[:2]))
    source = make_source(tmp_path / "table", format="delta")
    ingest(source, warehouse)
    write_deltalake(tmp_path / "table", pa.Table.from_pylist(rows[2:]), mode="append")
    ingest(source, warehouse)
    assert prepare(source, warehouse).duplicates == 1
    assert query("select record_id, text from staging.records order by all") == [
        ("a", "hi"),
        ("b", "hi"),
    ]


def test_a_compacted_and_vacuumed_table_is_read_on(
    table: Path, source: Source, warehouse: Warehouse
) -> None:
    append(table, "b")
    ingest(source, warehouse)
    DeltaTable(table).optimize.compact()
    DeltaTable(table).vacuum(0, dry_run=False, enforce_retention_duration=False)
    append(table, "c")
    DeltaTable(table).optimize.compact()
    assert ingest(source, warehouse).rows_loaded == 1
    assert sorted(ids(warehouse)) == ["a", "b", "c"]


@pytest.mark.parametrize("what", ["delete", "overwrite", "merge"])
def test_version_that_is_no_append_stops_until_it_is_accepted(
    what: str, table: Path, source: Source, warehouse: Warehouse
) -> None:
    append(table, "b", "c")
    ingest(source, warehouse)
    changed = pa.table({"id": ["b"], "text": ["changed"]})
    if what == "delete":
        DeltaTable(table).delete("id = 'b'")
    elif what == "overwrite":
        write_deltalake(table, changed, mode="overwrite")
    else:
        merging = DeltaTable(table).merge(changed, "s.id = t.id", "s", "t")
        merging.when_matched_update_all().execute()
    append(table, "d")
    for _ in range(2):
        with pytest.raises(GapError, match=r"version 2 \([A-Z]+\) deletes or overwrites rows"):
            ingest(source, warehouse)
    assert "--accept-gap takes all rows" in pending_files(source, warehouse).refused[0]
    assert sorted(ids(warehouse)) == ["a", "b", "c"]
    loaded = ingest(source, warehouse, accept_gap=True)
    assert "version 2" in loaded.notices[0]
    rewritten = {"delete": ["c"], "overwrite": ["b"], "merge": ["b", "c"]}[what]
    assert sorted(ids(warehouse)[3:-1]) == rewritten
    assert ids(warehouse)[-1] == "d"
    assert ingest(source, warehouse) == Ingested(0, 0, [], [])


@pytest.mark.parametrize("lost", ["log", "files"])
def test_versions_that_are_lost_stop_until_the_whole_may_be_read(
    lost: str, table: Path, source: Source, warehouse: Warehouse
) -> None:
    ingest(source, warehouse)
    append(table, "b")
    append(table, "c")
    DeltaTable(table).optimize.compact()
    if lost == "log":
        DeltaTable(table).create_checkpoint()
        (table / "_delta_log" / f"{1:020}.json").unlink()
    else:
        DeltaTable(table).vacuum(0, dry_run=False, enforce_retention_duration=False)
    with pytest.raises(GapError, match=r"--accept-gap reads the table whole"):
        ingest(source, warehouse)
    assert ids(warehouse) == ["a"]
    assert ingest(source, warehouse, accept_gap=True).rows_loaded == 3
    assert sorted(ids(warehouse)) == ["a", "a", "b", "c"]
    append(table, "d")
    assert ingest(source, warehouse).rows_loaded == 1


def test_columns_of_partitions_are_in_the_rows(
    make_source: MakeSource, warehouse: Warehouse, query: Query, tmp_path: Path
) -> None:
    days = [date(2026, 1, 15), None]
    rows = pa.table({"id": ["a", "b"], "day": days, "n": [1, 2], "of": ["x y/%20z", ""]})
    for _ in range(2):  # as it is at first, and as a version adds it
        options = {"mode": "append", "partition_by": ["day", "n", "of"]}
        write_deltalake(tmp_path / "table", rows, **options)
        ingest(make_source(tmp_path / "table", format="delta"), warehouse)
    found = [
        json.loads(row) for (row,) in query("select payload from raw.records order by load_id")
    ]
    a = {"id": "a", "day": "2026-01-15", "n": "1", "of": "x y/%20z"}
    b = {"id": "b", "day": None, "n": "2", "of": None}
    for loaded in (found[:2], found[2:]):
        assert sorted(loaded, key=lambda row: str(row["id"])) == [a, b]


def test_table_that_is_made_again_is_read_whole(
    table: Path, source: Source, warehouse: Warehouse
) -> None:
    ingest(source, warehouse)
    table.rename(table.parent / "former")
    append(table, "b")
    assert ingest(source, warehouse).rows_loaded == 1


def test_a_long_table_is_read_in_several_commits(
    table: Path, source: Source, warehouse: Warehouse, query: Query
) -> None:
    ingest(source, warehouse)
    for number in range(20):
        append(table, *(f"{number}-{row}" for row in range(10)))
    small = Warehouse(warehouse.settings.model_copy(update={"load_bytes": 1_000}))
    assert ingest(source, small).rows_loaded == 200
    sizes = query("select count(*) from raw.records group by load_id order by load_id")
    assert len(sizes) > 5
    assert max(size for (size,) in sizes) <= 40
    assert len({*ids(warehouse)}) == 201


steps = st.tuples(
    st.sampled_from(["append", "compact", "read", "commit", "die"]), st.integers(0, 1)
)


@settings(max_examples=15)
@given(life=st.lists(steps, max_size=15))
def test_whoever_reads_dies_and_commits_each_row_of_a_table_is_in_raw_once(
    make_source: MakeSource,
    tmp_path_factory: pytest.TempPathFactory,
    life: list[tuple[str, int]],
) -> None:
    folder = tmp_path_factory.mktemp("life")
    table, home = folder / "table", folder / "home"
    append(table, "0")
    source, n_rows = make_source(table, format="delta"), 1
    waiting: dict[int, tuple[Following, list[Any]]] = {}
    for what, who in life:
        if what == "append":
            append(table, str(n_rows))
            n_rows += 1
        elif what == "compact":
            DeltaTable(table).optimize.compact()
        elif what == "read":
            reader = Following(source, Warehouse(Settings(home=home)))
            waiting[who] = reader, list(reader.read(None, ALL))
        elif what == "commit" and who in waiting:
            reader, chunks = waiting.pop(who)
            reader.commit(chunks, f"load-{who}")
        elif what == "die":
            waiting.pop(who, None)
    warehouse = Warehouse(Settings(home=home))
    ingest(source, warehouse)
    assert sorted(ids(warehouse), key=int) == [str(number) for number in range(n_rows)]


def test_what_is_no_table_or_cannot_be_read_is_refused(
    make_source: MakeSource, warehouse: Warehouse, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=r"is no Delta table; check `uri`"):
        ingest(make_source(tmp_path / "none", format="delta"), warehouse)
    append(tmp_path / "mapped", "a")
    entry = tmp_path / "mapped" / "_delta_log" / f"{0:020}.json"
    lines = [json.loads(line) for line in entry.read_text().splitlines()]
    for line in lines:
        if "metaData" in line:
            line["metaData"]["configuration"]["delta.columnMapping.mode"] = "id"
            schema = json.loads(line["metaData"]["schemaString"])
            for number, field in enumerate(schema["fields"]):
                names = {"physicalName": field["name"], "id": number}
                field["metadata"] = {f"delta.columnMapping.{key}": names[key] for key in names}
            line["metaData"]["schemaString"] = json.dumps(schema)
        line.get("protocol", {}).update({"minReaderVersion": 2, "minWriterVersion": 5})
        if "add" in line:
            line["add"]["path"] = f"../elsewhere/{line['add']['path']}"
    entry.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(SourceError, match=r"features of Delta that are not read here: columnMap"):
        ingest(make_source(tmp_path / "mapped", format="delta"), warehouse)
    mode = '"delta.columnMapping.mode": "{}"'
    entry.write_text(entry.read_text().replace(mode.format("id"), mode.format("none")))
    with pytest.raises(SourceError, match=r"has data files elsewhere"):
        ingest(make_source(tmp_path / "mapped", format="delta"), warehouse)
