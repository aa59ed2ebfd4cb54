"""Which characters a text is made of, and how evenly, counted on its bytes."""

import numpy as np
import polars as pl

from transforms.text.words import Array, ratio

N_TEXTS_AT_ONCE = 1_024
BLANKS = [ord(blank) for blank in "\t\n\v\f\r "]
DIGITS = range(ord("0"), ord("9") + 1)
LETTERS = [*range(ord("A"), ord("Z") + 1), *range(ord("a"), ord("z") + 1)]
# one row per byte value, one column per class: a product with counts adds up each class
CLASSES = np.zeros((256, 3))
for column, octets in enumerate((BLANKS, LETTERS, DIGITS)):
    CLASSES[octets, column] = 1


def measure_characters(text: pl.Series) -> dict[str, Array]:
    """Count the ASCII letters and alphanumerics of each text, and measure its bytes and runs.

    `byte_entropy` is in bits per byte; `max_char_run` is the longest run of one character.

    >>> measured = measure_characters(pl.Series(["aab 1", "!!!"]))
    >>> {name: found.round(2).tolist() for name, found in measured.items() if name != "n_letters"}
    {'byte_entropy': [1.92, 0.0], 'max_char_run': [2.0, 3.0], 'n_alphanumerics': [4.0, 0.0]}
    """
    slices = (text.slice(start, N_TEXTS_AT_ONCE) for start in range(0, len(text), N_TEXTS_AT_ONCE))
    measured = [_measure_at_once(some) for some in slices]
    names = ("byte_entropy", "max_char_run", "n_letters", "n_alphanumerics")
    return {name: np.concatenate([[], *(found[name] for found in measured)]) for name in names}


def _measure_at_once(text: pl.Series) -> dict[str, Array]:
    n_bytes = text.str.len_bytes().to_numpy().astype(np.int64)
    row = np.repeat(np.arange(len(text)), n_bytes)
    octets = np.frombuffer(text.str.join("").item().encode(), np.uint8)
    counts = np.bincount(row * 256 + octets, minlength=len(text) * 256).reshape(-1, 256)
    n_blanks, n_letters, n_digits = (counts @ CLASSES).T
    return {
        "byte_entropy": _entropy(counts, n_bytes),
        "max_char_run": _longest_runs(text, octets, row, n_bytes > n_blanks),
        "n_letters": n_letters,
        "n_alphanumerics": n_letters + n_digits,
    }


def _entropy(counts: Array, n: Array) -> Array:
    """Shannon's entropy of each row of counts, in bits: log2 n - sum(c log2 c) / n."""
    count = np.arange(counts.max(initial=0) + 1)
    weighted = (count * np.log2(np.maximum(count, 1)))[counts].sum(axis=1)
    entropy: Array = np.maximum(np.log2(np.maximum(n, 1)) - ratio(weighted, n), 0.0)
    return entropy


def _longest_runs(text: pl.Series, octets: Array, row: Array, has_marks: Array) -> Array:
    """The longest run of one non-blank character in each text; at least 1 unless the text is blank.

    Bytes rarely repeat, and in ASCII a byte is a character. Other texts are read by character.
    """
    longest = has_marks.astype(np.int64)
    _lengthen(longest, octets, row)
    n_characters = text.str.len_chars()
    is_wide = (text.str.len_bytes() != n_characters).to_numpy()
    if is_wide.any():
        longest[is_wide] = has_marks[is_wide]
        characters = np.frombuffer(
            text.filter(is_wide).str.join("").item().encode("utf-32-le"), np.uint32
        )
        _lengthen(
            longest,
            characters,
            np.repeat(np.flatnonzero(is_wide), n_characters.to_numpy()[is_wide]),
        )
    return longest


def _lengthen(longest: Array, units: Array, row: Array) -> None:
    """Raise each row's longest run to that of its units, blanks aside."""
    places = np.flatnonzero(units[1:] == units[:-1])
    places = places[row[places + 1] == row[places]]
    first = np.flatnonzero(np.append(True, np.diff(places) != 1))[: len(places)]
    lengths, starts = np.diff(np.append(first, len(places))) + 1, places[first]
    is_mark = ~np.isin(units[starts], BLANKS)
    np.maximum.at(longest, row[starts[is_mark]], lengths[is_mark])
