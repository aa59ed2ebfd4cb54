"""Staging keeps a field's JSON value as it came, a number to its last zero."""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transforms.sources.reading import read_payloads
from transforms.sources.source import RecordMapping, Source, SourceFile
from transforms.sql import model
from transforms.staging.mapping import candidates_parameters, candidates_sql

PAGE = (
    (Path(__file__).parents[3] / "docs" / "sources.md").read_text("utf-8").partition("## Values")[2]
)
RECORD = RecordMapping(
    record_id='"the id"', author_id="author", event_timestamp="written", text="text"
)
SOURCE = Source(name="notes", uri="notes.jsonl", known="at_event", record=RECORD)
DECODED = """
create or replace temp table decoded as
select
    'l' as load_id,
    'notes' as source,
    'f' as source_uri,
    generate_subscripts($documents, 1) as row_number,
    now() as loaded_timestamp,
    unnest($documents::varchar[]) as document,
    null as rejection
"""


class Number(NamedTuple):
    """A number by its text, so that 1.1 and 1.10 differ."""

    text: str


NUMBERS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True
)
HARD_NUMBERS = [
    *("-0", "1.10", "1e3", "1E-7", "0.00001", "1e400", "1e-400"),
    *("12345678901234567.0", "9007199254740993.0", "123456789012345678.25"),
]
HARD_NAMES = ["1", "01", "a.b", '"', "\\", "$", "'", "a", "A", "#", "[0]", "*a"]
NAMES = st.one_of(st.text(min_size=1), st.sampled_from(HARD_NAMES)).filter(lambda name: name != "*")
ATOMS = st.one_of(
    *(
        st.none(),
        st.booleans(),
        st.text(),
        NUMBERS.map(Number),
        st.sampled_from(HARD_NUMBERS).map(Number),
    ),
    *(
        st.floats(allow_nan=False, allow_infinity=False).map(repr).map(Number),
        st.integers().map(str).map(Number),
    ),
    # texts that look as numbers do
    NUMBERS.map(lambda number: f": {number}, "),
)
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)
DOCUMENTS = st.lists(
    st.dictionaries(NAMES, VALUES, min_size=1, max_size=4), min_size=1, max_size=10
)


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        opened.execute("set timezone = 'UTC'")
        yield opened


def written(value: Any, *, blank: str = "", is_ascii: bool = False) -> str:
    """Write JSON with numbers as they are given."""
    if isinstance(value, Number):
        return value.text
    if isinstance(value, dict):
        items = [
            (json.dumps(name, ensure_ascii=is_ascii), written(item, blank=blank, is_ascii=is_ascii))
            for name, item in value.items()
        ]
        return f"{{{f',{blank}'.join(f'{name}:{blank}{item}' for name, item in items)}}}"
    if isinstance(value, list):
        return (
            f"[{f',{blank}'.join(written(item, blank=blank, is_ascii=is_ascii) for item in value)}]"
        )
    return json.dumps(value, ensure_ascii=is_ascii)


def staged(
    connection: duckdb.DuckDBPyConnection, documents: list[str], source: Source = SOURCE
) -> list[dict[str, Any]]:
    """Map documents to candidates."""
    connection.execute("set variable field_paths = ['$.author', '$.text']")
    connection.execute(DECODED, {"documents": documents})
    connection.execute(f"create or replace temp view documents as {model('staging/documents')}")
    candidates = connection.sql(
        candidates_sql(source), params=candidates_parameters(source)
    ).to_arrow_table()
    rows: list[dict[str, Any]] = candidates.sort_by("row_number").to_pylist()
    return rows


def parsed(text: str) -> Any:
    return json.loads(text, parse_float=Number, parse_int=Number, parse_constant=pytest.fail)


@settings(max_examples=25)
@given(documents=DOCUMENTS, blank=st.sampled_from(["", " ", "\t"]), is_ascii=st.booleans())
@example(documents=[{"1": Number("1"), "01": Number("2.0")}], blank="", is_ascii=False)
@example(
    documents=[{"a": [Number("1.10"), {"b": "x \\", "c": Number("-0")}], "d": '\\" : 1.10,'}],
    blank=" ",
    is_ascii=True,
)
def test_attributes_keep_the_json_value_of_any_field(
    connection: duckdb.DuckDBPyConnection,
    documents: list[dict[str, Any]],
    blank: str,
    is_ascii: bool,  # noqa: FBT001 - drawn
) -> None:
    names = tuple(dict.fromkeys(name for document in documents for name in document))
    source = SOURCE.model_copy(update={"attributes": names})
    rows = staged(
        connection,
        [written(document, blank=blank, is_ascii=is_ascii) for document in documents],
        source,
    )
    assert [parsed(row["attributes"]) for row in rows] == [
        dict.fromkeys(names) | document for document in documents
    ]


@settings(max_examples=15)
@given(
    st.lists(
        st.tuples(st.one_of(NUMBERS, st.sampled_from(HARD_NUMBERS)), ATOMS), min_size=1, max_size=20
    )
)
def test_a_mapped_number_keeps_its_own_text(
    connection: duckdb.DuckDBPyConnection, pairs: list[tuple[str, Any]]
) -> None:
    documents = [
        {"the id": Number(number), "author": other, "text": [Number(number), {"a": other}]}
        for number, other in pairs
    ]
    for row, (number, other), document in zip(
        staged(connection, list(map(written, documents))), pairs, documents, strict=True
    ):
        assert row["record_id"] == number
        assert row["author_id"] == (
            other if isinstance(other, str) or other is None else written(other)
        )
        assert parsed(row["text"]) == document["text"]


@pytest.mark.parametrize("written_so", ["NaN", "nan", "Infinity", "-Infinity", "inf", "-INF"])
def test_what_is_no_number_is_null(connection: duckdb.DuckDBPyConnection, written_so: str) -> None:
    fields = {"author": "?", "score": "?", "deep": ["?", {"a": "?", "b": f": {written_so}"}]}
    line = json.dumps({"the id": 1.0, **fields}).replace('"?"', written_so)
    (row,) = staged(connection, [line], SOURCE.model_copy(update={"attributes": ("score", "deep")}))
    assert (row["record_id"], row["author_id"]) == ("1.0", None)
    assert parsed(row["attributes"]) == {
        "score": None,
        "deep": [None, {"a": None, "b": f": {written_so}"}],
    }


def test_a_row_that_names_a_field_twice_is_rejected(connection: duckdb.DuckDBPyConnection) -> None:
    rules = {
        '{"text": "a", "text": "b"}': "duplicate_key",
        '{"text": "a", "text": "a"}': "duplicate_key",
        '{"text": "a", "x": 1, "author": "b", "x": null}': "duplicate_key",
        r'{"text": "a", "te\u0078t": "b"}': "duplicate_key",
        '{"": 1, "": 2}': "duplicate_key",
        '{"1": 1, "01": 2, "a": 3, "A": 4, "x": {"a": 5, "A": 6}}': None,
        '{"text": {"a": 1, "a": 2}}': "not_text",
    }
    assert [row["rejected_rule"] for row in staged(connection, list(rules))] == list(rules.values())


# type, value in SQL, JSON in the payload
OF_PARQUET = [
    ("BOOLEAN", "true", "true"),
    ("TINYINT", "-5", "-5"),
    ("UBIGINT", "18446744073709551615", "18446744073709551615"),
    ("DECIMAL(5,2)", "1.25", "1.25"),
    ("DECIMAL(38,2)", "123456789012345678.25", "123456789012345678.25"),
    (
        "DECIMAL(38,0)",
        "-99999999999999999999999999999999999999",
        "-99999999999999999999999999999999999999",
    ),
    ("FLOAT", "0.1", "0.10000000149011612"),
    ("DOUBLE", "0.1", "0.1"),
    ("DOUBLE", "'nan'", "null"),
    ("FLOAT", "'inf'", "null"),
    ("DOUBLE", "'-inf'", "null"),
    ("VARCHAR", "'NaN, \"x\": Infinity'", r'"NaN, \"x\": Infinity"'),
    ("BLOB", r"'caf\xC3\xA9\x00'::blob", r'"caf\\xC3\\xA9\\x00"'),
    ("UUID", "'0193a8b0-0000-7000-8000-000000000000'", '"0193a8b0-0000-7000-8000-000000000000"'),
    ("DATE", "'2026-01-15'", '"2026-01-15"'),
    ("TIME", "'10:00:00.5'", '"10:00:00.5"'),
    ("TIMESTAMP", "'2026-01-15 10:00:00.123456'", '"2026-01-15 10:00:00.123456"'),
    ("TIMESTAMP_NS", "'2026-01-15 10:00:00.123456789'", '"2026-01-15 10:00:00.123456789"'),
    ("TIMESTAMPTZ", "'2026-01-15 10:00:00+05:30'", '"2026-01-15 04:30:00+00"'),
    ("INTERVAL", "interval '1 month 2 days 3 hours'", '"1 month 2 days 03:00:00"'),
    ("ENUM('good', 'bad')", "'bad'", '"bad"'),
    ("DOUBLE[]", "[1.5, 'nan'::double, null]", "[1.5,null,null]"),
    ("STRUCT(a INTEGER, b VARCHAR)", "{'a': 1, 'b': 'x'}", '{"a":1,"b":"x"}'),
    ("MAP(INTEGER, FLOAT)", "map {1: 'inf'::float, 2: 0.5::float}", '{"1":null,"2":0.5}'),
    ("INTEGER", "null", "null"),
]


@pytest.mark.parametrize(("kind", "value", "payload"), OF_PARQUET)
def test_every_parquet_type_becomes_what_the_page_says(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, kind: str, value: str, payload: str
) -> None:
    path = tmp_path / "a.parquet"
    connection.execute(
        f"copy (select 'k' as \"the id\", ({value})::{kind} as author) to '{path}' (format parquet)"
    )
    ((_, rows),) = read_payloads(SourceFile(path, "parquet", None), SOURCE, 10)
    assert rows.to_pylist() == [f'{{"the id":"k","author":{payload}}}'.encode()]
    (row,) = staged(
        connection,
        [rows[0].as_py().decode()],
        SOURCE.model_copy(update={"attributes": ("author",)}),
    )
    assert row["attributes"] == f'{{"author":{payload}}}'
    assert row["author_id"] == (
        json.loads(payload) if payload.startswith('"') else None if payload == "null" else payload
    )
    assert f"`{kind.partition('(')[0]}`" in PAGE


def test_a_decimal_keeps_its_value_whatever_its_scale(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    path = tmp_path / "a.parquet"
    numbers = [
        Decimal(text)
        for text in ("0", "1.10", "-0.0000000001", "123456789012345678.1234567890", "100")
    ]
    pq.write_table(pa.table({"author": pa.array(numbers, pa.decimal128(38, 10))}), path)
    ((_, rows),) = read_payloads(SourceFile(path, "parquet", None), SOURCE, 10)
    found = staged(
        connection,
        [row.decode() for row in rows.to_pylist()],
        SOURCE.model_copy(update={"attributes": ("author",)}),
    )
    assert [Decimal(row["author_id"]) for row in found] == numbers
    assert [
        json.loads(row["attributes"], parse_float=Decimal, parse_int=Decimal)["author"]
        for row in found
    ] == numbers
