"""Signatures do not depend on neighbouring texts, and use the defined shingles."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.text.duplicates import SHINGLE, _pack_runs, compare_texts, sign

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
