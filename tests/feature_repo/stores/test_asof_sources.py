"""Sources read and written: pulls, appends, logs, schemas, snapshots, object storage, errors."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    FileSource,
    PushSource,
    ValueType,
)
from feast.data_format import DeltaFormat, ParquetFormat
from feast.data_source import PushMode
from feast.feature_logging import FeatureServiceLoggingSource, LoggingConfig
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.types import Float64, Int64, String

from benchmarks.servers import Address
from feature_repo.stores.asof import AsofOfflineStore
from transforms.errors import HomeError

MakeStore = Callable[..., FeatureStore]
WriteView = Callable[..., FeatureView]

EVENT, CREATED = "event_timestamp", "created_timestamp"
START = datetime(2024, 1, 1, tzinfo=UTC)
LAYOUTS = ["delta", "file", "folder", "hive"]


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


# --- pulls ---

PULLED = pa.table(
    {
        "user": [1, 1, 1, 2, 2, 3],
        EVENT: [at(1), at(2), at(2), at(1), at(5), at(6)],
        CREATED: [at(9), at(3), at(4), at(1), at(5), at(6)],
        "value": [10, 11, 12, 20, 21, 30],
    }
)


def pull(
    store: FeatureStore,
    view: FeatureView,
    which: str,
    keys: list[str],
    span: tuple[datetime | None, datetime | None],
) -> pa.Table:
    source = view.batch_source
    run = getattr(AsofOfflineStore, f"pull_{which}_from_table_or_query")
    columns = [feature.name for feature in view.features]
    named = dict(zip(("start_date", "end_date"), span, strict=True))
    arguments = (
        store.config,
        source,
        keys,
        columns,
        source.timestamp_field,
        source.created_timestamp_column,
    )
    return run(*arguments, **named).to_arrow()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("zone", ["UTC", None, "Asia/Kolkata"])
def test_pulls_the_newest_row_of_each_entity(
    write_view: WriteView, make_store: MakeStore, layout: str, zone: str | None
) -> None:
    kind = pa.timestamp("us", zone)
    stamps = pa.schema(
        [("user", pa.int64()), (EVENT, kind), (CREATED, kind), ("value", pa.int64())]
    )
    view = write_view("visits", PULLED.cast(stamps), layout=layout)
    result = pull(make_store(view), view, "latest", ["user"], (at(1), at(5)))
    assert sorted(zip(result["user"].to_pylist(), result["value"].to_pylist(), strict=True)) == [
        (1, 12),
        (2, 21),
    ]
    assert set(result.column_names) == {"user", "value", EVENT, CREATED}


@pytest.mark.parametrize(
    "folder", ["value=7", "user=9", "it's #1 50% ?*é", "event_timestamp=x", "{a,b}"]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_name_of_a_folder_above_a_source_and_a_spine_is_no_data(
    write_view: WriteView, make_store: MakeStore, tmp_path: Path, layout: str, folder: str
) -> None:
    view = write_view("visits", PULLED, layout=layout, folder=folder)
    store = make_store(view)
    assert sorted(pull(store, view, "all", ["user"], (None, None))["value"].to_pylist()) == [
        10,
        11,
        12,
        20,
        21,
        30,
    ]
    spine = tmp_path / folder / "spine[1].parquet"
    pq.write_table(pa.table({"user": [1, 2], EVENT: [at(3), at(9)]}), spine)
    pq.write_table(pa.table({"user": [3], EVENT: [at(9)]}), tmp_path / folder / "spine1.parquet")
    joined = store.get_historical_features(spine, ["visits:value"]).to_arrow()
    assert joined.sort_by("user").select(["user", "value"]).to_pylist() == [
        {"user": 1, "value": 12},
        {"user": 2, "value": 21},
    ]


@pytest.mark.parametrize("folder", ["back\\slash", "pct%20x"])
def test_a_folder_in_which_delta_cannot_open_a_table_is_refused(
    define_view: Callable[..., FeatureView], make_store: MakeStore, tmp_path: Path, folder: str
) -> None:
    tmp_path.joinpath(folder, "visits", "_delta_log").mkdir(parents=True)
    view = define_view(
        "visits",
        str(tmp_path / folder / "visits"),
        PULLED.schema,
        ["user"],
        file_format=DeltaFormat(),
    )
    with pytest.raises(
        HomeError,
        match=r"no table can be kept under a path with .(\\\\|%20).; choose another folder",
    ):
        pull(make_store(view), view, "all", ["user"], (None, None))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((at(2), at(5)), [11, 12, 21]),  # both ends belong to it
        ((at(2).replace(tzinfo=None), at(5).replace(tzinfo=None)), [11, 12, 21]),
        ((None, at(1)), [10, 20]),
        ((at(5), None), [21, 30]),
        ((None, None), [10, 11, 12, 20, 21, 30]),
        ((at(7), at(8)), []),
    ],
)
def test_pulls_all_rows_of_a_span(
    write_view: WriteView,
    make_store: MakeStore,
    layout: str,
    span: tuple[datetime | None, datetime | None],
    expected: list[int],
) -> None:
    view = write_view("visits", PULLED, layout=layout)
    result = pull(make_store(view), view, "all", ["user"], span)
    assert sorted(result["value"].to_pylist()) == expected
    assert set(result.column_names) == {"user", "value", EVENT, CREATED}


@pytest.mark.parametrize(("which", "expected"), [("latest", [21]), ("all", [10, 11, 12, 20, 21])])
def test_pulls_a_view_without_entities_under_feasts_key(
    write_view: WriteView, make_store: MakeStore, which: str, expected: list[int]
) -> None:
    view = write_view("weather", PULLED.drop_columns("user"), [])
    result = pull(make_store(view), view, which, [], (at(0), at(5)))
    assert sorted(result["value"].to_pylist()) == expected
    assert set(result[DUMMY_ENTITY_ID].to_pylist()) == {DUMMY_ENTITY_VAL}


@pytest.mark.parametrize("keys", [["user"], []])
def test_what_is_pulled_is_what_is_served(
    write_view: WriteView, make_store: MakeStore, keys: list[str]
) -> None:
    """Feast's own materialization, with renamed columns of the source."""
    rows = PULLED if keys else PULLED.drop_columns("user")
    store = make_store(
        write_view("visits", rows.rename_columns({"value": "v"}), keys, mapping={"v": "value"})
    )
    store.materialize(at(0) - timedelta(days=1), at(5), ["visits"])
    served = store.get_online_features(
        ["visits:value"],
        [{"user": 1}, {"user": 2}] if keys else [{DUMMY_ENTITY_ID: DUMMY_ENTITY_VAL}],
    ).to_dict()
    assert served["value"] == ([12, 21] if keys else [21])


def test_a_column_that_older_files_lack_is_null_in_their_rows(
    write_view: WriteView, make_store: MakeStore
) -> None:
    view = write_view("visits", PULLED, layout="folder")
    pq.write_table(
        PULLED.slice(0, 3).drop_columns("value"), Path(view.batch_source.path, "0.parquet")
    )
    pq.write_table(PULLED.slice(3), Path(view.batch_source.path, "1.parquet"))
    store = make_store(view)
    assert store.get_historical_features(ASKED, ["visits:value"]).to_arrow()[
        "value"
    ].to_pylist() == [None, 21, None]
    latest = pull(store, view, "latest", ["user"], (None, at(5)))
    assert sorted(latest["value"].to_pylist(), key=str) == [21, None]


# --- appends ---

NEW = pd.DataFrame(
    {"user": [1, 7], EVENT: [at(20), at(20)], CREATED: [at(20), at(20)], "value": [100, 700]}
)
ASKED = pa.table({"user": [1, 2, 7], EVENT: [at(30)] * 3})


def files(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*.parquet")
    }


@pytest.mark.parametrize("layout", ["delta", "folder"])
def test_appends_a_file_and_rewrites_none(
    write_view: WriteView, make_store: MakeStore, layout: str
) -> None:
    view = write_view("visits", PULLED, layout=layout)
    store, folder = make_store(view), Path(view.batch_source.path)
    before = files(folder)
    for n_files in (1, 2):
        store.write_to_offline_store("visits", NEW)
        after = files(folder)
        assert len(after) == len(before) + n_files
        assert before.items() <= after.items()
    result = store.get_historical_features(ASKED, ["visits:value"]).to_arrow()
    assert result["value"].to_pylist() == [100, 21, 700]
    if layout == "delta":
        assert DeltaTable(str(folder)).version() == 2


def test_pushes_to_the_offline_store(write_view: WriteView, make_store: MakeStore) -> None:
    view = write_view("visits", PULLED, layout="folder")
    view.stream_source = PushSource(name="pushed", batch_source=view.batch_source)
    store = make_store(view)
    store.push("pushed", NEW, to=PushMode.OFFLINE)
    assert store.get_historical_features(ASKED, ["visits:value"]).to_arrow()[
        "value"
    ].to_pylist() == [100, 21, 700]


def test_appends_under_the_names_of_the_source(
    write_view: WriteView, make_store: MakeStore
) -> None:
    store = make_store(
        write_view(
            "visits", PULLED.rename_columns({"value": "v"}), layout="folder", mapping={"v": "value"}
        )
    )
    store.write_to_offline_store("visits", NEW.rename(columns={"value": "v"}))
    assert store.get_historical_features(ASKED, ["visits:value"]).to_arrow()[
        "value"
    ].to_pylist() == [100, 21, 700]


def test_a_single_file_is_written_again_with_its_types(
    write_view: WriteView, make_store: MakeStore
) -> None:
    view = write_view("visits", PULLED, layout="file")
    path, store = Path(view.batch_source.path), make_store(view)
    kinds, at_offset = pa.dictionary(pa.int8(), pa.string()), pa.timestamp("ms", "+05:30")
    rows = PULLED.append_column("kind", pa.array(list("aababc"), kinds)).append_column(
        "when", pa.array([1] * 6, at_offset)
    )
    pq.write_table(rows, path, row_group_size=2)
    schema = pq.read_schema(path)
    new = pa.Table.from_pandas(NEW.assign(kind=["a", "z"]), preserve_index=False).append_column(
        "when", pa.array([2, 3], at_offset)
    )
    with path.open("rb") as reader:
        AsofOfflineStore.offline_write_batch(store.config, view, new, None)
        assert pq.read_table(reader).num_rows == 6  # its readers continue with the earlier rows
    assert pq.read_schema(path) == schema
    assert pq.read_table(path).slice(0, 6).to_pylist() == rows.to_pylist()
    assert pq.read_table(path)["kind"].to_pylist()[6:] == ["a", "z"]
    assert store.get_historical_features(ASKED, ["visits:value"]).to_arrow()[
        "value"
    ].to_pylist() == [100, 21, 700]
    assert [file.name for file in path.parent.iterdir()] == ["visits.parquet"]


def test_pushes_to_a_single_file_at_once_are_all_kept(
    write_view: WriteView, make_store: MakeStore
) -> None:
    view = write_view("visits", PULLED, layout="file")
    store, path = make_store(view), Path(view.batch_source.path)

    def push(number: int) -> None:
        AsofOfflineStore.offline_write_batch(
            store.config,
            view,
            pa.Table.from_pandas(NEW.assign(value=number), preserve_index=False),
            None,
        )

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(push, range(1000, 1008)))
    values = pq.read_table(path)["value"].to_pylist()
    assert sorted(values) == sorted(
        [*PULLED["value"].to_pylist(), *range(1000, 1008), *range(1000, 1008)]
    )


def test_an_append_that_fails_leaves_the_file(write_view: WriteView, make_store: MakeStore) -> None:
    view = write_view("visits", PULLED, layout="file")
    path = Path(view.batch_source.path)
    before = path.read_bytes()
    rows = pa.Table.from_pandas(NEW.assign(value=["many", "words"]), preserve_index=False)
    with pytest.raises(pa.ArrowInvalid):
        AsofOfflineStore.offline_write_batch(make_store(view).config, view, rows, None)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["visits.parquet"]


# --- logs ---


@pytest.mark.parametrize("partition_by", [None, ["__log_date"]])
def test_logs_are_appended(
    write_view: WriteView, make_store: MakeStore, tmp_path: Path, partition_by: list[str] | None
) -> None:
    view = write_view("visits", PULLED)
    destination = FileLoggingDestination(path=str(tmp_path / "logs"), partition_by=partition_by)
    service = FeatureService(
        name="served", features=[view], logging_config=LoggingConfig(destination=destination)
    )
    store = make_store(view, service)
    schema = FeatureServiceLoggingSource(service, store.project).get_schema(store.registry)
    row = {
        "user": 1,
        "visits__value": 5,
        "__log_timestamp": at(0),
        "__log_date": at(0).date(),
        "__request_id": "a",
    }
    logs = pa.Table.from_pylist([row], schema)
    store.write_logged_features(logs, service)
    before = files(tmp_path / "logs")
    assert len(before) == 1
    (tmp_path / "handed").mkdir()
    pq.write_table(logs, tmp_path / "handed" / "0.parquet")
    store.write_logged_features(tmp_path / "handed", service)
    after = files(tmp_path / "logs")
    assert len(after) == 2
    assert before.items() <= after.items()
    read = (
        store._get_provider()
        .retrieve_feature_service_logs(service, at(0), at(0), store.config, store.registry)
        .to_arrow()
    )
    # a partition's date reads as text
    assert read.select(schema.names).cast(schema).to_pylist() == logs.to_pylist() * 2


# --- schemas ---


@pytest.mark.parametrize("layout", ["delta", "folder"])
@pytest.mark.parametrize("relative", [False, True])
def test_a_view_without_a_schema_takes_its_sources(
    write_view: WriteView, make_store: MakeStore, tmp_path: Path, layout: str, *, relative: bool
) -> None:
    rows = PULLED.append_column("text", pa.array(list("abcdef"))).append_column(
        "share", pa.array([0.5] * 6)
    )
    path = Path(write_view("visits", rows, layout=layout).batch_source.path)
    view = FeatureView(
        name="inferred",
        entities=[Entity(name="user", join_keys=["user"], value_type=ValueType.INT64)],
        source=FileSource(
            path=str(path.relative_to(tmp_path)) if relative else str(path),
            file_format=DeltaFormat() if layout == "delta" else ParquetFormat(),
            timestamp_field=EVENT,
            created_timestamp_column=CREATED,
        ),
    )
    store = make_store(
        view, Entity(name="user", join_keys=["user"], value_type=ValueType.INT64), warehouse="."
    )
    applied = store.get_feature_view("inferred")
    assert {field.name: field.dtype for field in applied.features} == {
        "value": Int64,
        "text": String,
        "share": Float64,
    }
    result = store.get_historical_features(ASKED, ["inferred:text"]).to_arrow()
    assert result["text"].to_pylist() == ["c", "e", None]


# --- one snapshot ---


def test_a_commit_after_a_job_is_made_does_not_change_it(
    write_view: WriteView, make_store: MakeStore
) -> None:
    visits, calls = (
        write_view("visits", PULLED),
        write_view("calls", PULLED.rename_columns({"value": "n"}), layout="folder"),
    )
    store = make_store(visits, calls)
    job = store.get_historical_features(ASKED, ["visits:value", "calls:n"])
    assert job.metadata.versions == {"visits": 0, "calls": None}
    store.write_to_offline_store("visits", NEW)
    store.write_to_offline_store("calls", NEW.rename(columns={"value": "n"}))
    expected = {"value": [12, 21, None], "n": [12, 21, None]}
    assert job.to_arrow().select(["value", "n"]).to_pydict() == expected
    write_deltalake(visits.batch_source.path, PULLED.slice(0, 0), mode="overwrite")
    assert job.to_arrow().select(["value", "n"]).to_pydict() == expected


def test_reads_the_older_version_that_is_asked_for(
    write_view: WriteView, make_store: MakeStore
) -> None:
    visits, calls = (
        write_view("visits", PULLED),
        write_view("calls", PULLED.rename_columns({"value": "n"})),
    )
    store = make_store(visits, calls)
    store.write_to_offline_store("visits", NEW)
    newest = store.get_historical_features(ASKED, ["visits:value", "calls:n"])
    assert newest.metadata.versions == {"visits": 1, "calls": 0}
    assert newest.to_arrow()["value"].to_pylist() == [100, 21, 700]
    older = make_store(visits, calls, as_of_versions={"visits": 0}).get_historical_features(
        ASKED, ["visits:value", "calls:n"]
    )
    assert older.metadata.versions == {"visits": 0, "calls": 0}
    assert older.to_arrow()["value"].to_pylist() == [12, 21, None]


# --- object storage ---


@pytest.fixture
def remote(s3_address: Address, monkeypatch: pytest.MonkeyPatch) -> Iterator[pafs.S3FileSystem]:
    """Object storage with an empty bucket `features`, and the environment to reach it."""
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{s3_address.host}:{s3_address.port}",
        "AWS_ALLOW_HTTP": "true",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    filesystem = pafs.S3FileSystem(
        endpoint_override=environment["AWS_ENDPOINT_URL"],
        region="us-east-1",
        allow_bucket_creation=True,
        allow_bucket_deletion=True,
    )
    filesystem.create_dir("features")
    yield filesystem
    filesystem.delete_dir("features")


@pytest.mark.parametrize("layout", ["delta", "folder"])
def test_joins_pulls_and_appends_on_object_storage(
    remote: pafs.S3FileSystem,
    define_view: Callable[..., FeatureView],
    make_store: MakeStore,
    layout: str,
) -> None:
    path = f"s3://features/{layout}"
    if layout == "delta":
        write_deltalake(path, PULLED)
    else:
        for number in (0, 1):
            pq.write_table(
                PULLED.slice(3 * number, 3), f"features/folder/{number}.parquet", filesystem=remote
            )
    view = define_view(
        "visits",
        path,
        PULLED.schema,
        file_format=DeltaFormat() if layout == "delta" else ParquetFormat(),
    )
    store = make_store(view)
    job = store.get_historical_features(ASKED, ["visits:value"])
    assert job.to_arrow()["value"].to_pylist() == [12, 21, None]
    assert sorted(pull(store, view, "latest", ["user"], (at(1), at(5)))["value"].to_pylist()) == [
        12,
        21,
    ]
    store.write_to_offline_store("visits", NEW)
    spine = f"s3://features/{layout}_spine.parquet"
    store.get_historical_features(ASKED, ["visits:value"], full_feature_names=True).to_parquet(
        spine
    )
    again = store.get_historical_features(spine, ["visits:value"]).to_arrow()
    assert again["value"].to_pylist() == again["visits__value"].to_pylist() == [100, 21, 700]


# --- what is refused ---


@pytest.mark.parametrize(
    ("spine", "words"),
    [
        (pa.table({EVENT: [at(1)]}), ["visits", "'user'", EVENT]),
        (pa.table({"user": [1]}), [EVENT, "user"]),
        (pa.table({"user": [True], EVENT: [at(1)]}), ["visits", "'user'", "int64", "bool"]),
        (
            pa.table({"user": [1], "value": [3], EVENT: [at(1)]}),
            ["visits", "'value'", "full_feature_names"],
        ),
    ],
    ids=["no key", "no instant", "key of another type", "column named as a feature"],
)
def test_refuses_a_spine_that_does_not_fit(
    write_view: WriteView, make_store: MakeStore, spine: pa.Table, words: list[str]
) -> None:
    store = make_store(write_view("visits", PULLED))
    with pytest.raises(ValueError, match="spine") as raised:
        store.get_historical_features(spine, ["visits:value"]).to_arrow()
    assert [word for word in words if word.lower() not in str(raised.value).lower()] == []


def test_refuses_a_feature_that_the_source_lacks(
    write_view: WriteView, define_view: Callable[..., FeatureView], make_store: MakeStore
) -> None:
    path = write_view("visits", PULLED).batch_source.path
    promised = pa.schema([*PULLED.schema, ("mood", pa.int64())])
    store = make_store(define_view("visits", path, promised, file_format=DeltaFormat()))
    with pytest.raises(ValueError, match=r"(?s)visits.*mood"):
        store.get_historical_features(ASKED, ["visits:mood"]).to_arrow()


@pytest.mark.parametrize("file_format", [DeltaFormat(), ParquetFormat()])
def test_says_where_nothing_is(
    define_view: Callable[..., FeatureView], make_store: MakeStore, tmp_path: Path, file_format: Any
) -> None:
    store = make_store(
        define_view("visits", str(tmp_path / "absent"), PULLED.schema, file_format=file_format)
    )
    with pytest.raises(FileNotFoundError, match=r"visits.*absent"):
        store.get_historical_features(ASKED, ["visits:value"]).to_arrow()


def test_says_where_no_spine_is(
    write_view: WriteView, make_store: MakeStore, tmp_path: Path
) -> None:
    store = make_store(write_view("visits", PULLED))
    with pytest.raises(FileNotFoundError, match=r"absent\.parquet"):
        store.get_historical_features(tmp_path / "absent.parquet", ["visits:value"]).to_arrow()


def test_refuses_a_version_that_never_was(write_view: WriteView, make_store: MakeStore) -> None:
    store = make_store(write_view("visits", PULLED), as_of_versions={"visits": 7})
    with pytest.raises(ValueError, match=r"(?s)visits.*7"):
        store.get_historical_features(ASKED, ["visits:value"]).to_arrow()


def test_refuses_a_version_of_a_source_that_keeps_none(
    write_view: WriteView, make_store: MakeStore
) -> None:
    store = make_store(write_view("visits", PULLED, layout="folder"), as_of_versions={"visits": 7})
    with pytest.raises(ValueError, match=r"(?s)visits.*version"):
        store.get_historical_features(ASKED, ["visits:value"]).to_arrow()


def test_refuses_to_write_rows_that_lack_a_column(
    write_view: WriteView, make_store: MakeStore
) -> None:
    view = write_view("visits", PULLED, layout="folder")
    rows = pl.DataFrame(PULLED).drop("value").to_arrow()
    with pytest.raises(ValueError, match=r"visits.*value"):
        AsofOfflineStore.offline_write_batch(make_store(view).config, view, rows, None)
