"""Drift: how far a load is from the loads before it, as an effect size, and what follows from it.

Never a p-value: of many rows any difference is significant, of few none, and a source's days differ by nature. So a load must
be far from its window by a fixed amount, and farther than the window's own loads usually are from each other (compare Redyuk,
Kaoudi, Markl, Schelter 2021, EDBT: judge a batch by the batches before it). docs/drift.md tells what was measured.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import polars as pl

from transforms.errors import DriftError
from transforms.profile import profile_loads, quantiles_of, sketch_values
from transforms.profile import store as store_rows
from transforms.schemas.profiles import ColumnProfile, DriftStatistic
from transforms.source import Drift, Source
from transforms.sql import model
from transforms.warehouse import Warehouse

STATISTICS_OF = {"number": ("psi", "wasserstein"), "category": ("psi", "js_distance"), "vocabulary": ("js_distance",)}
BINS = 10
# a load counts as if so many rows more, spread as the reference is, had come with it: a few rows cannot look far from anything
PRIOR_ROWS = 100
GRID = np.linspace(0.01, 0.99, 99)


class Spread(NamedTuple):
    """Counts of a column in one load, or in several: by bucket, of nothing, and of all rows."""

    counts: np.ndarray
    n_null: float
    n_rows: float

    def __sub__(self, other: "Spread") -> "Spread":
        return Spread(self.counts - other.counts, self.n_null - other.n_null, self.n_rows - other.n_rows)


def psi(one: Spread, rest: Spread, values: np.ndarray | None) -> float:
    """Population stability index (Lewis 1994; Yurdakul 2018): the sum of (p - q) ln(p / q).

    Over ten bins of the reference's quantiles for numbers (`values`, sorted), else over categories; nothing is a bin of its own.
    """
    bins = _decile(rest.counts) if values is not None else np.arange(len(rest.counts))
    n_bins = BINS if values is not None else len(rest.counts)
    sums = [np.append(np.bincount(bins, spread.counts, n_bins), spread.n_null) for spread in (one, rest)]
    p, q = _mixed(*sums)
    return float(np.sum((p - q) * np.log(p / q)))


def js_distance(one: Spread, rest: Spread) -> float:
    """Jensen-Shannon distance, base 2 (Lin 1991; Endres and Schindelin 2003), between two spreads over categories: 0 to 1."""
    p, q = _mixed(np.append(one.counts, one.n_null), np.append(rest.counts, rest.n_null))
    return float(np.sqrt(np.sum(_divergence(p, q))))


def vocabulary_distance(one: Spread, rest: Spread) -> float:
    """The greatest Jensen-Shannon distance of any bucket's words: between the shares of texts with and without them.

    Over all words at once, a sentence that is new in every text weighs little beside what texts are about that day.
    """
    n_one, n_rest = one.n_rows - one.n_null, rest.n_rows - rest.n_null
    weight = n_one / (n_one + PRIOR_ROWS)
    q = (rest.counts + 0.5) / (n_rest + 1)
    p = weight * one.counts / max(n_one, 1) + (1 - weight) * q
    return float(np.sqrt(np.max(_divergence(p, q) + _divergence(1 - p, 1 - q), initial=0)))


def wasserstein(one: Spread, rest: Spread, values: np.ndarray) -> float | None:
    """Wasserstein-1 distance in interquartile ranges of the reference: the mean distance of the quantiles from 1 % to 99 %.

    None where either has no value. Where the middle half of the reference is one value, the range from 1 % to 99 % is the unit.
    """
    n_one = one.counts.sum()
    if not n_one or not rest.counts.sum():
        return None
    of_one, of_rest = quantiles_of(values, one.counts, GRID), quantiles_of(values, rest.counts, GRID)
    unit = (of_rest[74] - of_rest[24]) or (of_rest[-1] - of_rest[0]) or 1.0
    return float(np.mean(np.abs(of_one - of_rest)) / unit * n_one / (n_one + PRIOR_ROWS))


def _divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """What each outcome adds to the Jensen-Shannon divergence in bits."""
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(share > 0, share * np.log2(share / middle), 0.0) for share in (p, q)]
    return np.maximum((terms[0] + terms[1]) / 2, 0.0)


def _mixed(one: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn counts into shares: the reference's smoothed by half a row a bin, the load's mixed with `PRIOR_ROWS` rows of them."""
    q = (rest + 0.5) / np.sum(rest + 0.5)
    n_one = one.sum()
    return (one + PRIOR_ROWS * q) / (n_one + PRIOR_ROWS), q


def _decile(counts: np.ndarray) -> np.ndarray:
    """Tell in which tenth of all rows each of the sorted buckets has its middle."""
    middles = (np.cumsum(counts) - counts / 2) / max(counts.sum(), 1)
    tenths: np.ndarray = np.minimum(middles * BINS, BINS - 1).astype(int)
    return tenths


def distances(kind: str, one: Spread, rest: Spread, values: np.ndarray | None) -> dict[str, float | None]:
    """Tell by every statistic of a kind of column how far one spread is from the rest."""
    if kind == "vocabulary":
        return {"js_distance": vocabulary_distance(one, rest)}
    if values is None:
        return {"psi": psi(one, rest, None), "js_distance": js_distance(one, rest)}
    return {"psi": psi(one, rest, values), "wasserstein": wasserstein(one, rest, values)}


def judge(profiles: pl.DataFrame, window: pl.DataFrame, drift: Drift) -> pl.DataFrame:
    """Hold one load's profiles against those of the loads of its window: rows of `DriftStatistic`."""
    rows = [row for profile in profiles.to_dicts() for row in _judge_column(profile, window.filter(column=profile["column"]), drift)]
    return pl.DataFrame(rows, schema=pl.DataFrame(DriftStatistic.arrow_schema().empty_table()).schema)


def _judge_column(profile: dict[str, Any], window: pl.DataFrame, drift: Drift) -> Iterator[dict[str, Any]]:
    n_rows = int(window["n_rows"].sum())
    is_told = window.height >= drift.min_reference_loads and n_rows >= drift.min_reference_rows
    kind = profile["kind"]
    found, usual = _measure(kind, [profile, *window.to_dicts()]) if is_told else ({}, {})
    for statistic in STATISTICS_OF[kind]:
        value = found.get(statistic)
        warn, stop = drift.thresholds(profile["column"], statistic, usual.get(statistic, 0.0))
        yield {
            **{name: profile[name] for name in ("source", "load_id", "loaded_timestamp", "column")},
            "statistic": statistic,
            "value": value,
            "n_reference_loads": window.height,
            "n_reference_rows": n_rows,
            "warn": warn,
            "stop": stop,
            "verdict": "no_reference" if value is None else _verdict(value, warn, stop),
        }


def _verdict(value: float, warn: float | None, stop: float | None) -> str:
    if stop is not None and value >= stop:
        return "stop"
    return "warn" if warn is not None and value >= warn else "still"


def _measure(kind: str, profiles: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float | None], dict[str, float]]:
    """Tell how far the first profile is from the others together, and how far one of the others usually is from its fellows."""
    spreads, values = _align(kind, profiles)
    total = Spread(sum(s.counts for s in spreads[1:]), sum(s.n_null for s in spreads[1:]), sum(s.n_rows for s in spreads[1:]))  # type: ignore[arg-type]
    found = distances(kind, spreads[0], total, values)
    among = [distances(kind, spread, total - spread, values) for spread in spreads[1:]]
    usual = {name: float(np.median([d[name] for d in among if d[name] is not None] or [0.0])) for name in found}
    return found, usual


def _align(kind: str, profiles: Sequence[Mapping[str, Any]]) -> tuple[list[Spread], np.ndarray | None]:
    """Give the profiles the same buckets, in the same order: of numbers by their value."""
    keys = sorted({key for profile in profiles for key in profile["bucket_keys"]})
    values = sketch_values(keys) if kind == "number" else None
    order = np.argsort(values) if values is not None else np.arange(len(keys))
    position = dict(zip((keys[index] for index in order), range(len(keys)), strict=True))
    spreads = []
    for profile in profiles:
        counts = np.zeros(len(keys))
        counts[[position[key] for key in profile["bucket_keys"]]] = profile["bucket_counts"]
        spreads.append(Spread(counts, profile["n_null"], profile["n_rows"]))
    return spreads, values if values is None else values[order]


def watch(connection: duckdb.DuckDBPyConnection, source: Source, warehouse: Warehouse, spool: Path, *, is_accepted: bool) -> None:
    """Profile the loads that were just split and judge each against the loads before it; both are kept, whatever comes of it.

    Raises `DriftError` if one is to be stopped, unless drift is accepted. Every load that passes is of the next one's window.
    """
    profiles = profile_loads(connection, spool)
    window = _window(connection, source, profiles)
    judged = []
    for load in profiles.sort("loaded_timestamp", "load_id").partition_by("load_id", maintain_order=True):
        newest = window["load_id"].unique(maintain_order=True).tail(source.drift.reference_loads)
        judged.append(judge(load, window.filter(pl.col("load_id").is_in(newest.implode())), source.drift))
        window = pl.concat([window, load])
    statistics = pl.concat(judged) if judged else pl.DataFrame(DriftStatistic.arrow_schema().empty_table())
    store_rows(warehouse, ColumnProfile, profiles)
    store_rows(warehouse, DriftStatistic, statistics)
    stopping = statistics.filter(verdict="stop")
    if stopping.height and not is_accepted:
        raise drift_error(source, stopping)


def _window(connection: duckdb.DuckDBPyConnection, source: Source, profiles: pl.DataFrame) -> pl.DataFrame:
    """Fetch the profiles of the staged loads before the first of those that are judged, the oldest first."""
    parameters = {
        "source": source.name,
        "judged": profiles["load_id"].unique().to_list() or [""],
        "before": profiles["loaded_timestamp"].min(),
        "n_loads": source.drift.reference_loads,
    }
    window: pl.DataFrame = connection.sql(model("profiles/reference_columns"), params=parameters).pl()
    return window


def drift_error(source: Source, stopping: pl.DataFrame) -> DriftError:
    """Say which load is stopped by which columns, and how to look and how to let it pass."""
    load_id = str(stopping["load_id"][0])
    rows = stopping.filter(load_id=load_id)
    n_loads = max(rows["n_reference_loads"].to_list())
    message = (
        f"{source.name}: load {load_id} differs from the {n_loads} loads before it: {told(rows)}; nothing was "
        "staged. Look at it with millrace report; if it is as it should be, millrace run --source FILE --accept-drift lets it pass"
    )
    return DriftError(message, payload(source.name, load_id, rows))


def told(rows: pl.DataFrame) -> str:
    """Tell columns, statistics, values and the thresholds they passed, e.g. `n_bytes wasserstein 1.21 (stop 0.90)`."""
    return ", ".join(
        f"{row['column']} {row['statistic']} {row['value']:.2f} ({row['verdict']} {row[row['verdict']]:.2f})"
        for row in rows.sort("value", descending=True).to_dicts()
    )


def payload(source: str, load_id: str, rows: pl.DataFrame) -> dict[str, Any]:
    """Tell the same to programs."""
    statistics = rows.select("column", "statistic", "value", "warn", "stop", "verdict").to_dicts()
    return {"source": source, "load": load_id, "columns": rows["column"].unique().sort().to_list(), "statistics": statistics}


def staged_loads(warehouse: Warehouse, source: str) -> set[str]:
    """Name the loads of a source that are in the accounts."""
    if warehouse.table("accounting.files") is None:
        return set()
    with warehouse.connect() as connection:
        rows = connection.sql("select distinct load_id from accounting.files where source = $source", params={"source": source})
        return {load_id for (load_id,) in rows.fetchall()}


def drifted(warehouse: Warehouse, source: str, loads: set[str]) -> dict[str, pl.DataFrame]:
    """Fetch what of some loads is to be warned of, or passed though it would stop, by their ids."""
    if not loads:
        return {}
    with warehouse.connect() as connection:
        sql = f"from {DriftStatistic.relation()} where source = $source and list_contains($loads, load_id) and verdict in ('warn', 'stop')"
        rows: pl.DataFrame = connection.sql(f"{sql} order by all", params={"source": source, "loads": sorted(loads)}).pl()
    return {frame["load_id"][0]: frame for frame in rows.partition_by("load_id", maintain_order=True)}
