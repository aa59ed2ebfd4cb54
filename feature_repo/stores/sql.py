"""The point-in-time join as DuckDB SQL: what a retrieval computes, for people to read and to run.

The store itself joins in Polars (`timeline.py`), which keeps the order and the memory bounded; the tests hold both together.
"""

from datetime import timedelta

from feature_repo.stores.sources import ViewRead
from feature_repo.stores.spine import SpineRows
from feature_repo.stores.timeline import CREATED, INSTANT
from transforms.expressions import quoted
from transforms.paths import parquet_sql


def point_in_time_sql(spine: SpineRows, reads: list[ViewRead], *, full_names: bool, as_known: bool) -> str:
    """Compose the whole retrieval for a session in UTC; a spine in memory is the relation `spine`.

    Each view keeps one row for each key and instant, the last created, and is joined ASOF; a row that is older than the TTL
    gives nulls. With `as_known`, a row is visible from when it was created, and the newest event of all visible ones counts.
    """
    views = [
        _known_rows(number, read) if as_known and CREATED in read.timestamps else _rows(number, read) for number, read in enumerate(reads)
    ]
    values = [_value(number, read, feature, full_names=full_names) for number, read in enumerate(reads) for feature in read.features]
    joins = "".join(_join(number, read) for number, read in enumerate(reads))
    own = ["asked.* exclude (spine_row, instant)", *values]
    return f"""with asked as (
    select *, row_number() over () as spine_row, {quoted(spine.event_timestamp)}::timestamptz as instant
    {spine.sql}
),

{",".join(views)}
select
    {f",{chr(10)}    ".join(own)}
from asked{joins}
order by spine_row
"""


def _rows(number: int, read: ViewRead) -> str:
    created = f"order by {quoted(read.timestamps[CREATED])} desc nulls last" if CREATED in read.timestamps else ""
    keys = ", ".join([*(quoted(read.columns[key]) for key in read.spine_keys), "instant"])
    return f"""view_{number} as ( -- {read.name}
    select *, {quoted(read.timestamps[INSTANT])}::timestamptz as instant, instant as visible
    from {_source(read)}
    qualify row_number() over (partition by {keys} {created}) = 1
)
"""


def _known_rows(number: int, read: ViewRead) -> str:
    keys = [quoted(read.columns[key]) for key in read.spine_keys]
    partition = f"partition by {', '.join(keys)}" if keys else ""
    features = ", ".join(f"{quoted(column)} := {quoted(column)}" for column in dict.fromkeys(read.columns.values()))
    return f"""view_{number}_rows as ( -- {read.name}
    select
        *, {quoted(read.timestamps[INSTANT])}::timestamptz as instant, {quoted(read.timestamps[CREATED])}::timestamptz as created,
        greatest(instant, created) as visible
    from {_source(read)}
    where created is not null
),

view_{number} as (
    select distinct on ({", ".join([*keys, "visible"])}) newest.*, newest.instant as instant, visible
    from (
        select
            {"".join(f"{key}, " for key in keys)}visible,
            max(struct_pack(instant := instant, created := created, {features})) over ({partition} order by visible) as newest
        from view_{number}_rows
    )
)
"""


def _value(number: int, read: ViewRead, feature: str, *, full_names: bool) -> str:
    name = quoted(f"{read.name}__{feature}" if full_names else feature)
    value = f"view_{number}.{quoted(read.columns[feature])}"
    if not read.view.ttl:
        return f"{value} as {name}"
    ttl = f"interval '{read.view.ttl // timedelta(microseconds=1)} microseconds'"
    return f"case when asked.instant - view_{number}.instant <= {ttl} then {value} end as {name}"


def _join(number: int, read: ViewRead) -> str:
    keys = [f"asked.{quoted(spine_key)} = view_{number}.{quoted(read.columns[key])}" for key, spine_key in read.spine_keys.items()]
    return f"\nasof left join view_{number} on " + " and ".join([*keys, f"asked.instant >= view_{number}.visible"])


def _source(read: ViewRead) -> str:
    if not read.rows.files:
        return f"(select {', '.join(f'null as {quoted(name)}' for name in read.rows.schema.names)} where false)"
    return parquet_sql(read.rows.files, is_partitioned=bool(read.rows.partitions))
