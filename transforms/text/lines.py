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
    rows = np.repeat(np.arange(len(text)), pieces.list.len().to_numpy())
    line = pl.col("line")
    lines = (
        pl.DataFrame({"row": rows, "line": pieces.explode(empty_as_null=False)})
        .with_columns(line.str.strip_chars(" \t\r\x0b\x0c"))
        .filter(line != "")
        .with_columns(n_characters=line.str.len_chars().cast(pl.Int64))
    )
    is_repeat = ~pl.struct("row", "line").is_first_distinct()
    by_row = lines.group_by("row").agg(
        n_lines=pl.len(),
        lines_ending_with_terminal_mark_ratio=_ends_with(TERMINAL_MARKS).mean(),
        short_line_ratio_chars_30=(pl.col("n_characters") <= SHORT_LINE).mean(),
        frac_lines_end_with_ellipsis=_ends_with(ELLIPSES).mean(),
        quoted_reply_ratio=line.str.starts_with(">").mean(),
        n_characters=pl.col("n_characters").sum(),
    )
    repeats = lines.filter(is_repeat).group_by("row").agg(n_repeated=pl.col("n_characters").sum())
    measured = pl.DataFrame({"row": np.arange(len(text))}).join(
        by_row, on="row", how="left", maintain_order="left"
    )
    measured = measured.join(repeats, on="row", how="left", maintain_order="left").fill_null(0)
    shares = (
        "lines_ending_with_terminal_mark_ratio",
        "short_line_ratio_chars_30",
        "frac_lines_end_with_ellipsis",
        "quoted_reply_ratio",
    )
    return {
        **{name: measured[name].to_numpy() for name in shares},
        "line_char_duplicates": ratio(
            measured["n_repeated"].to_numpy(), measured["n_characters"].to_numpy()
        ),
        "paragraph_duplicates": _paragraph_duplicates(text),
    }


def _ends_with(marks: tuple[str, ...]) -> pl.Expr:
    return pl.any_horizontal(*(pl.col("line").str.ends_with(mark) for mark in marks))


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
