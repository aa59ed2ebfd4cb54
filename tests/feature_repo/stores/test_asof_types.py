"""Every value comes back in its source's Arrow type, in training, in pulls and online."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.data_format import FileFormat, ParquetFormat
from feast.infra.common.materialization_job import MaterializationTask
from feast.types import from_value_type
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from feature_repo.stores import columnar
from feature_repo.stores.asof import AsofOfflineStore
from feature_repo.stores.columnar import Materialization
from tests.feature_repo.stores.conftest import write_source
from tests.feature_repo.stores.feast_values import (
    COLLECTIONS,
    SCALARS,
    Elements,
    column,
    floats,
    lists,
    numbers,
    texts,
)

MakeStore = Callable[..., FeatureStore]
WriteView = Callable[..., FeatureView]

EVENT = "event_timestamp"
START = datetime(2024, 1, 1, tzinfo=UTC)
END = START + timedelta(days=1)
small, halves = st.integers(0, 100), floats.map(np.float16)
BOTH = pa.struct([("a", pa.int64()), ("A", pa.string())])
# types that Feast maps to its own, or that a source may have beside them
OTHERS: list[tuple[ValueType, pa.DataType, Elements]] = [
    (ValueType.FLOAT, pa.float16(), halves),
    (ValueType.FLOAT_LIST, pa.list_(pa.float16()), lists(halves)),
    (ValueType.DECIMAL, pa.decimal256(60, 3), st.integers(-(10**50), 10**50).map(Decimal)),
    (
        ValueType.DECIMAL_LIST,
        pa.list_(pa.decimal256(60, 0)),
        lists(st.integers(-(10**50), 10**50).map(Decimal)),
    ),
    (ValueType.UUID, pa.uuid(), st.uuids().map(lambda value: value.bytes)),
    (
        ValueType.MAP,
        pa.map_(pa.string(), pa.int64()),
        st.dictionaries(texts, numbers, max_size=3).map(lambda value: list(value.items())),
    ),
    (
        ValueType.SCALAR_MAP,
        pa.map_(pa.int64(), pa.string()),
        st.dictionaries(small, texts, max_size=3).map(lambda value: list(value.items())),
    ),
    (ValueType.STRUCT, BOTH, st.fixed_dictionaries({"a": small, "A": texts})),
    (
        ValueType.ZONED_TIMESTAMP,
        pa.timestamp("us", "Asia/Kolkata"),
        st.datetimes(datetime(1902, 1, 1), datetime(2200, 1, 1)),  # noqa: DTZ001
    ),
    (ValueType.ZONED_TIMESTAMP, pa.timestamp("ms", "+05:30"), small),
    (ValueType.UNIX_TIMESTAMP, pa.timestamp("ns", "UTC"), st.integers(0, 2**62)),
    (ValueType.STRING_LIST, pa.large_list(pa.large_string()), lists(texts)),
    (ValueType.STRING_LIST, pa.list_(pa.string_view()), lists(texts)),
    (ValueType.BYTES, pa.binary_view(), st.binary(max_size=40)),
    (ValueType.BYTES, pa.binary(3), st.binary(min_size=3, max_size=3)),
    (ValueType.STRING, pa.dictionary(pa.int8(), pa.large_string()), texts),
    (ValueType.INT64, pa.uint64(), st.integers(0, 2**64 - 1)),
    (ValueType.INT64, pa.duration("us"), small),
    (ValueType.INT64, pa.time64("us"), small),
    (ValueType.STRING, pa.null(), st.none()),
]
KINDS = [*SCALARS, *COLLECTIONS, *OTHERS]
# what Delta has no type for, or gives another one
NOT_IN_DELTA = [
    pa.decimal256(60, 3),
    pa.list_(pa.decimal256(60, 0)),
    pa.float16(),
    pa.list_(pa.float16()),
    pa.uuid(),
    BOTH,
]
NOT_IN_DELTA += [
    pa.duration("us"),
    pa.time64("us"),
    pa.uint64(),
    pa.uint8(),
    pa.timestamp("ms", "+05:30"),
    pa.null(),
]
NOT_IN_DELTA += [kind for _, kind, _ in KINDS if pa.types.is_dictionary(kind)]


def test_every_type_of_feasts_is_tried() -> None:
    untried = set(ValueType) - {kind for kind, *_ in KINDS}
    assert untried == {ValueType.UNKNOWN, ValueType.NULL}  # no field may have these


def define(path: Path, rows: pa.Table, file_format: Any, kinds: list[ValueType]) -> FeatureView:
    """Define a view with the given Feast types for the columns after the key and the instant."""
    names = rows.column_names[2:]
    fields = [
        Field(name=name, dtype=from_value_type(kind))
        for name, kind in zip(names, kinds, strict=True)
    ]
    return FeatureView(
        name="everything",
        entities=[Entity(name="user", join_keys=["user"], value_type=ValueType.INT64)],
        schema=[Field(name="user", dtype=from_value_type(ValueType.INT64)), *fields],
        source=FileSource(
            name="everything_source", path=str(path), file_format=file_format, timestamp_field=EVENT
        ),
    )


def write_rows(path: Path, rows: pa.Table, layout: str) -> FileFormat:
    """Write rows of any type; the first file of a folder has all but the last row."""
    if layout != "folder":
        return write_source(path, rows, layout)
    path.mkdir(exist_ok=True)
    for number, part in enumerate((rows.slice(0, len(rows) - 1), rows.slice(len(rows) - 1))):
        pq.write_table(part, path / f"{number}.parquet")
    return ParquetFormat()


def materialized(store: FeatureStore, view: FeatureView) -> pa.Table:
    """Take what the columnar engine hands to the online store."""
    chunks: list[pa.RecordBatch] = []

    @contextmanager
    def keep(*_: Any) -> Iterator[Callable[[pa.RecordBatch], int]]:
        yield lambda chunk: chunks.append(chunk) or chunk.num_rows

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columnar, "bulk_writer", keep)
        patch.setattr(Materialization, "_witness", lambda *_: "")
        task = MaterializationTask(
            store.project, view, START, END, lambda total: tqdm(total=total, disable=True)
        )
        Materialization(store.config, store._get_provider().online_store, view, chunk_rows=2).run(
            task
        )
    return pa.Table.from_batches(chunks)


def values(table: pa.Table, names: list[str]) -> list[str]:
    """Values by key as text, in which NaN equals NaN."""
    return [
        repr(row)
        for row in sorted(table.select(["user", *names]).to_pylist(), key=lambda row: row["user"])
    ]


def source_types(path: Path, layout: str) -> pa.Schema:
    return (
        pa.schema(DeltaTable(path).schema().to_arrow())
        if layout == "delta"
        else pads.dataset(path).schema
    )


@pytest.mark.parametrize("layout", ["file", "folder", "delta"])
@given(drawn=st.tuples(*(column(kind, elements, 3) for _, kind, elements in KINDS)))
# a case is all types at once
@settings(max_examples=3, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@pytest.mark.filterwarnings("ignore")  # Feast's and Polars' notes on types that are new
def test_values_come_back_as_the_sources_own_type(
    make_store: MakeStore, tmp_path: Path, layout: str, drawn: tuple[pa.Array, ...]
) -> None:
    chosen = [
        place
        for place, (_, kind, _) in enumerate(KINDS)
        if layout != "delta" or kind not in NOT_IN_DELTA
    ]
    names, kinds = [f"f{place}" for place in chosen], [KINDS[place][0] for place in chosen]
    rows = pa.table(
        [
            pa.array([1, 2, 3]),
            pa.array([START] * 3, pa.timestamp("us", "UTC")),
            *(drawn[place] for place in chosen),
        ],
        ["user", EVENT, *names],
    )
    path = tmp_path / ("everything.parquet" if layout == "file" else "everything")
    view = define(path, rows, write_rows(path, rows, layout), kinds)
    own, store = source_types(path, layout), make_store(view)
    arguments = (store.config, view.batch_source, ["user"], names, EVENT, None)
    given_out = {
        "history": store.get_historical_features(
            rows.select(["user", EVENT]), [f"everything:{name}" for name in names]
        ).to_arrow(),
        "all": AsofOfflineStore.pull_all_from_table_or_query(*arguments, START, END).to_arrow(),
        "latest": AsofOfflineStore.pull_latest_from_table_or_query(
            *arguments, START, END
        ).to_arrow(),
        "online": materialized(store, view),
    }
    for way, table in given_out.items():
        assert [(name, table.schema.field(name).type) for name in names] == [
            (name, own.field(name).type) for name in names
        ], way
    expected = values(given_out.pop("all"), names)
    assert expected == values(rows, names) or layout == "delta"
    for way, table in given_out.items():
        assert values(table, names) == expected, way
    nobody = pa.table({"user": [9], EVENT: [END]})
    for spine, n_null in ((nobody, 1), (nobody.slice(1), 0)):
        empty = store.get_historical_features(
            spine, [f"everything:{name}" for name in names]
        ).to_arrow()
        assert [empty.schema.field(name).type for name in names] == [
            own.field(name).type for name in names
        ]
        assert {empty[name].null_count for name in names} == {n_null}


def test_a_view_larger_than_memory_keeps_its_types(make_store: MakeStore, tmp_path: Path) -> None:
    """Through the files that its rows are spilled to, and back."""
    users = pa.array(range(100))
    extra = {
        "half": pa.array(np.arange(100), pa.float16()),
        "wide": pa.array([Decimal(10**50)] * 100, pa.decimal256(60, 0)),
    }
    extra["texts"] = pa.array([[str(number)] for number in range(100)], pa.list_(pa.string_view()))
    rows = pa.table(
        {"user": users, EVENT: pa.array([START] * 100, pa.timestamp("us", "UTC")), **extra}
    )
    path = tmp_path / "everything"
    view = define(
        path,
        rows,
        write_rows(path, rows, "folder"),
        [ValueType.FLOAT, ValueType.DECIMAL, ValueType.STRING_LIST],
    )
    store = make_store(view)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("feature_repo.stores.asof.n_partitions", lambda *_: 7)
        patch.setattr("feature_repo.stores.columnar.n_partitions", lambda *_: 7)
        spine = rows.select(["user", EVENT]).take(pa.array([5, 99, 0, 7] * 3))
        result = store.get_historical_features(
            spine, [f"everything:{name}" for name in extra]
        ).to_arrow()
        online = materialized(store, view)
    assert result["texts"].to_pylist() == [["5"], ["99"], ["0"], ["7"]] * 3
    assert [result.schema.field(name).type for name in extra] == [
        column.type for column in extra.values()
    ]
    assert online["user"].to_pylist() == list(range(100))  # in the order of the keys
    assert [online.schema.field(name).type for name in extra] == [
        column.type for column in extra.values()
    ]


def test_frames_say_what_arrow_says(write_view: WriteView, make_store: MakeStore) -> None:
    rows = pa.table(
        {
            "user": [1, 2],
            EVENT: [START] * 2,
            "texts": [["a"], None],
            "n": pa.array([1, None], pa.int32()),
            "s": ["x", None],
        }
    )
    store = make_store(write_view("visits", rows, layout="folder"))
    job = store.get_historical_features(
        rows.select(["user", EVENT]), ["visits:texts", "visits:n", "visits:s"]
    )
    assert job.to_polars().schema == pl.Schema(
        {
            "user": pl.Int64,
            EVENT: pl.Datetime("us", "UTC"),
            "texts": pl.List(pl.String),
            "n": pl.Int32,
            "s": pl.String,
        }
    )
    assert list(job.to_df()["texts"][0]) == ["a"]
    assert job.to_df()["texts"][1] is None


@pytest.mark.parametrize(
    "kind",
    [
        pa.timestamp("us", "UTC"),
        pa.timestamp("us"),
        pa.timestamp("ms"),
        pa.timestamp("ns", "UTC"),
        pa.date32(),
    ],
)
@pytest.mark.parametrize(
    "asked", [pa.timestamp("ns"), pa.timestamp("us", "Asia/Kolkata"), pa.timestamp("s")]
)
def test_an_instant_is_a_key_whatever_it_is_counted_in(
    make_store: MakeStore, tmp_path: Path, kind: pa.DataType, asked: pa.DataType
) -> None:
    days = pa.array([START, START + timedelta(days=1)], pa.timestamp("us", "UTC"))
    rows = pa.table({"day": days.cast(kind), EVENT: [START] * 2, "value": [1, 2]})
    path = tmp_path / "days.parquet"
    view = FeatureView(
        name="days",
        entities=[Entity(name="day", join_keys=["day"], value_type=ValueType.UNIX_TIMESTAMP)],
        schema=[
            Field(name="day", dtype=from_value_type(ValueType.UNIX_TIMESTAMP)),
            Field(name="value", dtype=from_value_type(ValueType.INT64)),
        ],
        source=FileSource(
            name="days_source",
            path=str(path),
            file_format=write_source(path, rows, "file"),
            timestamp_field=EVENT,
        ),
    )
    missed = [START + timedelta(seconds=1), datetime(1700, 1, 1, tzinfo=UTC)][
        : 1 if asked.unit == "ns" else 2
    ]
    spine = pa.table(
        {"day": pa.array([*days.to_pylist(), *missed], pa.timestamp("us", "UTC")).cast(asked)}
    )
    spine = spine.append_column(EVENT, pa.array([END] * len(spine)))
    store = make_store(view)
    assert store.get_historical_features(spine, ["days:value"]).to_arrow()["value"].to_pylist() == [
        1,
        2,
        *(None for _ in missed),
    ]
    pandas = pd.DataFrame(
        {"day": pd.to_datetime([START.replace(tzinfo=None)]).as_unit("ns"), EVENT: [END]}
    )
    assert store.get_historical_features(pandas, ["days:value"]).to_arrow()[
        "value"
    ].to_pylist() == [1]
