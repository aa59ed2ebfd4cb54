"""What a day of new rows costs compared with the full build: `--lag git` uses real lags.

A run of all stages up to the features, each in a fresh process: the base, nothing new, one per cent
more.
"""

import argparse
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from harness import Goal, Measured, clock, goal_table, in_fresh_process, machine, say, table, write
from pipeline import LIBRARIES, TIMED, find_expand, generate, open_home, positive

ABOUT = "measure an increment of one per cent beside the full build, and how both grow"
SHARE = 100


class Result(NamedTuple):
    """Three runs on one home: of all that is there, of nothing new, of one per cent more."""

    rows: int
    full: Measured
    nothing: Measured
    increment: Measured

    @property
    def share(self) -> float:
        """The increment's seconds over the full build's, each less the fixed cost of a run."""
        return (self.increment.seconds - self.nothing.seconds) / (
            self.full.seconds - self.nothing.seconds
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=ABOUT)
    parser.add_argument(
        "--rows",
        type=positive,
        nargs="+",
        default=[4_000_000],
        metavar="N",
        help="base records (4_000_000)",
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="put the table into this Markdown page, e.g. docs/benchmarks.md",
    )
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    report = describe([measure(rows) for rows in arguments.rows], load)
    print(report)
    if arguments.write:
        write(arguments.write, "increment", report)
    return 0


def measure(rows: int) -> Result:
    """Build the base, run again, add the day's file and run again, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as name:
        folder = Path(name)
        data, made, home = folder / "data", folder / "made", folder / "home"
        data.mkdir()
        chunk = rows // SHARE
        generate(
            find_expand(),
            made,
            "--rows",
            str(rows + chunk),
            "--chunk",
            str(chunk),
            "--lag",
            "git",
            *TIMED,
        )
        *base, day = sorted(made.glob("*.jsonl"))
        for file in base:
            file.rename(data / file.name)
        full = in_fresh_process(run_stages, data, home)
        nothing = in_fresh_process(run_stages, data, home)
        shutil.move(day, data)
        increment = in_fresh_process(run_stages, data, home)
    for label, measured in (("full", full), ("nothing new", nothing), ("one per cent", increment)):
        say(
            f"{label}: {measured.seconds:.2f} s, {measured.peak_mb:,.0f} MB, "
            f"{json.dumps(measured.made)}"
        )
    return Result(rows, full, nothing, increment)


def run_stages(data: Path, home: Path) -> Measured:
    """Source to features; the seconds of importing are in."""

    def work() -> dict[str, float]:
        from transforms.features.build import featurize
        from transforms.sources.ingest import ingest
        from transforms.staging.prepare import prepare

        source, warehouse = open_home(data, home)
        seconds, written = {}, {}
        warehouse.report = lambda relation, *_: written.update({relation: time.perf_counter()})
        stages = {
            "ingest": lambda: ingest(source, warehouse),
            "prepare": lambda: prepare(source, warehouse),
            "featurize": lambda: featurize(warehouse, datetime.now(UTC)),
        }
        for name, stage in stages.items():
            start = time.perf_counter()
            stage()
            seconds[name] = round(time.perf_counter() - start, 2)
        # the views are made one after the other, those of windows last
        scored = [at for relation, at in written.items() if relation.startswith("features.record_")]
        seconds["windows"] = round(time.perf_counter() - max(scored, default=start), 2)
        return seconds

    return clock(work)


def describe(results: list[Result], load: float) -> str:
    """Tell what was measured, on what, as Markdown."""
    command = shlex.join([".venv/bin/python", "benchmarks/increment.py", *sys.argv[1:]])
    head = [
        "base records",
        "full build, s",
        "nothing new, s",
        "1 % new, s",
        "increment / full, beyond nothing new",
        "peak MB",
    ]
    rows = [
        [
            f"{result.rows:,}",
            f"{result.full.seconds:.1f}",
            f"{result.nothing.seconds:.1f}",
            f"{result.increment.seconds:.1f}",
            f"{result.share:.1%}",
            f"{max(result.full.peak_mb, result.increment.peak_mb):,.0f}",
        ]
        for result in results
    ]
    by_stage = [
        [
            f"{result.rows:,}",
            label,
            *(
                f"{measured.made[stage]:.2f}"
                for stage in ("ingest", "prepare", "featurize", "windows")
            ),
        ]
        for result in results
        for label, measured in (("full build", result.full), ("1 % new", result.increment))
    ]
    of_four = [result for result in results if result.rows >= 4_000_000]
    reached = [
        Goal(
            f"1 % on {result.rows:,}, of the full build's time",
            f"{result.share:.1%}",
            "<= 5 %",
            result.share <= 0.05,
        )
        for result in of_four
    ]
    windows = [
        Goal(
            f"windows of {result.rows:,} records, s",
            f"{result.full.made['windows']:.1f}",
            "<= 90",
            result.full.made["windows"] <= 90,
        )
        for result in results
        if result.rows >= 10_000_000
    ]
    peaks = [
        Goal(
            f"peak MB at {result.rows:,}",
            f"{result.full.peak_mb:,.0f}",
            "<= 4,000",
            result.full.peak_mb <= 4_000,
        )
        for result in results
    ]
    stages = table(
        ["base records", "run", "ingest, s", "prepare, s", "featurize, s", "of it windows, s"],
        by_stage,
    )
    parts = ["## Increments", f"`{command}`", machine(load, LIBRARIES), table(head, rows), stages]
    return "\n\n".join([*parts, goal_table("increments", [*reached, *windows, *peaks])])


if __name__ == "__main__":
    sys.exit(main())
