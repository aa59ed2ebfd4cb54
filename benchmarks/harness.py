"""What the benchmarks share: fresh processes, clocks, peak memory, tables and the results page.

A case runs in a fresh process, so that its peak memory is its own, and its clock starts after its
imports. The process that starts it imports nothing heavy and takes only plain values back: on Linux
a child's peak begins at what its parent held.
"""

import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# which field of the records that ../shared/tools/expand.py makes is which
EXPANDED = {
    "record_id": "record_id",
    "author_id": "user_id",
    "subject_id": "source",
    "event_timestamp": "event_time",
    "text": "text",
    "label": "label",
}
PREAMBLE = """# Benchmarks

How fast, and how much memory, beside what the machine could do at best. `make bench` runs all of it
small and holds it against `benchmarks/floors.json`: exact counts, and ceilings with room for a
noisy machine.

"""


class Measured(NamedTuple):
    """What one process took; `made` is what it has to tell, as plain values."""

    seconds: float
    peak_mb: float
    made: Any = None


class Goal(NamedTuple):
    """One goal, what was reached, and whether that meets it."""

    name: str
    reached: str
    goal: str
    is_met: bool


class CaseFailedError(Exception):
    """A case ended with an error, or past its time limit."""


def in_fresh_process(
    case: Callable[..., Measured], *arguments: object, limit_seconds: float | None = None
) -> Measured:
    """Run a case in a fresh process; raises `CaseFailedError` if it fails or exceeds its limit."""
    context = get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(there, case, arguments))
    process.start()
    there.close()
    try:
        if not here.poll(limit_seconds):
            message = f"> {limit_seconds:.0f} s"
            raise CaseFailedError(message)
        measured: Measured | str = here.recv()
    except EOFError:
        measured = "killed"
    finally:
        process.kill()
        process.join()
    if isinstance(measured, str):
        raise CaseFailedError(measured)
    return measured


def _answer(
    there: Connection, case: Callable[..., Measured], arguments: tuple[object, ...]
) -> None:
    try:
        there.send(case(*arguments))
    except Exception as error:  # noqa: BLE001 - told to whoever asked
        there.send(f"{type(error).__name__}: {error}"[:300])


def clock(work: Callable[[], Any], repeat: int = 1) -> Measured:
    """Time work in this process, the best of some times, with the peak memory of the process."""
    seconds, made = [], None
    for _ in range(repeat):
        made = None
        start = time.perf_counter()
        made = work()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Measured(min(seconds), peak * (1 if sys.platform == "darwin" else 1024) / 1e6, made)


@contextmanager
def lend(folder: Path, name: str) -> Iterator[Path]:
    """Lend a new folder, removed at the end."""
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=folder) as lent:
        yield Path(lent)


def say(line: str) -> None:
    """Show that something is going on, beside the output."""
    print(line, file=sys.stderr, flush=True)


def machine(load: float, libraries: tuple[str, ...]) -> str:
    """Name what the numbers were measured on, and how busy it was before."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    versions = ", ".join(f"{name} {version(name)}" for name in libraries)
    day = datetime.now(UTC).date()
    hardware = (
        f"{platform.machine()}, {cores} cores, {memory:.0f} GB of memory, load {load:.1f} before "
        "the start"
    )
    return f"{day}, {hardware}; Python {platform.python_version()}, {versions}."


def goal_table(title: str, goals: list[Goal]) -> str:
    """Lay out what was reached beside what was asked for."""
    return table(
        [title, "reached", "goal", "met"],
        [[goal.name, goal.reached, goal.goal, "yes" if goal.is_met else "no"] for goal in goals],
    )


def table(header: list[str], rows: list[list[str]]) -> str:
    """Lay out a Markdown table, columns aligned so that it reads well as text too."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    ruler = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        for row in [header, ruler, *rows]
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write(page: Path, name: str, report: str) -> None:
    """Put a report between its markers in the page, or at its end; create the page if missing."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    text = page.read_text("utf-8") if page.exists() else PREAMBLE
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n"
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    page.write_text(f"{before}{begin}\n{report}\n{end}{after}", "utf-8")
