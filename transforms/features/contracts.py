"""Contracts made from declarations.

Columns, types, bounds and descriptions, each taken from where it is declared.
"""

import transforms.schemas  # noqa: F401 - which imports Pandera so that the process stays as it is

# isort: split
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import pandera.polars as pa
import polars as pl

from transforms.errors import DeclarationError
from transforms.features.aggregates import INSTANT, Feature, Input
from transforms.features.declare import RecordView
from transforms.features.entity import Entity
from transforms.schemas.base import Contract

ANNOTATIONS: dict[pl.DataType, Any] = {
    pl.Int64(): int,
    pl.Float64(): float,
    pl.String(): str,
    INSTANT: Annotated[pl.Datetime, "us", "UTC"],
    **{pl.List(item): Annotated[pl.List, item] for item in (pl.Int64(), pl.Float64(), pl.String())},
}
# in the name of a column that is stored and not served; no feature has it, for Feast joins view and
# feature with it
UNSERVED = "__"
TIMES = {
    "event_timestamp": "The instant from which the values apply, until the next row.",
    "created_timestamp": "When the row was computed.",
}


def entity_contract(
    name: str, description: str, entity: Entity, columns: Mapping[str, tuple[pl.DataType, Any]]
) -> type[Contract]:
    """Make the contract of a view of an entity.

    Its key, the times of a row, then columns by name, with type and Pandera field.
    """
    keys = {
        column: (pl.String(), pa.Field(description=entity.description or f"Key of {entity.name}."))
        for column in entity.columns
    }
    times = {column: (INSTANT, pa.Field(description=meaning)) for column, meaning in TIMES.items()}
    _refuse_taken(columns, [*keys, *times])
    key = [*entity.columns, *TIMES]
    config = type(
        "Config",
        (Contract.Config,),
        {"name": f"features.{name}", "metadata": {"key": key, "version": 1}},
    )
    return type(
        _class_name(name),
        (Contract,),
        _body(description, {**keys, **times, **columns}) | {"Config": config},
    )


def record_contract(
    name: str, description: str, columns: Mapping[str, tuple[pl.DataType, Any]], **options: Any
) -> type[RecordView]:
    """Make the class of a record view from features by name, each a type and a Pandera field."""
    _refuse_taken(columns, ["record_id", *TIMES])
    return type(_class_name(name), (RecordView,), _body(description, columns), **options)


def _refuse_taken(features: Iterable[str], taken: Sequence[str]) -> None:
    if name := next((name for name in features if name in taken), None):
        message = f"{name}: every row has a column of this name already; choose another"
        raise DeclarationError(message)


def feature_field(feature: Feature) -> tuple[pl.DataType, Any]:
    """The type and the Pandera field of a feature of a group."""
    bounds: dict[str, Any] = {
        name: value for name, value in (("ge", feature.ge), ("le", feature.le)) if value is not None
    }
    metadata = {"origin": None, "empty": feature.empty}
    return feature.dtype, pa.Field(
        nullable=True, description=feature.description, metadata=metadata, **bounds
    )


def value_field(dtype: pl.DataType, description: str, of: Input) -> tuple[pl.DataType, Any]:
    """The type and the Pandera field of a feature that is what an expression gives."""
    bounds: dict[str, Any] = {
        name: value for name, value in (("ge", of.ge), ("le", of.le)) if value is not None
    }
    return dtype, pa.Field(
        nullable=True, description=description, metadata={"origin": None}, **bounds
    )


def stored_field(description: str) -> tuple[pl.DataType, Any]:
    """The type and the Pandera field of a sum that is stored and not served."""
    return pl.Int64(), pa.Field(description=description, metadata={"served": False})


def _body(description: str, columns: Mapping[str, tuple[pl.DataType, Any]]) -> dict[str, Any]:
    annotations = {column: ANNOTATIONS[dtype] for column, (dtype, _) in columns.items()}
    fields = {column: made for column, (_, made) in columns.items()}
    return {
        "__doc__": description,
        "__module__": __name__,
        "__annotations__": annotations,
        **fields,
    }


def _class_name(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))
