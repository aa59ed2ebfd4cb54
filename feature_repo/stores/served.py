"""Answers as the log takes them: of `online_features`, and of Feast's own `get_online_features`.

Of views of entities and views derived from them alone: what was computed of a request's own text
has no entity that a training set could ask for.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from feast import FeatureService
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.type_map import feast_value_type_to_python_type
from google.protobuf.timestamp_pb2 import Timestamp

from feature_repo.stores.online import Read, Stored
from feature_repo.stores.served_log import EVENT_TIMESTAMP, Cell, Rows, ServedLog
from feature_repo.stores.values import key_values
from transforms.instants import instants_of

if TYPE_CHECKING:
    from feature_repo.stores.serving import Columns, Feature, Plan, Values, ViewPlan

FOLDER = re.compile(r"[^\w-]")  # what a service's name may have and its folder may not
PRESENT, NOT_FOUND, TOO_OLD = (
    FieldStatus.PRESENT,
    FieldStatus.NOT_FOUND,
    FieldStatus.OUTSIDE_MAX_AGE,
)


def log_read(
    log: ServedLog,
    plan: "Plan",
    asked: "Columns",
    answer: Mapping[str, "Values"],
    found: Sequence[tuple["ViewPlan", Read, Sequence[Stored]]],
    read_at: datetime,
) -> None:
    """Log an answer of `online_features`; `found` is what was stored."""

    def build(rows: Sequence[int]) -> Rows:
        features = dict(_stored_cells(plan, answer, found, rows))
        features |= _derived_cells(plan, answer, found, rows)
        return _rows(plan, asked, read_at, features, rows)

    log.add(service_name(plan.references), read_at, _n_rows(asked), build)


def log_response(
    log: ServedLog,
    plan: "Plan",
    asked: Mapping[str, Sequence[Any]],
    response: GetOnlineFeaturesResponse,
    read_at: datetime,
) -> None:
    """Log an answer of Feast's."""
    places = {name: place for place, name in enumerate(response.metadata.feature_names.val)}
    asked = {**_made_keys(plan, places, response), **asked}

    def build(rows: Sequence[int]) -> Rows:
        features = {
            feature.column: _cell(response.results[places[name]], feature.arrow_type, rows)
            for feature in _logged(plan)
            for name in (feature.column, feature.name)
            if name in places
        }
        return _rows(plan, asked, read_at, features, rows)

    log.add(service_name(plan.references), read_at, _n_rows(asked), build)


def _made_keys(
    plan: "Plan", places: Mapping[str, int], response: GetOnlineFeaturesResponse
) -> dict[str, Sequence[Any]]:
    """The keys of an answer, of which some may have been made of the request's text."""
    names = {names[0] for view in plan.views for names in view.keys.values()}
    return {
        name: list(map(feast_value_type_to_python_type, response.results[places[name]].values))
        for name in names & places.keys()
    }


def service_name(references: FeatureService | Sequence[str]) -> str:
    """A name to log under: the service's, or of a list one of its own.

    >>> service_name(["author_activity:n_records_7d"])
    'features_c31d6e9c'
    """
    if isinstance(references, FeatureService):
        return FOLDER.sub("-", references.name)
    digest = hashlib.sha256("\n".join(sorted(references)).encode()).hexdigest()
    return f"features_{digest[:8]}"


def _rows(
    plan: "Plan",
    asked: "Columns",
    read_at: datetime,
    features: Mapping[str, Cell],
    rows: Sequence[int],
) -> Rows:
    keys = {
        names[0]: key_values(names[0], _picked(_column(asked, names), rows), view.key_types[key])
        for view in plan.views
        for key, names in view.keys.items()
        if any(name in asked for name in names)
    }
    at = asked.get(EVENT_TIMESTAMP, [read_at] * _n_rows(asked))
    return Rows(
        keys,
        instants_of(_picked(at, rows), EVENT_TIMESTAMP),
        read_at,
        features,
        {view.name: expressions_digest(view) for view in _derived(plan)},
    )


def _logged(plan: "Plan") -> Iterator["Feature"]:
    """List the features that are logged, of those that are answered."""
    from feature_repo.stores.serving import _features

    of_views = [feature for view in plan.views for feature in view.features]
    derived = [feature for view in _derived(plan) for feature in _features(view)]
    for feature in (*of_views, *derived):
        if feature.arrow_type and feature.column in plan.columns:
            yield feature


def _stored_cells(
    plan: "Plan",
    answer: Mapping[str, "Values"],
    found: Sequence[tuple["ViewPlan", Read, Sequence[Stored]]],
    rows: Sequence[int],
) -> Iterator[tuple[str, Cell]]:
    logged = set(_logged(plan))
    for view, read, stored in found:
        for feature, column in zip(view.features, stored, strict=True):
            if feature in logged:
                order = [read.order[row] for row in rows]
                values = _taken(answer[feature.column], rows)
                at = [column.instants[entity] for entity in order]
                statuses = [
                    PRESENT if is_there else TOO_OLD if column.values[entity] else NOT_FOUND
                    for entity, is_there in zip(order, values.is_valid().to_pylist(), strict=True)
                ]
                yield feature.column, Cell(values, list(map(_nanoseconds, at)), statuses)


def _derived_cells(
    plan: "Plan",
    answer: Mapping[str, "Values"],
    found: Sequence[tuple["ViewPlan", Read, Sequence[Stored]]],
    rows: Sequence[int],
) -> Iterator[tuple[str, Cell]]:
    """Of derived features: each row's event timestamp is the newest that it is derived from."""
    from feature_repo.stores.serving import _features

    logged = set(_logged(plan))
    for view in _derived(plan):
        sources = {source.name for source in view.source_feature_view_projections.values()}
        stored = [
            (read, columns[0])
            for of, read, columns in found
            if of.table.projection.name in sources and columns
        ]
        newest = [
            max(
                (
                    at
                    for read, column in stored
                    if (at := _nanoseconds(column.instants[read.order[row]])) is not None
                ),
                default=None,
            )
            for row in rows
        ]
        for feature in _features(view):
            if feature in logged:
                values = _taken(answer[feature.column], rows)
                yield feature.column, Cell(values, newest, [PRESENT] * len(rows))


def _cell(vector: Any, kind: pa.DataType, rows: Sequence[int]) -> Cell:
    """A feature of Feast's answer."""
    values = [feast_value_type_to_python_type(vector.values[row]) for row in rows]
    statuses = [vector.statuses[row] for row in rows]
    instants = [vector.event_timestamps[row].ToNanoseconds() or None for row in rows]
    return Cell(pa.array(values, kind), instants, statuses)


def _derived(plan: "Plan") -> list[Any]:
    from feature_repo.stores.serving import EXPRESSIONS

    return [view for view in plan.on_demand if EXPRESSIONS in view.tags]


def expressions_digest(view: Any) -> str:
    """Digest what a derived view is computed by."""
    from feature_repo.stores.serving import EXPRESSIONS

    return hashlib.sha256(view.tags[EXPRESSIONS].encode()).hexdigest()


def _taken(column: "Values", rows: Sequence[int]) -> pa.Array:
    values = pa.array(column)
    return values if len(rows) == len(values) else values.take(pa.array(rows))


def _column(asked: Mapping[str, Sequence[Any]], names: Sequence[str]) -> Sequence[Any]:
    return next(asked[name] for name in names if name in asked)


def _picked(values: Sequence[Any], rows: Sequence[int]) -> list[Any]:
    return [values[row] for row in rows]


def _n_rows(asked: Mapping[str, Sequence[Any]]) -> int:
    return len(next(iter(asked.values()), ()))


@lru_cache(maxsize=1 << 16)
def _nanoseconds(instant: bytes | None) -> int | None:
    return None if instant is None else int(Timestamp.FromString(instant).ToNanoseconds())
