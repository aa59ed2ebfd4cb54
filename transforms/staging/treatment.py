"""How the sources of a home treat texts, and what a text must be to count, also in a request."""

import json
from collections.abc import Mapping
from pathlib import Path

from transforms.home import replace_file
from transforms.sources.source import Source


def keep_treatment(home: Path, source: Source) -> None:
    """Record whether a source keeps texts as they are or redacts them."""
    known = treatments(home)
    if known.get(source.name) != source.text:
        replace_file(_path(home), json.dumps({**known, source.name: source.text}).encode())


def treatments(home: Path) -> Mapping[str, str]:
    """Read `keep` or `redact` for each source that was ever staged in a home."""
    path = _path(home)
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def refusal(text: object, max_bytes: int) -> str | None:
    r"""Name the rule by which a run would quarantine a text; None if it would stage it.

    >>> [refusal(text, 10) for text in ("a note", " \u2003\n", "far too long", "\ud800", 7)]
    [None, 'empty', 'too_long', 'not_utf8', 'not_text']
    """
    if not isinstance(text, str):
        return "not_text"
    try:
        n_bytes = len(text.encode())
    except UnicodeEncodeError:  # half of a surrogate pair
        return "not_utf8"
    if n_bytes > max_bytes:
        return "too_long"
    return "empty" if not text or text.isspace() else None


def _path(home: Path) -> Path:
    return home / "texts.json"
