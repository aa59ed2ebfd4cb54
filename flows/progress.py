"""Progress of long work: rows and bytes per stage, on a terminal only, after two seconds."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from transforms.warehouse.tables import Report, silent

QUIET_SECONDS = 2.0


@contextmanager
def show_progress() -> Iterator[Report]:
    """Yield the function to report to; nothing is shown if standard error is not a terminal."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.fields[done]}"),
        TimeElapsedColumn(),
    )
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    tasks = {}
    start = time.monotonic()
    amounts: dict[str, tuple[int, int]] = {}

    def report(relation: str, rows: int, n_bytes: int) -> None:
        so_far = amounts.get(relation, (0, 0))
        amounts[relation] = (so_far[0] + rows, so_far[1] + n_bytes)
        if time.monotonic() - start < QUIET_SECONDS:
            return
        progress.start()
        if relation not in tasks:
            tasks[relation] = progress.add_task(relation, total=None, done="")
        total_rows, total_bytes = amounts[relation]
        progress.update(
            tasks[relation], done=f"{total_rows:>12,} rows {total_bytes / 1e6:>9,.1f} MB"
        )

    try:
        yield report
    finally:
        progress.stop()
