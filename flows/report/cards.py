"""The cards of the page: each view, derived view and service, with its code and its readers."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from feature_repo.catalogue import derived_columns, kind
from feature_repo.locks import registered
from feature_repo.watching.freshness import as_of
from flows.report.code import Code, code_of, short_path
from flows.report.features import Feature
from transforms.features.registry import Registry, registry, view_name
from transforms.features.view import View
from transforms.pages import ago

Readers = Mapping[str, Collection[tuple[str, str]]]  # what reads, with each view and feature


SERVICE, DERIVED = "service", "derived"


class Card(NamedTuple):
    """A view, derived view or service, and what is known of it.

    `reads` and `read_by` name other cards; who reads one feature alone is with the feature.
    """

    name: str
    kind: str
    description: str
    file: str
    code: list[Code]
    reads: Sequence[str] = ()
    read_by: Sequence[str] = ()
    locks: Sequence[str] = ()
    key: str = ""
    fresh: str = ""
    is_late: bool = False
    is_off: bool = False
    features: Sequence[Feature] = ()

    @property
    def is_service(self) -> bool:
        """Whether it only reads."""
        return self.kind == SERVICE

    @property
    def is_on_demand(self) -> bool:
        """Whether it has no table: it is made of what it reads when somebody asks."""
        return self.kind in {SERVICE, DERIVED}

    @property
    def anchor(self) -> str:
        """Its place on the page."""
        return f"{'service' if self.is_service else 'view'}-{self.name}"


def cards(
    home: Path, now: datetime, described: Iterable[Feature], off: Collection[str]
) -> list[Card]:
    """Make the cards of all that is declared: views, then derived views, then services."""
    found = registry()
    locks = {lock.name: _of_lock(lock.content["features"], found) for lock in registered(home)}
    readers = {
        **{name: set(item.reads.values()) for name, item in found.derivations.items()},
        **{name: _of_service(name, found) for name in found.services},
    }
    features = [*described, *_derived(found)]
    by_view = {name: [one for one in features if one.view == name] for name in _views(found)}
    fresh = as_of(home)
    made = [_view(view, fresh.get(view.name), now, off) for view in found.views.values()]
    made += [_card(found, name, DERIVED, item.description) for name, item in found.derived.items()]
    made = [_read(card, by_view[card.name], readers, locks) for card in made]
    made += [_card(found, name, SERVICE, item.description) for name, item in found.services.items()]
    return [
        card._replace(
            reads=sorted({*card.reads, *(view for view, _ in readers.get(card.name, ()))})
        )
        for card in made
    ]


def _views(found: Registry) -> list[str]:
    return [*found.views, *found.derivations]


def _derived(found: Registry) -> Iterator[Feature]:
    for name in found.derivations:
        yield from (Feature(name, column, kind(column)) for column in derived_columns(name))


def _of_service(name: str, found: Registry) -> set[tuple[str, str]]:
    return _expand(map(view_name, found.services[name].features), found)


def _of_lock(features: str | list[str], found: Registry) -> set[tuple[str, str]]:
    """What a lock reads: features, or a service by its name, which may be declared no more."""
    if isinstance(features, str):
        return _of_service(features, found) if features in found.services else set()
    return _expand(features, found)


def _expand(items: Iterable[str], found: Registry) -> set[tuple[str, str]]:
    """Name each feature of what is read, `view` or `view:feature`."""
    pairs = (item.partition(":")[::2] for item in items)
    return {
        (view, one)
        for view, feature in pairs
        for one in ([feature] if feature else _features_of(view, found))
    }


def _features_of(view: str, found: Registry) -> Collection[str]:
    return found.views[view].features if view in found.views else found.derivations[view].types


def _card(found: Registry, name: str, kind: str, description: str) -> Card:
    path = found.paths[name]
    return Card(name, kind, description, short_path(path), code_of(name, path, found.paths))


def _view(view: View, fresh: datetime | None, now: datetime, off: Collection[str]) -> Card:
    within = view.fresh_within
    done = f"brought up to date {ago(fresh, now)}" if fresh else "no run has computed it yet"
    return _card(registry(), view.name, f"by {view.entity.name}", view.description)._replace(
        key=", ".join(view.entity.columns),
        reads=list(view.reads),
        fresh=f"{done}; promised within {within}" if within else done,
        is_late=bool(within and (fresh is None or now - fresh > within)),
        is_off=view.name in off,
    )


def _read(card: Card, features: list[Feature], readers: Readers, locks: Readers) -> Card:
    """Say who reads a view: all of its features, or some of them."""
    every = {(card.name, feature.column.name) for feature in features}
    of_all = [name for name in readers if every <= set(readers[name])]
    locked = [name for name in locks if every <= set(locks[name])]
    others = {name: found for name, found in readers.items() if name not in of_all}
    others |= {f"lock {name}": found for name, found in locks.items() if name not in locked}
    views = [view.name for view in registry().views.values() if card.name in view.reads]
    shown = [
        feature._replace(
            read_by=tuple(
                n for n, found in others.items() if (card.name, feature.column.name) in found
            )
        )
        for feature in features
    ]
    return card._replace(read_by=[*views, *of_all], locks=locked, features=shown)
