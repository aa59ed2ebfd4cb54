r"""How usable a text is: `RecordQuality`.

Classes are ASCII (`[0-9]`, not `\d`): a Unicode class costs several times as much. A count that
follows from other counts is not made.
"""

from functools import cache

import numpy as np
import polars as pl

from transforms.text.characters import CLASSES, measure_characters
from transforms.text.measured import beside_key
from transforms.text.words import split_words

WORD = r"[^ \t\n\r\x0B\x0C]+"
EMAIL_ADDRESS = r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+\.[A-Za-z0-9.-]*[A-Za-z]"
URL = r"https?://"
BULLET = r"[-*•][ \t]"
BULLET_LINE = r"(?m)^[ \t]*(?:[-*]|•)[ \t]"
SENTENCE_END = r"[.!?]+(?:[ \t\n\r\"')\]]|$)"


def score_quality(records: pl.LazyFrame) -> pl.LazyFrame:
    """Measure each record's `text`, as `RecordQuality`; a null text gives nulls.

    Reads `record_id`, `event_timestamp`, `created_timestamp` and `text`; returns the first three
    and the features.

    >>> now = pl.lit(0).cast(pl.Datetime("us", "UTC"))
    >>> record = pl.LazyFrame({"record_id": ["a"], "text": ["See https://x.org, see 2 pages!"]})
    >>> scored = score_quality(record.with_columns(event_timestamp=now, created_timestamp=now))
    >>> scored.select("n_words", "n_urls", "n_numbers", "unique_word_ratio").collect().rows()
    [(5, 1, 1, 1.0)]
    """
    # collected here: Polars within a Polars callback may wait for a thread that it occupies itself
    frame = records.collect()
    return beside_key(frame, _measure(_count_shared(frame["text"].fill_null(""))))


def _count_shared(text: pl.Series) -> pl.DataFrame:
    """Count what other views of the same texts need too."""
    words, characters = split_words(text), measure_characters(text)
    counts = {name: characters[name].astype(np.int64) for name in CLASSES}
    return pl.DataFrame(
        {"text": text, "n_words": words.n_words, "n_distinct": words.n_distinct, **counts}
    )


def _measure(counted: pl.DataFrame) -> pl.DataFrame:
    lines, n_lines, measures = _expressions()
    return counted.with_columns(lines).with_columns(n_lines).select(measures)


@cache
def _expressions() -> tuple[list[pl.Expr], pl.Expr, list[pl.Expr]]:
    """What is counted; made once, for that takes longer than to count one text."""
    text, n_words = pl.col("text"), pl.col("n_words")
    n_characters, n_lines = pl.col("n_characters"), pl.col("n_lines")
    lines = pl.when(pl.col("n_line_breaks") > 0).then(text.str.strip_suffix("\n").str.split("\n"))
    n_ellipses = _count_where(text.str.contains("...", literal=True), r"\.\.\.") + _count_where(
        pl.col("n_beyond_ascii") > 0, "…"
    )
    found = {
        "n_bytes": text.str.len_bytes().cast(pl.Int64),
        "n_sentences": pl.max_horizontal(_count(text, SENTENCE_END), (n_words > 0).cast(pl.Int64)),
        "n_urls": _count(text, URL),
        "n_email_addresses": _count_where(text.str.contains("@", literal=True), EMAIL_ADDRESS),
        "n_numbers": _count(text, "[0-9]+"),
        "mean_word_length": _per(n_characters - pl.col("n_blanks"), n_words),
        "whitespace_ratio": _per(pl.col("n_blanks"), n_characters),
        "uppercase_ratio": _per(pl.col("n_capitals"), n_characters),
        "digit_ratio": _per(pl.col("n_digits"), n_characters),
        "punctuation_ratio": _per(pl.col("n_punctuation"), n_characters),
        "non_ascii_ratio": _per(pl.col("n_beyond_ascii"), n_characters),
        "unique_word_ratio": _per(pl.col("n_distinct"), n_words),
        "duplicate_line_ratio": _per(
            n_lines - pl.col("_lines").list.n_unique().fill_null(n_lines), n_lines
        ),
        "bullet_line_ratio": _per(_count_where(text.str.contains(BULLET), BULLET_LINE), n_lines),
        "symbol_to_word_ratio": _per(pl.col("n_hashes") + n_ellipses, n_words),
    }
    n_split = pl.col("_lines").list.len()
    return (
        [text.str.len_chars().cast(pl.Int64).alias("n_characters"), lines.alias("_lines")],
        n_split.fill_null((text != "").cast(pl.UInt32)).cast(pl.Int64).alias("n_lines"),
        [
            *map(pl.col, ("n_characters", "n_words", "n_lines")),
            *map(pl.col, ("n_question_marks", "n_exclamation_marks")),
            *(expression.alias(name) for name, expression in found.items()),
        ],
    )


def _count(text: pl.Expr, pattern: str) -> pl.Expr:
    return text.str.count_matches(pattern).cast(pl.Int64)


def _count_where(may_match: pl.Expr, pattern: str) -> pl.Expr:
    """Count a pattern in the texts that may match, which is quicker to find out.

    The others are null meanwhile, for `when` evaluates its branches for all rows.
    """
    return _count(pl.when(may_match).then("text"), pattern).fill_null(0)


def _per(part: pl.Expr, whole: pl.Expr) -> pl.Expr:
    """A share; 0 of nothing is 0."""
    return pl.when(whole > 0).then(part / whole).otherwise(0.0)
