"""From raw rows to canonical candidates: documents are read, a source's expressions applied, nothing is judged twice.

What a candidate breaks before its contract can be asked (bytes that are no text, text that is no JSON, an object where
a value is due, a time that is none) is carried as `rejected_column`, `rejected_rule` and `rejected_value`.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from transforms.expressions import bound, column_name, quoted, unlike
from transforms.numbers import mark_sql, marked_sql, unmarked_sql
from transforms.reading import BYTE_ORDER_MARK, parse_csv
from transforms.source import KnownColumn, Source
from transforms.times import time_rule_sql, time_sql

DECODED = pa.schema(
    {
        "load_id": pa.string(),
        "source": pa.string(),
        "source_uri": pa.string(),
        "row_number": pa.int64(),
        "document": pa.string(),
        "rejection": pa.string(),
        "loaded_timestamp": pa.timestamp("us", "UTC"),
    }
)
NOT_TEXT = "'not_text'"
# a text of nothing else is no text: all that Unicode calls white space
WHITE_SPACE = r"[\s\p{Z}\x0b\x1c-\x1f\x{85}]+"
# what all sources share: the candidate's columns, as the contract names them, the first reason against it, and its document's fields
CANDIDATES = """
select
    record_id_ as record_id,
    author_id_ as author_id,
    subject_id_ as subject_id,
    event_timestamp,
    known_timestamp,
    text_ as text,
    label_ as label,
    coalesce(list_contains($positive_labels::varchar[], label_), false) as is_positive,
    is_tombstone_ as is_tombstone,
    attributes,
    md5(concat_ws(chr(31),
        coalesce(author_id_, chr(0)), coalesce(subject_id_, chr(0)), coalesce(epoch_us(event_timestamp)::varchar, chr(0)),
        coalesce(text_, chr(0)), coalesce(label_, chr(0)), coalesce(attributes, chr(0)), is_tombstone_::varchar
    )) as content_digest,
    origin__.source,
    origin__.load_id,
    origin__.source_uri,
    origin__.row_number,
    origin__.loaded_timestamp,
    rejection."column" as rejected_column,
    rejection.rule as rejected_rule,
    rejection."value" as rejected_value,
    case when origin__.rejection is null then origin__.structure end as structure
from judged
"""


def candidates_parameters(source: Source) -> dict[str, Any]:
    """The values of the parameters in `candidates_sql`: all of the source's that is not an expression."""
    columns = {f"path_{name}": _path(column) for name, column in _mapped_columns(source).items()}
    attributes = {f"attribute_{position}": name for position, name in enumerate(source.attributes, start=1)}
    return {
        # the fields to take out of a document, all as text, as `json_transform` wants it
        "structure": json.dumps(dict.fromkeys(source.fields() or ["_"], "VARCHAR")),
        "positive_labels": list(source.positive_labels),
        **({"attribute_paths": [_path(name) for name in source.attributes]} if source.attributes else {}),
        **attributes,
        **columns,
    }


def candidates_sql(source: Source) -> str:
    """Compose the query from `documents` to candidates, with `candidates_parameters`.

    Only the source's own expressions enter the text, each checked when the source was loaded.
    """
    mapped = {name: _guarded(expression) for name, expression in source.expressions().items()}
    known = {"at_load": "origin__.loaded_timestamp", "at_event": "event_timestamp"}
    known_text = f"({mapped['known_timestamp']})::varchar" if isinstance(source.known, KnownColumn) else "null::varchar"
    known_timestamp = time_sql("known_text") if isinstance(source.known, KnownColumn) else known[source.known]
    origin = quoted(unlike(source.fields()))  # beside the source's own columns, whatever their names
    return f"""
with marked as (
    select
        *,
        case when rejection is null then {mark_sql("document", "structure")} end as mark,
        case when rejection is null then {marked_sql("document", "mark")} end as exact
    from documents
),

transformed as (
    select
        struct_pack(load_id, source, source_uri, row_number, loaded_timestamp, document, structure, rejection, mark, exact) as {origin},
        unnest(json_transform(exact, $structure))
    from marked
),

parsed as (
    {_unmarked(source, origin)}
),

mapped as (
    select
        {origin} as origin__,
        ({mapped["record_id"]})::varchar as record_id_,
        ({mapped["author_id"]})::varchar as author_id_,
        ({mapped["subject_id"]})::varchar as subject_id_,
        ({mapped["event_timestamp"]})::varchar as event_text,
        {known_text} as known_text,
        ({mapped["text"]})::varchar as text_,
        ({mapped["label"]})::varchar as label_,
        coalesce(try_cast({mapped["is_tombstone"]} as boolean), false) as is_tombstone_
    from parsed
),

timed as (
    select
        *,
        {time_sql("event_text")} as event_timestamp,
        {known_timestamp} as known_timestamp,
        {_attributes(source)} as attributes
    from mapped
),

judged as (
    select
        *,
        {_rejection(source)} as rejection
    from timed
)
{CANDIDATES}"""


def _unmarked(source: Source, origin: str) -> str:
    columns = [quoted(column) for column in source.fields()]
    replaced = ", ".join(f"{unmarked_sql(column, f'{origin}.mark')} as {column}" for column in columns)
    return f"select * replace ({replaced}) from transformed" if columns else "select * from transformed"


def decode_rows(batches: Iterable[pa.RecordBatch], source: Source, max_record_bytes: int) -> Iterator[pa.RecordBatch]:
    """Read raw rows in Python where DuckDB cannot: CSV records, and text that is not UTF-8. Shaped as `DECODED`."""
    for batch in batches:
        headers: dict[str, list[str]] = {}
        read = [
            _decode_row(payload, header, headers, source, max_record_bytes)
            for payload, header in zip(batch.column("payload").to_pylist(), batch.column("header").to_pylist(), strict=True)
        ]
        columns = {name: batch.column(name) for name in DECODED.names if name in batch.schema.names}
        columns["document"] = pa.array([document for document, _ in read], pa.string())
        columns["rejection"] = pa.array([rejection for _, rejection in read], pa.string())
        yield pa.record_batch([columns[name] for name in DECODED.names], schema=DECODED)


def _decode_row(
    payload: bytes, header: str | None, headers: dict[str, list[str]], source: Source, max_record_bytes: int
) -> tuple[str | None, str | None]:
    """One row as text, a CSV record as a JSON object; or the rule it breaks."""
    if len(payload) > max_record_bytes:
        return None, "too_long"
    try:
        text = payload.removeprefix(BYTE_ORDER_MARK).decode(source.payload_encoding)
    except UnicodeDecodeError:
        return None, "not_utf8" if source.payload_encoding == "utf-8" else "not_in_the_source_encoding"
    if header is None or not text.strip():
        return text, None
    names = headers.get(header) or headers.setdefault(header, parse_csv(header, source.delimiter))
    try:
        values = parse_csv(text.replace("\r\n", "\n"), source.delimiter)
    except ValueError:
        return None, "not_csv"
    if len(values) != len(names):
        return None, "too_many_columns" if len(values) > len(names) else "too_few_columns"
    return json.dumps({name: value or None for name, value in zip(names, values, strict=True)}, ensure_ascii=False), None


def _mapped_columns(source: Source) -> dict[str, str]:
    """The canonical fields that are nothing but a column of the source, with its name."""
    columns = {name: column_name(expression) for name, expression in source.record.model_dump().items() if name != "event_timestamp"}
    return {name: column for name, column in columns.items() if column is not None}


def _guarded(expression: str) -> str:
    """An expression that raises gives null, for its own row only."""
    return bound(expression) if column_name(expression) is not None else f"try({bound(expression)})"


def _path(field: str) -> str:
    """Point to a field of a document (RFC 6901): in a JSON path, some names cannot be written."""
    return "/" + field.replace("~", "~0").replace("/", "~1")


def _attributes(source: Source) -> str:
    if not source.attributes:
        return "null::varchar"
    pairs = ", ".join(f"$attribute_{position}, values_[{position}]" for position, _ in enumerate(source.attributes, start=1))
    attributes = f"list_transform([json_extract(origin__.exact, $attribute_paths)], lambda values_: json_object({pairs})::varchar)[1]"
    return unmarked_sql(attributes, "origin__.mark")


def _rejection(source: Source) -> str:
    """Compose the first reason against a candidate: its document, a nested value where text is due, a time that is none, a blank text."""
    nested = "\n        ".join(
        f"when {name}_[1] in ('{{', '[') and json_type(origin__.document, $path_{name}) in ('OBJECT', 'ARRAY') "
        f"then {_reason(name, f'{name}_', NOT_TEXT)}"
        for name in _mapped_columns(source)
    )
    return f"""case
        when origin__.rejection is not null then {_reason("payload", "origin__.document", "origin__.rejection")}
        {nested}
        when event_timestamp is null and event_text is not null then {_reason("event_timestamp", "event_text", time_rule_sql("event_text"))}
        when known_timestamp is null and known_text is not null then {_reason("known_timestamp", "known_text", time_rule_sql("known_text"))}
        when not is_tombstone_ and regexp_full_match(text_, '{WHITE_SPACE}') then {_reason("text", "text_", "'empty'")}
    end"""


def _reason(column: str, value: str, rule_sql: str) -> str:
    return f"""struct_pack("column" := '{column}', rule := {rule_sql}, "value" := {value})"""
