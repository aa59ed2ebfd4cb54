"""All features of an entity in one value: how they get into it and out of it.

Where values are stored does not belong here.

A value is, in this order:

- the version of the layout (1 byte);
- event and created timestamp, in microseconds since 1970 (8 bytes each, big endian, shifted so that
  bytes sort as instants do; the least one is a created timestamp that is not known);
- how many bytes an end has, and how many features there are (1 and 2 bytes);
- a digest of the name of each feature (4 bytes each), then where each feature ends (little endian);
- the features as serialized `Value` protos, one behind the other;
- the rows to come (`coming`), which version 1 did not have, and in version 3 the instant of the
  last of them, a `mark`;
- CRC-32 of all before it (4 bytes).

A value with rows to come is of version 3, any other of version 2. Version 2 had rows to come too.

A value names its features, so it stays readable when a view gains or loses some. The row in effect
of an entity whose first row is to come has the least event timestamp, and nothing for features.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.timestamp_pb2 import Timestamp

from feature_repo.stores import coming as coming_rows
from feature_repo.stores.clock import MARK, Instants, marks, of_mark
from feature_repo.stores.codec import fixed, joined
from feature_repo.stores.coming import Changes, Coming
from transforms.errors import MillraceError

# values and event timestamps of one feature, entity by entity, both serialized; None where there is
# none
Column: TypeAlias = tuple[list[bytes | None], list[bytes | None]]

VERSION, WITH_LAST, READ = 2, 3, {1, 2, 3}
EVENT, CREATED, ENDS, N_FEATURES, NAMES = 1, 9, 17, 18, 20
# the bytes that decide which of two values is newer
AGE = slice(EVENT, ENDS)
CHECKSUM = 4
NEVER, EVER = bytes(MARK), b"\xff" * MARK  # before any instant, and after
ENDS_OF_WIDTH = {2: "H", 4: "I"}


class BrokenValueError(MillraceError):
    """A value of the online store is not as it was written."""


class NotAppliedError(MillraceError):
    """The online store has no table of a view in this layout."""

    def __init__(self, view: str) -> None:
        """Name the view and what to do."""
        super().__init__(
            f"{view}: the online store has no table of it in the layout `compact`; run once, or "
            "apply and materialize, so that it is written in this layout"
        )


def pack(
    event: Instants,
    created: Instants,
    features: Mapping[str, pa.LargeBinaryArray],
    coming: Coming | None = None,
) -> list[bytes]:
    """Write the serialized features of entities into one value each, with their rows to come.

    Instants are in microseconds, NaT for one that is not known.

    >>> features = {"n": pa.array([b"\\x20\\x03"], pa.large_binary())}
    >>> (value,) = pack(np.array(["2026-01-01"], "M8[us]"), np.array(["NaT"], "M8[us]"), features)
    >>> unpack([value], ["n", "other"], [EVER])[0][0], len(value)
    ([b' \\x03'], 32)
    """
    names, n_rows = sorted(features), len(event)
    lengths = [pc.binary_length(features[name]).to_numpy() for name in names]
    ends = np.cumsum(np.reshape(lengths, (len(names), n_rows)), axis=0).T
    width = 2 if ends.max(initial=0) < 1 << 16 else 4
    described = struct.pack(">BH", width, len(names)) + b"".join(map(_digest, names))
    has_coming = coming.counts > 0 if coming else np.zeros(n_rows, np.bool_)
    parts = [
        np.where(has_coming, WITH_LAST, VERSION).astype(np.uint8).reshape(n_rows, 1),
        _cells(marks(np.stack([event, created], axis=1))),
        np.tile(np.frombuffer(described, np.uint8), (n_rows, 1)),
        _cells(ends.astype(f"<u{width}")),
    ]
    heads = np.concatenate(parts, axis=1)
    rows = fixed(
        b"", heads.view(np.dtype((np.void, heads.shape[1]))).ravel(), np.ones(n_rows, np.bool_)
    )
    behind = []
    if coming and len(coming.event):
        last = coming.event[np.maximum(np.cumsum(coming.counts) - 1, 0)]
        behind = [coming_rows.write(features, coming), fixed(b"", marks(last), has_coming)]
    return [
        row + crc32(row).to_bytes(CHECKSUM)
        for row in joined(rows, *(features[name] for name in names), *behind).to_pylist()
    ]


def unpack(
    values: Sequence[bytes | None], names: Sequence[str], at: Sequence[bytes]
) -> list[Column]:
    """Read features out of values, in the order of their names, each at its own instant, a `mark`.

    The row in effect holds until the first to come, also before its own instant. Raises
    `BrokenValueError` for a value that is not as it was written.
    """
    asked, nothing = tuple(names), ((None,) * len(names), None)
    rows = [
        nothing if value is None else _row(value, asked, instant)
        for value, instant in zip(values, at, strict=True)
    ]
    instants = [event and _instant(event) for _, event in rows]
    columns = [list(column) for column in zip(*(row for row, _ in rows), strict=True)]
    return [(column, _where_known(column, instants)) for column in columns or [[] for _ in names]]


def merged(stored: bytes | None, given: bytes) -> bytes:
    """Complete a given value: features that it lacks, and rows that come after its own.

    This is for writes of rows that know neither, as a push is.
    """
    if stored is None:
        return given
    features, later = _at(stored, given[EVENT:CREATED])
    features |= _by_digest(given)
    width = 2 if sum(map(len, features.values())) < 1 << 16 else 4
    ends = np.cumsum([len(feature) for feature in features.values()]).astype(f"<u{width}")
    row = b"".join(
        [
            bytes([WITH_LAST if later else VERSION]),
            given[EVENT:ENDS],
            struct.pack(">BH", width, len(features)),
            *features,
            ends.tobytes(),
            *features.values(),
            coming_rows.written(later, len(features)),
            later[-1][0] if later else b"",
        ]
    )
    return row + crc32(row).to_bytes(CHECKSUM)


def age(value: str) -> str:
    """SQL of the bytes of a stored value that tell its age: the greater of two is the newer."""
    return f"substr({value}, {AGE.start + 1}, {AGE.stop - AGE.start})"


def last(value: str, with_last: str) -> str:
    """SQL of the event timestamp of a stored value's last row, be it to come, a `mark`.

    `with_last` is the byte `WITH_LAST` in SQL.
    """
    return (
        f"case when substr({value}, 1, 1) = {with_last} "
        f"then substr({value}, length({value}) - {CHECKSUM + MARK - 1}, {MARK}) "
        f"else substr({value}, {EVENT + 1}, {MARK}) end"
    )


def last_us(value: bytes) -> int:
    """The event timestamp of a value's last row, be it to come, in microseconds since 1970."""
    has_last = value[0] == WITH_LAST
    return of_mark(value[-CHECKSUM - MARK : -CHECKSUM] if has_last else value[EVENT:CREATED])


def event_us(value: bytes, at: bytes = NEVER) -> int:
    """The event timestamp of a value's row at an instant, in microseconds since 1970.

    Without the instant, that of the row in effect when it was written.
    """
    _, event = _row(value, (), at)
    return of_mark(event or NEVER)


class _Shape(NamedTuple):
    """Where features lie in all values that have the same ones.

    The ends, what the first begins at, the places of those asked for.
    """

    ends: struct.Struct
    first_end: int
    start: int
    places: list[int | None]
    pick: Callable[[Sequence[bytes]], Sequence[bytes]] | None  # where all asked for are there


@lru_cache
def _shape(described: bytes, names: tuple[str, ...]) -> _Shape:
    width, n_features = struct.unpack_from(">BH", described)
    digests = [
        described[at : at + 4] for at in range(NAMES - ENDS, NAMES - ENDS + 4 * n_features, 4)
    ]
    place = {digest: number for number, digest in enumerate(digests)}
    ends = struct.Struct(f"<{n_features}{ENDS_OF_WIDTH[width]}")
    first_end = NAMES + 4 * n_features
    places = [place.get(_digest(name)) for name in names]
    is_whole = len(places) > 1 and None not in places
    pick = itemgetter(*places) if is_whole else None
    return _Shape(ends, first_end, first_end + ends.size, places, pick)


def _row(
    value: bytes, names: tuple[str, ...], at: bytes
) -> tuple[Sequence[bytes | None], bytes | None]:
    """The features of a value in effect at an instant, and since when they are."""
    shape = _shape(_described(value), names)
    start = shape.start
    ends = (0, *shape.ends.unpack_from(value, shape.first_end))
    stored, features = value[start:], pairwise(ends)
    if shape.pick:
        row: Sequence[bytes | None] = shape.pick([stored[first:end] for first, end in features])
    else:
        row = [
            None if place is None else stored[ends[place] : ends[place + 1]]
            for place in shape.places
        ]
    event, behind = value[EVENT:CREATED], start + ends[-1]
    if len(value) > behind + CHECKSUM and value[behind + 1 : behind + 1 + MARK] <= at:
        for instant, changed in coming_rows.read(_coming(value, behind), len(ends) - 1, at):
            event = instant
            row = [
                known if place is None else changed.get(place, known)
                for place, known in zip(shape.places, row, strict=True)
            ]
    return ((None,) * len(names), None) if event == NEVER else (row, event)


def _at(value: bytes, at: bytes) -> tuple[dict[bytes, bytes], list[Changes]]:
    """All features of a value at an instant, by digest, and the rows that come after it.

    Of these the first has all features.
    """
    features, later = _by_digest(value), list[Changes]()
    row = dict(enumerate(features.values()))
    for instant, changed in coming_rows.read(_coming(value, _behind(value)), len(features)):
        if instant <= at:
            row |= changed
        else:
            later.append((instant, changed if later else row | changed))
    return dict(zip(features, row.values(), strict=True)), later


def _by_digest(value: bytes) -> dict[bytes, bytes]:
    """The features of a value's row in effect, by the digests of their names."""
    described = _described(value)
    shape = _shape(described, ())
    ends = [shape.start + end for end in (0, *shape.ends.unpack_from(value, shape.first_end))]
    return {
        described[3 + 4 * place : 7 + 4 * place]: value[start:end]
        for place, (start, end) in enumerate(pairwise(ends))
    }


def _behind(value: bytes) -> int:
    """Where the rows to come begin."""
    shape = _shape(_described(value), ())
    *_, end = (0, *shape.ends.unpack_from(value, shape.first_end))
    return shape.start + int(end)


def _coming(value: bytes, behind: int) -> bytes:
    """The rows to come of a value, from where they begin."""
    return value[behind : -CHECKSUM - (MARK if value[0] == WITH_LAST else 0)]


def _described(value: bytes) -> bytes:
    """What a value says of its features, after a look at whether it is whole."""
    if value[0] not in READ or crc32(memoryview(value)[:-CHECKSUM]) != int.from_bytes(
        value[-CHECKSUM:]
    ):
        message = (
            "a value of the online store is damaged, or another version of millrace wrote it; "
            "delete the online store, "
            "then materialize again: all of it is in the feature tables"
        )
        raise BrokenValueError(message)
    return value[ENDS : NAMES + 4 * int.from_bytes(value[N_FEATURES:NAMES])]


def _where_known(column: list[bytes | None], instants: list[bytes | None]) -> list[bytes | None]:
    if None not in column:
        return instants
    return [
        None if value is None else instant for value, instant in zip(column, instants, strict=True)
    ]


@lru_cache(maxsize=1 << 16)
def _instant(shifted: bytes) -> bytes:
    """Serialize an event timestamp as Feast answers it."""
    seconds, rest = divmod(of_mark(shifted), 1_000_000)
    return bytes(Timestamp(seconds=seconds, nanos=rest * 1000).SerializeToString())


@lru_cache(maxsize=1 << 12)
def _digest(name: str) -> bytes:
    return crc32(name.encode()).to_bytes(4)


def _cells(numbers: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The bytes of numbers, row by row."""
    return np.ascontiguousarray(numbers).view(np.uint8).reshape(len(numbers), -1)
