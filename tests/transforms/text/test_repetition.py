"""Gopher's rules on n-grams, compared with a plain reading of them."""

from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.text.repetition import DUPLICATE, TOP, measure_repetition
from transforms.text.words import split_words

few_words = st.lists(st.sampled_from(["a", "bb", "ccc", "\n", "é"]), max_size=30).map(" ".join)


def measure(*texts: str) -> list[dict[str, float]]:
    return pl.DataFrame(
        measure_repetition(split_words(pl.Series(texts, dtype=pl.String)))
    ).to_dicts()


def top(words: list[str], n: int) -> float:
    """The share of characters in the most frequent n-gram (at least twice); of ties the longest."""
    counted = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    repeated = [(count, sum(map(len, gram))) for gram, count in counted.items() if count > 1]
    count, n_characters = max(repeated, default=(0, 0))
    return min(count * n_characters / max(sum(map(len, words)), 1), 1.0)


def duplicated(words: list[str], n: int) -> float:
    """The share of characters in n-grams that occur at least twice, each character once."""
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    counted = Counter(grams)
    covered = {
        i + offset for i, gram in enumerate(grams) if counted[gram] > 1 for offset in range(n)
    }
    return sum(len(words[i]) for i in covered) / max(sum(map(len, words)), 1)


@given(st.lists(few_words, max_size=5))
def test_repetition_is_what_the_definition_says(texts: list[str]) -> None:
    for text, found in zip(texts, measure(*texts), strict=True):
        words = text.split()
        expected = {f"frac_chars_top_{n}gram": top(words, n) for n in TOP} | {
            f"frac_chars_dupe_{n}grams": duplicated(words, n) for n in DUPLICATE
        }
        assert found == pytest.approx(expected)


def test_an_ngram_that_occurs_once_repeats_nothing() -> None:
    assert set(measure("three words only")[0].values()) == {0.0}


def test_words_of_another_text_are_no_repetition() -> None:
    assert (
        measure("the same words here", "the same words here") == measure("the same words here") * 2
    )
