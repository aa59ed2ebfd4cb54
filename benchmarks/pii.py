"""How fast identifiers are redacted, beside the same patterns by Python's `re`, row by row."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness import Goal, Measured, clock, goal_table, in_fresh_process, machine, table, write
from pipeline import TIMED, find_expand, generate, positive

GOAL = 400_000
PEER_ROWS = 20_000
N_DIGITS = 10_000_000
REPEAT = 3
ABOUT = """measure the redaction on both cores (Polars streaming), on one batch, with its counts,
and beside Python's re row by row

Needs the data tool and the commits it starts from: ../shared beside the project, or the folder in
MILLRACE_SHARED.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=positive, default=1_000_000, metavar="N", help="records (1_000_000)"
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="put the tables into this Markdown page, e.g. docs/benchmarks.md",
    )
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder:
        data = Path(folder)
        rows = generate(
            find_expand(),
            data,
            "--rows",
            str(arguments.rows),
            "--chunk",
            str(min(200_000, arguments.rows)),
            *TIMED,
        )
        cases = (redact_streaming, redact_batch, count_streaming, redact_rows)
        measured = {case.__name__: in_fresh_process(case, data) for case in cases}
    report = describe(measured, rows, in_fresh_process(redact_digits), load)
    print(report)
    if arguments.write:
        write(arguments.write, "pii_speed", report)
    return 0


def describe(measured: dict[str, Measured], rows: int, hostile: Measured, load: float) -> str:
    """Write down what was measured."""
    names = {
        "redact_streaming": "redact, streaming",
        "count_streaming": "redact and count, streaming",
        "redact_batch": "redact, one batch, one thread",
        "redact_rows": f"the same patterns by `re`, row by row ({min(rows, PEER_ROWS):,})",
    }
    n_rows = {name: min(rows, PEER_ROWS) if name == "redact_rows" else rows for name in names}
    a_core = {name: n_rows[name] / measured[name].made for name in names}
    lines = [
        [
            label,
            f"{measured[name].seconds:.2f}",
            f"{n_rows[name] / measured[name].seconds:,.0f}",
            f"{a_core[name]:,.0f}",
            f"{a_core[name] / a_core['redact_rows']:.0f}",
            f"{measured[name].peak_mb:,.0f}",
        ]
        for name, label in names.items()
    ]
    reached = rows / measured["redact_streaming"].seconds
    goals = [Goal("redaction, records/s", f"{reached:,.0f}", f">= {GOAL:,}", reached >= GOAL)]
    return "\n\n".join(
        [
            "## Redaction",
            (
                f"`.venv/bin/python benchmarks/pii.py --rows {rows:_}`; the best of {REPEAT}, "
                "texts in memory."
            ),
            machine(load, ("polars",)),
            table(
                [
                    f"{rows:,} records",
                    "seconds",
                    "records/s",
                    "records per CPU-second",
                    "x `re`",
                    "peak MB",
                ],
                lines,
            ),
            goal_table("", goals),
            f"One text of {N_DIGITS:,} digits takes {hostile.seconds:.2f} s.",
        ]
    )


def read(data: Path):  # noqa: ANN201 - Polars is imported in the case's own process
    """Read the texts."""
    import polars as pl

    return pl.concat(
        [pl.read_ndjson(path, schema={"text": pl.String}) for path in sorted(data.glob("*.jsonl"))],
        rechunk=True,
    )


def redact_streaming(data: Path) -> Measured:
    """Polars' streaming engine, on all cores."""
    import polars as pl

    from transforms.text.pii import redact

    texts = read(data)
    return timed(lambda: texts.lazy().select(redact(pl.col("text"))).collect(engine="streaming"))


def redact_batch(data: Path) -> Measured:
    """One batch in this thread."""
    import polars as pl

    from transforms.text.pii import redact

    texts = read(data)
    return timed(lambda: texts.select(redact(pl.col("text"))))


def count_streaming(data: Path) -> Measured:
    """The features."""
    from datetime import UTC, datetime

    import polars as pl

    from transforms.text.pii import score_pii

    instant = pl.lit(datetime(2026, 1, 1, tzinfo=UTC), pl.Datetime("us", "UTC"))
    records = read(data).with_columns(
        record_id=pl.lit("r"), event_timestamp=instant, created_timestamp=instant
    )
    return timed(lambda: score_pii(records.lazy()).collect(engine="streaming"))


def redact_rows(data: Path) -> Measured:
    """What one would write first: every pattern on every row."""
    import re

    from transforms.text.pii import EMAIL_ADDRESS, RULES

    texts = read(data)["text"].head(PEER_ROWS).drop_nulls().to_list()
    email = re.compile(EMAIL_ADDRESS, re.ASCII)

    def redacted(text: str) -> str:
        text = email.sub("<EMAIL_ADDRESS>", text)
        for rule in RULES:
            text = rule.redact(text)
        return text

    return timed(lambda: [redacted(text) for text in texts], 1)


def redact_digits() -> Measured:
    """A text made to take long."""
    from transforms.text.pii import mask

    return timed(lambda: mask(["7" * N_DIGITS]), 1)


def timed(work: Callable[[], object], repeat: int = REPEAT) -> Measured:
    """Return the least CPU-seconds of some runs, which a busy machine affects less."""
    seconds = []

    def once() -> None:
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)

    return clock(once, repeat)._replace(made=min(seconds))


if __name__ == "__main__":
    sys.exit(main())
