"""Maintenance: fewer files, the same rows; readers see no new rows, and locks keep their files."""

import json
import shutil
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from feature_repo import training_set
from feature_repo.locks import LockError, remove
from flows import stages
from flows.history import history_path
from flows.sizes import measure
from flows.stages import (
    MaintainParameters,
    PipelineParameters,
    pending_work,
    run_maintenance,
    run_plain,
)
from tests.flows.conftest import Notes, contents, note
from transforms.home import Settings
from transforms.schemas.raw import RawRecord
from transforms.sources.source import load_source
from transforms.staging.prepare import n_unstaged
from transforms.staging.quarantine import replay
from transforms.upkeep.log import trim_log
from transforms.upkeep.maintain import _chosen, crowded
from transforms.upkeep.sizes import in_words
from transforms.warehouse.tables import Warehouse, files_of_version

SPINE = (
    "select record_id, author_id, subject_id, known_timestamp as event_timestamp "
    "from staging.records order by all"
)
FEATURES = [
    "record_quality:n_words",
    "author_activity:n_records_28d",
    "subject_activity:mean_characters_7d",
]


@pytest.fixture(scope="module")
def grown_once(small_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source of three days, `home` that grew by a run a day, and a copy of it."""
    folder = tmp_path_factory.mktemp("maintained")
    days = shutil.copytree(small_source.parent, folder / "source") / "data" / "cve_events"
    parameters = PipelineParameters(
        source=str(folder / "source" / "cve_events.yaml"), home=str(folder / "home")
    )
    later = [day.rename(folder / day.name) for day in sorted(days.iterdir())]
    for day in later:
        shutil.copy(day, days)
        run_plain(parameters)
    shutil.copytree(folder / "home", folder / "copy")
    return folder


@pytest.fixture
def grown(grown_once: Path) -> Warehouse:
    """The home that grew, as it was after its last run."""
    shutil.rmtree(grown_once / "home")
    shutil.copytree(grown_once / "copy", grown_once / "home")
    # a log entry of the copy may have number, time and inode of one that an open table has read
    stages._warehouse.cache_clear()
    return Warehouse(Settings(home=grown_once / "home"))


@pytest.fixture
def source(grown_once: Path) -> Path:
    return grown_once / "source" / "cve_events.yaml"


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three files are several, none is too large, and every replaced row is one too many."""
    monkeypatch.setattr("transforms.upkeep.maintain.FEW_FILES", 2)
    monkeypatch.setattr("transforms.upkeep.maintain.REPLACED_SHARE", 0.000001)


def maintain(warehouse: Warehouse, **options: object) -> dict[str, list[dict[str, object]]]:
    return run_maintenance(
        MaintainParameters.model_validate({"home": str(warehouse.settings.root), **options})
    )


def newest(warehouse: Warehouse) -> dict[str, pl.DataFrame]:
    """The rows of every table, of views the newest of every entity and instant."""
    frames = {}
    for relation in warehouse.versions():
        frame = pl.read_delta(str(warehouse.folder(relation)))
        if relation.startswith("features."):
            key = [
                frame.columns[frame.columns.index(name)]
                for name in frame.columns
                if name.endswith("_id")
            ] + ["event_timestamp"]
            frame = frame.sort("created_timestamp").unique(key, keep="last")
        frames[relation] = frame.sort(pl.struct(pl.all().exclude(pl.Binary)).hash())
    return frames


def test_rows_stay_and_no_run_has_anything_to_do(grown: Warehouse, source: Path) -> None:
    before, n_files = (
        newest(grown),
        {relation: len(grown.files(relation)) for relation in grown.relations()},
    )
    done = maintain(grown)
    compacted = {str(item["relation"]) for item in done["compacted"]}
    assert {
        "raw.records",
        "staging.records",
        "features.record_quality",
        "features.author_activity",
    } <= compacted
    assert all(len(grown.files(relation)) < n_files[relation] for relation in compacted)
    assert sum(int(str(item["n_rows_dropped"])) for item in done["compacted"]) > 0
    after = newest(grown)
    assert all(after[relation].equals(frame) for relation, frame in before.items())
    assert pending_work(load_source(source), grown).nothing
    assert maintain(grown)["compacted"] == []


def test_run_after_a_killed_compaction_takes_up_nothing_twice(
    source: Path, grown: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = newest(grown)
    # as if it was killed before each advance
    monkeypatch.setattr("transforms.upkeep.maintain._advance", lambda *_: None)
    assert maintain(grown)["compacted"]
    assert not pending_work(load_source(source), grown).nothing
    summary = run_plain(PipelineParameters(source=str(source), home=str(grown.settings.root)))
    assert (summary.read, set(summary.features.values())) == (0, {0})
    assert set(summary.materialized.values()) == {0}
    after = newest(grown)
    assert all(after[relation].equals(frame) for relation, frame in before.items())


def test_locked_versions_are_kept_until_the_lock_is_removed(grown: Warehouse) -> None:
    root = grown.settings.root
    first = training_set(SPINE, FEATURES, root)
    first.register("first")
    assert maintain(grown, keep_days=0)["compacted"]
    later = maintain(grown, keep_days=0)
    assert training_set.rebuild("first", home=root).frame.equals(first.frame)
    assert sum(int(str(item["n_files"])) for item in later["vacuumed"]) == 0
    remove(root, "first")
    assert sum(int(str(item["n_files"])) for item in maintain(grown, keep_days=0)["vacuumed"]) > 0
    with pytest.raises(LockError, match=r"features\.author_activity: version \d+ is missing"):
        training_set.rebuild(first.lock, SPINE, root)


def test_files_that_were_just_replaced_stay_for_who_reads_them(grown: Warehouse) -> None:
    files = [file for relation in grown.relations() for file in grown.files(relation)]
    assert maintain(grown)["compacted"]
    assert all(Path(file).is_file() for file in files)


def test_stray_file_goes_with_the_replaced_ones(grown: Warehouse) -> None:
    stray = grown.folder("staging.records") / "part-stray.parquet"
    stray.write_bytes(b"half")
    maintain(grown)
    assert stray.is_file()  # it may be one that is being written
    maintain(grown, keep_days=0)
    assert not stray.is_file()


def test_dry_run_changes_nothing(grown: Warehouse, digest_of_tree: Callable[[Path], str]) -> None:
    before = digest_of_tree(grown.settings.root)
    assert maintain(grown, dry_run=True)["compacted"]
    assert digest_of_tree(grown.settings.root) == before


def test_logs_are_not_cleaned_of_what_a_lock_may_name(grown: Warehouse) -> None:
    for relation in grown.versions():
        table = grown.table(relation)
        assert table is not None
        assert table.metadata().configuration["delta.enableExpiredLogCleanup"] == "false"


def test_command_reports_what_it_did(millrace: Callable[..., object], grown: Warehouse) -> None:
    for keep_days, expected in (("7", "0 data files deleted"), ("0", "data files deleted")):
        result = millrace("maintain", "--home", str(grown.settings.root), "--keep-days", keep_days)
        assert expected in result.stdout, result.stderr  # type: ignore[attr-defined]


def n_bytes(files: Iterable[Path | str]) -> int:
    return sum(Path(file).stat().st_size for file in files if Path(file).is_file())


def test_sizes_are_those_of_the_files(grown: Warehouse) -> None:
    maintain(grown)  # so that files of older versions lie beside those of the newest
    measured = measure(grown, datetime.now(UTC))
    assert list(measured.tables) == list(grown.versions())
    for relation, size in measured.tables.items():
        assert size.n_bytes == n_bytes(grown.files(relation))
        assert size.n_bytes + size.n_older == n_bytes(grown.folder(relation).rglob("*"))
        assert size.n_rows == grown.n_rows(relation)
    home = grown.settings.root
    assert measured.online.n_bytes == n_bytes([home / "feast" / "online.db"])
    assert measured.n_bytes == n_bytes(home.rglob("*"))
    assert measured.a_record == measured.n_bytes / grown.n_rows("staging.records")


def test_what_maintenance_would_free_is_what_it_frees(grown: Warehouse) -> None:
    maintain(grown)
    assert measure(grown, datetime.now(UTC)).n_freed == 0  # all was replaced just now
    due = Warehouse(grown.settings.model_copy(update={"keep_days": 0}))
    told = {name: size.n_freed for name, size in measure(due, datetime.now(UTC)).tables.items()}
    before = n_bytes(grown.settings.root.rglob("part-*.parquet"))
    done = maintain(grown, keep_days=0)["vacuumed"]
    assert {item["relation"]: item["n_bytes"] for item in done} == told
    assert before - n_bytes(grown.settings.root.rglob("part-*.parquet")) == sum(told.values()) > 0


def test_growth_is_what_the_versions_of_a_week_added(grown: Warehouse) -> None:
    folder, newest = grown.folder("staging.records"), grown.versions()["staging.records"]
    for version in range(newest + 1):
        entry = (folder / "_delta_log" / f"{version:020d}.json").read_text().splitlines()[0]
        at = datetime.fromtimestamp(json.loads(entry)["commitInfo"]["timestamp"] / 1000, UTC)
        grown_by = n_bytes(grown.files("staging.records")) - n_bytes(
            files_of_version(folder, version)
        )
        week_later = at + timedelta(days=7, milliseconds=1)
        assert measure(grown, week_later).tables["staging.records"].n_grown == grown_by
    size = measure(grown, at).tables["staging.records"]
    assert size.n_grown == size.n_bytes > 0


def test_growth_is_from_the_oldest_entry_where_a_log_is_trimmed(
    grown: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transforms.upkeep.log.KEPT_ENTRIES", 1)
    folder, newest = grown.folder("staging.records"), grown.versions()["staging.records"]
    before = n_bytes(files_of_version(folder, newest - 1))
    trim_log(folder, [])
    again = Warehouse(grown.settings)  # an open table needs entries that usually stay
    size = measure(again, datetime.now(UTC)).tables["staging.records"]
    assert size.n_grown == size.n_bytes - before > 0


def test_online_store_grows_from_what_past_runs_left(grown: Warehouse) -> None:
    runs = [
        json.loads(line) for line in history_path(grown.settings.root).read_text().split("\n")[1:]
    ]
    assert len({run["online_bytes"] for run in runs}) > 1
    for run in runs:
        after = datetime.fromisoformat(run["ended"]) + timedelta(days=7, microseconds=1)
        measured = measure(grown, after)
        assert measured.online.n_bytes is not None
        assert measured.online_grown == measured.online.n_bytes - run["online_bytes"]


def test_status_says_what_maintenance_would_free(
    millrace: Callable[..., object], grown: Warehouse
) -> None:
    maintain(grown)
    home = str(grown.settings.root)
    said = millrace("status", "--home", home, MILLRACE_KEEP_DAYS="0").stdout  # type: ignore[attr-defined]
    freed = in_words(sum(item["n_bytes"] for item in maintain(grown, keep_days=0)["vacuumed"]))  # type: ignore[misc]
    assert f"millrace maintain would free {freed} now." in said
    assert "online store (SQLite)" in said


def test_setting_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_KEEP_DAYS", "3")
    assert MaintainParameters().settings().keep_days == Settings().keep_days == 3
    assert MaintainParameters(keep_days=1).settings().keep_days == 1


def test_file_that_is_much_larger_waits_for_more_small_ones(
    grown: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transforms.upkeep.maintain.FEW_ROWS", 5)
    sizes = {"large": 100, **{f"small{number}": 4 for number in range(6)}}
    monkeypatch.setattr("transforms.upkeep.maintain.n_rows_of", sizes.__getitem__)
    assert sorted(_chosen(RawRecord, grown, list(sizes))) == sorted(set(sizes) - {"large"})
    sizes["middle"] = 24
    assert sorted(_chosen(RawRecord, grown, list(sizes))) == sorted(sizes)
    assert _chosen(RawRecord, grown, ["large", "small1", "small2"]) == []


def test_tables_that_small_files_make_dear_are_compacted_and_no_others(
    grown: Warehouse, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def n_files() -> dict[str, int]:
        return {relation: len(grown.files(relation)) for relation in grown.relations()}

    before, rows = n_files(), newest(grown)
    monkeypatch.setattr("transforms.upkeep.maintain.BYTES_OF_A_COLUMN", 0)
    assert crowded(grown, 99) == []  # a file more costs nothing
    monkeypatch.setattr("transforms.upkeep.maintain.BYTES_OF_A_COLUMN", 100_000)
    dear = crowded(grown, 99)
    # of the views' tables a file has the most columns, those of activity have the least bytes
    assert {"raw.records", "features.author_activity", "features.record_quality"} <= {*dear}
    assert dear.index("features.author_activity") < dear.index("raw.records")
    parameters = MaintainParameters(home=str(grown.settings.root))
    run_maintenance(parameters, n_reads=0, relations=[], n_crowded=2)
    assert {name for name, n in n_files().items() if n < before[name]} == {*dear[:2]}
    after = newest(grown)
    assert all(after[relation].equals(rows[relation]) for relation in dear[:2])
    assert pending_work(load_source(source), grown).nothing


def test_tables_whose_logs_are_trimmed_go_on_as_others_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transforms.upkeep.log.KEPT_ENTRIES", 0)
    notes, others = Notes(tmp_path / "source"), Notes(tmp_path / "others")
    others.source.write_text(others.source.read_text().replace("name: notes", "name: others"))
    (others.folder / "data" / "0.jsonl").write_text(note(500, "2024-01-01T10:00:00Z") + "\n")
    trimmed, other = tmp_path / "trimmed", tmp_path / "other"
    for home in (trimmed, other):
        run_plain(PipelineParameters(source=str(others.source), home=str(home)))
    for number in range(3):
        notes.add()
        for home in (trimmed, other):
            run_plain(PipelineParameters(source=str(notes.source), home=str(home)))
        if number == 0:
            first = training_set(SPINE, FEATURES, trimmed)
            first.register("first")
        maintain(Warehouse(Settings(home=trimmed)), keep_days=0)
        stages._warehouse.cache_clear()  # an open table needs entries that usually stay
    warehouse = Warehouse(Settings(home=trimmed))
    log = warehouse.folder("features.author_activity") / "_delta_log"
    assert len(list(log.glob("*.json"))) < warehouse.version("features.author_activity")
    # a source that was long not run, rejected rows, and a training set of before
    assert n_unstaged(load_source(others.source), warehouse) >= 0
    replay(load_source(notes.source), warehouse)
    run_plain(PipelineParameters(source=str(others.source), home=str(trimmed)))
    assert training_set.rebuild("first", home=trimmed).frame.equals(first.frame)
    found, expected = contents(trimmed), contents(other)
    assert [name for name in served(expected) if found[name] != expected[name]] == []


def served(tables: dict[str, Any]) -> list[str]:
    return [name for name in tables if name.startswith(("staging.", "features.", "online "))]
