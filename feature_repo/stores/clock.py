"""The clock that reads go by, in one place, and instants as bytes that sort as they do."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Instants = npt.NDArray[np.datetime64]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SHIFT = 1 << 63
MARK = 8  # bytes


def now() -> datetime:
    """The instant that a read goes by which names none."""
    return datetime.now(UTC)


def microseconds(instant: datetime) -> int:
    """Count the microseconds since 1970.

    >>> microseconds(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
    1000000
    """
    since = instant - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


@lru_cache(maxsize=1 << 12)
def mark(us: int) -> bytes:
    """Write microseconds since 1970 as bytes, of which the greater are the later.

    >>> mark(-1) < mark(0), mark(0).hex()
    (True, '8000000000000000')
    """
    return (us + SHIFT).to_bytes(MARK)


def of_mark(written: bytes) -> int:
    """Read microseconds since 1970.

    >>> of_mark(mark(-5))
    -5
    """
    return int.from_bytes(written) - SHIFT


def marks(instants: Instants) -> npt.NDArray[Any]:
    """Write instants in microseconds as `mark` does, NaT as the least.

    >>> marks(np.array(["1970-01-01", "NaT"], "M8[us]")).tobytes().hex()
    '80000000000000000000000000000000'
    """
    return (instants.astype(np.int64).view(np.uint64) + np.uint64(SHIFT)).astype(">u8")
