"""What the report shows, read from a home as small frames.

They contain counts, quantiles and names of rules, never a text or an id.
"""

import contextlib
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import polars as pl

from feature_repo.watching.consistency import last_check
from feature_repo.watching.freshness import promised_views
from flows.history import history_path
from flows.report.cards import Card, cards
from flows.report.features import features, scan
from flows.sizes import HomeSize, measure
from transforms.features.chosen import home_views, off_views
from transforms.pages import short
from transforms.profiles.profile import sketch_values
from transforms.schemas.staging import AccountedFile, QuarantinedRecord, StagedRecord
from transforms.sql import model
from transforms.staging.checks import kept_checks
from transforms.warehouse.snapshot import connect, create_view
from transforms.warehouse.tables import Warehouse

QUALITY = {
    "features.record_quality": (
        "n_words",
        "mean_word_length",
        "uppercase_ratio",
        "digit_ratio",
        "punctuation_ratio",
        "non_ascii_ratio",
        "unique_word_ratio",
        "duplicate_line_ratio",
    ),
    "features.record_text": (
        "language_score",
        "automated_readability_index",
        "sentiment_compound",
        "n_tokens_est",
        "symbol_ratio",
    ),
}
LANGUAGE_RELATION, LANGUAGE = "features.record_text", "language"
PERIODS = {"day": "1d", "week": "1w", "month": "1mo", "year": "1y"}
N_PERIODS = 160  # at most about so many points stand side by side on a page
N_DRIFTED = 8
N_SHAPE_BINS = 16


class Shown(NamedTuple):
    """Everything on the page. A frame without columns is a table that is not there yet."""

    home: str
    made: datetime
    unit: str
    tables: list[tuple[str, int, int]]
    is_balanced: bool
    behind: list[str]
    freshness: pl.DataFrame
    loads: pl.DataFrame
    rejects: pl.DataFrame
    arrivals: pl.DataFrame
    quality: pl.DataFrame
    languages: pl.DataFrame
    drift: pl.DataFrame
    shapes: pl.DataFrame
    fields: pl.DataFrame
    checks: pl.DataFrame
    cards: list[Card]
    runs: pl.DataFrame
    sizes: HomeSize
    consistency: pl.DataFrame
    promised: list[tuple[str, bool]]


def read_shown(warehouse: Warehouse, now: datetime) -> Shown:
    """Read all that the page shows; counts come from file footers, aggregates from DuckDB."""
    from feature_repo.online import due_views, is_applied

    with connect(warehouse) as connection:
        for contract in (AccountedFile, QuarantinedRecord, StagedRecord):
            if warehouse.table(contract.relation()) is None:
                create_view(connection, contract.relation(), [], contract.arrow_schema())
        freshness = connection.sql(model("report/freshness")).pl()
        unit = period_unit(freshness)
        loads = connection.sql(model("report/accounted_loads")).pl()
        rejects = connection.sql(model("report/rejected_by_load")).pl()
        arrivals = connection.sql(model("report/arrivals"), params={"unit": unit}).pl()
    tables = [
        (name, warehouse.n_rows(name), version) for name, version in warehouse.versions().items()
    ]
    drift = _table(warehouse, "profiles.drift")
    return Shown(
        home=warehouse.settings.root.name,
        made=now,
        unit=unit,
        tables=tables,
        is_balanced=_is_balanced({name: n_rows for name, n_rows, _ in tables}, loads),
        behind=due_views(warehouse, now)
        if is_applied(warehouse)
        else [view.name for view in home_views(warehouse.settings.root)],
        freshness=freshness,
        loads=loads,
        rejects=rejects,
        arrivals=arrivals,
        quality=_quality(warehouse, unit),
        languages=_languages(warehouse, unit),
        drift=drift,
        shapes=_shapes(warehouse, drift),
        fields=_table(warehouse, "profiles.fields"),
        checks=kept_checks(warehouse),
        cards=cards(
            warehouse.settings.root, now, features(warehouse), off_views(warehouse.settings.root)
        ),
        runs=read_runs(warehouse),
        sizes=measure(warehouse, now),
        consistency=last_check(warehouse),
        promised=[
            (item.words(now), item.is_late(now)) for item in promised_views(warehouse.settings.root)
        ],
    )


def period_unit(freshness: pl.DataFrame) -> str:
    """Choose days, weeks, months or years, so that all periods of the data fit on a page."""
    first, last = (
        (freshness.select(pl.min("first_known_timestamp"), pl.max("last_known_timestamp")).row(0))
        if freshness.height
        else (0, 0)
    )
    days = (last - first).days if first else 0
    return next(
        (
            unit
            for unit, length in (("day", 1), ("week", 7), ("month", 30))
            if days <= N_PERIODS * length
        ),
        "year",
    )


def _is_balanced(n_rows: dict[str, int], loads: pl.DataFrame) -> bool:
    """Whether the accounts of the home match its tables; `millrace status` checks each load."""
    booked = {
        "raw.records": "n_read",
        "staging.records": "n_staged",
        "quarantine.records": "n_quarantined",
    }
    return all(
        n_rows.get(relation, 0) == (loads[column].sum() if loads.height else 0)
        for relation, column in booked.items()
    )


def _table(warehouse: Warehouse, relation: str) -> pl.DataFrame:
    """Read a small relation whole; a frame without columns where it was never written."""
    return scan(warehouse, relation).collect()


def _quality(warehouse: Warehouse, unit: str) -> pl.DataFrame:
    """Average measures of texts by the period in which they became known; counts by their median.

    The frame is long: period, measure, value.
    """
    return pl.concat(
        [
            frame
            for relation, names in QUALITY.items()
            if (frame := _averages(warehouse, relation, names, unit)).width
        ]
    )


def _averages(warehouse: Warehouse, relation: str, names: Sequence[str], unit: str) -> pl.DataFrame:
    rows = scan(warehouse, relation)
    there = [name for name in names if name in rows.collect_schema()]
    averages = [pl.median(name) if name.startswith("n_") else pl.mean(name) for name in there]
    if not there:
        return pl.DataFrame(
            schema={"period": pl.Datetime("us", "UTC"), "measure": pl.String, "value": pl.Float64}
        )
    averaged = rows.group_by(_period(unit)).agg(averages).sort("period").collect(engine="streaming")
    return averaged.unpivot(there, index="period", variable_name="measure").drop_nulls()


def _languages(warehouse: Warehouse, unit: str) -> pl.DataFrame:
    rows = scan(warehouse, LANGUAGE_RELATION)
    if LANGUAGE not in rows.collect_schema():
        return pl.DataFrame()
    known = rows.filter(pl.col(LANGUAGE).is_not_null()).group_by(_period(unit), LANGUAGE)
    return known.agg(n_versions=pl.len()).sort("period", LANGUAGE).collect(engine="streaming")


def _period(unit: str) -> pl.Expr:
    return pl.col("event_timestamp").dt.truncate(PERIODS[unit]).alias("period")


def last_drift(drift: pl.DataFrame) -> pl.DataFrame:
    """Of each source the statistics of its last load, a row a column, the most drifted first."""
    if drift.is_empty():
        return pl.DataFrame()
    last = drift.filter(
        pl.col("loaded_timestamp") == pl.col("loaded_timestamp").max().over("source")
    )
    severity = pl.col("verdict").replace_strict(
        {"stop": 3, "warn": 2, "still": 1}, default=0, return_dtype=pl.Int64
    )
    worst = last.group_by("source", "column").agg(
        verdict=pl.col("verdict").sort_by(severity).last(), severity=severity.max()
    )
    facts = last.group_by("source", "column").agg(
        pl.first("load_id", "loaded_timestamp"), pl.max("n_reference_loads", "n_reference_rows")
    )
    values = last.pivot(
        "statistic", index=["source", "column"], values="value", aggregate_function="first"
    )
    wide = values.join(facts, ["source", "column"]).join(worst, ["source", "column"])
    statistics = [name for name in ("psi", "js_distance", "wasserstein") if name in wide.columns]
    return wide.sort("severity", *statistics, descending=True, nulls_last=True)


def _shapes(warehouse: Warehouse, drift: pl.DataFrame) -> pl.DataFrame:
    """Distributions of the most drifted columns, in the last load and in the loads before it.

    The columns are source, column, kind, of, value and share.
    """
    columns = scan(warehouse, "profiles.columns")
    drifted = last_drift(drift)
    if not columns.collect_schema() or drifted.is_empty():
        return pl.DataFrame()
    wanted = drifted.head(N_DRIFTED).select(
        "source", "column", last_load="load_id", reaches=pl.max_horizontal("n_reference_loads", 0)
    )
    profiles = columns.filter(
        (pl.col("relation") == "staging.records") & (pl.col("kind") != "vocabulary")
    )
    counted = profiles.join(wanted.lazy(), on=["source", "column"]).with_columns(
        back=pl.col("loaded_timestamp").rank("dense", descending=True).over("source", "column") - 1
    )
    of = (
        pl.when(load_id=pl.col("last_load"))
        .then(pl.lit("last load"))
        .otherwise(pl.lit("loads before it"))
    )
    long = (
        counted.filter(pl.col("back") <= pl.col("reaches"))
        .with_columns(of=of)
        .select("source", "column", "kind", "of", key="bucket_keys", n="bucket_counts")
        .explode("key", "n")
        .drop_nulls()
        .group_by("source", "column", "kind", "of", "key")
        .agg(pl.sum("n"))
        .collect()
    )
    return (
        pl.concat(
            [_shape(group) for _, group in long.group_by("source", "column", maintain_order=True)]
        )
        if long.height
        else long
    )


def _shape(counts: pl.DataFrame) -> pl.DataFrame:
    """Reduce the buckets of one column: merge neighbouring numbers, keep common categories."""
    few = _few_numbers(counts) if counts["kind"][0] == "number" else _few_categories(counts)
    summed = (
        few.group_by("source", "column", "kind", "of", "value")
        .agg(pl.sum("n"), pl.min("order"))
        .sort("order", "value")
    )
    return summed.with_columns(share=pl.col("n") / pl.col("n").sum().over("of"))


def _few_numbers(counts: pl.DataFrame) -> pl.DataFrame:
    """Name each bucket by the least value of the bin of neighbouring ones that it falls in."""
    number = pl.col("order")
    width = (number.rank("dense").max() / N_SHAPE_BINS).clip(lower_bound=1)
    valued = counts.with_columns(order=sketch_values(counts["key"].to_list()))
    binned = valued.with_columns(bin=((number.rank("dense") - 1) / width).floor())
    least = binned.with_columns(pl.col("order").min().over("bin"))
    return least.with_columns(value=pl.col("order").map_elements(short, pl.String))


def _few_categories(counts: pl.DataFrame) -> pl.DataFrame:
    common = counts.group_by("key").agg(pl.sum("n")).top_k(N_DRIFTED, by="n")["key"].to_list()
    value = pl.when(pl.col("key").is_in(common)).then("key").otherwise(pl.lit("other"))
    return counts.with_columns(value=value, order=-pl.col("n").cast(pl.Float64))


def read_runs(warehouse: Warehouse) -> pl.DataFrame:
    """Read how long the last 30 runs took, by stage; incomplete lines are skipped.

    The columns are run (1 is the home's first), stage, rows and seconds.
    """
    path = history_path(warehouse.settings.root)
    runs: list[dict[str, Any]] = []
    for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError, KeyError):
            run = json.loads(line)
            runs.append(
                {
                    stage: (run["rows"].get(stage), seconds)
                    for stage, seconds in run["seconds"].items()
                }
            )
    rows = [
        {"run": number, "stage": stage, "rows": n_rows, "seconds": seconds}
        for number, run in list(enumerate(runs, 1))[-30:]
        for stage, (n_rows, seconds) in run.items()
    ]
    return pl.DataFrame(
        rows, schema={"run": pl.Int64, "stage": pl.String, "rows": pl.Int64, "seconds": pl.Float64}
    )
