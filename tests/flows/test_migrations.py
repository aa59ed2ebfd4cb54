"""Homes as older versions made them: each ends as a home that this version has made."""

import shutil
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result

from feature_repo import online_features, training_set
from feature_repo.online_views import online_views
from flows.cli import main
from flows.migrations import MIGRATIONS
from flows.stages import PipelineParameters, run_plain
from tests.flows.conftest import Lives, Warm, contents, leftovers
from transforms.errors import HomeError
from transforms.home import Settings
from transforms.layout import LAYOUT, read_layout, write_layout
from transforms.schemas.staging import DuplicateRow, StagedRecord
from transforms.staging.prepare import WRITTEN
from transforms.warehouse.scratch import PARTS
from transforms.warehouse.tables import Warehouse

# the first two increments of the growing source as the commits before 71add1e and a112462 ran them
OLDER = Path(__file__).parent / "older_homes"
FEATURES = ["author_activity:n_records_7d", "author_activity:n_records_lifetime"]
KILLS = [
    *("after:layout.1", "before:layout.2", "after:layout.2"),
    *("before:profiles.columns", "after:profiles.columns", "before:layout.3"),
    *("before:layout.4", "after:layout.4"),
]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def unpack(name: str, folder: Path) -> Path:
    with tarfile.open(OLDER / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "home"


# what was measured of loads stays: views are computed again, which is one publication more to
# profile, and the older one of the two measured other things
@pytest.mark.parametrize(
    ("name", "measured"),
    [
        ("all_online", ["profiles.columns", "profiles.drift", "profiles.checks"]),
        ("repeats", ["profiles.columns"]),
    ],
)
def test_an_older_home_ends_as_one_of_this_version(
    name: str,
    measured: list[str],
    lives: Lives,
    warm: Warm,
    tmp_path: Path,
    digest_of_tree: Callable[[Path], str],
) -> None:
    home = unpack(name, tmp_path)
    before = digest_of_tree(home)
    refused = invoke("status", "--home", str(home))
    assert f"millrace migrate --home {home} [errors#home]" in refused.output
    shown = invoke("migrate", "--home", str(home), "--dry-run").output
    assert "  2  Rename `staging.repeats`" in shown
    assert shown.endswith("Nothing was changed.\n")
    assert digest_of_tree(home) == before

    versions = {
        folder.parent.name: len(list(folder.glob("*.json")))
        for folder in (home / "features").glob("*/_delta_log")
    }
    for point in KILLS:
        warm.die("migrate_until", point, home)
    assert invoke("migrate", "--home", str(home)).output == f"{home}: has layout 4 already\n"
    written = {contract.relation() for contract in WRITTEN}
    assert written <= Warehouse(Settings(home=home)).versions().keys()
    # nothing is computed by a migration
    assert {
        view: Warehouse(Settings(home=home)).version(f"features.{view}") + 1 for view in versions
    } == versions

    lives.go_back(2)
    source = Path(shutil.copytree(lives.folder / "source", tmp_path / "source"))
    for taken in ("1.jsonl", "2.jsonl"):  # there under another path
        (source / "data" / taken).unlink()
    parameters = PipelineParameters(source=str(source / "notes.yaml"), home=str(home))
    tables = run_plain(parameters).tables
    assert [tables[name]["new"] for name in ("raw.records", "staging.records")] == [24, 24]
    found, wanted = contents(home), lives.contents[2]
    assert [name for name in wanted if found[name] != wanted[name]] == measured
    assert "'repeat'" not in str(found["profiles.columns"])
    assert ("record_quality" in online_views(home)) == (name == "all_online")
    assert leftovers(home) == []

    now = datetime.now(UTC)
    authors = [{"author_id": f"u{number}", "event_timestamp": now} for number in range(5)]
    trained = training_set(pl.DataFrame(authors), FEATURES, home).frame.sort("author_id")
    served = online_features(FEATURES, authors, home).sort("author_id")
    assert served.select(trained.columns).equals(trained)


def test_a_home_of_this_version_migrates_without_a_commit(lives: Lives) -> None:
    lives.go_back(2)
    before = Warehouse(Settings(home=lives.home)).versions()
    (lives.home / "layout").unlink()  # as the versions before the number left it
    with pytest.raises(
        HomeError, match="has layout 0, and this millrace reads 4; millrace migrate"
    ):
        Warehouse(Settings(home=lives.home)).versions()
    assert "Create the tables" in invoke("migrate", "--home", str(lives.home)).output
    assert Warehouse(Settings(home=lives.home)).versions() == before


def test_half_a_file_is_swept_before_its_table_is_renamed(warehouse: Warehouse) -> None:
    warehouse.create(StagedRecord)
    warehouse.create(DuplicateRow)
    home = warehouse.settings.root
    (home / "layout").unlink()
    former = (home / "staging" / "duplicate_rows").rename(home / "staging" / "repeats")
    (former / "half.parquet").touch()
    (home / "tmp" / "killed").mkdir(parents=True)
    (home / "tmp" / "killed.alive").touch()
    (home / "tmp" / "killed" / PARTS).write_text("staging.repeats half.parquet\n")
    assert invoke("migrate", "--home", str(home)).exit_code == 0
    assert [path.name for path in (home / "staging" / "duplicate_rows").iterdir()] == ["_delta_log"]
    assert list((home / "tmp").iterdir()) == []


def test_a_home_has_its_layout_with_its_first_table(warehouse: Warehouse) -> None:
    assert len(MIGRATIONS) == LAYOUT
    home = warehouse.settings.root
    assert "has layout 4 already" in invoke("migrate", "--home", str(home)).output
    assert not home.exists()
    warehouse.create(StagedRecord)
    assert read_layout(home) == LAYOUT


def test_a_newer_home_is_refused_by_who_writes_and_who_reads(
    warehouse: Warehouse, digest_of_tree: Callable[[Path], str]
) -> None:
    warehouse.create(StagedRecord)
    home = str(warehouse.settings.root)
    write_layout(warehouse.settings.root, LAYOUT + 1)
    before = digest_of_tree(warehouse.settings.root)
    said = f"millrace: {home}: has layout 5, and this millrace knows up to 4; upgrade millrace"
    for command in ("status", "maintain", "migrate", "refresh"):
        assert said in invoke(command, "--home", home).output
    with pytest.raises(HomeError, match="upgrade millrace"):
        Warehouse(Settings(home=Path(home))).table(StagedRecord.relation())
    assert digest_of_tree(warehouse.settings.root) == before
