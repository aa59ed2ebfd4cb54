"""Hostile rows: each is quarantined whole, under the rule it breaks, and affects no neighbour."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from transforms.sources.source import Source
from transforms.staging.prepare import Account

MakeSource = Callable[..., Source]
Query = Callable[..., list[tuple[Any, ...]]]
Rejections = Callable[[], dict[int, str]]
Stage = Callable[[Source], Account]
Write = Callable[..., Path]

FIELDS = {
    "id": "r1",
    "author": "ann",
    "subject": "tea",
    "written": "2026-01-01T10:00:00Z",
    "known": "2026-01-02T10:00:00Z",
    "text": "hi",
}
GOOD = json.dumps(FIELDS).encode()
DEEP = b"[" * 1_000 + b"]" * 1_000
HEADER = b"id,author,subject,written,known,text,label"


def row(**changes: object) -> bytes:
    return json.dumps({**FIELDS, **changes}).encode()


def with_text(value: bytes) -> bytes:
    """The row with another JSON value, byte for byte, as its text."""
    return GOOD.replace(b'"hi"', value)


BAD_LINES = {
    "truncated": (GOOD[:60], "payload:not_json"),
    "HTML": (
        b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head></html>",
        "payload:not_json",
    ),
    "two objects": (GOOD + GOOD, "payload:not_json"),
    "unescaped quote": (with_text(b'"h"i"'), "payload:not_json"),
    "NUL byte": (with_text(b'"h\x00i"'), "payload:not_json"),
    "lone surrogate": (with_text(rb'"\ud800"'), "payload:not_json"),
    "byte order mark inside": (b"\xef\xbb\xbf" + GOOD, "payload:not_json"),
    "merge conflict": (b"<<<<<<< HEAD", "payload:not_json"),
    "blank": (b"", "payload:blank_line"),
    "blanks": (b" \t\r", "payload:blank_line"),
    "Latin-1": (with_text(b'"caf\xe9"'), "payload:not_utf8"),
    "UTF-8 surrogate": (with_text(b'"\xed\xa0\x80"'), "payload:not_utf8"),
    "array": (b"[1, 2]", "payload:not_an_object"),
    "text": (b'"hi"', "payload:not_an_object"),
    "null": (b"null", "payload:not_an_object"),
    "a key twice": (GOOD[:-1] + b', "text": "second"}', "payload:duplicate_key"),
    "a key of no field twice": (GOOD[:-1] + b', "x": 1, "x": 1}', "payload:duplicate_key"),
    "NaN as text": (with_text(b"NaN"), "text:empty"),
    "empty object": (b"{}", "record_id:not_nullable"),
    "object as text": (with_text(b'{"a": 1}'), "text:not_text"),
    "array as text": (with_text(b'["a"]'), "text:not_text"),
    "deep text": (with_text(DEEP), "text:not_text"),
    "object as id": (row(id={"a": 1}), "record_id:not_text"),
    "object as author": (row(author={"a": 1}), "author_id:not_text"),
    "object as label": (row(label=[1]), "label:not_text"),
    "id in exponent form": (row(id="5.70306E+17"), "record_id:exponent_form"),
    "id in exponent form with a comma": (row(id="5,70306E+17"), "record_id:exponent_form"),
    "id in exponent form as a number": (
        row(id=1).replace(b'"id": 1', b'"id": 5.70306e+17'),
        "record_id:exponent_form",
    ),
    "short id in exponent form": (row(id="6E+17"), "record_id:exponent_form"),
    "author in exponent form": (row(author="1.02E+09"), "author_id:exponent_form"),
    "null id": (row(id=None), "record_id:not_nullable"),
    "empty id": (row(id=""), "record_id:str_length(1, None)"),
    "null author": (row(author=None), "author_id:not_nullable"),
    "null text": (row(text=None), "text:empty"),
    "empty text": (row(text=""), "text:empty"),
    "blanks as text": (row(text=" \t\r\n"), "text:empty"),
    "blanks of Unicode as text": (row(text="\u00a0\u2003\u3000\u2028\x85\x1f\v"), "text:empty"),
    "zone that several share": (
        row(written="2026-01-01 10:00:00 IST"),
        "event_timestamp:ambiguous_time_zone",
    ),
    "known in such a zone": (
        row(known="2026-01-01 10:00:00 CST"),
        "known_timestamp:ambiguous_time_zone",
    ),
    "offset of a day": (
        row(written="2026-01-01T10:00:00+25:00"),
        "event_timestamp:impossible_offset",
    ),
    "null time": (row(written=None), "event_timestamp:not_nullable"),
    "object as time": (row(written={"at": 1}), "event_timestamp:not_a_time"),
    "words as time": (row(written="yesterday evening"), "event_timestamp:not_a_time"),
    "zeros as time": (row(written="0000-00-00 00:00"), "event_timestamp:not_a_time"),
    "US date": (row(written="01/31/2026 10:00"), "event_timestamp:not_a_time"),
    "epoch milliseconds as text": (
        row(written="1767261600000"),
        "event_timestamp:epoch_without_unit",
    ),
    "epoch milliseconds": (row(written=1767261600000), "event_timestamp:epoch_without_unit"),
    "infinity": (row(written="infinity"), "event_timestamp:not_a_time"),
    "minus infinity": (row(written="-infinity"), "event_timestamp:not_a_time"),
    "now": (row(written="now"), "event_timestamp:not_a_time"),
    "year 300000": (row(written="300000-01-01"), "event_timestamp:not_a_time"),
    "year 9999": (row(written="9999-12-31T23:59:59Z"), "event_timestamp:not_a_time"),
    "before Christ": (row(written="2000-01-01 (BC)"), "event_timestamp:not_a_time"),
    "the word epoch": (row(written="epoch"), "event_timestamp:not_a_time"),
    "1970-01-01": (row(written="1970-01-01T00:00:00Z"), "event_timestamp:not_after_1970"),
    "year 1": (row(written="0001-01-01T00:00:00Z"), "event_timestamp:not_after_1970"),
    "future": (row(written="2999-01-01T00:00:00Z"), "event_timestamp:beyond_tomorrow"),
    "year 5138": (row(written="5138-11-16T09:46:40.000Z"), "event_timestamp:beyond_tomorrow"),
    "null known": (row(known=None), "known_timestamp:not_nullable"),
    "known is no time": (row(known="soon"), "known_timestamp:not_a_time"),
    "known in 1970": (row(known="1970-01-01"), "known_timestamp:not_after_1970"),
    "known in the future": (row(known="2999-01-01"), "known_timestamp:beyond_tomorrow"),
    "known infinity": (row(known="infinity"), "known_timestamp:not_a_time"),
}

# what Python's JSON, or its decoding, must judge no other than DuckDB's
AS_LATIN_1 = {
    name: case
    for name, case in BAD_LINES.items()
    if name not in {"Latin-1", "UTF-8 surrogate", "byte order mark inside"}
}

STRANGE_LINES = {
    "CRLF": (GOOD + b"\r", "hi"),
    "blanks around": (b" \t" + GOOD + b"  ", "hi"),
    "deep field nobody mapped": (GOOD[:-1] + b', "x": ' + DEEP + b"}", "hi"),
    "number as id": (row(id=7), "hi"),
    "hexadecimal id like an exponent": (row(id="5e10"), "hi"),
    "version as id": (row(id="v1.2-e5"), "hi"),
    "address as author": (row(author="a.1e+5x@example.com"), "hi"),
    "number as text": (with_text(b"1.50"), "1.50"),
    "true as text": (with_text(b"true"), "true"),
    "escaped NUL": (with_text(rb'"h\u0000i"'), "h\x00i"),
    "escaped pair of surrogates": (with_text(rb'"\ud83d\ude00"'), "\U0001f600"),
    "text shaped as an object": (row(text='{"a": 1}'), '{"a": 1}'),
    "text shaped as an array": (row(text="[a"), "[a"),
    "trailing comma": (GOOD[:-1] + b",}", "hi"),
    "formula": (row(text="=cmd|'/c calc'!A1"), "=cmd|'/c calc'!A1"),
    "SQL": (row(text="'); drop table records; --"), "'); drop table records; --"),
    "one character": (row(text="\u00e9"), "\u00e9"),
    "no width": (row(text="\u200b"), "\u200b"),
    "blanks around a text": (row(text="\u00a0hi\n"), "\u00a0hi\n"),
}


@pytest.mark.parametrize(("encoding", "cases"), [("utf-8", BAD_LINES), ("latin-1", AS_LATIN_1)])
def test_every_bad_line_is_quarantined_under_its_rule_and_no_other(
    make_source: MakeSource,
    stage: Stage,
    write: Write,
    rejections: Rejections,
    query: Query,
    encoding: str,
    cases: dict[str, tuple[bytes, str]],
) -> None:
    # a good row before and after each bad one: its neighbours must not suffer
    lines = [
        line
        for number, (bad, _) in enumerate(cases.values())
        for line in (row(id=f"r{number}"), bad)
    ]
    account = stage(make_source(write("a.jsonl", *lines), encoding=encoding))
    found = {name: rejections().get(2 * number) for number, name in enumerate(cases, start=1)}
    assert found == {name: rule for name, (_, rule) in cases.items()}
    assert account == Account(read=len(lines), staged=len(cases), quarantined=len(cases))
    assert query("select payload from quarantine.records order by row_number") == [
        (bad,) for bad, _ in cases.values()
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_strange_lines_that_break_no_rule_are_staged(
    make_source: MakeSource, stage: Stage, write: Write, query: Query, encoding: str
) -> None:
    lines = [
        line.replace(b'"r1"', f'"r{number}"'.encode())
        for number, (line, _) in enumerate(STRANGE_LINES.values())
    ]
    assert stage(make_source(write("a.jsonl", *lines), encoding=encoding)) == Account(
        read=len(lines), staged=len(lines)
    )
    texts = [text for (text,) in query("select text from staging.records order by row_number")]
    assert dict(zip(STRANGE_LINES, texts, strict=True)) == {
        name: text for name, (_, text) in STRANGE_LINES.items()
    }


def test_a_byte_order_mark_before_the_first_row_is_no_fault(
    make_source: MakeSource, stage: Stage, write: Write
) -> None:
    assert stage(make_source(write("a.jsonl", b"\xef\xbb\xbf" + GOOD))) == Account(read=1, staged=1)


def test_a_line_of_100_megabytes_is_too_long_and_hurts_no_neighbour(
    make_source: MakeSource, stage: Stage, write: Write, rejections: Rejections
) -> None:
    source = make_source(
        write("a.jsonl", row(id="before"), row(text="x" * 100_000_000), row(id="after"))
    )
    assert stage(source) == Account(read=3, staged=2, quarantined=1)
    assert rejections() == {2: "payload:too_long"}


CSV_RECORDS = {
    "too many columns": (b"r1,ann,tea,2026-01-01,2026-01-02,hi,,x", "payload:too_many_columns"),
    "too few columns": (b"r1,ann,tea", "payload:too_few_columns"),
    "unclosed quote": (b'r1,ann,tea,2026-01-01,2026-01-02,"hi,', "payload:not_csv"),
    "text after a quote": (b'r1,ann,tea,2026-01-01,2026-01-02,"h"i,', "payload:not_csv"),
    "carriage return outside quotes": (
        b"r1,ann,tea,2026-01-01,2026-01-02,h\ri,",
        "payload:not_csv",
    ),
    "blank": (b"", "payload:blank_line"),
    "Latin-1": (b"r1,ann,tea,2026-01-01,2026-01-02,caf\xe9,", "payload:not_utf8"),
    "no id": (b",ann,tea,2026-01-01,2026-01-02,hi,", "record_id:not_nullable"),
    "no text": (b"r1,ann,tea,2026-01-01,2026-01-02,,", "text:empty"),
    "no time": (b"r1,ann,tea,yesterday,2026-01-02,hi,", "event_timestamp:not_a_time"),
    "too long": (
        b"r1,ann,tea,2026-01-01,2026-01-02," + b"x" * (17 << 20) + b",",
        "payload:too_long",
    ),
}

CSV_TEXTS = {
    b"hi": "hi",
    b'"a,b"': "a,b",
    b'"a\nb"': "a\nb",
    b'"a\r\nb"': "a\nb",
    b'"a\rb"': "a\rb",
    b'"say ""no"""': 'say "no"',
    b'{"a": 1}': '{"a": 1}',
    b"h\x00i": "h\x00i",
    b"\\N": "\\N",
    b"null": "null",
    b"x" * 200_000: "x" * 200_000,
    "caf\u00e9 \U0001f600".encode(): "caf\u00e9 \U0001f600",
}


def test_every_bad_csv_record_is_quarantined_under_its_rule(
    make_source: MakeSource, stage: Stage, write: Write, rejections: Rejections
) -> None:
    good = b"r1,ann,tea,2026-01-01,2026-01-02,hi,"
    records = [record for bad, _ in CSV_RECORDS.values() for record in (bad, good)]
    account = stage(make_source(write("a.csv", HEADER, *records)))
    found = {
        name: rejections().get(2 * number - 1) for number, name in enumerate(CSV_RECORDS, start=1)
    }
    assert found == {name: rule for name, (_, rule) in CSV_RECORDS.items()}
    assert account == Account(len(records), 1, len(CSV_RECORDS) - 1, len(CSV_RECORDS))


def test_csv_texts_arrive_as_rfc_4180_means_them(
    make_source: MakeSource, stage: Stage, write: Write, query: Query
) -> None:
    records = [
        b"r%d,ann,tea,2026-01-01,2026-01-02,%s,\r" % (number, text)
        for number, text in enumerate(CSV_TEXTS)
    ]
    assert stage(make_source(write("a.csv", HEADER + b"\r", *records))) == Account(
        read=len(records), staged=len(records)
    )
    assert query("select text from staging.records order by row_number") == [
        (text,) for text in CSV_TEXTS.values()
    ]


def test_bytes_outside_the_encoding_of_the_source_are_quarantined(
    make_source: MakeSource, stage: Stage, write: Write, rejections: Rejections
) -> None:
    source = make_source(write("a.jsonl", with_text(b'"\x81"'), GOOD), encoding="windows-1252")
    assert stage(source) == Account(read=2, staged=1, quarantined=1)
    assert rejections() == {1: "payload:not_in_the_source_encoding"}


def test_a_field_named_as_the_pipeline_names_its_own_is_a_field(
    make_source: MakeSource, stage: Stage, write: Write, query: Query
) -> None:
    names = ["origin", "document", "load_id", "rejection", "row_number", "source"]
    record = {
        "record_id": "origin",
        "author_id": "document",
        "subject_id": "load_id || rejection || row_number",
        "label": "source",
    }
    times = {"event_timestamp": "written", "text": "text"}
    source = make_source(
        write("a.jsonl", row(**{name: f"<{name}>" for name in names})), record={**record, **times}
    )
    assert stage(source) == Account(read=1, staged=1)
    (ids,) = query("select record_id, author_id, subject_id, label from staging.records")
    assert ids == ("<origin>", "<document>", "<load_id><rejection><row_number>", "<source>")


def test_an_expression_that_fails_on_a_row_costs_only_that_row(
    make_source: MakeSource, stage: Stage, write: Write, rejections: Rejections
) -> None:
    record = {
        "record_id": "id",
        "author_id": "author",
        "event_timestamp": "strptime(written, '%d.%m.%Y')",
        "text": "text",
    }
    lines = [
        row(written="31.12.2025"),
        row(written="32.12.2025"),
        row(id="r2", written="30.12.2025"),
    ]
    assert stage(make_source(write("a.jsonl", *lines), record=record)) == Account(
        read=3, staged=2, quarantined=1
    )
    assert rejections() == {2: "event_timestamp:expression_failed"}
