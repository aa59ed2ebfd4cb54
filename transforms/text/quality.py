r"""How usable a text is: `RecordQuality`.

Classes are ASCII (`[0-9]`, not `\d`): a Unicode class costs several times as much. A count that
follows from other counts is not made.
"""

import polars as pl

# white space without the space itself: a pattern that stops at every space takes twice as long
OTHER_BLANK = r"[\t\n\r\x0B\x0C]"
WORD = r"[^ \t\n\r\x0B\x0C]+"
PUNCTUATION = r"[!-/:-@\[-`{-~]"
EMAIL_ADDRESS = r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+\.[A-Za-z0-9.-]*[A-Za-z]"
URL = r"https?://"
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
    text = pl.col("text")
    has_several_lines = text.str.contains("\n", literal=True)
    pieces = pl.col("_pieces").list
    n_empty = pieces.count_matches("").cast(pl.Int64)
    counted = records.with_columns(
        n_characters=text.str.len_chars().cast(pl.Int64),
        n_bytes=text.str.len_bytes().cast(pl.Int64),
        # one piece more than blanks, and only empty pieces are no words: quicker than two patterns
        _pieces=text.str.replace_all(OTHER_BLANK, " ").str.split(" "),
        _lines=pl.when(has_several_lines).then(text.str.strip_suffix("\n").str.split("\n")),
    ).with_columns(
        n_lines=pl.when(text.is_not_null())
        .then(pl.col("_lines").list.len().fill_null((text != "").cast(pl.UInt32)))
        .cast(pl.Int64),
        n_words=pieces.len().cast(pl.Int64) - n_empty,
        _n_blanks=pieces.len().cast(pl.Int64) - 1,
        _n_unique_words=pieces.n_unique().cast(pl.Int64) - (n_empty > 0).cast(pl.Int64),
    )
    n_characters, n_words, n_lines = pl.col("n_characters"), pl.col("n_words"), pl.col("n_lines")
    n_symbols = (
        text.str.count_matches("#", literal=True)
        + text.str.count_matches("...", literal=True)
        + text.str.count_matches("…", literal=True)
    )
    return counted.select(
        "record_id",
        "event_timestamp",
        "created_timestamp",
        "n_characters",
        "n_bytes",
        "n_words",
        "n_lines",
        n_sentences=pl.max_horizontal(_count(text, SENTENCE_END), (n_words > 0).cast(pl.Int64)),
        n_urls=_count(text, URL),
        n_email_addresses=pl.when(text.str.contains("@", literal=True))
        .then(_count(text, EMAIL_ADDRESS))
        .otherwise(_zero(text)),
        n_numbers=_count(text, "[0-9]+"),
        n_question_marks=_count(text, "?", literal=True),
        n_exclamation_marks=_count(text, "!", literal=True),
        mean_word_length=_per(n_characters - pl.col("_n_blanks"), n_words),
        whitespace_ratio=_per(pl.col("_n_blanks"), n_characters),
        uppercase_ratio=_per(text.str.count_matches("[A-Z]"), n_characters),
        digit_ratio=_per(text.str.count_matches("[0-9]"), n_characters),
        punctuation_ratio=_per(text.str.count_matches(PUNCTUATION), n_characters),
        non_ascii_ratio=_per(text.str.count_matches(r"[^\x00-\x7F]"), n_characters),
        unique_word_ratio=_per(pl.col("_n_unique_words"), n_words),
        duplicate_line_ratio=_per(
            n_lines - pl.col("_lines").list.n_unique().fill_null(n_lines), n_lines
        ),
        bullet_line_ratio=_per(_count(text, BULLET_LINE), n_lines),
        symbol_to_word_ratio=_per(n_symbols, n_words),
    )


def _count(text: pl.Expr, pattern: str, *, literal: bool = False) -> pl.Expr:
    return text.str.count_matches(pattern, literal=literal).cast(pl.Int64)


def _zero(text: pl.Expr) -> pl.Expr:
    """0 for a text, null for none."""
    return pl.when(text.is_not_null()).then(pl.lit(0, pl.Int64))


def _per(part: pl.Expr, whole: pl.Expr) -> pl.Expr:
    """A share; 0 of nothing is 0."""
    return pl.when(whole > 0).then(part / whole).otherwise(pl.when(whole == 0).then(0.0))
