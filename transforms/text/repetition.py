"""How much a text repeats its own words: Gopher's rules on n-grams.

The rules are those of Rae et al. 2021 (arXiv:2112.11446, section A.1.1). Characters are those of
words, without the blanks between them, as RedPajama-V2 counts them. An n-gram that occurs once is
no repetition; otherwise the top n-gram of a short text would be a large share of it.
"""

import numpy as np
import polars as pl

from transforms.text.measured import columns
from transforms.text.words import Array, Words, ratio

TOP = (2, 3, 4)
DUPLICATE = (5, 6, 7, 8, 9, 10)
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def measure_repetition(words: Words) -> dict[str, Array]:
    """Measure `frac_chars_top_{2,3,4}gram` and `frac_chars_dupe_{5..10}grams` of each text.

    The first is the share of characters in the most frequent n-gram of those that occur at least
    twice (the longest, if several are as frequent). The second is the share of characters in any
    n-gram that occurs at least twice, each character counted once. A longer n-gram can be repeated
    only where an n-gram and its neighbour are, so few words are read.

    >>> from transforms.text.words import split_words
    >>> measured = measure_repetition(split_words(pl.Series(["buy it now, buy it later"])))
    >>> measured["frac_chars_top_2gram"].round(2).tolist()
    [0.53]
    """
    n_characters = words.sum(words.n_characters)
    ends = np.concatenate([[0], np.cumsum(words.n_characters)])
    hashed = _mix(words.word.astype(np.uint64))
    repeated, found = np.flatnonzero(words.is_repeated), {}
    for n in range(2, max(DUPLICATE) + 1):
        repeated, keys = _repeated(words, hashed, repeated, n)
        if n in TOP:
            found[f"frac_chars_top_{n}gram"] = ratio(
                _top(words, repeated, keys, ends, n), n_characters
            )
        if n in DUPLICATE:
            found[f"frac_chars_dupe_{n}grams"] = ratio(
                _covered(words, repeated, ends, n), n_characters
            )
    return found


def _repeated(words: Words, hashed: Array, shorter: Array, n: int) -> tuple[Array, Array]:
    """Find where n-grams begin that occur at least twice in their text; with their keys.

    Only places where repeated (n-1)-grams begin are searched.
    """
    if not len(shorter):
        return shorter, np.zeros(0, np.uint64)
    first, last = shorter, shorter + n - 1
    fits = last < len(words.word)
    first, last = first[fits], last[fits]
    is_shorter = np.zeros(len(words.word), bool)
    is_shorter[shorter] = True
    first = first[(words.row[first] == words.row[last]) & is_shorter[first + 1]]
    keys = _mix(~words.row[first].astype(np.uint64))
    for offset in range(n):
        keys = _mix(keys ^ hashed[first + offset])
    is_repeated = pl.Series(keys).is_duplicated().to_numpy()
    return first[is_repeated], keys[is_repeated]


def _mix(values: Array) -> Array:
    """Spread integers over 64 bits, one to one.

    This is the end of SplitMix64 (Steele et al. 2014), in a single round.
    """
    mixed = (values + MULTIPLIER) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(31))


def _top(words: Words, first: Array, keys: Array, ends: Array, n: int) -> Array:
    """The characters of each text's most frequent repeated n-gram, over all its occurrences."""
    if not len(first):
        return np.zeros(words.n_texts, np.int64)
    found = columns(
        {"row": words.row[first], "key": keys, "n_characters": ends[first + n] - ends[first]}
    )
    counted = found.group_by("row", "key").agg(
        n=pl.len(), n_characters=pl.col("n_characters").first()
    )
    # both in one number, to compare how often first
    often = (counted["n"].to_numpy().astype(np.int64) << 32) + counted["n_characters"].to_numpy()
    top = np.zeros(words.n_texts, np.int64)
    np.maximum.at(top, counted["row"].to_numpy(), often)
    # an n-gram may overlap itself, as in "ha ha ha"
    return np.minimum((top >> 32) * (top & 0xFFFF_FFFF), words.sum(words.n_characters))


def _covered(words: Words, first: Array, ends: Array, n: int) -> Array:
    """The characters of each text that are in a repeated n-gram.

    Where two overlap, the first counts up to where the next begins.
    """
    if not len(first):
        return np.zeros(words.n_texts, np.int64)
    last = np.minimum(first + n, np.append(first[1:], len(words.word)))
    return np.bincount(words.row[first], ends[last] - ends[first], minlength=words.n_texts)
