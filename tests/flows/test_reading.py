"""The tables of a home are read by other programs, as docs/reading.md says."""

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import lacks
from tests.docs.shell import blocks
from transforms.home import Settings
from transforms.sources.ingest import ingest
from transforms.sources.source import load_source
from transforms.staging.prepare import prepare
from transforms.warehouse.queries import write_catalog
from transforms.warehouse.tables import Warehouse

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reading.md"
# dbt pins other versions of what this project needs, so it lives in an environment of its own
PROGRAMS = ROOT / ".venv" / "dbt" / "bin"


@pytest.fixture(scope="module")
def catalog(small_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of a staged home, in the folder that has the home."""
    folder = tmp_path_factory.mktemp("read")
    warehouse, source = Warehouse(Settings(home=folder / ".millrace")), load_source(small_source)
    ingest(source, warehouse)
    prepare(source, warehouse)
    write_catalog(warehouse, folder / "millrace.duckdb")
    return folder / "millrace.duckdb"


def program(name: str) -> Path:
    """A program of dbt's environment, which `.ci/run` makes."""
    path = PROGRAMS / name
    if not path.exists():
        lacks(f"{path} is not there; .ci/run makes it")
    return path


def test_dbt_builds_models_on_a_catalog(catalog: Path, tmp_path: Path) -> None:
    project = shutil.copytree(ROOT / "docs" / "examples" / "dbt", tmp_path / "dbt")
    made = tmp_path / "weekly.duckdb"
    command = [program("dbt"), "build", "--profiles-dir", project, "--project-dir", project]
    built = subprocess.run(
        command,
        env={**os.environ, "CATALOG": str(catalog), "WEEKLY": str(made), "DO_NOT_TRACK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout
    assert "PASS=2" in built.stdout  # the model and its test
    counted = run_snippet(
        "import duckdb\n"
        f"print(duckdb.connect({str(made)!r}).sql('select sum(n_records) > 0 from weekly_labels'))",
        catalog.parent,
    )
    assert "true" in counted


@pytest.mark.parametrize("title", ["ibis_example.py", "duckdb_example.py"])
def test_programs_read_a_catalog_file(catalog: Path, title: str) -> None:
    assert "poc" in run_snippet(snippet(title), catalog.parent)


@pytest.mark.parametrize("title", ["polars_example.py", "pandas_example.py", "spark_example.py"])
def test_programs_read_the_tables_themselves(
    catalog: Path, title: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if title == "spark_example.py" and not find_spec("pyspark"):
        lacks("Spark is missing: pip install 'millrace[spark]', and Java 17")
    monkeypatch.chdir(catalog.parent)
    exec(snippet(title), {})  # noqa: S102 - the page's own
    assert "poc" in capsys.readouterr().out


def snippet(title: str) -> str:
    (content,) = (text for _, name, text in blocks(PAGE.read_text("utf-8")) if name == title)
    return content


def run_snippet(code: str, folder: Path) -> str:
    """Run Python in dbt's environment, which has Ibis and DuckDB but nothing of millrace."""
    done = subprocess.run(
        [program("python"), "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
