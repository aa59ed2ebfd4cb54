"""A source's fields: compared with those of earlier loads; reported, stopped at, or quarantined."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transforms.errors import SchemaChangedError, SourceError
from transforms.schemas.base import Contract
from transforms.schemas.fields import SourceField
from transforms.schemas.staging import (
    AccountedFile,
    DuplicateRow,
    QuarantinedRecord,
    StagedRecord,
)
from transforms.sources.ingest import ingest
from transforms.sources.schema_changes import MAX_FIELDS, OTHERS, newest_load, notices
from transforms.sources.source import Source, describe
from transforms.staging.accounting import recount
from transforms.staging.prepare import Account, prepare
from transforms.staging.preview import look_at_fields
from transforms.staging.quarantine import replay
from transforms.warehouse.tables import Warehouse

Killed = Callable[..., AbstractContextManager[None]]
MakeOnce = Callable[[Callable[[], object]], None]
MakeSource = Callable[..., Source]
Note = Callable[..., bytes]
Query = Callable[..., list[tuple[Any, ...]]]
Rejections = Callable[[], dict[int, str]]
Stage = Callable[[Source], Account]
Write = Callable[..., Path]

NAMES = {"author", "id", "known", "label", "subject", "text", "written"}
DEEP = json.loads("[" * 200 + "]" * 200)
CHANGED = (
    "select field, type, sum(n_rows), change from profiles.fields "
    "where change <> 'same' and load_id <> $first group by all order by all"
)
FIRST = "select min(load_id) from raw.records"


@pytest.fixture
def tmp_path(same_path: Path) -> Path:
    return same_path


@pytest.fixture
def first(
    make_once: MakeOnce,
    stage: Stage,
    make_source: MakeSource,
    write: Write,
    note: Note,
    query: Query,
) -> str:
    """Stage a first load of one good row; the load."""
    source = make_source(write("data/a.jsonl", note("r1", label="good")).parent)
    make_once(lambda: stage(source))
    return str(query(FIRST)[0][0])


def again(make_source: MakeSource, tmp_path: Path, **changes: object) -> Source:
    return make_source(tmp_path / "data", **changes)


def test_first_load_defines(first: str, query: Query) -> None:
    rows = query(
        (
            "select field, type, n_rows, change from profiles.fields where load_id = $first "
            "order by all"
        ),
        first=first,
    )
    assert rows == [(name, "text", 1, "first") for name in sorted(NAMES)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"label": None}, []),  # null goes with all
        ({"extra": 1}, [("extra", "integer", 1, "new")]),
        ({"extra": [1]}, [("extra", "array", 1, "new")]),
        ({"extra": {"a": 1}}, [("extra", "object", 1, "new")]),
        ({"extra": {}}, [("extra", "object", 1, "new")]),
        ({"extra": None}, [("extra", "null", 1, "new")]),
        ({"label": 3}, [("label", "integer", 1, "retyped")]),
        ({"label": True}, [("label", "boolean", 1, "retyped")]),
        (
            {"label": True, 'strange "name"': 1.5},
            [("label", "boolean", 1, "retyped"), ('strange "name"', "number", 1, "new")],
        ),
        ({"deep": DEEP}, [("deep", "array", 1, "new")]),
        ({"deep 'name'": DEEP}, [("deep 'name'", "null", 1, "new")]),  # the name alone
    ],
)
def test_new_and_retyped_fields_are_reported(
    first: str,
    make_source: MakeSource,
    tmp_path: Path,
    write: Write,
    note: Note,
    stage: Stage,
    query: Query,
    changes: dict[str, Any],
    expected: list[tuple[Any, ...]],
) -> None:
    write("data/b.jsonl", note("r2", **changes))
    assert stage(again(make_source, tmp_path)).read == 1
    assert query(CHANGED, first=first) == expected


def test_whole_and_other_numbers_are_one_type(
    make_source: MakeSource, tmp_path: Path, write: Write, note: Note, stage: Stage, query: Query
) -> None:
    for name, value in (("a", 1), ("b", 1.5), ("c", 10**25), ("d", -1)):
        write(f"data/{name}.jsonl", note(name, score=value))
        stage(again(make_source, tmp_path))
    reported = query(
        "select type, change from profiles.fields where field = 'score' order by load_id"
    )
    assert reported == [
        ("integer", "first"),
        ("number", "same"),
        ("number", "same"),
        ("integer", "same"),
    ]


def test_missing_field_is_recorded_by_every_load_and_reported_once(
    first: str,
    warehouse: Warehouse,
    make_source: MakeSource,
    tmp_path: Path,
    write: Write,
    note: Note,
    stage: Stage,
) -> None:
    row = {key: value for key, value in json.loads(note("r2")).items() if key != "label"}
    source = again(make_source, tmp_path)
    for name, said in (("b", 1), ("c", 0)):
        newest = newest_load(warehouse, source.name)
        write(f"data/{name}.jsonl", json.dumps({**row, "id": name}).encode())
        stage(source)
        reported = notices(warehouse, source, newest)
        assert len(reported) == said
        assert (
            not reported
            or 'field "label" is missing, though the source file reads it' in reported[0]
        )
    assert newest_load(warehouse, source.name) > first


def test_field_of_the_mapping_that_no_row_has_is_noticed_from_the_first_load(
    make_source: MakeSource, warehouse: Warehouse, write: Write, note: Note, stage: Stage
) -> None:
    source = make_source(write("a.jsonl", note()), attributes=["chanel"])
    stage(source)
    (said,) = notices(warehouse, source, "")
    assert said.endswith('field "chanel" is missing, though the source file reads it')


def test_columns_of_csv_and_parquet_are_fields(
    make_source: MakeSource, write: Write, tmp_path: Path, stage: Stage, query: Query
) -> None:
    stage(
        make_source(
            write(
                "a.csv",
                b"id,author,subject,written,known,text,label,more",
                b"r1,ann,,2026-01-01,2026-01-01,hi,,x",
            ),
            name="csv",
        )
    )
    table = pa.table(
        {
            "id": ["r2"],
            "author": ["ann"],
            "subject": ["t"],
            "written": ["2026-01-01"],
            "known": ["2026-01-01"],
            "text": ["hi"],
            "label": ["x"],
            "n": [1.5],
            "l": [["a"]],
        }
    )
    pq.write_table(table, tmp_path / "b.parquet")
    stage(make_source(tmp_path / "b.parquet", name="parquet"))
    reported = query(
        (
            "select source, field, type from profiles.fields "
            "where not list_contains($names, field) or type = 'null' order by all"
        ),
        names=list(NAMES),
    )
    assert reported == [
        ("csv", "label", "null"),
        ("csv", "more", "text"),
        ("csv", "subject", "null"),
        ("parquet", "l", "array"),
        ("parquet", "n", "number"),
    ]


def test_other_encodings_have_fields_too(
    make_source: MakeSource, write: Write, note: Note, stage: Stage, query: Query
) -> None:
    row = json.dumps({**json.loads(note()), "größe": 1}, ensure_ascii=False).encode("latin-1")
    stage(make_source(write("a.jsonl", row), encoding="latin-1"))
    assert query("select type from profiles.fields where field = 'größe'") == [("integer",)]


def test_identifiers_in_names_are_masked_and_names_made_of_data_count_as_one(
    make_source: MakeSource, write: Write, note: Note, stage: Stage, query: Query
) -> None:
    many = {f"key{number}": 1 for number in range(MAX_FIELDS)}
    stage(
        make_source(
            write("a.jsonl", note("r1", **{"ann.smith@example.org": 1}), note("r2", **many))
        )
    )
    names = {name for (name,) in query("select field from profiles.fields")}
    assert "<EMAIL_ADDRESS>" in names
    assert not any("smith" in name for name in names)
    assert OTHERS in names
    assert len(names) == MAX_FIELDS + 1


def test_frozen_source_stops_before_anything_is_staged_until_it_is_accepted(
    first: str,
    warehouse: Warehouse,
    make_source: MakeSource,
    tmp_path: Path,
    write: Write,
    note: Note,
    query: Query,
) -> None:
    source = again(make_source, tmp_path, schema="freeze")
    write("data/b.jsonl", note("r2", extra=1, label=2), note("r3"))
    ingest(source, warehouse)
    before = warehouse.versions()
    with pytest.raises(SchemaChangedError) as stopped:
        prepare(source, warehouse)
    reported = str(stopped.value)
    assert "/data/b.jsonl" in reported
    assert '"extra" is new (integer)' in reported
    assert '"label" is integer, was text' in reported
    assert "--accept-schema" in reported
    assert warehouse.versions() == before
    assert prepare(source, warehouse, accept_schema=True) == Account(read=2, staged=2)
    write("data/c.jsonl", note("r4", extra=1, label=2))  # known by now
    ingest(source, warehouse)
    assert prepare(source, warehouse) == Account(read=1, staged=1)
    assert recount(warehouse)["adds_up"].all()
    assert query(CHANGED, first=first) == [
        ("extra", "integer", 1, "new"),
        ("label", "integer", 1, "retyped"),
    ]


def test_frozen_source_stops_where_a_field_that_it_reads_is_missing(
    first: str,
    warehouse: Warehouse,
    make_source: MakeSource,
    tmp_path: Path,
    write: Write,
    note: Note,
) -> None:
    row = {key: value for key, value in json.loads(note("r2")).items() if key != "subject"}
    write("data/b.jsonl", json.dumps(row).encode())
    source = again(make_source, tmp_path, schema="freeze")
    ingest(source, warehouse)
    with pytest.raises(SchemaChangedError, match='"subject" is missing'):
        prepare(source, warehouse)
    mapped = {name: name for name in ("text", "label")} | {
        "record_id": "id",
        "author_id": "author",
        "event_timestamp": "written",
    }
    assert (
        prepare(again(make_source, tmp_path, schema="freeze", record=mapped), warehouse).staged == 1
    )
    assert newest_load(warehouse, "notes") > first


@pytest.mark.usefixtures("first")
def test_field_that_the_source_file_names_is_taken_by_a_frozen_source(
    make_source: MakeSource, tmp_path: Path, write: Write, note: Note, stage: Stage
) -> None:
    write("data/b.jsonl", note("r2", extra=1))
    assert stage(again(make_source, tmp_path, schema="freeze", attributes=["extra"])).staged == 1


@pytest.mark.usefixtures("first")
def test_rows_with_unknown_fields_are_quarantined_until_a_replay_accepts_them(
    warehouse: Warehouse,
    make_source: MakeSource,
    tmp_path: Path,
    write: Write,
    note: Note,
    stage: Stage,
    rejections: Rejections,
    query: Query,
) -> None:
    strict, open_ = (
        again(make_source, tmp_path, schema=policy) for policy in ("quarantine", "evolve")
    )
    write("data/b.jsonl", note("r2", extra="x"), note("r3"), note("r4", label=4), b"{")
    assert stage(strict) == Account(read=4, staged=1, quarantined=3)
    assert rejections() == {
        1: "extra:unknown_field",
        3: "label:retyped_field",
        4: "payload:not_json",
    }
    write("data/c.jsonl", note("r5", extra="x"))  # a quarantined row adds no known field
    assert stage(strict) == Account(read=1, quarantined=1)
    assert replay(strict, warehouse) == Account(read=4, quarantined=4)
    assert replay(open_, warehouse) == Account(read=4, staged=3, quarantined=1)
    write("data/d.jsonl", note("r6", extra="x", label=4))
    assert stage(strict) == Account(read=1, staged=1)
    assert query("select sum(n_rows) from profiles.fields where field = 'extra'") == [(3,)]
    assert recount(warehouse)["adds_up"].all()


def test_loads_that_are_staged_together_are_compared_in_their_order(
    warehouse: Warehouse,
    make_source: MakeSource,
    tmp_path: Path,
    write: Write,
    note: Note,
    rejections: Rejections,
) -> None:
    source = make_source(tmp_path / "data", schema="quarantine")
    for name, changes in (("a", {}), ("b", {"extra": 1}), ("c", {})):
        write(f"data/{name}.jsonl", note(name, **changes))
        ingest(source, warehouse)
    assert prepare(source, warehouse) == Account(read=3, staged=2, quarantined=1)
    assert rejections() == {1: "extra:unknown_field"}
    assert recount(warehouse)["adds_up"].all()


@pytest.mark.parametrize("contract", [SourceField, AccountedFile, DuplicateRow, StagedRecord])
@pytest.mark.parametrize("policy", ["evolve", "freeze", "quarantine"])
def test_killed_run_is_finished_with_the_fields_of_an_undisturbed_one(
    first: str,
    warehouse: Warehouse,
    make_source: MakeSource,
    tmp_path: Path,
    write: Write,
    note: Note,
    query: Query,
    killed_before: Killed,
    contract: type[Contract],
    policy: str,
) -> None:
    source = again(make_source, tmp_path, schema=policy)
    write("data/b.jsonl", note("r2", extra=1), note("r3"))
    ingest(source, warehouse)
    with killed_before(contract):
        prepare(source, warehouse, accept_schema=True)
    is_quarantined = policy == "quarantine"
    assert prepare(source, warehouse) == Account(
        read=2, staged=2 - is_quarantined, quarantined=0 + is_quarantined
    )
    assert query(CHANGED, first=first) == [("extra", "integer", 1 - is_quarantined, "new")]
    assert recount(warehouse)["adds_up"].all()


@pytest.mark.parametrize(
    "contract", [AccountedFile, DuplicateRow, StagedRecord, SourceField, QuarantinedRecord]
)
@pytest.mark.usefixtures("first")
def test_killed_replay_lets_in_once(
    warehouse: Warehouse,
    make_source: MakeSource,
    tmp_path: Path,
    write: Write,
    note: Note,
    stage: Stage,
    query: Query,
    killed_before: Killed,
    contract: type[Contract],
) -> None:
    write("data/b.jsonl", note("r2", extra=1))
    stage(again(make_source, tmp_path, schema="quarantine"))
    source = again(make_source, tmp_path)
    with killed_before(contract):
        replay(source, warehouse)
    replay(source, warehouse)
    assert query(
        "select change, sum(n_rows), count(*) from profiles.fields where field = 'extra' "
        "group by all"
    ) == [("new", 1, 2)]
    assert query("select count(*) from staging.records") == [(2,)]
    assert recount(warehouse)["adds_up"].all()


@pytest.mark.usefixtures("first")
def test_a_look_at_new_files_finds_what_a_run_would(
    warehouse: Warehouse, make_source: MakeSource, tmp_path: Path, write: Write, note: Note
) -> None:
    path = write(
        "data/b.jsonl", note("r2", extra=1), *(note(f"s{number}") for number in range(1_500))
    )
    file = describe(path, None)
    assert file
    before = warehouse.versions()
    looked = look_at_fields(again(make_source, tmp_path, schema="freeze"), warehouse, [file])
    assert (looked.n_rows, looked.n_files, looked.changes) == (
        1_000,
        1,
        ['"extra" is new (integer)'],
    )
    assert len(looked.stops) == 1
    assert warehouse.versions() == before


def test_unknown_policy_is_a_mistake_in_the_source_file(
    make_source: MakeSource, tmp_path: Path
) -> None:
    with pytest.raises(
        SourceError, match="schema: input should be 'evolve', 'freeze' or 'quarantine'"
    ):
        make_source(tmp_path, schema="strict")
