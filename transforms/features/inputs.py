"""What declared expressions read.

The columns of a staged version and, by the view's name, the features of its record views.
"""

import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Protocol

import duckdb
import pyarrow as pa

from transforms.errors import DeclarationError
from transforms.expressions import bound, dotted_references, sealed
from transforms.features.aggregates import Input
from transforms.features.joined import References
from transforms.schemas.base import Contract
from transforms.schemas.staging import StagedRecord

# what depends on how a record was loaded is left out, so that a rebuild has the same values
READABLE = (
    *("record_id", "author_id", "subject_id", "event_timestamp", "known_timestamp"),
    *("text", "text_redacted", "label", "is_positive", "attributes", "source"),
)
KINDS = {
    "flag": ("BOOLEAN",),
    "whole": (
        "TINYINT",
        "SMALLINT",
        "INTEGER",
        "BIGINT",
        "HUGEINT",
        "UTINYINT",
        "USMALLINT",
        "UINTEGER",
        "UBIGINT",
    ),
    "fraction": ("DOUBLE", "FLOAT", "DECIMAL"),
    "text": ("VARCHAR", "JSON", "UUID"),
    "instant": ("TIMESTAMP", "DATE"),
}


class Readable(Protocol):
    """What is read of a record view."""

    contract: type[Contract]
    is_rebuilt_whole: bool


class Inputs:
    """The columns that expressions may read, with record views by their names."""

    def __init__(self, record_views: Mapping[str, Readable], *, is_whole: bool = False) -> None:
        """Take the record views.

        Only what `is_whole`, computed whole in each run, may read one whose rows rest on other
        records.
        """
        self._views = {name: view.contract for name, view in record_views.items()}
        self._refused = {
            name for name, view in record_views.items() if view.is_rebuilt_whole and not is_whole
        }

    def bind(self, expression: str) -> Input:
        """Find what an expression over a record gives.

        Raises `DeclarationError` with what is wrong with it.
        """
        references = self.references(expression)
        try:
            kind, is_list = kind_of(expression, self._schemas(references))
        except (duckdb.Error, ValueError) as error:
            message = f"{expression!r}: {reason_of(error, expression)}"
            raise DeclarationError(message) from None
        if is_list:
            return Input(bound(expression), f"list of {kind}")
        column = self._column(expression, references)
        sql = {
            "text": f"{bound(expression)}::varchar",
            "instant": f"{bound(expression)}::timestamptz",
        }.get(kind, bound(expression))
        return Input(sql, kind, **column)

    def references(self, expression: str) -> References:
        """Find the columns that an expression reads, `(column,)` or `(view, column)`.

        Raises `DeclarationError` for one that is none.
        """
        try:
            references = dotted_references(expression)
        except ValueError as error:
            message = f"{expression!r}: {reason_of(error, expression)}"
            raise DeclarationError(message) from None
        for reference in references:
            self._refuse_unknown(expression, reference)
        return references

    def _refuse_unknown(self, expression: str, reference: tuple[str, ...]) -> None:
        view, known = reference[0], set(READABLE)
        if len(reference) > 1 and view in self._views:
            known = {
                f"{view}.{column.name}"
                for column in self._views[view].columns()
                if column.is_served
            }
        name = ".".join(reference[:2]) if len(reference) > 1 else view
        if len(reference) > 1 and view in self._refused:
            message = (
                f"{expression!r} reads {name}, which changes as other records come; only a SqlView "
                "can follow that"
            )
            raise DeclarationError(message)
        if name in known:
            return
        everything = {
            *READABLE,
            *(
                f"{view}.{column.name}"
                for view, contract in self._views.items()
                for column in contract.columns()
            ),
        }
        hint = (
            did_you_mean(name, everything)
            or f"; there are {', '.join(READABLE)}, and features of records as view.feature"
        )
        message = f"{expression!r} reads {name}, which is no column of a record{hint}"
        raise DeclarationError(message)

    def _schemas(self, references: Iterable[tuple[str, ...]]) -> tuple[tuple[str, pa.Schema], ...]:
        views = sorted({view for view, *rest in references if rest and view in self._views})
        return (
            ("records", _readable()),
            *((view, self._views[view].arrow_schema()) for view in views),
        )

    def _column(self, expression: str, references: References) -> dict[str, Any]:
        """What is known of an expression that is a column and nothing else.

        Bounds, and whether it is never null.
        """
        names = [reference for reference in references if ".".join(reference) == expression.strip()]
        if not names:
            return {}
        contract = StagedRecord if len(names[0]) == 1 else self._views[names[0][0]]
        schema = contract.to_schema().columns[names[0][-1]]
        limits = {
            check.name: next(iter(check.statistics.values()))
            for check in schema.checks
            if check.statistics
        }
        is_complete = bool(contract.Config.metadata.get("complete"))
        return {
            "is_never_null": is_complete or not schema.nullable,
            "ge": limits.get("greater_than_or_equal_to"),
            "le": limits.get("less_than_or_equal_to"),
        }


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """End a message with the known name that is most like a wrong one; nothing where none is.

    >>> did_you_mean("lable", ["label", "text"])
    '; did you mean label?'
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


@cache
def _readable() -> pa.Schema:
    return pa.schema([StagedRecord.arrow_schema().field(name) for name in READABLE])


def versions_schema() -> pa.Schema:
    """The columns of `versions`, as a user's query reads them."""
    times = [
        pa.field(name, pa.timestamp("us", "UTC")) for name in ("effective_from", "effective_until")
    ]
    return pa.schema([*_readable(), *times])


@cache
def kind_of(expression: str, schemas: tuple[tuple[str, pa.Schema], ...]) -> tuple[str, bool]:
    """The kind of an expression's value, and whether the value is a list of that kind.

    >>> import pyarrow as pa
    >>> kind_of("string_split(text, ' ')", (("records", pa.schema({"text": pa.string()})),))
    ('text', True)
    """
    with sealed() as connection:
        for name, schema in schemas:
            connection.register(name, schema.empty_table())
        typed = connection.execute(
            f"describe select {bound(expression)} from {', '.join(name for name, _ in schemas)}"
        ).fetchall()[0][1]
    return kind_of_type(typed)


def kind_of_type(typed: str) -> tuple[str, bool]:
    """The kind of a DuckDB type, and whether it is a list of that kind.

    Raises `ValueError` if no feature can have the type.

    >>> kind_of_type("INTEGER[]")
    ('whole', True)
    """
    element = typed.removesuffix("[]")
    kind = next((kind for kind, names in KINDS.items() if element.startswith(names)), None)
    if kind is None:
        message = f"gives {typed}, of which no feature can be made; cast it, e.g. (...)::varchar"
        raise ValueError(message)
    return kind, element != typed


def reason_of(error: Exception, expression: str) -> str:
    """The first line of an error, and how to fix the commonest mistake.

    >>> reason_of(ValueError("no ->> here"), "attributes->>'channel' = 'mail'")
    "no ->> here; put brackets around the arrow: (attributes->>'name') = ..."
    """
    reason = str(error).partition("\n")[0]
    is_arrow = "->" in expression and (
        "->>" in reason or "->" in reason or "json_extract" in reason
    )
    return (
        f"{reason}; put brackets around the arrow: (attributes->>'name') = ..."
        if is_arrow
        else reason
    )
