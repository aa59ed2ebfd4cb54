"""A generated stream of rows known to be good or bad: exactly the bad ones are quarantined."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest

from benchmarks.harness import EXPANDED
from transforms.home import Settings
from transforms.sources.ingest import ingest
from transforms.sources.source import Source
from transforms.staging.accounting import recount
from transforms.staging.prepare import Account, prepare
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

MakeSource = Callable[..., Source]
Place = tuple[str, int]

N_ROWS = 20_000
# as the generator numbers them: 1 and up for broken lines, 100 and up for broken values
LINES = {
    1: "payload:not_json",  # truncated
    2: "payload:not_utf8",
    3: "payload:not_json",  # unescaped quote
    4: "payload:not_json",  # raw line feed
    5: "payload:blank_line",
    6: "payload:not_json",  # HTML page
    7: "payload:not_json",  # NUL byte
    8: "payload:not_json",  # two on one line
    9: "payload:not_json",  # huge text that is never closed
    10: "payload:not_json",  # conflict markers
}
VALUES = {
    100: "record_id:not_nullable",
    101: "event_timestamp:not_a_time",  # 0000-00-00 00:00
    102: "event_timestamp:beyond_tomorrow",  # year 5138
    103: "event_timestamp:not_after_1970",
    104: "text:empty",
    105: "event_timestamp:epoch_without_unit",  # epoch milliseconds
    106: "event_timestamp:not_a_time",  # date in US order
    107: "author_id:not_nullable",
}
LINES_OF_A_ROW = {4: 2, 10: 5}  # a raw line feed makes two lines of a row, conflict markers five


class Stream(NamedTuple):
    """The generated files, and what is true of each of their lines: the rule it breaks, or None."""

    folder: Path
    truth: dict[Place, str | None]


def lines_of(bad: int) -> list[str | None]:
    return [{**LINES, **VALUES}.get(bad)] * LINES_OF_A_ROW.get(bad, 1)


def truth_of(folder: Path) -> Iterator[tuple[Place, str | None]]:
    for part in sorted((folder / "_truth").glob("*.parquet")):
        truth = pl.read_parquet(part).sort("row")
        rules = [rule for bad in truth["bad"] for rule in lines_of(bad)]
        yield from (
            ((f"{part.stem}.jsonl", number), rule) for number, rule in enumerate(rules, start=1)
        )


@pytest.fixture(scope="module")
def stream(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Stream:
    """Generate two files, with more bad rows than the generator makes by default."""
    folder = tmp_path_factory.mktemp("truth") / "stream"
    columns = "text=message,entity=author_id,label=repo,time=authored_at"
    seed = f"commits={shared}/data/commits/*.zst,{columns}"
    sizes = [
        "--rows",
        str(N_ROWS),
        "--chunk",
        str(N_ROWS // 2),
        "--workers",
        "1",
        "--badline",
        "0.02",
        "--badvalue",
        "0.02",
    ]
    command = [
        sys.executable,
        str(shared / "tools" / "expand.py"),
        "--out",
        str(folder),
        "--seed",
        seed,
        *sizes,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return Stream(folder, dict(truth_of(folder)))


def good_rows(stream: Stream) -> Iterator[tuple[Place, dict[str, Any]]]:
    for file in sorted(stream.folder.glob("*.jsonl")):
        for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], start=1):
            if stream.truth[file.name, number] is None:
                yield (file.name, number), json.loads(line)


def expected_versions(stream: Stream) -> set[Place]:
    """The good rows that are new versions, in plain Python: each instant's newest that changes."""
    one_an_instant: dict[tuple[str, str], tuple[str, Place, dict[str, Any]]] = {}
    for place, row in good_rows(stream):
        instant, rival = (row["record_id"], row["ingested_at"]), (row["event_time"], place, row)
        one_an_instant[instant] = max(
            one_an_instant.get(instant, rival), rival, key=lambda item: item[:2]
        )
    versions: set[Place] = set()
    last: dict[str, list[str]] = {}
    for (record_id, _), (_, place, row) in sorted(one_an_instant.items(), key=lambda item: item[0]):
        content = [row[name] for name in ("user_id", "source", "event_time", "text", "label")]
        if last.get(record_id) != content:
            versions.add(place)
        last[record_id] = content
    return versions


def test_exactly_the_bad_rows_are_rejected_and_exactly_the_new_versions_staged(
    stream: Stream, make_source: MakeSource, tmp_path: Path
) -> None:
    warehouse = Warehouse(Settings(home=tmp_path / "home", batch_rows=3_000))
    source = make_source(stream.folder, record=EXPANDED, known={"column": "ingested_at"})
    ingested = ingest(source, warehouse)
    account = prepare(source, warehouse)
    with connect(warehouse) as connection:
        place = "parse_filename(source_uri), row_number"
        rejected = connection.execute(
            f"""select {place}, "column" || ':' || rule from quarantine.records"""
        ).fetchall()
        staged = connection.execute(f"select {place} from staging.records").fetchall()
    bad = {place: rule for place, rule in stream.truth.items() if rule}
    versions = expected_versions(stream)
    assert (ingested.files_loaded, ingested.rows_loaded, ingested.refused) == (
        2,
        len(stream.truth),
        [],
    )
    assert set(bad.values()) == {*LINES.values(), *VALUES.values()}
    assert {(file, number): rule for file, number, rule in rejected} == bad
    assert set(staged) == versions
    assert account == Account(
        len(stream.truth), len(versions), len(stream.truth) - len(bad) - len(versions), len(bad)
    )
    assert account.duplicates > 0
    assert recount(warehouse)["adds_up"].to_list() == [True]
