"""Payloads as people are shown them: decoded, identifiers masked, control characters made visible, safe in a spreadsheet."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import polars as pl

from transforms.text.pii import redact

# control characters, and those that turn the direction of text or have no width
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
UNSEEN_BUT_SPACE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)
ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
# what a spreadsheet takes for a formula (OWASP, CSV injection); and the apostrophe that keeps it from it, so that undoing is exact
FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
LONG_NUMBER = 10**6


def readable(payloads: Sequence[bytes], *, is_revealed: bool) -> list[str]:
    """Decode payloads; unless revealed, with identifiers masked in every string of a JSON row, else in all of it."""
    texts = [payload.decode("utf-8", "backslashreplace") for payload in payloads]
    if is_revealed:
        return texts
    parsed = [_parsed(text) for text in texts]
    found: dict[str, str] = {}
    for value in parsed:
        _mapped(value, lambda text: found.setdefault(text, text))
    strings = list(found)
    masked = (
        pl.Series(strings, dtype=pl.String)
        .to_frame("text")
        .select(redact(pl.col("text")))
        .to_series()
        .to_list()
    )
    found = dict(zip(strings, masked, strict=True))
    shown = [_mapped(value, found.__getitem__) for value in parsed]
    return [
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for value in shown
    ]


def visible(text: str, *, but_space: bool = False) -> str:
    """Write characters that nobody sees as escapes; `but_space` leaves tabs and line ends."""
    unseen = UNSEEN_BUT_SPACE if but_space else UNSEEN
    return unseen.sub(
        lambda match: (
            f"\\x{ord(match[0]):02x}" if ord(match[0]) < 256 else f"\\u{ord(match[0]):04x}"
        ),
        text,
    )


def guarded(value: str) -> str:
    """Keep a spreadsheet from taking a value for a formula: an apostrophe before it."""
    return f"'{value}" if value.startswith(FORMULA) else value


def unguarded(value: str) -> str:
    """Take that apostrophe away again."""
    return value[1:] if value.startswith("'") and value[1:].startswith(FORMULA) else value


def _parsed(text: str) -> Any:
    """A row as what its JSON says; as text, its escapes resolved, where it is no object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    return (
        value
        if isinstance(value, dict)
        else _clean(ESCAPED.sub(lambda match: chr(int(match[1], 16)), text))
    )


def _clean(text: str) -> str:
    """Text without halves of surrogate pairs, which JSON may hold and nothing else takes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Change every string of a JSON value, names of fields and long numbers too."""
    if isinstance(value, str):
        return change(_clean(value))
    if isinstance(value, dict):
        return {change(_clean(name)): _mapped(item, change) for name, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    if isinstance(value, int) and abs(value) >= LONG_NUMBER:
        text = change(str(value))
        return value if text == str(value) else text
    return value
