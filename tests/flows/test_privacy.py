"""Raw text is private: identifiers reach no log, artifact, metric, report or exception."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from transforms.home import Settings
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

ROOT = Path(__file__).parent.parent.parent
# one of each kind, each found nowhere else
SECRETS = {
    "EMAIL_ADDRESS": "quintessa.vole@postbox-of-hers.com",
    "PHONE_NUMBER": "+44 20 7946 0958",
    "CREDIT_CARD": "4111 1111 1111 1111",
    "IBAN_CODE": "DE89 3704 0044 0532 0130 00",
    "IP_ADDRESS": "203.9.113.77",
    "US_SSN": "536-90-4399",
    "API_KEY": "AKIAIOSFODNN7EXAMPLE",
}
# they keep rows as they came, on purpose
HOLD_TEXT = {"raw.records", "quarantine.records"}

# in one process, since each would import everything again
ONE_AFTER_THE_OTHER = """
import json, sys
from flows.cli import main
for command in json.load(sys.stdin):
    if main(["--debug", *command], standalone_mode=False):
        sys.exit(f"{command} failed")
"""


def rows() -> Iterator[dict[str, object]]:
    for number, secret in enumerate(SECRETS.values()):
        known = f"2026-01-0{1 + number}T10:00:00Z"
        row = {"id": f"r{number}", "author": f"u{number % 2}", "written": known, "known": known}
        yield {
            **row,
            "text": f"Please note {secret} and answer soon, thank you very much for all your help.",
        }
        # its time is none
        yield {
            **row,
            "id": f"q{number}",
            "written": f"on the day of {secret}",
            "text": secret,
        }
        yield {
            **row,
            "id": f"d{number}",
            "author": "u2",
            "text": f"Please note {secret} and answer soon, thank you very much!",
        }


@pytest.fixture(scope="module", params=["keep", "redact"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    lines = [*map(json.dumps, rows()), '{"id": "broken", "text": "' + SECRETS["EMAIL_ADDRESS"]]
    (folder / "notes.jsonl").write_text("\n".join(lines) + "\n")
    record = "record: {record_id: id, author_id: author, event_timestamp: written, text: text}"
    text = (
        f"name: notes\nuri: notes.jsonl\nknown: {{column: known}}\n{record}\ntext: "
        f"{request.param}\n"
    )
    (folder / "notes.yaml").write_text(text)
    return folder / "notes.yaml"


@pytest.fixture(scope="module")
def said(source: Path) -> str:
    """Everything a round of commands prints with all verbose options on, except `--reveal`."""
    home = str(source.parent / "home")
    commands = [
        ["plan", "--source", str(source)],
        ["run", "--source", str(source)],
        ["status"],
        ["quarantine", "list"],
        ["quarantine", "show"],
        ["quarantine", "export", "--csv", str(source.parent / "home" / "rejected.csv")],
        ["quarantine", "replay", "--source", str(source)],
        ["trace", "--record", "r0"],
        ["trace", "--feature", "record_pii:r0"],
        ["features"],
        ["report"],
        ["backfill", "--dry-run"],
        ["maintain"],
        ["locks"],
        ["erase", "--author", "u0", "--dry-run"],
    ]
    environment = {
        **os.environ,
        "MILLRACE_HOME": home,
        "PREFECT_HOME": f"{home}/prefect",
        "PREFECT_LOGGING_LEVEL": "DEBUG",
    }
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_THE_OTHER],
        input=json.dumps(commands),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # DuckDB prints it if one of its objects outlives the interpreter
    assert "leaked" not in done.stderr
    return done.stdout + done.stderr


def leaks(text: str) -> list[str]:
    return [
        kind
        for kind, secret in SECRETS.items()
        if secret in text or secret.replace(" ", "") in text
    ]


def test_the_secrets_are_in_the_source_and_are_found(source: Path, said: str) -> None:
    assert leaks((source.parent / "notes.jsonl").read_text()) == list(SECRETS)
    assert "quarantined" in said
    with connect(Warehouse(Settings(home=source.parent / "home"))) as connection:
        counted = (
            connection.sql("select columns('^pii_.*_count$') from features.record_pii")
            .pl()
            .sum()
            .row(0, named=True)
        )
    assert {f"pii_{kind.lower()}_count" for kind in SECRETS} == {
        name for name, n in counted.items() if n
    }


def test_no_output_contains_an_identifier(said: str) -> None:
    assert leaks(said) == []


def test_no_written_file_contains_an_identifier(source: Path, said: str) -> None:  # noqa: ARG001 - it has been written by then
    home = source.parent / "home"
    files = [path for path in home.rglob("*") if path.is_file() and path.suffix != ".parquet"]
    assert {"report.html", "last_run.json", "rejected.csv"} <= {path.name for path in files}
    assert any(path.suffix == ".db" and "prefect" in path.parts for path in files)
    assert {
        str(path.relative_to(home)): found
        for path in files
        if (found := leaks(path.read_bytes().decode("latin-1")))
    } == {}


def test_only_tables_of_rows_as_they_came_contain_an_identifier(source: Path, said: str) -> None:  # noqa: ARG001
    is_kept = "text: keep" in source.read_text()
    found = {}
    warehouse = Warehouse(Settings(home=source.parent / "home"))
    with connect(warehouse) as connection:
        for relation in set(warehouse.versions()) - HOLD_TEXT:
            if connection.sql(f"select 1 from {relation} limit 1").fetchall():
                found[relation] = leaks(texts(connection.sql(f"from {relation}").pl()))
    expected = {"staging.records": list(SECRETS)} if is_kept else {}
    assert {relation: kinds for relation, kinds in found.items() if kinds} == expected


def texts(frame: pl.DataFrame) -> str:
    return repr(frame.select(pl.col(pl.String, pl.List(pl.String))).rows())
