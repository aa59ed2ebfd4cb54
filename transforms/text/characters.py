"""What characters a text is made of, and how evenly: counted on the texts' bytes, a slice of texts at a time."""

import numpy as np
import polars as pl

from transforms.text.words import Array, ratio

N_TEXTS_AT_ONCE = 4_096
BLANKS = [ord(blank) for blank in "\t\n\v\f\r "]
IS_LETTER = np.zeros(256, bool)
IS_LETTER[[*range(ord("A"), ord("Z") + 1), *range(ord("a"), ord("z") + 1)]] = True
IS_ALPHANUMERIC = IS_LETTER.copy()
IS_ALPHANUMERIC[range(ord("0"), ord("9") + 1)] = True


def measure_characters(text: pl.Series) -> dict[str, Array]:
    """Measure `byte_entropy` (bits a byte), `max_char_run`, and the ASCII letters and alphanumerics of each text."""
    slices = (text.slice(start, N_TEXTS_AT_ONCE) for start in range(0, len(text), N_TEXTS_AT_ONCE))
    measured = [_measure_at_once(some) for some in slices]
    names = ("byte_entropy", "max_char_run", "n_letters", "n_alphanumerics")
    return {name: np.concatenate([[], *(found[name] for found in measured)]) for name in names}


def _measure_at_once(text: pl.Series) -> dict[str, Array]:
    n_bytes = text.str.len_bytes().to_numpy().astype(np.int64)
    row = np.repeat(np.arange(len(text)), n_bytes)
    joined = text.str.join("").item()
    octets = np.frombuffer(joined.encode(), np.uint8)
    counts = np.bincount(row * 256 + octets, minlength=len(text) * 256).reshape(-1, 256)
    return {
        "byte_entropy": _entropy(counts, n_bytes),
        "max_char_run": _longest_runs(joined, text, n_bytes > counts[:, BLANKS].sum(axis=1)),
        "n_letters": counts[:, IS_LETTER].sum(axis=1),
        "n_alphanumerics": counts[:, IS_ALPHANUMERIC].sum(axis=1),
    }


def _entropy(counts: Array, n: Array) -> Array:
    """Shannon's entropy of each row of counts, in bits: log2 n - sum(c log2 c) / n."""
    row, octet = np.nonzero(counts)
    count = counts[row, octet]
    weighted = np.bincount(row, count * np.log2(count), minlength=len(n))
    entropy: Array = np.maximum(np.log2(np.maximum(n, 1)) - ratio(weighted, n), 0.0)
    return entropy


def _longest_runs(joined: str, text: pl.Series, has_marks: Array) -> Array:
    """The longest run of one character in each text, blanks aside; of a text that is not blank, 1 at least."""
    characters = np.frombuffer(joined.encode("utf-32-le"), np.uint32)
    n_characters = text.str.len_chars().to_numpy().astype(np.int64)
    longest = has_marks.astype(np.int64)
    row = np.repeat(np.arange(len(text)), n_characters)
    goes_on = (characters[1:] == characters[:-1]) & (row[1:] == row[:-1])
    # where a run of two or more begins, and where it ends
    edges = np.flatnonzero(np.diff(goes_on.astype(np.int8), prepend=0, append=0))
    starts, lengths = edges[::2], edges[1::2] - edges[::2] + 1
    is_mark = ~np.isin(characters[starts], BLANKS)
    np.maximum.at(longest, row[starts[is_mark]], lengths[is_mark])
    return longest
