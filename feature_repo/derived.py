"""Views computed on demand, by one function in training, in serving and in Feast's server."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

import feature_repo.importing  # noqa: F401

# isort: split
import pandas as pd
import pyarrow as pa
from feast import FeatureView, Field, OnDemandFeatureView, RequestSource
from feast.transformation.udf_rehydrate import rehydrate_udf_from_source
from feast.types import FeastType, UnixTimestamp, from_value_type
from feast.value_type import ValueType

from feature_repo.instants import instants
from feature_repo.stores.online import EVENT_TIMESTAMP
from feature_repo.stores.serving import EXPRESSIONS, arrow_type
from transforms.errors import DerivedError
from transforms.expressions import column_references
from transforms.features.engine.derived import derive_arrow, digest

# Feast runs this text wherever it reads the view from its registry
SOURCE = """def derived(inputs):
    from feature_repo.derived import derivation
    return derivation({text!r}).of_pandas(inputs)
"""
NULLABLE = {
    pa.int64(): pd.Int64Dtype(),
    pa.string(): pd.StringDtype(),
    pa.bool_(): pd.BooleanDtype(),
}

instant = RequestSource(
    name="instant",
    schema=[Field(name=EVENT_TIMESTAMP, dtype=UnixTimestamp)],
    description="The instant the features are asked for: the spine's own in training, "
    "the request's in serving.",
)


@dataclass(frozen=True)
class Derivation:
    """What features are computed from: each input and its Feast column, expressions and types."""

    columns: Mapping[str, str]
    expressions: Mapping[str, str]
    types: Mapping[str, str]

    def of_pandas(self, inputs: pd.DataFrame) -> pd.DataFrame:
        """Compute from Feast's frame: times of any kind, and floats for integers beside nulls."""
        found = self._derived({name: inputs[column] for name, column in self.columns.items()})
        frame: pd.DataFrame = found.to_pandas(types_mapper=NULLABLE.get)
        return frame

    def of_arrow(self, inputs: Mapping[str, pa.Array]) -> pa.Table:
        """Compute from columns of Arrow's, which keep their types."""
        return self._derived(
            {name: pa.chunked_array([inputs[column]]) for name, column in self.columns.items()}
        )

    def _derived(self, inputs: Mapping[str, pd.Series | pa.ChunkedArray]) -> pa.Table:
        table = pa.table({name: self._typed(name, column) for name, column in inputs.items()})
        found = derive_arrow(table, self.expressions)
        return pa.table({name: found[name].cast(self._type(name)) for name in self.expressions})

    def _typed(self, name: str, column: pd.Series | pa.ChunkedArray) -> pa.ChunkedArray:
        if self.types[name] == ValueType.UNIX_TIMESTAMP.name:
            return instants(column, name)
        values = (
            pa.chunked_array([pa.Array.from_pandas(column)])
            if isinstance(column, pd.Series)
            else column
        )
        return values.cast(self._type(name))

    def _type(self, name: str) -> pa.DataType:
        return arrow_type(from_value_type(ValueType[self.types[name]]))


@lru_cache
def derivation(text: str) -> Derivation:
    """Read a derivation as a view's tag carries it."""
    return Derivation(**json.loads(text))


def on_demand_view(
    name: str,
    sources: Sequence[FeatureView],
    features: Mapping[str, str],
    types: Mapping[str, FeastType],
    description: str,
) -> OnDemandFeatureView:
    """Define a view of DuckDB SQL expressions over features of views.

    An expression names a feature as it is, or as `view__feature` where two of the views have one of
    that name, and the instant that is asked for `event_timestamp`, which is a timestamp with a zone
    as all times are. Raises `DerivedError`, naming view and feature, for an expression that is
    none, or reads what is not there.
    """
    given = _inputs(sources)
    read = {
        reference
        for feature, expression in features.items()
        for reference in _references(name, feature, expression, given)
    }
    used = {key: given[key] for key in sorted({*read, EVENT_TIMESTAMP})}
    kinds = {key: kind.to_value_type().name for key, (_, kind) in used.items()} | {
        key: types[key].to_value_type().name for key in features
    }
    found = Derivation({key: column for key, (column, _) in used.items()}, dict(features), kinds)
    _refuse(name, found)
    text = json.dumps(asdict(found))
    source = SOURCE.format(text=text)
    return OnDemandFeatureView(
        name=name,
        sources=[*sources, instant],
        # Feast compares a field with what it infers, which has no description, so the view's own
        # says what they are
        schema=[Field(name=key, dtype=types[key]) for key in features],
        # "python" would be quicker in Feast's server, but 0.67 drops its result where full feature
        # names are asked for
        mode="pandas",
        udf=rehydrate_udf_from_source(source),
        udf_string=source,
        description=description,
        tags={EXPRESSIONS: text, "code": digest(features)},
    )


def _inputs(sources: Sequence[FeatureView]) -> dict[str, tuple[str, FeastType]]:
    """Name what expressions may read, each with its column in Feast's frames and its type."""
    columns = [
        (view.name, field.name, field.dtype)
        for view in sources
        for field in view.projection.features
    ]
    names = [feature for _, feature, _ in columns]
    full = {f"{view}__{feature}": (f"{view}__{feature}", kind) for view, feature, kind in columns}
    plain = {
        feature: (f"{view}__{feature}", kind)
        for view, feature, kind in columns
        if names.count(feature) == 1
    }
    return full | plain | {EVENT_TIMESTAMP: (EVENT_TIMESTAMP, UnixTimestamp)}


def _references(view: str, feature: str, expression: str, given: Mapping[str, object]) -> set[str]:
    try:
        references = column_references(expression)
    except ValueError as error:
        message = f"view {view}, feature {feature}: {str(error).splitlines()[0]}"
        raise DerivedError(message) from None
    if unknown := sorted(references - given.keys()):
        message = (
            f"view {view}, feature {feature}: there is no {unknown[0]!r} to read; there are "
            f"{', '.join(sorted(given))}"
        )
        raise DerivedError(message)
    return references


def _refuse(view: str, found: Derivation) -> None:
    """Compute it over no rows, so that a wrong type is refused where the view is declared."""
    kinds = {column: found._type(name) for name, column in found.columns.items()}  # noqa: SLF001
    try:
        found.of_arrow({column: pa.array([], kind) for column, kind in kinds.items()})
    except (DerivedError, pa.ArrowException) as error:
        message = f"view {view}: {str(error).splitlines()[0]}"
        raise DerivedError(message) from None
