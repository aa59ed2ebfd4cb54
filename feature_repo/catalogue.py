"""The catalogue of features, derived from their contracts, for the command line and the docs."""

from collections.abc import Collection
from pathlib import Path

import polars as pl

from transforms.features.declare import Service
from transforms.features.registry import registry, view_name, views
from transforms.home import CHECKOUT
from transforms.schemas.base import Column

KINDS: dict[pl.DataType, str] = {
    pl.String(): "text",
    pl.Int64(): "integer",
    pl.Float64(): "number",
    pl.Boolean(): "flag",
    pl.Datetime("us", "UTC"): "timestamp (UTC)",
    pl.List(pl.String()): "texts",
    pl.List(pl.Int64()): "integers",
    pl.List(pl.Float32()): "numbers",
    pl.List(pl.Float64()): "numbers",
}


def catalogue() -> dict[str, list[Column]]:
    """All features by view, each with the columns of its key."""
    return {view.name: view.contract.served() for view in views()}


def derived_columns(name: str) -> list[Column]:
    """The features of a derived view.

    >>> [column.name for column in derived_columns('author_tenure')]
    ['days_since_first_record']
    """
    declared, derivation = registry().derived[name], registry().derivations[name]
    meanings = {
        feature: declared.descriptions.get(feature, f"`{expression}`.")
        for feature, expression in declared.features.items()
    }
    return [
        Column(feature, dtype, meanings[feature], nullable=True, origin=None, bounds="")
        for feature, dtype in derivation.types.items()
    ]


def catalogue_lines(off: Collection[str] = ()) -> list[str]:
    """The catalogue for a terminal, with the file in which each view and service is declared.

    What is `off`, or reads such a view, is marked.
    """
    found = registry()
    columns = catalogue() | {name: derived_columns(name) for name in found.derived}
    reads = {name: [name] for name in found.views}
    reads |= {name: [*map(view_name, item.of)] for name, item in found.derived.items()}
    reads |= {
        name: [view for item in _read(service) for view in reads[item.partition(":")[0]]]
        for name, service in found.services.items()
    }
    lines = []
    for name, of_view in columns.items():
        lines += ["", f"{name:<30}{_place(found.paths[name])}{_mark(reads[name], off)}"]
        lines += [
            f"  {column.name:<28}{kind(column):<18}{column.bounds:<12}{column.description}"
            for column in of_view
        ]
    lines += ["", "services"]
    lines += [
        f"  {name:<28}{_place(found.paths[name])}: {', '.join(_read(service))}"
        f"{_mark(reads[name], off)}"
        for name, service in found.services.items()
    ]
    return lines[1:]


def catalogue_markdown() -> str:
    """The catalogue as a page."""
    found = registry()
    lines = ["# Features", "", "Made from the declarations by `millrace features --markdown`.", ""]
    for view in found.views.values():
        lines += [f"## {view.name}", "", view.description, ""]
        lines += [
            (
                f"Key: `{'`, `'.join(view.entity.columns)}`. "
                f"Declared in `{_place(found.paths[view.name])}`."
            ),
            "",
        ]
        lines += [*_table(view.contract.served()), ""]
    for name, declared in found.derived.items():
        read = "`, `".join(
            f"{view}:{feature}" for view, feature in found.derivations[name].reads.values()
        )
        lines += [f"## {name}", "", declared.description, ""]
        lines += [
            (
                f"Computed when it is asked for, from `{read}` and the instant. "
                f"Declared in `{_place(found.paths[name])}`."
            ),
            "",
        ]
        lines += [*_table(derived_columns(name)), ""]
    lines += ["## Services", "", "| service | reads | for |", "|---|---|---|"]
    lines += [
        f"| `{name}` | {', '.join(_read(service))} | {service.description} |"
        for name, service in found.services.items()
    ]
    return "\n".join([*lines, ""])


def _table(columns: list[Column]) -> list[str]:
    rows = [
        f"| `{column.name}` | {kind(column)} | {column.bounds} "
        f"| {_cell(column.description)} | {column.origin or ''} |"
        for column in columns
    ]
    return ["| feature | type | range | meaning | after |", "|---|---|---|---|---|", *rows]


def _cell(text: str) -> str:
    """A text in a table of Markdown, where a bar ends the cell."""
    return text.replace("|", "\\|")


def _read(service: Service) -> list[str]:
    return [view_name(item) for item in service.features]


def _mark(read: Collection[str], off: Collection[str]) -> str:
    """Say which of the views that are read are off.

    >>> _mark(["author_activity", "record_text"], ["record_text", "record_pii"])
    ' (off in this home: record_text)'
    """
    names = [name for name in off if name in read]
    return f" (off in this home: {', '.join(names)})" if names else ""


def _place(path: Path) -> str:
    """A file as seen from the checkout, where it is in it."""
    return str(path.relative_to(CHECKOUT)) if path.is_relative_to(CHECKOUT) else str(path)


def kind(column: Column) -> str:
    """A column's type in words."""
    return KINDS[column.dtype]
