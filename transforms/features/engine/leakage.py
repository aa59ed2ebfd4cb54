"""The tests that a user's own query must pass before its rows are published: no look ahead.

At some instants the query is run again on what was known by then: once with everything that took
effect later deleted, once with it altered. Its rows up to the instant must be the same. It must
also return the same rows for the same versions in another order.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import duckdb

from transforms.errors import GateError
from transforms.expressions import dotted_references, quoted
from transforms.features.engine.queries import differs
from transforms.features.entity import Entity
from transforms.features.joined import joined
from transforms.schemas.base import Contract, digest_of

# A query is run 1 + 2 * N_CUTS more times, on about this many versions: those of sampled entities
TESTED_VERSIONS = 20_000
N_CUTS = 6
QUANTILES = (0.1, 0.5, 0.9)
EVER = datetime(9999, 1, 1, tzinfo=UTC)
CUT = "getvariable('cut')::timestamptz"
# the columns that a version keeps when it gets another one's values
OWN = {"record_id", "event_timestamp", "known_timestamp", "effective_from", "effective_until"}
Rows = Callable[[Mapping[str, str]], str]


class Trial(NamedTuple):
    """A way to run the query again: what it does, SQL that does it to a relation, and the mend."""

    doing: str
    relation: Callable[[str, list[str]], str]
    mend: str


def _shuffled(relation: str, _columns: list[str]) -> str:
    return f"select * from {relation} order by hash(record_id, effective_from)"


def _known(relation: str, columns: list[str]) -> str:
    until = f"case when effective_until <= {CUT} then effective_until end as effective_until"
    values = ", ".join(
        until if column == "effective_until" else quoted(column) for column in columns
    )
    return f"select {values} from {relation} where effective_from <= {CUT}"


def _altered(relation: str, columns: list[str]) -> str:
    """SQL of a relation in which everything that took effect later is altered.

    Each version in effect ends, each later one has the values of another, and there are further
    records, just after the cut and long after it.
    """
    swapped = ", ".join(f"{'one' if name in OWN else 'other'}.{quoted(name)}" for name in columns)
    is_open, ended = "true", ""
    if "effective_until" in columns:
        is_open = f"coalesce(effective_until > {CUT}, true)"
        after = f"make_timestamptz(epoch_us({CUT}) + 1)"
        until = f"case when {is_open} then {after} else effective_until end"
        ended = f"replace ({until} as effective_until)"
    soon, late = _moved(columns, CUT), _moved(columns, f"{CUT} + interval 400 days")
    return f"""
        with numbered as (
            select
                *,
                row_number() over (order by hash(record_id, effective_from)) - 1 as n,
                count(*) over () as n_all
            from {relation}
        ),
        swapped as (
            select {swapped} from numbered as one
            join numbered as other on other.n = (one.n + 1) % one.n_all
        )
        select * {ended} from {relation} where effective_from <= {CUT}
        union all by name
        select * from swapped where effective_from > {CUT}
        union all by name
        select * replace ({soon}) from swapped where effective_from <= {CUT} and {is_open}
        union all by name
        select * replace ({soon}, record_id || '+' as record_id) from {relation}
        union all by name
        select * replace ({late}, record_id || '++' as record_id) from {relation}
    """


def _moved(columns: list[str], instant: str) -> str:
    """Move the times of a version so that it takes effect in the microsecond after an instant."""
    after = f"make_timestamptz(epoch_us({instant}) + 1)"
    times = {
        "event_timestamp": instant,
        "known_timestamp": instant,
        "effective_from": after,
        "effective_until": "null::timestamptz",
    }
    return ", ".join(f"{sql} as {name}" for name, sql in times.items() if name in columns)


RESTS_ONLY = "a row may rest only on versions with effective_from <= its event_timestamp"
SHUFFLED = Trial(
    "the versions come in another order",
    _shuffled,
    "break ties in order by, and in arg_max and the like",
)
DELETED = Trial("what took effect later is deleted", _known, RESTS_ONLY)
ALTERED = Trial("what took effect later is altered", _altered, RESTS_ONLY)


def known_relations(
    connection: duckdb.DuckDBPyConnection, relations: Mapping[str, str], at: datetime
) -> dict[str, str]:
    """SQL of relations as they were known at an instant.

    >>> connection = duckdb.connect()
    >>> days = "timestamptz '2026-01-01', timestamptz '2026-01-03'"
    >>> versions = f"select unnest(['a', 'b']) as record_id, unnest([{days}]) as effective_from"
    >>> noon = datetime(2026, 1, 2, 12, tzinfo=UTC)
    >>> known = known_relations(connection, {"versions": versions}, noon)
    >>> connection.sql(f"select record_id from ({known['versions']})").fetchall()
    [('a',)]
    """
    connection.execute("set variable cut = $at", {"at": at})
    return {name: _known(f"({sql})", _columns(connection, sql)) for name, sql in relations.items()}


def refuse_leakage(
    connection: duckdb.DuckDBPyConnection,
    contract: type[Contract],
    entity: Entity,
    relations: Mapping[str, str],
    rows: Rows,
    seed: int,
) -> None:
    """Run a query's tests; `rows` makes its SQL over relations.

    Raises `GateError` where one fails.
    """
    tested = _take_sample(connection, entity, relations)
    connection.execute(f"create or replace table expected_rows as {rows(tested)}")
    columns = {name: _columns(connection, sql) for name, sql in tested.items()}
    for cut, trial in _trials(connection, seed):
        again = rows(
            {name: trial.relation(f"({sql})", columns[name]) for name, sql in tested.items()}
        )
        connection.execute("set variable cut = $cut", {"cut": cut})
        _refuse_other_rows(connection, contract, cut, trial, again)


def _trials(connection: duckdb.DuckDBPyConnection, seed: int) -> Iterator[tuple[datetime, Trial]]:
    yield EVER, SHUFFLED
    for cut in _cuts(connection, seed):
        yield cut, DELETED
        yield cut, ALTERED


def _cuts(connection: duckdb.DuckDBPyConnection, seed: int) -> list[datetime]:
    """List instants just before versions take effect or end, and the last of all.

    Of a few, all are taken; of many, some quantiles and some drawn by the seed.
    """
    changes = "select unnest([effective_from, effective_until]) as instant from tested_versions"
    found = connection.sql(
        f"select distinct instant from ({changes}) where instant is not null order by all"
    ).fetchall()
    instants = [instant - timedelta(microseconds=1) for (instant,) in found[1:]] + [
        instant for (instant,) in found[-1:]
    ]
    if len(instants) <= N_CUTS:
        return instants
    chosen = {instants[int(quantile * len(instants))] for quantile in QUANTILES} | {instants[-1]}
    others = [instant for instant in instants if instant not in chosen]
    drawn = random.Random(seed).sample(others, N_CUTS - len(chosen))  # noqa: S311 - no secret
    return sorted(chosen | set(drawn))


def _take_sample(
    connection: duckdb.DuckDBPyConnection, entity: Entity, relations: Mapping[str, str]
) -> dict[str, str]:
    """Create tables of what is tested: all versions, or if these are many, those of some entities.

    With them come the rows of record views of their records.
    """
    ((n_versions,),) = connection.sql(f"select count(*) from ({relations['versions']})").fetchall()
    part = -(-n_versions // TESTED_VERSIONS)
    sample = (
        f"select * from ({relations['versions']})"
        if part <= 1
        else _of_entities(entity, relations["versions"], part)
    )
    connection.execute(f"create or replace table tested_versions as {sample}")
    for name, sql in relations.items():
        if name != "versions":
            table = quoted(f"tested_{name}")
            rows = (
                f"select * from ({sql}) where record_id in (select record_id from tested_versions)"
            )
            connection.execute(f"create or replace table {table} as {rows}")
    return {name: f"select * from {quoted(f'tested_{name}')}" for name in relations}


def _of_entities(entity: Entity, versions: str, part: int) -> str:
    references = {reference for key in entity.keys.values() for reference in dotted_references(key)}
    effective_timestamp = "greatest(event_timestamp, known_timestamp) as effective_timestamp"
    effective = f"(select *, {effective_timestamp} from ({versions}))"
    key = f"({entity.sql})[1]" if entity.many else entity.sql
    keyed = (
        f"select records.* exclude (effective_timestamp), {key} as entity_id "
        f"from {joined(effective, references)}"
    )
    is_taken = (
        f"case when entity_id is null then hash(record_id) else hash(entity_id) end % {part} = 0"
    )
    return f"select * exclude (entity_id) from ({keyed}) where {is_taken}"


def _columns(connection: duckdb.DuckDBPyConnection, sql: str) -> list[str]:
    return [column for column, *_ in connection.execute(f"describe {sql}").fetchall()]


def _refuse_other_rows(
    connection: duckdb.DuckDBPyConnection,
    contract: type[Contract],
    cut: datetime,
    trial: Trial,
    sql: str,
) -> None:
    keys = [*contract.entity(), "event_timestamp"]
    key = ", ".join(map(quoted, keys))
    rows = f"select * from expected_rows where event_timestamp <= {CUT}"
    again = f"select * from ({sql}) where event_timestamp <= {CUT}"
    other = f"""
        select {key} from ({rows}) as one full join ({again}) as other using ({key})
        where
            one.event_timestamp is null
            or other.event_timestamp is null
            or {differs(contract, "one", "other")}
    """
    found = connection.sql(
        f"select count(*) over (), * from ({other}) order by all limit 5"
    ).fetchall()
    if found:
        places = "; ".join(digest_of(*row)[:12] for _, *row in found)
        until = "" if cut == EVER else f" up to {cut:%Y-%m-%dT%H:%M:%S.%fZ}"
        message = (
            f"{contract.relation()}: {found[0][0]} rows{until} differ when {trial.doing}; "
            "nothing was committed. "
            f"First keys (sha256 of {', '.join(keys)}): {places}; {trial.mend}"
        )
        raise GateError(message)
