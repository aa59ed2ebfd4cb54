"""Payloads for people to read: decoded, masked, hidden characters shown, safe in spreadsheets."""

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
# what a spreadsheet takes for a formula (OWASP, CSV injection), and the apostrophe that guards it,
# so that `unguarded` is the exact inverse
FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
LONG_NUMBER = 10**6
ONE_BYTE = 256


def readable(payloads: Sequence[bytes], *, is_revealed: bool) -> list[str]:
    """Decode payloads and, unless they are revealed, mask the identifiers in them.

    In a JSON object each string is masked by itself; any other payload is masked as one text.

    >>> readable([b'{"from": "ann@example.com", "n": 3}'], is_revealed=False)
    ['{"from": "<EMAIL_ADDRESS>", "n": 3}']
    """
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
    r"""Write invisible characters as escapes; `but_space` leaves tabs and line ends.

    >>> print(visible("tab\there, zero\u200bwidth"))
    tab\x09here, zero\u200bwidth
    """
    unseen = UNSEEN_BUT_SPACE if but_space else UNSEEN
    return unseen.sub(
        lambda match: (
            f"\\x{ord(match[0]):02x}" if ord(match[0]) < ONE_BYTE else f"\\u{ord(match[0]):04x}"
        ),
        text,
    )


def guarded(value: str) -> str:
    """Put an apostrophe before a value that a spreadsheet would take for a formula.

    >>> guarded("=1+1"), guarded("1+1")
    ("'=1+1", '1+1')
    """
    return f"'{value}" if value.startswith(FORMULA) else value


def unguarded(value: str) -> str:
    """Take away the apostrophe that `guarded` puts before a formula.

    >>> unguarded("'=1+1"), unguarded("'tis")
    ('=1+1', "'tis")
    """
    return value[1:] if value.startswith("'") and value[1:].startswith(FORMULA) else value


def _parsed(text: str) -> Any:
    """Parse a row that is a JSON object; any other row stays text, with its escapes resolved."""
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
    """Escape unpaired surrogates, which JSON allows and UTF-8 does not."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Change every string of a JSON value, field names and long numbers included."""
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
