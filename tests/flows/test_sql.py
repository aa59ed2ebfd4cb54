"""`millrace sql` as an analyst meets it."""

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result

from feature_repo import warehouse
from flows.commands.sql import sql
from transforms.home import Settings
from transforms.sources.ingest import ingest
from transforms.sources.source import load_source
from transforms.staging.prepare import prepare
from transforms.warehouse.tables import Warehouse

LABELS = "select label, count(*) as n, list(record_id order by record_id)[:1] as first "
LABELS += "from staging.records group by all order by n desc, label"


@pytest.fixture(scope="module")
def home(small_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of the small source, staged. Read only."""
    opened = Warehouse(Settings(home=tmp_path_factory.mktemp("asked") / "home"))
    source = load_source(small_source)
    ingest(source, opened)
    prepare(source, opened)
    return opened.settings.root


@pytest.fixture
def ask(home: Path) -> Callable[..., Result]:
    """Run the command in that home."""

    def run(*arguments: str, typed: str | None = None) -> Result:
        done = CliRunner().invoke(
            sql, [*arguments, "--home", str(home)], catch_exceptions=False, input=typed
        )
        assert done.exit_code == 0, done.output
        return done

    return run


def test_every_format_has_the_rows_of_the_query(
    ask: Callable[..., Result], home: Path, tmp_path: Path
) -> None:
    made = warehouse(home).sql(LABELS).pl()
    assert made.height > 1
    assert f"{made['label'][0]}" in ask(LABELS).output
    assert json.loads(ask(LABELS, "--format", "json").output) == made.to_dicts()
    table = pl.read_csv(io.BytesIO(ask(LABELS, "--format", "csv").stdout_bytes))
    assert table["first"].str.json_decode(pl.List(pl.String)).to_list() == made["first"].to_list()
    assert table["n"].to_list() == made["n"].to_list()
    head, rule, *lines = ask(LABELS, "--format", "markdown").stdout.splitlines()
    assert (head, rule, len(lines)) == ("| label | n | first |", "| --- | --- | --- |", made.height)
    path = tmp_path / "labels.parquet"
    ask(LABELS, "--format", "parquet", "--output", str(path))
    assert pl.read_parquet(path).equals(made)


def test_no_rows_are_a_header_or_an_empty_array(ask: Callable[..., Result]) -> None:
    none = "select label, record_id from staging.records where false"
    outputs = [ask(none, "--format", layout).output for layout in ("csv", "json")]
    assert outputs == ["label,record_id\n", "[]\n"]


def test_a_query_comes_from_a_file_or_from_standard_input(
    ask: Callable[..., Result], tmp_path: Path
) -> None:
    path = tmp_path / "asked.sql"
    path.write_text(LABELS + ";\n", "utf-8")
    asked = [ask("--file", str(path)), ask(typed=LABELS), ask(LABELS)]
    assert len({done.output for done in asked}) == 1


def test_a_wrong_query_is_one_error_with_advice(
    millrace: Callable[..., subprocess.CompletedProcess[str]], home: Path
) -> None:
    done = millrace("sql", "select labell from staging.records", "--home", str(home))
    assert done.returncode == 1
    assert 'millrace: Binder Error: Referenced column "labell" not found' in done.stderr
    assert '"label"' in done.stderr
    assert "Traceback" not in done.stderr


def test_the_prompt_answers_goes_on_after_an_error_and_completes_names(home: Path) -> None:
    typed = (
        ".schema staging.duplicate_rows\nselect count(*) as\n n_staged from staging.records;\n"
        "select nothing;\n.explain from staging.records\nselect 40 + 2 as after;\n"
        "select count(*) as completed from staging.rec\t;\n.nonsense\n.quit\n"
    )
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "flows.cli", "sql", "--home", str(home)]
    environment = {**os.environ, "HOME": str(home), "TERM": "dumb"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as prompt:
        os.close(theirs)
        os.write(ours, typed.encode())
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65_536)
            except OSError:  # the other end is closed
                break
    os.close(ours)
    text = shown.decode()
    assert prompt.returncode == 0, text
    for part in ("loaded_timestamp", "n_staged", "Binder Error", "Read Parquet", "42", "completed"):
        assert part in text, text
    assert ".nonsense: no such command" in text
    assert "select nothing;" in (home / ".millrace_sql_history").read_text("utf-8")


def test_the_client_gives_the_same_rows_masked_and_as_they_were(home: Path) -> None:
    query = (
        "select count(*) as n, any_value(payload) like '<% bytes>' as is_masked from raw.records"
    )
    now = datetime.now(UTC)
    assert warehouse(home).sql(query).pl().row(0) == (2_859, True)
    assert warehouse(home, now).sql(query).pl().row(0) == (2_859, True)
    revealed = warehouse(home, reveal=True).sql("from raw.records limit 1").pl()
    assert revealed["payload"].dtype == pl.Binary
