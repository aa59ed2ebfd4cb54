"""From raw rows to canonical candidates: documents are read and a source's expressions applied.

A candidate may break a rule before its contract can be checked: bytes that are not text, text that
is not JSON, an object in place of a value, a time that is not one. It carries the reason as
`rejected_column`, `rejected_rule` and `rejected_value`.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from transforms.expressions import bound, column_name, column_references, quoted, unlike
from transforms.sources.numbers import mark_sql, marked_sql, unmarked_sql
from transforms.sources.reading import BYTE_ORDER_MARK, parse_csv
from transforms.sources.source import KnownColumn, Source
from transforms.sources.times import epoch_sql, time_rule_sql, time_sql

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
CUT = "'exponent_form'"
# all that Unicode calls white space; a text of nothing else is blank
WHITE_SPACE = r"[\s\p{Z}\x0b\x1c-\x1f\x{85}]+"
# under `try` an expression that fails is null, so one that only finds no value returns this instead
NONE = "(chr(0) || 'none')"
MAY_FAIL = {
    "record_id": "record_id_",
    "author_id": "author_id_",
    "event_timestamp": "event_text",
    "known_timestamp": "known_text",
    "text": "text_",
}
# how spreadsheets and floats write a long id, cutting its last digits: digits, then a fraction and
# an exponent, or an exponent with its sign
EXPONENT_FORM = r"(^|[^0-9A-Za-z.,])\d+([.,]\d+[eE][+-]?|[eE]\+)\d+($|[^0-9A-Za-z])"
# what all sources share: the columns of the contract, the first reason to reject the candidate,
# and the fields of its document
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
        coalesce(author_id_, chr(0)),
        coalesce(subject_id_, chr(0)),
        coalesce(epoch_us(event_timestamp)::varchar, chr(0)),
        coalesce(text_, chr(0)),
        coalesce(label_, chr(0)),
        coalesce(attributes, chr(0)),
        is_tombstone_::varchar
    )) as content_digest,
    origin__.source,
    origin__.load_id,
    origin__.source_uri,
    origin__.row_number,
    origin__.loaded_timestamp,
    rejection."column" as rejected_column,
    rejection.rule as rejected_rule,
    rejection."value" as rejected_value,
    event_raw,
    known_raw,
    case when origin__.rejection is null then origin__.structure end as structure
from judged
"""


def candidates_parameters(source: Source) -> dict[str, Any]:
    """Collect the parameters of `candidates_sql`: all of a source's mapping but its expressions."""
    columns = {f"path_{name}": _path(column) for name, column in _mapped_columns(source).items()}
    attributes = {
        f"attribute_{position}": name for position, name in enumerate(source.attributes, start=1)
    }
    return {
        # the fields that `json_transform` takes out of a document, all as text
        "structure": json.dumps(dict.fromkeys(source.fields() or ["_"], "VARCHAR")),
        "positive_labels": list(source.positive_labels),
        **(
            {"attribute_paths": [_path(name) for name in source.attributes]}
            if source.attributes
            else {}
        ),
        **attributes,
        **columns,
    }


def candidates_sql(source: Source) -> str:
    """Compose the query from `documents` to candidates, with `candidates_parameters`.

    Only the source's own expressions enter the text, each checked when the source was loaded.
    """
    expressions = source.expressions()
    own = f"'{source.name}:' || nullif(record_id_, '')" if source.ids == "own" else "record_id_"
    known = {"at_load": "origin__.loaded_timestamp", "at_event": "event_timestamp"}
    known_timestamp = (
        _time("known_timestamp", source)
        if isinstance(source.known, KnownColumn)
        else known[source.known]
    )
    # a name that no column of the source has
    origin = quoted(unlike(source.fields()))
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
        struct_pack(
            load_id, source, source_uri, row_number, loaded_timestamp,
            document, structure, rejection, mark, exact
        ) as {origin},
        unnest(json_transform(exact, $structure))
    from marked
),

parsed as (
    {_unmarked(source, origin)}
),

mapped as (
    {_mapped(expressions, origin)}
),

timed as (
    select
        * replace ({_found(expressions)}),
        {_failed(expressions)} as failed__,
        {_time("event_timestamp", source)} as event_timestamp,
        {known_timestamp} as known_timestamp,
        {_attributes(source)} as attributes
    from mapped
),

judged as (
    select
        * replace ({own} as record_id_),
        {_rejection(source)} as rejection
    from timed
)
{CANDIDATES}"""


def _unmarked(source: Source, origin: str) -> str:
    columns = [quoted(column) for column in source.fields()]
    if not columns:
        return "select * from transformed"
    replaced = ", ".join(
        f"{unmarked_sql(column, f'{origin}.mark')} as {column}" for column in columns
    )
    return f"select * replace ({replaced}) from transformed"


def _mapped(expressions: dict[str, str], origin: str) -> str:
    """Compose the canonical fields, each as its expression's text."""
    mapped = {name: _guarded(name, expression) for name, expression in expressions.items()}
    return f"""select
        {origin} as origin__,
        {mapped["record_id"]} as record_id_,
        {mapped["author_id"]} as author_id_,
        {mapped["subject_id"]} as subject_id_,
        {mapped["event_timestamp"]} as event_text,
        {mapped.get("known_timestamp", "null::varchar")} as known_text,
        {mapped["text"]} as text_,
        {mapped["label"]} as label_,
        {_raw(expressions["event_timestamp"])} as event_raw,
        {_raw(expressions.get("known_timestamp", "null"))} as known_raw,
        coalesce(try_cast({mapped["is_tombstone"]} as boolean), false) as is_tombstone_
    from parsed"""


def decode_rows(
    batches: Iterable[pa.RecordBatch], source: Source, max_record_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Decode raw rows, as `DECODED`, where DuckDB cannot: CSV records, and text not in UTF-8."""
    for batch in batches:
        headers: dict[str, list[str]] = {}
        read = [
            _decode_row(payload, header, headers, source, max_record_bytes)
            for payload, header in zip(
                batch.column("payload").to_pylist(), batch.column("header").to_pylist(), strict=True
            )
        ]
        columns = {name: batch.column(name) for name in DECODED.names if name in batch.schema.names}
        columns["document"] = pa.array([document for document, _ in read], pa.string())
        columns["rejection"] = pa.array([rejection for _, rejection in read], pa.string())
        yield pa.record_batch([columns[name] for name in DECODED.names], schema=DECODED)


def _decode_row(
    payload: bytes,
    header: str | None,
    headers: dict[str, list[str]],
    source: Source,
    max_record_bytes: int,
) -> tuple[str | None, str | None]:
    """Decode a row to text, a CSV record to a JSON object; or name the rule it breaks."""
    if len(payload) > max_record_bytes:
        return None, "too_long"
    try:
        text = payload.removeprefix(BYTE_ORDER_MARK).decode(source.payload_encoding)
    except UnicodeDecodeError:
        return (
            None,
            "not_utf8" if source.payload_encoding == "utf-8" else "not_in_the_source_encoding",
        )
    if header is None or not text.strip():
        return text, None
    names = headers.get(header) or headers.setdefault(header, parse_csv(header, source.delimiter))
    try:
        values = parse_csv(text.replace("\r\n", "\n"), source.delimiter)
    except ValueError:
        return None, "not_csv"
    if len(values) != len(names):
        return None, "too_many_columns" if len(values) > len(names) else "too_few_columns"
    return json.dumps(
        {name: value or None for name, value in zip(names, values, strict=True)}, ensure_ascii=False
    ), None


def _mapped_columns(source: Source) -> dict[str, str]:
    """Map the canonical fields that are plain columns of the source to the names of those."""
    columns = {
        name: column_name(expression)
        for name, expression in source.record.model_dump().items()
        if name != "event_timestamp"
    }
    return {name: column for name, column in columns.items() if column is not None}


def _guarded(name: str, expression: str) -> str:
    """Compose a value as text; an expression that raises is null, for its own row only."""
    if column_name(expression) is not None:
        return f"{bound(expression)}::varchar"
    if name in MAY_FAIL:
        return f"try(coalesce({bound(expression)}::varchar, {NONE}))"
    return f"try({bound(expression)})" + ("" if name == "is_tombstone" else "::varchar")


def _may_fail(expressions: dict[str, str]) -> dict[str, str]:
    """Map canonical names to the values of expressions that may fail or find no value."""
    return {
        name: MAY_FAIL[name]
        for name, expression in expressions.items()
        if name in MAY_FAIL and column_name(expression) is None
    }


def _found(expressions: dict[str, str]) -> str:
    """Compose the values found: null where an expression finds none."""
    values = list(_may_fail(expressions).values()) or ["text_"]
    return ", ".join(f"nullif({value}, {NONE}) as {value}" for value in values)


def _failed(expressions: dict[str, str]) -> str:
    """Compose the name of the first column whose expression failed."""
    needed = {"text_": " and not is_tombstone_"}
    cases = " ".join(
        f"when {value} is null{needed.get(value, '')} then '{name}'"
        for name, value in _may_fail(expressions).items()
    )
    return f"case when origin__.rejection is not null then null {cases} end"


def _raw(expression: str) -> str:
    """Compose what an expression reads, as text."""
    columns = [quoted(column) for column in sorted(column_references(expression))]
    return (
        f"concat_ws(' ', {', '.join(columns)})"
        if len(columns) > 1
        else f"{columns[0]}::varchar"
        if columns
        else "null::varchar"
    )


def _time(name: str, source: Source) -> str:
    """Compose a time, in the unit that the source gives, if any."""
    unit = source.units().get(name)
    return epoch_sql(MAY_FAIL[name], unit) if unit else time_sql(MAY_FAIL[name])


def _path(field: str) -> str:
    """Point to a field of a document (RFC 6901); a JSON path cannot express every name."""
    return "/" + field.replace("~", "~0").replace("/", "~1")


def _attributes(source: Source) -> str:
    if not source.attributes:
        return "null::varchar"
    pairs = ", ".join(
        f"$attribute_{position}, values_[{position}]"
        for position, _ in enumerate(source.attributes, start=1)
    )
    values = "[json_extract(origin__.exact, $attribute_paths)]"
    attributes = f"list_transform({values}, lambda values_: json_object({pairs})::varchar)[1]"
    return unmarked_sql(attributes, "origin__.mark")


def _rejection(source: Source) -> str:
    """Compose the first reason to reject a candidate.

    In this order: its document cannot be read, a value is nested, an expression fails, an id was
    cut, a time is not one, the text is blank.
    """
    document = _reason("payload", "origin__.document", "origin__.rejection")
    failed = """struct_pack("column" := failed__, rule := 'expression_failed', "value" := null)"""
    nested = "\n        ".join(
        f"when {name}_[1] in ('{{', '[') "
        f"and json_type(origin__.document, $path_{name}) in ('OBJECT', 'ARRAY') "
        f"then {_reason(name, f'{name}_', NOT_TEXT)}"
        for name in _mapped_columns(source)
    )
    ids = "\n        ".join(
        f"when regexp_matches({name}_, '{EXPONENT_FORM}') then {_reason(name, f'{name}_', CUT)}"
        for name in ("record_id", "author_id")
    )
    times = "\n        ".join(
        _time_rejections(name, source) for name in ("event_timestamp", "known_timestamp")
    )
    return f"""case
        when origin__.rejection is not null then {document}
        {nested}
        when failed__ is not null then {failed}
        {ids}
        {times}
        when not is_tombstone_ and regexp_full_match(text_, '{WHITE_SPACE}')
            then {_reason("text", "text_", "'empty'")}
    end"""


def _time_rejections(name: str, source: Source) -> str:
    """Compose the reasons to reject a time: it is not in the given unit, or is not a time."""
    text, unit = MAY_FAIL[name], source.units().get(name)
    is_of_other_unit = (
        f"{name} > '1970-01-01'::timestamptz and {name} < '1973-01-01'::timestamptz"
        if unit
        else "false"
    )
    rule = "'not_a_time'" if unit else time_rule_sql(text)
    return f"""when {is_of_other_unit} then {_reason(name, text, "'not_in_unit'")}
        when {name} is null and {text} is not null then {_reason(name, text, rule)}"""


def _reason(column: str, value: str, rule_sql: str) -> str:
    return f"""struct_pack("column" := '{column}', rule := {rule_sql}, "value" := {value})"""
