"""`millrace trace` as a new user meets it; in process, unless exit code or error line matter."""

import json
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from flows.commands.trace import trace
from transforms.features.build import featurize
from transforms.home import Settings
from transforms.sources.ingest import ingest
from transforms.sources.source import load_source
from transforms.staging.prepare import prepare
from transforms.warehouse.tables import Warehouse

Run = Callable[..., subprocess.CompletedProcess[str]]
FEATURE = ("--feature", "author_activity:n_records_lifetime:mitre", "--at", "2024-05-20")


@pytest.fixture(scope="module")
def home(small_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of the small source, up to the features. Read only."""
    warehouse = Warehouse(Settings(home=tmp_path_factory.mktemp("traced") / "home"))
    source = load_source(small_source)
    ingest(source, warehouse)
    prepare(source, warehouse)
    featurize(warehouse, datetime(2024, 9, 1, tzinfo=UTC))
    return warehouse.settings.root


@pytest.fixture
def shown(home: Path) -> Callable[..., str]:
    """Trace in that home; what is printed."""

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(
            trace, [*arguments, "--home", str(home)], catch_exceptions=False
        )
        assert result.exit_code == 0, result.output
        return result.output

    return run


def test_a_feature_is_shown_with_its_records_cut_to_the_limit(
    shown: Callable[..., str], home: Path
) -> None:
    text = shown(*FEATURE, "--limit", "2")
    document = json.loads(shown(*FEATURE, "--limit", "2", "--json"))
    (value,) = document["values"]
    assert value["value"] == value["by_records"] == document["n_records"] > 2
    assert len(document["records"]) == 2
    assert (
        f"{value['value']:,} records behind it, newest known first; 2 listed, see --limit" in text
    )
    for record in document["records"]:
        assert f"{record['record_id']}, {record['source_uri']}, row {record['row_number']}" in text
    version = Warehouse(Settings(home=home)).versions()["features.author_activity"]
    assert f"{'features.author_activity':<28}{version:>8}   staging.records version" in text


def test_a_record_is_shown_without_its_text_unless_asked(
    shown: Callable[..., str], home: Path
) -> None:
    staged = pl.read_delta(str(home / "staging" / "records")).filter(
        pl.col("text").str.len_chars() > 50
    )
    record_id, text, row_number = staged.select("record_id", "text", "row_number").row(0)
    without = shown("--record", record_id)
    assert f"row {row_number}\n" in without
    assert "beyond_tomorrow" in without
    assert text not in without + shown("--record", record_id, "--json")
    assert text in shown("--record", record_id, "--text")


def test_a_file_is_shown_with_the_rows_that_rest_on_it(
    shown: Callable[..., str], small_source: Path
) -> None:
    path = small_source.parent / "data" / "cve_events" / "2024-05-10.jsonl.zst"
    text = shown("--source-file", str(path))
    assert path.as_uri() in text
    document = json.loads(shown("--source-file", path.name, "--json"))
    (load,) = document["loads"]
    assert load["n_read"] == load["n_staged"] + load["n_duplicates"] + load["n_quarantined"] > 0
    assert f"{load['n_read']:,}" in text


def test_a_tampered_table_fails_in_one_line(millrace: Run, home: Path, tmp_path: Path) -> None:
    shutil.copytree(home, tmp_path / "home")
    warehouse = Warehouse(Settings(home=tmp_path / "home"))
    for file in warehouse.files("features.author_activity"):
        pl.read_parquet(file).with_columns(pl.col("n_records_lifetime") + 1).write_parquet(file)
    shown = millrace("trace", *FEATURE, "--home", str(tmp_path / "home"))
    assert shown.returncode == 1
    assert "  differs" in shown.stdout
    (line,) = shown.stderr.splitlines()
    assert "features.author_activity: n_records_lifetime is " in line
    assert "remove the folder features/author_activity of the home and run again" in line
    shutil.rmtree(warehouse.folder("features.author_activity"))  # as it says
    featurize(warehouse, datetime(2024, 9, 2, tzinfo=UTC))
    mended = millrace("trace", *FEATURE, "--home", str(tmp_path / "home"), "--json")
    assert mended.returncode == 0, mended.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "say one of --record, --feature and --source-file"),
        (("--record", "a", "--feature", "author_activity:a"), "say one of"),
        (
            ("--feature", "author_activity:a", "--at", "yesterday"),
            "'yesterday' is no instant in ISO 8601; write 2026-01-02T10:00:00Z",
        ),
    ],
)
def test_a_mistake_is_named(home: Path, arguments: tuple[str, ...], words: str) -> None:
    result = CliRunner().invoke(trace, [*arguments, "--home", str(home)])
    assert result.exit_code == 2
    assert words in result.output
