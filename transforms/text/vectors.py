r"""A text as a vector of fixed length, by its words alone: `RecordVector`.

Signed feature hashing (Weinberger et al. 2009, arXiv:0902.2206): a hash of each word chooses its
place and its sign, so words that share a place cancel out on average. No vocabulary has to be
learned, kept or shipped. The hash is MurmurHash3 (x86, 32 bits, seed 0), whose values never change.
Place and sign are taken from it as scikit-learn's `HashingVectorizer` does.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from transforms.text.measured import beside_key
from transforms.text.words import Array, split_words

Vectors: TypeAlias = npt.NDArray[np.float32]

DIMENSION = 256
WORD = r"\w+"
IS_WORD = np.isin(np.arange(256), list(b"0123456789_abcdefghijklmnopqrstuvwxyz"))
# of four octets, the first none to three
REST = np.array([0, 0xFF, 0xFFFF, 0xFFFFFF], np.uint32)
N_TEXTS_AT_ONCE = 512  # their sums stay in the processor's cache


def hash_text(records: pl.LazyFrame) -> pl.LazyFrame:
    """Hash each record's `text` into `hash_vec_256`, as `RecordVector`; a null text gives null.

    Reads `record_id`, `event_timestamp`, `created_timestamp` and `text`; returns the first three
    and the vector.

    >>> now = pl.lit(0).cast(pl.Datetime("us", "UTC"))
    >>> records = pl.LazyFrame({"record_id": ["a", "b"], "text": ["a cat", None]})
    >>> hashed_texts = hash_text(records.with_columns(event_timestamp=now, created_timestamp=now))
    >>> hashed_texts.select("record_id", pl.col("hash_vec_256").list.len()).collect().rows()
    [('a', 256), ('b', None)]
    """
    return with_vectors(records, "hash_vec_256", hashed)


def with_vectors(
    records: pl.LazyFrame, name: str, vectors_of: Callable[[pl.Series], Vectors]
) -> pl.LazyFrame:
    """Replace each record's text by a vector, null where the text is null."""
    # collected here: Polars within a Polars callback may wait for a thread that it occupies itself
    frame = records.collect()
    vectors = vectors_of(frame["text"])
    lists = pl.Series(name, vectors, pl.Array(pl.Float32, vectors.shape[1])).cast(
        pl.List(pl.Float32)
    )
    return beside_key(frame, lists.to_frame())


def hashed(text: pl.Series) -> Vectors:
    """Hash texts to unit vectors (Euclidean norm), a row for each.

    A text has all zeros if it has no word, or if its words cancel out.

    >>> vectors = hashed(pl.Series(["a cat sat", "A CAT SAT", "a dog"]))
    >>> (vectors @ vectors.T).astype(float).round(2).tolist()
    [[1.0, 1.0, 0.41], [1.0, 1.0, 0.41], [0.41, 0.41, 1.0]]
    """
    words = split_words(text.fill_null(""))
    places, signs, first, n_hashes = _hash_vocabulary(words.vocabulary)
    vectors = np.empty((len(text), DIMENSION), np.float32)
    for start in range(0, len(text), N_TEXTS_AT_ONCE):
        quotients = vectors[start : start + N_TEXTS_AT_ONCE]
        some = slice(words.start[start], words.start[start + len(quotients)])
        word, row = words.word[some], words.row[some] - start
        n = n_hashes[word]
        ends = np.cumsum(n)
        hashes = np.repeat(first[word] - ends + n, n) + np.arange(n.sum())
        cells = np.repeat(row * DIMENSION, n) + places[hashes]
        sums = np.bincount(cells, signs[hashes], quotients.size).reshape(quotients.shape)
        norms = np.sqrt(np.einsum("ij,ij->i", sums, sums))[:, None]
        # sums are integers, so a norm is 0 or at least 1
        np.divide(sums, np.maximum(norms, 1), out=quotients, casting="same_kind")
    return vectors


def _hash_vocabulary(vocabulary: pl.Series) -> tuple[Array, Array, Array, Array]:
    """Hash what `WORD` finds in each word: all places and signs; each word's first, and how many.

    Lower case depends on no letter beyond a blank, so it does not matter that words are apart.
    """
    lower = vocabulary.str.to_lowercase()
    is_ascii = lower.str.len_bytes() == lower.str.len_chars()
    hashed = np.zeros(0, np.int32)
    first, n_hashes = np.zeros((2, len(lower)), np.int64)
    for is_of, find in ((is_ascii, _ascii_words), (~is_ascii, _words)):
        if not len(some := lower.filter(is_of)):
            continue
        octets, owner, start, n_octets = find(some)
        n = np.bincount(owner, minlength=len(some))
        first[is_of.to_numpy()] = np.cumsum(n) - n + len(hashed)
        n_hashes[is_of.to_numpy()] = n
        hashes = murmur_hash(octets, start, n_octets).view(np.int32)
        hashed = np.concatenate([hashed, hashes])
    # the remainder, for the dimension is a power of two
    places = np.abs(hashed).astype(np.int64) & (DIMENSION - 1)
    return places, np.where(hashed >= 0, 1.0, -1.0), first, n_hashes


def _ascii_words(text: pl.Series) -> tuple[Array, Array, Array, Array]:
    """Find the words of ASCII texts: all octets, and each word's text, start and length."""
    # a line break before, between and after texts ends every word
    octets = np.frombuffer(f"\n{text.str.join(chr(10)).item() or ''}\n".encode(), np.uint8)
    is_word = IS_WORD[octets]
    edges = np.flatnonzero(is_word[1:] != is_word[:-1]) + 1
    start, end = edges[::2], edges[1::2]
    text_ends = np.cumsum(text.str.len_bytes().to_numpy().astype(np.int64) + 1)
    n_words = np.diff(np.searchsorted(start, text_ends), prepend=0)
    return octets, np.repeat(np.arange(len(text)), n_words), start, end - start


def _words(text: pl.Series) -> tuple[Array, Array, Array, Array]:
    """Find the words of any texts, as `_ascii_words` does, by pattern."""
    found = text.str.extract_all(WORD)
    words = found.explode(empty_as_null=False)
    n_octets = words.str.len_bytes().to_numpy().astype(np.int64)
    octets = np.frombuffer(words.str.join("").fill_null("").item().encode(), np.uint8)
    row = np.repeat(np.arange(len(text)), found.list.len().to_numpy())
    return octets, row, np.cumsum(n_octets) - n_octets, n_octets


def murmur_hash(octets: Array, start: Array, n_octets: Array) -> npt.NDArray[np.uint32]:
    """Hash runs of octets by MurmurHash3 (x86, 32 bits, seed 0), all side by side.

    >>> octets = np.frombuffer(b"a cat", np.uint8)
    >>> murmur_hash(octets, np.array([0, 2]), np.array([1, 3])).tolist()
    [1009084850, 1751422759]
    """
    # every four octets in a row as a number, also at the end
    padded = np.append(octets, np.zeros(4, np.uint8))
    blocks = np.ndarray(len(octets) + 1, "<u4", padded, strides=(1,))
    hashes, n_blocks = np.zeros(len(start), np.uint32), n_octets // 4
    longer, step = np.flatnonzero(n_blocks), 0
    while len(longer):
        mixed = hashes[longer] ^ _scramble(blocks[start[longer] + 4 * step])
        hashes[longer] = _rotate(mixed, 13) * np.uint32(5) + np.uint32(0xE6546B64)
        step += 1
        longer = longer[n_blocks[longer] > step]
    rest = blocks[start + 4 * n_blocks] & REST[n_octets % 4]
    hashes ^= _scramble(rest) ^ n_octets.astype(np.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        hashes = (hashes ^ (hashes >> np.uint32(shift))) * np.uint32(factor)
    return hashes


def _scramble(block: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    return _rotate(block * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593)


def _rotate(values: npt.NDArray[np.uint32], bits: int) -> npt.NDArray[np.uint32]:
    return (values << np.uint32(bits)) | (values >> np.uint32(32 - bits))


def is_unit_vector(column: str, length: int = 0) -> pl.Expr:
    """Whether a vector has its length (0: any) and is of norm 1, or all zeros; a null passes.

    >>> vectors = pl.DataFrame({"v": [[0.6, 0.8], [0.0, 0.0], [1.0, 1.0]]})
    >>> vectors.select(is_unit_vector("v", 2)).to_series().to_list()
    [True, True, False]
    """
    vector = pl.col(column)
    square = (vector * vector).list.sum()
    is_long = (square == 0) | ((square - 1).abs() < 1e-4)  # noqa: PLR2004 - single precision
    return vector.is_null() | ((vector.list.len() == (length or vector.list.len())) & is_long)
