"""Values from Python, NumPy, pandas or JSON as Feast's values: exactly, or refused in one line.

No message says a value: it may be somebody's text or identifier.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
from feast.errors import FeastError
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType

from transforms.errors import InstantError
from transforms.instants import instant_of

INTEGERS = {ValueType.INT32: 2**31, ValueType.INT64: 2**63}
REAL_LISTS = {
    ValueType.FLOAT_LIST,
    ValueType.DOUBLE_LIST,
    ValueType.FLOAT_SET,
    ValueType.DOUBLE_SET,
}
# their parts may be null: NaN, Feast's own mark for a null timestamp, JSON's null, a list that is
# not there
HOLD_NULLS = {*REAL_LISTS, ValueType.UNIX_TIMESTAMP_LIST, ValueType.JSON, ValueType.JSON_LIST}
OF_LISTS = {ValueType.VALUE_LIST, ValueType.VALUE_SET}
OF_MAPS = {
    ValueType.MAP,
    ValueType.MAP_LIST,
    ValueType.STRUCT,
    ValueType.STRUCT_LIST,
    ValueType.SCALAR_MAP,
}
EXACT_FLOATS = 2**53
NOT_CONVERTED = (
    TypeError,
    ValueError,
    AssertionError,
    AttributeError,
    KeyError,
    OverflowError,
)  # how Feast refuses a value


class RequestError(FeastError, ValueError):
    """A mistake in a caller's request or values.

    Feast's server answers it with 422 and the reason.
    """

    def http_status_code(self) -> int:
        """Report this as a mistake that the caller can fix."""
        return 422


def proto_values(values: Iterable[Any], kind: ValueType) -> list[Value]:
    """Convert a feature's values.

    None, NaN, NaT and NA are null; ValueError where one does not fit.

    >>> [value.int64_val for value in proto_values([3, 4], ValueType.INT64)]
    [3, 4]
    """
    given = [plain(value) for value in values]
    if any(lacks_a_part(value, kind) for value in given):
        message = (
            f"a null inside of a list, for which {kind.name} has no place: leave it out, or put a "
            "value there"
        )
        raise ValueError(message)
    try:
        return list(python_values_to_proto_values([_fitting(value, kind) for value in given], kind))
    except NOT_CONVERTED as error:
        raise ValueError(unfit(given, kind)) from error


def unfit(values: Iterable[Any], kind: ValueType) -> str:
    """Say that values do not fit a type, by their types alone."""
    found = sorted({type(value).__name__ for value in values if value is not None})
    return f"{' and '.join(found)} that does not fit its type {kind.name}"


def plain(value: Any) -> Any:
    """Convert a value, deeply, from NumPy and pandas.

    Null is None, but NaN stays in lists and maps.

    >>> import numpy as np
    >>> plain([np.int64(3), float('nan')])
    [3, nan]
    """
    inner = _unboxed(value)
    return None if isinstance(inner, float) and inner != inner else inner  # noqa: PLR0124 - NaN alone differs from itself


def _unboxed(value: Any) -> Any:
    match value:
        case np.ndarray() | list() | tuple():
            return [_unboxed(item) for item in value]
        case set() | frozenset():
            return {_unboxed(item) for item in value}
        case dict():
            return {_unboxed(key): _unboxed(item) for key, item in value.items()}
        case np.datetime64():
            return None if np.isnat(value) else pd.Timestamp(value).to_pydatetime(warn=False)
        case pd.Timestamp():
            return value.to_pydatetime(warn=False)
        case np.generic():
            return value.item()
    return None if value is pd.NaT or value is pd.NA else value


def lacks_a_part(value: Any, kind: ValueType) -> bool:
    """Whether a value contains a null, where Feast would substitute another value or fail.

    >>> lacks_a_part([1, None], ValueType.INT64_LIST)
    True
    """
    if kind in OF_MAPS:
        return _lists_lack(json.loads(value) if isinstance(value, str) else value)
    if kind in OF_LISTS:
        return any(map(_lists_lack, value or ()))
    return isinstance(value, list | set) and kind not in HOLD_NULLS and None in value


def _lists_lack(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_lists_lack, value.values()))
    return isinstance(value, list | set) and (None in value or any(map(_lists_lack, value)))


def _fitting(value: Any, kind: ValueType) -> Any:
    """Bring a value to what Feast's conversion takes without loss."""
    if value is None:
        return None
    if kind in REAL_LISTS and isinstance(value, list | set):
        return type(value)(np.nan if item is None else _real(item) for item in value)
    if kind in INTEGERS and isinstance(value, float | Decimal):
        if value != int(value) or (isinstance(value, float) and abs(value) > EXACT_FLOATS):
            message = (
                "not a whole number, or a float beyond 2^53: with pandas, use Int64 for integers "
                "beside nulls"
            )
            raise ValueError(message)
        return int(value)
    if kind in (ValueType.DOUBLE, ValueType.FLOAT):
        return _real(value)
    if kind == ValueType.UNIX_TIMESTAMP and isinstance(value, date | str):
        return _whole_second(instant_of(value))
    if kind == ValueType.ZONED_TIMESTAMP:
        return _whole_second(datetime.fromisoformat(value) if isinstance(value, str) else value)
    if kind == ValueType.UNIX_TIMESTAMP_SET and isinstance(
        value, list | set
    ):  # Feast rounds those of lists towards 1970
        return type(value)(_whole_second(item) for item in value)
    return value


def _whole_second(value: Any) -> Any:
    """Round a time down to Feast's precision; Feast itself would round it towards 1970."""
    return value.replace(microsecond=0) if isinstance(value, datetime) else value


def _real(value: Any) -> float:
    if isinstance(value, int | float | Decimal):
        return float(value)
    message = f"{type(value).__name__} is no number"
    raise TypeError(message)


# --- keys ---


def key_values(name: str, values: Sequence[Any], kind: ValueType) -> list[Any]:
    """Convert keys to their type, None for what matches nothing: docs/store.md, "Keys".

    Raises RequestError, naming key and type, for a value that is of another kind altogether.

    >>> key_values('user_id', ['7', 7.0, 7.5, None], ValueType.INT64)
    [7, 7, None, None]
    """
    if kind in (ValueType.STRING, ValueType.BYTES) and set(map(type, values)) <= {
        str if kind == ValueType.STRING else bytes
    }:
        return list(values)  # nearly always
    if kind == ValueType.INT64 and {*map(type, values)} == {int}:
        end = INTEGERS[kind]
        return (
            list(values)
            if -end <= min(values) and max(values) < end
            else [value if -end <= value < end else None for value in values]
        )
    return [_key(name, value, kind) for value in values]


def _key(name: str, value: Any, kind: ValueType) -> Any:
    key = value if isinstance(value, Value) else plain(value)
    match kind, key:
        case (_, None | Value()) | (ValueType.STRING, str()) | (ValueType.BYTES, bytes()):
            return key
        case (_, bool()) if kind != ValueType.BOOL:
            pass
        case ValueType.STRING, int():
            return str(key)
        case ((ValueType.INT32 | ValueType.INT64), (int() | float() | Decimal() | str())):
            return _whole(key, INTEGERS[kind])
        case ValueType.UNIX_TIMESTAMP, _:
            return _instant_key(name, key)
        case _ if kind not in (
            ValueType.STRING,
            ValueType.BYTES,
            *INTEGERS,
            ValueType.UNIX_TIMESTAMP,
        ):
            return key  # Feast refuses keys of these types
    message = (
        f"key {name!r} is {kind.name}, for which {type(key).__name__} is no value; docs/store.md "
        "says what is"
    )
    raise RequestError(message)


def _instant_key(name: str, key: Any) -> datetime | None:
    try:
        return instant_of(key)
    except InstantError as error:
        message = f"key {name!r}: {error}"
        raise RequestError(message) from error


def _whole(value: float | Decimal | str, end: int) -> int | None:
    """The integer a number or a text of digits is; None for anything else or beyond the type."""
    if isinstance(value, str):
        number = (
            int(value)
            if len(value) <= len(str(-end)) and value.removeprefix("-").isdecimal()
            else end
        )
        return number if str(number) == value and number < end else None
    try:
        number = int(value)
    except (ValueError, OverflowError):  # infinite
        return None
    return number if number == value and -end <= number < end else None
