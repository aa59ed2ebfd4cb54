"""How a text is made of lines, by the rules of C4, FineWeb and Gopher.

C4 is Raffel et al. 2020, FineWeb is Penedo et al. 2024 (arXiv:2406.17557). Blank lines do not
count.
"""

from functools import cache

import numpy as np
import polars as pl

from transforms.text.measured import columns, select
from transforms.text.words import Array, ratio

# the marks of C4 and FineWeb, and the full stops of other scripts as in FineWeb-2
TERMINAL_MARKS = (".", "!", "?", '"', "'", "”", "\u2019", "。", "\uff01", "\uff1f", "।", "؟")
ELLIPSES = ("...", "…")
SHORT_LINE = 30


def measure_lines(text: pl.Series) -> dict[str, Array]:
    """Measure the line rules of each text; for a text without lines all are 0.

    >>> measured = measure_lines(pl.Series(["> Hi there\\nFine, thanks.\\nFine, thanks."]))
    >>> [measured[name].round(2).item() for name in ("quoted_reply_ratio", "line_char_duplicates")]
    [0.33, 0.36]
    """
    pieces = text.str.split("\n")
    lines = columns({"row": np.repeat(np.arange(len(text)), pieces.list.len().to_numpy())})
    line = pieces.explode(empty_as_null=False).alias("line")
    lines = select(lines.insert_column(0, line), _stripped()).filter(pl.col("n_characters") > 0)
    row, n_characters = lines["row"].to_numpy(), lines["n_characters"].to_numpy()
    n_lines = np.bincount(row, minlength=len(text))

    found = {kind.name: kind.to_numpy() for kind in select(lines, _kinds())}
    is_repeat = ~found.pop("is_first")
    return {
        **{
            name: ratio(np.bincount(row[is_so], minlength=len(text)), n_lines)
            for name, is_so in found.items()
        },
        "line_char_duplicates": ratio(
            np.bincount(row[is_repeat], n_characters[is_repeat], len(text)),
            np.bincount(row, n_characters, len(text)),
        ),
        "paragraph_duplicates": _paragraph_duplicates(text),
    }


@cache
def _stripped() -> list[pl.Expr]:
    line = pl.col("line").str.strip_chars(" \t\r\x0b\x0c")
    return [line, pl.col("row"), line.str.len_chars().alias("n_characters")]


@cache
def _kinds() -> list[pl.Expr]:
    """What a line is, by the feature that counts it; and whether it is the first of its like."""
    line = pl.col("line")
    is_so = {
        "lines_ending_with_terminal_mark_ratio": line.str.tail(1).is_in(TERMINAL_MARKS),
        "short_line_ratio_chars_30": pl.col("n_characters") <= SHORT_LINE,
        "frac_lines_end_with_ellipsis": pl.any_horizontal(
            *(line.str.ends_with(mark) for mark in ELLIPSES)
        ),
        "quoted_reply_ratio": line.str.starts_with(">"),
        "is_first": pl.struct("row", "line").is_first_distinct(),
    }
    return [expression.alias(name) for name, expression in is_so.items()]


def _paragraph_duplicates(text: pl.Series) -> Array:
    """The share of paragraphs that repeat an earlier one; blank lines separate paragraphs."""
    share = np.zeros(len(text))
    has_several = text.str.contains("\n[ \t\r]*\n")
    if not has_several.any():
        return share
    paragraphs = (
        text.filter(has_several)
        .str.replace_all("\n[ \t\r]*\n[ \t\r\n]*", "\x1e")
        .str.strip_chars("\x1e \t\r\n")
        .str.split("\x1e")
    )
    n = paragraphs.list.len().to_numpy()
    share[has_several.to_numpy()] = ratio(n - paragraphs.list.n_unique().to_numpy(), n)
    return share
