"""Which views a home keeps online: all entity views, and the record views it asks for.

Records are rarely read by id, and each would take a row a feature: 2 million chat lines (46 MB of
Parquet) filled more than 39 GB.
"""

from pathlib import Path

from feature_repo.client import store_settings
from feature_repo.done import done_path
from transforms.errors import HomeError
from transforms.features.chosen import chosen_views
from transforms.features.registry import views
from transforms.home import Settings, replace_file

ALL = "all"


def online_views(home: Path) -> list[str]:
    """Name the views that are online in a home.

    `MILLRACE_ONLINE` names those of records. Where it is not set the home keeps what it has, a home
    of an older version too, and a new one keeps none. Raises `HomeError` for a name that is no view
    of records.
    """
    kept = _asked_for() if Settings().online is not None else _kept(home)
    return [
        view.name
        for view in chosen_views(home)
        if (view.name in kept if view.is_of_records else view.online)
    ]


def keep(home: Path, views: list[str]) -> None:
    """Remember the choice, so that it applies to later runs."""
    replace_file(_path(home), "\n".join(view for view in _of_records() if view in views).encode())


def _of_records() -> list[str]:
    return [view.name for view in views() if view.is_of_records]


def _asked_for() -> set[str]:
    names = {name.strip() for name in (Settings().online or "").split(",")} - {""}
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
    path = _path(home)
    if path.is_file():
        return set(path.read_text("utf-8").split())
    project = store_settings(home)["project"]  # a home of a version that kept every view online
    return {view for view in _of_records() if done_path(home, project, view).is_file()}


def _path(home: Path) -> Path:
    return home / "feast" / "online_views"
