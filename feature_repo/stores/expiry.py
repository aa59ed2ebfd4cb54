"""How long values stay online.

A view's `ttl` is Feast's and applies in training too. The tag `online_seconds` applies online
alone: values past it read as past a `ttl`, and materialization deletes them.
"""

from datetime import timedelta
from typing import Any

from transforms.errors import MillraceError

ONLINE_SECONDS = "online_seconds"


class WindowError(MillraceError):
    """An online store cannot delete what is older than a view says."""


def online_for(view: Any) -> timedelta | None:
    """How long a view's values stay in the online store; None for ever."""
    seconds = (view.tags or {}).get(ONLINE_SECONDS)
    return None if seconds is None else timedelta(seconds=int(seconds))


def max_age(view: Any) -> timedelta | None:
    """How old a value may be to be served: by the view's time to live, or by what stays online."""
    ttl = getattr(view, "ttl", None)  # an on-demand view that is written online has none
    return min((limit for limit in (ttl, online_for(view)) if limit), default=None)
