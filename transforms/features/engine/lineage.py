"""What traces read of the records behind a group's values.

It decides no value of a table, so it is part of no digest.
"""

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
    """Create `explained` from the records that count for an entity at an instant.

    Returns its columns by their SQL; `shown` is SQL of what else is read of a record. The newest
    version of each record that was known before the instant counts, as docs/time.md defines; its
    column `windows` lists the windows in which it does.
    """
    columns = {
        sql: f"c{i}" for i, sql in enumerate(dict.fromkeys([*expressions_of(group), *shown]))
    }
    connection.execute(
        "create or replace table asked as select unnest($entity, recursive := true)",
        {"entity": dict(entity)},
    )
    asked = f"select {group.entity.id_of_columns} as entity_id from asked"
    connection.execute(f"create or replace table asked as {asked}")
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
    """SQL of whether a record in `explained` is in a window.

    It takes the window, not its name: two windows of one name may have different hops.

    >>> is_in(Window("lifetime"))
    "coalesce(epoch_us(getvariable('instant')) < null::bigint, true)"
    """
    return f"coalesce(epoch_us(getvariable('instant')) < {window.leaves_us}, true)"


def create_named_versions(connection: duckdb.DuckDBPyConnection, group: Group) -> None:
    """Create `named_versions`: all versions of records, with the `entity_ids` that they name."""
    named = (
        f"select records.*, try({group.entity.sql}) as entity_ids "
        f"from {joined(EFFECTIVE, group.entity.references)}"
    )
    connection.execute(f"create or replace view named_versions as {named}")
