r"""A text as a vector of fixed length, by its words alone: `RecordVector`.

Signed feature hashing (Weinberger et al. 2009, arXiv:0902.2206): a hash of each word chooses its place and its sign, so that
words which share a place cancel out on average, and no vocabulary need be learned, kept or shipped. The hash is MurmurHash3
(x86, 32 bits, seed 0), whose values never change; place and sign are taken from it as scikit-learn's `HashingVectorizer` does.
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

    Takes `record_id`, `event_timestamp`, `created_timestamp` and `text`; gives those without the text, and the vector.
    """
    return with_vectors(records, "hash_vec_256", hashed)


def with_vectors(
    records: pl.LazyFrame, name: str, vectors_of: Callable[[pl.Series], Vectors]
) -> pl.LazyFrame:
    """Put a vector in the place of each record's text, null where the text is."""
    # collected here: Polars within a Polars callback may wait for a thread that it holds itself
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
    """Hash texts to unit vectors (Euclidean norm), a row for each; all zeros where there is no word, or where words cancel out."""
    vectors = np.empty((len(text), DIMENSION), np.float32)
    for start in range(0, len(text), N_TEXTS_AT_ONCE):
        sums = _signed_counts(text[start : start + N_TEXTS_AT_ONCE])
        norms = np.sqrt(np.square(sums).sum(axis=1, keepdims=True))
        vectors[start : start + len(sums)] = sums / np.maximum(
            norms, 1
        )  # of whole numbers: 0, or at least 1
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
    sums = np.bincount(cells, signs[codes], len(text) * DIMENSION).astype(
        np.float64, copy=False
    )  # of no word: whole numbers
    return sums.reshape(len(text), DIMENSION)


def is_unit_vector(column: str, length: int = 0) -> pl.Expr:
    """Whether a vector has its length (0: any) and is 1 long, or all zeros; a null passes."""
    vector = pl.col(column)
    square = (vector * vector).list.sum()
    is_long = (square == 0) | ((square - 1).abs() < 1e-4)  # noqa: PLR2004 - single precision
    return vector.is_null() | ((vector.list.len() == (length or vector.list.len())) & is_long)
