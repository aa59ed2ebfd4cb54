"""A day of small commits: what they leave to read, and what each costs after thousands of others.

Records are committed to raw in small posts, staged every few commits and maintained every twenty
passes, as `millrace consume` does; the last passes before the end compute features too, with no
maintenance after them, which is the most that is ever left. Then each table is read as it was left,
and compacted to one file. Commits come one after the other, not one a second.
"""

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from statistics import median
from typing import NamedTuple

from fresh import DATA, RECORDS_OF_A_POST, SAMPLE, record, templates
from harness import Goal, goal_table, machine, say, table, write
from pipeline import LIBRARIES, positive

COMMITS_OF_A_PASS = 4
STEPS = 8
N_READS = 9
SECONDS_OF_A_DAY = 86_400
READ = ("raw.records", "staging.records", "features.record_quality", "features.author_activity")
ABOUT = """measure what thousands of small commits cost, and how their tables read beside compacted ones

The home lies in a temp folder (TMPDIR says where; 1 GB) that is removed at the end.
"""


class Step(NamedTuple):
    """After so many commits: processor milliseconds of one, seconds of maintenance, what is there."""

    n_commits: int
    commit_ms: float
    staging_ms: float
    maintenance_s: float
    n_entries: int
    n_files: int
    megabytes: float


class Read(NamedTuple):
    """A table: its rows, and its files and the seconds of a read, as left and compacted."""

    relation: str
    n_rows: int
    n_files: int
    seconds: float
    seconds_compacted: float

    @property
    def excess(self) -> float:
        return self.seconds / self.seconds_compacted - 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--commits", type=positive, default=4_000, metavar="N", help="commits to raw (4,000)"
    )
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="put the tables into this Markdown page"
    )
    arguments = parser.parse_args()
    os.environ["MILLRACE_FEATURES"] = ""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        steps, reads = measure(Path(folder), arguments.commits)
    report = describe(steps, reads, load)
    print(report)
    if arguments.write:
        write(arguments.write, "commits", report)
    return 0


def measure(folder: Path, n_commits: int) -> tuple[list[Step], list[Read]]:
    """Commit, stage and maintain; the costs of each eighth, and the reads at the end."""
    from flows.consumer.passes import DAYS_KEPT, PASSES_UNTIL_MAINTENANCE
    from flows.stages import MaintainParameters, PipelineParameters, run_maintenance, run_plain
    from transforms.sources.posts import Intake, read_post
    from transforms.sources.source import load_source
    from transforms.staging.prepare import prepare
    from transforms.warehouse.tables import Warehouse

    shutil.copytree(DATA, folder / "data")
    file = folder / "source.yaml"
    file.write_text(SAMPLE.read_text("utf-8").replace("data/cve_events/*.jsonl.zst", "data/*"))
    parameters = PipelineParameters(source=str(file), home=str(folder / "home"))
    run_plain(parameters)
    source, warehouse = load_source(file), Warehouse(parameters.settings())
    intake, lines, numbers = Intake(source, warehouse), templates(), count()
    maintained = MaintainParameters(home=parameters.home, keep_days=DAYS_KEPT)
    steps, taken = [], {"commit": 0.0, "staging": 0.0, "maintenance": 0.0}

    def timed(what: str, begin: float) -> None:
        taken[what] += processor() - begin

    n_passes = n_maintained = 0
    for number in range(1, n_commits + 1):
        body = "\n".join(record(lines, next(numbers)) for _ in range(RECORDS_OF_A_POST))
        post, begin = read_post(f"commit-{number}", body.encode()), processor()
        intake.take([post])
        timed("commit", begin)
        if number % COMMITS_OF_A_PASS == 0:
            begin = processor()
            if number > n_commits - COMMITS_OF_A_PASS * (PASSES_UNTIL_MAINTENANCE - 1):
                run_plain(parameters)
            else:
                prepare(source, warehouse, until=intake.end_load())
                timed("staging", begin)
            n_passes += 1
            if n_passes % PASSES_UNTIL_MAINTENANCE == 0 and number < n_commits:
                begin = processor()
                run_maintenance(maintained, n_reads=0)
                timed("maintenance", begin)
                n_maintained += 1
        if number % (n_commits // STEPS) == 0:
            steps.append(step(warehouse, number, n_commits // STEPS, n_maintained, taken))
            say(str(steps[-1]))
            taken, n_maintained = dict.fromkeys(taken, 0.0), 0
    return steps, [read(parameters.home, relation) for relation in READ]
