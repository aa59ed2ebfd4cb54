"""A contract changed under published features is listed, refused, accepted (in an edited copy)."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from transforms.home import Settings
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

ROOT = Path(__file__).parent.parent.parent
READ = """
import polars as pl
from feature_repo import online_features, training_set
features = ["author_activity:n_words_1d"]
columns = "record_id, author_id, known_timestamp as event_timestamp"
spine = f"select {columns} from staging.records limit 5"
made = training_set(spine, ["record_quality:n_words", *features])
row = online_features(features, made.frame.select("author_id").head(1).to_dicts())
name = "author_activity__n_words_1d"
print(made.frame.schema[name], row[name].dtype, made.frame.null_count().sum_horizontal()[0])
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the packages, to be edited."""
    for package in ("flows", "transforms", "feature_repo"):
        shutil.copytree(
            ROOT / package,
            tmp_path / "copy" / package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    return tmp_path / "copy"


def retype_and_remove(copied: Path) -> None:
    views = copied / "transforms" / "features" / "views"
    lines = (views / "record_quality.py").read_text("utf-8").splitlines(keepends=True)
    left = [line for line in lines if not line.startswith("    n_urls: ")]
    assert len(left) == len(lines) - 1
    (views / "record_quality.py").write_text("".join(left), "utf-8")
    declared = (views / "author_activity.py").read_text("utf-8")
    retyped = declared.replace('Sum("record_quality.n_words",', 'Sum("record_quality.n_words / 2",')
    assert retyped != declared
    (views / "author_activity.py").write_text(retyped, "utf-8")


def test_breaking_change_is_listed_refused_and_accepted(
    new_millrace: Run, copied: Path, small_source: Path, tmp_path: Path
) -> None:
    home, path = str(tmp_path / "home"), {"PYTHONPATH": str(copied)}
    asked = ("--source", str(small_source), "--home", home)
    first = new_millrace("run", *asked, "--plain", **path)
    assert first.returncode == 0, first.stderr
    warehouse = Warehouse(Settings(home=Path(home)))
    before = warehouse.versions()

    retype_and_remove(copied)
    planned = new_millrace("plan", *asked, **path).stdout
    assert "breaking: features.record_quality.n_urls: removed" in planned
    assert "breaking: features.author_activity.n_words_1d: int64 becomes double" in planned
    refused = new_millrace("run", *asked, "--plain", **path)
    assert refused.returncode == 1
    assert "features.record_quality.n_urls: removed" in refused.stderr
    assert "--accept-breaking" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert warehouse.versions() == before

    accepted = new_millrace("run", *asked, "--plain", "--accept-breaking", **path)
    assert accepted.returncode == 0, accepted.stderr
    with connect(warehouse) as connection:
        types = dict(
            connection.sql(
                "select column_name, column_type from (describe features.author_activity)"
            ).fetchall()
        )
        assert types["n_words_1d"] == "DOUBLE"
        assert "n_urls" not in connection.sql("from features.record_quality limit 0").columns
    older = warehouse.table_at("features.record_quality", before["features.record_quality"])
    assert "n_urls" in [field.name for field in older.schema().fields]
    assert "nothing to load, stage or compute" in new_millrace("plan", *asked, **path).stdout

    read = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ],
        env={**path, "MILLRACE_HOME": home, "MILLRACE_FEATURES": "", "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert read.stdout.split() == ["Float64", "Float64", "0"], read.stderr
