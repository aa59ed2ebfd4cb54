"""Every type of Feast's, by every way in and out of an online store: the same values."""

import json
import uuid
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type
from feast.types import String, from_value_type
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from feature_repo.stores.codec import encode_values
from feature_repo.stores.serving import OpenStore
from feature_repo.stores.store import Store
from tests.feature_repo.stores.feast_values import COLLECTIONS, CONVERTED_HERE_ONLY, SCALARS, column

NO_PARQUET = {pa.string_view(): pa.string()}
CASES: dict[str, tuple[ValueType, pa.DataType, st.SearchStrategy[pa.Array]]] = {}
for _place, (_kind, _type, _elements) in enumerate([*SCALARS, *COLLECTIONS]):
    _stored = NO_PARQUET.get(_type, _type)
    CASES[f"{_kind.name.lower()}_{_place}"] = (_kind, _stored, column(_stored, _elements, 3))
for _place, (_kind, _column, _) in enumerate(CONVERTED_HERE_ONLY):
    if "decimal256" not in str(_column.type):  # see the test of its own
        CASES[f"{_kind.name.lower()}_only_{_place}"] = (
            _kind,
            _column.type,
            st.just(pa.concat_arrays([_column, _column[1:]])),
        )
START = datetime(2026, 1, 1, tzinfo=UTC)

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)


def view(path: Path) -> FeatureView:
    fields = [Field(name=name, dtype=from_value_type(kind)) for name, (kind, *_) in CASES.items()]
    source = FileSource(name="values", path=str(path), timestamp_field="event_timestamp")
    return FeatureView(
        name="values",
        entities=[user],
        schema=[Field(name="user_id", dtype=String), *fields],
        source=source,
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("values")
    opened = open_store(folder)
    opened.apply([user, view(folder / "values.parquet")])
    return opened


def open_store(folder: Path) -> FeatureStore:
    config = RepoConfig(
        project="values",
        provider="local",
        registry=str(folder / "registry.db"),
        offline_store={
            "type": "feature_repo.stores.asof.AsofOfflineStore",
            "warehouse": str(folder),
        },
        batch_engine={"type": "feature_repo.stores.columnar.ColumnarComputeEngine"},
        online_store={
            "type": "feature_repo.stores.online.SqliteOnlineStore",
            "path": str(folder / "online.db"),
        },
        entity_key_serialization_version=3,
    )
    return Store(config=config)


def comparable(value: Any) -> Any:
    """Normalize NaN, UUIDs, sets, and struct fields that exist only for other rows."""
    if isinstance(value, pl.Series | list | set | tuple):
        return [
            comparable(item)
            for item in (sorted(value, key=str) if isinstance(value, set) else value)
        ]
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items() if item is not None}
    return str(value) if isinstance(value, float | uuid.UUID) else value


def parsed(value: Any, kind: ValueType) -> Any:
    """JSON, which a frame has as text."""
    if value is not None and kind == ValueType.JSON:
        return json.loads(value)
    if value is not None and kind == ValueType.JSON_LIST:
        return [json.loads(item) for item in value]
    return (
        sorted(value, key=str)
        if value is not None and kind.name.endswith("_SET") and kind != ValueType.VALUE_SET
        else value
    )


@settings(max_examples=6, phases=[Phase.generate])  # an example takes a second: it has every type
@given(
    drawn=st.fixed_dictionaries({name: arrays for name, (*_, arrays) in CASES.items()}),
    hour=st.integers(0, 10**6),
)
def test_every_value_is_served_as_it_was_written_by_materialization_and_push(
    store: FeatureStore, drawn: dict[str, pa.Array], hour: int
) -> None:
    path = Path(store.get_feature_view("values").batch_source.path)
    event = START + timedelta(hours=hour)
    names, times = pa.array(["a", "b", "c"]), pa.array([event] * 3, pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"user_id": names, "event_timestamp": times, **drawn}), path)
    with store.provider.online_store._get_conn(store.config) as connection:
        connection.execute('delete from "values_values.compact"')
    store.materialize(event, event + timedelta(hours=1), ["values"])
    pushed = {name: array.to_pylist(maps_as_pydicts="strict") for name, array in drawn.items()}
    store.write_to_online_store(
        "values", inputs={"user_id": ["pa", "pb", "pc"], "event_timestamp": [event] * 3, **pushed}
    )

    rows = [{"user_id": name} for name in ("a", "b", "c", "pa", "pb", "pc")]
    features = [f"values:{name}" for name in CASES]
    served = store.get_online_features(features, rows).to_dict()
    framed = OpenStore(store).read(features, rows)
    for name, (kind, *_) in CASES.items():
        written = [
            feast_value_type_to_python_type(Value.FromString(value))
            for value in encode_values(drawn[name], kind).to_pylist()
        ]
        assert comparable(served[name]) == comparable([*written, *written]), name
        assert comparable(
            [parsed(value, kind) for value in framed[f"values__{name}"].to_list()]
        ) == comparable(served[name]), name


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (ValueType.JSON, ['{"a": 1}', '{"a": "x"}', "[1, 2]", "3", '"text"', "null", None]),
        (ValueType.MAP, [{"a": 1}, {"a": "x"}, {"a": [1, 2], "b": {"c": True}}, {}, None]),
        (ValueType.MAP_LIST, [[{"a": 1}, {"a": "x"}], [], None]),
        (ValueType.STRUCT, [{"a": 1}, {"a": {"b": 2}}, None]),
        (ValueType.SCALAR_MAP, [{1: "x", 2: "y"}, {True: 1.5}, {uuid.UUID(int=1): b"x"}, {}, None]),
        (ValueType.ZONED_TIMESTAMP, [START.astimezone(timezone(timedelta(hours=5))), START, None]),
        (ValueType.DECIMAL, [Decimal(10) ** 60 + 1, Decimal("0.1"), Decimal("1e-50"), None]),
        (ValueType.VALUE_LIST, [[[1, 2], ["x"]], [[0.5]], None]),
    ],
)
def test_values_of_several_shapes_are_read_in_a_frame_as_feast_answers_them(
    tmp_path: Path, kind: ValueType, values: list[Any]
) -> None:
    source = FileSource(name="shapes", path="shapes", timestamp_field="event_timestamp")
    schema = [Field(name="user_id", dtype=String), Field(name="shape", dtype=from_value_type(kind))]
    store = open_store(tmp_path)
    store.apply([user, FeatureView(name="shapes", entities=[user], schema=schema, source=source)])
    names = [f"user {place}" for place in range(len(values))]
    store.write_to_online_store(
        "shapes",
        inputs={"user_id": names, "event_timestamp": [START] * len(names), "shape": values},
    )
    rows = [{"user_id": name} for name in names]
    served = store.get_online_features(["shapes:shape"], rows).to_dict()["shape"]
    framed = OpenStore(store).read(["shapes:shape"], rows)["shapes__shape"].to_list()
    assert served == [
        value if value is None or kind != ValueType.JSON else json.loads(value) for value in values
    ]
    assert [parsed(value, kind) for value in framed] == served
    if kind == ValueType.ZONED_TIMESTAMP:
        assert [value and value.utcoffset() for value in framed] == [
            timedelta(hours=5),
            timedelta(0),
            None,
        ]


def test_wide_decimals_half_floats_and_zones_are_materialized_and_materialized_again(
    tmp_path: Path,
) -> None:
    wide, half = Decimal("12345678901234567890123456789012345678901.500"), [1.5, -2.0]
    zoned = pa.timestamp("us", "Asia/Kathmandu")
    rows = {
        "wide": pa.array([wide, None], pa.decimal256(50, 3)),
        "wides": pa.array([[wide], None], pa.list_(pa.decimal256(50, 3))),
        "half": pa.array([0.5, None], pa.float16()),
        "vector": pa.array([half, None], pa.list_(pa.float16(), 2)),
        "zoned": pa.array([START, None], zoned),
    }
    kinds = (
        ValueType.DECIMAL,
        ValueType.DECIMAL_LIST,
        ValueType.FLOAT,
        ValueType.FLOAT_LIST,
        ValueType.ZONED_TIMESTAMP,
    )
    schema = [
        Field(name="user_id", dtype=String),
        *(
            Field(name=name, dtype=from_value_type(kind))
            for name, kind in zip(rows, kinds, strict=True)
        ),
    ]
    source = FileSource(name="odd", path=str(tmp_path / "odd"), timestamp_field="event_timestamp")
    store = open_store(tmp_path)
    store.apply([user, FeatureView(name="odd", entities=[user], schema=schema, source=source)])
    (tmp_path / "odd").mkdir()
    for hour, names in enumerate((["a", "b"], ["b", "c"])):
        times = pa.array([START + timedelta(hours=hour)] * 2, pa.timestamp("us", "UTC"))
        pq.write_table(
            pa.table({"user_id": names, "event_timestamp": times, **rows}),
            tmp_path / "odd" / f"{hour}.parquet",
        )
        store.materialize_incremental(START + timedelta(hours=hour + 1), ["odd"])
    served = store.get_online_features(
        [f"odd:{name}" for name in rows], [{"user_id": name} for name in "abc"]
    ).to_dict()
    first = {"wide": wide, "wides": [wide], "half": 0.5, "vector": half, "zoned": START}
    assert {name: served[name] for name in rows} == {
        name: [value, value, None] for name, value in first.items()
    }
    assert str(served["zoned"][0].tzinfo) == "Asia/Kathmandu"
