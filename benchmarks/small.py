"""What ten new records cost in a home of 24,000, by stage, in a process that has run before.

The home is made of the shipped sample. Then ten records at a time arrive in a file of their own:
new ones, of authors and subjects that are there already.
"""

import argparse
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from harness import (
    ROOT,
    Goal,
    Measured,
    clock,
    goal_table,
    in_fresh_process,
    machine,
    say,
    table,
    write,
)
from pipeline import FLOORS, LIBRARIES, positive

SAMPLE = ROOT / "sources" / "cve_events.yaml"
DATA = ROOT / "sources" / "data" / "cve_events"
RECORDS = 10
STAGES = ("ingest", "prepare", "featurize", "apply", "materialize")
ABOUT = """measure ten new records in a home of 24,000, stage by stage, in a process that stays

The home and the data lie in a temp folder (TMPDIR says where; 50 MB) that is removed at the end.
It takes two minutes, most of them for the home.
"""
EXAMPLES = """examples:
  benchmarks/small.py --check                     as `make bench` does: see floors.json
  benchmarks/small.py --rounds 20 --prefect       also as a Prefect flow
  benchmarks/small.py --write docs/benchmarks.md  on a quiet machine

Each number is the median of some rounds: seconds, and seconds of processor time, which other
programs disturb less. "Other" is what a run does between its stages.
"""


class Round(NamedTuple):
    """What one run took, by stage: seconds, and seconds of processor time."""

    seconds: dict[str, float]
    processor: dict[str, float]


class Result(NamedTuple):
    """The full build, runs of ten new records and of nothing new, and how many views are online."""

    full: Round
    ten: Round
    nothing: Round
    n_views: int
    flow: float | None

    @property
    def ratios(self) -> dict[str, float]:
        """What floors.json has a ceiling for: processor time over that of the full build."""
        full = self.full.processor["all"]
        return {
            "ten_over_full": self.ten.processor["all"] / full,
            "ten_materialized_over_full": self.ten.processor["materialize"] / full,
            "nothing_over_full": self.nothing.processor["all"] / full,
        }


def main() -> int:
    arguments = parse_arguments()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        result = measure(Path(folder), arguments.rounds, with_flow=arguments.prefect)
    report = describe(result, load)
    print(report)
    if arguments.write:
        write(arguments.write, "small", report)
    ceilings = json.loads(FLOORS.read_text("utf-8"))["small"]
    missed = [
        f"{name}: {reached:.3f}, at most {ceilings[name]}"
        for name, reached in result.ratios.items()
        if reached > ceilings[name]
    ]
    if not arguments.check:
        return 0
    for line in missed:
        print(line, file=sys.stderr)
    if not missed:
        print("ceilings hold")
    return 1 if missed else 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=ABOUT, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=positive, default=5, metavar="N", help="times that ten records arrive (5)"
    )
    parser.add_argument(
        "--prefect", action="store_true", help="also run it as a Prefect flow (half a minute more)"
    )
    parser.add_argument(
        "--check", action="store_true", help="fail above a ceiling in benchmarks/floors.json"
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="put the table into this Markdown page, e.g. docs/benchmarks.md",
    )
    return parser.parse_args()


def measure(folder: Path, rounds: int, *, with_flow: bool) -> Result:
    """Build the home, then let records arrive, in one process; a flow has another."""
    shutil.copytree(DATA, folder / "data")
    source = SAMPLE.read_text("utf-8").replace("data/cve_events/*.jsonl.zst", "data/*")
    (folder / "cve_events.yaml").write_text(source, "utf-8")
    made = in_fresh_process(run_resident, folder, rounds).made
    flow = in_fresh_process(run_flow, folder, rounds).made if with_flow else None
    full, ten, nothing = (Round(*item) for item in made["rounds"])
    return Result(full, ten, nothing, made["n_views"], flow)


def run_resident(folder: Path, rounds: int) -> Measured:
    """Run all stages again and again: of everything, of ten new records, of nothing new."""

    def work() -> dict[str, Any]:
        full = run_timed(folder)
        say(f"full build: {full.seconds['all']:.1f} s")
        add_records(folder, 0)
        run_timed(folder)  # the first increment imports what a full build does not need
        ten = []
        for number in range(1, rounds + 1):
            add_records(folder, number)
            ten.append(run_timed(folder))
            say(f"ten records: {ten[-1].seconds['all']:.2f} s")
        nothing = [run_timed(folder) for _ in range(rounds)]
        n_views = len(json.loads((folder / "home" / "last_run.json").read_text())["materialized"])
        return {"rounds": [full, middle(ten), middle(nothing)], "n_views": n_views}

    return clock(work)


def run_flow(folder: Path, rounds: int) -> Measured:
    """Run the Prefect flow on ten new records; its server has started with the first run."""

    def work() -> float:
        from flows.pipeline import run_local
        from flows.stages import PipelineParameters
        from transforms.warehouse.tables import silent

        parameters = PipelineParameters(
            source=str(folder / "cve_events.yaml"), home=str(folder / "home")
        )
        seconds = []
        for number in range(3):
            add_records(folder, rounds + 1 + number)
            start = time.perf_counter()
            run_local(parameters, silent)
            seconds.append(time.perf_counter() - start)
        return median(seconds[1:])

    return clock(work)


def run_timed(folder: Path) -> Round:
    """Run all stages once, as `millrace run --plain` does."""
    from flows.stages import PipelineParameters, run_stages
    from transforms.warehouse.tables import silent

    seconds, processor = {}, {}

    def timed(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        start, start_processor = time.perf_counter(), time.process_time()
        made = function(*arguments)
        seconds[name] = time.perf_counter() - start
        processor[name] = time.process_time() - start_processor
        return made

    parameters = PipelineParameters(
        source=str(folder / "cve_events.yaml"), home=str(folder / "home")
    )
    timed(
        "all",
        run_stages,
        parameters,
        silent,
        lambda function, *arguments: timed(function.__name__, function, *arguments),
    )
    for taken in (seconds, processor):
        taken["other"] = taken["all"] - sum(taken[stage] for stage in STAGES)
    return Round(seconds, processor)


def middle(rounds: list[Round]) -> Round:
    """Take the median of each stage."""
    return Round(
        *(
            {name: median(item[name] for item in taken) for name in taken[0]}
            for taken in zip(*rounds, strict=True)
        )
    )


def add_records(folder: Path, number: int) -> None:
    """Let a file of new records arrive, made of the sample's newest: other ids, texts and times."""
    import pyarrow as pa

    with pa.input_stream(str(max(DATA.iterdir()))) as stream:
        rows = map(json.loads, stream.read().decode().splitlines())
    published = [row for row in rows if row["state"] == "PUBLISHED"]
    lines = []
    for place in range(number * RECORDS, (number + 1) * RECORDS):
        row = published[place % len(published)]
        at = f"2024-07-{number % 30 + 1:02}T{number // 30:02}:00:00Z"
        new = {
            "cve_id": f"CVE-2030-{place:05}",
            "text": f"{row['text']} Number {place}.",
            "date_updated": at,
            "ingested_at": at,
        }
        lines.append(json.dumps({**row, **new}))
    (folder / "data" / f"new-{number:04}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


def describe(result: Result, load: float) -> str:
    """Tell what was measured, on what, as Markdown."""
    command = shlex.join([".venv/bin/python", "benchmarks/small.py", *sys.argv[1:]])
    rows = [
        [
            name,
            f"{result.full.seconds[name]:.2f}",
            *(
                f"{taken[name]:.3f}"
                for item in (result.ten, result.nothing)
                for taken in (item.seconds, item.processor)
            ),
        ]
        for name in (*STAGES, "other", "all")
    ]
    head = ["stage", "24,050 records, s", "ten, s", "ten, CPU s", "nothing, s", "nothing, CPU s"]
    everything, online = result.ten.seconds["all"], result.ten.seconds["materialize"]
    a_view = result.nothing.seconds["materialize"] / result.n_views
    goals = [
        Goal("ten new records, all stages, s", f"{everything:.2f}", "<= 0.5", everything <= 0.5),
        Goal("of it materialize, s", f"{online:.2f}", "<= 0.3", online <= 0.3),
        Goal("materialize, nothing new, s a view", f"{a_view:.3f}", "<= 0.05", a_view <= 0.05),
    ]
    flow = [] if result.flow is None else [f"As a Prefect flow: {result.flow:.2f} s, report in."]
    parts = ["## Ten records", f"`{command}`", machine(load, LIBRARIES), table(head, rows), *flow]
    return "\n\n".join([*parts, goal_table("ten new records", goals)])


if __name__ == "__main__":
    sys.exit(main())
