"""Spines of every form keep their columns and order; results come in every form, streamed."""

import gc
import tempfile
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from feast import FeatureStore, FeatureView
from feast.data_format import DeltaFormat, FileFormat, ParquetFormat
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from polars.testing import assert_frame_equal

from feature_repo.stores.asof import Join
from tests.feature_repo.stores.conftest import write_source

MakeStore = Callable[..., FeatureStore]
WriteView = Callable[..., FeatureView]

EVENT = "event_timestamp"
START = datetime(2024, 1, 1, tzinfo=UTC)
ROWS = pa.table(
    {"user": [1, 2, 3], EVENT: [START] * 3, "value": pa.array([5, 6, None], pa.int32())}
)
VALUES = [6, None, 5, 6, None, None]


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@pytest.fixture
def store(write_view: WriteView, make_store: MakeStore) -> FeatureStore:
    return make_store(write_view("visits", ROWS))


@pytest.fixture
def spine() -> pa.Table:
    """Six unordered rows: two equal, one without a key, one at an instant without features."""
    return pa.table(
        {
            "user": [2, 3, 1, 2, None, 2],
            EVENT: [at(1), at(1), at(2), at(1), at(1), at(-1)],
            "note": list("aabacd"),
        }
    )


# --- spines ---


@pytest.mark.parametrize(
    "form",
    [
        lambda table, _: table,
        lambda table, _: pa.concat_tables([table.slice(0, 1), table.slice(1)]),
        lambda table, _: pl.DataFrame(table),
        lambda table, _: pl.LazyFrame(table),
        lambda table, _: table.to_pandas(),
        lambda _, path: path,
        lambda _, path: str(path),
        lambda _, path: str(path.parent),
        lambda _, path: str(path.parent / "*.parquet"),
        lambda _, path: f"select * from read_parquet('{path}')",
        lambda _, path: f"\n select *\n from read_parquet('{path}') \n",
    ],
    ids=[
        "arrow",
        "chunks",
        "polars",
        "lazy",
        "pandas",
        "path",
        "text",
        "folder",
        "glob",
        "sql",
        "lines of sql",
    ],
)
def test_a_spine_of_any_form_comes_back_in_order(
    store: FeatureStore, spine: pa.Table, tmp_path: Path, form: Callable[..., Any]
) -> None:
    path = tmp_path / "spine" / "spine.parquet"
    path.parent.mkdir()
    pq.write_table(spine, path)
    result = store.get_historical_features(form(spine, path), ["visits:value"]).to_arrow()
    assert result["value"].to_pylist() == VALUES
    assert result["value"].type == pa.int32()
    assert result["note"].to_pylist() == list("aabacd")
    assert result[EVENT].to_pylist() == spine[EVENT].to_pylist()


def test_sql_reads_the_warehouse(store: FeatureStore) -> None:
    sql = (
        f"select i as \"user\", '{at(1)}'::timestamptz as event_timestamp "
        "from (values (2), (1), (2)) as entities (i)"
    )
    result = store.get_historical_features(sql, ["visits:value"]).to_arrow()
    assert sorted(zip(result["user"].to_pylist(), result["value"].to_pylist(), strict=True)) == [
        (1, 5),
        (2, 6),
        (2, 6),
    ]


def test_files_of_a_folder_are_read_in_the_order_of_their_names(
    store: FeatureStore, spine: pa.Table, tmp_path: Path
) -> None:
    folder = tmp_path / "spine"
    folder.mkdir()
    for number in (2, 0, 1):
        pq.write_table(spine.slice(2 * number, 2), folder / f"part-{number}.parquet")
    assert (
        store.get_historical_features(folder, ["visits:value"]).to_arrow()["value"].to_pylist()
        == VALUES
    )


def test_a_spine_of_many_batches_gives_what_one_batch_gives(
    write_view: WriteView, make_store: MakeStore, tmp_path: Path
) -> None:
    rows = pa.table(
        {"user": [n % 7 for n in range(70)], EVENT: [at(n) for n in range(70)], "value": range(70)}
    )
    spine = pa.table(
        {
            "number": range(50),
            "user": [n * 3 % 8 for n in range(50)],
            EVENT: [at(n * 13 % 80) for n in range(50)],
        }
    )
    pq.write_table(spine, tmp_path / "spine.parquet", row_group_size=8)
    view = write_view("visits", rows, ttl=timedelta(seconds=9))
    whole = make_store(view).get_historical_features(spine, ["visits:value"]).to_arrow()
    for form in (spine, tmp_path / "spine.parquet"):
        parts = make_store(view, batch_rows=3).get_historical_features(form, ["visits:value"])
        assert parts.to_arrow().equals(whole)
        assert max(batch.num_rows for batch in parts.to_arrow_reader()) <= 8
    assert whole.select(spine.column_names).equals(spine)
    assert 0 < whole["value"].null_count < 50


KOLKATA = pa.timestamp("ns", "Asia/Kolkata")
EXTRA = {
    "category": pa.array(["x", None, "y"]).dictionary_encode(),
    "decimal": pa.array([Decimal("1.50"), None, Decimal("-2.25")], pa.decimal128(10, 2)),
    "list": pa.array([[1], None, [2, 3]], pa.list_(pa.int16())),
    "struct": pa.array([{"a": 1}, None, {"a": 3}]),
    "binary": pa.array([b"\x00", None, b"\xff"]),
    "date": pa.array([date(2024, 1, 1), None, date(1960, 2, 29)]),
    "float": pa.array([0.5, None, float("inf")], pa.float32()),
    "small": pa.array([1, None, 255], pa.uint8()),
    "flag": pa.array([True, None, False]),
    "large": pa.array(["x", None, "z"], pa.large_string()),
    "duration": pa.array([timedelta(seconds=1), None, timedelta(0)], pa.duration("ms")),
    "elsewhere": pa.array([1, None, 1_700_000_000_000_000_001], KOLKATA),
    "naive": pa.array(
        [at(0).replace(tzinfo=None), None, at(1).replace(tzinfo=None)], pa.timestamp("ms")
    ),
    "nothing": pa.nulls(3),
}


@pytest.mark.parametrize(
    "stamp",
    [
        pa.timestamp("us", "UTC"),
        pa.timestamp("us"),
        pa.timestamp("ns"),
        KOLKATA,
        pa.timestamp("s", "America/New_York"),
    ],
)
def test_columns_of_the_spine_keep_their_types(
    store: FeatureStore, tmp_path: Path, stamp: pa.DataType
) -> None:
    instants = pa.array([at(1), at(-1), None], pa.timestamp("us", "UTC")).cast(stamp)
    spine = pa.table({"user": [1, 1, 2], EVENT: instants, **EXTRA})
    result = store.get_historical_features(spine, ["visits:value"]).to_arrow()
    assert result.drop_columns("value").equals(spine)
    assert result["value"].to_pylist() == [5, None, None]
    pq.write_table(spine, tmp_path / "spine.parquet")
    from_file = store.get_historical_features(
        tmp_path / "spine.parquet", ["visits:value"]
    ).to_arrow()
    assert from_file.drop_columns("value").equals(pq.read_table(tmp_path / "spine.parquet"))


def test_columns_of_a_polars_spine_keep_their_types(store: FeatureStore) -> None:
    extra = pl.DataFrame(
        {"category": ["x", None], "kind": ["a", "b"], "wide": [2**100, None]}
    ).with_columns(
        pl.col("category").cast(pl.Categorical),
        pl.col("kind").cast(pl.Enum(["a", "b"])),
        pl.col("wide").cast(pl.Decimal(38, 0)),
    )
    spine = pl.DataFrame({"user": [1, 2], EVENT: [at(1), at(1)]}).hstack(extra)
    result = store.get_historical_features(spine, ["visits:value"]).to_polars()
    assert_frame_equal(result, spine.with_columns(value=pl.Series([5, 6], dtype=pl.Int32)))


def test_columns_of_a_pandas_spine_keep_their_types(store: FeatureStore) -> None:
    spine = pd.DataFrame(
        {
            "user": pd.array([2, None], dtype="Int64"),
            "category": pd.Categorical(["x", "y"]),
            "when": pd.to_datetime([at(1), at(2)]),
            EVENT: pd.to_datetime([at(1), at(2)]),
        },
        index=[7, 3],
    )
    result = store.get_historical_features(spine, ["visits:value"]).to_df()
    pd.testing.assert_frame_equal(
        result[list(spine)], spine.reset_index(drop=True), check_dtype=True, check_index_type=False
    )
    assert result["value"][0] == 6
    assert pd.isna(result["value"][1])


def test_a_pandas_key_with_gaps_still_finds_its_rows(store: FeatureStore) -> None:
    spine = pd.DataFrame({"user": [2, None, 1], EVENT: [at(1)] * 3})  # pandas makes the key a float
    assert store.get_historical_features(spine, ["visits:value"]).to_arrow()[
        "value"
    ].to_pylist() == [6, None, 5]


def test_a_category_is_as_good_a_key_as_its_text(
    write_view: WriteView, make_store: MakeStore
) -> None:
    store = make_store(
        write_view(
            "items", pa.table({"item": ["a", "b"], EVENT: [at(0)] * 2, "value": [1, 2]}), ["item"]
        )
    )
    spine = pd.DataFrame({"item": pd.Categorical(["b", "a", "b"]), EVENT: [at(1)] * 3})
    assert store.get_historical_features(spine, ["items:value"]).to_arrow()[
        "value"
    ].to_pylist() == [2, 1, 2]


def test_takes_the_only_timestamp_of_a_spine_for_its_instant(store: FeatureStore) -> None:
    spine = pa.table({"user": [1, 1], "asked_at": [at(1), at(-1)]})
    result = store.get_historical_features(spine, ["visits:value"]).to_arrow()
    assert result.drop_columns("value").equals(spine)
    assert result["value"].to_pylist() == [5, None]


def test_full_names_carry_the_view_and_requests_keep_their_order(
    write_view: WriteView, make_store: MakeStore
) -> None:
    rows = ROWS.append_column("other", pa.array([1, 2, 3]))
    store = make_store(write_view("visits", rows), write_view("calls", rows, layout="folder"))
    spine = pa.table({"user": [1], EVENT: [at(1)]})
    refs = ["calls:other", "visits:value", "calls:value"]
    full = store.get_historical_features(spine, refs, full_feature_names=True).to_arrow()
    assert full.column_names == ["user", EVENT, "calls__other", "calls__value", "visits__value"]
    short = store.get_historical_features(spine, ["calls:other", "visits:value"]).to_arrow()
    assert short.column_names == ["user", EVENT, "other", "value"]


# --- results ---


def test_all_results_are_equal(store: FeatureStore, spine: pa.Table, tmp_path: Path) -> None:
    job = store.get_historical_features(spine, ["visits:value"])
    expected = job.to_arrow()
    assert job.to_arrow().equals(expected)
    reader = job.to_arrow_reader()
    assert isinstance(reader, pa.RecordBatchReader)
    assert reader.read_all().equals(expected)
    assert_frame_equal(job.to_polars(), pl.DataFrame(expected))
    pd.testing.assert_frame_equal(job.to_df(), expected.to_pandas())
    job.to_parquet(tmp_path / "result.parquet")
    assert pq.read_table(tmp_path / "result.parquet").equals(expected)
    job.persist(SavedDatasetFileStorage(str(tmp_path / "saved.parquet")))
    assert pq.read_table(tmp_path / "saved.parquet").equals(expected)


@pytest.mark.filterwarnings("ignore:.* is an experimental feature:RuntimeWarning")
def test_a_saved_dataset_is_not_overwritten_unasked(
    store: FeatureStore, spine: pa.Table, tmp_path: Path
) -> None:
    job, storage = (
        store.get_historical_features(spine, ["visits:value"]),
        SavedDatasetFileStorage(str(tmp_path / "saved.parquet")),
    )
    store.create_saved_dataset(from_=job, name="saved", storage=storage)
    saved = pl.DataFrame(store.get_saved_dataset("saved").to_arrow())
    assert_frame_equal(saved, job.to_polars().select(saved.columns), check_row_order=False)
    before = (tmp_path / "saved.parquet").read_bytes()
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(storage)
    assert (tmp_path / "saved.parquet").read_bytes() == before
    job.persist(storage, allow_overwrite=True)


@pytest.mark.parametrize("layout", ["file", "folder", "delta"])
@pytest.mark.parametrize("file_format", [ParquetFormat(), DeltaFormat()])
def test_a_saved_dataset_replaces_what_was_there(
    store: FeatureStore, spine: pa.Table, tmp_path: Path, layout: str, file_format: FileFormat
) -> None:
    path = tmp_path / "saved"
    if isinstance(file_format, DeltaFormat) != (layout == "delta"):
        layout = ""  # there is nothing yet
    if layout:
        write_source(path, pa.table({"user": [9, 9], "stale": [1, 2]}), layout)
    job, storage = (
        store.get_historical_features(spine, ["visits:value"]),
        SavedDatasetFileStorage(str(path), file_format),
    )
    job.persist(storage, allow_overwrite=True)
    saved = (
        DeltaTable(path).to_pyarrow_table()
        if isinstance(file_format, DeltaFormat)
        else pq.read_table(path)
    )
    assert_frame_equal(pl.DataFrame(saved), job.to_polars(), check_row_order=False)
    assert [file for file in tmp_path.iterdir() if "unfinished" in file.name] == []


def test_sql_of_a_job_gives_its_result(
    write_view: WriteView, make_store: MakeStore, spine: pa.Table, tmp_path: Path
) -> None:
    pq.write_table(spine, tmp_path / "spine.parquet")
    job = make_store(write_view("visits", ROWS, layout="folder")).get_historical_features(
        tmp_path / "spine.parquet", ["visits:value"]
    )
    assert "visits" in job.to_sql()
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        assert connection.sql(job.to_sql()).fetchall() == [
            tuple(row.values()) for row in job.to_arrow().to_pylist()
        ]


def test_metadata_names_features_and_keys(store: FeatureStore, spine: pa.Table) -> None:
    metadata = store.get_historical_features(spine, ["visits:value"]).metadata
    assert metadata.features == ["visits:value"]
    assert set(metadata.keys) == {"user", "note"}
    assert (metadata.min_event_timestamp, metadata.max_event_timestamp) == (at(-1), at(2))


# --- what is left behind: nothing ---


@pytest.fixture
def litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Path]]:
    """List the files and folders that a retrieval left in the warehouse or temporary folder."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return lambda: [
        path
        for folder in (temporary, tmp_path / "home")
        for path in folder.rglob("*")
        if path.is_file() or path.parent.name == "tmp"
    ]


@pytest.fixture
def spilling(write_view: WriteView, make_store: MakeStore) -> FeatureStore:
    """A view far larger than the memory given."""
    n_rows = 200_000
    columns = {f"value_{number}": pa.array(range(n_rows)) for number in range(8)}
    rows = pa.table(
        {
            "user": [n % 1_000 for n in range(n_rows)],
            EVENT: [at(n) for n in range(n_rows)],
            **columns,
        }
    )
    return make_store(
        write_view("visits", rows, layout="folder"), memory_limit="8MB", batch_rows=1_000
    )


SPILLED = pa.table({"user": [n % 1_000 for n in range(5_000)], EVENT: [at(200_000)] * 5_000})


def test_a_view_larger_than_memory_is_joined_and_its_spill_removed(
    spilling: FeatureStore, litter: Callable[[], list[Path]]
) -> None:
    result = spilling.get_historical_features(SPILLED, ["visits:value_3"]).to_arrow()
    assert result["value_3"].to_pylist() == [199_000 + n % 1_000 for n in range(5_000)]
    assert litter() == []


@pytest.mark.parametrize("keys", [["user"], []], ids=["of one key", "without keys"])
def test_a_history_larger_than_memory_is_joined_in_parts(
    write_view: WriteView,
    make_store: MakeStore,
    litter: Callable[[], list[Path]],
    monkeypatch: pytest.MonkeyPatch,
    keys: list[str],
) -> None:
    n_rows = 500_000
    rows = {EVENT: [at(n) for n in range(n_rows)], "value": pa.array(range(n_rows))}
    view = write_view("visits", pa.table({"user": [7] * n_rows, **rows}), keys, layout="folder")
    store = make_store(view, memory_limit="4MB")
    sizes = list[int]()
    timeline = Join._timeline

    def make(join: Join, read: Any, part: pa.Table) -> Any:
        sizes.append(part.nbytes)
        return timeline(join, read, part)

    monkeypatch.setattr(Join, "_timeline", make)
    asked = [n_rows - 1, 0, *range(-1, n_rows, 1_009)]
    spine = pa.table({"user": [7] * len(asked), EVENT: [at(n + 0.5) for n in asked]})
    result = store.get_historical_features(spine, ["visits:value"]).to_arrow()
    assert result["value"].to_pylist() == [None if n < 0 else n for n in asked]
    assert max(sizes) <= 4_000_000
    assert litter() == []


def test_a_reader_leaves_nothing_when_exhausted_or_abandoned(
    spilling: FeatureStore, litter: Callable[[], list[Path]]
) -> None:
    job = spilling.get_historical_features(SPILLED, ["visits:value_3"])
    assert sum(batch.num_rows for batch in job.to_arrow_reader()) == 5_000
    assert litter() == []
    reader = job.to_arrow_reader()
    assert reader.read_next_batch().num_rows > 0
    assert litter() != []  # it does spill
    del reader
    gc.collect()
    assert litter() == []


def test_a_result_that_fails_half_way_leaves_no_file(
    spilling: FeatureStore, litter: Callable[[], list[Path]], tmp_path: Path
) -> None:
    job = spilling.get_historical_features(SPILLED, ["visits:value_3"])
    with pytest.raises(OSError, match="nowhere"):
        job.to_parquet(tmp_path / "nowhere" / "result.parquet")
    assert not (tmp_path / "nowhere").exists()
    assert litter() == []
