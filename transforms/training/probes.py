"""What to know of a training set before a model is fitted: nulls, drift, ages, and leaks.

A feature that predicts a label nearly alone, or that is another once what came later is taken away,
knows what it should not.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import duckdb
import numpy as np
import polars as pl

from transforms.expressions import quoted
from transforms.features.registry import registry
from transforms.paths import parquet_relation
from transforms.profiles.drift import Spread, psi
from transforms.schemas.staging import StagedRecord
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse, data_files

N_BINS = 20
AGED_ROWS = 10_000
TOO_WELL = 0.98  # an AUC from which on a feature alone predicts too well
NOT_FEATURES = {"event_timestamp", "label", "weight"}


class Measured(NamedTuple):
    """A feature in each split: its share of nulls, its histogram, its PSI to the first split.

    `auc` is how well it tells true labels from false ones alone, from 0.5 to 1; None where there is
    no such label, or the feature is no number.
    """

    feature: str
    null_ratios: list[float]
    bins: list[list[int]]
    psi: list[float | None]
    auc: float | None


class Recomputed(NamedTuple):
    """A feature in sampled rows, computed again of what was known at each row's instant."""

    feature: str
    n_checked: int
    n_changed: int


class Age(NamedTuple):
    """How old the rows of a view were at the instants of the training set, in seconds."""

    view: str
    n_rows: int
    median: float | None
    most: float | None


def auc(values: pl.Series, label: pl.Series) -> float | None:
    """The area under the ROC curve of one feature as the score, by its ranks; nulls rank first.

    It is the greater of the two directions, so 0.5 says nothing and 1 tells all.

    >>> auc(pl.Series([1, 2, 3, None]), pl.Series([False, True, True, False]))
    1.0
    """
    if not (values.dtype.is_numeric() or values.dtype == pl.Boolean):
        return None
    numbers = values.cast(pl.Float64).fill_nan(None).fill_null(-np.inf).to_numpy()
    is_positive = label.to_numpy()
    n_positive, n_negative = int(is_positive.sum()), int((~is_positive).sum())
    if not n_positive or not n_negative:
        return None
    _, places, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # equal values share the mean of their ranks
    above = ranks[places][is_positive].sum() - n_positive * (n_positive + 1) / 2
    area = float(above / (n_positive * n_negative))
    return max(area, 1 - area)


def measure(parts: Mapping[str, pl.DataFrame], keys: Sequence[str] = ()) -> list[Measured]:
    """Measure every column that is no key, time, label or weight, over the splits."""
    frames = list(parts.values())
    label = pl.concat([part["label"] for part in frames]) if "label" in frames[0] else None
    has_label = label is not None and label.dtype == pl.Boolean
    found = []
    for name in frames[0].columns:
        if name in NOT_FEATURES or name in keys:
            continue
        columns = [part[name] for part in frames]
        found.append(
            Measured(
                name,
                [column.null_count() / max(column.len(), 1) for column in columns],
                _bins(columns),
                [None, *(_psi(column, columns[0]) for column in columns[1:])],
                auc(pl.concat(columns), label) if has_label and label is not None else None,
            )
        )
    return found


def _bins(columns: list[pl.Series]) -> list[list[int]]:
    """Count the values of each split in the same bins, from the 1st to the 99th percentile."""
    if not columns[0].dtype.is_numeric():
        return [[] for _ in columns]
    every = pl.concat(columns).cast(pl.Float64).fill_nan(None).drop_nulls().to_numpy()
    every = every[np.isfinite(every)]
    if not len(every):
        return [[] for _ in columns]
    low, high = np.quantile(every, [0.01, 0.99])
    edges = np.linspace(low, high if high > low else low + 1, N_BINS + 1)
    values = [column.cast(pl.Float64).fill_nan(None).drop_nulls().to_numpy() for column in columns]
    return [np.histogram(each, edges)[0].tolist() for each in values]


def _psi(one: pl.Series, rest: pl.Series) -> float | None:
    """The population stability index of a split to the first; None for lists and the like."""
    if one.dtype.is_nested() or one.dtype == pl.Binary:
        return None
    codes = pl.concat([one, rest]).rank("dense").cast(pl.Int64) - 1
    n_values = codes.n_unique()
    split, first = (
        Spread(
            np.bincount(part.drop_nulls().to_numpy(), minlength=n_values),
            part.null_count(),
            part.len(),
        )
        for part in (codes[: one.len()], codes[one.len() :])
    )
    return psi(split, first, np.arange(n_values) if one.dtype.is_numeric() else None)


@contextmanager
def snapshot(
    warehouse: Warehouse, versions: Mapping[str, int], staged: int
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the tables that a training set was made from."""
    relations = {f"features.{view}": version for view, version in versions.items()}
    at = relations | {StagedRecord.relation(): staged}
    with connect(warehouse, at) as connection:
        yield connection


def ages(
    connection: duckdb.DuckDBPyConnection, frame: pl.DataFrame, names: Sequence[str]
) -> list[Age]:
    """Measure how old each view's rows are at the instants of at most 10,000 rows."""
    sample = frame.gather_every(max(1, frame.height // AGED_ROWS))
    found = []
    for view in (registry().views[name] for name in names):
        keys = view.entity.columns
        if not {*keys} <= {*frame.columns}:
            continue
        connection.register("asked_instants", sample.select(*keys, "event_timestamp").to_arrow())
        same = " and ".join(f"asked.{quoted(key)}::varchar = made.{quoted(key)}" for key in keys)
        ((n_rows, median, most),) = connection.execute(f"""
            select count(seconds), median(seconds), quantile_cont(seconds, 0.95)
            from (
                select epoch(asked.event_timestamp - made.event_timestamp) as seconds
                from asked_instants as asked
                asof join (select {", ".join(map(quoted, keys))}, event_timestamp
                    from {view.relation}) as made
                    on {same} and asked.event_timestamp >= made.event_timestamp
            )
        """).fetchall()
        connection.unregister("asked_instants")
        found.append(Age(view.name, n_rows, median, most))
    return found


def recompute(
    connection: duckdb.DuckDBPyConnection,
    warehouse: Warehouse,
    frame: pl.DataFrame,
    names: Sequence[str],
    staged: int,
    n_rows: int,
) -> list[Recomputed]:
    """Compute sampled rows again, by each feature's definition, with all that came later deleted.

    A feature that has another value then has seen the future. A null is not compared: it may be
    past its time to live.
    """
    files = data_files(warehouse.table_at(StagedRecord.relation(), staged))
    connection.execute(
        f"create or replace view {StagedRecord.relation()} as select * from "
        f"{parquet_relation(files)} where known_timestamp <= getvariable('known')::timestamptz"
    )
    counts: dict[str, list[int]] = {}
    for row in _sample(frame, n_rows).iter_rows(named=True):
        connection.execute("set variable known = $at", {"at": row["event_timestamp"]})
        for view in (registry().views[name] for name in names):
            key = {column: row.get(column) for column in view.entity.columns}
            if None in key.values():
                continue
            texts = {column: str(value) for column, value in key.items()}
            again = view.explain(connection, texts, row["event_timestamp"], 0).values
            for name in view.features:
                value = row.get(column := f"{view.name}__{name}")
                if value is not None:
                    count = counts.setdefault(column, [0, 0])
                    count[0] += 1
                    count[1] += not _is_equal(value, again.get(name))
    return [Recomputed(name, *count) for name, count in counts.items()]


def _sample(frame: pl.DataFrame, n_rows: int) -> pl.DataFrame:
    """Draw rows by digests of their place, the same each time."""
    order = sorted(range(frame.height), key=lambda n: hashlib.sha256(str(n).encode()).digest())
    return frame[sorted(order[:n_rows])]


def _is_equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and np.isnan(one):
        return isinstance(other, float) and bool(np.isnan(other))
    if isinstance(one, list | pl.Series | np.ndarray):
        return other is not None and list(one) == list(other)
    return bool(one == other)
