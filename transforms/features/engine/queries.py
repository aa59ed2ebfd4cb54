"""The SQL around a user's own query: what it reads, and what is computed from its rows.

Relations come as CTEs, so that a query sees no others.
"""

from collections.abc import Mapping

import polars as pl

from transforms.expressions import quoted
from transforms.features.aggregates import Input, served
from transforms.features.entity import Entity
from transforms.schemas.base import Contract
from transforms.sql import model

# by how much a fraction may differ, relative above 1: a sum's last digits depend on its order
TOLERANCE = "1e-9"


def read_relations(record_views: Mapping[str, type[Contract]]) -> dict[str, str]:
    """SQL of the relations that a query can read: `versions`, and record views' newest rows.

    >>> from transforms.features.views.record_duplicates import RecordDuplicates
    >>> relations = read_relations({"record_duplicates": RecordDuplicates})
    >>> "make_timestamptz(epoch_us(event_timestamp) + 1)" in relations["record_duplicates"]
    True
    """
    return {
        "versions": model("features/effective_versions"),
        **{name: _newest(contract) for name, contract in record_views.items()},
    }


def _newest(contract: type[Contract]) -> str:
    features = ", ".join(
        f"arg_max_null({quoted(name)}, created_timestamp) as {quoted(name)}"
        for name in served_columns(contract)
    )
    effective_from = "make_timestamptz(epoch_us(event_timestamp) + 1) as effective_from"
    return (
        f"select record_id, {effective_from}, {features} from {contract.relation()} "
        "group by record_id, event_timestamp"
    )


def served_columns(contract: type[Contract]) -> list[str]:
    """List the features of a record view.

    >>> from transforms.features.views.record_duplicates import RecordDuplicates
    >>> served_columns(RecordDuplicates)
    ['dup_of', 'dup_similarity', 'dup_cluster_size', 'is_duplicate']
    """
    return [
        str(column.name)
        for column in contract.columns()
        if column.is_served and column.name not in contract.key()
    ]


def query_rows(
    query: str, relations: Mapping[str, str], entity: Entity, features: Mapping[str, Input]
) -> str:
    """SQL of a query's rows over relations: keys, `event_timestamp`, features as served.

    A row with a null key belongs to no entity and is left out.

    >>> import duckdb
    >>> from transforms.features.entities import author
    >>> names = {"names": "select unnest(['ann', null]) as author_id"}
    >>> query = "select author_id, timestamptz '2026-01-01' as event_timestamp, 7.5 as n from names"
    >>> rows = query_rows(query, names, author, {"n": Input("", "whole")})
    >>> duckdb.sql(f"select author_id, n from ({rows})").fetchall()
    [('ann', 8)]
    """
    given = ", ".join(f"{quoted(name)} as ({sql})" for name, sql in relations.items())
    keys = ", ".join(map(quoted, entity.columns))
    values = ", ".join(f"{_served(name, of)} as {quoted(name)}" for name, of in features.items())
    is_there = " and ".join(f"{quoted(key)} is not null" for key in entity.columns)
    return (
        f"with {given} select {keys}, event_timestamp, {values} from ({query}\n) where {is_there}"
    )


def _served(name: str, of: Input) -> str:
    kind = of.kind.removeprefix("list of ")
    if kind == of.kind:
        return served(Input(_typed(quoted(name), kind), kind))
    return (
        f"list_transform({quoted(name)}, lambda item: {served(Input(_typed('item', kind), kind))})"
    )


def _typed(sql: str, kind: str) -> str:
    return {"text": f"{sql}::varchar", "instant": f"{sql}::timestamptz"}.get(kind, sql)


def differs(contract: type[Contract], one: str, other: str) -> str:
    """SQL of whether two rows have different values; fractions may differ in their last digits.

    >>> from transforms.schemas.duplicates import KnownContent
    >>> differs(KnownContent, "one", "other")
    '(one."band_keys" is distinct from other."band_keys")'
    """
    columns = {
        str(column.name): column.dtype
        for column in contract.columns()
        if column.name not in contract.key()
    }
    return (
        "("
        + " or ".join(
            _differ(dtype, f"{one}.{quoted(name)}", f"{other}.{quoted(name)}")
            for name, dtype in columns.items()
        )
        + ")"
    )


def _differ(dtype: pl.DataType, one: str, other: str) -> str:
    differ = f"{one} is distinct from {other}"
    if dtype == pl.Float64():
        return f"({differ} and not coalesce({_near(one, other)}, false))"
    if dtype == pl.List(pl.Float64()):
        is_near = f"coalesce({_near('pair[1]', 'pair[2]')}, false)"
        near = f"lambda pair: pair[1] is not distinct from pair[2] or {is_near}"
        pairs = f"list_zip({one}, {other})"
        are_near = f"len({one}) = len({other}) and list_bool_and(list_transform({pairs}, {near}))"
        return f"({differ} and not coalesce({are_near}, false))"
    return differ


def _near(one: str, other: str) -> str:
    return f"abs({one} - {other}) <= {TOLERANCE} * greatest(abs({one}), abs({other}), 1)"
