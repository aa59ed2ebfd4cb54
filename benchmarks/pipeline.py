"""How fast the pipeline is and how much memory it takes, beside a limit measured in the same run.

The limit is Polars: read the same lines, write them as zstd Parquet. Each stage runs in a fresh
process. With several sizes it also draws how time, memory and disk grow.
"""

import argparse
import csv
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from harness import (
    ROOT,
    Goal,
    Measured,
    clock,
    goal_table,
    in_fresh_process,
    lend,
    machine,
    say,
    table,
    write,
)

FLOORS = Path(__file__).with_name("floors.json")
LIBRARIES = ("polars", "duckdb", "pyarrow", "deltalake", "pandera", "numpy")
SMALL_ROWS = 100_000
# what a model of who wrote and what about reads, without the language of the text
FEW_VIEWS = "record_quality,author_activity,subject_activity"
PLOT = ROOT / "docs" / "benchmarks" / "growth.png"
MAX_ROWS_OF_A_FILE = 200_000
# Polars aborts at a line that is no JSON, so the data that is timed has broken values only; they
# are counted on data that has both
TIMED = ("--badline", "0", "--badvalue", "0.003")
COUNTED = (
    "--rows",
    "50000",
    "--chunk",
    "10000",
    "--badline",
    "0.002",
    "--badvalue",
    "0.003",
    "--rng",
    "7",
)
ABOUT = """measure the pipeline, source to features, beside Polars writing the same lines as Parquet

Needs the data tool and the commits it starts from: ../shared beside the project, or the folder in
MILLRACE_SHARED. Data and homes lie in a temp folder (TMPDIR says where; about 1 GB for a million
records) that is removed at the end.
"""
EXAMPLES = """examples:
  benchmarks/pipeline.py --small                        100,000 records, under a minute
  benchmarks/pipeline.py --small --check                as `make bench` does: see floors.json
  benchmarks/pipeline.py --write docs/benchmarks.md     a million records; on a quiet machine
  benchmarks/pipeline.py --rows 1_000_000 4_000_000     also how time, memory and disk grow, drawn

A stage's line: its seconds, records a second, peak memory of its process, and its seconds over the
limit's.
"""


class Result(NamedTuple):
    """A run over `rows` records of `n_input` bytes; its home took `n_home`."""

    rows: int
    limit: Measured
    stages: dict[str, Measured]
    n_input: int
    n_home: int

    @property
    def seconds(self) -> float:
        """Source to features."""
        return sum(self.stages[name].seconds for name in ("ingest", "prepare", "featurize"))

    @property
    def ratios(self) -> dict[str, float]:
        """What floors.json has a ceiling for."""
        raw_and_staging = self.stages["ingest"].seconds + self.stages["prepare"].seconds
        return {
            "raw_and_staging_over_limit": raw_and_staging / self.limit.seconds,
            "features_over_limit": self.stages["featurize"].seconds / self.limit.seconds,
            "peak_mb": max(stage.peak_mb for stage in self.stages.values()),
        }


def main() -> int:
    arguments = parse_arguments()
    expand = find_expand()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        counts = count(expand, Path(folder)) if arguments.check else {}
        results = [run(expand, Path(folder), rows, arguments.repeat) for rows in arguments.rows]
        os.environ["MILLRACE_VIEWS"] = FEW_VIEWS
        few = run(expand, Path(folder), arguments.rows[0], arguments.repeat)
    report = describe(results, few, load)
    print(report)
    if len(results) > 1:
        draw(results, arguments.plot)
    if arguments.write:
        write(arguments.write, "pipeline", report)
    missed = misses(counts, results[0]) if arguments.check else []
    for line in missed:
        print(line, file=sys.stderr)
    if arguments.check and not missed:
        print(
            f"counts and ceilings hold: {', '.join(f'{name} {n:,}' for name, n in counts.items())}"
        )
    return 1 if missed else 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=ABOUT, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--rows",
        type=positive,
        nargs="+",
        default=[1_000_000],
        metavar="N",
        help="records (1_000_000); each N is one run",
    )
    size.add_argument(
        "--small",
        action="store_const",
        dest="rows",
        const=[SMALL_ROWS],
        help=f"{SMALL_ROWS:,} records",
    )
    parser.add_argument(
        "--repeat",
        type=positive,
        default=1,
        metavar="N",
        help="run all stages N times, in fresh homes; keep the fastest (1)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="with --small: fail where counts differ from floors.json or a ceiling is broken",
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="put the tables into this Markdown page, e.g. docs/benchmarks.md",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        default=PLOT,
        metavar="FILE",
        help="where the picture of several sizes goes (%(default)s), with a CSV file beside it",
    )
    arguments = parser.parse_args()
    if arguments.check and arguments.rows != [SMALL_ROWS]:
        parser.error(
            "--check goes with --small: the ceilings in floors.json are those of a small run"
        )
    return arguments


def positive(text: str) -> int:
    """Read a whole number from 1 on; argparse makes a line of the error."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def find_expand() -> Path:
    """Find the data tool, or end with one line."""
    shared = Path(os.environ.get("MILLRACE_SHARED") or ROOT.parent / "shared")
    tool = shared / "tools" / "expand.py"
    if not tool.is_file():
        sys.exit(
            f"{tool}: is not there; set MILLRACE_SHARED to the folder that holds "
            "tools/expand.py and data/commits"
        )
    return tool


def count(expand: Path, folder: Path) -> dict[str, int]:
    """Prepare the fixed data, which has broken lines too, and count what became of its rows."""
    with lend(folder, "counted") as data, lend(folder, "home") as home:
        rows = generate(expand, data, *COUNTED)
        measure(stage_ingest, data, home)
        account = measure(stage_prepare, data, home).made
    return {"rows": rows, **account}


def run(expand: Path, folder: Path, rows: int, repeat: int) -> Result:
    """Measure the limit, then limit and stages by turns: the best limit, the fastest chain."""
    with lend(folder, "timed") as data:
        generated = generate(
            expand,
            data,
            "--rows",
            str(rows),
            "--chunk",
            str(min(MAX_ROWS_OF_A_FILE, -(-rows // 5))),
            *TIMED,
        )
        limits, chains = [run_limit(data, folder)], []
        for _ in range(repeat):
            chains.append(run_stages(data, folder, generated))
            limits.append(run_limit(data, folder))
        n_input = sum(file.stat().st_size for file in data.glob("*.jsonl"))
    limit = min(limits, key=lambda measured: measured.seconds)
    return min(
        (Result(generated, limit, stages, n_input, n_home) for stages, n_home in chains),
        key=lambda result: result.seconds,
    )


def run_limit(data: Path, folder: Path) -> Measured:
    """Measure the limit once; its Parquet file is removed again."""
    with lend(folder, "limit") as out:
        return measure(stage_limit, data, out)


def run_stages(data: Path, folder: Path, rows: int) -> tuple[dict[str, Measured], int]:
    """Run every stage in a fresh home, and count its bytes; a run that lost a row has no speed."""
    stages = {
        "ingest": stage_ingest,
        "prepare": stage_prepare,
        "featurize": stage_featurize,
        "nothing new": stage_nothing_new,
    }
    with lend(folder, "home") as home:
        measured = {name: measure(stage, data, home) for name, stage in stages.items()}
        n_home = sum(file.stat().st_size for file in home.rglob("*") if file.is_file())
    if measured["prepare"].made["read"] != rows:
        sys.exit(f"{measured['prepare'].made['read']:,} rows were read where {rows:,} were made")
    return measured, n_home


def generate(expand: Path, out: Path, *options: str) -> int:
    """Make data of real commits; the number of records made."""
    say(f"making data: {' '.join(options)}")
    commits = expand.parents[1] / "data" / "commits" / "*.zst"
    seed = f"commits={commits},text=message,entity=author_id,label=repo,time=authored_at"
    made = subprocess.run(
        [sys.executable, expand, "--out", out, "--seed", seed, *options],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        sys.exit(
            f"{expand.name} failed: {(made.stderr.strip().splitlines() or ['no reason given'])[-1]}"
        )
    return int(json.loads((out / "manifest.json").read_text("utf-8"))["rows"])


def measure(stage: Callable[[Path, Path], Measured], data: Path, folder: Path) -> Measured:
    """Run a stage in a fresh process."""
    measured = in_fresh_process(stage, data, folder)
    say(
        f"{stage.__name__.removeprefix('stage_')}: {measured.seconds:.2f} s, "
        f"{measured.peak_mb:,.0f} MB"
    )
    return measured


def stage_limit(data: Path, out: Path) -> Measured:
    """What any pipeline that parses and keeps the lines must do."""
    import polars as pl

    lines = pl.scan_ndjson(sorted(data.glob("*.jsonl")))
    return clock(lambda: lines.sink_parquet(out / "records.parquet", compression="zstd"))


def stage_ingest(data: Path, home: Path) -> Measured:
    """source -> raw."""
    from transforms.sources.ingest import ingest

    source, warehouse = open_home(data, home)
    return clock(lambda: ingest(source, warehouse)._asdict())


def stage_prepare(data: Path, home: Path) -> Measured:
    """raw -> staging and quarantine."""
    from transforms.staging.prepare import prepare

    source, warehouse = open_home(data, home)
    return clock(lambda: prepare(source, warehouse)._asdict())


def stage_featurize(data: Path, home: Path) -> Measured:
    """staging -> features."""
    from transforms.features.build import featurize

    _, warehouse = open_home(data, home)
    return clock(
        lambda: {
            view: tuple(rows) for view, rows in featurize(warehouse, datetime.now(UTC)).items()
        }
    )


def stage_nothing_new(data: Path, home: Path) -> Measured:
    """All stages once more, with nothing to do."""
    from transforms.features.build import featurize
    from transforms.sources.ingest import ingest
    from transforms.staging.prepare import prepare

    source, warehouse = open_home(data, home)

    def work() -> int:
        loaded, account = ingest(source, warehouse), prepare(source, warehouse)
        views = featurize(warehouse, datetime.now(UTC)).values()
        return loaded.rows_loaded + account.read + sum(rows.new + rows.recomputed for rows in views)

    measured = clock(work)
    if measured.made:
        message = f"a second run made {measured.made:,} rows of nothing new"
        raise RuntimeError(message)
    return measured


def open_home(data: Path, home: Path) -> tuple[Any, Any]:
    """Map the generated fields to the canonical record; open the home."""
    from transforms.home import Settings
    from transforms.sources.source import KnownColumn, RecordMapping, Source
    from transforms.warehouse.tables import Warehouse

    record = RecordMapping(
        record_id="record_id",
        author_id="user_id",
        subject_id="label",
        event_timestamp="event_time",
        text="text",
        label="label",
    )
    source = Source(
        name="commits",
        uri=str(data / "*.jsonl"),
        known=KnownColumn(column="ingested_at"),
        record=record,
    )
    return source, Warehouse(Settings(home=home))


def describe(results: list[Result], few: Result, load: float) -> str:
    """Lay out what was measured, on what, as Markdown."""
    command = shlex.join([".venv/bin/python", "benchmarks/pipeline.py", *sys.argv[1:]])
    parts = [
        "## Pipeline",
        f"`{command}`",
        machine(load, LIBRARIES),
        *map(stage_table, results),
        f"With `MILLRACE_VIEWS={FEW_VIEWS}`:",
        stage_table(few),
        disk_table(results),
        goals(results, few),
    ]
    return "\n\n".join(parts)


def stage_table(result: Result) -> str:
    """Lay out the stages of one run."""
    lines = {"limit: Polars to zstd Parquet": result.limit, **result.stages}
    rows = [stage_row(name, measured, result) for name, measured in lines.items()]
    whole = Measured(result.seconds, result.ratios["peak_mb"])
    rows.insert(-1, stage_row("source to features", whole, result))
    return table(
        [f"{result.rows:,} records", "seconds", "records/s", "peak MB", "x the limit"], rows
    )


def stage_row(name: str, measured: Measured, result: Result) -> list[str]:
    """Lay out one stage; a run with nothing to do has no records a second."""
    speed = "" if name == "nothing new" else f"{result.rows / measured.seconds:,.0f}"
    return [
        name,
        f"{measured.seconds:.2f}",
        speed,
        f"{measured.peak_mb:,.0f}",
        f"{measured.seconds / result.limit.seconds:.2f}",
    ]


def disk_table(results: list[Result]) -> str:
    """Lay out what homes take on disk, beside the JSON lines that were loaded."""
    rows = [
        [
            f"{result.rows:,}",
            f"{result.n_input / 1e6:,.0f}",
            f"{result.n_home / 1e6:,.0f}",
            f"{result.n_home / result.rows:,.0f}",
        ]
        for result in results
    ]
    return table(["records", "JSON lines, MB", "home, MB", "bytes a record"], rows)


def goals(results: list[Result], few: Result) -> str:
    """Check the first run against the goals (a million records, two cores), and peak growth."""
    first = results[0]
    whole, part = (result.seconds / result.limit.seconds for result in (first, few))
    ratio, peak = first.ratios["raw_and_staging_over_limit"], first.ratios["peak_mb"]
    reached = [
        Goal("source to features, x the limit", f"{whole:.1f}", "<= 28", whole <= 28),
        Goal("with three views, x the limit", f"{part:.1f}", "<= 12", part <= 12),
        Goal("raw + staging, x the limit", f"{ratio:.1f}", "<= 6", ratio <= 6),
        Goal("peak MB", f"{peak:,.0f}", "<= 2,500", peak <= 2_500),
    ]
    for other in results[1:]:
        growth = other.ratios["peak_mb"] / peak
        reached.append(
            Goal(f"peak at {other.rows:,}, x the first", f"{growth:.2f}", "<= 1.2", growth <= 1.2)
        )
    return goal_table(f"{results[0].rows:,} records", reached)


def draw(results: list[Result], plot: Path) -> None:
    """Draw time, memory and disk over records, both axes logarithmic, and list the points."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    rows = [result.rows for result in results]
    curves = {
        "seconds": {
            name: [result.stages[name].seconds for result in results]
            for name in ("ingest", "prepare", "featurize")
        },
        "peak memory, MB": {
            name: [result.stages[name].peak_mb for result in results]
            for name in ("ingest", "prepare", "featurize")
        },
        "disk, MB": {
            "home": [result.n_home / 1e6 for result in results],
            "JSON lines": [result.n_input / 1e6 for result in results],
        },
    }
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    for axis, (label, lines) in zip(axes, curves.items(), strict=True):
        for name, values in lines.items():
            axis.loglog(rows, values, marker="o", label=name)
        axis.set(xlabel="records", ylabel=label)
        axis.grid(visible=True, which="major", alpha=0.3)
        axis.legend()
    figure.suptitle("Source to features: how cost grows with the records of a home")
    plot.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(plot, dpi=120)
    with plot.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        points = csv.writer(file)
        points.writerow(["measure", "of", *rows])
        for label, lines in curves.items():
            points.writerows(
                [label, name, *(round(value, 2) for value in values)]
                for name, values in lines.items()
            )
    say(f"plotted: {plot}")


def misses(counts: dict[str, int], result: Result) -> list[str]:
    """Hold counts (exactly) and ratios (as ceilings) against floors.json; a line for each miss."""
    floors = json.loads(FLOORS.read_text("utf-8"))
    wrong = [
        f"{name}: {counts[name]:,} rows, {due:,} are due"
        for name, due in floors["counts"].items()
        if counts[name] != due
    ]
    slow = [
        f"{name}: {result.ratios[name]:.2f}, the ceiling is {ceiling}"
        for name, ceiling in floors["ratios"].items()
        if result.ratios[name] > ceiling
    ]
    return wrong + slow


if __name__ == "__main__":
    sys.exit(main())
