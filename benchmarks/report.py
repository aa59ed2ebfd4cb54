"""How fast the report of a large home is drawn and opens: 300 features, 1,000 loads.

The home is made of three days of the shipped sample and of declared features. Then the accounts,
the quarantine and the profiles of its load are written again under other loads' names.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

ROOT = Path(__file__).parents[1]
ABOUT = """measure the report of a home with many features and loads: to draw it, and to open it

  benchmarks/report.py                            300 features, 1,000 loads: a minute
  benchmarks/report.py --loads 10000 --keep HOME  keep the home, to look at its report

Needs Chromium. Of five openings of the file, the medians: milliseconds from the start of the
navigation until its structure is there, until it is painted, until all charts are; and the
processor time of the page until it has loaded, which other programs disturb less.
"""
FEATURES = """
from transforms.features import Count, CountDistinct, Entity, GroupBy, Mean, Service, days, hours

label = Entity("label_of_record", key="label", description="What it is.")
for number in range({n_views}):
    globals()[f"mood_{{number}}"] = GroupBy(
        f"mood_{{number}}",
        label,
        [Count("n_records"), CountDistinct("author_id", "n_authors"), Mean("length(text)", "len")],
        [hours(6 + number), days(1 + number), days(28 + number), days(365 + number)],
        description=f"What is written under a label, number {{number}}.",
    )
    service = Service(f"mood_v{{number}}", [f"mood_{{number}}", "author_activity"])
    globals()[f"mood_v{{number}}"] = service
"""
A_VIEW = 12  # features of each of these views
TIMES = """() => {
    const [page] = performance.getEntriesByType('navigation');
    const painted = performance.getEntriesByName('first-contentful-paint')[0].startTime;
    return [page.domContentLoadedEventEnd, painted, performance.now(),
            document.querySelectorAll('*').length];
}"""
OF_LOADS = ("accounting.files", "quarantine.records", "profiles.columns", "profiles.drift")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=int, default=300)
    parser.add_argument("--loads", type=int, default=1000)
    parser.add_argument(
        "--keep", metavar="HOME", type=Path, help="make the home there, and keep it"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = options.keep or Path(folder, "home")
        os.environ["MILLRACE_FEATURES"] = str(Path(folder, "features"))
        n_features = make(Path(folder), home, options.features, options.loads)
        print(f"{n_features} features, {options.loads:,} loads", *measured(home), sep="\n")


def make(folder: Path, home: Path, n_features: int, n_loads: int) -> int:
    """Run the pipeline on three days with enough features; say how many there are."""
    from flows.stages import PipelineParameters, run_plain
    from transforms.features.registry import views

    (folder / "features").mkdir()
    (folder / "data" / "cve_events").mkdir(parents=True)
    shipped = sum(len(view.features) for view in views())
    n_views = max(0, -(-(n_features - shipped) // A_VIEW))
    (folder / "features" / "moods.py").write_text(FEATURES.format(n_views=n_views), "utf-8")
    source = shutil.copy(ROOT / "sources" / "cve_events.yaml", folder)
    for day in ("2024-05-09", "2024-05-10", "2024-05-11"):
        shutil.copy(
            ROOT / "sources" / "data" / "cve_events" / f"{day}.jsonl.zst",
            folder / "data" / "cve_events",
        )
        run_plain(PipelineParameters(source=str(source), home=str(home)))
    repeat_loads(home, n_loads)
    return sum(len(view.features) for view in views())


def repeat_loads(home: Path, n_loads: int) -> None:
    """Write what is recorded of the last load again, as of so many loads an hour apart."""
    from deltalake import write_deltalake

    from transforms.home import Settings
    from transforms.warehouse.tables import Warehouse

    warehouse = Warehouse(Settings(home=home))
    for relation in OF_LOADS:
        if not (files := warehouse.files(relation)):
            continue
        rows = pl.read_parquet(files)
        last = rows.filter(load_id=rows["load_id"].max())
        write_deltalake(
            str(warehouse.folder(relation)), pl.concat(again(last, n_loads)), mode="append"
        )


def again(rows: pl.DataFrame, n_loads: int) -> Iterator[pl.DataFrame]:
    start = datetime.strptime(rows["load_id"][0][:15], "%Y%m%dT%H%M%S")  # noqa: DTZ007
    for number in range(1, n_loads + 1):
        at = start + timedelta(hours=number)
        named: dict[str, Any] = {"load_id": pl.lit(f"{at:%Y%m%dT%H%M%S}000000-0000")}
        if "loaded_timestamp" in rows.columns:
            named["loaded_timestamp"] = pl.col("loaded_timestamp") + timedelta(hours=number)
        yield rows.with_columns(**named)


def measured(home: Path) -> Iterator[str]:
    """Draw the report and open it in Chromium."""
    from playwright.sync_api import sync_playwright

    from flows.report.page import write_report
    from transforms.home import Settings
    from transforms.warehouse.tables import Warehouse

    write_report(Warehouse(Settings(home=home)))
    start = time.perf_counter()
    page = write_report(Warehouse(Settings(home=home)))
    yield f"drawn in {time.perf_counter() - start:.1f} s, {page.stat().st_size / 1e6:.2f} MB"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        opened = []
        for _ in range(5):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            shown = context.new_page()
            shown.set_default_timeout(120_000)
            metrics = context.new_cdp_session(shown)
            metrics.send("Performance.enable", {"timeDomain": "threadTicks"})
            shown.goto(page.as_uri())
            taken = {
                one["name"]: one["value"]
                for one in metrics.send("Performance.getMetrics")["metrics"]
            }
            shown.locator("html[data-drawn=light]").wait_for()
            opened.append([*shown.evaluate(TIMES), taken["TaskDuration"] * 1000])
            shown.close()
        there, painted, drawn, nodes, processor = pl.DataFrame(opened, orient="row").median().row(0)
        yield f"structure {there:,.0f} ms, painted {painted:,.0f} ms, all charts {drawn:,.0f} ms"
        yield f"{processor:,.0f} ms of processor time until loaded, {nodes:,.0f} elements"


if __name__ == "__main__":
    sys.exit(main())
