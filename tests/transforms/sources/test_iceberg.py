"""An Iceberg table that others append to -> raw: every row once; what is no append is said."""

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiceberg.catalog import load_catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import DataScan, FileScanTask, Table

from tests.transforms.sources.test_delta import ALL, ids
from transforms.errors import GapError, SourceError
from transforms.home import Settings
from transforms.sources.ingest import Ingested, ingest, pending_files
from transforms.sources.source import Source
from transforms.sources.streams import Following
from transforms.warehouse.tables import Warehouse

MakeSource = Callable[..., Source]
Query = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SqlCatalog:
    """A catalog on SQLite, which the environment says where it is."""
    database, folder = f"sqlite:///{tmp_path}/catalog.db", f"file://{tmp_path}/lake"
    given = {"type": "sql", "uri": database, "warehouse": folder}
    for name, value in given.items():
        monkeypatch.setenv(f"PYICEBERG_CATALOG__DESK__{name.upper()}", value)
    made = load_catalog("desk", **given)
    made.create_namespace("support")
    return made


@pytest.fixture
def table(catalog: SqlCatalog) -> Table:
    """A table that has a row."""
    made = catalog.create_table("support.tickets", rows().schema)
    append(made, "a")
    return made


@pytest.fixture
def source(make_source: MakeSource) -> Source:
    return make_source("iceberg://desk/support.tickets")


def rows(*names: str) -> pa.Table:
    texts = [f"text of {name}" for name in names]
    return pa.table({"id": pa.array(names, pa.string()), "text": pa.array(texts, pa.string())})


def append(table: Table, *names: str) -> None:
    table.append(rows(*names))


def again(warehouse: Warehouse) -> Warehouse:
    """The same home, as another process opens it."""
    return Warehouse(Settings(home=warehouse.settings.root))


def compact(table: Table) -> None:
    """Rewrite all rows, in snapshots that say so, as other engines do and pyiceberg cannot."""
    n_before = len(table.snapshots())
    table.overwrite(table.scan().to_arrow())
    path = Path(table.metadata_location.removeprefix("file://"))
    document = json.loads(path.read_text())
    for snapshot in document["snapshots"][n_before:]:
        snapshot["summary"]["operation"] = "replace"
    path.write_text(json.dumps(document))
    table.refresh()


def test_rows_of_a_table_are_in_raw_once_with_file_and_position(
    table: Table, source: Source, warehouse: Warehouse, query: Query
) -> None:
    (first,) = table.inspect.files()["file_path"].to_pylist()
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
    found = query("select source_uri, row_number, payload from raw.records order by load_id")
    assert found[0] == (first, 1, b'{"id":"a","text":"text of a"}')
    assert sorted(number for _, number, _ in found) == [1, 1, 1, 2]


def test_rows_have_the_columns_of_the_table_whatever_files_call_them(
    catalog: SqlCatalog, make_source: MakeSource, warehouse: Warehouse, query: Query
) -> None:
    table = catalog.create_table("support.days", pa.schema({"id": pa.string(), "day": pa.date32()}))
    with table.update_spec() as change:
        change.add_identity("day")
    table.append(pa.table({"id": ["a"], "day": [date(2026, 1, 15)]}))
    with table.update_schema() as change:
        change.rename_column("id", "ticket")
    ingest(make_source("iceberg://desk/support.days"), warehouse)
    ((payload,),) = query("select payload from raw.records")
    assert json.loads(payload) == {"ticket": "a", "day": "2026-01-15"}


def test_a_compacted_table_is_read_on(table: Table, source: Source, warehouse: Warehouse) -> None:
    append(table, "b")
    ingest(source, warehouse)
    compact(table)
    assert ingest(source, warehouse) == Ingested(0, 0, [], [])
    append(table, "c")
    assert ingest(source, warehouse).rows_loaded == 1
    assert sorted(ids(warehouse)) == ["a", "b", "c"]


@pytest.mark.parametrize("what", ["delete", "overwrite", "upsert"])
def test_snapshot_that_is_no_append_stops_until_it_is_accepted(
    what: str, table: Table, source: Source, warehouse: Warehouse
) -> None:
    append(table, "b", "c")
    ingest(source, warehouse)
    changed = rows("b").set_column(1, "text", pa.array(["changed"]))
    if what == "delete":
        table.delete("id = 'b'")
    elif what == "overwrite":
        table.overwrite(changed)
    else:
        table.upsert(changed, join_cols=["id"])
    snapshot = table.snapshots()[2]
    append(table, "d")
    for _ in range(2):
        with pytest.raises(GapError, match=rf"snapshot {snapshot.snapshot_id} \(\w+\) deletes or"):
            ingest(source, warehouse)
    assert "--accept-gap takes all rows" in pending_files(source, warehouse).refused[0]
    assert sorted(ids(warehouse)) == ["a", "b", "c"]
    loaded = ingest(source, warehouse, accept_gap=True)
    assert str(snapshot.snapshot_id) in loaded.notices[0]
    rewritten = {"delete": ["c"], "overwrite": ["b"], "upsert": ["b", "c"]}[what]
    assert sorted(ids(warehouse)[3:-1]) == rewritten
    assert ids(warehouse)[-1] == "d"
    assert ingest(source, warehouse) == Ingested(0, 0, [], [])


@pytest.mark.parametrize("lost", ["expired", "rolled back"])
def test_snapshots_that_are_lost_stop_until_the_whole_may_be_read(
    lost: str, table: Table, source: Source, warehouse: Warehouse
) -> None:
    first = table.current_snapshot().snapshot_id
    append(table, "b")
    ingest(source, warehouse)
    if lost == "expired":
        append(table, "c")
        append(table, "d")
        for snapshot in table.snapshots()[:3]:
            table.maintenance.expire_snapshots().by_id(snapshot.snapshot_id).commit()
    else:
        table.manage_snapshots().rollback_to_snapshot(first).commit()
        append(table, "c")
    with pytest.raises(GapError, match=r"snapshot 2 .* is expired or rolled back"):
        ingest(source, warehouse)
    assert sorted(ids(warehouse)) == ["a", "b"]
    n_rows = {"expired": 4, "rolled back": 2}[lost]
    assert ingest(source, warehouse, accept_gap=True).rows_loaded == n_rows
    append(table, "e")
    assert ingest(source, warehouse).rows_loaded == 1


steps = st.tuples(st.sampled_from(["append", "read", "commit", "die"]), st.integers(0, 1))


@settings(max_examples=5)
@given(life=st.lists(steps, max_size=10))
def test_whoever_reads_dies_and_commits_each_row_of_an_iceberg_table_is_in_raw_once(
    catalog: SqlCatalog,
    make_source: MakeSource,
    tmp_path_factory: pytest.TempPathFactory,
    life: list[tuple[str, int]],
) -> None:
    home = tmp_path_factory.mktemp("life")
    table = catalog.create_table(f"support.{home.name}", rows().schema)
    source, n_rows = make_source(f"iceberg://desk/support.{home.name}"), 0
    waiting: dict[int, tuple[Following, list[Any]]] = {}
    for what, who in life:
        if what == "append":
            append(table, str(n_rows))
            n_rows += 1
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
    catalog: SqlCatalog,
    table: Table,
    source: Source,
    make_source: MakeSource,
    warehouse: Warehouse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(SourceError, match=r"opened \(NoSuchTableError\); .*PYICEBERG_CATALOG__DES"):
        ingest(make_source("iceberg://desk/support.none"), warehouse)
    with pytest.raises(SourceError, match=r"is not the address of an Iceberg table, iceberg://CAT"):
        make_source("iceberg://tickets")
    with pytest.raises(SourceError, match=r"format: is about files, and `uri` names a table"):
        make_source("iceberg://desk/support.tickets", format="parquet")
    catalog.create_table("support.old", rows().schema, properties={"format-version": "1"})
    with pytest.raises(SourceError, match=r"of format 1.*upgrade it to format 2"):
        ingest(make_source("iceberg://desk/support.old"), warehouse)
    (task,) = table.scan().plan_files()
    deleting = FileScanTask(task.file, {task.file})
    monkeypatch.setattr(DataScan, "plan_files", lambda _: [deleting])
    with pytest.raises(SourceError, match=r"has delete files, .* system.rewrite_data_files"):
        ingest(source, warehouse)
