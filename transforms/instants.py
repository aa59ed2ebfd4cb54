"""Instants as people write them, in UTC: one reading for all parts of the program.

Spines, requests, views computed on demand and the command line share it. A time with an offset or a
zone is the instant it names; one without is UTC; a date is its midnight; text is ISO 8601. A number
has neither unit nor origin, so it is refused. Anything finer than a microsecond is rounded down.
"""

import math
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from numbers import Number
from typing import Any

import numpy as np
import pyarrow as pa

from transforms.errors import InstantError

INSTANT = pa.timestamp("us", "UTC")
FORMS = "2026-01-02T10:00:00Z or 2026-01-02 15:30:00+05:30"
_NO_INSTANT = f"no instant in ISO 8601; write {FORMS}"
_NO_UNIT = (
    "a number, which does not say its unit; give a time, "
    f"as datetime.fromtimestamp(seconds, UTC), or text as {FORMS}"
)
_TIME = r"{h}(?:{m}(?:{s}(?:[.,]\d{{1,9}})?)?)?(?:Z|[+-](?:0\d|1[0-4])(?::?[0-5]\d)?)?"
_HOUR, _SIXTY = r"(?:[01]\d|2[0-3])", r"[0-5]\d"
_EXTENDED = r"\d{4}-\d\d-\d\d(?:[T ]" + _TIME.format(h=_HOUR, m=f":{_SIXTY}", s=f":{_SIXTY}") + ")?"
_BASIC = r"\d{8}T" + _TIME.format(h=_HOUR, m=_SIXTY, s=_SIXTY)
_ISO = re.compile(f"{_EXTENDED}|{_BASIC}", re.ASCII)


def parse_instant(text: str) -> datetime:
    """Read an instant in ISO 8601.

    Raises `InstantError` for any other text, because its order of day and month is ambiguous.

    >>> parse_instant("2026-01-02 15:30:00+05:30").isoformat()
    '2026-01-02T10:00:00+00:00'
    >>> parse_instant("01/02/2026")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    transforms.errors.InstantError: no instant in ISO 8601; write ...
    """
    upper = text.strip().upper()
    try:
        if _ISO.fullmatch(upper):
            return _utc(datetime.fromisoformat(upper))
    except (ValueError, OverflowError):  # the 30th of February, or before the year 1
        pass
    raise InstantError(_NO_INSTANT)


def in_utc(value: Any) -> Any:
    """Convert Python's datetimes that have a zone to UTC, also in lists and dictionaries.

    Everything else is returned as it is. Arrow drops offsets where PYARROW_IGNORE_TIMEZONE is set,
    as importing Pandera does, and Polars refuses datetimes in a gap.

    >>> in_utc({"at": datetime.fromisoformat("2026-01-02T15:30:00+05:30"), "n": 1})
    {'at': datetime.datetime(2026, 1, 2, 10, 0, tzinfo=datetime.timezone.utc), 'n': 1}
    """
    match value:
        case datetime() if value.tzinfo is not None:
            return value.astimezone(UTC)
        case dict():
            return {key: in_utc(item) for key, item in value.items()}
        case list() | tuple():
            return [in_utc(item) for item in value]
        case _:
            return value


def instant_of(value: Any) -> datetime | None:
    """Read one value as an instant, None where it is missing.

    Raises `InstantError` for a value that is no instant, or could be more than one.

    >>> instant_of(date(2026, 1, 2)), instant_of(float("nan"))
    (datetime.datetime(2026, 1, 2, 0, 0, tzinfo=datetime.timezone.utc), None)
    """
    if _is_missing(value):
        return None
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]").item()
    if isinstance(value, str):
        return parse_instant(value)
    if isinstance(value, datetime):
        return _utc(value.to_pydatetime(warn=False) if hasattr(value, "to_pydatetime") else value)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    raise InstantError(_NO_UNIT if isinstance(value, Number) else _NO_INSTANT)


def instants_of(values: Sequence[Any], column: str) -> pa.Array:
    """Read the values of a column as instants.

    Raises `InstantError` that names column and row, and says how to fix it.

    >>> instants_of(["2026-01-02", None], "at").to_pylist()
    [datetime.datetime(2026, 1, 2, 0, 0, tzinfo=zoneinfo.ZoneInfo(key='UTC')), None]
    >>> instants_of(["2026-01-02", "soon"], "at")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    transforms.errors.InstantError: column 'at', row 2: no instant in ISO 8601; write ...
    """
    instants = []
    for row, value in enumerate(values):
        try:
            instants.append(instant_of(value))
        except InstantError as error:
            message = f"column {column!r}, row {row + 1}: {error}"
            raise InstantError(message) from None
    return pa.array(instants, INSTANT)


def instants_in(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Read an Arrow column as instants; a timestamp keeps its unit.

    Raises `InstantError` as `instants_of` does.

    >>> instants_in(pa.chunked_array([["2026-01-02T10:00Z"]]), "at").type
    TimestampType(timestamp[us, tz=UTC])
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return instants_in(column.cast(kind.value_type), name)
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp(kind.unit, "UTC"))
    if pa.types.is_date(kind):
        return column.cast(pa.timestamp("s" if pa.types.is_date32(kind) else "ms")).cast(
            pa.timestamp("ms", "UTC")
        )
    if is_text(kind) or pa.types.is_null(kind):
        return pa.chunked_array([instants_of(column.to_pylist(), name)], INSTANT)
    message = f"column {name!r} is {kind}: {_NO_UNIT if _is_number(kind) else _NO_INSTANT}"
    raise InstantError(message)


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow column is text.

    >>> is_text(pa.large_string()), is_text(pa.binary())
    (True, False)
    """
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_missing(value: Any) -> bool:
    """Whether a value is None, or the equivalent in NumPy or pandas."""
    if type(value).__name__ in {"NaTType", "NAType"}:  # of pandas, which is not imported for them
        return True
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, np.datetime64) and bool(np.isnat(value)))
    )


def _utc(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        return instant.replace(tzinfo=UTC)
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise InstantError(_NO_INSTANT) from None


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )
