"""What declared groups cost, compared with older views, each other and other engines.

Records, staging and `record_quality` are made once. Each case runs in a fresh process, from staged
records to published rows.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from harness import (
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
from pipeline import (
    FLOORS,
    SMALL_ROWS,
    TIMED,
    find_expand,
    generate,
    measure,
    open_home,
    positive,
    stage_ingest,
    stage_prepare,
)

LIBRARIES = ("polars", "duckdb", "numpy", "pyarrow")
DECLARED = Path(__file__).with_name("groups")
SHARE = 100
ACTIVITIES = ("author_activity", "subject_activity")
AGGREGATES = (
    "count",
    "min",
    "max",
    "first",
    "last",
    "last_k",
    "count_distinct",
    "top_k",
    "variance",
    "percentile",
)
TEN = tuple(f"ten_{i}" for i in range(10))
CASES = ("activities", "aggregates", "ten", "increment", "engines")
ABOUT = """measure groups: the activities, each aggregate, ten groups, an increment, and other
engines

Needs the data tool and the commits it starts from: ../shared beside the project, or the folder in
MILLRACE_SHARED. Data and homes lie in a temp folder (TMPDIR says where; about 2 GB for a million
records) that is removed at the end.
"""
EXAMPLES = """examples:
  benchmarks/groups.py --small --check                  as `make bench` does: see floors.json
  benchmarks/groups.py --base ../before                 compare with an older checkout and its .venv
  benchmarks/groups.py --write docs/benchmarks.md       a million records; on a quiet machine
"""
# run by the environment of the other checkout, whose modules have other names
BASE = """
import json, resource, sys, time
from datetime import UTC, datetime
from pathlib import Path
import transforms.features.build as stage
from transforms.schemas.features import AuthorActivity, SubjectActivity
from transforms.home import Settings
from transforms.warehouse.tables import Warehouse

stage.VIEWS = (AuthorActivity, SubjectActivity)
stage.profile_views = lambda *_: None
warehouse = Warehouse(Settings(home=Path(sys.argv[1])))
start = time.perf_counter()
stage.featurize(warehouse, datetime.now(UTC))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
print(json.dumps([time.perf_counter() - start, peak]))
"""
# a record counts from the microsecond after it is written
TRAILING_US = 7 * 24 * 60 * 60 * 1_000_000 - 2


class Result(NamedTuple):
    """What each case took over `rows` staged records, and in how many rows values differ.

    `n_hops` is at how many records a window with hops has other values than one without.
    """

    rows: int
    measured: dict[str, Measured]
    differing: dict[str, int]
    n_hops: int = 0

    def ratio(self, case: str, beside: str) -> float:
        """A case's seconds over another's."""
        return self.measured[case].seconds / self.measured[beside].seconds

    @property
    def share(self) -> float:
        """The increment's seconds over the full build's, each less the fixed cost of a run."""
        nothing, some, everything = (
            self.measured[f"activities{of}"].seconds for of in (", nothing new", ", 1 % new", "")
        )
        return (some - nothing) / (everything - nothing)

    @property
    def ratios(self) -> dict[str, float]:
        """What floors.json has a ceiling for."""
        pairs = {
            "activities_over_before": ("activities", "activities before"),
            **{f"{name}_over_count": (name, "count") for name in AGGREGATES[1:]},
            "ten_over_one": ("ten groups", "one group"),
            "trailing_over_duckdb": ("trailing, with hops", "DuckDB"),
        }
        share = (
            {"increment_over_full": self.share} if "activities, 1 % new" in self.measured else {}
        )
        return {
            name: self.ratio(*pair)
            for name, pair in pairs.items()
            if set(pair) <= set(self.measured)
        } | share


def main() -> int:
    arguments = parse_arguments()
    os.environ["MILLRACE_FEATURES"] = str(DECLARED)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        result = run(Path(folder), arguments)
    report = describe(result, load)
    print(report)
    if arguments.write:
        write(arguments.write, "groups", report)
    missed = [f"{name}: {n:,} rows have other values" for name, n in result.differing.items() if n]
    missed += above_ceilings(result) if arguments.check else []
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if missed else 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=ABOUT, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--rows", type=positive, default=1_000_000, metavar="N", help="records (1_000_000)"
    )
    size.add_argument(
        "--small",
        action="store_const",
        dest="rows",
        const=SMALL_ROWS,
        help=f"{SMALL_ROWS:,} records",
    )
    parser.add_argument("--case", nargs="+", choices=CASES, default=CASES, help="only these (all)")
    parser.add_argument(
        "--base",
        type=Path,
        metavar="DIR",
        help="a checkout from before declarations, with a .venv of its own",
    )
    parser.add_argument(
        "--repeat",
        type=positive,
        default=1,
        metavar="N",
        help="run the cases N times in turn; keep the fastest (1)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="with --small: fail where a ceiling of floors.json is broken",
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="put the tables into this Markdown page, e.g. docs/benchmarks.md",
    )
    arguments = parser.parse_args()
    if arguments.check and arguments.rows != SMALL_ROWS:
        parser.error(
            "--check goes with --small: the ceilings in floors.json are those of a small run"
        )
    return arguments


def run(folder: Path, arguments: argparse.Namespace) -> Result:
    """Make a home and measure the cases in it; those for other engines have their own home."""
    result = Result(0, {}, {})
    if set(arguments.case) - {"engines"}:
        with lend(folder, "data") as data, lend(folder, "home") as home:
            chunk, day = arguments.rows // 5, folder / "day.jsonl"
            generate(
                find_expand(),
                data,
                "--rows",
                str(arguments.rows + chunk),
                "--chunk",
                str(chunk),
                *TIMED,
            )
            *_, following = sorted(data.glob("*.jsonl"))
            with following.open("rb") as lines:
                day.write_bytes(b"".join(islice(lines, arguments.rows // SHARE)))
            following.unlink()
            result = Result(prepare_home(data, home), *run_cases(data, day, home, arguments))
    if "engines" in arguments.case:
        with lend(folder, "data") as data, lend(folder, "home") as home:
            # known when written and never corrected, which is all that a window frame can express
            generate(
                find_expand(),
                data,
                "--rows",
                str(arguments.rows),
                "--chunk",
                str(arguments.rows // 5),
                "--update",
                "0",
                *TIMED,
            )
            rows = in_fresh_process(prepare_known_at_event, data, home).made
            engines, differing, n_hops = run_engines(home, folder, arguments.repeat)
            result = Result(
                result.rows or rows, result.measured | engines, result.differing | differing, n_hops
            )
    return result


def prepare_home(data: Path, home: Path) -> int:
    """Stage the records and score them; how many are staged."""
    measure(stage_ingest, data, home)
    staged: int = measure(stage_prepare, data, home).made["staged"]
    in_fresh_process(extend, home, ("record_quality",))
    return staged


def prepare_known_at_event(data: Path, home: Path) -> Measured:
    """Stage and score records as if each was known when it was written."""
    from transforms.sources.ingest import ingest
    from transforms.staging.prepare import prepare

    source, warehouse = open_home(data, home)
    source = source.model_copy(update={"known": "at_event"})
    ingest(source, warehouse)
    staged = prepare(source, warehouse).staged
    extend(home, ("record_quality",))
    return Measured(0, 0, staged)


def run_cases(
    data: Path, day: Path, home: Path, arguments: argparse.Namespace
) -> tuple[dict[str, Measured], dict[str, int]]:
    """Measure the cases over one home."""
    cases: dict[str, Sequence[str]] = {}
    if {"activities", "increment"} & set(arguments.case):
        cases["activities"] = ACTIVITIES
    if "aggregates" in arguments.case:
        cases |= {name: (f"one_{name}",) for name in AGGREGATES}
    if "ten" in arguments.case:
        cases |= {"one group": ("ten_0",), "ten groups": TEN}
    measured: dict[str, Measured] = {}
    differing: dict[str, int] = {}
    for _ in range(arguments.repeat):
        if arguments.base and "activities" in arguments.case:
            with lend(home.parent, "base") as base:
                link(home, base)
                keep(measured, "activities before", run_base(arguments.base, base))
                keep(measured, "activities", in_fresh_process(compute, home, ACTIVITIES))
                differing["activities"] = in_fresh_process(count_differing, base, home).made
        for name, views in cases.items():
            keep(measured, name, in_fresh_process(compute, home, views))
        if "increment" in arguments.case:
            for name, new in run_increment(data, day, home).items():
                keep(measured, name, new)
    return measured, differing


def keep(measured: dict[str, Measured], name: str, new: Measured) -> None:
    """Keep the faster of two runs of a case."""
    say(f"{name}: {new.seconds:.2f} s, {new.peak_mb:,.0f} MB")
    measured[name] = min(measured.get(name, new), new, key=lambda one: one.seconds)


def link(home: Path, copy: Path) -> None:
    """Copy a home without copying data: no file of a table is ever written twice."""
    for relation in ("raw", "staging", "quarantine", "accounting", "features"):
        if (home / relation).is_dir():
            shutil.copytree(home / relation, copy / relation, copy_function=os.link)


def run_base(checkout: Path, home: Path) -> Measured:
    """Compute the two activities with the code of another checkout, by its own environment."""
    for name in ACTIVITIES:
        shutil.rmtree(home / "features" / name, ignore_errors=True)
    made = subprocess.run(
        [checkout.resolve() / ".venv/bin/python", "-c", BASE, home],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        sys.exit(f"{checkout}: {(made.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    return Measured(*json.loads(made.stdout.splitlines()[-1]))


def run_increment(data: Path, day: Path, home: Path) -> dict[str, Measured]:
    """Extend the activities with nothing new, then by one per cent more records in a copy."""
    with lend(home.parent, "grown") as grown:
        link(home, grown)
        nothing = in_fresh_process(extend, grown, ACTIVITIES)
        shutil.copy(day, data)
        prepare_home(data, grown)
        (data / day.name).unlink()
        return {
            "activities, nothing new": nothing,
            "activities, 1 % new": in_fresh_process(extend, grown, ACTIVITIES),
        }


def compute(home: Path, names: Sequence[str]) -> Measured:
    """Compute views from nothing."""
    for name in names:
        shutil.rmtree(home / "features" / name, ignore_errors=True)
    return extend(home, names)


def extend(home: Path, names: Sequence[str]) -> Measured:
    """Bring views up to what is staged. Tells how many rows are published."""
    from transforms.features.build import compute_views
    from transforms.features.registry import view_of
    from transforms.home import Settings
    from transforms.warehouse.tables import Warehouse

    views = [view_of(name) for name in names]
    warehouse = Warehouse(Settings(home=home))
    return clock(
        lambda: sum(
            rows.new + rows.recomputed
            for rows in compute_views(views, warehouse, datetime.now(UTC)).values()
        )
    )


def count_differing(one: Path, other: Path) -> Measured:
    """Count the rows of the activities that only one home has, or in which a value differs."""
    import duckdb

    differing = 0
    with duckdb.connect() as connection:
        for name in ACTIVITIES:
            for label, home in (("one", one), ("other", other)):
                connection.read_parquet(str(home / "features" / name / "*.parquet")).create_view(
                    label, replace=True
                )
            columns = set(connection.sql("from one").columns) & set(
                connection.sql("from other").columns
            )
            key = {f"{name.partition('_')[0]}_id", "event_timestamp"}
            # decision 10: the time an entity was first seen is the least of what counts now
            values = sorted(columns - key - {"created_timestamp", "first_event_timestamp"})
            differ = " or ".join(
                f"one.{column} is distinct from other.{column}" for column in values
            )
            lone = "one.event_timestamp is null or other.event_timestamp is null"
            found = connection.sql(
                f"select count(*) from one full join other using ({', '.join(key)})"
                f" where {lone} or {differ}"
            )
            differing += found.fetchall()[0][0]
    return Measured(0, 0, differing)


def run_engines(
    home: Path, folder: Path, repeat: int
) -> tuple[dict[str, Measured], dict[str, int], int]:
    """Count records and words of the last 7 days by three engines and compare; then hops."""
    measured: dict[str, Measured] = {}
    with lend(folder, "engines") as out:
        for _ in range(repeat):
            keep(
                measured,
                "trailing, exact to the microsecond",
                in_fresh_process(compute, home, ("trailing_exact",)),
            )
            keep(
                measured,
                "trailing, with hops",
                in_fresh_process(compute, home, ("trailing_hourly",)),
            )
            keep(
                measured, "DuckDB", in_fresh_process(trail_in_duckdb, home, out / "duckdb.parquet")
            )
            keep(
                measured, "Polars", in_fresh_process(trail_in_polars, home, out / "polars.parquet")
            )
        trails = {"DuckDB": out / "duckdb.parquet", "Polars": out / "polars.parquet"}
        differing = {
            engine: in_fresh_process(count_differing_trails, home, "trailing_exact", trail).made
            for engine, trail in trails.items()
        }
        n_hops = in_fresh_process(
            count_differing_trails, home, "trailing_hourly", trails["DuckDB"]
        ).made
    return measured, differing, n_hops


def trail_in_duckdb(home: Path, out: Path) -> Measured:
    """By a window frame over a range of time; written as Parquet."""
    import duckdb

    staging, quality = (
        str(home / name / "*.parquet") for name in ("staging/records", "features/record_quality")
    )
    with duckdb.connect() as connection:
        sql = f"""
            copy (
                select
                    author_id,
                    records.event_timestamp,
                    count(*) over week as n,
                    sum(n_words) over week as n_words
                from read_parquet($staging) as records
                inner join read_parquet($quality) as quality using (record_id)
                window week as (
                    partition by author_id order by records.event_timestamp
                    range between to_microseconds({TRAILING_US}) preceding and current row
                )
            ) to '{out}' (compression zstd)
        """
        return clock(
            lambda: connection.execute(sql, {"staging": staging, "quality": quality}) and None
        )


def trail_in_polars(home: Path, out: Path) -> Measured:
    """By `rolling`; written as Parquet."""
    import polars as pl

    records = pl.scan_parquet(home / "staging/records/*.parquet").select(
        "record_id", "author_id", "event_timestamp"
    )
    quality = pl.scan_parquet(home / "features/record_quality/*.parquet").select(
        "record_id", "n_words"
    )
    trailing = (
        records.join(quality, on="record_id")
        .sort("author_id", "event_timestamp")
        .rolling(
            "event_timestamp", period=f"{TRAILING_US + 1}us", group_by="author_id"
        )  # open at its left end
        .agg(n=pl.len().cast(pl.Int64), n_words=pl.col("n_words").sum())
    )
    return clock(lambda: trailing.sink_parquet(out, compression="zstd"))


def count_differing_trails(home: Path, view: str, out: Path) -> Measured:
    """Count an engine's rows that differ from a group's in the microsecond after the record."""
    import duckdb

    ours = str(home / "features" / view / "*.parquet")
    with duckdb.connect() as connection:
        found = connection.sql(
            """
            select count(*) from read_parquet($theirs) as theirs
            left join read_parquet($ours) as ours
                on ours.author_id = theirs.author_id
                and epoch_us(ours.event_timestamp) = epoch_us(theirs.event_timestamp) + 1
            where
                ours.n_7d is distinct from theirs.n
                or ours.n_words_7d is distinct from theirs.n_words
            """,
            params={"ours": ours, "theirs": str(out)},
        )
        return Measured(0, 0, found.fetchall()[0][0])


def describe(result: Result, load: float) -> str:
    """Tell what was measured, on what, as Markdown."""
    command = shlex.join([".venv/bin/python", "benchmarks/groups.py", *sys.argv[1:]])
    beside = {
        **dict.fromkeys(
            ("activities before", "activities", "activities, nothing new", "activities, 1 % new"),
            "activities",
        ),
        **dict.fromkeys(AGGREGATES, "count"),
        **dict.fromkeys(("one group", "ten groups"), "one group"),
        **dict.fromkeys(
            ("trailing, exact to the microsecond", "trailing, with hops", "DuckDB", "Polars"),
            "DuckDB",
        ),
    }
    rows = [
        [
            name,
            f"{one.seconds:.2f}",
            "" if one.made is None else f"{one.made:,}",
            f"{one.peak_mb:,.0f}",
            f"{result.ratio(name, beside[name]):.2f} x {beside[name]}",
        ]
        for name, one in result.measured.items()
    ]
    equal = [
        f"{name}: {'all values are equal' if not n else f'{n:,} rows differ'}."
        for name, n in result.differing.items()
    ]
    if "DuckDB" in result.differing:
        equal.append(
            "With hops of an hour a record counts up to an hour longer, "
            f"which {result.n_hops:,} of the values at records show."
        )
    head = table(
        [f"{result.rows:,} records", "seconds", "rows published", "peak MB", "beside"], rows
    )
    parts = [
        "## Groups",
        f"`{command}`",
        machine(load, LIBRARIES),
        head,
        " ".join(equal),
        goal_table("groups", goals(result)),
    ]
    return "\n\n".join(part for part in parts if part)


def goals(result: Result) -> list[Goal]:
    """Check the measurements against the goals, for a million records on two quiet cores."""
    asked: Mapping[str, tuple[str, float]] = {
        "activities_over_before": ("activities, x those before", 1),
        **{
            f"{name}_over_count": (f"{name}, x count", 3)
            for name in ("min", "max", "last", "count_distinct")
        },
        "ten_over_one": ("ten groups, x one", 2.5),
        "increment_over_full": ("1 % new, x all, beyond nothing new", 0.05),
    }
    ratios = {name: ratio for name, ratio in result.ratios.items() if name in asked}
    return [
        Goal(asked[name][0], f"{ratio:.2f}", f"<= {asked[name][1]:g}", ratio <= asked[name][1])
        for name, ratio in ratios.items()
    ]


def above_ceilings(result: Result) -> list[str]:
    """Hold ratios against the ceilings in floors.json; a line for each that is above."""
    ceilings = json.loads(FLOORS.read_text("utf-8"))["groups"]
    ratios = result.ratios
    return [
        f"{name}: {ratios[name]:.2f}, the ceiling is {ceiling}"
        for name, ceiling in ceilings.items()
        if ratios.get(name, 0) > ceiling
    ]


if __name__ == "__main__":
    sys.exit(main())
