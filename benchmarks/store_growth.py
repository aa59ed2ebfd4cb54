"""How time and memory grow with the spine, as a plot and CSV: ours, DuckDB's ASOF, join_asof.

The data is that of the case `zones` of benchmarks/store.py: trips to a pandas frame, with 2 views
of 4 features.
"""

import argparse
import csv
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import ROOT, in_fresh_process, lend, say, table
from store import ASOF, contest, feast_zones, make_zones, raw_zones_duckdb, raw_zones_polars

SPINE_ROWS = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
PAGE = ROOT / "docs" / "benchmarks" / "store_growth.png"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows",
        type=int,
        nargs="+",
        default=SPINE_ROWS,
        metavar="N",
        help="spine rows of each point (100k to 10M)",
    )
    parser.add_argument(
        "--plot", type=Path, default=PAGE, metavar="FILE", help="where the PNG goes (%(default)s)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        found = {rows: run(Path(folder), rows) for rows in arguments.rows}
    print(describe(found))
    arguments.plot.parent.mkdir(parents=True, exist_ok=True)
    draw(found, arguments.plot)
    list_points(found, arguments.plot.with_suffix(".csv"))
    say(f"plotted: {arguments.plot}")
    return 0


def run(folder: Path, rows: int) -> dict[str, Any]:
    """Run the three on one size."""
    with lend(folder, "zones") as data:
        in_fresh_process(make_zones, data, rows)
        runs = {
            "DuckDB ASOF": (raw_zones_duckdb, data),
            "Polars join_asof": (raw_zones_polars, data),
            "millrace": (feast_zones, data, {**ASOF, "warehouse": str(data)}, None),
        }
        return contest(f"{rows:,} spine rows", runs, rounds=2)


def describe(found: dict[int, dict[str, Any]]) -> str:
    """Lay the points out as a table."""
    lines = [
        [f"{rows:,}", name, f"{result.seconds:.2f}", f"{result.peak_mb:,.0f}"]
        for rows, results in found.items()
        for name, result in results.items()
    ]
    return table(["spine rows", "contender", "seconds", "peak MB"], lines)


def list_points(found: dict[int, dict[str, Any]], file: Path) -> None:
    """Write the points that are drawn."""
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["spine_rows", "contender", "seconds", "peak_mb"])
        for rows, results in found.items():
            writer.writerows(
                [rows, name, round(result.seconds, 3), round(result.peak_mb)]
                for name, result in results.items()
            )


def draw(found: dict[int, dict[str, Any]], plot: Path) -> None:
    """Draw seconds and peak memory over spine rows, both axes logarithmic."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for axis, attribute, label in zip(
        axes,
        ("seconds", "peak_mb"),
        ("time, seconds", "peak memory of the process, MB"),
        strict=True,
    ):
        for name in next(iter(found.values())):
            axis.loglog(
                list(found),
                [getattr(results[name], attribute) for results in found.values()],
                marker="o",
                label=name,
            )
        axis.set(xlabel="spine rows", ylabel=label)
        axis.grid(visible=True, which="major", alpha=0.3)
    axes[0].legend()
    figure.suptitle("Point-in-time join of trips with zone aggregates, 2 views, to pandas")
    figure.savefig(plot, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
