"""Which views a home computes: those that somebody asks for, and the views that these read.

What is not chosen is off: it is not computed, its table stays as it is, and taking it back
computes what has arrived since. Whatever goes over the views of a home asks here.
"""

from collections.abc import Iterable
from pathlib import Path

from transforms.errors import HomeError
from transforms.features.registry import registry, view_name
from transforms.features.view import View
from transforms.home import Settings, replace_file
from transforms.warehouse.checkpoint import FEATURIZE
from transforms.warehouse.tables import Warehouse

ALL = "all"


def chosen_views(home: Path) -> list[View]:
    """List the views that a home computes, each after those that it reads.

    `MILLRACE_VIEWS` names them; where it is not set the home keeps its choice, and a new one has
    all. Raises `HomeError` for a name that is no view, derived view or service.
    """
    return _closure(_names(home))


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
    """List the views that are chosen or were ever computed, with those that they read."""
    names = {view.name for view in computed_views(warehouse)}
    return _closure(names | {view.name for view in chosen_views(warehouse.settings.root)})


def off_views(home: Path) -> list[str]:
    """Name the views that a home does not compute."""
    chosen = {view.name for view in chosen_views(home)}
    return [name for name in registry().views if name not in chosen]


def refuse_off(home: Path, references: Iterable[str]) -> None:
    """Raise `HomeError` if what is asked for rests on a view that is off.

    What is asked for is named, or a feature of it as `view:feature`.

    Names that nothing declares are left to whoever looks them up.
    """
    asked = {reference.partition(":")[0] for reference in references}
    off = off_views(home)
    for view in _closure(asked & {*_known()}):
        if view.name in off:
            message = (
                f"{view.name}: is off in this home, so it is not computed; run once with "
                f"MILLRACE_VIEWS={','.join([*sorted(_names(home)), view.name])}, or "
                f"MILLRACE_VIEWS={ALL} for every view"
            )
            raise HomeError(message)


def keep_choice(home: Path) -> None:
    """Remember the choice, so that it applies to later runs."""
    names = _names(home)
    # all is kept as a word: a view that is declared later belongs to it
    replace_file(_path(home), "\n".join(sorted(names)).encode())


def _names(home: Path) -> set[str]:
    asked = Settings().views
    if asked is not None:
        return _checked(asked)
    kept = _path(home)
    if not kept.is_file():
        return {ALL}
    chosen = set(kept.read_text("utf-8").split())
    declared = chosen & {ALL, *_known()}
    if not declared:
        message = (
            f"{home}: nothing declares {', '.join(sorted(chosen))} any more, which is all that "
            f"this home computes; run once with MILLRACE_VIEWS naming others, or {ALL}"
        )
        raise HomeError(message)
    return declared


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
    return names


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
