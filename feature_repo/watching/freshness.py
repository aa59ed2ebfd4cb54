"""How fresh views are: when a run last brought them up to date, or found that they were.

A view promises it by `fresh_within=`; who is late is reported by status, the report, the feature
server's `/health` and an event, and a read may ask to be refused. Loads nothing heavy.
"""

import json
from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from transforms.errors import StaleError
from transforms.features.chosen import home_views
from transforms.home import replace_file


class Freshness(NamedTuple):
    """A view's promise, and the instant up to which it is right (None: it never was)."""

    view: str
    within: timedelta
    as_of: datetime | None

    def is_late(self, now: datetime) -> bool:
        """Whether the promise is broken at an instant."""
        return self.as_of is None or now - self.as_of > self.within

    def words(self, now: datetime) -> str:
        """The view's state in words.

        >>> noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
        >>> Freshness("mood", timedelta(hours=2), noon).words(noon + timedelta(hours=3))
        'mood: brought up to date 3:00:00 ago, which may be 2:00:00 at most'
        """
        if self.as_of is None:
            return f"{self.view}: never brought up to date, which may be {self.within} ago at most"
        age = now - self.as_of
        ago = timedelta(seconds=int(age.total_seconds()))
        return f"{self.view}: brought up to date {ago} ago, which may be {self.within} at most"


def mark_fresh(home: Path, at: datetime, views: Iterable[str] | None = None) -> None:
    """Record that views are right up to an instant, by default all of the home.

    The caller has locked the home.
    """
    names = [view.name for view in home_views(home)] if views is None else list(views)
    kept = {**_kept(home), **dict.fromkeys(names, at.isoformat())}
    replace_file(_path(home), json.dumps(kept, indent=2).encode())


def as_of(home: Path) -> dict[str, datetime]:
    """Up to when views are right, those of which it is known."""
    return {view: datetime.fromisoformat(at) for view, at in _kept(home).items()}


def promised_views(home: Path) -> list[Freshness]:
    """List the views that promise to be fresh."""
    kept = as_of(home)
    return [
        Freshness(view.name, view.fresh_within, kept.get(view.name))
        for view in home_views(home)
        if view.fresh_within
    ]


def late_views(home: Path, now: datetime) -> list[Freshness]:
    """List the views that are later than they promise."""
    return [item for item in promised_views(home) if item.is_late(now)]


def refuse_late(home: Path, views: Collection[str]) -> None:
    """Raise `StaleError` if one of some views is late."""
    now = datetime.now(UTC)
    late = [item.words(now) for item in late_views(home, now) if item.view in views]
    if late:
        lines = "\n  ".join(late)
        message = f"stale values are refused: run the pipeline, then ask again\n  {lines}"
        raise StaleError(message)


def _kept(home: Path) -> dict[str, str]:
    path = _path(home)
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def _path(home: Path) -> Path:
    return home / "feast" / "fresh.json"
