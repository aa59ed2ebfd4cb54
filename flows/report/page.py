"""The page: one HTML file with its style, charts and JavaScript, safe for any name.

Specs are JSON in which `<` is written `\\u003c`; `transforms.pages` has the rest.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import vl_convert

from feature_repo.watching.consistency import causes_of, n_wrong
from flows.report import charts
from flows.report.cards import Card
from flows.report.data import QUALITY, Shown, last_drift, read_shown
from flows.report.flow import flows
from flows.report.lineage import Lineage, Named, lineage
from transforms import pages
from transforms.errors import HomeError
from transforms.home import replace_file
from transforms.pages import Table, ago, minute
from transforms.pages.palette import THEMES, chart_config
from transforms.upkeep.sizes import in_words
from transforms.warehouse.tables import Warehouse

VEGA = "vl-convert-python"  # the package that has the charts' JavaScript
RAW, STAGING = "raw.records", "staging.records"
N_TABLE_ROWS = 200
N_DRIFT_CHARTS = 8
SERVED = (
    *("n_compared", "n_matched", "n_missing", "n_extra", "n_differing"),
    "largest_difference",
    "smape",
)


class Chart(NamedTuple):
    """A chart, which the page's script draws into the element of its name."""

    name: str
    spec: charts.Spec


def report_path(home: Path) -> Path:
    """Where a home's report is, unless another place is asked for."""
    return home / "report.html"


def write_report(
    warehouse: Warehouse, path: Path | None = None, now: datetime | None = None
) -> Path:
    """Write the report of a home in place of the last one; `HomeError` if it cannot be written."""
    path = path or report_path(warehouse.settings.root)
    page = render(
        read_shown(warehouse, now or datetime.now(UTC)), chart_script(warehouse.settings.root)
    )
    try:
        replace_file(path, page.encode())
    except OSError as error:
        message = f"{path}: cannot be written ({error.strerror}); choose another --output"
        raise HomeError(message) from None
    return path


def chart_script(home: Path) -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script.

    It is kept in the home, because making it from vl-convert's package takes seconds.
    """
    path, head = home / "report.js", f"// {VEGA} {version(VEGA)}\n"
    if path.is_file() and (kept := path.read_text("utf-8")).startswith(head):
        return kept
    script = head + vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    replace_file(path, script.encode())
    return script


def render(shown: Shown, script: str, state: str = "") -> str:
    """Make the page of what is shown; `state` names that for a page that is served."""
    drawn = _charts(shown)
    return pages.render(
        _text("page.html"),
        script,
        _text("page.js"),
        state=state,
        filters={"second": _second, "bytes": _bytes},
        shown=shown,
        anchors={card.name: card.anchor for card in shown.cards},
        n_features=sum(len(card.features) for card in shown.cards),
        lineage=_lineage(shown),
        drawn={
            "specs": {chart.name: chart.spec for chart in drawn},
            "themes": {theme: chart_config(theme) for theme in THEMES},
        },
        charts={chart.name: chart.spec for chart in drawn},
        flows=flows(shown.loads, shown.rejects, charts.EVERYTHING),
        everything=charts.EVERYTHING,
        sources=shown.loads["source"].unique().sort().to_list(),
        headline=_headline(shown),
        loads=shown.loads.reverse().head(charts.N_LOADS).to_dicts(),
        n_loads_left_out=max(0, shown.loads.height - charts.N_LOADS),
        drifted=last_drift(shown.drift).to_dicts(),
        rules=_rules(shown.rejects, shown.loads),
        tables=_tables(shown),
    )


def _lineage(shown: Shown) -> Lineage:
    """From the sources of the home by its views to services."""
    sources = shown.loads["source"].unique().sort().to_list()
    of_sources = [f"source {name}" for name in sources]
    return lineage(
        [
            *(
                Named(key, name, "source", "flow", [])
                for key, name in zip(of_sources, sources, strict=True)
            ),
            Named(RAW, RAW, "table", "flow", of_sources),
            Named(STAGING, STAGING, "table", "arrivals", [RAW]),
            *(_named(card) for card in shown.cards),
        ]
    )


def _named(card: Card) -> Named:
    reads = card.reads if card.is_on_demand else [STAGING, *card.reads]
    return Named(card.name, card.name, card.kind, card.anchor, reads, is_last=card.is_service)


def _charts(shown: Shown) -> list[Chart]:
    """All charts that there is something to draw for."""
    drawn = []
    recent = shown.loads.tail(charts.N_LOADS)
    if shown.loads.height:
        drawn.append(Chart("outcomes", charts.outcomes_by_load(recent)))
    if shown.arrivals.height:
        drawn += [
            Chart("volume", charts.volume(shown.arrivals, shown.unit)),
            Chart("lateness", charts.lateness(shown.arrivals, shown.unit)),
        ]
    drawn += [
        Chart(f"quality-{name}", charts.measure_over_time(shown.quality, name, shown.unit))
        for name in measures(shown.quality)
    ]
    if shown.languages.height:
        drawn.append(Chart("languages", charts.languages_over_time(shown.languages, shown.unit)))
    if (rejects := shown.rejects.join(recent, ["source", "load_id"], "semi")).height:
        drawn.append(Chart("rejected", charts.rejected_by_load(rejects, recent)))
    if shown.runs.height:
        drawn.append(Chart("speed", charts.seconds_by_run(shown.runs)))
    if shown.sizes.tables:
        drawn.append(Chart("sizes", charts.bytes_by_table(shown.sizes)))
    return drawn + list(_drift_charts(shown))


def measures(quality: pl.DataFrame) -> list[str]:
    """The measures of texts that there are, in their order."""
    there = set(quality["measure"])
    return [name for names in QUALITY.values() for name in names if name in there]


def _drift_charts(shown: Shown) -> Iterable[Chart]:
    for number, row in enumerate(last_drift(shown.drift).head(N_DRIFT_CHARTS).to_dicts()):
        source, column = row["source"], row["column"]
        if shown.drift.filter(source=source, column=column, statistic="psi")["value"].count():
            yield Chart(f"drift-{number}", charts.drift_over_loads(shown.drift, source, column))
        if shown.shapes.height and shown.shapes.filter(source=source, column=column).height:
            yield Chart(f"shape-{number}", charts.shape(shown.shapes, source, column))


def _headline(shown: Shown) -> list[tuple[str, str, str, str]]:
    """The numbers to know first: heading, figure, what it means, and whether it is good or bad."""
    n_read, n_staged, n_quarantined = (
        int(shown.loads[name].sum()) for name in ("n_read", "n_staged", "n_quarantined")
    )
    books = (
        ("every row is accounted for", "good")
        if shown.is_balanced
        else ("rows are missing: see millrace status", "bad")
    )
    of_what = (
        f"{_several(shown.freshness.height, 'source')}, {_several(shown.loads.height, 'load')}"
    )
    last_run = shown.runs.filter(pl.col("run") == pl.col("run").max())
    n_stopped = shown.checks.filter(~pl.col("is_staged"), verdict="stop")["load_id"].n_unique()
    rejected = (f"{n_quarantined / max(n_read, 1):.2%} of what was read", "")
    online = (
        ("behind", ", ".join(shown.behind), "bad")
        if shown.behind
        else ("up to date", "all views", "good")
    )
    checked = shown.consistency
    wrong = n_wrong(checked)
    served = (f"{wrong:,} differ: see serving", "bad") if wrong else ("all as in training", "good")
    return [
        ("Rows read", f"{n_read:,}", *books),
        ("Versions staged", f"{n_staged:,}", of_what, ""),
        (
            "Quarantined",
            f"{n_quarantined:,}",
            *(
                (f"{_several(n_stopped, 'load')} stopped: see checks", "bad")
                if n_stopped
                else rejected
            ),
        ),
        ("Newest record", *_age(shown, "last_known_timestamp")),
        ("Newest load", *_age(shown, "last_loaded_timestamp")),
        (
            "Last run took",
            f"{last_run['seconds'].sum():.1f} s",
            "see speed" if last_run.height else "no run was measured",
            "",
        ),
        ("Online store", *online),
        *([("Served values", f"{checked['n_compared'].sum():,}", *served)] if len(checked) else []),
    ]


def _age(shown: Shown, column: str) -> tuple[str, str, str]:
    newest: Any = shown.freshness[column].max()
    return (ago(newest, shown.made), minute(newest), "") if newest else ("none", "", "")


def _rules(rejects: pl.DataFrame, loads: pl.DataFrame) -> list[dict[str, Any]]:
    """Each rule with its rows and its trend over the last loads of its source."""
    if rejects.is_empty():
        return []
    rules = (
        rejects.group_by("source", "column", "rule")
        .agg(pl.sum("n_rows"))
        .sort("source", "column", "rule")
    )
    return [
        row | {"trend": _trend(rejects, loads, row)}
        for row in rules.sort("n_rows", descending=True, maintain_order=True).to_dicts()
    ]


def _trend(rejects: pl.DataFrame, loads: pl.DataFrame, rule: dict[str, Any]) -> list[int]:
    """The rows that a rule keeps out of each of the last loads of its source."""
    of_rule = rejects.filter(
        source=rule["source"], column=rule["column"], rule=rule["rule"]
    ).select("load_id", "n_rows")
    recent = loads.filter(source=rule["source"]).select("load_id").tail(charts.N_LOADS)
    trend: list[int] = (
        recent.join(of_rule, "load_id", "left", maintain_order="left")["n_rows"]
        .fill_null(0)
        .to_list()
    )
    return trend


def _tables(shown: Shown) -> dict[str, Table]:
    """What the charts show, as numbers."""
    quality, fields = shown.quality, shown.fields
    if quality.height:
        quality = quality.pivot(
            "measure", index="period", values="value", aggregate_function="first"
        ).sort("period")
    if fields.height:
        changed = fields.filter(~pl.col("change").is_in(["same", "first"])).sort(
            "loaded_timestamp", descending=True
        )
        fields = changed.select("source", "field", "change", "type", "n_rows", "loaded_timestamp")
    found = shown.checks.filter(pl.col("n_broken") > 0).sort(
        "loaded_timestamp", descending=True, maintain_order=True
    )
    share = (pl.col("n_broken") / pl.col("n_rows")).round(4)
    state = pl.when(pl.col("is_staged")).then(pl.lit("staged")).otherwise(pl.lit("waits"))
    checks = found.select(
        "loaded_timestamp",
        "source",
        "check",
        "n_broken",
        "n_rows",
        "reason",
        share=share,
        verdict="verdict",
        state=state,
    )
    runs = shown.runs.with_columns(
        rows_a_second=(pl.col("rows") / pl.col("seconds")).round(0)
    ).reverse()
    return {
        "arrivals": _table("Versions and lateness in seconds, by period", shown.arrivals.reverse()),
        "quality": _table("Measures of texts, by period", quality.reverse()),
        "languages": _table("Versions by period and language", shown.languages.reverse()),
        "speed": _table("Rows and seconds of the last runs, by stage", runs),
        "fields": _table("Fields that are new, missing or of another type", fields),
        "checks": _table("What the checks found in loads", checks),
        "consistency": _consistency(shown.consistency),
        "tables": Table("Tables of the home", ["table", "rows", "version"], list(shown.tables)),
    }


def _consistency(checked: pl.DataFrame) -> Table:
    """What was served of each feature beside what training says, the most different first."""
    differ = pl.col("n_compared") - pl.col("n_matched")
    rows = checked.sort(differ, descending=True, maintain_order=True).to_dicts()
    return Table(
        "Served values beside what a training set says of their instants",
        ["feature", "service", *map(_heading, SERVED), "why"],
        [
            (
                f"{row['view']}:{row['feature']}",
                row["service"],
                *(row[name] for name in SERVED),
                causes_of(row),
            )
            for row in rows
        ],
    )


def _heading(column: str) -> str:
    return column.removeprefix("n_").replace("_", " ")


def _table(caption: str, frame: pl.DataFrame) -> Table:
    columns = [name.replace("_", " ") for name in frame.columns]
    return Table(
        caption, columns, frame.head(N_TABLE_ROWS).rows(), max(0, frame.height - N_TABLE_ROWS)
    )


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text("utf-8")


def _several(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + "s" * (number != 1)


def _second(instant: datetime | None) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC" if instant else ""


def _bytes(n_bytes: float | None) -> str:
    return "" if n_bytes is None else in_words(n_bytes)
