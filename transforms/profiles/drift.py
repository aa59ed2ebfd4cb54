"""Drift: how far a load is from the loads before it, as an effect size, and what follows from it.

With many rows any difference is significant, and the days of a source differ by nature. So a load
counts as drifted only if it is far from its window by a fixed amount, and farther than the source's
own history of such distances suggests (compare Redyuk, Kaoudi, Markl, Schelter 2021, EDBT: judge a
batch by the batches before it). docs/drift.md describes the method and its measurements.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

import duckdb
import numpy as np
import polars as pl

from transforms.errors import DriftError
from transforms.profiles.profile import profile_loads, quantiles_of, sketch_values, stored
from transforms.profiles.profile import store as store_rows
from transforms.schemas.profiles import ColumnProfile, DriftStatistic
from transforms.schemas.staging import AccountedFile, StagedRecord
from transforms.sources.source import Drift, Source
from transforms.sql import model
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

STATISTICS_OF = {
    "number": ("psi", "wasserstein"),
    "category": ("psi", "js_distance"),
    "vocabulary": ("js_distance",),
}
BINS = 10
# a load is mixed with this many rows distributed as the reference, so a few rows cannot look far
PRIOR_ROWS = 100
GRID = np.linspace(0.01, 0.99, 99)
# a source's usual distances are estimated from at most, and at least, this many earlier loads
EARLIER_LOADS = 200
MIN_EARLIER_LOADS = 3
# a load is no news unless it is farther, by half, than each of the newest few
RECENT_LOADS = 7
NEWS = 1.5
# an earlier load that warned counts as at most this many times its warning threshold away;
# otherwise one bad load would hide the next
MAX_EXCESS = 2
MAX_FILES = 3


class Spread(NamedTuple):
    """Counts of a column in one or several loads: by bucket, without a value, and of all rows."""

    counts: np.ndarray
    n_null: float
    n_rows: float

    def __add__(self, other: "Spread") -> "Spread":  # type: ignore[override]
        return Spread(
            self.counts + other.counts, self.n_null + other.n_null, self.n_rows + other.n_rows
        )


def psi(one: Spread, rest: Spread, values: np.ndarray | None) -> float:
    """Population stability index (Lewis 1994; Yurdakul 2018): the sum of (p - q) ln(p / q).

    For numbers (`values`, sorted) the bins are ten quantile ranges of the reference, else the
    categories; rows without a value are a bin of their own.

    >>> today, before = Spread(np.array([90, 910]), 0, 1000), Spread(np.array([500, 500]), 0, 1000)
    >>> round(psi(today, before, None), 2), round(psi(before, before, None), 2)
    (0.72, 0.0)
    """
    bins = _decile(rest.counts) if values is not None else np.arange(len(rest.counts))
    n_bins = BINS if values is not None else len(rest.counts)
    sums = [
        np.append(np.bincount(bins, spread.counts, n_bins), spread.n_null) for spread in (one, rest)
    ]
    p, q = _mixed(*sums)
    return float(np.sum((p - q) * np.log(p / q)))


def js_distance(one: Spread, rest: Spread) -> float:
    """Jensen-Shannon distance of two categorical distributions, base 2, from 0 to 1.

    See Lin 1991; Endres and Schindelin 2003.

    >>> today, before = Spread(np.array([90, 910]), 0, 1000), Spread(np.array([500, 500]), 0, 1000)
    >>> round(js_distance(today, before), 2)
    0.35
    """
    p, q = _mixed(np.append(one.counts, one.n_null), np.append(rest.counts, rest.n_null))
    return float(np.sqrt(np.sum(_divergence(p, q))))


def vocabulary_distance(one: Spread, rest: Spread) -> float:
    """The greatest Jensen-Shannon distance of any bucket's words.

    It compares the shares of texts with and without them. Over all words at once, a sentence that
    is new in every text would count little beside the topics of the day.

    >>> today, before = Spread(np.array([10, 900]), 0, 1000), Spread(np.array([10, 5]), 0, 1000)
    >>> round(vocabulary_distance(today, before), 2)
    0.78
    """
    n_one, n_rest = one.n_rows - one.n_null, rest.n_rows - rest.n_null
    weight = n_one / (n_one + PRIOR_ROWS)
    q = (rest.counts + 0.5) / (n_rest + 1)
    p = weight * one.counts / max(n_one, 1) + (1 - weight) * q
    return float(np.sqrt(np.max(_divergence(p, q) + _divergence(1 - p, 1 - q), initial=0)))


def wasserstein(one: Spread, rest: Spread, values: np.ndarray) -> float | None:
    """Wasserstein-1 distance, in interquartile ranges of the reference.

    It is the mean distance of the quantiles from 1 % to 99 %; None if either side has no value. If
    the middle half of the reference is a single value, the unit is the range from 1 % to 99 %.

    >>> today, before = Spread(np.array([0, 0, 9000]), 0, 9000), Spread(np.array([3, 3, 3]), 0, 9)
    >>> round(wasserstein(today, before, np.array([1.0, 2.0, 3.0])), 2)
    0.55
    """
    n_one = one.counts.sum()
    if not n_one or not rest.counts.sum():
        return None
    of_one, of_rest = (
        quantiles_of(values, one.counts, GRID),
        quantiles_of(values, rest.counts, GRID),
    )
    return float(np.mean(np.abs(of_one - of_rest)) / _unit(of_rest) * n_one / (n_one + PRIOR_ROWS))


def _unit(quantiles: np.ndarray) -> float:
    return float((quantiles[74] - quantiles[24]) or (quantiles[-1] - quantiles[0]) or 1.0)


def _divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The contribution of each outcome to the Jensen-Shannon divergence, in bits."""
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(share > 0, share * np.log2(share / middle), 0.0) for share in (p, q)]
    return np.maximum((terms[0] + terms[1]) / 2, 0.0)


def _mixed(one: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn counts into shares.

    Those of the reference are smoothed by half a row per bin; those of the load are mixed with
    `PRIOR_ROWS` rows of the reference.
    """
    q = (rest + 0.5) / np.sum(rest + 0.5)
    n_one = one.sum()
    return (one + PRIOR_ROWS * q) / (n_one + PRIOR_ROWS), q


def _decile(counts: np.ndarray) -> np.ndarray:
    """Return the tenth of all rows in which each of the sorted buckets has its middle."""
    middles = (np.cumsum(counts) - counts / 2) / max(counts.sum(), 1)
    tenths: np.ndarray = np.minimum(middles * BINS, BINS - 1).astype(int)
    return tenths


def distances(
    kind: str, one: Spread, rest: Spread, values: np.ndarray | None
) -> dict[str, float | None]:
    """Measure how far one spread is from the rest, by every statistic of a kind of column.

    >>> today, before = Spread(np.array([90, 910]), 0, 1000), Spread(np.array([500, 500]), 0, 1000)
    >>> sorted(distances("category", today, before, None))
    ['js_distance', 'psi']
    """
    if kind == "vocabulary":
        return {"js_distance": vocabulary_distance(one, rest)}
    if values is None:
        return {"psi": psi(one, rest, None), "js_distance": js_distance(one, rest)}
    return {"psi": psi(one, rest, values), "wasserstein": wasserstein(one, rest, values)}


class Measured(NamedTuple):
    """One statistic of a column of a load, and the reference that it was measured against."""

    profile: Mapping[str, Any]
    statistic: str
    value: float | None
    n_loads: int
    rest: Spread
    values: np.ndarray | None

    @property
    def power(self) -> int:
        """The power of a distance with which the statistic grows; PSI grows with its square."""
        return 2 if self.statistic == "psi" else 1


def judge(
    profiles: pl.DataFrame, window: pl.DataFrame, earlier: pl.DataFrame, drift: Drift
) -> pl.DataFrame:
    """Judge one load's profiles by those of the loads of its window: rows of `DriftStatistic`.

    `earlier` has a row for each statistic of each earlier load; see the model `earlier_distances`.
    """
    windows = window.partition_by("column", as_dict=True)
    measured = [
        each
        for profile in profiles.to_dicts()
        for each in _measure(profile, windows.get((profile["column"],), window.clear()))
    ]
    of_each = earlier.partition_by("column", "statistic", as_dict=True)
    histories = [
        of_each.get((each.profile["column"], each.statistic), earlier.clear()) for each in measured
    ]
    is_judged = [
        _is_judged(each, history.height, drift)
        for each, history in zip(measured, histories, strict=True)
    ]
    rows = []
    for each, history, judged in zip(measured, histories, is_judged, strict=True):
        is_raised = judged and drift.false_alarms is not None
        usual = (
            usual_bound(each, history, (drift.false_alarms or 0) / sum(is_judged))
            if is_raised
            else 0.0
        )
        warn, stop = drift.thresholds(each.profile["column"], each.statistic, usual)
        rows.append(
            {
                **{
                    name: each.profile[name]
                    for name in ("source", "load_id", "loaded_timestamp", "column")
                },
                "statistic": each.statistic,
                "value": each.value,
                "n_reference_loads": each.n_loads,
                "n_reference_rows": int(each.rest.n_rows),
                "warn": warn,
                "stop": stop,
                "verdict": _verdict(each.value, warn, stop)
                if judged and each.value is not None
                else "no_reference",
            }
        )
    return pl.DataFrame(
        rows, schema=pl.DataFrame(DriftStatistic.arrow_schema().empty_table()).schema
    )


def _measure(profile: Mapping[str, Any], window: pl.DataFrame) -> Iterator[Measured]:
    """Measure how far a profile is from the window as a whole, by every statistic of its kind."""
    spreads, values = _align(profile["kind"], [profile, *window.to_dicts()])
    rest = sum(spreads[1:], Spread(np.zeros(len(spreads[0].counts)), 0, 0))
    found = distances(profile["kind"], spreads[0], rest, values) if window.height else {}
    for statistic in STATISTICS_OF[profile["kind"]]:
        yield Measured(profile, statistic, found.get(statistic), window.height, rest, values)


def _is_judged(measured: Measured, n_earlier: int, drift: Drift) -> bool:
    has_reference = (
        measured.n_loads >= drift.min_reference_loads
        and measured.rest.n_rows >= drift.min_reference_rows
    )
    return (
        measured.value is not None
        and has_reference
        and (drift.false_alarms is None or n_earlier >= MIN_EARLIER_LOADS)
    )


def usual_bound(measured: Measured, earlier: pl.DataFrame, false_alarms: float) -> float:
    """Estimate from earlier loads the value that a share `false_alarms` of loads exceeds.

    Distances are first made comparable: a load is away from its window because loads of this source
    differ, and by chance; chance counts more with fewer rows and loads. Square roots of such
    distances are nearly normal (compare Wilson and Hilferty 1931, PNAS 17). So the bound is a
    prediction bound of Student's t, which is wider the fewer loads are known.
    """
    n_rows = np.append(earlier["n_rows"].to_numpy(), measured.profile["n_rows"]).astype(float)
    one_more = 1 + 1 / np.append(earlier["n_reference_loads"].to_numpy(), measured.n_loads)
    limits = (
        earlier.select(
            pl.when(pl.col("verdict").is_in(["warn", "stop"])).then("warn").fill_null(np.inf)
        )
        .to_series()
        .to_numpy()
    )
    values = earlier["value"].to_numpy() ** (1 / measured.power)
    capped = np.minimum(values, MAX_EXCESS * limits ** (1 / measured.power))
    by_chance = chance(measured, n_rows)
    by_nature = np.median(np.maximum(capped**2 - by_chance[:-1] ** 2, 0) / one_more[:-1])
    scale = np.sqrt(by_nature * one_more + by_chance**2)
    if not scale.all():  # of a column with one value, in which chance alone changes nothing
        return float((np.max(values[-RECENT_LOADS:]) * NEWS) ** measured.power)
    scores, n = np.sqrt(capped / scale[:-1]), len(values)
    predicted = np.mean(scores) + student_quantile(false_alarms, n - 1) * np.std(
        scores, ddof=1
    ) * np.sqrt(1 + 1 / n)
    recent = np.max((values / scale[:-1])[-RECENT_LOADS:])
    return float((max(predicted**2, recent * NEWS) * scale[-1]) ** measured.power)


def chance(measured: Measured, n_rows: np.ndarray) -> np.ndarray:
    """Estimate how far loads of `n_rows` rows, drawn from the reference, are from it by chance.

    For PSI the result is its square root.
    """
    rest, n_reference = measured.rest, max(measured.rest.n_rows, 1)
    one_more = 1 / n_rows + 1 / n_reference
    if measured.statistic == "wasserstein":
        assert measured.values is not None  # noqa: S101 - only of numbers
        error = np.sqrt(GRID * (1 - GRID) * one_more[:, None])
        ends = [
            quantiles_of(measured.values, rest.counts, shares)
            for shares in (np.minimum(GRID + error, 1), np.maximum(GRID - error, 0))
        ]
        expected = (
            np.mean(ends[0] - ends[1], axis=1)
            / 2
            / _unit(quantiles_of(measured.values, rest.counts, GRID))
        )
    elif measured.profile["kind"] == "vocabulary":
        # the greatest of many squares of normal variables
        shares = (rest.counts + 0.5) / (rest.n_rows - rest.n_null + 1)
        n_buckets = np.minimum(1, n_rows[:, None] * shares).sum(axis=1)
        expected = np.sqrt(np.maximum(np.log(n_buckets), 1) / (4 * np.log(2)) * one_more)
    else:
        counts = (
            rest.counts
            if measured.values is None
            else np.bincount(_decile(rest.counts), rest.counts, BINS)
        )
        shares = (np.append(counts, rest.n_null) + 0.5) / np.sum(
            np.append(counts, rest.n_null) + 0.5
        )
        squares = (np.minimum(1, n_rows[:, None] * shares) * (1 - shares)).sum(axis=1) * one_more
        expected = np.sqrt(squares if measured.statistic == "psi" else squares / (8 * np.log(2)))
    found: np.ndarray = expected * n_rows / (n_rows + PRIOR_ROWS)
    return found


def student_quantile(above: float, freedom: int) -> float:
    """Estimate the quantile that Student's t exceeds with probability `above`.

    The approximation is that of Wallace 1959, Annals of Mathematical Statistics 30(4). From 4
    degrees of freedom on, it is within 4 % for a share of 1 in 1,000 and never too small; for fewer
    it is farther too large.

    >>> round(student_quantile(0.025, 10), 2), round(student_quantile(0.025, 1000), 2)
    (2.23, 1.96)
    """
    z = NormalDist().inv_cdf(1 - above) * (8 * freedom + 3) / (8 * freedom + 1)
    return float(np.sqrt(freedom * np.expm1(min(z * z / freedom, 500))))


def _verdict(value: float, warn: float | None, stop: float | None) -> str:
    if stop is not None and value >= stop:
        return "stop"
    return "warn" if warn is not None and value >= warn else "still"


def _align(
    kind: str, profiles: Sequence[Mapping[str, Any]]
) -> tuple[list[Spread], np.ndarray | None]:
    """Align the buckets of profiles, in the same order; those of numbers by their value."""
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


def watch(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    warehouse: Warehouse,
    buffer: Path,
    *,
    is_accepted: bool,
) -> None:
    """Profile the loads that were just split, and judge each by the loads before it.

    Profiles and verdicts are both stored in any case. Raises `DriftError` if a load is to be
    stopped, unless drift is accepted. Every load that passes is in the next one's window.
    """
    profiles = profile_loads(connection, buffer)
    window = _before(
        connection, source, profiles, "profiles/reference_columns", source.drift.reference_loads
    )
    earlier = _before(connection, source, profiles, "profiles/earlier_distances", EARLIER_LOADS)
    judged = []
    for load in profiles.sort("loaded_timestamp", "load_id").partition_by(
        "load_id", maintain_order=True
    ):
        judged.append(
            judge(
                load,
                _newest(window, source.drift.reference_loads),
                _newest(earlier, EARLIER_LOADS),
                source.drift,
            )
        )
        window = pl.concat([window, load])
        measured = judged[-1].drop_nulls("value").join(load.select("column", "n_rows"), on="column")
        earlier = pl.concat([earlier, measured.select(earlier.columns)])
    statistics = (
        pl.concat(judged) if judged else pl.DataFrame(DriftStatistic.arrow_schema().empty_table())
    )
    store_rows(warehouse, ColumnProfile, profiles)
    store_rows(warehouse, DriftStatistic, statistics)
    stopping = statistics.filter(verdict="stop")
    if stopping.height and not is_accepted:
        load_id = str(stopping["load_id"][0])
        raise drift_error(
            source,
            name_load(connection, load_id, "incoming", "accepted"),
            stopping.filter(load_id=load_id),
        )


def _before(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    profiles: pl.DataFrame,
    name: str,
    n_loads: int,
) -> pl.DataFrame:
    """Fetch rows of the newest staged loads before the first of the judged ones, oldest first."""
    parameters = {
        "source": source.name,
        "judged": profiles["load_id"].unique().to_list() or [""],
        "before": profiles["loaded_timestamp"].min(),
        "n_loads": n_loads,
    }
    rows: pl.DataFrame = connection.sql(model(name), params=parameters).pl()
    return rows


def _newest(rows: pl.DataFrame, n_loads: int) -> pl.DataFrame:
    newest = rows["load_id"].unique(maintain_order=True).tail(n_loads)
    return rows.filter(pl.col("load_id").is_in(newest.implode()))


class LoadName(NamedTuple):
    """A load as people know it: its files, and the days on which its records became known."""

    load_id: str
    files: list[str]
    days: list[str]

    def __str__(self) -> str:
        """Name the first files and the days; the load id is there for lookups."""
        more = (
            f" and {len(self.files) - MAX_FILES:,} more files"
            if len(self.files) > MAX_FILES
            else ""
        )
        files, days = ", ".join(self.files[:MAX_FILES]), " to ".join(self.days)
        return f"{files}{more} ({days}, load {self.load_id})"


def drift_error(source: Source, load: LoadName, stopping: pl.DataFrame) -> DriftError:
    """Describe which load is stopped by which columns, how to look at it and how to let it pass."""
    message = (
        f"{described(load, stopping)}; nothing was staged. Look at it with millrace report; "
        "if it is as it should be, millrace run --source FILE --accept-drift lets it pass"
    )
    return DriftError(f"{source.name}: {message}", payload(source.name, load, stopping))


def name_load(
    connection: duckdb.DuckDBPyConnection, load_id: str, files: str, records: str
) -> LoadName:
    """Name a load from two relations: one that has its files, one that has its accepted rows."""
    uris = connection.sql(
        f"select distinct source_uri from {files} where load_id = $load_id order by all",
        params={"load_id": load_id},
    )
    days = "select min(known_timestamp)::date::varchar, max(known_timestamp)::date::varchar"
    row = connection.sql(
        f"{days} from {records} where load_id = $load_id", params={"load_id": load_id}
    ).fetchall()[0]
    # the day of the load if no row of it was accepted
    known = sorted({day for day in row if day}) or [f"{load_id[:4]}-{load_id[4:6]}-{load_id[6:8]}"]
    return LoadName(load_id, [_place(uri) for (uri,) in uris.fetchall()], known)


def _place(uri: str) -> str:
    """Write the path of a file, or where else rows come from.

    >>> _place("file:///in/a%20b.csv"), _place("s3://lake/in/a b.csv")
    ('/in/a b.csv', 's3://lake/in/a b.csv')
    """
    return url2pathname(urlsplit(uri).path) if uri.startswith("file:") else uri


def described(load: LoadName, rows: pl.DataFrame) -> str:
    """Describe how a load differs from those before it, and in which columns."""
    n_loads = max(rows["n_reference_loads"].to_list())
    return f"{load} differs from the {n_loads} loads before it: {beyond_thresholds(rows)}"


def beyond_thresholds(rows: pl.DataFrame) -> str:
    """List columns, statistics, values and the thresholds they passed.

    >>> row = {"column": "n_bytes", "statistic": "wasserstein", "value": 1.21, "verdict": "stop"}
    >>> print(beyond_thresholds(pl.DataFrame([row | {"stop": 0.9}])))
    n_bytes wasserstein 1.21 (stop 0.90)
    """
    return ", ".join(
        f"{row['column']} {row['statistic']} {row['value']:.2f} "
        f"({row['verdict']} {row[row['verdict']]:.2f})"
        for row in rows.sort("value", descending=True).to_dicts()
    )


def payload(source: str, load: LoadName, rows: pl.DataFrame) -> dict[str, Any]:
    """Describe the same for programs."""
    statistics = rows.select("column", "statistic", "value", "warn", "stop", "verdict").to_dicts()
    columns = rows["column"].unique().sort().to_list()
    return {
        "source": source,
        "load": load.load_id,
        "files": load.files,
        "days": load.days,
        "columns": columns,
        "statistics": statistics,
    }


def staged_loads(warehouse: Warehouse, source: str) -> set[str]:
    """Name the loads of a source that are in the accounts."""
    table = warehouse.table(AccountedFile.relation())
    if table is None:
        return set()
    accounts = stored(table, AccountedFile).filter(source=source)
    return set(accounts.select("load_id").collect().to_series())


def drifted(
    warehouse: Warehouse, source: str, loads: set[str]
) -> list[tuple[LoadName, pl.DataFrame]]:
    """Fetch the statistics of some loads that warn or would stop, with the loads' names."""
    table = warehouse.table(DriftStatistic.relation())
    if table is None or not loads:
        return []
    is_far = pl.col("load_id").is_in(list(loads)), pl.col("verdict").is_in(["warn", "stop"])
    rows = stored(table, DriftStatistic).filter(*is_far, source=source).collect()
    if rows.is_empty():
        return []
    with connect(warehouse, of=(AccountedFile.relation(), StagedRecord.relation())) as connection:
        found = rows.sort(rows.columns).partition_by("load_id", maintain_order=True)
        return [
            (
                name_load(connection, frame["load_id"][0], "accounting.files", "staging.records"),
                frame,
            )
            for frame in found
        ]
