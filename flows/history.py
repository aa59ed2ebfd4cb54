"""How long past runs of a home took, and when the rows of its sources could be known.

`plan` and `backfill` estimate from the former how long the next run takes.
"""

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from transforms.home import replace_file
from transforms.replica import replica_of
from transforms.sources.source import Source

STAGES = ("ingest", "prepare", "featurize", "materialize")


class Rate(NamedTuple):
    """What a stage took, over all runs of a home that had rows for it."""

    rows: int
    seconds: float

    def estimate(self, rows: int) -> float:
        """Estimate the seconds that so many rows take."""
        return rows * self.seconds / self.rows


def history_path(home: Path) -> Path:
    """Return the path of a home's history, a file of JSON lines."""
    return home / "runs.jsonl"


def note_run(
    home: Path, rows: dict[str, int], seconds: dict[str, float], online_bytes: int | None = None
) -> None:
    """Add a run's rows and seconds by stage, and what the online store takes after it."""
    ended = datetime.now(UTC).isoformat()
    line = json.dumps(
        {"rows": rows, "seconds": seconds, "ended": ended, "online_bytes": online_bytes}
    )
    with history_path(home).open("a", encoding="utf-8") as file:
        file.write(
            f"\n{line}"
        )  # the line feed comes first: a line that a kill tore spoils no other
    if there := replica_of(home):
        there.put(history_path(home))


def note_source(home: Path, source: Source) -> None:
    """Record when the rows of a source could be known, for the catalogue."""
    path = home / "sources.json"
    replace_file(
        path,
        json.dumps({**read_sources(home), source.name: source.known_in_words}, indent=2).encode(),
    )


def read_sources(home: Path) -> dict[str, str]:
    """Read when the rows of each source that was ever run could be known, in words."""
    path = home / "sources.json"
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def read_rates(home: Path) -> dict[str, Rate]:
    """Read how long each stage took over all past runs; incomplete lines are skipped."""
    rates: dict[str, Rate] = {}
    for run in read_runs(home):
        with contextlib.suppress(KeyError):
            for stage in (stage for stage, n_rows in run["rows"].items() if n_rows):
                before = rates.get(stage, Rate(0, 0.0))
                rates[stage] = Rate(
                    before.rows + run["rows"][stage], before.seconds + run["seconds"][stage]
                )
    return rates


def online_bytes_before(home: Path, instant: datetime) -> int | None:
    """Return what the online store took after the last run before an instant; 0 before the first.

    None where that was not recorded.
    """
    before, runs = {"online_bytes": 0}, list(read_runs(home))
    for run in runs:
        if "ended" in run and datetime.fromisoformat(run["ended"]) >= instant:
            break
        before = run
    found = before.get("online_bytes") if runs else None
    return None if found is None else int(found)


def read_runs(home: Path) -> Iterator[dict[str, Any]]:
    """Read the past runs, the oldest first; incomplete lines are skipped."""
    path = history_path(home)
    for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError):
            yield json.loads(line)


def price(rates: dict[str, Rate], stage: str, rows: int) -> str:
    """Estimate how long a stage takes for so many rows, in words.

    >>> price({"ingest": Rate(rows=1000, seconds=2.0)}, "ingest", 500)
    'about 1.0 s'
    """
    return (
        f"about {rates[stage].estimate(rows):,.1f} s"
        if stage in rates
        else "seconds unknown: no run was measured here yet"
    )
