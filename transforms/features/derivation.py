"""Derived views, bound: which features of which views they read, their types, and their values."""

from collections.abc import Mapping
from typing import NamedTuple

import duckdb
import polars as pl
import pyarrow as pa

from transforms.errors import DeclarationError
from transforms.expressions import dotted_references, renamed
from transforms.features.aggregates import DTYPES
from transforms.features.declare import Derived
from transforms.features.engine.derived import derive
from transforms.features.inputs import did_you_mean, kind_of, reason_of
from transforms.features.view import View

ASKED = "event_timestamp"
LISTS = {f"list of {kind}": pl.List(DTYPES[kind]) for kind in ("whole", "fraction", "text")}


class Derivation(NamedTuple):
    """A derived view, bound.

    `reads` names the view and feature behind each column, `view__feature`. `expressions` are SQL
    over these columns and `event_timestamp`, by the feature's name; `types` are their types.
    """

    reads: Mapping[str, tuple[str, str]]
    expressions: Mapping[str, str]
    types: Mapping[str, pl.DataType]

    @property
    def features_by_view(self) -> dict[str, list[str]]:
        """The features that are read of each view."""
        views = dict.fromkeys(view for view, _ in self.reads.values())
        return {view: [name for of, name in self.reads.values() if of == view] for view in views}


def bind(declared: Derived, views: Mapping[str, View]) -> Derivation:
    """Bind the expressions of a derived view over the views that it names.

    Raises `DeclarationError` where one is wrong.

    >>> from transforms.features.declare import RecordSql
    >>> from transforms.features.engine.record import sql_view
    >>> shape = sql_view(RecordSql("shape", {"n_chars": "length(text)"}), {})
    >>> derived = Derived("pages", ["shape"], {"n_pages": "n_chars / 1800"})
    >>> bind(derived, {"shape": shape}).expressions
    {'n_pages': '(shape__n_chars / 1800)'}
    """
    reads: dict[str, tuple[str, str]] = {}
    expressions, types = {}, {}
    for feature, expression in declared.features.items():
        try:
            read = {
                path: _read(path, expression, views)
                for path in sorted(dotted_references(expression))
                if path != (ASKED,)
            }
            reads |= {"__".join(found): found for found in read.values()}
            expressions[feature] = renamed(
                expression, {path: "__".join(found) for path, found in read.items()}
            )
            types[feature] = _type(expressions[feature], reads, views)
        except ValueError as error:
            message = f"{feature}: {expression!r}: {reason_of(error, expression)}"
            raise DeclarationError(message) from None
        except DeclarationError as error:
            message = f"{feature}: {error}"
            raise DeclarationError(message) from None
    return Derivation(reads, expressions, types)


def _read(path: tuple[str, ...], expression: str, views: Mapping[str, View]) -> tuple[str, str]:
    """Find the view and feature that a name in an expression means."""
    found = [
        (view.name, path[-1])
        for view in views.values()
        if path[-1] in view.features and path[:-1] in {(), (view.name,)}
    ]
    if len(found) == 1:
        return found[0]
    name = ".".join(path)
    if found:
        of = " and ".join(view for view, _ in found)
        message = (
            f"{expression!r} reads {name}, which is a feature of {of}; "
            f"say which, as {found[0][0]}.{name}"
        )
        raise DeclarationError(message)
    known = [
        feature
        for view in views.values()
        for feature in (*view.features, *(f"{view.name}.{name}" for name in view.features))
    ]
    message = (
        f"{expression!r} reads {name}, which is no feature of {', '.join(views)}"
        f"{did_you_mean(name, [ASKED, *known])}"
    )
    raise DeclarationError(message)


def _type(
    expression: str, reads: Mapping[str, tuple[str, str]], views: Mapping[str, View]
) -> pl.DataType:
    """Find the type of an expression."""
    fields = [
        (column, views[view].contract.arrow_schema().field(name).type)
        for column, (view, name) in reads.items()
    ]
    schema = pa.schema([*fields, (ASKED, pa.timestamp("us", "UTC"))])
    try:
        kind, is_list = kind_of(expression, (("given", schema),))
    except duckdb.Error as error:
        raise ValueError(reason_of(error, expression)) from None
    name = f"list of {kind}" if is_list else kind
    if name not in DTYPES | LISTS:
        message = f"gives a {name}, of which no feature can be made; cast it, e.g. (...)::varchar[]"
        raise ValueError(message)
    return (DTYPES | LISTS)[name]


def compute(derivation: Derivation, given: pl.DataFrame) -> pl.DataFrame:
    """Compute the features for every row of `given`, in order.

    `given` has the columns that are read and `event_timestamp`.

    >>> from datetime import UTC, datetime
    >>> halves = Derivation({"a__n": ("a", "n")}, {"half": "a__n / 2"}, {"half": pl.Float64()})
    >>> at = datetime(2026, 1, 2, tzinfo=UTC)
    >>> compute(halves, pl.DataFrame({"a__n": [3], "event_timestamp": [at]})).rows()
    [(1.5,)]
    """
    return derive(given, derivation.expressions).cast(pl.Schema(derivation.types))
