"""Which earlier text each fresh one nearly repeats: found in buckets, decided by signatures.

Texts have positions, in the order in which they first occur; a pair of them is one number, so that
pairs are sorted and compared as numbers.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import polars as pl

from transforms.text.duplicates import BANDS, HEADS, MIN_SIMILARITY, estimate_similarity

# pairs per block, so that their signatures fit a processor's cache
_BLOCK = 4_096
_POSITION = np.int64((1 << 32) - 1)


def find_parents(signatures: np.ndarray, signed: np.ndarray, is_fresh: np.ndarray) -> pl.DataFrame:
    """Find the earliest text that each fresh one nearly repeats, and the first of its chain.

    `signatures` are by position; `signed` are the positions that have one.

    >>> signatures = np.arange(3 * BANDS).reshape(3, BANDS) % BANDS
    >>> find_parents(signatures, np.arange(3), np.array([False, True, True])).rows()
    [(1, 0, 1.0, 0), (2, 0, 1.0, 0)]
    """
    with ThreadPoolExecutor(pl.thread_pool_size()) as threads:
        of_band = partial(_pair_band, signatures, signed, is_fresh)
        pairs = _distinct(threads.map(of_band, range(BANDS)))
        blocks = (pairs[start : start + _BLOCK] for start in range(0, len(pairs), _BLOCK))
        alike = [*threads.map(partial(compare_pairs, signatures), blocks)]
    likenesses = pl.concat([pl.DataFrame(schema=_LIKENESSES), *alike])
    # pairs are sorted, so the earliest comes first
    parents = likenesses.unique("position", keep="first", maintain_order=True)
    return parents.with_columns(root=find_roots(parents, len(signatures)))


_LIKENESSES = {"position": pl.Int64, "parent": pl.Int64, "similarity": pl.Float64}


def pair_bucket(keys: np.ndarray, positions: np.ndarray, is_fresh: np.ndarray) -> np.ndarray:
    """Pair every fresh text with the first texts (`HEADS`) of its bucket.

    The thousands of texts made from one template thus pair with the first few of them only, and
    the number of pairs does not grow with their square. `is_fresh` is by position.

    >>> pairs = pair_bucket(np.array([7, 8, 7]), np.array([0, 1, 2]), np.array([True] * 3))
    >>> [divmod(int(pair), 1 << 32) for pair in pairs]
    [(2, 0)]
    """
    order = np.argsort(keys)
    ordered = keys[order]
    is_next = _repeats(ordered)
    is_shared = is_next | np.append(is_next, False)[1:]
    buckets = np.cumsum(~is_next[is_shared])
    members = np.sort(buckets << 32 | positions[order[is_shared]]) & _POSITION
    starts = np.flatnonzero(~is_next[is_shared])
    sizes = np.diff(starts, append=len(members))
    places = np.arange(len(members)) - np.repeat(starts, sizes)
    n_heads = np.where(is_fresh[members], np.minimum(places, HEADS), 0)
    ends = np.cumsum(n_heads)
    heads = np.arange(n_heads.sum()) - np.repeat(ends - n_heads, n_heads)
    heads += np.repeat(np.repeat(starts, sizes), n_heads)
    pairs: np.ndarray = np.repeat(members, n_heads) << 32 | members[heads]
    return pairs


def compare_pairs(signatures: np.ndarray, pairs: np.ndarray) -> pl.DataFrame:
    """Keep the pairs of texts that are similar enough, with their similarity."""
    later, earlier = pairs >> 32, pairs & _POSITION
    similarity = estimate_similarity(signatures[later], signatures[earlier])
    is_alike = similarity >= MIN_SIMILARITY
    found = later[is_alike], earlier[is_alike], similarity[is_alike]
    return pl.DataFrame(dict(zip(_LIKENESSES, found, strict=True)))


def find_roots(parents: pl.DataFrame, n_texts: int) -> np.ndarray:
    """Follow each position's chain of parents to its end.

    Each step doubles the distance, so a chain of n parents takes about log2(n) steps.

    >>> find_roots(pl.DataFrame({"position": [2, 3, 5], "parent": [0, 2, 3]}), 6).tolist()
    [0, 0, 0]
    """
    positions = parents["position"].to_numpy()
    above = np.arange(n_texts)
    above[positions] = parents["parent"].to_numpy()
    while not np.array_equal(above, further := above[above]):
        above = further
    roots: np.ndarray = above[positions]
    return roots


def _pair_band(
    signatures: np.ndarray, signed: np.ndarray, is_fresh: np.ndarray, band: int
) -> np.ndarray:
    return pair_bucket(signatures[signed, band], signed, is_fresh)


def _distinct(found: Iterator[np.ndarray]) -> np.ndarray:
    """Sort numbers without repetitions, adding one array at a time."""
    numbers = np.empty(0, np.int64)
    for more in found:
        numbers = np.sort(np.concatenate([numbers, more]))
        numbers = numbers[~_repeats(numbers)]
    return numbers


def _repeats(ordered: np.ndarray) -> np.ndarray:
    """Mark each number that is the same as the one before it."""
    return np.append(False, ordered[1:] == ordered[:-1])[: len(ordered)]
