"""Why the first line of a CSV file is not the header that its source needs, and the fix."""

import csv
import difflib
import re
from collections.abc import Sequence

from transforms.text.pii import mask

DELIMITERS = ",;\t|:"
SHOWN = 10
# how other kinds of files begin
BEGINNINGS = (
    ("\x1f", "it is compressed; its name must end in .csv.gz"),
    ("(\ufffd/", "it is compressed; its name must end in .csv.zst"),
    ("PK\x03\x04", "it is a ZIP archive or a workbook; save it as CSV"),
    ("PAR1", "it is a Parquet file; its name must end in .parquet"),
    ("<", "it is HTML or XML; fetch the CSV file itself"),
    ("{", "it is JSON; set `format: jsonl`"),
)


def lack_of_header(text: str, wanted: Sequence[str], delimiter: str, encoding: str) -> str | None:
    """Explain why a file's first line is not a header with the columns `wanted`; None if it is.

    >>> lack_of_header("id;text", ["id", "text"], ",", "utf-8")
    "its header has no column 'id': its columns are separated by ';'; set `delimiter: ';'`"
    """
    names = _names(text, delimiter)
    missing = next((name for name in wanted if name not in names), None)
    if missing is None and len(set(names)) == len(names):
        return None
    if missing is None:
        twice = next(name for name in names if names.count(name) > 1)
        return (
            f"its header names {_shown([twice])} twice; rename or delete one"
            if twice
            else "two columns of its header have no name; name them"
        )
    guess = (
        _other_file(text)
        or _other_line(text)
        or _other_delimiter(text, wanted, names)
        or _other_encoding(text, missing, encoding)
    )
    found = guess or _other_name(missing, names) or _what_is_there(wanted, names)
    return f"its header has no column {missing!r}: {found}"


def _names(text: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []


def _other_file(text: str) -> str | None:
    return next((kind for beginning, kind in BEGINNINGS if text.startswith(beginning)), None)


def _other_line(text: str) -> str | None:
    """Describe a line that is no header at all."""
    if not text.strip(" \t\r,;"):
        return "its first line is blank; take out the lines above the header"
    if stated := re.fullmatch(r'"?sep=(.)"?\s*', text, re.IGNORECASE):
        return (
            f"its first line, `sep={stated[1]}`, is for Excel alone; "
            f"take it out and set `delimiter: {stated[1]!r}`"
        )
    if "\r" in text:
        return "its lines end in carriage returns alone; save it with line feeds"
    if text.count('"') % 2:
        return "a quote in it is never closed; a header is one line"
    return None


def _other_delimiter(text: str, wanted: Sequence[str], names: Sequence[str]) -> str | None:
    found = {delimiter: _n_found(wanted, _names(text, delimiter)) for delimiter in DELIMITERS}
    best = max(found, key=lambda delimiter: found[delimiter])
    return (
        f"its columns are separated by {best!r}; set `delimiter: {best!r}`"
        if found[best] > _n_found(wanted, names)
        else None
    )


def _n_found(wanted: Sequence[str], names: Sequence[str]) -> int:
    """Count the wanted columns that are there, spaces around their names aside."""
    return len(set(wanted) & {name.strip() for name in names})


def _other_encoding(text: str, missing: str, encoding: str) -> str | None:
    if "\ufffd" in text:
        return f"it is not text in {encoding}; set its `encoding`, e.g. windows-1252"
    misread = missing.encode("utf-8").decode(encoding, "replace")
    return (
        f"it is text in UTF-8, not in {encoding}; set `encoding: utf-8`"
        if misread != missing and misread in text
        else None
    )


def _other_name(missing: str, names: Sequence[str]) -> str | None:
    """Name the column that is probably meant."""
    folded = {name.strip("\ufeff\u200b \t\u00a0").casefold(): name for name in names if name}
    near = folded.get(missing.casefold()) or next(
        iter(difflib.get_close_matches(missing, names, n=1, cutoff=0.8)), None
    )
    if near is None:
        return None
    what = (
        "with spaces around it"
        if near.strip() == missing
        else "in another case"
        if near.casefold() == missing.casefold()
        else "alike"
    )
    return (
        f"it has {_shown([near])}, {what}; "
        "rename it there or write it so in the source file, in double quotes"
    )


def _what_is_there(wanted: Sequence[str], names: Sequence[str]) -> str:
    """List the columns that are there; with none of the wanted ones, the line may be data."""
    if not _n_found(wanted, names):
        return (
            f"none of its {len(names)} columns is one that the source reads; "
            "is the header line missing?"
        )
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"it has {_shown(names[:SHOWN])}{more}; map one of these"


def _shown(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in mask(list(names)))
