r"""A text as a vector of fixed length, by its words alone: `RecordVector`.

Signed feature hashing (Weinberger et al. 2009, arXiv:0902.2206): a hash of each word chooses its
place and its sign, so words that share a place cancel out on average. No vocabulary has to be
learned, kept or shipped. The hash is MurmurHash3 (x86, 32 bits, seed 0), whose values never change.
Place and sign are taken from it as scikit-learn's `HashingVectorizer` does.
"""

from collections.abc import Callable
from typing import TypeAlias

import mmh3
import numpy as np
import numpy.typing as npt
import polars as pl

Vectors: TypeAlias = npt.NDArray[np.float32]

DIMENSION = 256
WORD = r"\w+"
N_TEXTS_AT_ONCE = 4_096  # their sums stay in the processor's cache


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
    text, vectors = frame["text"], vectors_of(frame["text"])
    lists = pl.Series(name, vectors, pl.Array(pl.Float32, vectors.shape[1])).cast(
        pl.List(pl.Float32)
    )
    return frame.lazy().select(
        "record_id",
        "event_timestamp",
        "created_timestamp",
        pl.when(text.is_not_null()).then(lists).alias(name),
    )


def hashed(text: pl.Series) -> Vectors:
    """Hash texts to unit vectors (Euclidean norm), a row for each.

    A text has all zeros if it has no word, or if its words cancel out.

    >>> vectors = hashed(pl.Series(["a cat sat", "A CAT SAT", "a dog"]))
    >>> (vectors @ vectors.T).astype(float).round(2).tolist()
    [[1.0, 1.0, 0.41], [1.0, 1.0, 0.41], [0.41, 0.41, 1.0]]
    """
    vectors = np.empty((len(text), DIMENSION), np.float32)
    for start in range(0, len(text), N_TEXTS_AT_ONCE):
        sums = _signed_counts(text[start : start + N_TEXTS_AT_ONCE])
        norms = np.sqrt(np.square(sums).sum(axis=1, keepdims=True))
        # sums are integers, so a norm is 0 or at least 1
        vectors[start : start + len(sums)] = sums / np.maximum(norms, 1)
    return vectors


def _signed_counts(text: pl.Series) -> npt.NDArray[np.float64]:
    """Add up the signs of each text's words by their places; each distinct word is hashed once."""
    words = (
        text.str.to_lowercase()
        .str.extract_all(WORD)
        .alias("word")
        .to_frame()
        .with_row_index("row")
        .explode("word")
        .drop_nulls()
    )
    encoded = words["word"].to_arrow().dictionary_encode()
    hashes = np.array([mmh3.hash(word) for word in encoded.dictionary.to_pylist()], np.int64)
    places, signs = np.abs(hashes) % DIMENSION, np.where(hashes >= 0, 1.0, -1.0)
    codes = encoded.indices.to_numpy()
    cells = words["row"].to_numpy().astype(np.int64) * DIMENSION + places[codes]
    # without any word these are integers
    sums = np.bincount(cells, signs[codes], len(text) * DIMENSION).astype(np.float64, copy=False)
    return sums.reshape(len(text), DIMENSION)


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
