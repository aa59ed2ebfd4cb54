"""Whether what was served is what a training set says: the log of served values, asked again.

Each logged row is joined with the features of its own instant as they are known now, value by
value, and what differs is traced to its cause where the tables still show it. Only differing rows
are looked into. The comparison is bit for bit; texts and vectors are compared by their digests.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.watching.causes import name_causes
from feature_repo.watching.compared import Asked, Compared, Logged
from transforms.features.chosen import home_views
from transforms.features.registry import registry
from transforms.paths import scan_parquet
from transforms.schemas.serving import CAUSES, Consistency
from transforms.warehouse.publishing import publish
from transforms.warehouse.tables import Warehouse

ROWS = 100_000  # of each service, the newest, that one check compares
COUNTS = [column.name for column in Consistency.columns() if column.name.startswith("n_")]


def check(warehouse: Warehouse, now: datetime, n_rows: int = ROWS) -> pl.DataFrame:
    """Compare the newest logged rows of every service, and publish as `serving.consistency`.

    Returns what was published: a row a service and feature, none where nothing was logged.
    """
    found = [
        compared.row(now)
        for logged in _logged(warehouse.settings.root, n_rows)
        for compared in _compare(warehouse, logged)
        if compared.is_compared.any()
    ]
    rows = _summed(pl.DataFrame(found, schema=_schema()))
    if rows.height:
        table = rows.to_arrow().cast(Consistency.arrow_schema())
        publish(warehouse, Consistency, table.to_batches(), {})
    return rows


def last_check(warehouse: Warehouse) -> pl.DataFrame:
    """Read what the last check found."""
    files = warehouse.files(Consistency.relation())
    if not files:
        return pl.DataFrame(schema=_schema())
    found = scan_parquet(files)
    return found.filter(pl.col("checked_timestamp") == pl.col("checked_timestamp").max()).collect()


def n_wrong(rows: pl.DataFrame) -> int:
    """How many of the values compared differ."""
    return int((rows["n_compared"] - rows["n_matched"]).sum())


def causes_of(row: Mapping[str, Any]) -> str:
    """The causes of a feature's differences in words, the most frequent first.

    >>> causes_of({"n_store_older": 2, "n_code_changed": 3})
    'code changed 3, store older 2'
    """
    counts = {cause: row.get(f"n_{cause}", 0) for cause in CAUSES}
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{cause.replace('_', ' ')} {n:,}" for cause, n in ordered if n)


def _summed(rows: pl.DataFrame) -> pl.DataFrame:
    """Sum up what was found of rows that a service logged with different features."""
    key, weight = Consistency.key(), pl.col("n_compared") / pl.col("n_compared").sum()
    return (
        rows.group_by(key, maintain_order=True)
        .agg(
            pl.sum(*COUNTS),
            pl.max("largest_difference", "last_instant"),
            pl.min("first_instant"),
            smape=pl.when(pl.col("smape").is_not_null().any()).then(
                (pl.col("smape") * weight).sum()
            ),
        )
        .select(rows.columns)
    )


def _schema() -> dict[str, pl.DataType]:
    return {column.name: column.dtype for column in Consistency.columns()}


def _logged(home: Path, n_rows: int) -> Iterator[Logged]:
    """Read the newest rows of each service, a frame for each set of columns."""
    from feature_repo.stores.served_log import code_of, files_of, flush

    flush(home)
    for service, files in files_of(home).items():
        by_shape: dict[tuple[str, ...], list[pa.Table]] = defaultdict(list)
        n_left = n_rows
        for file in reversed(files):
            with suppress(FileNotFoundError):  # another process makes room
                table = pq.read_table(file, partitioning=None)[:n_left]
                by_shape[code_of(file), *map(str, table.schema)].append(table)
                n_left -= table.num_rows
            if n_left <= 0:
                break
        for (code, *_), tables in by_shape.items():
            rows = pa.concat_tables(tables).replace_schema_metadata(None)
            yield Logged(service, pl.DataFrame(rows), json.loads(code))


def _compare(warehouse: Warehouse, logged: Logged) -> list[Compared]:
    """Compare all features of logged rows that there are still."""
    from feature_repo.stores.served import TOO_OLD
    from feature_repo.stores.served_log import EVENT_TIMESTAMP, STATUS

    known = _known(warehouse)
    names = [
        name
        for column in logged.frame.columns
        if (name := column.removesuffix(STATUS)) != column and name in known
    ]
    if not names:
        return []
    asked = Asked(warehouse, logged.frame, names)
    trained = asked.trained()
    found = [
        Compared(
            logged.service,
            name,
            served=logged.frame[name],
            trained=trained[name],
            is_compared=logged.frame[f"{name}{STATUS}"] != TOO_OLD,
            at=logged.frame[EVENT_TIMESTAMP],
        )
        for name in names
    ]
    for item in found:
        _leave_out_what_left(asked, item)
    if any(item.differing for item in found):
        name_causes(asked, found, logged)
    return found


def _known(warehouse: Warehouse) -> set[str]:
    """The features that a training set of the home has, as `view__feature`."""
    declared, kept = registry(), {view.name for view in home_views(warehouse.settings.root)}
    known = {f"{name}__{feature}" for name in kept for feature in declared.views[name].features}
    return known | {
        f"{name}__{feature}"
        for name, derivation in declared.derivations.items()
        if kept.issuperset(derivation.features_by_view)
        for feature in derivation.types
    }


def _leave_out_what_left(asked: Asked, item: Compared) -> None:
    """Leave out what was no longer online, as its view says: a training set has it for ever."""
    view = asked.views.get(item.view)
    missing = [row for row in item.differing if item.served[row] is None]
    if view is None or view.online_for is None or not missing:
        return
    known = asked.known_instants(view, None, missing)
    left = {row for row in known if known[row] < item.at[row] - view.online_for}
    item.is_compared &= pl.Series([row not in left for row in range(item.served.len())])
    del item.differing
