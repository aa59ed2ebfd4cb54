"""Which characters a text is made of, and how evenly, counted on its bytes."""

import numpy as np
import polars as pl

from transforms.text.shared import shared
from transforms.text.words import Array, ratio

N_TEXTS_AT_ONCE = 1_024
BLANKS = b"\t\n\v\f\r "
CAPITALS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS = b"0123456789"
CLASSES = {
    "n_blanks": BLANKS,
    "n_letters": CAPITALS + CAPITALS.lower(),
    "n_alphanumerics": CAPITALS + CAPITALS.lower() + DIGITS,
    "n_capitals": CAPITALS,
    "n_digits": DIGITS,
    "n_punctuation": b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "n_symbols": b"$+<=>^`|~",
    "n_braces": b"{}",
    "n_hashes": b"#",
    "n_line_breaks": b"\n",
    "n_question_marks": b"?",
    "n_exclamation_marks": b"!",
    # the first octet of every character beyond ASCII
    "n_beyond_ascii": bytes(range(0xC0, 0x100)),
}
MEMBERS = np.array([[octet in octets for octets in CLASSES.values()] for octet in range(256)])
# where octets begin that are in the same classes. Their counts are added up first, since a product
# over all octets is large enough for BLAS to start threads, which took five times as long
ALIKE = np.flatnonzero(np.diff(MEMBERS, axis=0, prepend=~MEMBERS[:1]).any(axis=1))
# one row for octets that are alike, one column per class: a product adds up each class
OF_CLASSES = MEMBERS[ALIKE].astype(np.float64)


@shared
def measure_characters(text: pl.Series) -> dict[str, Array]:
    """Count the characters of each text by the `CLASSES`, and measure its bytes and runs.

    `byte_entropy` is in bits per byte; `max_char_run` is the longest run of one character.

    >>> measured = measure_characters(pl.Series(["aab 1", "!!!"]))
    >>> names = ("byte_entropy", "max_char_run", "n_alphanumerics")
    >>> [measured[name].round(2).tolist() for name in names]
    [[1.92, 0.0], [2.0, 3.0], [4.0, 0.0]]
    """
    slices = (text.slice(start, N_TEXTS_AT_ONCE) for start in range(0, len(text), N_TEXTS_AT_ONCE))
    measured = [_measure_at_once(some) for some in slices]
    names = ("byte_entropy", "max_char_run", *CLASSES)
    return {name: np.concatenate([[], *(found[name] for found in measured)]) for name in names}


def _measure_at_once(text: pl.Series) -> dict[str, Array]:
    n_bytes = text.str.len_bytes().to_numpy().astype(np.int64)
    octets = np.frombuffer(text.str.join("").item().encode(), np.uint8)
    cells = np.repeat(np.arange(len(text)) * 256, n_bytes)
    cells += octets
    counts = np.bincount(cells, minlength=len(text) * 256).reshape(-1, 256)
    of_classes = dict(
        zip(CLASSES, (np.add.reduceat(counts, ALIKE, axis=1) @ OF_CLASSES).T, strict=True)
    )
    return {
        "byte_entropy": _entropy(counts, n_bytes),
        "max_char_run": _longest_runs(text, octets, n_bytes, of_classes),
        **of_classes,
    }


def _entropy(counts: Array, n: Array) -> Array:
    """Shannon's entropy of each row of counts, in bits: log2 n - sum(c log2 c) / n."""
    count = np.arange(counts.max(initial=0) + 1)
    weighted = (count * np.log2(np.maximum(count, 1)))[counts].sum(axis=1)
    entropy: Array = np.maximum(np.log2(np.maximum(n, 1)) - ratio(weighted, n), 0.0)
    return entropy


def _longest_runs(
    text: pl.Series, octets: Array, n_bytes: Array, of_classes: dict[str, Array]
) -> Array:
    """The longest run of one non-blank character in each text; at least 1 unless the text is blank.

    Bytes rarely repeat, and in ASCII a byte is a character. Other texts are read by character.
    """
    at_least = (n_bytes > of_classes["n_blanks"]).astype(np.int64)
    longest = _lengthened(at_least, octets, n_bytes)
    is_wide = of_classes["n_beyond_ascii"] > 0
    if is_wide.any():
        wide = text.filter(pl.Series(is_wide))
        characters = np.frombuffer(wide.str.join("").item().encode("utf-32-le"), np.uint32)
        n_characters = wide.str.len_chars().to_numpy()
        longest[is_wide] = _lengthened(at_least[is_wide], characters, n_characters)
    return longest


def _lengthened(at_least: Array, units: Array, n_units: Array) -> Array:
    """Raise each text's least to the longest run of its units, blanks aside."""
    places = np.flatnonzero(units[1:] == units[:-1])
    places = places[~np.isin(units[places], list(BLANKS))]
    ends = np.cumsum(n_units)
    row = np.searchsorted(ends, places, side="right")
    is_within = places + 1 < ends[row]
    places, row = places[is_within], row[is_within]
    first = np.flatnonzero(np.diff(places, prepend=-2) != 1)
    longest = at_least.copy()
    np.maximum.at(longest, row[first], np.diff(first, append=len(places)) + 1)
    return longest
