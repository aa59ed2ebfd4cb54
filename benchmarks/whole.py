"""What `millrace run` costs from the file to the online store, with its defaults.

Each case runs the command in a new home and adds up what it took: time, memory and disk.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
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

LIBRARIES = ("prefect", "polars", "duckdb", "feast", "deltalake", "pandera")
MB = 1e6
SMALL = 20_000
CHAT_ROWS = 2_000_000
CHAT_LENGTH = 120
ABOUT = """measure `millrace run` whole: source to features to the online store, with the defaults

commits  the 142,938 commit messages, as compressed JSON lines
chat     the first line of each commit message, repeated to two million lines, as Parquet

The commits are read from ../shared beside the project, or the folder in MILLRACE_SHARED. Homes lie
in a temp folder (TMPDIR says where; 2 GB for two million lines) that is removed at the end.
"""
EXAMPLES = """examples:
  benchmarks/whole.py --small                         20,000 records of each
  benchmarks/whole.py --case chat --rows 500_000      half a million chat lines
  benchmarks/whole.py --write docs/benchmarks.md      both cases; on a quiet machine
"""
RECORD = {
    "record_id": "commit_id",
    "author_id": "author_id",
    "subject_id": "repo",
    "event_timestamp": "authored_at",
    "text": "message",
}


class Result(NamedTuple):
    """What a run took: wall and processor seconds, its peak, and bytes of input and home."""

    rows: int
    limit: Measured
    seconds: float
    cpu_seconds: float
    peak_mb: float
    stages: dict[str, float]
    n_input: int
    sizes: dict[str, int]

    @property
    def n_home(self) -> int:
        """Bytes of everything that the home keeps."""
        return sum(self.sizes.values())


def main() -> int:
    arguments = parse_arguments()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        results = {
            name: run(Path(folder), make, min(rows, arguments.rows or rows))
            for name, (make, rows) in CASES.items()
            if name in arguments.case
        }
    report = describe(results, load)
    print(report)
    if arguments.write:
        write(arguments.write, "whole", report)
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=ABOUT, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), help="all")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--rows", type=int, metavar="N", help="at most N records of each case")
    size.add_argument("--small", action="store_const", dest="rows", const=SMALL, help="20,000")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="put the tables into this Markdown page"
    )
    return parser.parse_args()


def run(folder: Path, make: Callable[[Path, int], dict[str, Any]], rows: int) -> Result:
    """Make the input, measure the limit, then the run."""
    with lend(folder, "input") as data, lend(folder, "home") as home:
        say(f"{make.__name__.removeprefix('make_')}: {rows:,} records")
        source = in_fresh_process(_made, make, data, rows).made
        limit = in_fresh_process(_limit, source["uri"], folder / "limit.parquet")
        n_input = sum(file.stat().st_size for file in data.iterdir())
        (folder / "source.yaml").write_text(json.dumps(source), "utf-8")
        seconds, cpu, peak, summary = _run(folder / "source.yaml", home)
        if summary["read"] != rows:
            sys.exit(f"{summary['read']:,} rows were read where {rows:,} were made")
        sizes: dict[str, int] = {}
        for file in (file for file in home.rglob("*") if file.is_file()):
            part = file.relative_to(home)
            name = "online" if part.name.startswith("online.db") else part.parts[0]
            sizes[name] = sizes.get(name, 0) + file.stat().st_size
    return Result(rows, limit, seconds, cpu, peak, summary["seconds"], n_input, sizes)


def _run(source: Path, home: Path) -> tuple[float, float, float, dict[str, Any]]:
    """Run the command; its wall and processor seconds, peak memory in MB, and summary."""
    command: list[str | Path] = [ROOT / ".venv" / "bin" / "millrace", "run", "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    measured = clock(
        lambda: (
            subprocess.run(
                [*command, "--source", source, "--home", home],
                stdout=subprocess.PIPE,
                env={**os.environ, "MILLRACE_FEATURES": ""},
                check=True,
            ).stdout
        )
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    peak = after.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MB
    summary = json.loads(measured.made.splitlines()[-1])
    say(f"run: {measured.seconds:.1f} s, {peak:,.0f} MB, {summary['seconds']}")
    return measured.seconds, cpu, peak, summary


def _made(make: Callable[[Path, int], dict[str, Any]], data: Path, rows: int) -> Measured:
    return clock(lambda: make(data, rows))


def _limit(uri: str, out: Path) -> Measured:
    """Let Polars read the input and write it as zstd Parquet, which any pipeline must do."""
    import polars as pl

    read = pl.scan_parquet if uri.endswith(".parquet") else pl.scan_ndjson
    return clock(lambda: read(uri).sink_parquet(out, compression="zstd"), repeat=2)


def _commits() -> Any:
    import polars as pl

    shared = Path(os.environ.get("MILLRACE_SHARED") or ROOT.parent / "shared")
    files = sorted((shared / "data" / "commits").glob("*.zst"))
    if not files:
        sys.exit(f"{shared}: has no data/commits; set MILLRACE_SHARED to the folder that has")
    return pl.scan_ndjson(files, schema_overrides={"reverts_sha": pl.String})


def make_commits(data: Path, rows: int) -> dict[str, Any]:
    """Write the first commits as JSON lines; a commit becomes known when it is committed.

    `reverts_sha` is left out: it is null nearly everywhere, and Polars guesses types from few rows.
    """
    _commits().drop("reverts_sha").head(rows).sink_ndjson(
        data / "commits.jsonl.zst", compression="zstd"
    )
    known = {"column": "committed_at"}
    return {
        "name": "commits",
        "uri": str(data / "commits.jsonl.zst"),
        "known": known,
        "record": RECORD,
    }


def make_chat(data: Path, rows: int) -> dict[str, Any]:
    """Write the first lines of all messages, again and again, each time a week later."""
    import polars as pl

    line = pl.col("message").str.split("\n").list.first().str.slice(0, CHAT_LENGTH)
    lines = (
        _commits()
        .select(
            "commit_id",
            "author_id",
            "repo",
            pl.col("authored_at").str.to_datetime(time_zone="UTC"),
            message=line,
        )
        .filter(pl.col("message").str.strip_chars() != "")
        .collect()
    )
    copies = [
        lines.with_columns(
            pl.col("commit_id") + f"-{number}", pl.col("authored_at") + pl.duration(weeks=number)
        )
        for number in range(-(-rows // len(lines)))
    ]
    pl.concat(copies).head(rows).write_parquet(data / "chat.parquet", compression="zstd")
    return {
        "name": "chat",
        "uri": str(data / "chat.parquet"),
        "known": {"column": "authored_at"},
        "record": RECORD,
    }


CASES = {"commits": (make_commits, 142_938), "chat": (make_chat, CHAT_ROWS)}


def describe(results: dict[str, Result], load: float) -> str:
    """Lay out what was measured, on what, as Markdown."""
    command = " ".join([".venv/bin/python", "benchmarks/whole.py", *sys.argv[1:]])
    header = ["`millrace run`, defaults", "records", "seconds", "CPU seconds", "records/s"]
    times = [
        [
            name,
            f"{found.rows:,}",
            f"{found.seconds:.1f}",
            f"{found.cpu_seconds:.1f}",
            f"{found.rows / found.seconds:,.0f}",
            f"{found.peak_mb:,.0f}",
            f"{found.seconds / found.limit.seconds:.0f}",
        ]
        for name, found in results.items()
    ]
    stages = list(next(iter(results.values())).stages)
    shares = [
        [name, *(f"{found.stages[stage]:.1f}" for stage in stages)]
        for name, found in results.items()
    ]
    parts = ["raw", "staging", "features", "duplicates", "online"]
    disk = [
        [
            name,
            f"{found.n_input / MB:.1f}",
            *(f"{found.sizes.get(part, 0) / MB:.1f}" for part in parts),
            f"{found.n_home / MB:.1f}",
            f"{found.n_home / found.n_input:.1f}",
        ]
        for name, found in results.items()
    ]
    return "\n\n".join(
        [
            "## A run, whole",
            f"`{command}`",
            machine(load, LIBRARIES),
            table([*header, "peak MB", "x the limit"], times),
            table(["seconds", *stages], shares),
            table(["MB", "input", *parts, "home", "x the input"], disk),
            goal_table("whole", goals(results)),
        ]
    )


def goals(results: dict[str, Result]) -> list[Goal]:
    """Compare full cases with their goals (two cores)."""
    found = []
    for name, seconds in (("commits", 22), ("chat", 150)):
        if name in results:
            took = results[name].seconds
            found.append(Goal(f"{name}, s", f"{took:.1f}", f"<= {seconds}", took <= seconds))
    if "commits" in results:
        took = results["commits"].stages["materialize"]
        found.append(Goal("commits, materialize, s", f"{took:.1f}", "<= 2", took <= 2))
    if "chat" in results:
        chat = results["chat"]
        ratio, online = chat.n_home / chat.n_input, chat.sizes.get("online", 0) / MB
        found += [
            Goal("chat, home over its Parquet input", f"{ratio:.1f}", "<= 4", ratio <= 4),
            Goal("chat, online MB", f"{online:.1f}", "<= 50", online <= 50),
        ]
    return found


if __name__ == "__main__":
    sys.exit(main())
