"""The line rules, each on a text made for it."""

import polars as pl
import pytest

from transforms.text.lines import measure_lines


def measure(text: str) -> dict[str, float]:
    return {name: values.tolist()[0] for name, values in measure_lines(pl.Series([text])).items()}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("lines_ending_with_terminal_mark_ratio", 'One.\nTwo\n\nThree!\n"Four"', 0.75),
        ("short_line_ratio_chars_30", "short\n" + "x" * 31, 0.5),
        ("short_line_ratio_chars_30", "x" * 30, 1.0),
        ("line_char_duplicates", "abc\nde\nabc\n\n", 3 / 8),
        ("frac_lines_end_with_ellipsis", "well...\nso…\nyes\nno", 0.5),
        ("quoted_reply_ratio", "> you said\n>> I said\nyes", 2 / 3),
        ("paragraph_duplicates", "one\n\ntwo\n \none\n\n\n\nthree", 0.25),
        ("paragraph_duplicates", "one\none", 0.0),
    ],
)
def test_rule_counts_what_it_says(name: str, text: str, expected: float) -> None:
    assert measure(text)[name] == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "\n\n", " \t\r\n"])
def test_no_line_is_zero_of_everything(text: str) -> None:
    assert set(measure(text).values()) == {0.0}


def test_lines_of_another_text_are_no_duplicates() -> None:
    assert measure_lines(pl.Series(["abc", "abc"]))["line_char_duplicates"].tolist() == [0.0, 0.0]
