"""Spans: from when to when each version of a record counts, with all that groups read of it.

They are computed once for all groups of a run.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import duckdb

from transforms.expressions import bound, dotted_references, quoted
from transforms.features.aggregates import Part
from transforms.features.entity import Entity
from transforms.features.joined import EFFECTIVE, References, joined
from transforms.features.windows import Window
from transforms.sql import model

TIMES = ("sign", "event_us", "starts_us", "superseded_us", "is_retracted")
VERSION = ("record_id", "known_us", "content_digest")
ALL_VERSIONS = "select *, 1 as sign from staging.records"
# the order of records, by which one is the first or the last
ORDER = ("event_us", "known_us", "record_id")
ORDERED = {"first", "last", "last_k"}


class Group(Protocol):
    """What a group reads of a record."""

    @property
    def entity(self) -> Entity:
        """The entity whose key is computed from the record."""

    @property
    def where(self) -> str | None:
        """The condition that a record must meet."""

    @property
    def parts(self) -> Sequence[Part]:
        """The parts to compute from inputs."""

    @property
    def windows(self) -> Sequence[Window]:
        """The windows in which records count."""

    @property
    def references(self) -> References:
        """The columns that are read."""


def expressions_of(group: Group) -> list[str]:
    """List the SQL of all that is read of a record: the entity's key, conditions and inputs."""
    return list(
        dict.fromkeys(
            [group.entity.sql, *([bound(group.where)] if group.where else []), *inputs_of(group)]
        )
    )


def inputs_of(group: Group) -> list[str]:
    r"""List the SQL of the inputs and conditions of a group's parts.

    >>> from types import SimpleNamespace
    >>> inputs_of(SimpleNamespace(parts=[Part("greatest", "n_words", "is_positive")]))
    ['(is_positive\n)', 'n_words']
    """
    conditions = [bound(part.where) for part in group.parts if part.where]
    return list(dict.fromkeys([*conditions, *(part.input for part in group.parts if part.input)]))


def times_of(groups: Sequence[Group]) -> list[str]:
    """List the columns of spans other than those of expressions.

    >>> from types import SimpleNamespace
    >>> times_of([SimpleNamespace(parts=[Part("last", "label")])])[len(TIMES) :]
    ['known_us', 'record_id']
    """
    is_ordered = any(part.kind in ORDERED for group in groups for part in group.parts)
    return list(dict.fromkeys([*TIMES, *(ORDER if is_ordered else ())]))


def counts_any(
    connection: duckdb.DuckDBPyConnection, where: str | None, versions: str | None
) -> bool:
    """Whether any version may meet a condition of groups; `versions` as in `create_spans`.

    A condition that reads features of record views is not tried: it may be met.
    """
    if where is None or any(rest for _, *rest in dotted_references(where)):
        return True
    read = versions or model("features/relevant_versions")
    return bool(
        connection.execute(f"select 1 from ({read}) where {bound(where)} limit 1").fetchall()
    )


def create_spans(
    connection: duckdb.DuckDBPyConnection, versions: str | None, groups: Sequence[Group], table: str
) -> dict[str, str]:
    """Create a table of spans, a row a version, a column an expression; return the columns by SQL.

    `versions` is SQL with the columns of staging and `sign`. Without it, the spans are only what
    differs between the versions of changed records as they are and as they were. A tombstone ends
    the version before it and does not count itself.
    """
    is_increment = versions is None
    references = set().union(*(group.references for group in groups))
    columns = {
        sql: f"c{i}"
        for i, sql in enumerate(
            dict.fromkeys(sql for group in groups for sql in expressions_of(group))
        )
    }
    read = sorted({column for column, *rest in references if not rest} - {"record_id"})
    relevant = versions or model("features/relevant_versions")
    connection.execute(f"create or replace view relevant_versions as {relevant}")
    times = times_of(groups)
    needed = dict.fromkeys(
        [
            *times,
            "record_id",
            "effective_timestamp",
            *map(quoted, read),
            *(VERSION if is_increment else ()),
        ]
    )
    needed.pop("is_retracted")
    spans = f"select {', '.join(needed)} from ({model('features/record_spans')})"
    connection.execute(f"create or replace table record_spans as {spans}")
    values = ", ".join([*(f"records.{name}" for name in times), *values_of(groups, columns)])
    if is_increment:
        connection.execute(
            f"create or replace table changed_spans as {model('features/changed_spans')}"
        )
        present, retracted = (
            f"(select * from changed_spans where is_retracted = {flag})"
            for flag in ("false", "true")
        )
        found = f"{values} from {joined(present, references)}"
        # which row of a record view a retracted version was read with is unknown: it is joined to
        # every row of its instant, and so has every entity that it may have counted for
        if connection.execute(f"from {retracted} limit 1").fetchall():
            found += (
                f" union all select {values} from {joined(retracted, references, is_every=True)}"
            )
    else:
        connection.execute(
            "create or replace view all_spans as select *, false as is_retracted from record_spans"
        )
        found = f"{values} from {joined('all_spans', references)}"
    connection.execute(f"create or replace table {table} as select {found}")
    return columns


def values_of(groups: Sequence[Group], columns: Mapping[str, str]) -> Iterator[str]:
    r"""Yield SQL of each expression as its column, null for records that it is not asked of.

    An expression is computed only for records that meet a condition under which it is asked for. So
    a cast that suits the records of one source stops no run over those of another.

    >>> from types import SimpleNamespace
    >>> from transforms.features.entities import author
    >>> parts = [Part("sum", "price::bigint", "is_positive")]
    >>> group = SimpleNamespace(entity=author, where=None, parts=parts)
    >>> list(values_of([group], {"price::bigint": "c0"}))
    ['case when true and (is_positive\n) then price::bigint end as c0']
    """
    under: dict[str, set[str]] = {}
    for group in groups:
        of_group = bound(group.where) if group.where else "true"
        asked = [(of_group, "true"), (group.entity.sql, of_group)]
        for part in group.parts:
            of_part = f"{of_group} and {bound(part.where)}" if part.where else of_group
            asked += [(bound(part.where), of_group)] if part.where else []
            asked += [(part.input, of_part)] if part.input else []
        for sql, condition in asked:
            under.setdefault(sql, set()).add(condition)
    for sql, column in columns.items():
        conditions = under.get(sql, {"true"})
        yield (
            f"{sql} as {column}"
            if "true" in conditions
            else f"case when {' or '.join(sorted(conditions))} then {sql} end as {column}"
        )


def create_published(
    connection: duckdb.DuckDBPyConnection, first_changes: str, columns: Sequence[str]
) -> None:
    """Create `published`: the newest rows of `activity` that changes are added to.

    `first_changes` is SQL of entities with when they first change. The table has only the given
    columns beside entity and instant: reading a column of a long history costs more than finding
    its rows.
    """
    connection.execute(f"create or replace table first_changes as {first_changes}")
    selected = ", ".join(["entity_id", "event_timestamp", *map(quoted, columns)])
    rows = f"select {selected} from ({model('features/published')})"
    connection.execute(f"create or replace table published as {rows}")


def spans_of(group: Group, table: str, columns: Mapping[str, str]) -> str:
    """SQL of a group's spans: `entity_id`, the times, and the columns of its expressions."""
    entity = columns[group.entity.sql]
    where = f"where {columns[bound(group.where)]}" if group.where else ""
    own = ", ".join([*times_of([group]), *(columns[sql] for sql in inputs_of(group))])
    entity_id = f"unnest({entity})" if group.entity.many else entity
    spans = f"select {entity_id} as entity_id, {own} from {table} {where}"
    return f"select * from ({spans}) where entity_id is not null"


def change_points(group: Group, spans: str) -> str:
    """SQL of a group's change points, `entity_id` and `instant_us`; some come twice."""
    leaving = [
        f"select entity_id, {window.leaves_us} as instant_us, starts_us from spans"
        for window in group.windows
        if window.length
    ]
    entered = "".join(
        f" union all select entity_id, instant_us from ({sql}) where instant_us > starts_us"
        for sql in leaving
    )
    return f"""
        with spans as ({spans})
        select entity_id, starts_us as instant_us from spans
        union all
        select entity_id, superseded_us from spans
        where superseded_us > starts_us and superseded_us < 9223372036854775807
        {entered}
    """


def versions_of(group: Group, entities: str) -> str:
    """SQL of all versions of every record that ever counted for one of some entities.

    `entities` is a relation with `entity_id`. A record counted if any of its versions did.
    """
    read = group.entity.references
    entity = (
        f"case when {bound(group.where)} then {group.entity.sql} end"
        if group.where
        else group.entity.sql
    )
    read |= dotted_references(group.where) if group.where else set()
    entity_id = f"unnest({entity})" if group.entity.many else entity
    ids = f"select record_id, {entity_id} as entity_id from {joined(EFFECTIVE, read)}"
    records = f"select record_id from ({ids}) where entity_id in (select entity_id from {entities})"
    return f"select *, 1 as sign from staging.records where record_id in ({records})"
