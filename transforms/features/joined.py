"""Versions of records beside the features that are read of them."""

from collections.abc import Iterable

from transforms.expressions import quoted

EFFECTIVE = (
    "(select *, greatest(event_timestamp, known_timestamp) as effective_timestamp from "
    "staging.records)"
)
References = set[tuple[str, ...]]


def joined(records: str, references: Iterable[tuple[str, ...]], *, is_every: bool = False) -> str:
    """SQL of `records` with the features read of them, at the instant a version takes effect.

    `records` is a relation with `record_id` and `effective_timestamp`. Of several rows of an
    instant the newest counts; with `is_every` a record comes with each of them in turn.
    """
    columns: dict[str, set[str]] = {}
    for view, *rest in references:
        if rest:
            columns.setdefault(view, set()).add(rest[0])
    sql, read = (
        f"{records} as records",
        "{0}" if is_every else "arg_max_null({0}, created_timestamp) as {0}",
    )
    for view, names in sorted(columns.items()):
        features = ", ".join(read.format(quoted(name)) for name in sorted(names))
        sql += f"""
            left join (
                select record_id as __record_id, event_timestamp as __instant, {features}
                from features.{view}
                where record_id in (select record_id from {records})
                group by all
            ) as {view}
                on records.record_id = {view}.__record_id
                and records.effective_timestamp = {view}.__instant
        """
    return sql
