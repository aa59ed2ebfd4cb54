"""Columns of every Feast value type as Arrow can represent them; Feast converts each of them."""

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
from feast.value_type import ValueType
from hypothesis import strategies as st

Elements = st.SearchStrategy[Any]

# no NUL: Postgres has none
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
# a batch whose byte strings are all empty is all null to Feast
blobs = st.binary(min_size=1, max_size=12)
doubles = st.floats(allow_nan=True, allow_infinity=True)
floats = st.floats(width=32)
numbers = st.integers(-(2**53), 2**53)  # Feast takes integers beside nulls through float64
small_numbers = st.integers(-(2**31), 2**31 - 1)
instants = st.datetimes(datetime(1902, 1, 1), datetime(2200, 1, 1))  # noqa: DTZ001 - Arrow's zone is in its type
uuids = st.uuids().map(str)
decimals = st.decimals(-1000, 1000, places=3)
booleans = st.booleans()
documents = st.dictionaries(
    st.sampled_from("abc"), st.integers(-5, 5) | st.text("xyz", max_size=3), max_size=3
)
json_texts = documents.map(json.dumps)
structs = st.fixed_dictionaries({"a": small_numbers, "b": st.text("xyz", max_size=3)})
STRUCT = pa.struct([("a", pa.int64()), ("b", pa.string())])


def lists(elements: Elements) -> Elements:
    return st.lists(elements, max_size=4)


def _of(
    items: Sequence[tuple[ValueType, pa.DataType, Elements]],
) -> list[tuple[ValueType, pa.DataType, Elements]]:
    collections = [(kind, pa.list_(item), lists(elements)) for kind, item, elements in items]
    sets = [(ValueType[kind.name.replace("_LIST", "_SET")], *rest) for kind, *rest in collections]
    return [
        *collections,
        *((kind, item, elements.filter(_is_ordered)) for kind, item, elements in sets),
    ]


def _is_ordered(values: list[Any]) -> bool:
    """Feast writes a set in Python's order, which varies if it contains NaN."""
    return all(value == value for value in values)  # noqa: PLR0124


SCALARS: list[tuple[ValueType, pa.DataType, Elements]] = [
    (ValueType.DOUBLE, pa.float64(), doubles),
    (ValueType.DOUBLE, pa.int64(), numbers),
    (ValueType.FLOAT, pa.float32(), floats),
    (ValueType.FLOAT, pa.float64(), doubles),
    (ValueType.FLOAT, pa.int64(), numbers),
    (ValueType.INT64, pa.int64(), numbers),
    (ValueType.INT64, pa.uint8(), st.integers(0, 255)),
    (ValueType.INT64, pa.float64(), st.integers(-(10**6), 10**6).map(float)),
    (ValueType.INT32, pa.int32(), small_numbers),
    (ValueType.INT32, pa.int64(), small_numbers),
    (ValueType.STRING, pa.string(), texts),
    (ValueType.STRING, pa.large_string(), texts),
    (ValueType.STRING, pa.string_view(), texts),
    (ValueType.STRING, pa.dictionary(pa.int32(), pa.string()), texts),
    (ValueType.BYTES, pa.binary(), blobs),
    (ValueType.PDF_BYTES, pa.large_binary(), blobs),
    (ValueType.IMAGE_BYTES, pa.binary(), blobs),
    (ValueType.BOOL, pa.bool_(), booleans),
    *((ValueType.UNIX_TIMESTAMP, pa.timestamp(unit), instants) for unit in ("us", "ns")),
    (ValueType.UNIX_TIMESTAMP, pa.timestamp("us", "America/New_York"), instants),
    (ValueType.UNIX_TIMESTAMP, pa.date32(), instants.map(datetime.date)),
    (ValueType.UUID, pa.string(), uuids),
    (ValueType.TIME_UUID, pa.string(), uuids),
    (ValueType.DECIMAL, pa.decimal128(10, 3), decimals),
    (ValueType.JSON, pa.string(), json_texts),
]
COLLECTIONS: list[tuple[ValueType, pa.DataType, Elements]] = [
    *_of(
        [
            (ValueType.BYTES_LIST, pa.binary(), blobs),
            (ValueType.STRING_LIST, pa.string(), texts),
            (ValueType.INT32_LIST, pa.int32(), small_numbers),
            (ValueType.INT64_LIST, pa.int64(), numbers),
            (ValueType.DOUBLE_LIST, pa.float64(), doubles),
            (ValueType.FLOAT_LIST, pa.float32(), floats),
            (ValueType.BOOL_LIST, pa.bool_(), booleans),
            (ValueType.UNIX_TIMESTAMP_LIST, pa.timestamp("us"), instants),
            (ValueType.UUID_LIST, pa.string(), uuids),
            (ValueType.TIME_UUID_LIST, pa.string(), uuids),
            (ValueType.DECIMAL_LIST, pa.decimal128(10, 3), decimals),
        ]
    ),
    (ValueType.FLOAT_LIST, pa.list_(pa.float64()), lists(doubles | st.none())),
    # longer than one byte can say
    (
        ValueType.FLOAT_LIST,
        pa.list_(pa.float32()),
        st.lists(floats, min_size=40, max_size=40),
    ),
    (ValueType.FLOAT_LIST, pa.list_(pa.float32(), 3), st.lists(floats, min_size=3, max_size=3)),
    (ValueType.DOUBLE_LIST, pa.large_list(pa.float32()), lists(floats)),
    (ValueType.MAP, STRUCT, structs),
    (ValueType.MAP, pa.string(), json_texts),
    (ValueType.MAP_LIST, pa.string(), st.lists(documents, max_size=2).map(json.dumps)),
    (ValueType.STRUCT, STRUCT, structs),
    (ValueType.STRUCT_LIST, pa.list_(STRUCT), st.lists(structs, max_size=2)),
    (ValueType.JSON_LIST, pa.list_(pa.string()), lists(json_texts)),
    (ValueType.VALUE_LIST, pa.list_(pa.list_(pa.float64())), lists(lists(doubles))),
    (ValueType.VALUE_SET, pa.list_(pa.list_(pa.string())), lists(lists(texts))),
]
AT, WIDE = (
    datetime(2026, 7, 1, 12, tzinfo=UTC),
    Decimal("12345678901234567890123456789012345678901.500"),
)
CONVERTED_HERE_ONLY: list[tuple[ValueType, pa.Array, list[Any]]] = [
    (
        ValueType.SCALAR_MAP,
        pa.array([[(1, "x")], None], pa.map_(pa.int64(), pa.string())),
        [{1: "x"}, None],
    ),
    (
        ValueType.MAP,
        pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
        [{"a": 1}, None],
    ),
    (
        ValueType.MAP_LIST,
        pa.array([[{"a": 1, "b": "x"}], None], pa.list_(STRUCT)),
        [[{"a": 1, "b": "x"}], None],
    ),
    (
        ValueType.UNIX_TIMESTAMP_LIST,
        pa.array([[AT, None], None], pa.list_(pa.timestamp("us", "UTC"))),
        [[AT, None], None],
    ),
    (
        ValueType.UNIX_TIMESTAMP_LIST,
        pa.array([[AT], None], pa.list_(pa.timestamp("ns", "UTC"))),
        [[AT], None],
    ),
    (
        ValueType.UNIX_TIMESTAMP_SET,
        pa.array([[AT], None], pa.list_(pa.timestamp("ns", "UTC"))),
        [{AT}, None],
    ),
    (ValueType.JSON_LIST, pa.array([["1", None], None]), [[1, None], None]),
    (ValueType.FLOAT, pa.array([1.5, None], pa.float16()), [1.5, None]),
    (ValueType.DOUBLE, pa.array([1.5, None], pa.float16()), [1.5, None]),
    (
        ValueType.FLOAT_LIST,
        pa.array([[1.5, -2.0], None], pa.list_(pa.float16())),
        [[1.5, -2.0], None],
    ),
    (
        ValueType.FLOAT_LIST,
        pa.array([[1.5, -2.0], None], pa.list_(pa.float16(), 2)),
        [[1.5, -2.0], None],
    ),
    (ValueType.DECIMAL, pa.array([WIDE, None], pa.decimal256(50, 3)), [WIDE, None]),
    (
        ValueType.DECIMAL_LIST,
        pa.array([[WIDE], None], pa.list_(pa.decimal256(50, 3))),
        [[WIDE], None],
    ),
    (
        ValueType.ZONED_TIMESTAMP,
        pa.array([AT, None], pa.timestamp("us", "Asia/Kathmandu")),
        [AT, None],
    ),
    (ValueType.UUID, pa.array([uuid.UUID(int=1).bytes, None], pa.uuid()), [uuid.UUID(int=1), None]),
    (ValueType.DOUBLE, pa.array([0.5, None], pa.float32()), [0.5, None]),
    (ValueType.DECIMAL, pa.array([Decimal("1.50"), None]), [Decimal("1.50"), None]),
]


@st.composite
def columns(
    draw: st.DrawFn, cases: Sequence[tuple[ValueType, pa.DataType, Elements]], size: int = 4
) -> tuple[ValueType, pa.Array]:
    """One column of some type, with nulls; one value at least shows Feast the type."""
    value_type, kind, elements = draw(st.sampled_from(cases))
    return value_type, draw(column(kind, elements, size))


def column(kind: pa.DataType, elements: Elements, size: int) -> st.SearchStrategy[pa.Array]:
    return st.lists(st.none() | elements, min_size=size, max_size=size).map(
        lambda values: pa.array(values, kind)
    )
