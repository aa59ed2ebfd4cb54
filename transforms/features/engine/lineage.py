"""What traces read of the records behind a group's values. It decides no value of a table, so it is in no digest."""

from collections.abc import Iterable, Mapping
from datetime import datetime

import duckdb

from transforms.expressions import bound
from transforms.features.engine.spans import Group, expressions_of, values_of, versions_of
from transforms.features.joined import EFFECTIVE, joined
from transforms.features.windows import Window
from transforms.sql import model


def explained_records(
    connection: duckdb.DuckDBPyConnection,
    group: Group,
    entity: Mapping[str, str],
    at: datetime,
    shown: Iterable[str],
) -> dict[str, str]:
    """Make `explained` of the records that count for an entity at an instant, by the definition in docs/time.md; its columns by SQL.

    `windows` lists in which. Of each record it is the newest version that was known before the instant. `shown` is SQL of what else
    is read of it.
    """
    columns = {
        sql: f"c{i}" for i, sql in enumerate(dict.fromkeys([*expressions_of(group), *shown]))
    }
    connection.execute(
        "create or replace table asked as select unnest($entity, recursive := true)",
        {"entity": dict(entity)},
    )
    connection.execute(
        f"create or replace table asked as select {group.entity.id_of_columns} as entity_id from asked"
    )
    connection.execute("set variable instant = $at", {"at": at})
    connection.execute(f"create or replace view traced_versions as {versions_of(group, 'asked')}")
    connection.execute(
        f"create or replace table known_versions as {model('lineage/known_versions')}"
    )
    values = ", ".join(values_of([group], columns))
    counted = f"select records.*, {values} from {joined('known_versions', group.references)}"
    entity_id = columns[group.entity.sql]
    is_asked = (
        f"list_contains({entity_id}, entity_id)"
        if group.entity.many
        else f"{entity_id} = entity_id"
    )
    where = f"and {columns[bound(group.where)]}" if group.where else ""
    conditions: dict[str, list[str]] = {}
    for window in group.windows:
        conditions.setdefault(window.name, []).append(is_in(window))
    inside = ", ".join(
        f"case when {' or '.join(any_of)} then '{name}' end" for name, any_of in conditions.items()
    )
    connection.execute(f"""
        create or replace table explained as
        with counted as ({counted})
        select counted.*, list_filter([{inside}], lambda name: name is not null) as windows
        from counted semi join asked on {is_asked} {where}
    """)
    return columns


def is_in(window: Window) -> str:
    """SQL of whether a record in `explained` is in a window. Two windows of one name may differ in their hops."""
    return f"coalesce(epoch_us(getvariable('instant')) < {window.leaves_us}, true)"


def create_named_versions(connection: duckdb.DuckDBPyConnection, group: Group) -> None:
    """Make `named_versions` of all versions of records, with what they name of a group's entity as `entity_ids`."""
    named = f"select records.*, try({group.entity.sql}) as entity_ids from {joined(EFFECTIVE, group.entity.references)}"
    connection.execute(f"create or replace view named_versions as {named}")
