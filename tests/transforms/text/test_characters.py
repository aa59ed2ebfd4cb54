"""Entropy and runs, compared with a plain count."""

import itertools
import math
from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.text import characters
from transforms.text.characters import measure_characters

BLANKS = "\t\n\x0b\x0c\r "


def entropy(text: str) -> float:
    counts = Counter(text.encode())
    return -sum(c / counts.total() * math.log2(c / counts.total()) for c in counts.values())


def longest_run(text: str) -> int:
    return max(
        (len(list(run)) for character, run in itertools.groupby(text) if character not in BLANKS),
        default=0,
    )


@given(st.lists(st.text(st.sampled_from("aab\u00e9\U0001f600 \n7"), max_size=20), max_size=5))
def test_characters_are_counted_as_defined(texts: list[str]) -> None:
    found = measure_characters(pl.Series(texts, dtype=pl.String))
    assert found["byte_entropy"].tolist() == pytest.approx(
        [entropy(text) for text in texts], abs=1e-9
    )
    assert found["max_char_run"].tolist() == [longest_run(text) for text in texts]
    assert found["n_letters"].tolist() == [
        sum(c.isascii() and c.isalpha() for c in text) for text in texts
    ]
    assert found["n_alphanumerics"].tolist() == [
        sum(c.isascii() and c.isalnum() for c in text) for text in texts
    ]


def test_slices_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = pl.Series(["aa", "", "aab", "é"] * 5)
    whole = {name: values.tolist() for name, values in measure_characters(texts).items()}
    monkeypatch.setattr(characters, "N_TEXTS_AT_ONCE", 3)
    assert {name: values.tolist() for name, values in measure_characters(texts).items()} == whole
