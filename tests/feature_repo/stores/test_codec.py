"""Values and entity keys to bytes and back, against Feast's own conversions."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.online_response import OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.stores.codec import SCALARS as FAST_SCALARS
from feature_repo.stores.codec import (
    decode_values,
    encode_entity_keys,
    encode_instants,
    encode_plain_keys,
    encode_values,
)
from feature_repo.stores.values import proto_values
from tests.feature_repo.stores.feast_values import (
    COLLECTIONS,
    CONVERTED_HERE_ONLY,
    SCALARS,
    blobs,
    columns,
    numbers,
    texts,
)


def stock(column: pa.Array, value_type: ValueType) -> list[bytes]:
    protos = python_values_to_proto_values(column.to_numpy(zero_copy_only=False), value_type)
    return [proto.SerializeToString() for proto in protos]


def answered(serialized: Sequence[bytes | None], value_type: ValueType) -> list[Any]:
    """Read values as a client of Feast gets them."""
    response = GetOnlineFeaturesResponse()
    response.metadata.feature_names.val.append("feature")
    response.results.add().values.extend(Value.FromString(value or b"") for value in serialized)
    values: list[Any] = OnlineResponse(response, {"feature": value_type}).to_dict()["feature"]
    return values


def comparable(value: Any) -> Any:
    """Make NaN equal to itself, 1 unequal to 1.0 and True, and ignore the order of a map's keys."""
    if isinstance(value, list):
        return [comparable(item) for item in value]
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items()}
    return value if isinstance(value, set) else repr(value)


@given(columns([*SCALARS, *COLLECTIONS]))
def test_every_type_is_written_as_feast_writes_it(case: tuple[ValueType, pa.Array]) -> None:
    value_type, column = case
    assert encode_values(column, value_type).to_pylist() == stock(column, value_type)


@given(columns([*SCALARS, *COLLECTIONS]), st.integers(0, 3))
def test_slices_and_chunks_are_written_as_the_whole(
    case: tuple[ValueType, pa.Array], cut: int
) -> None:
    value_type, column = case
    whole = encode_values(column, value_type).to_pylist()
    assert (
        encode_values(pa.chunked_array([column[:cut], column[cut:]]), value_type).to_pylist()
        == whole
    )
    if value_type in FAST_SCALARS:  # Feast itself converts by the first value of what it is given
        assert encode_values(column[cut:], value_type).to_pylist() == whole[cut:]


@given(columns([*SCALARS, *COLLECTIONS]))
def test_every_type_is_read_as_feast_answers_it(case: tuple[ValueType, pa.Array]) -> None:
    value_type, column = case
    serialized = [*encode_values(column, value_type).to_pylist(), None]
    assert comparable(decode_values(serialized, value_type)) == comparable(
        answered(serialized, value_type)
    )


def test_every_type_of_feast_is_among_those_tried() -> None:
    tried = {value_type for value_type, *_ in [*SCALARS, *COLLECTIONS, *CONVERTED_HERE_ONLY]}
    assert tried == {*ValueType} - {ValueType.UNKNOWN, ValueType.NULL}


@pytest.mark.parametrize(
    ("value_type", "column"),
    [
        (ValueType.INT64_LIST, pa.array([[1, None]])),
        (ValueType.INT32_SET, pa.array([[1, None]], pa.list_(pa.int32(), 2))),
        (ValueType.STRING_LIST, pa.array([["a", None]], pa.large_list(pa.string()))),
        (ValueType.BOOL_LIST, pa.array([[True, None]])),
        (ValueType.BYTES_LIST, pa.array([[b"a", None]])),
        (ValueType.UUID_SET, pa.array([[str(uuid.UUID(int=1)), None]])),
        (ValueType.DECIMAL_LIST, pa.array([[Decimal(1), None]])),
        (ValueType.MAP, pa.array([{"a": [1, None]}])),
        (ValueType.MAP, pa.array(['{"a": {"b": [1, null]}}'])),
        (ValueType.STRUCT, pa.array([{"a": ["x", None]}])),
        (
            ValueType.SCALAR_MAP,
            pa.array([[(1, [1, None])]], pa.map_(pa.int64(), pa.list_(pa.int64()))),
        ),
        (ValueType.VALUE_LIST, pa.array([[[1, None]]])),
    ],
)
def test_null_inside_of_a_list_is_refused_not_made_another_value(
    value_type: ValueType, column: pa.Array
) -> None:
    with pytest.raises(ValueError, match="null inside of a list"):
        encode_values(column, value_type)
    with pytest.raises(ValueError, match="null inside of a list"):
        proto_values(column.to_pylist(maps_as_pydicts="strict"), value_type)


@pytest.mark.parametrize("value_type", [ValueType.INT64, ValueType.INT32])
def test_a_fraction_is_no_integer(value_type: ValueType) -> None:
    assert decode_values(
        encode_values(pa.array([1.0, None, float("nan")]), value_type).to_pylist(), value_type
    ) == [1, None, None]
    with pytest.raises(ValueError, match="truncated"):
        encode_values(pa.array([1.5]), value_type)
    with pytest.raises(ValueError, match="float"):
        proto_values([1.5], value_type)


@given(columns([*SCALARS, *COLLECTIONS]))
def test_plain_values_are_written_as_a_column_of_them(case: tuple[ValueType, pa.Array]) -> None:
    value_type, column = case
    given_values = column.to_pylist()
    expected = [Value.FromString(value) for value in encode_values(column, value_type).to_pylist()]
    answered_values = [
        feast_value_type_to_python_type(value) for value in proto_values(given_values, value_type)
    ]
    assert comparable(answered_values) == comparable(
        [feast_value_type_to_python_type(value) for value in expected]
    )


@pytest.mark.parametrize(("value_type", "column", "expected"), CONVERTED_HERE_ONLY)
def test_what_feast_refuses_from_arrow_is_written_too(
    value_type: ValueType, column: pa.Array, expected: list[Any]
) -> None:
    serialized = encode_values(column, value_type).to_pylist()
    assert decode_values(serialized, value_type) == answered(serialized, value_type) == expected


def test_a_zoned_timestamp_keeps_its_zone() -> None:
    column = pa.array(
        [datetime(2026, 7, 1, 12, tzinfo=UTC)], pa.timestamp("us", "America/New_York")
    )
    (value,) = decode_values(
        encode_values(column, ValueType.ZONED_TIMESTAMP).to_pylist(), ValueType.ZONED_TIMESTAMP
    )
    assert value.isoformat() == "2026-07-01T08:00:00-04:00"


@pytest.mark.parametrize(
    "value_type", [ValueType.INT64, ValueType.STRING, ValueType.UNIX_TIMESTAMP]
)
def test_integers_beside_nulls_stay_exact(value_type: ValueType) -> None:
    exact = 9_007_199_254_740_993 if value_type != ValueType.UNIX_TIMESTAMP else 1_700_000_001
    serialized = encode_values(pa.array([exact, None]), value_type).to_pylist()
    assert serialized[0] == stock(pa.array([exact]), value_type)[0]
    assert decode_values(serialized, value_type)[1] is None


def test_empty_byte_strings_stay() -> None:
    assert decode_values(
        encode_values(pa.array([b"", None]), ValueType.BYTES).to_pylist(), ValueType.BYTES
    ) == [b"", None]


@pytest.mark.parametrize(
    ("column", "value_type"),
    [
        (pa.array([2**40]), ValueType.INT32),
        (pa.array(["x"]), ValueType.DOUBLE),
        (pa.array([[1]]), ValueType.MAP),
    ],
)
def test_values_that_do_not_fit_raise(column: pa.Array, value_type: ValueType) -> None:
    with pytest.raises((TypeError, ValueError, AssertionError)):
        encode_values(column, value_type)


def test_values_written_under_another_type_are_read_by_their_own() -> None:
    serialized = (
        encode_values(pa.array([7]), ValueType.INT64).to_pylist()
        + encode_values(pa.array([0.5]), ValueType.DOUBLE).to_pylist()
    )
    assert (
        decode_values(serialized, ValueType.INT64)
        == answered(serialized, ValueType.INT64)
        == [7, 0.5]
    )


def test_nothing_is_read_from_nothing() -> None:
    assert decode_values([], ValueType.INT64) == []
    assert decode_values([None, b""], ValueType.STRING) == [None, None]


KEYS = st.fixed_dictionaries(
    {},
    optional={
        "user": st.tuples(st.just(ValueType.STRING), st.just(pa.string()), texts),
        "account": st.tuples(st.just(ValueType.INT64), st.just(pa.int64()), numbers),
        "shard": st.tuples(st.just(ValueType.INT32), st.just(pa.int32()), st.integers(-5, 5)),
        "digest": st.tuples(st.just(ValueType.BYTES), st.just(pa.binary()), blobs),
        "opened": st.tuples(
            st.just(ValueType.UNIX_TIMESTAMP),
            st.just(pa.timestamp("us")),
            st.datetimes(datetime(1950, 1, 1)),  # noqa: DTZ001
        ),
        "rounded": st.tuples(
            st.just(ValueType.INT64), st.just(pa.float64()), st.integers(-100, 100).map(float)
        ),
    },
)


@given(KEYS)
def test_entity_keys_are_written_as_feast_writes_them(
    drawn: dict[str, tuple[ValueType, pa.DataType, Any]],
) -> None:
    rows = pa.table(
        {"row": [0], **{name: pa.array([value], kind) for name, (_, kind, value) in drawn.items()}}
    )
    types = {name: value_type for name, (value_type, _, _) in drawn.items()}
    values = [
        python_values_to_proto_values(rows.column(name).to_numpy(), kind)[0]
        for name, kind in types.items()
    ]
    key = EntityKey(join_keys=list(types), entity_values=values)
    assert encode_entity_keys(rows, types).to_pylist() == [serialize_entity_key(key, 3)]
    given = {name: [value] for name, (_, _, value) in drawn.items()}
    assert encode_plain_keys(given, types) in (None, [serialize_entity_key(key, 3)])


@given(st.lists(st.tuples(st.text(), st.integers(-(1 << 63), (1 << 63) - 1)), min_size=1))
def test_plain_keys_of_many_rows_are_written_as_their_columns(keys: list[tuple[str, int]]) -> None:
    columns = dict(zip(("user", "at"), map(list, zip(*keys, strict=True)), strict=True))
    types = {"user": ValueType.STRING, "at": ValueType.INT64}
    assert (
        encode_plain_keys(columns, types)
        == encode_entity_keys(pa.table(columns), types).to_pylist()
    )


@pytest.mark.parametrize(
    ("column", "value_type", "words"),
    [
        (pa.array([1, None]), ValueType.INT64, "1 of 2 entity keys are null"),
        (pa.array([0.5]), ValueType.DOUBLE, "DOUBLE"),
    ],
)
def test_keys_that_feast_does_not_take_raise(
    column: pa.Array, value_type: ValueType, words: str
) -> None:
    with pytest.raises(ValueError, match=f"column 'user'.*{words}"):
        encode_entity_keys(pa.table({"user": column}), {"user": value_type})


@given(st.lists(st.datetimes(), min_size=1))
def test_instants_are_written_as_feast_writes_them(instants: list[datetime]) -> None:
    expected = []
    for instant in instants:
        proto = Timestamp()
        proto.FromDatetime(instant)
        expected.append(proto.SerializeToString())
    assert (
        encode_instants(np.array(instants, "datetime64[us]").astype(np.int64)).to_pylist()
        == expected
    )
