"""The rows that a question asks for, with their labels, as one snapshot of a home has them.

Instants are whole microseconds since 1970 here, as in the SQL models.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from transforms.errors import QuestionError
from transforms.expressions import bound, dotted_references, quoted
from transforms.features.entity import Entity
from transforms.features.inputs import did_you_mean
from transforms.features.joined import joined
from transforms.features.registry import registry
from transforms.features.windows import EPOCH, MICROSECOND
from transforms.instants import instant_of
from transforms.sql import model
from transforms.training.question import EACH_RECORD, GRIDS, Instant, Label, Question

ABOUT = b"millrace.question"  # where a table of rows says what they are
EVER = 2**62
MONDAY_US = 4 * 86_400_000_000  # of the first week
INTERNAL = ("entity_id", "record_id", "instant_us")


class _Asked(NamedTuple):
    """Which columns identify rows, and which others come with them."""

    entity: Entity
    keys: list[str]
    others: list[str]
    has_record: bool


def question_rows(connection: duckdb.DuckDBPyConnection, question: Question) -> pa.Table:
    """Make the rows of a question: keys, `event_timestamp`, and `label` and `weight` if asked.

    They are in order of time. The schema's metadata says what they are and what was left out
    (`about`). Raises `QuestionError` for what cannot be asked of this home.
    """
    entities = [_entity(name) for name in question.of]
    label = question.label
    connection.execute(
        "create or replace view versions_in_time as "
        "select *, greatest(event_timestamp, known_timestamp) as effective_timestamp "
        f"from ({model('features/effective_versions')})"
    )
    needs_versions = label is not None or question.at != EACH_RECORD
    if needs_versions:
        _create_versions(connection, entities[0], label)
    asked = _create_asked(connection, question, entities)
    about: dict[str, Any] = {"of": list(question.of), "keys": asked.keys, "at": question.at}
    about |= _limit(connection, question)
    if question.sample is not None or question.per_entity is not None:
        _draw(connection, question)
    if label:
        about |= _create_labels(connection, label, question.seed)
    rows = _finished(connection, "labelled_rows" if label else "asked_rows", asked)
    return rows.replace_schema_metadata({ABOUT: json.dumps(about).encode()})


def about(rows: pa.Table) -> dict[str, Any]:
    """Read what the rows of a question are; empty for any other rows.

    >>> about(pa.table({"author_id": ["ann"]}))
    {}
    """
    found: Mapping[bytes, bytes] = rows.schema.metadata or {}
    return dict(json.loads(found[ABOUT])) if ABOUT in found else {}


def _entity(name: str) -> Entity:
    known = registry().entities
    if name not in known:
        message = (
            f"of={name!r}: is no declared entity; there are {', '.join(known)}"
            f"{did_you_mean(name, known)}"
        )
        raise QuestionError(message)
    return known[name]


def _create_versions(
    connection: duckdb.DuckDBPyConnection, entity: Entity, label: Label | None
) -> None:
    """Create `keyed_versions`: the versions in effect by entity, with what the label needs."""
    is_of_entity = label is not None and label.take in {"any", "count"}
    sql = _condition(label) if label else "null"
    references = entity.references | (dotted_references(sql) if label else set())
    connection.execute(f"""
        create or replace table keyed_versions as
        select * from (
            select
                record_id,
                {entity.row_sql} as entity_id,
                {f"coalesce(try({sql}::boolean), false)" if is_of_entity else "true"} as is_met,
                {"null" if is_of_entity else f"try({sql})"} as value,
                epoch_us(effective_timestamp) as effective_us,
                coalesce(epoch_us(effective_until) - 1, {EVER * 2 - 1}) as superseded_us
            from {joined("versions_in_time", references)}
        )
        {"" if label and label.take == "own" else "where entity_id is not null"}
    """)


def _condition(label: Label) -> str:
    try:
        return bound(label.condition)
    except ValueError as error:
        message = f"label({label.condition!r}): {error}; it is SQL over one record, as is_positive"
        raise QuestionError(message) from None


def _create_asked(
    connection: duckdb.DuckDBPyConnection, question: Question, entities: list[Entity]
) -> _Asked:
    """Create `asked_rows`: all rows that could be asked for, before any is left out."""
    entity = entities[0]
    if question.at == EACH_RECORD:
        return _create_each_record(connection, entities)
    if question.at in GRIDS:
        step = GRIDS[question.at] // MICROSECOND
        offset = MONDAY_US if question.at == "weekly" else 0
        first = "(select min(effective_us) from keyed_versions)"
        last = f"(select {_known_us('max')})"
        connection.execute(
            "create or replace view instants as select unnest(range("
            f"{first} // {step} * {step} + {offset - step}, {last} + 1, {step})) as instant_us"
        )
    else:
        given = f"select * from ({question.at}\n)"
        columns = _columns(connection, given)
        if "event_timestamp" not in columns:
            message = f"at: the query has no column event_timestamp; it has {', '.join(columns)}"
            raise QuestionError(message)
        if set(entity.columns) <= set(columns):
            return _create_given(connection, entity, given, columns)
        if named := set(entity.columns) & set(columns):
            message = f"at: the query has {min(named)}, but {entity.name} needs {entity.columns}"
            raise QuestionError(message)
        connection.execute(
            "create or replace view instants as select distinct "
            f"epoch_us(event_timestamp::timestamptz) as instant_us from ({given})"
        )
    connection.execute("""
        create or replace table asked_rows as
        select entity_id, null::varchar as record_id, instant_us
        from (select entity_id, min(effective_us) as first_us from keyed_versions group by all)
        join instants on instants.instant_us > first_us
    """)
    if question.of == ("record",):
        connection.execute("update asked_rows set record_id = entity_id")
    return _Asked(entity, entity.columns, [], has_record=False)


def _create_each_record(connection: duckdb.DuckDBPyConnection, entities: list[Entity]) -> _Asked:
    first, *others = entities
    references = {reference for entity in entities for reference in entity.references}
    keys = {column: key for entity in others for column, key in entity.keys.items()}
    further = {
        column: key for column, key in keys.items() if column not in {*first.columns, "record_id"}
    }
    if many := next((entity.name for entity in others if entity.many), None):
        message = f"of: {many} is a list, so it has to be the first of {[e.name for e in entities]}"
        raise QuestionError(message)
    selected = "".join(
        f", try({bound(key)}::varchar) as {quoted(name)}" for name, key in further.items()
    )
    connection.execute(
        "create or replace view first_versions as select * from versions_in_time "
        "qualify row_number() over (partition by record_id order by effective_from) = 1"
    )
    connection.execute(f"""
        create or replace table asked_rows as
        select * from (
            select
                {first.row_sql} as entity_id,
                record_id,
                epoch_us(effective_timestamp) as instant_us
                {selected}
            from {joined("first_versions", references)}
        )
        where entity_id is not null
    """)
    named = [*first.columns, *(["record_id"] if "record_id" not in first.columns else []), *further]
    return _Asked(first, named, list(further), has_record=True)


def _create_given(
    connection: duckdb.DuckDBPyConnection, entity: Entity, given: str, columns: list[str]
) -> _Asked:
    """Create `asked_rows` of a query's own rows; its further columns stay."""
    if taken := {*columns} & {"entity_id", "instant_us", "label", "weight"}:
        message = f"at: the query's column {min(taken)} has a name that is taken; rename it"
        raise QuestionError(message)
    texts = ", ".join(f"{quoted(key)}::varchar as {quoted(key)}" for key in entity.columns)
    keyed = f"select * replace ({texts}) from ({given})"
    record = "record_id" if "record_id" in columns else "null::varchar as record_id"
    others = [name for name in columns if name not in {*entity.columns, "event_timestamp"}]
    others = [name for name in others if name != "record_id"]
    selected = "".join(f", {quoted(name)}" for name in others)
    connection.execute(
        f"create or replace table asked_rows as select {entity.id_of_columns} as entity_id, "
        f"{record}, epoch_us(event_timestamp::timestamptz) as instant_us {selected} from ({keyed})"
    )
    return _Asked(entity, entity.columns, others, has_record="record_id" in columns)


def _columns(connection: duckdb.DuckDBPyConnection, sql: str) -> list[str]:
    try:
        return [name for name, *_ in connection.execute(f"describe {sql}").fetchall()]
    except duckdb.Error as error:
        message = f"at: the query cannot be run: {str(error).splitlines()[0]}"
        raise QuestionError(message) from None


def _known_us(least_or_most: str) -> str:
    """SQL of the instant up to which the home knows its sources, all (`min`) or one (`max`)."""
    newest = "max(epoch_us(least(known_timestamp, loaded_timestamp)))"
    return (
        f"{least_or_most}(known_us) from (select {newest} as known_us from staging.records "
        "group by source)"
    )


def _limit(connection: duckdb.DuckDBPyConnection, question: Question) -> dict[str, Any]:
    """Delete the rows outside of the question's time, and those whose horizon has not passed."""
    label = question.label
    ((known_us,),) = connection.sql(f"select {_known_us('min' if label else 'max')}").fetchall()
    if label and label.known_until is not None:
        known_us = _us(label.known_until)
    since, until = _us(question.since, 0), _us(question.until, EVER)
    connection.execute(
        "delete from asked_rows where not coalesce(instant_us >= $since and instant_us < $until, "
        "false)",
        {"since": since, "until": until},
    )
    horizon_us = label.horizon // MICROSECOND if label else 0
    # one statement after the other: rows of an instant that is null are in neither
    last_us = (known_us or 0) - horizon_us
    ((n_left_out,),) = connection.execute(
        "delete from asked_rows where instant_us > $last", {"last": last_us}
    ).fetchall()
    known_until = (EPOCH + (known_us or 0) * MICROSECOND).isoformat()
    return {"horizon_us": horizon_us, "known_until": known_until, "n_horizon_open": n_left_out}


def _us(instant: Instant | None, default: int = 0) -> int:
    return default if instant is None else (instant_of(instant) - EPOCH) // MICROSECOND  # type: ignore[operator]


def _draw(connection: duckdb.DuckDBPyConnection, question: Question) -> None:
    sample = question.sample or 1.0
    _replace(
        connection,
        "asked_rows",
        "drawn_rows",
        seed=str(question.seed),
        per_entity=question.per_entity or EVER,
        share=min(sample, 1.0),
        n_rows=int(sample) if sample > 1 else EVER,
    )


def _replace(
    connection: duckdb.DuckDBPyConnection, table: str, name: str, **parameters: Any
) -> None:
    """Replace a table by what a model makes of it."""
    connection.execute(
        f"create or replace table replaced as {model(f'training/{name}')}", parameters
    )
    connection.execute(f"drop table {table}")
    connection.execute(f"alter table replaced rename to {table}")


def _create_labels(
    connection: duckdb.DuckDBPyConnection, label: Label, seed: int
) -> dict[str, Any]:
    """Create `labelled_rows`, take negative rows out where asked, and say the balance."""
    horizon = {"horizon_us": label.horizon // MICROSECOND}
    value, by = {
        "any": ("n_records is not null", "entity_id"),
        "count": ("coalesce(n_records, 0)", "entity_id"),
        "next": ("next_value", "entity_id"),
        "own": ("value", "record_id"),
    }[label.take]
    if label.take != "own":
        connection.execute(
            f"create or replace table label_spans as {model('training/label_spans')}"
        )
    found = model("training/own_labels" if label.take == "own" else "training/span_labels")
    connection.execute(f"create or replace table found_labels as {found}", horizon)
    connection.execute(f"""
        create or replace table labelled_rows as
        select asked_rows.*, {value} as label
        from asked_rows
        left join found_labels using ({by}, instant_us)
    """)
    ((n_unlabelled,),) = connection.execute(
        "delete from labelled_rows where label is null"
    ).fetchall()
    facts: dict[str, Any] = {"take": label.take, "label": label.condition}
    facts |= {"n_unlabelled": n_unlabelled, "balance": _balance(connection)}
    if label.negatives is not None:
        _refuse_no_positive(connection, label, facts["balance"])
        parameters = {"seed": str(seed), "negatives": label.negatives}
        _replace(connection, "labelled_rows", "weighted_rows", **parameters)
        facts["drawn"] = _balance(connection)
    return facts


def _refuse_no_positive(
    connection: duckdb.DuckDBPyConnection, label: Label, balance: Mapping[str, int]
) -> None:
    kind = connection.sql("select label from labelled_rows").types[0]
    if kind != "BOOLEAN":
        message = f"negatives: {label.condition} is {kind}; only a label of true and false has any"
        raise QuestionError(message)
    if "true" not in balance:
        message = "negatives: there is no positive row to keep negative ones for"
        raise QuestionError(message)


def _balance(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Count the rows of each value of the label: the 20 commonest, then the others."""
    counts = connection.sql(
        "select label::varchar, count(*) as n from labelled_rows group by 1 order by n desc, 1"
    ).fetchall()
    facts = dict(counts[:20])
    return facts | ({"others": sum(n for _, n in counts[20:])} if len(counts) > 20 else {})  # noqa: PLR2004


def _finished(connection: duckdb.DuckDBPyConnection, table: str, asked: _Asked) -> pa.Table:
    """Name the columns as features need them, and put the rows in order."""
    has_own = asked.has_record and "record_id" not in asked.entity.columns
    selected = [
        "make_timestamptz(instant_us) as event_timestamp",
        asked.entity.columns_of_id,
        *(["record_id"] if has_own else []),
        f"* exclude ({', '.join(INTERNAL)})",
    ]
    sql = f"select * from (select {', '.join(selected)} from {table}) order by all"
    return connection.sql(sql).to_arrow_table()
