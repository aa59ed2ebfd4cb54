"""How positive or negative a text's words are, by VADER (Hutto & Gilbert 2014).

Its lexicon and rules are applied to a flat array of words. The lexicon, the boosters and the
negations come from the package vaderSentiment. Its idioms ("kind of"), its rules for "least" and
"never so", and emoji are left out. Like every lexicon it is a proxy.
"""

from functools import cache
from itertools import repeat

import numpy as np
import polars as pl

from transforms.text.words import Array, Words, ratio

CAPITALS, NEGATION, BEFORE_BUT, AFTER_BUT = 0.733, -0.74, 0.5, 1.5
EXCLAMATION, MOST_EXCLAMATIONS = 0.292, 4
QUESTION, MOST_QUESTIONS, MANY_QUESTIONS = 0.18, 3, 0.96
# the weight of a booster one, two and three words before
DISTANCE = (1.0, 0.95, 0.9)
NORMAL = 15.0


def measure_sentiment(words: Words, text: pl.Series) -> dict[str, Array]:
    """Measure the tone of each text.

    `sentiment_compound` goes from -1 to 1; `frac_negative_words` is the share of words with a
    negative valence.

    >>> from transforms.text.words import split_words
    >>> text = pl.Series(["What a great day!", "This is not good."])
    >>> measured = measure_sentiment(split_words(text), text)
    >>> measured["sentiment_compound"].round(2).tolist()
    [0.66, -0.34]
    """
    of_word, boost, is_negation = _look_up(words.known["key"])
    valence, is_capitals = of_word[words.word], words.is_capitals
    # some words in capitals, not all
    is_emphatic = words.sum(is_capitals) % np.maximum(words.n_words, 1) > 0
    said = np.flatnonzero(valence)
    row = words.row[said]
    value = valence[said] + np.sign(valence[said]) * CAPITALS * (
        is_capitals[said] & is_emphatic[row]
    )
    for distance, weight in enumerate(DISTANCE, start=1):
        before = np.maximum(said - distance, 0)
        # a word with a valence of its own neither boosts nor negates
        counts = (words.row[before] == row) & (said >= distance) & (valence[before] == 0)
        word, sign = words.word[before], np.sign(valence[said])
        boosted = boost[word] + np.sign(boost[word]) * CAPITALS * (
            is_capitals[before] & is_emphatic[row]
        )
        value += np.where(counts, sign * boosted * weight, 0.0)
        value *= np.where(counts & is_negation[word], NEGATION, 1.0)
    value *= _around_but(words, said, row)
    total = np.bincount(row, value, minlength=words.n_texts).astype(np.float64)
    total += np.sign(total) * _emphasis(text)
    return {
        "sentiment_compound": np.clip(total / np.sqrt(total * total + NORMAL), -1.0, 1.0),
        "frac_negative_words": ratio(words.sum(valence < 0), words.n_words),
    }


def _look_up(keys: pl.Series) -> tuple[Array, Array, Array]:
    """What the lexicon says about each word: valence, boost, whether it is a negation."""
    place_of, *columns = _lexicon()
    # a join would hash all of the lexicon each time
    places = np.fromiter(map(place_of.get, keys.to_list(), repeat(0)), np.intp, len(keys))
    valence, boost, is_negation = (column[places] for column in columns)
    return valence, boost, is_negation


@cache
def _lexicon() -> tuple[dict[str, int], Array, Array, Array]:
    """Each word's place in the columns that follow; place 0 is for a word that is not known."""
    from vaderSentiment.vaderSentiment import BOOSTER_DICT, NEGATE, SentimentIntensityAnalyzer

    valence = SentimentIntensityAnalyzer().lexicon
    known = [None, *sorted({*valence, *BOOSTER_DICT, *NEGATE})]
    return (
        {word: place for place, word in enumerate(known) if word is not None},
        np.array([valence.get(word, 0.0) for word in known]),
        np.array([BOOSTER_DICT.get(word, 0.0) for word in known]),
        np.array([word in NEGATE for word in known]),
    )


def _around_but(words: Words, said: Array, row: Array) -> Array:
    """Weight what precedes a text's first "but" by a half, and what follows by one and a half."""
    is_but = np.flatnonzero(words.of_vocabulary("is_but"))
    first = np.full(words.n_texts, -1)
    first[words.row[is_but][::-1]] = is_but[::-1]
    place = first[row]
    return np.where(
        place < 0, 1.0, np.where(said < place, BEFORE_BUT, np.where(said > place, AFTER_BUT, 1.0))
    )


def _emphasis(text: pl.Series) -> Array:
    n_exclamations = text.str.count_matches("!", literal=True).to_numpy().astype(np.int64)
    n_questions = text.str.count_matches("?", literal=True).to_numpy().astype(np.int64)
    questions = np.where(n_questions > MOST_QUESTIONS, MANY_QUESTIONS, QUESTION * n_questions) * (
        n_questions > 1
    )
    emphasis: Array = EXCLAMATION * np.minimum(n_exclamations, MOST_EXCLAMATIONS) + questions
    return emphasis
