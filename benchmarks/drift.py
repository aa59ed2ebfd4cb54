"""The tables of docs/drift.md: how often drift warns falsely, and how small a shift it finds."""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import yaml
from harness import ROOT, table, write

from transforms.home import Settings
from transforms.profiles.drift import EARLIER_LOADS, judge
from transforms.schemas.raw import RawRecord
from transforms.sources.source import Source, load_source
from transforms.staging.prepare import prepare
from transforms.warehouse.publishing import publish
from transforms.warehouse.tables import Warehouse

PREAMBLE = "# Profiles and drift\n"
START = datetime(2026, 1, 1, tzinfo=UTC)
SHARES = (0.05, 0.1, 0.2, 0.5, 1.0)
SEEDS = (101, 102, 103)
DAYS = 120
ABOUT = """count the loads that warn, of days as they are and of days with a planted shift

The commits and the data tool are read from ../shared beside the project, or the folder in
MILLRACE_SHARED; without it they are left out.
"""
EXPANDED = {
    "name": "expanded",
    "known": {"column": "ingested_at"},
    "record": {
        "record_id": "record_id",
        "author_id": "user_id",
        "event_timestamp": "event_time",
        "text": "text",
        "label": "label",
    },
}
SEEDED = {
    "commits": (
        "data/commits/*.zst,text=message,entity=author_id,label=repo,time=authored_at",
        100_000,
    ),
    "CVE texts": (
        "data/cve_events/*.zst,text=text,entity=assigner,label=ssvc_exploitation,time=ingested_at",
        60_000,
    ),
}
Rows = pl.DataFrame
SENTENCE = (
    " This advisory was written by an automated service; kindly contact its operator for further "
    "assistance."
)
VERBS = ("speichert", "verliert", "veröffentlicht", "überschreibt")


class Stream(NamedTuple):
    """Loads of one source, in order of arrival; shifts are planted into the field `text`."""

    name: str
    document: dict[str, Any]
    loads: list[Rows]
    text: str


class Judged(NamedTuple):
    """What became of a stream: its source, the profiles of its loads, and their drift."""

    source: Source
    profiles: pl.DataFrame
    drift: pl.DataFrame


def main() -> int:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="the sample only")
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="put the tables into this Markdown page, e.g. docs/drift.md",
    )
    arguments = parser.parse_args()
    shared = Path(os.environ.get("MILLRACE_SHARED") or ROOT.parent / "shared")
    streams = [
        *of_the_sample(),
        *([] if arguments.small or not shared.is_dir() else of_shared(shared)),
    ]
    quiet, planted = [], []
    for stream, is_planted in streams:
        judged = run(stream.document, stream.loads)
        quiet.append(count_alarms(stream.name, judged))
        print("|", " | ".join(quiet[-1]), "|", file=sys.stderr, flush=True)
        planted += count_caught(stream, judged) if is_planted else []
    head = ["loads", "looked at", "rows a load", "warned", "share", "in a row"]
    report = (
        table(head, quiet)
        + "\n\n"
        + table(["planted into", "what", *(f"{share:.0%} of texts" for share in SHARES)], planted)
    )
    print(report)
    if arguments.write:
        write(arguments.write, "drift", report)
    return 0


def of_the_sample() -> Iterator[tuple[Stream, bool]]:
    """The sample's days as they are, and its rows reshuffled to days of the same or other sizes."""
    document = yaml.safe_load((ROOT / "sources" / "cve_events.yaml").read_text("utf-8"))
    files = sorted((ROOT / "sources" / "data" / "cve_events").glob("*.jsonl.zst"))
    days = [pl.read_ndjson(file, infer_schema_length=None) for file in files]
    yield Stream("sample, day by day", document, days, "text"), True
    rows = pl.concat(days, how="diagonal_relaxed")
    for seed in SEEDS:
        yield (
            Stream(
                f"sample, rows dealt to its days, {seed}",
                document,
                deal(rows, [day.height for day in days], seed),
                "text",
            ),
            False,
        )
    for seed in SEEDS:
        yield (
            Stream(
                f"sample, rows dealt to other days, {seed}",
                document,
                deal(rows, sizes(rows.height, 5.2, seed), seed),
                "text",
            ),
            False,
        )


def of_shared(shared: Path) -> Iterator[tuple[Stream, bool]]:
    """Loads of what the data tool makes, and real commits by month, by year and dealt."""
    for name, (seed, n_rows) in SEEDED.items():
        rows = expanded(shared, f"seed={shared}/{seed}", n_rows)
        yield (
            Stream(
                f"expand.py of {name}, day by day",
                EXPANDED,
                by(rows, pl.col("ingested_at").str.slice(0, 10)),
                "text",
            ),
            True,
        )
    document = yaml.safe_load((ROOT / "tests" / "sources" / "commits.yaml").read_text("utf-8"))
    files = sorted((shared / "data" / "commits").glob("*.jsonl.zst"))
    names = {field for file in files for field in pl.read_ndjson(file, n_rows=1).columns}
    commits = pl.concat(
        [pl.read_ndjson(file, schema=dict.fromkeys(sorted(names), pl.String)) for file in files]
    ).sort("committed_at")
    month = pl.col("committed_at").str.slice(0, 7)
    for repo in commits["repo"].unique().sort():
        yield (
            Stream(
                f"commits of {repo}, by month",
                document,
                by(commits.filter(repo=repo), month),
                "message",
            ),
            repo == "curl/curl",
        )
    yield Stream("commits, by month", document, by(commits, month), "message"), False
    yield (
        Stream(
            "commits, by year",
            document,
            by(commits, pl.col("committed_at").str.slice(0, 4)),
            "message",
        ),
        False,
    )
    for seed in SEEDS[:1]:
        yield (
            Stream(
                f"commits, dealt, {seed}",
                document,
                deal(commits, sizes(60_000, 5.8, seed), seed),
                "message",
            ),
            False,
        )


def expanded(shared: Path, seed: str, n_rows: int) -> Rows:
    """Make rows with the data tool, and read them as text."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        tool = [
            sys.executable,
            shared / "tools" / "expand.py",
            "--badline",
            "0",
            "--days",
            str(DAYS),
        ]
        subprocess.run(
            [*tool, "--rows", str(n_rows), "--out", out, "--seed", seed],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        names = ("record_id", "user_id", "label", "event_time", "ingested_at", "text")
        return pl.concat(
            [
                pl.read_ndjson(file, schema=dict.fromkeys(names, pl.String))
                for file in sorted(out.glob("*.jsonl"))
            ]
        )


def by(rows: Rows, period: pl.Expr) -> list[Rows]:
    return (
        rows.sort(period)
        .with_columns(period_=period)
        .partition_by("period_", maintain_order=True, include_key=False)
    )


def deal(rows: Rows, heights: Sequence[int], seed: int) -> list[Rows]:
    """Deal rows to loads of given heights at random, so that loads differ only by chance."""
    shuffled, ends = rows.sample(fraction=1, shuffle=True, seed=seed), np.cumsum([0, *heights])
    return [shuffled[int(start) : int(end)] for start, end in itertools.pairwise(ends)]


def sizes(n_rows: int, middle: float, seed: int) -> list[int]:
    """Draw heights of loads, from 20 rows to thousands, that together are at most so many rows."""
    drawn = np.maximum(20, np.exp(np.random.default_rng(seed).normal(middle, 1.3, 400))).astype(int)
    return [int(height) for height in drawn[np.cumsum(drawn) <= n_rows]][:200]


def run(document: dict[str, Any], loads: Sequence[Rows]) -> Judged:
    """Stage loads in a home of their own, each judged by those before it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "source.yaml"
        path.write_text(yaml.safe_dump(document), "utf-8")
        source, warehouse = load_source(path), Warehouse(Settings(home=Path(folder) / "home"))
        # as ingest of one file after the other, but in one commit
        publish(
            warehouse,
            RawRecord,
            (raw(source, number, rows) for number, rows in enumerate(loads)),
            {},
        )
        prepare(source, warehouse)
        profiles, drift = (
            pl.read_delta(str(warehouse.folder(f"profiles.{name}")))
            for name in ("columns", "drift")
        )
    return Judged(
        source,
        profiles.sort("loaded_timestamp", "column"),
        drift.sort("loaded_timestamp", "column", "statistic"),
    )


def raw(source: Source, number: int, rows: Rows) -> pa.RecordBatch:
    """Write a load's rows as raw has them."""
    uri, loaded = f"file:///{number:04}.jsonl", START + timedelta(days=number)
    same = {
        "load_id": f"{loaded:%Y%m%dT%H%M%S%f}-0000",
        "source": source.name,
        "source_uri": uri,
        "header": None,
        "loaded_timestamp": loaded,
    }
    payload = [
        json.dumps({name: value for name, value in row.items() if value is not None}).encode()
        for row in rows.to_dicts()
    ]
    values = [{**same, "row_number": place, "payload": row} for place, row in enumerate(payload, 1)]
    return pa.RecordBatch.from_pylist(values, schema=RawRecord.arrow_schema())


def count_alarms(name: str, judged: Judged) -> list[str]:
    """Count the loads that were judged, those that warned, and runs of consecutive warnings."""
    loads = judged.drift.group_by("load_id", maintain_order=True).agg(pl.col("verdict").unique())
    told = loads.filter(pl.col("verdict").list.set_difference(["no_reference"]).list.len() > 0)
    warned = told["verdict"].list.contains("warn").to_numpy()
    rows = judged.profiles.filter(column="outcome")["n_rows"]
    in_a_row = int(np.sum(warned[1:] & warned[:-1]))
    share = f"{warned.mean():.1%}"
    return [
        name,
        f"{len(warned):,}",
        f"{rows.min():,} to {rows.max():,}",
        f"{int(warned.sum())}",
        share,
        f"{in_a_row}",
    ]


def german(text: str, number: int) -> str:
    del text
    verb = VERBS[number % 4]
    return (
        f"Das Gerät {verb} die Einstellungen nicht, wenn der Benutzer {number} Fenster öffnet und "
        "die Anwendung danach schließt."
    )


SHIFTS: dict[str, Callable[[str, int], str]] = {
    "German text": german,
    "a sentence appended": lambda text, _: text + SENTENCE,
    "text doubled": lambda text, _: f"{text} {text}",
}


def count_caught(stream: Stream, judged: Judged) -> list[list[str]]:
    """Plant each shift into a tenth of the loads with 100 rows or more; count those that warn."""
    chosen = [
        number for number, rows in enumerate(stream.loads) if number >= 28 and rows.height >= 100
    ]
    chosen = chosen[:: max(1, len(chosen) // 16)][:16]
    found = []
    for what, shift in SHIFTS.items():
        planted = [
            alter(stream.loads[number], stream.text, shift, share)
            for share in SHARES
            for number in chosen
        ]
        profiles = run(stream.document, planted).profiles.partition_by(
            "load_id", maintain_order=True
        )
        caught = [
            is_caught(profile, number, judged)
            for profile, number in zip(profiles, chosen * len(SHARES), strict=True)
        ]
        n = len(chosen)
        counts = [f"{sum(caught[place : place + n])} of {n}" for place in range(0, len(caught), n)]
        found.append([stream.name, what, *counts])
        print("|", " | ".join(found[-1]), "|", file=sys.stderr, flush=True)
    return found


def alter(rows: Rows, text: str, shift: Callable[[str, int], str], share: float) -> Rows:
    """Shift a share of the texts, evenly."""
    texts = [
        shift(value, number) if value and (number * share) % 1 < share else value
        for number, value in enumerate(rows[text].to_list())
    ]
    return rows.with_columns(pl.Series(text, texts, dtype=pl.String))


def is_caught(profile: pl.DataFrame, number: int, judged: Judged) -> bool:
    """Judge an altered load in place of the original, leaving out what needs earlier loads."""
    loads = judged.profiles["load_id"].unique(maintain_order=True)
    window = judged.profiles.filter(
        pl.col("load_id").is_in(loads[max(0, number - 28) : number].implode())
    )
    measured = judged.drift.filter(
        pl.col("load_id").is_in(loads[max(0, number - EARLIER_LOADS) : number].implode())
    ).drop_nulls("value")
    earlier = measured.join(
        judged.profiles.select("load_id", "column", "n_rows"), on=["load_id", "column"]
    )
    return (
        "warn"
        in judge(
            profile.filter(pl.col("column") != "outcome"), window, earlier, judged.source.drift
        )["verdict"]
    )


if __name__ == "__main__":
    raise SystemExit(main())
