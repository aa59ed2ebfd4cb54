"""Rows of an entity that are to come: how they are written behind its row in effect, and read.

That a window ends is known beforehand, so the row of each such instant is too, until a record
arrives. Where the bytes are kept does not belong here (`compact`).

The bytes of an entity are none where nothing is to come. Else they begin with the number of bytes
of a length (1), then each row follows, earliest first:

- its instant (8 bytes, a `mark`);
- which features differ from the row before: a bit a feature, in the order of the value's features;
- the length and the serialized value of each feature that differs.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.stores.clock import MARK, Instants, marks
from feature_repo.stores.codec import fixed, joined

Features: TypeAlias = Mapping[str, pa.LargeBinaryArray]
# a row by its instant and the features that differ from the row before, by place
Changes: TypeAlias = tuple[bytes, dict[int, bytes]]

LENGTHS = (1, 4)  # bytes of a length: short values, and all others


class Coming(NamedTuple):
    """Rows to come of the entities of a batch, in their order: how many each has, and the rows."""

    counts: npt.NDArray[np.int64]
    event: Instants
    features: Features


def write(before: Features, coming: Coming) -> pa.LargeBinaryArray:
    """Write the rows to come of entities; `before` are the features of their rows in effect.

    >>> n = pa.array([b"1", b"2", b"0"], pa.large_binary())
    >>> rows = Coming(np.array([2]), np.array([7, 9], "M8[us]"), {"n": n.slice(1)})
    >>> (content,) = write({"n": n.slice(0, 1)}, rows).to_pylist()
    >>> [(instant.hex(), changed) for instant, changed in read(content, 1)]
    [('8000000000000007', {0: b'2'}), ('8000000000000009', {0: b'0'})]
    """
    n_entities, n_rows = len(coming.counts), len(coming.event)
    owner = np.repeat(np.arange(n_entities), coming.counts)
    is_first = np.append([True], owner[1:] != owner[:-1])[:n_rows]
    earlier = pa.array(np.where(is_first, owner, n_entities + np.arange(n_rows) - 1))
    columns = [(before[name], coming.features[name]) for name in sorted(before)]
    changed = np.stack(
        [
            pc.not_equal(after, pa.chunked_array([first, after]).take(earlier).combine_chunks())
            .to_numpy(zero_copy_only=False)
            .astype(np.bool_)
            for first, after in columns
        ],
        axis=1,
    )
    lengths = [pc.binary_length(after).to_numpy() for _, after in columns]
    width = LENGTHS[any(length.max(initial=0) > 0xFF for length in lengths)]  # noqa: PLR2004
    every = np.ones(n_rows, np.bool_)
    bits = np.packbits(changed, axis=1, bitorder="little")
    parts = [
        fixed(b"", marks(coming.event), every),
        fixed(b"", bits.view(np.dtype((np.void, bits.shape[1]))).ravel(), every),
    ]
    for place, ((_, after), length) in enumerate(zip(columns, lengths, strict=True)):
        differs = changed[:, place]
        parts += [
            fixed(b"", length.astype(f"<u{width}"), differs),
            pc.if_else(pa.array(differs), after, pa.scalar(b"", pa.large_binary())),
        ]
    of_entities = _together(joined(*parts), coming.counts)
    head = pc.if_else(pa.array(coming.counts > 0), bytes([width]), b"").cast(pa.large_binary())
    return joined(head, of_entities)


def written(rows: Sequence[Changes], n_features: int) -> bytes:
    """Write the rows to come of one entity.

    >>> read(written([(b"instant.", {2: b"x"})], 3), 3)
    [(b'instant.', {2: b'x'})]
    """
    if not rows:
        return b""
    is_long = any(len(value) > 0xFF for _, changed in rows for value in changed.values())  # noqa: PLR2004
    width = LENGTHS[is_long]
    found = [width.to_bytes()]
    for instant, changed in rows:
        bits = sum(1 << place for place in changed)
        found += [instant, bits.to_bytes(_n_bytes(n_features), "little")]
        for _, value in sorted(changed.items()):
            found += [len(value).to_bytes(width, "little"), value]
    return b"".join(found)


def read(content: bytes, n_features: int, until: bytes = b"\xff" * MARK) -> list[Changes]:
    """Read the rows to come of one entity, those up to an instant.

    >>> rows = [(b"instant1", {0: b"x", 1: b""}), (b"instant2", {1: b"y"})]
    >>> read(written(rows, 2), 2, until=b"instant1")
    [(b'instant1', {0: b'x', 1: b''})]
    """
    rows: list[Changes] = []
    width, n_bits, at = content[0] if content else 0, _n_bytes(n_features), 1
    while at < len(content) and (instant := content[at : at + MARK]) <= until:
        bits = int.from_bytes(content[at + MARK : at + MARK + n_bits], "little")
        at += MARK + n_bits
        changed = {}
        while bits:
            lowest = bits & -bits
            value = at + width
            at = value + int.from_bytes(content[at:value], "little")
            changed[lowest.bit_length() - 1] = content[value:at]
            bits ^= lowest
        rows.append((instant, changed))
    return rows


def _n_bytes(n_features: int) -> int:
    return -(-n_features // 8)


def _together(rows: pa.LargeBinaryArray, counts: npt.NDArray[np.int64]) -> pa.LargeBinaryArray:
    """The bytes of some rows at a time as one."""
    _, ends, content = rows.buffers()
    offsets = np.frombuffer(ends, np.int64)[np.append([0], np.cumsum(counts))]
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(counts), [None, pa.py_buffer(offsets), content]
    )
