"""Logs of tables: what is needed can be opened after old entries are deleted; they stay short."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError
from deltalake.transaction import CommitProperties

from transforms.schemas.raw import RawRecord
from transforms.upkeep import log
from transforms.upkeep.log import trim_log
from transforms.warehouse.publishing import COMMITS_UNTIL_CHECKPOINT, publish
from transforms.warehouse.tables import REOPENED_AFTER, Warehouse

N_VERSIONS = 30


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of thirty versions, each of one more row, with a transaction of its number."""
    monkeypatch.setattr(log, "KEPT_ENTRIES", 10)
    for number in range(N_VERSIONS):
        properties = CommitProperties(app_transactions=[Transaction("count", number)])
        rows = pa.table({"n": [number]})
        write_deltalake(tmp_path, rows, mode="append", commit_properties=properties)
    return tmp_path


def numbers(table: Path, version: int | None = None) -> list[int]:
    return sorted(DeltaTable(table, version=version).to_pyarrow_table()["n"].to_pylist())


def n_entries(table: Path) -> int:
    return len(list((table / "_delta_log").glob("*.json")))


def test_needed_versions_and_the_newest_entries_can_be_opened(table: Path) -> None:
    needed = (0, 7, 13)
    assert trim_log(table, [*needed, -1]) > 0
    assert n_entries(table) == 10 + 1
    for version in (*needed, *range(N_VERSIONS - 11, N_VERSIONS)):
        assert numbers(table, version) == list(range(version + 1))
        assert DeltaTable(table, version=version).transaction_version("count") == version
    for version in (1, 8, 18):
        with pytest.raises(DeltaError):
            DeltaTable(table, version=version)
    hint = json.loads((table / "_delta_log" / "_last_checkpoint").read_text())
    assert hint["version"] == N_VERSIONS - 1
    newest = DeltaTable(table)
    assert (newest.version(), newest.transaction_version("count")) == (29, 29)


def test_all_versions_since_one_stay(table: Path) -> None:
    trim_log(table, [], since=5)
    assert numbers(table, 5) == list(range(6))
    assert numbers(table, 6) == list(range(7))
    assert n_entries(table) == N_VERSIONS - 5


def test_short_log_is_left_alone_and_a_long_one_stays_short(table: Path) -> None:
    trim_log(table, [2])
    assert trim_log(table, [2]) == 0
    for _ in range(30):
        write_deltalake(table, pa.table({"n": [0]}), mode="append")
        trim_log(table, [2])
        assert n_entries(table) <= 2 * 10
    assert numbers(table, 2) == [0, 1, 2]
    assert len(numbers(table)) == N_VERSIONS + 30
    assert len(list((table / "_delta_log").glob("*.checkpoint.parquet"))) <= 3


def test_old_checkpoints_are_deleted_where_entries_are_left(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "KEPT_BY_CHECKPOINT", 5)
    trim_log(table, [2])
    for _ in range(9):
        write_deltalake(table, pa.table({"n": [0]}), mode="append")
        DeltaTable(table).create_checkpoint()
        trim_log(table, [2])
    versions = range(N_VERSIONS - 11, N_VERSIONS + 9)
    assert [len(numbers(table, version)) for version in (2, *versions)] == [
        version + 1 for version in (2, *versions)
    ]
    # of the needed version, of the first that has an entry, and of the newest
    assert len(list((table / "_delta_log").glob("*.checkpoint.parquet"))) == 2 + 6


def test_open_table_goes_on_reading_the_checkpoint_by_which_it_was_opened(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = COMMITS_UNTIL_CHECKPOINT + REOPENED_AFTER + 2
    assert kept < log.KEPT_BY_CHECKPOINT < log.KEPT_ENTRIES
    monkeypatch.setattr(log, "KEPT_ENTRIES", kept)
    raw = RawRecord.relation()
    n_trimmed = 0
    for number in range(3 * kept):
        publish(warehouse, RawRecord, [], {"count": number})
        other = Warehouse(warehouse.settings)
        assert other.transaction_version(raw, "count") == number
        n_trimmed += trim_log(warehouse.folder(raw), []) > 0
        for opened in (warehouse, other):
            assert opened.transaction_version(raw, f"unknown {number}") is None
    assert n_trimmed > 0
    assert n_entries(warehouse.folder(raw)) <= 2 * kept


def test_killed_between_two_deletions_the_table_can_be_opened(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = Path.unlink, 8

    def unlink(path: Path) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        real(path)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(KeyboardInterrupt):
        trim_log(table, [3])
    monkeypatch.setattr(Path, "unlink", real)
    for version in (3, N_VERSIONS - 11, N_VERSIONS - 1):
        assert numbers(table, version) == list(range(version + 1))
    trim_log(table, [3])
    assert n_entries(table) == 11


def test_table_that_is_open_at_a_needed_version_is_not_taken_for_the_newest(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "KEPT_ENTRIES", 5)
    raw = RawRecord.relation()
    for number in range(5):
        publish(warehouse, RawRecord, [], {"count": number})
    other = Warehouse(warehouse.settings)
    version = other.version(raw)
    for number in range(5, 25):
        publish(warehouse, RawRecord, [], {"count": number})
    assert trim_log(warehouse.folder(raw), [version]) > 0
    assert other.version(raw) == warehouse.version(raw) == version + 20
    assert other.files(raw, since=version) == []
