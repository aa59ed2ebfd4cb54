"""Texts as one flat array of words, on which word signals are counted without a loop over texts.

A word is a run of non-blank characters, by `record_quality` too. Each distinct word of a batch is
processed once.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from pyarrow import compute

from transforms.text.measured import select
from transforms.text.shared import shared

# white space without the space itself: a pattern that stops at every space takes twice as long
OTHER_BLANK = r"[\t\n\r\x0B\x0C]"
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
# Gopher's list; a usable English text has two of them
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
# a word this short without its punctuation may be an emoticon, so it is looked up with it
EMOTICON = 2
Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Words:
    """The words of some texts, one text after the other.

    `word` is each word's place in `vocabulary`, and `row` its text. The words of text r are those
    from `start[r]` up to, not including, `start[r + 1]`.
    """

    vocabulary: pl.Series
    word: Array
    row: Array
    start: Array

    @property
    def n_texts(self) -> int:
        """How many texts there are, those without words too."""
        return len(self.start) - 1

    @property
    def n_words(self) -> Array:
        """The number of words of each text."""
        return np.diff(self.start)

    @cached_property
    def n_characters(self) -> Array:
        """The number of characters of each word."""
        return self.of_vocabulary("n_characters")

    @cached_property
    def keys(self) -> Array:
        """A number for each word, which equal words of the same text share."""
        keys: Array = self.row * max(len(self.vocabulary), 1) + self.word
        return keys

    @cached_property
    def is_repeated(self) -> Array:
        """Whether a word occurs in its text at least twice."""
        return pl.Series(self.keys).is_duplicated().to_numpy()

    @property
    def n_distinct(self) -> Array:
        """The number of different words of each text."""
        row = self._sorted_keys[self._is_first] // max(len(self.vocabulary), 1)
        n_distinct: Array = np.bincount(row, minlength=self.n_texts)
        return n_distinct

    @cached_property
    def _sorted_keys(self) -> Array:
        return np.sort(self.keys)

    @cached_property
    def _is_first(self) -> Array:
        is_first: Array = np.diff(self._sorted_keys, prepend=-1) != 0
        return is_first

    @cached_property
    def is_capitals(self) -> Array:
        """Whether a word is written in capitals."""
        return self.of_vocabulary("is_capitals")

    @cached_property
    def known(self) -> pl.DataFrame:
        """What is asked of each distinct word, in one pass; `key` is its form in a lexicon."""
        word = self.vocabulary.to_frame().with_columns(plain=self.vocabulary.str.to_lowercase())
        return select(word, _asked())

    def of_vocabulary(self, name: str) -> Array:
        """Give every word what a column of `known` has of it.

        >>> words = split_words(pl.Series(["The cat! BUT the dog"]))
        >>> words.of_vocabulary("is_stop_word").tolist()
        [True, False, False, True, False]
        """
        values: Array = self.known[name].to_numpy()
        return values[self.word]

    def sum(self, values: Array) -> Array:
        """Add up a value of every word by text.

        >>> words = split_words(pl.Series(["a cat", "", "dog"]))
        >>> words.sum(words.n_characters).tolist()
        [4, 0, 3]
        """
        summed = np.concatenate([[0], np.cumsum(values)])
        total: Array = summed[self.start[1:]] - summed[self.start[:-1]]
        return total

    def max(self, values: Array) -> Array:
        """The greatest value among each text's words; 0 for a text without words.

        >>> words = split_words(pl.Series(["a cat", "", "horse"]))
        >>> words.max(words.n_characters).tolist()
        [3, 0, 5]
        """
        greatest = np.zeros(self.n_texts, values.dtype)
        has_words = self.n_words > 0
        if has_words.any():
            greatest[has_words] = np.maximum.reduceat(values, self.start[:-1][has_words])
        return greatest


@cache
def _asked() -> list[pl.Expr]:
    word, plain = pl.col("word"), pl.col("plain")
    bare = plain.str.strip_chars(PUNCTUATION)
    found = {
        "n_characters": word.str.len_chars().cast(pl.Int64),
        "is_capitals": (word == word.str.to_uppercase()) & (word != plain),
        "is_stop_word": bare.is_in(STOP_WORDS),
        "has_no_letter": ~word.str.contains(r"[A-Za-z]|[\p{L}--[A-Za-z]]"),
        "is_but": plain == "but",
        "key": pl.when(bare.str.len_chars() <= EMOTICON).then(plain).otherwise(bare),
    }
    return [expression.alias(name) for name, expression in found.items()]


@shared
def split_words(text: pl.Series) -> Words:
    """Split texts into words; none may be null.

    >>> words = split_words(pl.Series(["a cat  a dog", "a"]))
    >>> words.vocabulary.to_list(), words.word.tolist(), words.row.tolist()
    (['a', 'cat', 'dog'], [0, 1, 0, 2, 0], [0, 0, 0, 0, 1])
    """
    pieces = select(text.alias("text").to_frame(), _pieces()).to_series().to_arrow()
    word = pieces.flatten()
    row = np.repeat(np.arange(len(text)), pieces.value_lengths().to_numpy())
    is_word = compute.binary_length(word).to_numpy() > 0
    if not is_word.all():
        word, row = word.filter(pa.array(is_word)), row[is_word]
    encoded = word.dictionary_encode()
    start = np.searchsorted(row, np.arange(len(text) + 1))
    return Words(
        pl.Series("word", encoded.dictionary),
        encoded.indices.to_numpy().astype(np.int64),
        row,
        start,
    )


@cache
def _pieces() -> list[pl.Expr]:
    return [pl.col("text").str.replace_all(OTHER_BLANK, " ").str.split(" ")]


def ratio(part: Array, whole: Array) -> Array:
    """Divide, row by row; nothing of nothing is 0.

    >>> ratio(np.array([1, 0]), np.array([4, 0])).tolist()
    [0.25, 0.0]
    """
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
