"""Which earlier text each fresh one nearly repeats: found in buckets, decided by signatures.

Texts have positions, in the order in which they first occur. Their signatures are in a file, a row
each, of which little is mapped at a time. The buckets of a band are searched in parts that fit in
memory, so what grows with the texts is some 40 bytes of each.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import polars as pl

from transforms.text.duplicates import BANDS, HEADS, MIN_SIMILARITY, estimate_similarity

# bytes in memory of a text of a part, and of a pair with its two signatures
TEXT_BYTES, PAIR_BYTES = 128, 400
# pairs compared at a time, so that their signatures fit a processor's cache
_BLOCK = 4_096
# rows of the file that a thread maps at a time: mapped pages count as memory
_MAPPED = 1 << 18
_POSITION = np.int64((1 << 32) - 1)


class Signed(NamedTuple):
    """Texts by position: the file of their signatures, and which are fresh and have one."""

    path: Path
    is_fresh: np.ndarray
    is_signed: np.ndarray

    def mapped(self) -> Iterator[tuple[int, np.ndarray]]:
        """Map some rows of the file after the other, each time with the first one's position."""
        n_texts = len(self.is_fresh)
        for start in range(0, n_texts, _MAPPED):
            shape = (min(_MAPPED, n_texts - start), BANDS)
            offset = start * BANDS * np.int64().nbytes
            yield start, np.memmap(self.path, np.int64, "r", offset, shape)

    def read(self, positions: np.ndarray) -> np.ndarray:
        """Read the signatures of ascending positions."""
        rows = np.empty((len(positions), BANDS), np.int64)
        for start, mapped in self.mapped():
            first, last = np.searchsorted(positions, [start, start + _MAPPED])
            rows[first:last] = mapped[positions[first:last] - start]
        return rows


class Parents:
    """The earliest text that each nearly repeats, as far as found, by any thread."""

    def __init__(self, n_texts: int) -> None:
        self._positions = np.arange(n_texts)
        self._similarities = np.ones(n_texts)
        self._lock = Lock()

    def may_improve(self, later: np.ndarray, earlier: np.ndarray) -> np.ndarray:
        """Whether each pair has an earlier text than the one found."""
        is_earlier: np.ndarray = earlier < self._positions[later]
        return is_earlier

    def improve(self, later: np.ndarray, earlier: np.ndarray, similarities: np.ndarray) -> None:
        """Take the earliest of what was found and these pairs."""
        with self._lock:
            np.minimum.at(self._positions, later, earlier)
            is_best = self._positions[later] == earlier
            self._similarities[later[is_best]] = similarities[is_best]

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Each text that repeats another, the earliest such, and how similar they are."""
        later = np.flatnonzero(self._positions < np.arange(len(self._positions)))
        return later, self._positions[later], self._similarities[later]

    def table(self) -> pl.DataFrame:
        """Make a row of each text that repeats another, with the first of its chain of parents.

        Each step doubles the distance, so a chain of n parents takes about log2(n) steps.
        """
        roots = self._positions
        while not np.array_equal(roots, further := roots[roots]):
            roots = further
        later, earlier, similarities = self.pairs()
        columns = {"parent": earlier, "similarity": similarities, "root": roots[later]}
        return pl.DataFrame({"position": later} | columns)


def find_parents(texts: Signed, memory: int) -> pl.DataFrame:
    """Find the earliest text that each fresh one nearly repeats, and the first of its chain.

    `memory` is what all threads may use for their parts and pairs, in bytes.
    """
    return search_bands(texts, range(BANDS), memory).table()


def search_bands(texts: Signed, bands: range, memory: int) -> Parents:
    """Find the earliest text that each fresh one nearly repeats, of those that share a band."""
    n_threads = pl.thread_pool_size()
    share = memory // n_threads // 2
    n_parts = count_parts(len(texts.is_fresh), share)
    parents = Parents(len(texts.is_fresh))

    def search(band: int, part: int) -> None:
        keys, positions = _read_part(texts, band, part, n_parts)
        for pairs in pair_buckets(keys, positions, texts.is_fresh, 1 + share // PAIR_BYTES):
            _compare(texts, parents, *pairs)

    with ThreadPoolExecutor(n_threads) as threads:
        searches = product(bands, range(n_parts))
        for done in [threads.submit(search, *which) for which in searches]:
            done.result()
    return parents


def count_parts(n_texts: int, memory: int) -> int:
    """Count the parts that buckets are searched in, each within some bytes of memory.

    >>> count_parts(1_000_000, memory=50_000_000)
    3
    """
    return 1 + n_texts * TEXT_BYTES // memory


def pair_buckets(
    keys: np.ndarray, positions: np.ndarray, is_fresh: np.ndarray, n_pairs: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pair every fresh text with the first texts (`HEADS`) of its bucket, about `n_pairs` a time.

    The thousands of texts made from one template thus pair with the first few of them only, and
    the number of pairs does not grow with their square. `is_fresh` is by position.

    >>> found = pair_buckets(np.array([7, 8, 7]), np.arange(3), np.array([True] * 3), n_pairs=10)
    >>> [(later.tolist(), earlier.tolist()) for later, earlier in found]
    [([2], [0])]
    """
    members, starts = _group(keys, positions)
    places = np.arange(len(members)) - starts
    n_heads = np.where(is_fresh[members], np.minimum(places, HEADS), 0)
    # members whose pairs go together
    lots = np.cumsum(n_heads) // n_pairs
    cuts = np.flatnonzero(np.diff(lots, prepend=-1, append=-1))
    for start, stop in pairwise(cuts):
        n = n_heads[start:stop]
        ends = np.cumsum(n)
        heads = np.arange(n.sum()) + np.repeat(starts[start:stop] - ends + n, n)
        yield np.repeat(members[start:stop], n), members[heads]


def _group(keys: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order the positions that share a key by it; with each comes the index of its key's first."""
    order = np.argsort(keys)
    ordered = keys[order]
    is_next = np.append(False, ordered[1:] == ordered[:-1])[: len(ordered)]
    is_shared = is_next | np.append(is_next, False)[1:]
    is_first = ~is_next[is_shared]
    buckets = np.cumsum(is_first)
    members = np.sort(buckets << 32 | positions[order[is_shared]]) & _POSITION
    return members, np.flatnonzero(is_first)[buckets - 1]


def _read_part(texts: Signed, band: int, part: int, n_parts: int) -> tuple[np.ndarray, np.ndarray]:
    found = [np.empty((2, 0), np.int64)]
    for start, mapped in texts.mapped():
        keys = mapped[:, band]
        places = np.flatnonzero(texts.is_signed[start : start + _MAPPED] & (keys % n_parts == part))
        found.append(np.stack([keys[places], places + start]))
    keys, positions = np.concatenate(found, axis=1)
    return keys, positions


def _compare(texts: Signed, parents: Parents, later: np.ndarray, earlier: np.ndarray) -> None:
    is_open = parents.may_improve(later, earlier)
    later, earlier = later[is_open], earlier[is_open]
    positions, places = np.unique(np.concatenate([later, earlier]), return_inverse=True)
    signatures = texts.read(positions)
    left, right = np.split(places, 2)
    for start in range(0, len(later), _BLOCK):
        block = slice(start, start + _BLOCK)
        similarities = estimate_similarity(signatures[left[block]], signatures[right[block]])
        is_alike = similarities >= MIN_SIMILARITY
        parents.improve(later[block][is_alike], earlier[block][is_alike], similarities[is_alike])
