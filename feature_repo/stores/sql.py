"""The point-in-time join as DuckDB SQL: what a retrieval computes, for people to read and to run.

The store itself joins in Polars (`timeline.py`), which keeps the order and the memory bounded; the
tests compare both. Columns are named by their place, since `x` and `X` are one to DuckDB;
only the result has the names of the user's.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from feature_repo.stores.sources import Index, Snapshot, ViewRead
from feature_repo.stores.spine import SpineRows
from feature_repo.stores.timeline import CREATED, INSTANT
from transforms.expressions import quoted
from transforms.paths import parquet_sql


def point_in_time_sql(
    spine: SpineRows, reads: list[ViewRead], *, full_names: bool, as_known: bool
) -> str:
    """Compose the whole retrieval for a session in UTC; a spine in memory is the relation `spine`.

    Each view keeps one row for each key and instant, the last created, and is joined ASOF; a row
    that is older than the TTL gives nulls, and no row what a field's tag `empty` says, else null.
    With `as_known`, a row is visible from when it was created, and the newest event of all visible
    ones counts.
    """
    names = spine.schema.names
    views = [
        _known_rows(number, read)
        if as_known and CREATED in read.timestamps
        else _rows(number, read)
        for number, read in enumerate(reads)
    ]
    own = [f"asked.spine_{place} as {quoted(name)}" for place, name in enumerate(names)]
    values = [
        _value(number, read, place, names, full_names=full_names)
        for number, read in enumerate(reads)
        for place in range(len(read.features))
    ]
    joins = "".join(_join(number, read, names) for number, read in enumerate(reads))
    return f"""with asked as (
    select *, row_number() over () as spine_row,
        spine_{names.index(spine.event_timestamp)}::timestamptz as instant
    from {spine.sql} as rows ({", ".join(f"spine_{place}" for place in range(len(names)))})
),

{",".join(views)}
select
    {f",{chr(10)}    ".join([*own, *values])}
from asked{joins}
order by spine_row
"""


def pull_sql(
    index: Index,
    values: Mapping[str, str],
    names: Sequence[str],
    span: tuple[datetime | None, datetime | None],
    *,
    only_newest: bool,
) -> str:
    """Compose a pull of a source's rows, or of each key's newest row, of a span of time."""
    instant = f"{INSTANT}::timestamptz"
    ends = [
        f"{instant} {sign} '{end.isoformat()}'"
        for sign, end in zip((">=", "<="), span, strict=True)
        if end
    ]
    order = ", ".join(f"{time} desc nulls last" for time in index.times)
    keys = ", ".join(f"key_{place}" for place in range(len(index.keys))) or "1"
    newest = (
        f"\nqualify row_number() over (partition by {keys} order by {order}) = 1"
        if only_newest
        else ""
    )
    given = ", ".join(
        f"{value} as {quoted(name)}" for value, name in zip(values, names, strict=True)
    )
    source = _source(index.rows, {**index.columns, **values})
    return f"select {given}\nfrom {source}\nwhere {' and '.join(ends) or 'true'}{newest}\n"


def _rows(number: int, read: ViewRead) -> str:
    created = f"order by {CREATED} desc nulls last" if CREATED in read.timestamps else ""
    keys = ", ".join([*_keys(read), "instant"])
    return f"""view_{number} as ( -- {_comment(read)}
    select *, {INSTANT}::timestamptz as instant, instant as visible
    from {_view_source(read)}
    qualify row_number() over (partition by {keys} {created}) = 1
)
"""


def _known_rows(number: int, read: ViewRead) -> str:
    keys = _keys(read)
    partition = f"partition by {', '.join(keys)}" if keys else ""
    features = ", ".join(f"{column} := {column}" for column in read.feature_columns)
    return f"""view_{number}_rows as ( -- {_comment(read)}
    select *, {INSTANT}::timestamptz as instant, {CREATED}::timestamptz as created,
        greatest(instant, created) as visible
    from {_view_source(read)}
    where created is not null
),

view_{number} as (
    select distinct on ({", ".join([*keys, "visible"])})
        newest.*, newest.instant as instant, visible{"".join(f", {key}" for key in keys)}
    from (
        select
            {"".join(f"{key}, " for key in keys)}visible,
            max(struct_pack(instant := instant, created := created, {features}))
                over ({partition} order by visible) as newest
        from view_{number}_rows
    )
)
"""


def _keys(read: ViewRead) -> list[str]:
    return [f"key_{place}" for place in range(len(read.spine_keys))]


def _comment(read: ViewRead) -> str:
    return " ".join(read.name.split())  # a comment ends with its line


def _value(number: int, read: ViewRead, place: int, names: list[str], *, full_names: bool) -> str:
    name = quoted(f"{read.name}__{read.features[place]}" if full_names else read.features[place])
    value = f"view_{number}.feature_{place}"
    if read.view.ttl:
        ttl = f"interval '{read.view.ttl // timedelta(microseconds=1)} microseconds'"
        value = f"case when asked.instant - view_{number}.instant <= {ttl} then {value} end"
    if read.empty[place] is None:
        return f"{value} as {name}"
    there = " and ".join(
        f"{column} is not null" for column in ["asked.instant", *_spine_keys(read, names)]
    )
    unseen = f"view_{number}.visible is null and {there}"
    return f"case when {unseen} then {read.empty[place]} else {value} end as {name}"


def _join(number: int, read: ViewRead, names: list[str]) -> str:
    keys = [
        f"{key} = view_{number}.key_{place}" for place, key in enumerate(_spine_keys(read, names))
    ]
    return f"\nasof left join view_{number} on " + " and ".join(
        [*keys, f"asked.instant >= view_{number}.visible"]
    )


def _spine_keys(read: ViewRead, names: list[str]) -> list[str]:
    return [f"asked.spine_{names.index(key)}" for key in read.spine_keys.values()]


def _view_source(read: ViewRead) -> str:
    return _source(read.rows, {**read.index.columns, **read.feature_columns})


def _source(rows: Snapshot, columns: Mapping[str, str]) -> str:
    """Name a source's columns by their place, then those that are read as they are to be called."""
    names = rows.schema.names
    given = ", ".join(f"column_{names.index(column)} as {name}" for name, column in columns.items())
    numbered = ", ".join(f"column_{place}" for place in range(len(names)))
    return f"(select {given} from {_files(rows)} as rows ({numbered}))"


def _files(rows: Snapshot) -> str:
    if not rows.files:
        return f"(select {', '.join('null' for _ in rows.schema.names)} where false)"
    return parquet_sql(rows.files, is_partitioned=bool(rows.partitions))
