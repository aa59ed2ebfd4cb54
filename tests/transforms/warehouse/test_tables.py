"""The warehouse: files that come and go in one commit."""

import shutil
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from transforms.errors import HomeError
from transforms.schemas.staging import AccountedFile
from transforms.warehouse import publishing
from transforms.warehouse.publishing import COMMITS_UNTIL_CHECKPOINT, AlreadyPublishedError
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import REOPENED_AFTER, Warehouse

RELATION = AccountedFile.relation()


@pytest.fixture
def publish(warehouse: Warehouse) -> Callable[..., None]:
    """Publish one row a name, in one file."""

    def run(*names: str, without: list[str] | None = None, **transactions: int) -> None:
        zeros = dict.fromkeys(("n_read", "n_staged", "n_duplicates", "n_quarantined"), 0)
        rows = [
            {"load_id": name, "source": "notes", "source_uri": "file", **zeros} for name in names
        ]
        batches = pa.Table.from_pylist(rows, AccountedFile.arrow_schema()).to_batches()
        publishing.publish(warehouse, AccountedFile, batches, transactions, without=without or [])

    return run


def loads(warehouse: Warehouse) -> list[str]:
    with connect(warehouse) as connection:
        return [
            name
            for (name,) in connection.sql(f"select load_id from {RELATION} order by all").fetchall()
        ]


def test_files_are_replaced_in_one_commit_and_older_versions_keep_them(
    warehouse: Warehouse, publish: Callable[..., None]
) -> None:
    publish("a", "b")
    version = warehouse.versions()[RELATION]
    (old,) = warehouse.files(RELATION)
    publish("b", without=[old])
    assert loads(warehouse) == ["b"]
    assert warehouse.versions()[RELATION] == version + 1
    assert warehouse.changes(RELATION, since=version) == (warehouse.files(RELATION), [old])
    assert warehouse.table_at(RELATION, version).file_uris() == [old]
    assert pq.read_table(old)["load_id"].to_pylist() == ["a", "b"]


def test_an_open_table_is_opened_again_where_another_wrote_or_recreated_it(
    warehouse: Warehouse, publish: Callable[..., None]
) -> None:
    publish("a")
    reader = Warehouse(warehouse.settings)
    assert reader.table(RELATION) is reader.table(RELATION)
    for load in ("b", "c"):
        publish(load)
        assert reader.versions() == warehouse.versions()
        assert loads(reader)[-1] == load
    newest = reader.versions()[RELATION]
    shutil.rmtree(warehouse.folder(RELATION))
    assert reader.table(RELATION) is None
    for number in range(newest):
        publish(f"new {number}", number=number)
    assert reader.versions()[RELATION] == newest
    assert loads(reader) == [f"new {number}" for number in range(newest)]


def test_a_file_may_go_with_nothing_in_its_place(
    warehouse: Warehouse, publish: Callable[..., None]
) -> None:
    publish("a")
    publish(without=warehouse.files(RELATION))
    assert loads(warehouse) == []


def test_what_replaces_files_is_published_once(
    warehouse: Warehouse, publish: Callable[..., None]
) -> None:
    publish("a")
    before = warehouse.files(RELATION)
    publish("b", without=before, move=1)
    with pytest.raises(AlreadyPublishedError):
        publish("c", without=before, move=1)
    assert loads(warehouse) == ["b"]


def test_files_that_another_run_replaced_are_not_replaced_again(
    warehouse: Warehouse, publish: Callable[..., None]
) -> None:
    publish("a", "b")
    before = warehouse.files(RELATION)
    publish("b", without=before)
    with pytest.raises(
        HomeError, match=r"^accounting\.files: another run has replaced files .* run again"
    ):
        publish("a", "b", without=before)
    assert loads(warehouse) == ["b"]
    assert len(list(warehouse.folder(RELATION).glob("*.parquet"))) == 2


def test_transactions_are_asked_for_once_and_carried_over_own_commits(
    warehouse: Warehouse, publish: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("a", first=1)
    asked: list[str] = []
    ask = DeltaTable.transaction_version

    def asking(table: DeltaTable, transaction: str) -> int | None:
        asked.append(transaction)
        return ask(table, transaction)

    monkeypatch.setattr(DeltaTable, "transaction_version", asking)
    publish("b", second=2)
    opened = warehouse.opened(RELATION)
    assert opened
    assert [opened.transaction_version(name) for name in ("first", "second")] == [1, 2]
    assert asked == ["second"]


def test_transactions_that_another_run_commits_meanwhile_are_asked_for_again(
    warehouse: Warehouse, publish: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("a")
    assert warehouse.transaction_version(RELATION, "other") is None
    other, commit = Warehouse(warehouse.settings), DeltaTable.create_write_transaction

    def after_another(table: DeltaTable, *arguments: Any, **options: Any) -> None:
        monkeypatch.setattr(DeltaTable, "create_write_transaction", commit)
        publishing.publish(other, AccountedFile, [], {"other": 3})
        commit(table, *arguments, **options)

    monkeypatch.setattr(DeltaTable, "create_write_transaction", after_another)
    publish("b", own=1)
    assert warehouse.transaction_version(RELATION, "other") == 3
    assert warehouse.transaction_version(RELATION, "own") == 1


def test_a_table_that_is_written_again_and_again_reads_few_entries_of_its_log(
    warehouse: Warehouse, publish: Callable[..., None]
) -> None:
    for number in range(2 * REOPENED_AFTER + 2):
        publish(f"load {number}", own=number)
        opened = warehouse.open_or_create(AccountedFile)
        assert opened.table.version() - opened.since < REOPENED_AFTER == COMMITS_UNTIL_CHECKPOINT
    assert warehouse.transaction_version(RELATION, "own") == 2 * REOPENED_AFTER + 1
    assert len(loads(warehouse)) == 2 * REOPENED_AFTER + 2


def test_the_log_is_checkpointed_every_few_commits_and_loses_no_version_or_transaction(
    warehouse: Warehouse, publish: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "COMMITS_UNTIL_CHECKPOINT", 3)
    for number in range(1, 6):
        publish(f"load {number}", **{f"run {number}": number})
    log = warehouse.folder(RELATION) / "_delta_log"
    assert [path.name for path in log.glob("*.checkpoint.parquet")] == [
        f"{3:020}.checkpoint.parquet"
    ]
    again = Warehouse(warehouse.settings)
    assert loads(again) == [f"load {number}" for number in range(1, 6)]
    assert [again.transaction_version(RELATION, f"run {n}") for n in range(1, 6)] == [*range(1, 6)]
    assert [len(again.table_at(RELATION, version).file_uris()) for version in range(6)] == [
        *range(6)
    ]
