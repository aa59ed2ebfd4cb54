"""Which home a request of Feast's goes to, for code that Feast calls without a word of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from feast.repo_config import RepoConfig

_home: ContextVar[Path | None] = ContextVar("home", default=None)


def home_in(config: RepoConfig) -> Path | None:
    """The home that a configuration names; None where its offline store is not ours."""
    warehouse = getattr(config.offline_store, "warehouse", None)
    return Path(config.repo_path or ".", warehouse).resolve() if warehouse else None


@contextmanager
def asking(config: RepoConfig) -> Iterator[None]:
    """Answer a request from the home that a configuration names."""
    token = _home.set(home_in(config))
    try:
        yield
    finally:
        _home.reset(token)


def asked_home() -> Path | None:
    """The home that is being asked; None where no store of ours is.

    >>> asked_home() is None
    True
    """
    return _home.get()
