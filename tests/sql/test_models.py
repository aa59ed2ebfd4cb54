"""Golden cases of the SQL models: `given.yaml` and `expect.yaml` in `<relation>/<case>/`.

Rows are compared in any order, in the columns that the case names. `params.yaml` has the model's
parameters, `variables.yaml` the connection's variables that it reads.
"""

import itertools
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import yaml

from transforms.features.registry import views
from transforms.features.views.record_duplicates import RecordDuplicates
from transforms.schemas.duplicates import KnownContent, KnownDocument
from transforms.schemas.fields import SourceField
from transforms.schemas.profiles import ColumnProfile, DriftStatistic
from transforms.schemas.raw import RawRecord
from transforms.schemas.staging import (
    AccountedFile,
    Correction,
    DuplicateRow,
    QuarantinedRecord,
    StagedRecord,
)
from transforms.sql import __file__ as sql_package
from transforms.sql import model
from transforms.staging.judging import ACCEPTED, REJECTED

HERE = Path(__file__).parent
SQL = Path(sql_package).parent
MODELS = {path.stem: f"{path.parent.name}/{path.stem}" for path in sorted(SQL.rglob("*.sql"))}
OF_EARLIER = [("earlier_id", pa.int64()), ("is_staged", pa.bool_()), ("author_hash", pa.uint64())]
EARLIER = pa.schema([*StagedRecord.arrow_schema(), *OF_EARLIER])
ARRIVING = {"record_id", "event_timestamp", "content_id"}
LABELLED = pa.schema(
    [
        ("content_id", pa.int64()),
        ("root_id", pa.int64()),
        ("origin_id", pa.string()),
        ("origin_similarity", pa.float64()),
    ]
)
FIRST = pa.schema(
    [*LABELLED, ("record_id", pa.string()), ("event_timestamp", pa.timestamp("us", "UTC"))]
)
CASES = sorted(path.parent for path in HERE.rglob("given.yaml"))
CONTRACTS = (
    RawRecord,
    StagedRecord,
    DuplicateRow,
    QuarantinedRecord,
    Correction,
    AccountedFile,
    SourceField,
    ColumnProfile,
    DriftStatistic,
)
TYPES = {
    contract.relation(): contract.arrow_schema()
    for contract in (*CONTRACTS, *(view.contract for view in views()))
} | {
    "inserted": StagedRecord.arrow_schema(),
    "deleted": StagedRecord.arrow_schema(),
    "relevant_versions": StagedRecord.arrow_schema().append(pa.field("sign", pa.int32())),
    "published_instants": pa.schema(
        [("record_id", pa.string()), ("event_timestamp", pa.timestamp("us", "UTC"))]
    ),
    "corrected_rows": QuarantinedRecord.arrow_schema(),
    "incoming": QuarantinedRecord.arrow_schema(),  # raw rows, or quarantined ones in a replay
    "accepted": ACCEPTED,
    "buffered": StagedRecord.arrow_schema(),
    "earlier_rows": EARLIER,
    "moved_rows": EARLIER,
    "repeated_records": pa.schema([("record_id", pa.string())]),
    "versions": pa.schema([("accepted_id", pa.int64()), ("earlier_id", pa.int64())]),
    "rejected": REJECTED,
    "traced_versions": StagedRecord.arrow_schema(),
    "duplicates.contents": KnownContent.arrow_schema(),
    "duplicates.documents": KnownDocument.arrow_schema(),
    **dict.fromkeys(
        ("indexed_documents", "index_documents", "labelled_documents"), KnownDocument.arrow_schema()
    ),
    "arriving_documents": pa.schema(
        [field for field in KnownDocument.arrow_schema() if field.name in ARRIVING]
    ),
    "described_documents": pa.schema(
        [
            *KnownDocument.arrow_schema(),
            ("is_before", pa.bool_()),
            ("is_statement", pa.bool_()),
            ("run", pa.int64()),
        ]
    ),
    **dict.fromkeys(("known_contents", "fresh_contents"), FIRST),
    "neighbours": pa.schema([("content_id", pa.int64())]),
    "signed_contents": KnownContent.arrow_schema(),
    "members": pa.schema(
        [
            *FIRST,
            ("is_fresh", pa.bool_()),
            ("position", pa.int64()),
        ]
    ),
    "labelled_contents": LABELLED,
    "published_duplicates": RecordDuplicates.arrow_schema(),
}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8")) if path.is_file() else None


def create(
    connection: duckdb.DuckDBPyConnection, relation: str, rows: list[dict[str, Any]]
) -> None:
    """Make a relation with all columns of its contract, or of the rows if there is none."""
    types = {field.name: field.type for field in TYPES.get(relation, pa.schema([]))}
    names = list(types) or list(rows[0])
    assert {name for row in rows for name in row} <= set(names), relation
    table = pa.table(
        {
            name: pa.array([_as(row.get(name), types.get(name)) for row in rows], types.get(name))
            for name in names
        }
    )
    schema, _, name = relation.rpartition(".")
    connection.execute(f"create schema if not exists {schema or 'main'}")
    connection.register("given_rows", table)
    connection.execute(f'create table {schema or "main"}."{name}" as select * from given_rows')
    connection.unregister("given_rows")


def _as(value: Any, kind: pa.DataType | None) -> Any:
    return value.encode() if kind == pa.binary() and isinstance(value, str) else value


def run(case: Path) -> list[dict[str, Any]]:
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        for relation, rows in read(case / "given.yaml").items():
            create(connection, relation, rows)
        for name, value in (read(case / "variables.yaml") or {}).items():
            connection.execute(f"set variable {name} = $value", {"value": value})
        return (
            connection.sql(model(MODELS[case.parent.name]), params=read(case / "params.yaml"))
            .to_arrow_table()
            .to_pylist()
        )


def in_any_order(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(repr(sorted(row.items())) for row in rows)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}/{case.name}")
def test_model_gives_what_its_case_expects(case: Path) -> None:
    expected = read(case / "expect.yaml")
    columns = list(expected[0])
    found = [{name: _comparable(row[name]) for name in columns} for row in run(case)]
    assert in_any_order(found) == in_any_order(
        [{name: _comparable(row[name]) for name in columns} for row in expected]
    )


def _comparable(value: Any) -> Any:
    """Times as ISO text, as their time zone objects differ; binary as text where it is some."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return value.decode() if isinstance(value, bytes) else value


def test_every_model_has_a_case() -> None:
    covered = {case.parent.name for case in CASES}
    assert sorted(set(MODELS) - covered) == []


def test_every_case_belongs_to_a_model_and_expects_rows() -> None:
    wrong = [
        str(case.relative_to(HERE))
        for case in CASES
        if case.parent.name not in MODELS or not read(case / "expect.yaml")
    ]
    assert wrong == []


def test_every_row_of_a_case_says_why_it_is_there() -> None:
    silent = [
        f"{path.relative_to(HERE)}: {row}"
        for path in sorted(HERE.rglob("given.yaml"))
        for row in rows_without_comment(path)
    ]
    assert silent == []


def rows_without_comment(path: Path) -> list[str]:
    lines = path.read_text("utf-8").splitlines()
    return [
        line
        for above, line in itertools.pairwise(lines)
        if line.startswith("  - ") and not above.startswith("  # ")
    ]
