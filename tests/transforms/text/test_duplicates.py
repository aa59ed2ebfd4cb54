"""Signatures do not depend on neighbouring texts, use the defined shingles, and find pairs."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.features.engine.duplicates import compare_pairs
from transforms.text.duplicates import BANDS, ROWS, SHINGLE, _pack_runs, compare_texts, sign

N_VALUES = BANDS * ROWS
TEXTS = st.text("ab1 é日", max_size=20)


@given(st.lists(TEXTS, min_size=1, max_size=8))
def test_a_text_has_the_same_signature_alone_and_among_others(texts: list[str]) -> None:
    together = sign(pl.Series(texts)).to_list()
    assert together == [sign(pl.Series([text])).to_list()[0] for text in texts]


@pytest.mark.parametrize("characters", ["the quick fox", "the quick füx", "日本語の文章です"])
def test_runs_are_packed_a_character_each_eight_bits(characters: str) -> None:
    points = [*map(ord, characters), *[0] * SHINGLE]
    expected = [
        sum(point << 8 * place for place, point in enumerate(points[start : start + SHINGLE]))
        for start in range(len(characters))
    ]
    assert _pack_runs(characters).tolist() == expected


@pytest.mark.parametrize(
    ("n_agreeing", "is_kept"), [(60, False), (84, False), (96, True), (128, True)]
)
def test_pairs_are_kept_from_a_similarity_of_seven_tenths_on(
    n_agreeing: int, *, is_kept: bool
) -> None:
    left, right = np.zeros(N_VALUES, np.uint8), np.ones(N_VALUES, np.uint8)
    right[:n_agreeing] = 0
    pair = {
        "later": [1],
        "earlier": [0],
        "later_keys": [left.view(np.int64)],
        "earlier_keys": [right.view(np.int64)],
    }
    kept = compare_pairs(pl.DataFrame(pair))["similarity"].to_list()
    assert kept == ([pytest.approx(n_agreeing / N_VALUES, abs=0.01)] if is_kept else [])


def test_likeness_falls_with_what_is_changed() -> None:
    text = (
        "the server stops answering after the update when more than ten people are connected to "
        "it at once"
    )
    likenesses = compare_texts(
        text,
        [text.upper(), f"{text}!", text.replace("ten", "six"), text[:60], "nothing of this at all"],
    )
    assert likenesses[:2] == [1, 1]
    assert likenesses == sorted(likenesses, reverse=True)
    assert likenesses[2] > 0.8 > likenesses[3] > 0.2 > likenesses[4]
