"""`score_quality`: exact values by hand, a plain reference, any text there is."""

from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.features.views.record_quality import RecordQuality
from transforms.text.quality import score_quality

WRITTEN = datetime(2026, 1, 1, tzinfo=UTC)
COMPUTED = datetime(2026, 1, 2, tzinfo=UTC)
TIME = pl.Datetime("us", "UTC")
FEATURES = [column.name for column in RecordQuality.columns()][3:]
BLANKS = " \t\n\r\x0b\x0c"
# texts in which words, lines, blanks and marks occur more often than in usual text
MARKED = st.text(alphabet=st.sampled_from("ab A1-*•#.!?@/:\t\n\r\x0b\x0c\u00a0é…😀"), max_size=60)
TEXTS = st.lists(st.one_of(st.none(), st.text(max_size=80), MARKED), max_size=6)


def staged(*texts: str | None) -> pl.LazyFrame:
    return pl.LazyFrame(
        {"record_id": [f"r{number}" for number in range(len(texts))], "text": texts},
        schema_overrides={"record_id": pl.String, "text": pl.String},
    ).with_columns(event_timestamp=pl.lit(WRITTEN, TIME), created_timestamp=pl.lit(COMPUTED, TIME))


def score(*texts: str | None) -> pl.DataFrame:
    return score_quality(staged(*texts)).collect()


def value(feature: str, text: str) -> float:
    return float(score(text)[feature][0])


def words_of(text: str) -> list[str]:
    """Words by definition: runs without the six ASCII blanks (`str.split()` splits at more)."""
    return "".join(" " if character in BLANKS else character for character in text).split(" ")


def reference(text: str) -> dict[str, float]:
    words = [word for word in words_of(text) if word]
    lines = text.removesuffix("\n").split("\n") if text else []
    return {
        "n_characters": len(text),
        "n_bytes": len(text.encode()),
        "n_words": len(words),
        "unique_word_ratio": len(set(words)) / len(words) if words else 0.0,
        "n_lines": len(lines),
        "duplicate_line_ratio": (len(lines) - len(set(lines))) / len(lines) if lines else 0.0,
        "mean_word_length": sum(map(len, words)) / len(words) if words else 0.0,
        "whitespace_ratio": sum(character in BLANKS for character in text) / len(text)
        if text
        else 0.0,
        "non_ascii_ratio": sum(ord(character) > 127 for character in text) / len(text)
        if text
        else 0.0,
    }


@given(TEXTS)
def test_any_text_meets_the_contract(texts: list[str | None]) -> None:
    assert RecordQuality.gate(score(*texts)).height == len(texts)


@given(st.one_of(st.text(max_size=80), MARKED))
def test_counts_agree_with_a_plain_reference(text: str) -> None:
    expected = reference(text)
    assert score(text).select(expected.keys()).row(0, named=True) == expected


@given(TEXTS, st.integers(0, 6))
def test_result_does_not_depend_on_how_batches_are_split(texts: list[str | None], at: int) -> None:
    frame = staged(*texts).collect()
    pieces = [score_quality(piece.lazy()).collect() for piece in (frame[:at], frame[at:])]
    assert pl.concat(pieces).equals(score_quality(frame.lazy()).collect())


def test_null_text_gives_nulls_and_keeps_its_row() -> None:
    scored = score(None, "a")
    assert scored.select(FEATURES).row(0) == (None,) * len(FEATURES)
    assert scored["record_id"].to_list() == ["r0", "r1"]


def test_empty_text_scores_zero_everywhere() -> None:
    assert set(score("").select(FEATURES).row(0)) == {0}


def test_text_of_blanks_has_lines_and_no_words() -> None:
    scored = score(" \t\n \n").row(0, named=True)
    expected = {
        "n_characters": 5,
        "n_words": 0,
        "n_lines": 2,
        "n_sentences": 0,
        "whitespace_ratio": 1.0,
        "unique_word_ratio": 0.0,
    }
    assert {name: scored[name] for name in expected} == expected


def test_whole_example_by_hand() -> None:
    text = (
        "Hello, World! See https://a.io/x?y=1\n- item one\n- item one\nMail bob@ex.org now... "
        "#wow 42\n"
    )
    scored = score(text).select(FEATURES).row(0, named=True)
    # 36 + 10 + 10 + 30 characters in four lines, a line feed after each
    assert scored == {
        "n_characters": 90,
        "n_bytes": 90,
        # Hello, World! See https://a.io/x?y=1 | - item one | - item one |
        # Mail bob@ex.org now... #wow 42
        "n_words": 15,
        "n_lines": 4,
        "n_sentences": 2,  # "World! " and "now... "
        "n_urls": 1,
        "n_email_addresses": 1,
        "n_numbers": 2,  # 1 and 42
        "n_question_marks": 1,
        "n_exclamation_marks": 1,
        "mean_word_length": (90 - 15) / 15,
        "whitespace_ratio": 15 / 90,  # 3 + 2 + 2 + 4 spaces, 4 line feeds
        "uppercase_ratio": 4 / 90,  # H W S M
        "digit_ratio": 3 / 90,
        "punctuation_ratio": 17 / 90,  # , ! :// . / ? = | - | - | @ . ... #
        "non_ascii_ratio": 0.0,
        "unique_word_ratio": 12 / 15,  # "- item one" twice
        "duplicate_line_ratio": 1 / 4,
        "bullet_line_ratio": 2 / 4,
        "symbol_to_word_ratio": 2 / 15,  # ... and #
    }


@pytest.mark.parametrize(
    ("feature", "text", "expected"),
    [
        ("n_characters", "é😀", 2),
        ("n_bytes", "é😀", 6),
        ("n_words", "one", 1),
        ("n_words", "  one \t two\n\n three\r\nfour\x0bfive\x0csix ", 6),
        ("n_words", "no\u00a0break", 1),
        ("n_words", "これは文です", 1),
        ("n_lines", "one", 1),
        ("n_lines", "one\n", 1),
        ("n_lines", "one\n\n", 2),
        ("n_lines", "\n", 1),
        ("n_lines", "one\r\ntwo", 2),
        ("n_sentences", "no end", 1),
        ("n_sentences", "One. Two! Three? Four... Five?!", 5),
        ("n_sentences", "v1.2 of a.b", 1),
        ("n_sentences", '"Stop." (Go!) [Now?]', 3),
        ("n_urls", "http://a https://b ftp://c http:/d", 2),
        ("n_urls", "see https://a.io,http://b.io", 2),
        ("n_email_addresses", "a.b+c@x-y.co.uk, d@e.fr.", 2),
        ("n_email_addresses", "@user a@b a@b. not@", 0),
        ("n_numbers", "1 22 3.5 x4y ٣", 5),
        ("n_question_marks", "what?? so?", 3),
        ("n_exclamation_marks", "no! no!!", 3),
        ("mean_word_length", "ab  abcd", 3.0),
        ("whitespace_ratio", "a b\tc\n\u00a0.", 3 / 8),
        ("uppercase_ratio", "ABcÉ", 2 / 4),
        ("digit_ratio", "a1b22٣", 3 / 6),
        ("punctuation_ratio", "a!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", 32 / 33),
        ("punctuation_ratio", "«a»", 0.0),
        ("non_ascii_ratio", "aé\x7f😀", 2 / 4),
        ("unique_word_ratio", "a A a\tb\nb", 3 / 5),
        ("unique_word_ratio", "a  a", 1 / 2),
        ("duplicate_line_ratio", "x\nx\ny\nx", 2 / 4),
        ("duplicate_line_ratio", "x\n\n\n", 1 / 3),
        ("duplicate_line_ratio", "x\nx\n", 1 / 2),
        ("duplicate_line_ratio", "x", 0.0),
        ("bullet_line_ratio", "- a\n * b\n\t• c\n-d\ne - f\n--", 3 / 6),
        ("bullet_line_ratio", "- a\n", 1.0),
        ("symbol_to_word_ratio", "# a ... b…", 3 / 4),
        ("symbol_to_word_ratio", "######", 6.0),
        ("symbol_to_word_ratio", "wait.... ....", 2 / 2),
    ],
)
def test_value_by_hand(feature: str, text: str, expected: float) -> None:
    assert value(feature, text) == expected


def test_examples_by_hand_cover_every_feature() -> None:
    marker = next(mark for mark in test_value_by_hand.pytestmark if mark.name == "parametrize")
    assert {case[0] for case in marker.args[1]} == set(FEATURES)
