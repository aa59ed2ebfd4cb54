"""What makes two texts the same, or nearly: digests and signatures for `RecordDuplicates`.

Two texts are the same if their normal forms are equal: NFKC, lower case, runs of white space as one
blank. They are nearly the same if their sets of runs of five letters, digits and blanks are
similar. Similarity is Jaccard's, estimated from MinHash signatures of 128 values of 8 bits. A
signature is stored as 16 bands of 8 values; each band is an integer that is its own bucket.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl

from transforms.expressions import sealed

SHINGLE = 5
BANDS, ROWS = 16, 8
MIN_SIMILARITY = 0.7
# contents of a bucket that a text is compared with, the first known: a template has thousands
HEADS = 32
_VALUES = BANDS * ROWS
_EMPTY = np.uint32(0xFFFFFFFF)
_PADDING = "\0" * (SHINGLE - 1)
# texts per block, so that their shingles fit a processor's cache
_BLOCK = 300
# the values that an empty one asks, step by step: an order for each value, and it never changes
_SEEKS = (
    np.random.Generator(np.random.PCG64(2014))
    .permuted(np.tile(np.arange(_VALUES), (_VALUES, 1)), axis=1)
    .T
)


def normalise(text: pl.Expr) -> pl.Expr:
    """Bring a text to the form that is digested; NFKC, the costly step, leaves ASCII as it is.

    >>> pl.select(normalise(pl.lit(" Big\\t\uff23AT  sat "))).item()
    'big cat sat'
    """
    # null where ASCII: `when` itself evaluates all its branches for all texts
    others = pl.when(text.str.len_bytes() != text.str.len_chars()).then(text)
    composed = pl.coalesce(others.str.normalize("NFKC"), text)
    # two steps that skip single blanks take a third of the time of one
    return (
        composed.str.to_lowercase()
        .str.replace_all(r"[^\S ]", " ")
        .str.replace_all("  +", " ")
        .str.strip_chars()
    )


def digest_contents(normal: pl.Series) -> pl.Series:
    """Number each normal form by 63 bits of its MD5.

    Among a hundred million texts, two share a number with a chance of 1 in 1,800.

    >>> digest_contents(pl.Series(["a cat", "a dog", "a cat"])).n_unique()
    2
    """
    texts = normal.rename("text").to_frame()
    with sealed(preserve_insertion_order="true") as connection:
        connection.register("texts", texts.to_arrow())
        return pl.Series(
            connection.sql(
                "select (md5_number_lower(text) >> 1)::bigint as content_id from texts"
            ).pl()["content_id"]
        )


def sign(normal: pl.Series) -> pl.Series:
    """Sign each normal form, as a list of `BANDS` numbers; null if it has neither letter nor digit.

    One permutation hashing (Li, Owen & Zhang 2012) with optimal densification (Shrivastava 2017,
    arXiv:1703.04664). Of each value 8 bits are kept (b-bit minwise hashing, Li & König 2010).

    >>> [bands and len(bands) for bands in sign(pl.Series(["a cat sat", "?!"])).to_list()]
    [16, None]
    """
    words = pl.select(
        pl.lit(normal)
        .str.replace_all(r"[^\p{L}\p{M}\p{N} ]", " ")
        .str.replace_all("  +", " ")
        .str.strip_chars()
        .alias("words")
    ).to_series()
    # texts are quicker among their like: ASCII apart from others, short ones apart from long ones
    size = pl.col("words").str.len_bytes()
    alike = pl.arg_sort_by(size != pl.col("words").str.len_chars(), size)
    order = words.to_frame().select(alike).to_series()
    ordered = words.gather(order)
    blocks = [ordered.slice(start, _BLOCK) for start in range(0, len(words), _BLOCK)]
    with ThreadPoolExecutor(pl.thread_pool_size()) as threads:
        bands = [np.empty((0, BANDS), np.int64), *threads.map(_sign_block, blocks)]
    signed = pl.Series("band_keys", np.concatenate(bands)[order.arg_sort()]).cast(pl.List(pl.Int64))
    return pl.select(pl.when(words != "").then(signed)).to_series().rename("band_keys")


def estimate_similarity(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Estimate the Jaccard similarity of signatures, row by row.

    Of values that differ, 1 in 256 agree in their 8 bits by chance; the estimate allows for that.

    >>> signed = sign(pl.Series(["the cat sat on the mat", "the cat sat on a mat"])).to_list()
    >>> estimate_similarity(np.array(signed[:1]), np.array(signed[1:])).round(2).tolist()
    [0.46]
    """
    agreeing = np.ascontiguousarray(left).view(np.uint8) == np.ascontiguousarray(right).view(
        np.uint8
    )
    # add the bands, then the eight bytes of the sums: each is below 256
    of_band = agreeing.view(np.uint64).reshape(-1, BANDS).sum(axis=1)
    n_agreeing = (of_band * np.uint64(0x0101010101010101)) >> np.uint64(56)
    similarity: np.ndarray = np.clip((n_agreeing / _VALUES - 1 / 256) / (1 - 1 / 256), 0, 1)
    return similarity


def compare_texts(text: str, others: Sequence[str]) -> list[float]:
    """Compare one text with others: 1 if the normal form is the same, else as signatures estimate.

    >>> compare_texts("Hello  World", ["hello world", "?!"])
    [1.0, 0.0]
    """
    normal = pl.select(normalise(pl.lit(pl.Series([text, *others])))).to_series()
    signatures = sign(normal)
    return [
        1.0 if normal[place] == normal[0] else _likeness(signatures[0], signatures[place])
        for place in range(1, len(normal))
    ]


def _likeness(left: pl.Series | None, right: pl.Series | None) -> float:
    return (
        0.0
        if left is None or right is None
        else float(estimate_similarity(left.to_numpy(), right.to_numpy())[0])
    )


def _sign_block(words: pl.Series) -> np.ndarray:
    hashes, owners = _hash_shingles(words)
    # the upper 7 bits choose the value that a shingle is for; of bits 24 to 55 the least wins
    bits = np.ndarray(len(hashes), "<u4", hashes, offset=3, strides=(8,)).copy()
    hashes >>= np.uint64(57)
    places = hashes.view(np.int64)
    places *= len(words) + 1
    places += owners
    least = np.full((_VALUES, len(words) + 1), _EMPTY, np.uint32)
    np.minimum.at(least.reshape(-1), places, bits)
    return np.ascontiguousarray(_densify(least[:, :-1]).T).view(np.int64)


def _hash_shingles(words: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Hash every run of `SHINGLE` characters of each text, with the text's position.

    A shorter text is hashed whole. Runs beyond a text's end have the position after the last.
    """
    padded = words + _PADDING
    sizes = padded.str.len_chars().to_numpy().astype(np.int64)
    hashes = _pack_runs("".join(padded))
    # Fibonacci hashing, twice: multiply, fold the upper half down
    hashes *= np.uint64(0x9E3779B97F4A7C15)
    hashes ^= hashes >> np.uint64(32)
    hashes *= np.uint64(0xD6E8FEB86659FD93)
    within = np.maximum(sizes - 2 * len(_PADDING), 1)
    owners = np.column_stack([np.arange(len(sizes)), np.full(len(sizes), len(sizes))])
    return hashes, np.repeat(owners.ravel(), np.column_stack([within, sizes - within]).ravel())


def _pack_runs(characters: str) -> np.ndarray:
    """Pack every `SHINGLE` characters in a row into one number, the first in the lowest bits."""
    if characters.isascii():  # memory has this layout already
        octets = characters.encode() + bytes(8)
        return np.ndarray(len(characters), "<u8", octets, strides=(1,)) & np.uint64(
            (1 << 8 * SHINGLE) - 1
        )
    points = np.frombuffer(characters.encode("utf-32-le"), np.uint32).astype(np.uint64)
    packed = points.copy()
    for place in range(1, SHINGLE):
        packed[:-place] += points[place:] << np.uint64(8 * place)
    return packed


def _densify(least: np.ndarray) -> np.ndarray:
    """Keep 8 bits of each value; fill each empty one with the first in its order that is not.

    Values are rows and texts are columns, so that each step copies rows.
    """
    empty = np.where(least == _EMPTY, np.uint8(255), np.uint8(0))
    known = ~empty
    own = least.astype(np.uint8) & known
    filled = own.copy()
    for sources in _SEEKS:
        if not empty.any():
            break
        filled |= own[sources] & empty
        empty &= ~known[sources]
    return filled
