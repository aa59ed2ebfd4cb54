"""How fast duplicates are found, and how often what is found is right.

Speed: exact by the digests alone; near, the whole view `record_duplicates` from staged records, in
fresh processes. Accuracy: by the truth that the data tool keeps, and by the exact Jaccard
similarity of every pair of a sample.
"""

import argparse
import os
import shlex
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from harness import Goal, Measured, clock, goal_table, in_fresh_process, lend, machine, table, write
from pipeline import (
    TIMED,
    find_expand,
    generate,
    measure,
    open_home,
    positive,
    stage_ingest,
    stage_prepare,
)

ABOUT = """measure how fast duplicates are found; with --accuracy, how often that is right

Needs ../shared beside the project or MILLRACE_SHARED.
"""
EXAMPLES = """examples:
  benchmarks/duplicates.py --rows 1_000_000 4_000_000 --write docs/benchmarks.md
  benchmarks/duplicates.py --accuracy --write docs/accuracy.md
"""
LIBRARIES = ("polars", "duckdb", "numpy")
NEW_ROWS = 100_000
REPOST, NEAR = 2, 3
KINDS = {REPOST: "repost", NEAR: "near"}
SIMILARITY = 0.7
EDITS = {
    0: "none",
    1: "in lower case",
    2: "'RT @user: ' before it",
    3: "'!!' after it",
    4: "every blank doubled",
    5: "every digit a 7",
    6: "cut to nine tenths",
}
BATCH_ROWS = 50_000


class Result(NamedTuple):
    """The view over `rows` records, and over the new ones after them."""

    rows: int
    exact: Measured
    whole: Measured
    new: Measured


def main() -> int:
    """Measure the one or the other."""
    parser = argparse.ArgumentParser(
        description=ABOUT, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows",
        type=positive,
        nargs="+",
        default=[1_000_000],
        metavar="N",
        help="records (1_000_000); each N is one run",
    )
    parser.add_argument(
        "--new",
        type=positive,
        default=NEW_ROWS,
        metavar="N",
        help=f"records that come after them ({NEW_ROWS:,})",
    )
    parser.add_argument(
        "--accuracy",
        action="store_true",
        help="how often what is found is right, of the first N records",
    )
    parser.add_argument(
        "--sample",
        type=positive,
        default=4_000,
        metavar="N",
        help="records compared pair by pair (4_000)",
    )
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="put the tables into this Markdown page"
    )
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    command = f"`{shlex.join(['.venv/bin/python', 'benchmarks/duplicates.py', *sys.argv[1:]])}`"
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        parts = (
            accuracy(Path(folder), arguments.rows[0], arguments.sample)
            if arguments.accuracy
            else speed(
                [run(Path(folder), rows, arguments.new) for rows in arguments.rows], arguments.new
            )
        )
    report = "\n\n".join(["## Duplicates", command, machine(load, LIBRARIES), *parts])
    print(report)
    if arguments.write:
        write(arguments.write, "duplicates", report)
    return 0


# --- speed ---


def run(folder: Path, rows: int, new: int) -> Result:
    """Stage the records, make the view, let the new ones come, make it again."""
    with lend(folder, "made") as made, lend(folder, "data") as data, lend(folder, "home") as home:
        generate(find_expand(), made, "--rows", str(rows + new), "--chunk", str(new), *TIMED)
        *base, last = sorted(made.glob("*.jsonl"))
        for file in base:
            shutil.move(file, data)
        exact = measure(stage_exact, data, home)
        stage(data, home)
        whole = measure(stage_duplicates, data, home)
        shutil.move(last, data)
        stage(data, home)
        return Result(rows, exact, whole, measure(stage_duplicates, data, home))


def stage(data: Path, home: Path) -> None:
    """Bring what came as far as staging."""
    for step in (stage_ingest, stage_prepare):
        measure(step, data, home)


def stage_exact(data: Path, _home: Path) -> Measured:
    """Tell which texts were there before, in their normal form."""
    import polars as pl

    from transforms.text.duplicates import digest_contents, normalise

    texts = (
        pl.scan_ndjson(sorted(data.glob("*.jsonl")))
        .select("text")
        .filter(pl.col("text") != "")
        .collect()
    )

    def work() -> dict[str, int]:
        batches = texts.iter_slices(BATCH_ROWS)
        contents = pl.concat(
            [
                digest_contents(batch.select(normalise(pl.col("text"))).to_series())
                for batch in batches
            ]
        )
        return {"rows": texts.height, "duplicates": int((~contents.is_first_distinct()).sum())}

    return clock(work)


def stage_duplicates(data: Path, home: Path) -> Measured:
    """staging -> record_duplicates, and no other view."""
    from transforms.features.build import compute_views
    from transforms.features.registry import view_of

    duplicates = view_of("record_duplicates")
    _, warehouse = open_home(data, home)
    return clock(
        lambda: {
            view: tuple(rows)
            for view, rows in compute_views([duplicates], warehouse, datetime.now(UTC)).items()
        }
    )


def speed(results: list[Result], new: int) -> list[str]:
    """Lay out what was measured, then the goals: those of a million records on two quiet cores."""
    rows = [
        [
            f"{result.rows:,}",
            f"{result.exact.made['rows'] / result.exact.seconds:,.0f}",
            f"{result.whole.seconds:.1f}",
            f"{result.rows / result.whole.seconds:,.0f}",
            f"{result.whole.peak_mb:,.0f}",
            f"{result.new.seconds:.1f}",
            f"{result.new.peak_mb:,.0f}",
        ]
        for result in results
    ]
    head = [
        "records",
        "exact, records/s",
        "near, s",
        "near, records/s",
        "peak MB",
        f"{new:,} more, s",
        "peak MB of these",
    ]
    first = results[0]
    exact = first.exact.made["rows"] / first.exact.seconds
    peak = max(first.whole.peak_mb, first.new.peak_mb)
    goals = [
        Goal("exact, records/s", f"{exact:,.0f}", ">= 400,000", exact >= 400_000),
        Goal(
            f"near, {first.rows:,} records, s",
            f"{first.whole.seconds:.1f}",
            "<= 12",
            first.whole.seconds <= 12,
        ),
        Goal("peak MB", f"{peak:,.0f}", "<= 4,000", peak <= 4_000),
        Goal(
            f"{new:,} against {first.rows:,}, s",
            f"{first.new.seconds:.1f}",
            "<= 10",
            first.new.seconds <= 10,
        ),
    ]
    return [table(head, rows), goal_table("duplicates", goals)]


# --- accuracy ---


def accuracy(folder: Path, rows: int, sample: int) -> list[str]:
    """By the truth of the data tool over all records; by every pair of the sample."""
    parts = []
    with lend(folder, "data") as data, lend(folder, "home") as home:
        generate(
            find_expand(), data, "--rows", str(rows), "--chunk", str(min(rows, NEW_ROWS)), *TIMED
        )
        stage(data, home)
        measure(stage_duplicates, data, home)
        parts += by_truth(in_fresh_process(read_truth, data, home).made)
    with lend(folder, "data") as data, lend(folder, "home") as home:
        generate(
            find_expand(),
            data,
            "--rows",
            str(sample),
            "--chunk",
            str(sample),
            "--repost",
            "0.05",
            "--near",
            "0.2",
            *TIMED,
        )
        stage(data, home)
        measure(stage_duplicates, data, home)
        parts += by_pairs(in_fresh_process(read_pairs, data, home).made)
    return parts


def read_truth(data: Path, home: Path) -> Measured:
    """Count the derived records that are marked, and those in the cluster of their original."""
    import polars as pl

    truth = pl.read_parquet(data / "_truth" / "*.parquet").filter(
        pl.col("kind").is_in(list(KINDS)), pl.col("bad") == 0
    )
    documents = pl.read_delta(str(home / "duplicates" / "documents")).sort(
        "event_timestamp", "created_timestamp"
    )
    first = documents.unique("record_id", keep="first").select(
        "record_id", "root_id", "origin_id", "event_timestamp"
    )
    staged = pl.read_delta(
        str(home / "staging" / "records"), columns=["record_id", "known_timestamp", "text"]
    ).sort("known_timestamp")
    first = first.join(staged.unique("record_id", keep="first"), on="record_id")
    made = (
        truth.select(
            "kind",
            "edit",
            record_id=pl.format("r{}", "record_id"),
            source=pl.format("r{}", "src_id"),
        )
        .join(first, on="record_id")
        .join(first, left_on="source", right_on="record_id", suffix="_source")
        .filter(pl.col("event_timestamp") > pl.col("event_timestamp_source"))
    )
    likeness = [
        jaccard(shingles(mine), shingles(other))
        for mine, other in made.select("text", "text_source").iter_rows()
    ]
    is_marked = pl.col("origin_id") != pl.col("record_id")
    is_alike = pl.col("likeness") >= SIMILARITY
    counted = (
        made.with_columns(likeness=pl.Series(likeness))
        .group_by("kind", "edit")
        .agg(
            pl.len(),
            marked=is_marked.sum(),
            joined=(pl.col("root_id") == pl.col("root_id_source")).sum(),
            alike=is_alike.sum(),
            alike_marked=(is_alike & is_marked).sum(),
        )
    )
    return Measured(0, 0, counted.sort("kind", "edit").rows())


def by_truth(rows: list[tuple[int, ...]]) -> list[str]:
    """Lay out the recall of what the tool made."""
    near = [row for row in rows if row[0] == NEAR]
    lines = [truth_row(KINDS[row[0]], EDITS[row[1]], row[2:]) for row in rows]
    lines.append(
        truth_row(KINDS[NEAR], "all", [sum(row[place] for row in near) for place in range(2, 7)])
    )
    text = (
        "Records that the data tool made from an earlier record of another user: how many are "
        "marked, how many are of its cluster, how "
        f"many are a near-duplicate by the exact Jaccard similarity of the two ({SIMILARITY} "
        "or more), and of these, how many are marked."
    )
    return [
        text,
        table(
            ["made as", "edit", "records", "marked", "of its cluster", "alike", "alike and marked"],
            lines,
        ),
    ]


def truth_row(kind: str, edit: str, counts: Sequence[int]) -> list[str]:
    """Lay out one way to make a copy."""
    n, marked, joined, alike, alike_marked = counts
    return [
        kind,
        edit,
        f"{n:,}",
        f"{marked / n:.3f}",
        f"{joined / n:.3f}",
        f"{alike / n:.3f}",
        f"{alike_marked / max(alike, 1):.3f}",
    ]


def read_pairs(_data: Path, home: Path) -> Measured:
    """Compare the marks with the exact Jaccard similarity of each first text with earlier ones."""
    import polars as pl

    order = ["effective_timestamp", "record_id"]
    staged = pl.read_delta(str(home / "staging" / "records")).with_columns(
        effective_timestamp=pl.max_horizontal("event_timestamp", "known_timestamp")
    )
    first = staged.sort(order).unique("record_id", keep="first", maintain_order=True)
    view = pl.read_delta(str(home / "features" / "record_duplicates")).sort("event_timestamp")
    marks = view.unique("record_id", keep="first").select(
        "record_id", "is_duplicate", "dup_similarity"
    )
    rows = first.join(marks, on="record_id", maintain_order="left")
    best, all_shingles = [], [shingles(text) for text in rows["text"]]
    for place, mine in enumerate(all_shingles):
        best.append(max((jaccard(mine, other) for other in all_shingles[:place]), default=0.0))
    judged = rows.select("is_duplicate", "dup_similarity").with_columns(exact=pl.Series(best))
    bands = [0.0, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.01]
    counted = []
    for least, most in pairwise(bands):
        within = judged.filter(pl.col("exact").is_between(least, most, closed="left"))
        counted.append((least, min(most, 1.0), within.height, int(within["is_duplicate"].sum())))
    return Measured(0, 0, counted)


def shingles(text: str) -> frozenset[str]:
    """The runs of five letters, digits and blanks, in plain Python."""
    normal = unicodedata.normalize("NFKC", text).lower()
    words = "".join(
        char if unicodedata.category(char)[0] in "LMN" else " " for char in normal
    ).split()
    joined = " ".join(words)
    return (
        frozenset(joined[start : start + 5] for start in range(max(len(joined) - 4, 1)))
        if joined
        else frozenset()
    )


def jaccard(mine: frozenset[str], other: frozenset[str]) -> float:
    """Tell how like two sets are; 0 at once where their sizes rule out a half."""
    if not mine or not other or not 0.5 <= len(mine) / len(other) <= 2:
        return 0.0
    n_common = len(mine & other)
    return n_common / (len(mine) + len(other) - n_common)


def by_pairs(rows: list[Any]) -> list[str]:
    """Lay out the marks by the exact similarity; then recall and precision at 0.7."""
    lines = [
        [f"{least:.2f} to {most:.2f}", f"{n:,}", f"{marked:,}", f"{marked / n:.3f}" if n else ""]
        for least, most, n, marked in rows
    ]
    alike = [sum(row[place] for row in rows if row[0] >= SIMILARITY) for place in (2, 3)]
    n_marked = sum(row[3] for row in rows)
    close = sum(row[3] for row in rows if row[0] >= 0.65)
    recall, right, nearly = alike[1] / alike[0], alike[1] / n_marked, close / n_marked
    text = (
        f"Every record of a sample ({sum(row[2] for row in rows):,} records) beside all "
        "before it, by the greatest exact Jaccard "
        f"similarity. Of those with {SIMILARITY} or more {recall:.3f} are marked (recall); of "
        f"the marked {right:.3f} have {SIMILARITY} or "
        f"more, and {nearly:.3f} have 0.65 (precision)."
    )
    return [text, table(["most alike", "records", "marked", "share"], lines)]


if __name__ == "__main__":
    sys.exit(main())
