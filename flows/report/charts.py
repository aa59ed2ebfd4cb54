"""The charts as Vega-Lite, made with Altair; their colours come from the page's theme.

Every chart with a column `source` has a parameter of that name, which the page sets to what the
reader chose.
"""

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl
import polars.selectors as cs

from flows.history import STAGES
from flows.report.data import PERIODS
from flows.sizes import HomeSize
from transforms.upkeep.sizes import in_words

Spec = dict[str, Any]
EVERYTHING = "all"
N_LOADS = 50  # so many are beside each other on the page, the newest
OUTCOMES = {"n_staged": "staged", "n_quarantined": "quarantined", "n_duplicates": "duplicate rows"}
DAY = (
    "datum.value < 1 ? '0' : datum.value < 60 ? datum.value + ' s' : datum.value < 3600 ? "
    "round(datum.value / 60) + ' min' : "
)
SPAN_LABEL = (
    f"datum.value == 1 ? '≤ 1 s' : {DAY}datum.value < 86400 ? round(datum.value / 3600) + ' h' : "
    "round(datum.value / 86400) + ' d'"
)
SPANS = (
    1,
    60,
    3600,
    86400,
    864000,
    8640000,
    86400000,
)  # a second, a minute, an hour, then days by tens
# a load is named after the moment it began: 20240501T101112...
LOAD_LABEL = (
    "slice(datum.value, 4, 6) + '-' + slice(datum.value, 6, 8) + ' ' + slice(datum.value, 9, 11)"
    " + ':' + slice(datum.value, 11, 13) + ':' + slice(datum.value, 13, 15)"
)


def outcomes_by_load(loads: pl.DataFrame) -> Spec:
    """What became of the rows of every load, stacked."""
    names = list(OUTCOMES.values())
    long = loads.rename(OUTCOMES).unpivot(
        names, index=["source", "load_id"], variable_name="outcome", value_name="rows"
    )
    chart = _chart(
        long.with_columns(_place("outcome", names)),
        "Rows of each load that were staged, duplicates or quarantined.",
    ).mark_bar()
    return _spec(
        chart.encode(
            x=_by_load(),
            y=alt.Y("sum(rows):Q", title="rows"),
            color=alt.Color("outcome:N", scale=alt.Scale(domain=names)),
            order="place:Q",
            tooltip=["source:N", "load_id:N", "outcome:N", alt.Tooltip("rows:Q", format=",")],
        ),
        has_source=True,
    )


def volume(arrivals: pl.DataFrame, unit: str) -> Spec:
    """How many versions became known, by period and source."""
    chart = _chart(
        arrivals.with_columns(_until(unit)),
        f"Versions of records that became known, by {unit} and source.",
    ).mark_bar()
    return _spec(
        chart.encode(
            x=_time(unit),
            x2="until:T",
            y=alt.Y("sum(n_versions):Q", title=f"versions a {unit}"),
            color=alt.Color(
                "source:N", legend=alt.Legend() if arrivals["source"].n_unique() > 1 else None
            ),
            tooltip=["source:N", *_when(), alt.Tooltip("n_versions:Q", format=",")],
        ),
        has_source=True,
    )


def _around(seconds: Sequence[float]) -> list[float]:
    """Return the spans next to some, so that equal ones have a scale too.

    >>> _around([70, 90.5]), _around([1])
    ([60, 3600], [1, 60])
    """
    below = max(span for span in SPANS if span <= min(seconds))
    return [below, min((span for span in SPANS if span > max(seconds)), default=10 * max(seconds))]


def lateness(arrivals: pl.DataFrame, unit: str) -> Spec:
    """How long after they were written versions became known, on a logarithmic scale."""
    names = {
        "late_seconds_p50": "half of them",
        "late_seconds_p90": "nine in ten",
        "late_seconds_p99": "99 in 100",
    }
    long = arrivals.rename(names).unpivot(
        list(names.values()),
        index=["source", "period"],
        variable_name="share",
        value_name="seconds",
    )
    shown = long.with_columns(pl.col("seconds").clip(lower_bound=1).round(0))
    chart = _chart(
        shown,
        (
            f"Time from written to known, by {unit}: within it half, nine in ten, 99 in 100 "
            "became known."
        ),
    )
    return _spec(
        chart.mark_line(point={"size": 14}).encode(
            x=_time(unit),
            y=alt.Y(
                "seconds:Q",
                title="known after",
                scale=alt.Scale(type="log", domain=_around(shown["seconds"].to_list())),
                axis=alt.Axis(values=list(SPANS), labelExpr=SPAN_LABEL),
            ),
            color=alt.Color("share:N", scale=alt.Scale(domain=list(names.values()))),
            detail="source:N",
            tooltip=["source:N", *_when(), "share:N", alt.Tooltip("seconds:Q", format=",")],
        ),
        has_source=True,
    )


def measure_over_time(quality: pl.DataFrame, measure: str, unit: str) -> Spec:
    """One measure of the texts, by the period in which they became known."""
    values = quality.filter(measure=measure).select("period", "value")
    average = "median" if measure.startswith("n_") else "mean"
    chart = _chart(values, f"{measure}, {average} by {unit}.").mark_line(point={"size": 14})
    scale = alt.Scale(
        zero=values["value"].n_unique() == 1
    )  # of one value only, an axis would be a point
    return _spec(
        chart.encode(
            x=_time(unit),
            y=alt.Y("value:Q", title=None, scale=scale, axis=alt.Axis(tickCount=4)),
            tooltip=[*_when(), alt.Tooltip("value:Q", format=".4~g")],
        ).properties(title=f"{measure}, {average}"),
        height=110,
    )


def languages_over_time(languages: pl.DataFrame, unit: str) -> Spec:
    """The shares of languages, by period: the commonest five, the rest together."""
    common = (
        languages.group_by("language")
        .agg(pl.sum("n_versions"))
        .sort("n_versions", "language", descending=True)["language"][:5]
        .to_list()
    )
    language = pl.when(pl.col("language").is_in(common)).then("language").otherwise(pl.lit("other"))
    shown = (
        languages.with_columns(language=language)
        .group_by("period", "language", maintain_order=True)
        .agg(pl.sum("n_versions"))
    )
    chart = _chart(shown.with_columns(_until(unit)), f"Shares of languages by {unit}.").mark_bar()
    return _spec(
        chart.encode(
            x=_time(unit),
            x2="until:T",
            y=alt.Y(
                "sum(n_versions):Q", stack="normalize", title="share", axis=alt.Axis(format="%")
            ),
            color=alt.Color("language:N", scale=alt.Scale(domain=[*common, "other"])),
            tooltip=[*_when(), "language:N", alt.Tooltip("n_versions:Q", format=",")],
        )
    )


def drift_over_loads(drift: pl.DataFrame, source: str, column: str) -> Spec:
    """How far each load of a source was from earlier ones in one column, with both thresholds."""
    values = (
        drift.filter(source=source, column=column, statistic="psi")
        .drop_nulls("value")
        .sort("load_id")
        .tail(N_LOADS)
    )
    description = f"PSI of {column} over the loads of {source}."
    chart = _chart(values.select("load_id", "value", "verdict", "warn", "stop"), description)
    line = chart.mark_line(point={"size": 22}).encode(
        x=_by_load(), y=_psi("value"), tooltip=["load_id:N", "value:Q", "verdict:N"]
    )
    # each load has thresholds of its own, by the loads before it
    limits = [
        chart.mark_line(strokeDash=dash, interpolate="step").encode(x=_by_load(), y=_psi(level))
        for level, dash in (("warn", [2, 3]), ("stop", [8, 3]))
    ]
    return _spec(
        alt.layer(line, *limits, description=description).properties(
            title=f"{column}: PSI by load"
        ),
        height=110,
    )


def shape(shapes: pl.DataFrame, source: str, column: str) -> Spec:
    """How one column lies in the last load and in the loads before it."""
    values = shapes.filter(source=source, column=column).select("of", "value", "share", "order")
    chart = _chart(
        values, f"Distribution of {column} in the last load of {source} and in the loads before it."
    ).mark_bar()
    places = values.group_by("value").agg(pl.min("order")).sort("order")["value"].to_list()
    return _spec(
        chart.encode(
            x=alt.X(
                "value:O", sort=places, title=None, axis=alt.Axis(labelAngle=-45, labelOverlap=True)
            ),
            xOffset=alt.XOffset("of:N", sort=["last load", "loads before it"]),
            y=alt.Y("share:Q", title=None, axis=alt.Axis(format="%", tickCount=4)),
            color=alt.Color("of:N", scale=alt.Scale(domain=["last load", "loads before it"])),
            tooltip=["of:N", "value:N", alt.Tooltip("share:Q", format=".1%")],
        ).properties(title=f"{column}: distribution"),
        height=110,
    )


def rejected_by_load(rejects: pl.DataFrame, loads: pl.DataFrame) -> Spec:
    """What each rule keeps out, by load; a load in which nothing was rejected has its place."""
    shown = rejects.select(
        "source", "load_id", broken=pl.format("{}: {}", "column", "rule"), rows="n_rows"
    )
    chart = _chart(shown, "Rows in quarantine by load and rule.").mark_bar()
    return _spec(
        chart.encode(
            x=_by_load(
                loads.filter(pl.col("source").is_in(rejects["source"].unique().to_list()))[
                    "load_id"
                ].to_list()
            ),
            y=alt.Y("sum(rows):Q", title="rows"),
            color=alt.Color("broken:N", legend=alt.Legend(columns=1)),
            tooltip=["source:N", "load_id:N", "broken:N", alt.Tooltip("rows:Q", format=",")],
        ),
        has_source=True,
    )


def seconds_by_run(runs: pl.DataFrame) -> Spec:
    """What each stage of the last runs took."""
    stages = [*STAGES[:3], "apply", *STAGES[3:]]
    chart = _chart(
        runs.with_columns(_place("stage", stages)), "Seconds of each stage of the last runs."
    ).mark_bar()
    return _spec(
        chart.encode(
            x=alt.X("run:O", title="run", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("sum(seconds):Q", title="seconds"),
            color=alt.Color("stage:N", scale=alt.Scale(domain=stages)),
            order="place:Q",
            tooltip=[
                "run:O",
                "stage:N",
                alt.Tooltip("rows:Q", format=","),
                alt.Tooltip("seconds:Q", format=".2f"),
            ],
        )
    )


def bytes_by_table(sizes: HomeSize) -> Spec:
    """What each table has on disk: the newest version, older ones, and what maintenance frees."""
    names = ["newest version", "older versions and log", "millrace maintain frees"]
    parts = [
        (size.relation, *part)
        for size in sizes.tables.values()
        for part in zip(
            names, (size.n_bytes, size.n_older - size.n_freed, size.n_freed), strict=True
        )
    ]
    if sizes.online.n_bytes is not None:
        parts.append((f"online store ({sizes.online.store})", names[0], sizes.online.n_bytes))
    frame = pl.DataFrame(parts, ["table", "part", "bytes"], orient="row").with_columns(
        _place("part", names), size=pl.col("bytes").map_elements(in_words, pl.String)
    )
    chart = _chart(frame, "Bytes of each table on disk, and of the online store.").mark_bar()
    return _spec(
        chart.encode(
            y=alt.Y("table:N", title=None, sort="-x"),
            x=alt.X("sum(bytes):Q", title="bytes", axis=alt.Axis(format="~s", tickCount=5)),
            color=alt.Color("part:N", scale=alt.Scale(domain=names), legend=alt.Legend(columns=1)),
            order="place:Q",
            tooltip=["table:N", "part:N", "size:N"],
        ),
        height=14 * frame["table"].n_unique() + 20,
    )


def _chart(frame: pl.DataFrame, description: str) -> alt.Chart:
    """Make a chart of a small frame, with a description for readers who cannot see it.

    Times are text in ISO 8601.
    """
    plain = frame.with_columns(cs.datetime().dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    return alt.Chart(alt.InlineData(plain.to_dicts()), description=description)


def _spec(chart: Any, *, has_source: bool = False, height: int = 200) -> Spec:
    if has_source:
        chosen = alt.param(name="source", value=EVERYTHING)
        chart = chart.add_params(chosen).transform_filter(
            f"source == '{EVERYTHING}' || datum.source == source"
        )
    spec: Spec = chart.properties(
        width="container", height=height, autosize={"type": "fit-x", "contains": "padding"}
    ).to_dict(validate=False)
    del spec["config"]  # the page's theme has it
    return spec


def _time(unit: str) -> alt.X:
    words = {"day": "%b %-d", "week": "%Y-%m-%d"}.get(unit, "%Y")
    axis = alt.Axis(format=words, tickCount=5, labelOverlap="greedy", labelSeparation=10)
    return alt.X("period:T", title=None, axis=axis, scale=alt.Scale(type="utc"))


def _until(unit: str) -> pl.Expr:
    """Where a period ends: a bar reaches from its beginning to there."""
    return pl.col("period").dt.offset_by(PERIODS[unit]).alias("until")


def _place(column: str, order: list[str]) -> pl.Expr:
    """The position of a value in an order, in which bars are stacked."""
    return (
        pl.col(column).replace_strict(order, range(len(order)), default=len(order)).alias("place")
    )


def _when() -> list[alt.Tooltip]:
    return [alt.Tooltip("period:N", title="from")]


def _by_load(loads: list[str] | None = None) -> alt.X:
    axis = alt.Axis(labelExpr=LOAD_LABEL, labelOverlap="greedy", labelSeparation=10, labelAngle=0)
    return alt.X(
        "load_id:O",
        title="load",
        axis=axis,
        scale=alt.Scale(domain=loads) if loads else alt.Undefined,
    )


def _psi(field: str) -> alt.Y:
    return alt.Y(f"{field}:Q", title=None, axis=alt.Axis(tickCount=4))
