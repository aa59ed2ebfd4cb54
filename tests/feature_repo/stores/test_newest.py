"""Newest rows: which are listed, and which files are read for them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.stores import newest, sources
from feature_repo.stores.newest import latest, list_rows, picked
from feature_repo.stores.sources import Index, Snapshot
from feature_repo.stores.timeline import INSTANT

TIMES = {INSTANT: "event_timestamp"}
COLUMNS = {"user": "user", "value": "value"}


def snapshot(folder: Path, *files: Sequence[tuple[str, int]]) -> Snapshot:
    """Write files of users and hours; a value names its file and row."""
    paths = []
    for number, rows in enumerate(files):
        times = [datetime(2024, 1, 1, hour, tzinfo=UTC) for _, hour in rows]
        table = pa.table(
            {
                "user": pa.array([user for user, _ in rows], pa.string()),
                "value": pa.array([10 * number + row for row in range(len(rows))], pa.int64()),
                "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
            }
        )
        paths.append(str(folder / f"{number}.parquet"))
        pq.write_table(table, paths[-1])
    return Snapshot(str(folder), None, tuple(paths), table.schema, (), {})


def hour_us(hour: int) -> int:
    return int(datetime(2024, 1, 1, hour, tzinfo=UTC).timestamp()) * 1_000_000


def seen(
    index: Index, arrived: Sequence[str], passed: Sequence[tuple[int, int]]
) -> list[tuple[object, ...]]:
    with duckdb.connect() as connection:
        list_rows(connection, index, arrived, passed)
        return connection.sql(
            "select key_0, place, has_arrived from seen order by place"
        ).fetchall()


@pytest.mark.parametrize("few", [0, 100], ids=["batch by batch", "at once"])
def test_rows_of_changed_entities_alone_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(newest, "FEW_ROWS", few)
    rows = snapshot(
        tmp_path, [("ann", 1), ("bob", 2), ("cy", 9)], [], [("dee", 4), ("bob", 1)], [("ann", 3)]
    )
    index = Index(rows, ["user"], TIMES)
    last = rows.identities[-1]
    everything = [
        *(("ann", 0, False), ("bob", 1, False), ("cy", 2, False)),
        *(("dee", 3, False), ("bob", 4, False), ("ann", 5, True)),
    ]
    assert seen(index, [last], []) == everything
    # ann has a row of the file that has come, dee one of an hour that has passed since
    assert seen(index, [last], [(hour_us(3), hour_us(4))]) == [
        row for row in everything if row[0] in {"ann", "dee"}
    ]
    assert seen(index, [], [(hour_us(4), hour_us(8))]) == []


def test_files_without_a_row_that_is_wanted_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = snapshot(tmp_path, [("ann", 1), ("bob", 2)], [("ann", 3), ("cy", 1)], [("bob", 1)])
    read = []

    def batches(file: object, *arguments: object) -> object:
        read.append(Path(file.path).stem)  # type: ignore[attr-defined]
        yield from original(file, *arguments)  # type: ignore[arg-type]

    original = sources._batches
    monkeypatch.setattr(sources, "_batches", batches)
    with duckdb.connect() as connection:
        list_rows(connection, Index(rows, ["user"], TIMES))
        connection.execute("delete from seen where key_0 = 'bob'")
        found = latest(connection, Index(rows, ["user"], TIMES), hour_us(0), hour_us(23))
        values = [
            batch["value"].take(places).to_pylist()
            for _, batch, places in picked(rows, COLUMNS, found)
        ]
    assert values == [[10, 11]]
    assert read == ["1"]
