"""Which views a home computes: those that somebody asks for, and the views that these read.

What is not chosen is off: it is not computed, its table stays as it is, and taking it back
computes what has arrived since. Whatever goes over the views of a home asks here.
"""

from collections.abc import Iterable
from pathlib import Path

from transforms.errors import HomeError
from transforms.features.registry import registry, view_name
from transforms.features.view import View
from transforms.home import remove_files, replace_file, settings_of
from transforms.warehouse.checkpoint import FEATURIZE
from transforms.warehouse.tables import Warehouse

ALL = "all"


def chosen_views(home: Path) -> list[View]:
    """List the views that a run computes, each after those that it reads.

    `MILLRACE_VIEWS` names them; where it is not set, they are those of the run before, and in a new
    home all. Raises `HomeError` for a name that is no view, derived view or service.
    """
    return _closure(_asked(home))


def home_views(home: Path) -> list[View]:
    """List the views that the last complete run was to compute: those that are there to read."""
    return _closure(_declared(home))


def computed_views(warehouse: Warehouse) -> list[View]:
    """List the views that were ever computed, those that are off by now too.

    What must reach every row, an erasure for example, goes over these.
    """
    return [
        view
        for view in registry().views.values()
        if FEATURIZE.consumed(warehouse, view.relation) >= 0
    ]


def kept_views(warehouse: Warehouse) -> list[View]:
    """List the views that are there to read or were ever computed, with those that they read."""
    names = {view.name for view in computed_views(warehouse)}
    return _closure(names | {view.name for view in home_views(warehouse.settings.root)})


def left_out(wanted: Iterable[View]) -> list[str]:
    """Name the declared views that are not among these."""
    names = {view.name for view in wanted}
    return [name for name in registry().views if name not in names]


def off_views(home: Path) -> list[str]:
    """Name the views that are off in a home."""
    return [] if _kept(home) == {ALL} else left_out(home_views(home))


def take_back(home: Path, view: str) -> str:
    """Say that a view is off, and how to take it back."""
    names = ",".join([*sorted(_declared(home)), view])
    return (
        f"{view}: is off in this home, so it is not computed; run once with "
        f"MILLRACE_VIEWS={names}, or MILLRACE_VIEWS={ALL} for every view"
    )


def refuse_off(home: Path, view: str) -> None:
    """Raise `HomeError` if a view is off."""
    if view in off_views(home):
        raise HomeError(take_back(home, view))


def is_kept(home: Path) -> bool:
    """Whether the home's choice is already what is asked for."""
    asked = settings_of().views
    return asked is None or _checked(asked) == _kept(home)


def keep_choice(home: Path) -> None:
    """Remember the choice, so that it applies to later runs; a home with all views has no file."""
    names = _asked(home)
    if names == {ALL}:  # a view that is declared later belongs to it
        remove_files([_path(home)])
    else:
        replace_file(_path(home), "\n".join(sorted(names)).encode())


def _asked(home: Path) -> set[str]:
    asked = settings_of().views
    return _declared(home) if asked is None else _checked(asked)


def _declared(home: Path) -> set[str]:
    """The home's choice, as far as it is still declared."""
    kept = _kept(home)
    declared = kept & {ALL, *_known()}
    if not declared:
        message = (
            f"{home}: nothing declares {', '.join(sorted(kept))} any more, which is all that "
            f"this home computes; run once with MILLRACE_VIEWS naming others, or {ALL}"
        )
        raise HomeError(message)
    return declared


def _kept(home: Path) -> set[str]:
    path = _path(home)
    return set(path.read_text("utf-8").split()) if path.is_file() else {ALL}


def _checked(asked: str) -> set[str]:
    names = {name.strip() for name in asked.split(",")} - {""}
    if unknown := sorted(names - {ALL, *_known()}):
        message = (
            f"MILLRACE_VIEWS: {unknown[0]!r} is no view, derived view or service; there are "
            f"{', '.join(_known())}, or {ALL} for every view"
        )
        raise HomeError(message)
    if not names:
        message = f"MILLRACE_VIEWS: names nothing; name a view or service, or {ALL}"
        raise HomeError(message)
    return {ALL} if ALL in names else names


def _known() -> list[str]:
    declared = registry()
    return [*declared.views, *declared.derived, *declared.services]


def _closure(names: Iterable[str]) -> list[View]:
    """List the views that are named or read, by whatever number of steps."""
    declared = registry()
    due, found = set(names), set()
    while due:
        name = due.pop()
        found.add(name)
        if name == ALL:
            read: Iterable[str] = declared.views
        elif name in declared.services:
            read = [view_name(item) for item in declared.services[name].features]
        elif name in declared.derived:
            read = map(view_name, declared.derived[name].of)
        else:
            read = declared.views[name].reads
        due |= {item.partition(":")[0] for item in read} - found
    return [view for name, view in declared.views.items() if name in found]


def _path(home: Path) -> Path:
    return home / "views"
