"""How a text is made of lines, by the rules of C4, FineWeb and Gopher.

C4 is Raffel et al. 2020, FineWeb is Penedo et al. 2024 (arXiv:2406.17557). Blank lines do not
count.
"""

import numpy as np
import polars as pl

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
    line = pl.col("line")
    lines = (
        pl.DataFrame({"line": pieces.explode(empty_as_null=False)})
        .with_columns(
            line.str.strip_chars(" \t\r\x0b\x0c"),
            row=np.repeat(np.arange(len(text)), pieces.list.len().to_numpy()),
        )
        .filter(line != "")
        .with_columns(n_characters=line.str.len_chars())
    )
    row, n_characters = lines["row"].to_numpy(), lines["n_characters"].to_numpy()
    n_lines = np.bincount(row, minlength=len(text))

    def share(is_so: pl.Expr) -> Array:
        found = row[lines.select(is_so).to_series().to_numpy()]
        return ratio(np.bincount(found, minlength=len(text)), n_lines)

    is_repeat = ~lines.select(pl.struct("row", "line").is_first_distinct()).to_series().to_numpy()
    return {
        "lines_ending_with_terminal_mark_ratio": share(line.str.tail(1).is_in(TERMINAL_MARKS)),
        "short_line_ratio_chars_30": share(pl.col("n_characters") <= SHORT_LINE),
        "frac_lines_end_with_ellipsis": share(
            pl.any_horizontal(*(line.str.ends_with(mark) for mark in ELLIPSES))
        ),
        "quoted_reply_ratio": share(line.str.starts_with(">")),
        "line_char_duplicates": ratio(
            np.bincount(row[is_repeat], n_characters[is_repeat], len(text)),
            np.bincount(row, n_characters, len(text)),
        ),
        "paragraph_duplicates": _paragraph_duplicates(text),
    }


def _paragraph_duplicates(text: pl.Series) -> Array:
    """The share of paragraphs that repeat an earlier one; blank lines separate paragraphs."""
    share = np.zeros(len(text))
    has_several = text.str.contains("\n[ \t\r]*\n")
    paragraphs = (
        text.filter(has_several)
        .str.replace_all("\n[ \t\r]*\n[ \t\r\n]*", "\x1e")
        .str.strip_chars("\x1e \t\r\n")
        .str.split("\x1e")
    )
    n = paragraphs.list.len().to_numpy()
    share[has_several.to_numpy()] = ratio(n - paragraphs.list.n_unique().to_numpy(), n)
    return share
