"""All that is declared.

The shipped views and services, and those of the user's own folders, as views that can be computed.
"""

import importlib.util
import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple, TypeGuard

import duckdb

from transforms.errors import DeclarationError
from transforms.expressions import dotted_references
from transforms.features import views as shipped
from transforms.features.contracts import UNSERVED
from transforms.features.declare import (
    Derived,
    GroupBy,
    NearDuplicates,
    RecordSql,
    RecordView,
    Service,
    SqlView,
)
from transforms.features.derivation import Derivation, bind
from transforms.features.engine.group_by import GroupView
from transforms.features.engine.near_duplicates import NearDuplicatesView
from transforms.features.engine.record import KernelView, sql_view
from transforms.features.engine.sql_view import QueryView
from transforms.features.entities import author, record, subject
from transforms.features.entity import Entity
from transforms.features.inputs import did_you_mean
from transforms.features.shape import declared_fresh_within, refuse_shape
from transforms.features.view import View
from transforms.home import settings_of

NAME = re.compile(r"[a-z][a-z0-9_]*")
# columns of every view, and of what computes it
RESERVED = ("event_timestamp", "created_timestamp", "entity_id", "is_new")
ON_DEMAND = "_on_demand"  # ends the name of a view of the text in a request
MODULES = "millrace_features"
VIEW_KINDS = (RecordSql, GroupBy, SqlView)
KINDS = (*VIEW_KINDS, Derived, Service, Entity)


class Declared(NamedTuple):
    """A declaration by its name, with the file it is in."""

    name: str
    item: Any
    path: Path


class Registry(NamedTuple):
    """What is declared, by name: views after those that they read, and where each declaration is.

    `derivations` has the derived views as they are bound. `errors` says what is wrong.
    """

    views: Mapping[str, View]
    derived: Mapping[str, Derived]
    services: Mapping[str, Service]
    entities: Mapping[str, Entity]
    paths: Mapping[str, Path]
    derivations: Mapping[str, Derivation]
    errors: tuple[str, ...]


def views() -> tuple[View, ...]:
    """List the views, each after those that it reads.

    Raises `DeclarationError` if a declaration is wrong.
    """
    return tuple(registry().views.values())


def view_of(name: str) -> View:
    """Find a view. Raises `DeclarationError` if none has the name, or if a declaration is wrong.

    >>> view_of("author_activity").entity.columns
    ['author_id']
    """
    found = registry().views
    if name not in found:
        message = f"{name}: is no feature view; there are {', '.join(found)}"
        raise DeclarationError(message)
    return found[name]


def registry() -> Registry:
    """Read all declarations, once as long as neither settings nor files change.

    Raises `DeclarationError` if one is wrong.
    """
    found = read_registry()
    if found.errors:
        raise DeclarationError("\n  ".join(found.errors))
    return found


def read_registry() -> Registry:
    """Read all declarations that can be read, with what is wrong with the others."""
    settings = settings_of()
    files = tuple(
        path
        for folder in settings.feature_folders
        for kind in ("*.py", "*.sql")
        for path in sorted(folder.glob(kind))
    )
    return _registry(tuple((path, path.stat().st_mtime_ns) for path in files), settings.embedder)


@lru_cache(maxsize=8)
def _registry(files: tuple[tuple[Path, int], ...], _embedder: Path | None) -> Registry:
    errors: list[str] = []
    declared = _named(files, errors)
    paths = {name: item.path for name, item in declared.items()}
    shaped: dict[str, Declared] = {}
    for item in declared.values():
        with _collecting(item, errors):
            _refuse_names([item.name])
            refuse_shape(item.item)
            shaped[item.name] = item
    entities = {entity.name: entity for entity in (record, author, subject)}
    made: dict[str, View] = {}
    for item in _in_order(shaped, errors):
        with _collecting(item, errors):
            view = _view(item, {name: view for name, view in made.items() if view.is_of_records})
            _refuse_names([*view.entity.columns, *view.features])
            made[item.name] = view
    errors += [
        f"{paths[view.name]}: {view.name}: there is another entity {view.entity.name!r}; choose "
        "another name"
        for view in made.values()
        if entities.setdefault(view.entity.name, view.entity) != view.entity
    ]
    derived = {name: item.item for name, item in shaped.items() if isinstance(item.item, Derived)}
    services = {name: item.item for name, item in shaped.items() if isinstance(item.item, Service)}
    wrong = {
        name for name, item in declared.items() if not isinstance(item.item, Derived | Service)
    } - set(made)
    derivations: dict[str, Derivation] = {}
    for name, reader in derived.items():
        read = list(map(view_name, reader.of))
        if not wrong & {*read}:  # else it is said what is wrong there
            with _collecting(shaped[name], errors):
                derivations[name] = bind(reader, {view: _found(view, made) for view in read})
    wrong |= {name for name, item in declared.items() if isinstance(item.item, Derived)} - set(
        derivations
    )
    features = {name: view.features for name, view in made.items()} | {
        name: [*item.types] for name, item in derivations.items()
    }
    for name, service in services.items():
        with _collecting(shaped[name], errors):
            _refuse_unknown(
                [
                    item
                    for item in map(view_name, service.features)
                    if item.partition(":")[0] not in wrong
                ],
                features,
            )
    return Registry(made, derived, services, entities, paths, derivations, tuple(errors))


def _named(files: tuple[tuple[Path, int], ...], errors: list[str]) -> dict[str, Declared]:
    """Read the declarations shipped and of the user by their names, of which no two are equal."""
    declared: dict[str, Declared] = {}
    for item in [
        *_shipped(),
        *_of_user([path for path, _ in files if path.suffix == ".py"], errors),
    ]:
        other = declared.setdefault(item.name, item)
        if other.item != item.item:
            errors.append(
                f"{item.path}: {item.name}: the name is taken by a declaration in "
                f"{other.path.name}; choose another"
            )
    return declared


@contextmanager
def _collecting(item: Declared, errors: list[str]) -> Iterator[None]:
    """Collect what is wrong with a declaration, and go on."""
    try:
        yield
    except (DeclarationError, duckdb.Error) as error:
        errors.append(f"{item.path}: {item.name}: {error}")


def _found(name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        message = f"reads {name}, which is no view{did_you_mean(name, known)}"
        raise DeclarationError(message)
    return known[name]


def _refuse_unknown(read: Iterable[str], features: Mapping[str, Collection[str]]) -> None:
    """Raise `DeclarationError` for a view, or a feature as `view:feature`, that there is not."""
    for name in read:
        view, _, feature = name.partition(":")
        known = _found(view, features)
        if feature and feature not in known:
            message = f"reads {name}, which is no feature of {view}{did_you_mean(feature, known)}"
            raise DeclarationError(message)


def _refuse_names(names: Iterable[str]) -> None:
    for name in names:
        if not NAME.fullmatch(name) or UNSERVED in name or name in RESERVED:
            message = (
                f"{name}: a name has small letters, digits and single underscores, and is none of "
                f"{', '.join(RESERVED)}"
            )
            raise DeclarationError(message)
        if name.endswith(ON_DEMAND):
            message = f"{name}: names that end in {ON_DEMAND} are for what a request is asked for"
            raise DeclarationError(message)


def view_name(item: Any) -> str:
    """The name of what a service or a derived view reads: of a declaration, or the name itself.

    >>> view_name('author_activity:n_records_7d')
    'author_activity:n_records_7d'
    """
    return item if isinstance(item, str) else _name(item)


def _name(item: Any) -> str:
    return str(item.relation().removeprefix("features.") if _is_class(item) else item.name)


def _is_class(item: Any) -> TypeGuard[type[RecordView]]:
    return isinstance(item, type) and issubclass(item, RecordView)


def _view(declared: Declared, record_views: Mapping[str, View]) -> View:
    view = _bound(declared, record_views)
    view.fresh_within = declared_fresh_within(declared.item)
    return view


def _bound(declared: Declared, record_views: Mapping[str, View]) -> View:
    item = declared.item
    if _is_class(item):
        return (
            NearDuplicatesView(item)
            if issubclass(item, NearDuplicates)
            else KernelView(item, record_views)
        )
    if isinstance(item, RecordSql):
        return sql_view(item, record_views)
    if isinstance(item, SqlView):
        return QueryView(item, record_views, declared.path.parent)
    return GroupView(item, record_views)


def _in_order(declared: Mapping[str, Declared], errors: list[str]) -> Iterator[Declared]:
    """List views so that each comes after the record views that it reads: of records first."""
    due = {
        name: item for name, item in declared.items() if isinstance(item.item, (type, *VIEW_KINDS))
    }
    due = dict(sorted(due.items(), key=lambda entry: isinstance(entry[1].item, GroupBy | SqlView)))
    done: set[str] = set()
    while ready := [
        item for name, item in due.items() if not (_reads(item.item) & set(due)) - {name} - done
    ]:
        item = ready[0]
        done.add(item.name)
        yield due.pop(item.name)
    errors += [
        f"{item.path}: {name}: reads {', '.join(sorted(_reads(item.item) & set(due)))}, which "
        "reads it"
        for name, item in due.items()
    ]


def _reads(item: Any) -> set[str]:
    """The names of the views that a view of records may read."""
    if _is_class(item):
        return {name.partition(".")[0] for name in item.Config.metadata["reads"] if "." in name}
    if not isinstance(item, RecordSql):
        return set()
    try:
        return {
            view
            for expression in item.features.values()
            for view, *rest in dotted_references(expression)
            if rest
        }
    except ValueError:
        return set()  # which is said where it is bound


def _shipped() -> Iterator[Declared]:
    # services import the views that they name, which are declared in files of their own
    for info in sorted(
        pkgutil.iter_modules(shipped.__path__), key=lambda info: info.name == "services"
    ):
        yield from _declared(import_module(f"{shipped.__name__}.{info.name}"))


def _of_user(paths: list[Path], errors: list[str]) -> Iterator[Declared]:
    for path in paths:
        try:
            yield from _declared(_import(path))
        except Exception as error:  # noqa: BLE001 - whatever a user's file raises is said in one line
            lines = [
                frame.lineno
                for frame in traceback.extract_tb(error.__traceback__)
                if frame.filename == str(path)
            ]
            line = (
                getattr(error, "lineno", None)
                if isinstance(error, SyntaxError)
                else next(iter(lines[::-1]), None)
            )
            reason = error.msg if isinstance(error, SyntaxError) else error
            errors.append(
                f"{path}{f', line {line}' if line else ''}: {type(error).__name__}: {reason}"
            )


class _Source(SourceFileLoader):
    """A loader that compiles a file as it is now, and leaves nothing beside it.

    Python knows stale bytecode by the second and the size of its file, so it would not see an edit
    within a second of the last one.
    """

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002
        """Compile the file."""
        return self.source_to_code(self.get_data(self.path), self.path)


def _import(path: Path) -> ModuleType:
    """Run a user's file as a module that no other code can import by accident."""
    name = f"{MODULES}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_Source(name, str(path)))
    if spec is None or spec.loader is None:
        message = "cannot be read as Python"
        raise DeclarationError(message)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _declared(module: ModuleType) -> Iterator[Declared]:
    """List what a module declares; a class that it imports is another's."""
    path = Path(inspect.getfile(module))
    for item in vars(module).values():
        is_class = (
            isinstance(item, type)
            and issubclass(item, RecordView)
            and item.__module__ == module.__name__
        )
        if (is_class and item.is_wanted()) or (
            isinstance(item, KINDS) and not isinstance(item, Entity)
        ):
            yield Declared(_name(item), item, path)
