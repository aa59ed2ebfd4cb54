"""What engines cost beside one process: the same tables of the same rows, told apart.

Each case loads the files into a home of its own, then stages and features a copy of the same home,
in a fresh process. Seconds and shares are of the second. Clusters are real
processes on loopback, with as many workers of one core as there are cores.

From what was measured follows a calculation, not a measurement, for many rows on many workers:

    seconds = session + rows * (driver + (work + transfer) / workers)

`work` and `transfer` are the seconds of the maps of each kind times the workers of the measurement,
a row: transfer is what `scatter` takes, work are all other maps. `driver` is the rest of a run's
seconds, a row. It assumes that all three are linear in the rows, that the driver's share stays
with one process, that a worker is as fast as a core here and storage as fast for all of them at
once, and that no worker waits for another. What a run costs whatever its rows counts as if it grew
with them, so of fewer than a million rows the calculation says far too much.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from harness import EXPANDED, ROOT, Measured, in_fresh_process, machine, say, table, write
from servers import dask_cluster, spark_cluster

LIBRARIES = ("polars", "duckdb", "pyarrow", "pyspark", "distributed")
ENGINES = ("local", "processes", "spark", "dask")
CLUSTERS = {"spark": spark_cluster, "dask": dask_cluster}
# those of which there are parts: the rest is computed in the driver whatever the engine
VIEWS = (
    "record_quality,record_text,record_pii,record_vector,record_duplicates,"
    "author_activity,subject_activity"
)
TABLES = ("staging.", "quarantine.", "duplicates.", "features.")
NOW = datetime(2026, 12, 1, tzinfo=UTC)
STEPS = {
    "judge_rows": "rows",
    "write_versions": "versions",
    "scatter": "scatter",
    "compute_bucket": "records",
    "scatter_spans": "spans",
    "cut_spans": "cuts",
    "compute_part": "groups",
    "sign_texts": "texts",
    "search_signatures": "pairs",
}
TRANSFER = ("scatter",)
# what the calculation is for
MANY_ROWS, MANY_WORKERS = 10**9, 32
ABOUT = """measure what an engine computes, by each engine, from the same raw rows

The records are made by tools/expand.py of ../shared beside the project, or the folder in
MILLRACE_SHARED. Homes lie in a temp folder (TMPDIR says where) that is removed at the end.
"""
EXAMPLES = """examples:
  benchmarks/engines.py --rows 50_000                    in two minutes
  benchmarks/engines.py --rows 1_000_000 --write docs/benchmarks.md
  benchmarks/engines.py --rows 4_000_000 --engine local --engine spark
"""


class Case(NamedTuple):
    """What an engine took: seconds, processor seconds of the driver and of all, and by step."""

    seconds: float
    driver_cpu: float
    cpu_seconds: float
    steps: dict[str, float]
    digests: dict[str, tuple[int, int]]
    n_workers: int


class Shares(NamedTuple):
    """Seconds a row: of the driver, and of workers at work and in transfer; and of a session."""

    driver: float
    work: float
    transfer: float
    session: float

    def seconds(self, n_rows: int, n_workers: int) -> float:
        """What so many rows would take on so many workers, by the formula above."""
        return self.session + n_rows * (self.driver + (self.work + self.transfer) / n_workers)


def main() -> int:
    arguments = parse_arguments()
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        n_rows = in_fresh_process(load, folder, arguments.rows).made
        cases = {}
        for engine in arguments.engine or ENGINES:
            say(f"{engine}: {n_rows:,} rows")
            cases[engine] = Case(*in_fresh_process(compute, folder, engine).made)
    report = f"{machine(busy, LIBRARIES)}\n\n{results(cases, n_rows)}"
    print(report)
    if arguments.write:
        command = f"`.venv/bin/python benchmarks/engines.py --rows {arguments.rows:_}`"
        write(arguments.write, "engines", f"## Engines\n\n{command}\n\n{report}")
    expected = next(iter(cases.values())).digests
    different = [engine for engine, case in cases.items() if case.digests != expected]
    if different:
        print(f"FAIL: other rows by {', '.join(different)}", file=sys.stderr)
    return bool(different)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=ABOUT, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=300_000, help="rows of the source (300,000)")
    parser.add_argument(
        "--engine", choices=ENGINES, action="append", help="just this one; more than once: these"
    )
    parser.add_argument("--write", type=Path, help="put the results into this page")
    return parser.parse_args()


def load(folder: str, n_rows: int) -> Measured:
    """Make rows and load them; return how many there are."""
    import yaml

    from transforms.home import Settings
    from transforms.sources.ingest import ingest
    from transforms.sources.source import load_source
    from transforms.warehouse.tables import Warehouse

    rows, home = Path(folder, "rows"), Path(folder, "raw")
    shared = Path(os.environ.get("MILLRACE_SHARED", ROOT.parent / "shared"))
    seed = f"commits={shared}/data/commits/*.zst,text=message,entity=author_id,label=repo"
    tool = [sys.executable, shared / "tools" / "expand.py", "--badline", "0", "--workers", "1"]
    sizes = ["--rows", str(n_rows), "--out", rows, "--seed", f"{seed},time=authored_at"]
    subprocess.run([*tool, *sizes], check=True, stdout=subprocess.DEVNULL)
    source = {"name": "expanded", "uri": str(rows), "known": {"column": "ingested_at"}}
    path = Path(folder, "source.yaml")
    path.write_text(yaml.safe_dump({**source, "record": EXPANDED}), "utf-8")
    warehouse = Warehouse(Settings(home=home))
    ingest(load_source(path), warehouse)
    return Measured(0, 0, warehouse.n_rows("raw.records"))


def compute(folder: str, engine: str) -> Measured:
    """Stage the rows of a copy of the home and compute its views, by an engine."""
    from transforms.engines.engine import engine_of
    from transforms.features import build
    from transforms.home import Settings
    from transforms.sources.ingest import ingest
    from transforms.sources.source import load_source
    from transforms.staging.prepare import prepare
    from transforms.warehouse.tables import Warehouse

    os.environ |= {"MILLRACE_VIEWS": VIEWS, "MILLRACE_FEATURES": ""}
    home = Path(folder, engine)
    shutil.copytree(Path(folder, "raw"), home)
    steps: dict[str, float] = {}
    began = cpu_seconds()
    with ExitStack() as stack:
        if cluster := CLUSTERS.get(engine):
            found = stack.enter_context(cluster(os.cpu_count() or 1))
            os.environ |= found.environment
            address = {"spark": "SPARK_MASTER", "dask": "DASK_SCHEDULER"}[engine]
            os.environ[f"MILLRACE_{address}"] = found.address
        settings = Settings(home=home, engine=engine)
        used, n_workers = engine_of(settings), 0
        if used:
            with timed(steps, "session"):
                n_workers = used.n_workers
                list(used.map(abs, range(n_workers)))
        source = load_source(Path(folder, "source.yaml"))
        loaded = settings.model_copy(update={"home": Path(folder, f"loaded by {engine}")})
        with timed(steps, "ingest"):
            ingest(source, Warehouse(loaded))
        if used:
            used.map = watched(used.map, steps)
        start, own = time.perf_counter(), time.process_time()
        with timed(steps, "prepare"):
            prepare(source, Warehouse(settings))
        build.featurize(Warehouse(settings), NOW, with_profiles=False)
        seconds, driver = time.perf_counter() - start, time.process_time() - own
        if used:
            used.close()
    found = digests(Warehouse(settings))
    made = (seconds, driver, cpu_seconds() - began, steps, found, n_workers)
    return Measured(seconds, 0, made)


class timed:  # noqa: N801
    """Add the seconds of a block to a step."""

    def __init__(self, steps: dict[str, float], name: str) -> None:
        self.steps, self.name = steps, name

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        past = self.steps.get(self.name, 0.0)
        self.steps[self.name] = past + time.perf_counter() - self.start


def watched(
    call: Callable[..., Iterator[Any]], steps: dict[str, float]
) -> Callable[..., Iterator[Any]]:
    """Add up how long an engine takes over each function's tasks."""

    def run(function: Callable[..., Any], tasks: Sequence[Any]) -> Iterator[Any]:
        with timed(steps, STEPS[function.__name__]):
            made = list(call(function, tasks))
        return iter(made)

    return run


def cpu_seconds() -> float:
    """Processor seconds of this process and of all its children that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(item.ru_utime + item.ru_stime for item in used)


def digests(warehouse: Any) -> dict[str, tuple[int, int]]:
    """Rows of each table, and a digest of them in any order."""
    import polars as pl

    found = {}
    for relation in (name for name in warehouse.versions() if name.startswith(TABLES)):
        rows = pl.read_delta(str(warehouse.folder(relation)))
        found[relation] = (rows.height, int(rows.hash_rows().sum()))
    return found


def results(cases: dict[str, Case], n_rows: int) -> str:
    """Lay out what each engine took."""
    columns = ("session", "ingest", "prepare", *STEPS.values(), "rest", "tables")
    header = ["engine", "seconds", "CPU s", "of the driver", *columns]
    expected = next(iter(cases.values())).digests
    rows = []
    for engine, case in cases.items():
        of_steps = [case.steps.get(name, 0.0) for name in STEPS.values()]
        apart = [case.steps.get(name, 0.0) for name in ("session", "ingest", "prepare")]
        timed_steps = [*apart, *of_steps, case.seconds - sum(of_steps)]
        rows.append(
            [
                engine,
                f"{case.seconds:.1f}",
                f"{case.cpu_seconds:.1f}",
                f"{case.driver_cpu:.1f}",
                *(f"{seconds:.1f}" for seconds in timed_steps),
                "equal" if case.digests == expected else "OTHER",
            ]
        )
    measured = f"{n_rows:,} rows, {len(VIEWS.split(','))} views.\n\n{table(header, rows)}"
    return f"{measured}\n\n{calculation(cases, n_rows)}"


def calculation(cases: dict[str, Case], n_rows: int) -> str:
    """Lay out what many rows would take on many workers, by the formula above."""
    header = ["engine", "driver", "work", "transfer", "session, s", "hours", "of the driver"]
    rows = []
    for engine, case in cases.items():
        of = shares(case, n_rows)
        a_million = [f"{each * 1e6:.1f}" for each in (of.driver, of.work, of.transfer)]
        n_workers = MANY_WORKERS if case.n_workers else 1
        hours = of.seconds(MANY_ROWS, n_workers) / 3600
        driver = of.driver * MANY_ROWS / 3600
        rows.append([engine, *a_million, f"{of.session:.1f}", f"{hours:.1f}", f"{driver:.1f}"])
    return (
        f"On paper: {MANY_ROWS:,} rows on {MANY_WORKERS} workers (`local`: one process), if all is "
        "linear and the driver's share stays with one process. Seconds a million rows of the "
        f"driver, and of workers at work and in transfer:\n\n{table(header, rows)}"
    )


def shares(case: Case, n_rows: int) -> Shares:
    """Divide what was measured into seconds a row."""
    maps = {name: case.steps.get(name, 0.0) for name in STEPS.values()}
    transfer = sum(maps[name] for name in TRANSFER)
    work = sum(maps.values()) - transfer
    driver = case.seconds - work - transfer
    of_workers = case.n_workers / n_rows
    session = case.steps.get("session", 0.0)
    return Shares(driver / n_rows, work * of_workers, transfer * of_workers, session)


if __name__ == "__main__":
    sys.exit(main())
