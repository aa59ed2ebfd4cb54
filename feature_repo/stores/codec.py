"""Feast's values and entity keys as bytes and back, a column at a time.

What is done with the bytes does not belong here.

A stored value is a `Value` proto: the tag of its type's field, then the value as protobuf writes
it. Scalars and embeddings are written with Arrow and numpy; every other type goes through Feast's
own conversion, a column at a time.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from operator import add
from struct import Struct
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from feast.infra.key_encoding_utils import _serialize_val, serialize_entity_key_prefix
from feast.protos.feast.types.Value_pb2 import (
    Value,
)
from feast.type_map import (
    NULL_TIMESTAMP_INT_VALUE,
    feast_value_type_to_python_type,
    python_values_to_proto_values,
)
from feast.value_type import ValueType
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from feature_repo.stores.values import (
    HOLD_NULLS,
    NOT_CONVERTED,
    OF_LISTS,
    OF_MAPS,
    lacks_a_part,
    proto_values,
)

Column: TypeAlias = pa.Array | pa.ChunkedArray
Bytes: TypeAlias = npt.NDArray[np.uint8]
Flags: TypeAlias = npt.NDArray[np.bool_]

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # protobuf's wire types
NULL_TIMESTAMP = int(NULL_TIMESTAMP_INT_VALUE)


class Scalar(NamedTuple):
    """How values of a type are written: the field of `Value`, and its wire type."""

    field: int
    wire: int


_BYTES = Scalar(1, LENGTH)
SCALARS: Mapping[ValueType, Scalar] = {
    ValueType.BYTES: _BYTES,
    ValueType.PDF_BYTES: _BYTES,
    ValueType.IMAGE_BYTES: _BYTES,
    ValueType.STRING: Scalar(2, LENGTH),
    ValueType.INT32: Scalar(3, VARINT),
    ValueType.INT64: Scalar(4, VARINT),
    ValueType.DOUBLE: Scalar(5, FIXED64),
    ValueType.FLOAT: Scalar(6, FIXED32),
    ValueType.BOOL: Scalar(7, VARINT),
    ValueType.UNIX_TIMESTAMP: Scalar(8, VARINT),
}
_TYPES = FieldDescriptorProto
SCALAR_TYPES: Mapping[int, int] = {
    1: _TYPES.TYPE_BYTES,
    2: _TYPES.TYPE_STRING,
    3: _TYPES.TYPE_INT64,
    4: _TYPES.TYPE_INT64,
    5: _TYPES.TYPE_DOUBLE,
    6: _TYPES.TYPE_FLOAT,
    7: _TYPES.TYPE_BOOL,
    8: _TYPES.TYPE_INT64,
}
EMBEDDINGS: Mapping[ValueType, tuple[int, pa.DataType]] = {
    ValueType.DOUBLE_LIST: (15, pa.float64()),
    ValueType.FLOAT_LIST: (16, pa.float32()),
}
PLAIN_KEYS: Mapping[ValueType, type] = {ValueType.STRING: str, ValueType.INT64: int}
TAGGED_DOUBLE = np.dtype([("tag", "u1"), ("value", "<f8")])  # without a field between
KEY_HEAD, INTEGER_KEY = Struct("<II"), Struct("<IIq")  # kind and length, and the number
KEY_FORMATS: Mapping[ValueType, str] = {
    ValueType.INT32: "<i4",
    ValueType.INT64: "<i8",
    ValueType.UNIX_TIMESTAMP: "<i8",
}


def _lists_of_scalars() -> Any:
    """A message that repeats the scalar fields of `Value`: of many values, one parse reads all."""
    file = FileDescriptorProto(name="millrace/scalars.proto", package="millrace", syntax="proto3")
    message = file.message_type.add(name="Scalars")
    for field, kind in SCALAR_TYPES.items():
        label = _TYPES.LABEL_REPEATED
        message.field.add(name=f"f{field}", number=field, type=kind, label=label)
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("millrace.Scalars"))


SCALAR_LISTS = _lists_of_scalars()


def encode_values(column: Column, value_type: ValueType) -> pa.LargeBinaryArray:
    r"""Serialize each row's value as a `Value` proto; null is b"", a null timestamp Feast's mark.

    Equal to Feast's conversion of the column, except where that one loses or refuses values:
    integers beside nulls stay exact, lists beside nulls, Arrow maps, UUIDs and zoned timestamps are
    taken; a null inside of a list is refused, where Feast puts 0 or an empty text, and a fraction
    for an integer. Raises ValueError for a column that does not fit the type.

    >>> encode_values(pa.array([3, None]), ValueType.INT64).to_pylist()
    [b' \x03', b'']
    """
    column = _whole(column)
    _refuse_nulls_inside(column, value_type)
    if value_type in (ValueType.UNIX_TIMESTAMP_LIST, ValueType.UNIX_TIMESTAMP_SET):
        column = _in_microseconds(column)
    if value_type in SCALARS and (scalars := _scalars(column, value_type)) is not None:
        return _encode_scalars(scalars, SCALARS[value_type])
    if value_type in EMBEDDINGS and _is_embedding(column.type):
        return _encode_embeddings(column, *EMBEDDINGS[value_type])
    return pa.array(
        [value.SerializeToString() for value in _feast_values(column, value_type)],
        pa.large_binary(),
    )


def encode_entity_keys(
    rows: pa.RecordBatch | pa.Table, join_keys: Mapping[str, ValueType]
) -> pa.LargeBinaryArray:
    """Serialize each row's entity key as Feast's `serialize_entity_key` does, version 3.

    Raises ValueError, naming the column, where a key is null or of a type that Feast does not take
    for a key.
    """
    names = sorted(join_keys)
    prefix = pa.scalar(serialize_entity_key_prefix(names), pa.large_binary())
    parts = [
        part
        for name in names
        for part in _key_parts(name, _whole(rows.column(name)), join_keys[name])
    ]
    if not parts:
        return pa.array([prefix.as_py()] * rows.num_rows, pa.large_binary())
    return joined(prefix, *parts)


def encode_plain_keys(
    columns: Mapping[str, Sequence[Any]], join_keys: Mapping[str, ValueType]
) -> list[bytes] | None:
    r"""Serialize keys of texts and 64-bit integers, in Python; None for others, and for no key.

    For the few rows of a request that is quicker than `encode_entity_keys`, to which it is equal.

    >>> encode_plain_keys({"n": [7]}, {"n": ValueType.INT64})[0].hex()
    '0100000002000000010000006e04000000080000000700000000000000'
    """
    names = tuple(sorted(join_keys))
    prefix, keys = _key_prefix(names), [b""] * len(columns[names[0]] if names else ())
    for name in names:
        kind = join_keys[name]
        if set(map(type, columns[name])) != {PLAIN_KEYS.get(kind)}:
            return None
        if kind == ValueType.STRING:
            texts = [text.encode() for text in columns[name]]
            parts = [KEY_HEAD.pack(kind.value, len(text)) + text for text in texts]
        else:
            size = INTEGER_KEY.size - KEY_HEAD.size
            parts = [INTEGER_KEY.pack(kind.value, size, number) for number in columns[name]]
        keys = list(map(add, keys, parts))
    return [prefix + key for key in keys] if names else None


@lru_cache
def _key_prefix(names: tuple[str, ...]) -> bytes:
    return bytes(serialize_entity_key_prefix(list(names)))


def encode_instants(microseconds: npt.NDArray[np.int64]) -> pa.LargeBinaryArray:
    r"""Serialize instants (microseconds since 1970, UTC) as `Timestamp` protos.

    >>> encode_instants(np.array([0, 1_000_000])).to_pylist()
    [b'', b'\x08\x01']
    """
    seconds, rest = np.divmod(microseconds, 1_000_000)
    return joined(
        varints(_tag(1, VARINT), seconds, seconds != 0),
        varints(_tag(2, VARINT), rest * 1000, rest != 0),
    )


def decode_values(serialized: Sequence[bytes | None], value_type: ValueType) -> list[Any]:
    r"""Read values as `OnlineResponse.to_dict` does, by the bytes' type; None for null or absent.

    The values of a feature are read as one message that repeats the fields of a `Value`.

    >>> decode_values([b'\x20\x03', b''], ValueType.INT64)
    [3, None]
    """
    present = [value for value in serialized if value]
    scalar = SCALARS.get(value_type)
    if scalar is None or {value[0] for value in present} != {_tag(scalar.field, scalar.wire)[0]}:
        return [
            feast_value_type_to_python_type(Value.FromString(value), value_type) if value else None
            for value in serialized
        ]
    if value_type == ValueType.DOUBLE:
        numbers = np.frombuffer(b"".join(present), TAGGED_DOUBLE)["value"].tolist()
        return _spread(numbers, serialized)
    values = list(getattr(SCALAR_LISTS.FromString(b"".join(present)), f"f{scalar.field}"))
    if value_type == ValueType.UNIX_TIMESTAMP:
        values = [
            None if value == NULL_TIMESTAMP else datetime.fromtimestamp(value, UTC)
            for value in values
        ]
    return _spread(values, serialized)


def _spread(values: list[Any], serialized: Sequence[bytes | None]) -> list[Any]:
    """Put None where nothing is stored, between the values that are."""
    if len(values) == len(serialized):
        return values
    left = iter(values)
    return [next(left) if value else None for value in serialized]


def _whole(column: Column) -> pa.Array:
    """One array, without a dictionary."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _scalars(column: pa.Array, value_type: ValueType) -> pa.Array | None:
    """Cast a column to the Arrow type its Feast type is written from.

    None if Feast must convert it.
    """
    kind, types = column.type, pa.types
    match value_type:
        case ValueType.DOUBLE | ValueType.FLOAT if types.is_floating(kind) or types.is_integer(
            kind
        ):
            return _without_nan(
                column.cast(pa.float64(), safe=False),
                pa.float32() if value_type == ValueType.FLOAT else pa.float64(),
            )
        case ValueType.INT32 | ValueType.INT64 if types.is_integer(kind) or types.is_floating(kind):
            whole = (
                _without_nan(column.cast(pa.float64()), pa.float64())
                if types.is_floating(kind)
                else column
            )
            return whole.cast(pa.int32() if value_type == ValueType.INT32 else pa.int64()).cast(
                pa.int64()
            )
        case ValueType.BOOL if types.is_boolean(kind):
            return column.cast(pa.int64())
        case ValueType.UNIX_TIMESTAMP if types.is_timestamp(kind) or types.is_date(kind):
            return pa.array(
                column.to_numpy(zero_copy_only=False).astype("datetime64[s]").astype(np.int64)
            )
        case ValueType.UNIX_TIMESTAMP if types.is_integer(kind):
            return column.cast(pa.int64()).fill_null(NULL_TIMESTAMP)
        case ValueType.STRING if (
            types.is_string(kind)
            or types.is_large_string(kind)
            or types.is_string_view(kind)
            or types.is_integer(kind)
        ):
            return column.cast(pa.large_string()).cast(pa.large_binary())
        case ValueType.BYTES | ValueType.PDF_BYTES | ValueType.IMAGE_BYTES if types.is_binary(
            kind
        ) or types.is_large_binary(kind):
            return column.cast(pa.large_binary())
        case _:
            return None


def _without_nan(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Make NaN null, as Feast does, then round; what is too large for a float is infinite."""
    return pc.if_else(pc.is_nan(column), None, column).cast(kind, safe=False)


def _encode_scalars(column: pa.Array, scalar: Scalar) -> pa.LargeBinaryArray:
    tag = _tag(scalar.field, scalar.wire)
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    if scalar.wire == LENGTH:
        lengths = pc.binary_length(column).fill_null(0).to_numpy()
        return joined(varints(tag, lengths, valid), column.fill_null(b""))
    numbers = column.fill_null(0).to_numpy(zero_copy_only=False)
    return varints(tag, numbers, valid) if scalar.wire == VARINT else fixed(tag, numbers, valid)


def _is_embedding(kind: pa.DataType) -> bool:
    is_list = (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
    return bool(is_list and pa.types.is_floating(kind.value_type))


def _encode_embeddings(column: pa.Array, field: int, kind: pa.DataType) -> pa.LargeBinaryArray:
    """Pack lists of numbers; a null in a list is NaN, as Arrow hands it to Feast."""
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(column).fill_null(0).to_numpy().astype(np.int64) * (
        kind.bit_width // 8
    )
    numbers = (
        column.flatten().cast(pa.float64()).fill_null(np.nan).cast(kind, safe=False).to_numpy()
    )
    packed = _binary(lengths, np.ascontiguousarray(numbers).view(np.uint8))
    heads = varints(_tag(1, LENGTH), lengths, lengths > 0)  # protobuf leaves an empty list out
    inner = lengths + pc.binary_length(heads).to_numpy()
    return joined(varints(_tag(field, LENGTH), inner, valid), heads, packed)


def _feast_values(column: pa.Array, value_type: ValueType) -> list[Value]:
    """Convert as Feast does from Arrow; what it refuses (lists beside nulls, maps) as plain Python.

    So are structs and maps, for Arrow would hand their integers beside nulls over as floats.
    """
    if value_type not in OF_MAPS:
        with suppress(*NOT_CONVERTED):
            return list(
                python_values_to_proto_values(column.to_numpy(zero_copy_only=False), value_type)
            )
    return proto_values(column.to_pylist(maps_as_pydicts="strict"), value_type)


def _in_microseconds(column: pa.Array) -> pa.Array:
    """Cut nanoseconds off times in lists, since NumPy and Feast would turn them into seconds."""
    kind = getattr(column.type, "value_type", None)
    if kind is None or not pa.types.is_timestamp(kind) or kind.unit != "ns":
        return column
    return column.cast(pa.list_(pa.timestamp("us", kind.tz)), safe=False)


def _refuse_nulls_inside(column: pa.Array, value_type: ValueType) -> None:
    if value_type in OF_LISTS:
        lacks = any(lacks_a_part(value, value_type) for value in column.to_pylist())
    else:
        is_of_lists = value_type not in HOLD_NULLS | OF_MAPS and hasattr(column.type, "value_type")
        lacks = is_of_lists and pc.list_flatten(column).null_count > 0
    if lacks:
        message = (
            f"a null inside of a list, for which {value_type.name} has no place: leave it out, or "
            "put a value there"
        )
        raise ValueError(message)


def _key_parts(name: str, column: pa.Array, value_type: ValueType) -> list[pa.Array | pa.Scalar]:
    """Return a key's type, length and bytes: numbers have a fixed width, text has its own."""
    scalars = _scalars(column, value_type)
    if column.null_count:
        message = f"column {name!r}: {column.null_count} of {len(column)} entity keys are null"
        raise ValueError(message)
    if scalars is None or not (value_type in KEY_FORMATS or SCALARS[value_type].wire == LENGTH):
        return _feast_key_parts(name, column, value_type)
    if value_type in KEY_FORMATS:
        numbers = scalars.to_numpy().astype(KEY_FORMATS[value_type])
        head = np.array([value_type.value, numbers.itemsize], "<u4").tobytes()
        return [fixed(head, numbers, np.ones(len(numbers), np.bool_))]
    kind = ValueType.STRING if value_type == ValueType.STRING else ValueType.BYTES
    lengths = pc.binary_length(scalars).to_numpy().astype("<u4")
    return [
        fixed(np.array([kind.value], "<u4").tobytes(), lengths, np.ones(len(lengths), np.bool_)),
        scalars,
    ]


def _feast_key_parts(name: str, column: pa.Array, value_type: ValueType) -> list[pa.Array]:
    try:
        values = [
            _serialize_val(value.WhichOneof("val"), value)
            for value in _feast_values(column, value_type)
        ]
    except NOT_CONVERTED as error:
        message = (
            f"column {name!r} ({column.type}) cannot be an entity key of type {value_type.name}: "
            f"{error}"
        )
        raise ValueError(message) from error
    heads = [np.array([kind, len(value)], "<u4").tobytes() for value, kind in values]
    return [
        pa.array(heads, pa.large_binary()),
        pa.array([value for value, _ in values], pa.large_binary()),
    ]


def _tag(field: int, wire: int) -> bytes:
    number = field << 3 | wire
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80, number >> 7])  # noqa: PLR2004 - seven bits a byte


def fixed(head: bytes, numbers: npt.NDArray[Any], valid: Flags) -> pa.LargeBinaryArray:
    r"""Write a head and a little-endian number in each valid row, nothing in the others.

    >>> fixed(b'<', np.array([1, 2], np.int16), np.array([True, False])).to_pylist()
    [b'<\x01\x00', b'']
    """
    cells = np.empty((len(numbers), len(head) + numbers.itemsize), np.uint8)
    cells[:, : len(head)] = np.frombuffer(head, np.uint8)
    cells[:, len(head) :] = (
        np.ascontiguousarray(numbers).view(np.uint8).reshape(len(numbers), numbers.itemsize)
    )
    return _binary(valid * np.int64(cells.shape[1]), cells[valid])


def varints(head: bytes, numbers: npt.NDArray[Any], valid: Flags) -> pa.LargeBinaryArray:
    r"""Write a head and a varint (seven bits a byte, lowest first) in each valid row only.

    >>> varints(b'', np.array([1, 300]), np.array([True, True])).to_pylist()
    [b'\x01', b'\xac\x02']
    """
    numbers = numbers.astype(np.int64).view(np.uint64)
    longest = max(1, -(-int(numbers.max(initial=0)).bit_length() // 7))
    groups = numbers[:, np.newaxis] >> np.arange(0, 7 * longest, 7, dtype=np.uint64)
    follows = groups[:, 1:] != 0
    cells = np.empty((len(numbers), len(head) + longest), np.uint8)
    cells[:, : len(head)] = np.frombuffer(head, np.uint8)
    cells[:, len(head) :] = groups & np.uint64(0x7F)
    cells[:, len(head) : -1] |= follows.astype(np.uint8) << 7
    kept = np.ones(cells.shape, np.bool_)
    kept[:, len(head) + 1 :] = follows
    kept &= valid[:, np.newaxis]
    return _binary(kept.sum(axis=1), cells[kept])


def _binary(lengths: npt.NDArray[np.int64], content: Bytes) -> pa.LargeBinaryArray:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(lengths), [None, pa.py_buffer(offsets), pa.py_buffer(content)]
    )


def joined(*parts: pa.Array | pa.Scalar) -> pa.LargeBinaryArray:
    """Put each row's pieces one behind the other; a scalar is in every row.

    >>> rows = pa.array([b"a", b"b"], pa.large_binary())
    >>> joined(pa.scalar(b"<", pa.large_binary()), rows).to_pylist()
    [b'<a', b'<b']
    """
    return pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.large_binary()))


def row_bytes(rows: pa.LargeBinaryArray) -> memoryview:
    """All rows' bytes, one behind the other, without a copy.

    >>> bytes(row_bytes(pa.array([b'ab', b'c'], pa.large_binary())))
    b'abc'
    """
    _, ends, content = rows.buffers()
    offsets = np.frombuffer(ends, np.int64)[rows.offset : rows.offset + len(rows) + 1]
    return memoryview(content)[offsets[0] : offsets[-1]]
