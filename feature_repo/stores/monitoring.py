"""What Feast's monitoring asks of an offline store: metrics from profiles, and files for them.

A profile contains no text, so a text column has hashed buckets where stock Feast shows the most
frequent texts. Feast's own names of metrics and keys are used; how a profile counts does not belong
here.
"""

import fcntl
import json
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from feast.monitoring.monitoring_utils import (
    empty_categorical_metric,
    empty_numeric_metric,
    monitoring_table_meta,
)

from transforms.home import replace_file
from transforms.profiles.profile import (
    Profiled,
    count,
    hashed_label,
    merge,
    quantiles_of,
    sketch_values,
    sketched,
)

SHARES = {"p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99}
Record = dict[str, Any]


def describe(
    tables: Iterable[pa.Table], features: list[tuple[str, str]], n_bins: int, top_n: int
) -> list[Record]:
    """Describe features (name, `numeric` or `categorical`) over tables, at least one, read once.

    Mean, deviation and ends are exact, quantiles and histograms within 1 %, of finite numbers; NaN
    and infinity count as null.
    """
    known = {"numeric": sketched, "categorical": _hashed}
    profiled = {
        str(place): known[kind](str(place), pl.col(str(place)))
        for place, (_, kind) in enumerate(features)
        if kind in known
    }
    numbers = [name for name in profiled if features[int(name)][1] == "numeric"]
    counts, moments, n_rows = (
        [],
        {name: np.array([0.0, 0.0, 0.0, math.inf, -math.inf]) for name in numbers},
        0,
    )
    for table in tables:
        rows = pl.DataFrame(
            {name: pl.from_arrow(_readable(table[features[int(name)][0]])) for name in profiled}
        )
        n_rows += table.num_rows
        if profiled:
            counts.append(count(rows.lazy(), [], profiled.values()))
        for name in numbers:
            moments[name] = _joined(moments[name], _moments(rows[name]))
    buckets = (
        merge(counts)
        if counts
        else pl.DataFrame(
            schema={"column": pl.String, "kind": pl.String, "key": pl.String, "n": pl.Int64}
        )
    )
    given = []
    for name in profiled:
        feature, kind = features[int(name)]
        own = buckets.filter(pl.col("column") == name)
        metric = (
            _numeric(feature, own, moments[name], n_bins)
            if kind == "numeric"
            else _categorical(feature, own, top_n)
        )
        n_null = int(own.filter(pl.col("key").is_null())["n"].sum())
        given.append(
            metric
            | {
                "row_count": n_rows,
                "null_count": n_null,
                "null_rate": n_null / n_rows if n_rows else 0.0,
            }
        )
    return given


def save(folder: Path, metric_type: str, metrics: list[Record]) -> None:
    """Keep metrics, in the place of those with the same key."""

    def add(kept: dict[str, Record]) -> None:
        _, columns, key = monitoring_table_meta(metric_type)
        for metric in metrics:
            record = {column: _as_json(metric.get(column)) for column in columns}
            kept[json.dumps([record[column] for column in key])] = record

    if metrics:
        _change(folder, metric_type, add)


def query(
    folder: Path,
    project: str,
    metric_type: str,
    filters: Mapping[str, Any],
    span: tuple[date | None, date | None],
) -> list[Record]:
    """Read the metrics that match, of dates from the first to the last, in their order."""
    first, last = (day.isoformat() if day else None for day in span)
    wanted = {"project_id": project or None, **filters}
    found = [
        record
        for record in _read(folder, metric_type).values()
        if _matches(record, wanted)
        and (not first or record["metric_date"] >= first)
        and (not last or record["metric_date"] <= last)
    ]
    order = "job_id" if metric_type == "job" else "metric_date"
    return sorted(found, key=lambda record: str(record[order]))


def clear_baseline(folder: Path, project: str, wanted: Mapping[str, Any]) -> None:
    """Take the mark of a baseline from the feature metrics that match."""

    def clear(kept: dict[str, Record]) -> None:
        for record in kept.values():
            if _matches(record, {"project_id": project, **wanted}):
                record["is_baseline"] = False

    _change(folder, "feature", clear)


def _hashed(name: str, value: pl.Expr) -> Profiled:
    """Count a flag by its value, any other value by the bucket of its hash."""
    return Profiled(name, "category", value.map_batches(_bucket, pl.String))


def _bucket(values: pl.Series) -> pl.Series:
    text = values.cast(pl.String)
    return text if values.dtype == pl.Boolean else hashed_label(text)


def _readable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decimals as floats, some are too wide for Polars; dictionaries as their values."""
    if pa.types.is_decimal(column.type):
        return column.cast(pa.float64(), safe=False)
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _moments(values: pl.Series) -> np.ndarray:
    """Return number, mean, squared deviations, least and greatest of the finite numbers."""
    numbers = values.cast(pl.Float64).drop_nulls()
    finite = numbers.filter(numbers.is_finite()).to_numpy()
    if not len(finite):
        return np.array([0.0, 0.0, 0.0, math.inf, -math.inf])
    return np.array(
        [len(finite), finite.mean(), finite.var() * len(finite), finite.min(), finite.max()]
    )


def _joined(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Add moments of two parts up (Chan, Golub, LeVeque 1979)."""
    n, apart = one[0] + other[0], other[1] - one[1]
    if not n:
        return one
    mean = one[1] + apart * other[0] / n
    deviations = one[2] + other[2] + apart**2 * one[0] * other[0] / n
    return np.array([n, mean, deviations, min(one[3], other[3]), max(one[4], other[4])])


def _numeric(feature: str, buckets: pl.DataFrame, moments: np.ndarray, n_bins: int) -> Record:
    metric: Record = empty_numeric_metric(feature)
    n, mean, deviations, least, greatest = map(float, moments)
    if not n:
        return metric
    present = buckets.drop_nulls("key")
    values = np.clip(sketch_values(present["key"].to_list()), least, greatest)
    order = np.argsort(values)
    values, sizes = values[order], present["n"].to_numpy()[order]
    found = quantiles_of(values, sizes, np.array(list(SHARES.values())))
    metric |= {
        "mean": mean,
        "stddev": math.sqrt(deviations / (n - 1)) if n > 1 else None,
        "min_val": least,
        "max_val": greatest,
    }
    metric |= dict(zip(SHARES, map(float, found), strict=True))
    if least == greatest:
        histogram = {"bins": [least, greatest], "counts": [int(n)], "bin_width": 0.0}
    else:
        counts, edges = np.histogram(values, n_bins, (least, greatest), weights=sizes)
        histogram = {
            "bins": edges.tolist(),
            "counts": counts.astype(int).tolist(),
            "bin_width": float(edges[1] - edges[0]),
        }
    return metric | {"histogram": histogram}


def _categorical(feature: str, buckets: pl.DataFrame, top_n: int) -> Record:
    metric: Record = empty_categorical_metric(feature)
    present = buckets.drop_nulls("key").sort("n", "key", descending=[True, False])
    if present.is_empty():
        return metric
    shown = present.head(top_n).select(value="key", count="n").to_dicts()
    other = int(present["n"].sum()) - sum(entry["count"] for entry in shown)
    return metric | {
        "histogram": {"values": shown, "other_count": other, "unique_count": present.height}
    }


def _as_json(value: Any) -> Any:
    """A value as Feast reads it back: instants as ISO 8601, and no number that JSON lacks."""
    if isinstance(value, date | datetime):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _matches(record: Record, wanted: Mapping[str, Any]) -> bool:
    return all(
        record.get(column) == _as_json(value)
        for column, value in wanted.items()
        if value is not None
    )


def _file(folder: Path, metric_type: str) -> Path:
    name, _, _ = monitoring_table_meta(metric_type)
    return folder / f"{name}.json"


def _read(folder: Path, metric_type: str) -> dict[str, Record]:
    file = _file(folder, metric_type)
    kept: dict[str, Record] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    return kept


def _change(folder: Path, metric_type: str, change: Callable[[dict[str, Record]], None]) -> None:
    """Change a file of metrics; of two who do so at once one waits."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = _read(folder, metric_type)
        change(kept)
        replace_file(_file(folder, metric_type), json.dumps(kept).encode())
