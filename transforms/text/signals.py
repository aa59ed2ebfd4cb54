"""What a text is like, for those who train on it: `RecordText`.

Language, readability, tone, repetition, lines and characters. Signals have the names of the
literature. They are measured and never applied, because a rule made for web pages drops most
messages.
"""

from functools import cache
from typing import Any

import numpy as np
import polars as pl

from transforms.text.characters import measure_characters
from transforms.text.language import begin_identifying
from transforms.text.lines import measure_lines
from transforms.text.quality import SENTENCE_END
from transforms.text.repetition import measure_repetition
from transforms.text.sentiment import measure_sentiment
from transforms.text.words import Array, Words, ratio, split_words

TOKENS_A_BYTE = 0.28
LONG_WORD = 7
ENGLISH_ONLY = (
    "automated_readability_index",
    "coleman_liau_index",
    "sentiment_compound",
    "frac_negative_words",
    "stop_word_fraction",
)
EMOJI = r"\p{Extended_Pictographic}"
SYMBOL = r"\p{S}"
CODE_BLOCK = r"(?s)```.*?```"
HTML_TAG = r"<(?:[A-Za-z][A-Za-z0-9]*[ />]|/[A-Za-z]|!--|!DOCTYPE)"


def score_text(records: pl.LazyFrame) -> pl.LazyFrame:
    """Measure each record's `text`, as `RecordText`.

    A null text gives nulls, and a text in another language gives nulls where English is needed.
    Reads `record_id`, `event_timestamp`, `created_timestamp` and `text`; returns the first three
    and the features.

    >>> now = pl.lit(0).cast(pl.Datetime("us", "UTC"))
    >>> records = pl.LazyFrame({"record_id": ["a"], "text": ["The weather is lovely today."]})
    >>> scored = score_text(records.with_columns(event_timestamp=now, created_timestamp=now))
    >>> scored.select("language", "max_word_length", "n_tokens_est", "is_html").collect().rows()
    [('en', 7, 8, 0)]
    """
    # collected here: Polars within a Polars callback may wait for a thread that it occupies itself
    return _score(records.collect()).lazy()


def _score(records: pl.DataFrame) -> pl.DataFrame:
    present = records.filter(pl.col("text").is_not_null())
    text = present["text"]
    language = begin_identifying(text)
    words, characters = split_words(text), measure_characters(text)
    measured: dict[str, Any] = {
        **measure_repetition(words),
        **measure_sentiment(words, text),
        **measure_lines(text),
        **_word_mix(words),
        **_readability(words, text, characters),
        "byte_entropy": characters["byte_entropy"],
        "max_char_run": characters["max_char_run"].astype(np.int64),
        "list_ratio": ratio(characters["n_line_breaks"], words.n_words),
    }
    scored = pl.concat(
        [present, pl.DataFrame(measured), _characters(text, characters), language()],
        how="horizontal",
    )
    is_english = pl.when(pl.col("language") == "en")
    scored = scored.with_columns(is_english.then(pl.col(ENGLISH_ONLY))).drop("text")
    if present.height == records.height:
        return scored
    return pl.concat(
        [scored, records.filter(pl.col("text").is_null()).drop("text")], how="diagonal_relaxed"
    )


def _word_mix(words: Words) -> dict[str, Array]:
    n_words = words.n_words
    return {
        "stop_word_fraction": ratio(words.sum(words.of_vocabulary("is_stop_word")), n_words),
        "frac_all_caps_words": ratio(words.sum(words.is_capitals), n_words),
        "frac_no_alph_words": ratio(words.sum(words.of_vocabulary("has_no_letter")), n_words),
        "long_word_ratio_7": ratio(words.sum(words.n_characters >= LONG_WORD), n_words),
        "max_word_length": words.max(words.n_characters),
        "unigram_entropy": _unigram_entropy(words),
    }


def _unigram_entropy(words: Words) -> Array:
    """Shannon's entropy of each text's words, in nats: log n - sum(c log c) / n.

    A word that occurs once adds nothing to the sum.
    """
    repeated = np.flatnonzero(words.is_repeated)
    _, first, count = np.unique(words.keys[repeated], return_index=True, return_counts=True)
    row = words.row[repeated[first]]
    # added up by count: a word's place in the vocabulary depends on the batch, and no bit may
    by_count = np.lexsort((count, row))
    weighted = np.bincount(
        row[by_count], (count * np.log(count))[by_count], minlength=words.n_texts
    )
    entropy: Array = np.maximum(
        np.log(np.maximum(words.n_words, 1)) - ratio(weighted, words.n_words), 0.0
    )
    return entropy


def _readability(words: Words, text: pl.Series, characters: dict[str, Array]) -> dict[str, Array]:
    """Two indexes of the US school grade that a text needs, from counts alone; 0 without words.

    ARI = 4.71 characters/words + 0.5 words/sentences - 21.43 (Smith & Senter 1967). Coleman-Liau =
    0.0588 L - 0.296 S - 15.8, with L letters and S sentences per 100 words (Coleman & Liau 1975).
    """
    n_words = words.n_words
    n_sentences = np.maximum(text.str.count_matches(SENTENCE_END).to_numpy().astype(np.int64), 1)
    per_word = 1 / np.maximum(n_words, 1)
    ari = 4.71 * characters["n_alphanumerics"] * per_word + 0.5 * n_words / n_sentences - 21.43
    coleman_liau = 5.88 * characters["n_letters"] * per_word - 29.6 * n_sentences * per_word - 15.8
    return {
        "automated_readability_index": np.where(n_words > 0, ari, 0.0),
        "coleman_liau_index": np.where(n_words > 0, coleman_liau, 0.0),
    }


def _characters(text: pl.Series, characters: dict[str, Array]) -> pl.DataFrame:
    """Shares and counts of characters; only texts beyond ASCII are searched for those beyond it."""
    beyond = np.flatnonzero(characters["n_beyond_ascii"])
    n_emoji, n_symbols = np.zeros(len(text), np.uint32), characters["n_symbols"].copy()
    if len(beyond):
        n_emoji[beyond] = text.gather(beyond).str.count_matches(EMOJI).to_numpy()
        n_symbols[beyond] = text.gather(beyond).str.count_matches(SYMBOL).to_numpy()
    counted = pl.DataFrame(
        {
            "text": text,
            "n_emoji": n_emoji,
            "n_symbols": n_symbols,
            "n_braces": characters["n_braces"],
        }
    )
    return counted.select(_of_characters())


@cache
def _of_characters() -> list[pl.Expr]:
    column, n = pl.col("text"), pl.col("text").str.len_chars()
    # few texts have either; lower case is costly, and need not be made of the others
    of_few = pl.when(column.str.contains("(?i)lorem ipsum|javascript")).then(column)
    lower = of_few.str.to_lowercase()
    n_in_blocks = column.str.extract_all(CODE_BLOCK).list.eval(pl.element().str.len_chars())
    found = {
        "n_tokens_est": (column.str.len_bytes() * TOKENS_A_BYTE).round().cast(pl.Int64),
        "emoji_count": pl.col("n_emoji").cast(pl.Int64),
        "emoji_ratio": _share(pl.col("n_emoji"), n),
        "symbol_ratio": _share(pl.col("n_symbols"), n),
        "curly_bracket": _share(pl.col("n_braces"), n),
        "lorem_ipsum": _share(lower.str.count_matches("lorem ipsum", literal=True).fill_null(0), n),
        "javascript_count": lower.str.count_matches("javascript", literal=True)
        .fill_null(0)
        .cast(pl.Int64),
        "code_block_ratio": pl.when(column.str.contains("```", literal=True))
        .then(_share(n_in_blocks.list.sum(), n))
        .otherwise(0.0),
        "is_html": column.str.contains(HTML_TAG).cast(pl.Int64),
    }
    return [expression.alias(name) for name, expression in found.items()]


def _share(part: pl.Expr, whole: pl.Expr) -> pl.Expr:
    return pl.when(whole > 0).then(part / whole).otherwise(0.0)
