"""The view `record_text`: any text meets its contract, and each family is where it belongs."""

from datetime import UTC, datetime
from random import Random
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.features.views.record_text import RecordText
from transforms.text.signals import ENGLISH_ONLY, score_text

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ENGLISH = (
    "The quick brown fox jumps over the lazy dog and then it goes back to the forest that we "
    "all know."
)
GERMAN = (
    "Der schnelle braune Fuchs springt über den faulen Hund und läuft dann zurück in den Wald, "
    "den wir alle kennen."
)


def score(*texts: str | None) -> list[dict[str, Any]]:
    rows = [
        {"record_id": str(number), "event_timestamp": NOW, "created_timestamp": NOW, "text": text}
        for number, text in enumerate(texts)
    ]
    times = dict.fromkeys(("event_timestamp", "created_timestamp"), pl.Datetime("us", "UTC"))
    frame = pl.LazyFrame(rows, schema={"record_id": pl.String, **times, "text": pl.String})
    return (
        RecordText.gate(score_text(frame).collect())
        .sort(pl.col("record_id").cast(pl.Int64))
        .to_dicts()
    )


@settings(max_examples=20)
@given(st.lists(st.none() | st.text(max_size=80), max_size=5))
def test_any_text_meets_the_contract(texts: list[str | None]) -> None:
    scored = score(*texts)
    assert [row["language"] is None for row in scored] == [text is None for text in texts]


@pytest.mark.parametrize(
    "text",
    [
        "\x00\x01",
        "a" * 200_000,
        "\U0001f600" * 50,
        "́" * 9,
        "\n" * 1000,
        "[{<>}]`" * 100,
        "﻿",
        "ab " * 50_000,
    ],
    ids=range(8),
)
def test_hostile_text_meets_the_contract(text: str) -> None:
    assert score(text)[0]["language"] is not None


def test_english_signals_are_null_elsewhere() -> None:
    english, german, short, none = score(ENGLISH, GERMAN, "7", None)
    assert english["language"] == "en"
    assert german["language"] == "de"
    assert short["language"] == "und"
    assert all(english[name] is not None for name in ENGLISH_ONLY)
    assert {
        name: (german[name], short[name], none[name]) for name in ENGLISH_ONLY
    } == dict.fromkeys(ENGLISH_ONLY, (None, None, None))


def test_a_tombstone_has_no_value() -> None:
    (row,) = score(None)
    assert {value for name, value in row.items() if name not in RecordText.key()} == {None}


def test_readability_is_the_formulas() -> None:
    (row,) = score("The cat sat on the mat. It was very happy there, and it purred all day.")
    assert row["automated_readability_index"] == pytest.approx(
        4.71 * 53 / 16 + 0.5 * 16 / 2 - 21.43
    )
    assert row["coleman_liau_index"] == pytest.approx(
        0.0588 * 53 / 16 * 100 - 0.296 * 2 / 16 * 100 - 15.8
    )


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("frac_all_caps_words", "STOP this NOW 123", 0.5),
        ("frac_no_alph_words", "a 12 -- é", 0.5),
        ("long_word_ratio_7", "seventh word", 0.5),
        ("max_word_length", "a bcd ef", 3),
        ("unigram_entropy", "a b", 0.6931471805599453),
        ("n_tokens_est", "x" * 100, 28),
        ("emoji_count", "fine \U0001f600\U0001f600", 2),
        ("symbol_ratio", "1+1=2", 0.4),
        ("curly_bracket", "{ab}", 0.5),
        ("lorem_ipsum", "Lorem Ipsum", 1 / 11),
        ("javascript_count", "JavaScript javascript", 2),
        ("code_block_ratio", "ab```x```", 7 / 9),
        ("is_html", "see <b>this</b>", 1),
        ("is_html", "1 < 2 and 3 > 2, <3", 0),
        ("list_ratio", "one two\nthree", 1 / 3),
        ("max_char_run", "soooo", 4),
    ],
)
def test_signal_counts_what_it_says(name: str, text: str, expected: float) -> None:
    assert score(text)[0][name] == pytest.approx(expected)


def test_a_text_scores_alike_alone_and_in_company() -> None:
    assert score(ENGLISH)[0] == score(ENGLISH, GERMAN, ENGLISH)[0]


@settings(max_examples=20)
@given(
    st.lists(st.text(st.sampled_from("ab c"), min_size=1, max_size=60), min_size=2, max_size=6),
    st.randoms(),
)
def test_values_do_not_depend_on_who_else_is_in_the_batch_by_a_single_bit(
    texts: list[str], random: Random
) -> None:
    alone = [{**score(text)[0], "record_id": ""} for text in texts]
    order = random.sample(range(len(texts)), len(texts))
    together = score(*(texts[place] for place in order))
    assert [
        {**together[order.index(place)], "record_id": ""} for place in range(len(texts))
    ] == alone
