"""Which views a home keeps online: those declared so, and the views of records it asks for.

Views of entities are declared online unless they say otherwise, views of records only where they
say so, for records are rarely read by id.
"""

from collections.abc import Collection
from pathlib import Path

from transforms.errors import HomeError
from transforms.features.chosen import home_views
from transforms.features.registry import views
from transforms.home import replace_file, settings_of

ALL, NONE = "all", "none"


def online_views(home: Path) -> list[str]:
    """Name the views that are online in a home.

    `MILLRACE_ONLINE` names views of records beside those that are declared online; an empty one
    takes all of records off, those too. Where it is not set the home keeps its choice, and a new
    one has none. Raises `HomeError` for a name that is no view of records.
    """
    asked = choice(home)
    return [
        view.name
        for view in home_views(home)
        if view.name in asked or (view.online and not (view.is_of_records and NONE in asked))
    ]


def choice(home: Path) -> set[str]:
    """Name what is asked for beside what is declared: views of records, or `none` of them."""
    return _asked_for() if settings_of().online is not None else _kept(home)


def keep(home: Path, asked: Collection[str]) -> None:
    """Remember the choice, so that it applies to later runs."""
    names = [name for name in (NONE, *_of_records()) if name in asked]
    replace_file(choice_path(home), "\n".join(names).encode())


def _of_records() -> list[str]:
    return [view.name for view in views() if view.is_of_records]


def _asked_for() -> set[str]:
    names = {name.strip() for name in (settings_of().online or "").split(",")} - {""}
    if not names:
        return {NONE}
    if names == {ALL}:
        return set(_of_records())
    if unknown := sorted(names - set(_of_records())):
        message = (
            f"MILLRACE_ONLINE: {unknown[0]!r} is no view of records; there are "
            f"{', '.join(_of_records())}, or {ALL} for every one"
        )
        raise HomeError(message)
    return names


def _kept(home: Path) -> set[str]:
    path = choice_path(home)
    return set(path.read_text("utf-8").split()) if path.is_file() else set()


def choice_path(home: Path) -> Path:
    """Return where a home keeps its choice."""
    return home / "feast" / "online_views"
