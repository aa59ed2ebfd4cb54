"""Online features as a frame: a request is resolved once, and keys and values go by column.

Reading the stores belongs into `online`, and what is in the bytes into `codec`.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache, partial
from itertools import compress, groupby, pairwise
from operator import attrgetter, itemgetter
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeAlias

import polars as pl
import pyarrow as pa
from feast import FeatureStore, FeatureView, OnDemandFeatureView, utils
from feast import types as feast_types
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.online_response import _convert_uuids_for_arrow
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from feast.types import FeastType
from feast.value_type import ValueType

from feature_repo.references import known
from feature_repo.stores import clock
from feature_repo.stores.asked_home import home_in
from feature_repo.stores.codec import decode_values, encode_entity_keys, encode_plain_keys
from feature_repo.stores.expiry import max_age
from feature_repo.stores.named import Named, named_keys
from feature_repo.stores.online import (
    EVENT_TIMESTAMP,
    LeanReads,
    Read,
    Stored,
    read_of,
    refuse_not_online,
)
from feature_repo.stores.served import log_read
from feature_repo.stores.served_log import log_of
from feature_repo.stores.values import key_values
from feature_repo.stores.written import NO_ENTITY
from transforms.features.registry import ON_DEMAND
from transforms.instants import in_utc, instants_of

Columns: TypeAlias = Mapping[str, Sequence[Any]]
Values: TypeAlias = (
    pa.Array | pl.Series
)  # a series of Python objects, where no type holds all of a column

EXPRESSIONS = "expressions"  # the tag of a view on demand that carries what it is derived by
VIEW, TREATMENT = "on_demand", "treatment"  # those of a record view that takes a text
PLAIN = {str, int, float, bool, bytes, type(None)}  # types of values that have no zone
PLANS = 1024  # that an open store remembers
INSTANT = pa.timestamp("us", "UTC")
# Arrow finds the types of maps, structs, decimals, zoned times and nested lists, whose Feast type
# does not tell all; where it finds none for all values of a column, they stay Python's
ARROW_TYPES: Mapping[FeastType, pa.DataType] = {
    feast_types.Bool: pa.bool_(),
    feast_types.Bytes: pa.binary(),
    feast_types.Float32: pa.float32(),
    feast_types.Float64: pa.float64(),
    feast_types.ImageBytes: pa.binary(),
    feast_types.Int32: pa.int32(),
    feast_types.Int64: pa.int64(),
    feast_types.Json: pa.string(),
    feast_types.PdfBytes: pa.binary(),
    feast_types.String: pa.string(),
    feast_types.TimeUuid: pa.string(),
    feast_types.UnixTimestamp: INSTANT,
    feast_types.Uuid: pa.string(),
}


class Feature(NamedTuple):
    """A feature of a view: column in the answer, name, Feast type, Arrow type (None: inferred)."""

    column: str
    name: str
    value_type: ValueType
    arrow_type: pa.DataType | None

    @property
    def kind(self) -> str:
        """What features have in common that can be decoded at once."""
        return f"{self.value_type.name} {self.arrow_type}" if self.arrow_type else self.column


class ViewPlan(NamedTuple):
    """What is read of one view, by kind of feature.

    A key may be in any of several request columns.
    """

    table: FeatureView
    features: Sequence[Feature]
    names: Sequence[str]
    kinds: Sequence[str]
    keys: Mapping[str, Sequence[str]]
    key_types: Mapping[str, ValueType]


class Plan(NamedTuple):
    """What a list of features, or a service, comes to; `columns` are the answer's, in order.

    `renamed` has them by Feast's names for them.
    """

    references: Any
    views: Sequence[ViewPlan]
    on_demand: Sequence[OnDemandFeatureView]
    request_data: frozenset[str]
    columns: Sequence[str]
    renamed: Mapping[str, str]


class OpenStore:
    """A Feast store kept open, with the requests it has resolved. Safe to share between threads."""

    def __init__(self, store: FeatureStore) -> None:
        """Keep the store."""
        self.store, self._log = store, log_of(store)
        self._plan = lru_cache(maxsize=PLANS)(partial(resolve, store))

    def views(self, features: Sequence[str] | str) -> set[str]:
        """Name the views that are read for some features, or for a service."""
        return {view.table.name for view in self.plan_of(features, {}).views}

    def read(
        self, features: Sequence[str] | str, rows: Sequence[Mapping[str, Any]]
    ) -> pl.DataFrame:
        """Answer every row, in order: its own columns, then the features as `view__feature`.

        Raises ValueError where rows differ in their columns, lack a key or a request value that a
        view needs, or give an `event_timestamp` that can be read in more than one way, as a number.
        """
        if any(row.keys() != rows[0].keys() for row in rows[1:]):
            message = "all rows must have the same columns"
            raise ValueError(message)
        if not {type(value) for row in rows for value in row.values()} <= PLAIN:
            rows = [in_utc(dict(row)) for row in rows]
        given = {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
        return _own(rows).hstack(self.read_columns(features, given, len(rows)))

    def plan_of(self, features: Sequence[str] | str, given: Columns) -> Plan:
        """Resolve what is asked for of the rows of some columns, or remember it."""
        asked = features if isinstance(features, str) else tuple(features)
        return self._plan(asked, of_text=bool(given.get("text")) and "record_id" not in given)

    def read_columns(
        self, features: Sequence[str] | str, given: Columns, n_rows: int | None = None
    ) -> pl.DataFrame:
        """Answer the rows of some columns of one length: the features alone, as `read` names them.

        Before them are the keys that a text may name several of. `n_rows` says how many rows there
        are where they may have no column. Raises ValueError as `read` does.
        """
        n_rows = len(next(iter(given.values()), ())) if n_rows is None else n_rows
        plan = self.plan_of(features, given)
        now, is_asked = clock.now(), bool(n_rows) and EVENT_TIMESTAMP in given
        asked = _columns(given, n_rows, plan, now)
        named = _named(plan, asked, self.store.config)
        answer = (
            self._lean(plan, asked, named, now, is_asked=is_asked)
            if self._is_lean(plan)
            else self._by_feast(plan, {**asked, **named.keys})
        )
        typed = {
            column: answer[column]
            for column in plan.columns
            if isinstance(answer[column], pa.Array)
        }
        found = pl.DataFrame(pa.RecordBatch.from_arrays(list(typed.values()), list(typed)))
        if len(typed) < len(plan.columns):
            found = pl.DataFrame(
                [
                    found[name] if name in typed else answer[name].alias(name)
                    for name in plan.columns
                ]
            )
        return pl.DataFrame([*_key_lists(named), *found])

    def _is_lean(self, plan: Plan) -> bool:
        return isinstance(self.store.provider.online_store, LeanReads) and not any(
            view.aggregations for view in plan.on_demand
        )

    def _lean(
        self, plan: Plan, asked: Columns, named: Named, now: datetime, *, is_asked: bool
    ) -> dict[str, Values]:
        asked = {**asked, **named.keys}
        at = asked.get(EVENT_TIMESTAMP, [now] * len(asked[DUMMY_ENTITY_ID]))
        several = {view.table.name: ends for view in plan.views if (ends := _ends(view, named))}
        _refuse_derived(plan, several)
        reads = [
            _read(
                view,
                {**asked, **named.of_lists},
                _each(at, several.get(view.table.name)),
                is_asked=is_asked,
            )
            for view in plan.views
        ]
        found = self.store.provider.online_store.read(self.store.config, reads)
        found_of = list(zip(plan.views, reads, found, strict=True))
        answer = {
            column: _lists(values, several.get(view.table.name))
            for view, read, stored in found_of
            for column, values in _decoded(view, read, _within(view.table, read, stored))
        }
        of_text = [view for view in plan.on_demand if VIEW in view.tags]
        if of_text:
            answer |= _of_request(of_text, asked, home_in(self.store.config))
        for on_demand in plan.on_demand:
            if VIEW not in on_demand.tags:
                answer |= _computed(on_demand, asked, answer)
        if self._log:  # which has a row for each entity
            of_one = [found for found in found_of if found[0].table.name not in several]
            plan = plan._replace(views=[view for view, _, _ in of_one])
            log_read(self._log, plan, asked, answer, of_one, now)
        return answer

    def _by_feast(self, plan: Plan, asked: Columns) -> dict[str, Values]:
        """Let Feast read a store that has no lean reads."""
        request = {name: values for name, values in asked.items() if name != DUMMY_ENTITY_ID}
        answered = self.store.get_online_features(
            plan.references, request, full_feature_names=True
        ).to_dict()
        found = {plan.renamed.get(name, name): values for name, values in answered.items()}
        features = [feature for view in plan.views for feature in view.features]
        features += [feature for view in plan.on_demand for feature in _features(view)]
        return {
            feature.column: _array(_texts(found[feature.column], feature), feature.arrow_type)
            for feature in features
            if feature.column in found
        }


_open: dict[Path, tuple[tuple[int, ...], OpenStore]] = {}
_opening = Lock()


def opened(home: Path, open_store: Callable[[Path], FeatureStore]) -> OpenStore:
    """Open the store of a home, or reuse the open one if the registry has not changed."""
    state = _state(home)
    with _opening:
        if home not in _open or _open[home][0] != state:
            _open[home] = (state, OpenStore(open_store(home)))
        return _open[home][1]


def _state(home: Path) -> tuple[int, ...]:
    """What changes whenever the registry does; of one in a database, what runs note beside it."""
    folder = home / "feast"
    try:
        file = (folder / "registry.db").stat()
    except FileNotFoundError:
        noted = [folder / "applied", *folder.glob("materialized/**/*.json")]
        return tuple(sorted(path.stat().st_mtime_ns for path in noted))
    return file.st_mtime_ns, file.st_size


def resolve(store: FeatureStore, features: Sequence[str] | str, *, of_text: bool = False) -> Plan:
    """Look up in the registry what is asked for; `of_text` of a text instead of a stored record."""
    asked = known(store, features)
    references, swapped = _asked_of_text(store, asked) if of_text else (asked, set[str]())
    references = (
        store.get_feature_service(references) if isinstance(references, str) else references
    )
    names, on_demand, join_keys, _, _, grouped, _, request_data, _ = (
        utils._get_online_request_context(  # noqa: SLF001
            store.registry, store.project, references, full_feature_names=True
        )
    )
    views = [_view_plan(store.config, table, features, join_keys) for table, features in grouped]
    computed = [
        view.with_name(view.name.removesuffix(ON_DEMAND)) if view.name in swapped else view
        for view in on_demand
        if not view.write_to_online_store
    ]
    parsed = [utils._parse_feature_ref(name) for name in names]  # noqa: SLF001
    columns = [
        f"{view}__{feature}" if version is None else f"{view}@v{version}__{feature}"
        for view, version, feature in parsed
    ]
    answered = [
        name.replace(f"{ON_DEMAND}__", "__", 1) if name.partition("__")[0] in swapped else name
        for name in columns
    ]
    return Plan(
        references,
        views,
        computed,
        frozenset(request_data),
        answered,
        dict(zip(columns, answered, strict=True)),
    )


def _asked_of_text(
    store: FeatureStore, features: Sequence[str] | str
) -> tuple[Sequence[str] | str, set[str]]:
    """Name what is computed of a text in place of record views and services; and those swapped."""
    if isinstance(features, str):
        services = {service.name for service in store.list_feature_services()}
        name = features + ON_DEMAND
        return (name if name in services else features), set()
    views = {view.name for view in store.list_on_demand_feature_views()}
    parsed = [name.partition(":") for name in features]
    swapped = {view + ON_DEMAND for view, _, _ in parsed} & views
    names = [
        f"{view}{ON_DEMAND if view + ON_DEMAND in swapped else ''}:{feature}"
        for view, _, feature in parsed
    ]
    return names, swapped


def arrow_type(kind: FeastType) -> pa.DataType | None:
    """Return the Arrow type of a Feast type, None where Arrow has to find it in the values."""
    if isinstance(kind, feast_types.Array | feast_types.Set):
        inner = arrow_type(kind.base_type)
        return pa.list_(inner) if inner else None
    return ARROW_TYPES.get(kind)


def _array(values: Sequence[Any], kind: pa.DataType | None) -> Values:
    """Make a column of values: Python objects where no type of Arrow's or Polars' fits."""
    if kind is not None and {*map(type, values)} <= PLAIN:
        with suppress(pa.ArrowException, OverflowError):
            return pa.array(values, kind)
    plain = _convert_uuids_for_arrow({"": values})[""]
    zones = (
        {value.tzinfo for value in plain if isinstance(value, datetime)} if kind is None else set()
    )
    with suppress(pa.ArrowException, OverflowError):
        found = pa.array(
            [value and value.astimezone(UTC) for value in plain] if zones else plain, kind
        )
        if len(zones) < 2 and "decimal256" not in str(found.type):  # noqa: PLR2004 - Polars has no wider decimals
            return found.cast(pa.timestamp("us", str(*zones))) if zones else found
    return pl.Series(values, dtype=pl.Object)


def _own(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """The columns of a request, as they were given where they are of several types."""
    try:
        return pl.DataFrame(rows, infer_schema_length=None)
    except (TypeError, pl.exceptions.PolarsError):
        return pl.DataFrame(
            [pl.Series(name, [row[name] for row in rows], dtype=pl.Object) for name in rows[0]]
        )


def _texts(values: Sequence[Any], feature: Feature) -> Sequence[Any]:
    """Convert JSON that Feast has parsed back to text."""
    if feature.value_type == ValueType.JSON:
        return [None if value is None else json.dumps(value) for value in values]
    if feature.value_type == ValueType.JSON_LIST:
        return [None if value is None else list(map(json.dumps, value)) for value in values]
    return values


def _decode(serialized: Sequence[bytes | None], kind: ValueType) -> Sequence[Any]:
    """Decode values as Feast does, except JSON, which stays the written text, as in training."""
    if kind == ValueType.JSON:
        return [Value.FromString(value).json_val if value else None for value in serialized]
    if kind == ValueType.JSON_LIST:
        return [
            list(Value.FromString(value).json_list_val.val) if value else None
            for value in serialized
        ]
    return decode_values(serialized, kind)


def _view_plan(
    config: RepoConfig, table: FeatureView, features: Sequence[str], join_keys: Mapping[str, str]
) -> ViewPlan:
    refuse_not_online(config, table)
    asked = sorted(
        (feature for feature in _features(table) if feature.name in features),
        key=attrgetter("kind"),
    )
    # a key is named by its alias or its own name; Feast still takes the entity's name too
    names = {join_keys[entity]: entity for entity in table.entities}
    keys = {
        key: (table.projection.join_key_map.get(key, key), entity) for key, entity in names.items()
    }
    key_types = {column.name: column.dtype.to_value_type() for column in table.entity_columns}
    features_of = [feature.name for feature in asked], [feature.kind for feature in asked]
    return ViewPlan(table, asked, *features_of, keys, key_types)


def _features(view: FeatureView | OnDemandFeatureView) -> list[Feature]:
    prefix = view.projection.name_to_use()
    return [
        Feature(
            f"{prefix}__{field.name}",
            field.name,
            field.dtype.to_value_type(),
            arrow_type(field.dtype),
        )
        for field in view.features
    ]


def _columns(given: Columns, n_rows: int, plan: Plan, now: datetime) -> dict[str, Any]:
    """Complete the columns of a request: an instant and Feast's dummy key where views need them.

    Without rows, all that is needed is there.
    """
    needed = {names[0] for view in plan.views for names in view.keys.values()} | plan.request_data
    columns = dict(given) if n_rows else {name: [] for name in needed}
    if EVENT_TIMESTAMP in {*plan.request_data, *columns}:
        asked = columns.get(EVENT_TIMESTAMP, [now] * n_rows)
        columns[EVENT_TIMESTAMP] = instants_of(asked, EVENT_TIMESTAMP).to_pylist()
    if missing := sorted(plan.request_data - columns.keys()):
        message = f"the rows have no {missing[0]!r}, which a view computed on demand needs"
        raise ValueError(message)
    return {**columns, DUMMY_ENTITY_ID: [DUMMY_ENTITY_VAL] * n_rows}


def _named(plan: Plan, asked: Columns, config: RepoConfig) -> Named:
    """Make the keys that a text's rows lack by the expressions of the entities that it names."""
    lacking = {
        names[0]
        for view in plan.views
        for names in view.keys.values()
        if not {*names} & asked.keys()
    }
    return named_keys((view.table.name for view in plan.views), lacking, asked, home_in(config))


def _ends(view: ViewPlan, named: Named) -> Sequence[int] | None:
    """Where the keys of each row end, for a view of which a text may name several."""
    return next(
        (named.ends[names[0]] for names in view.keys.values() if names[0] in named.ends), None
    )


def _each(values: Sequence[Any], ends: Sequence[int] | None) -> Sequence[Any]:
    """Repeat the value of a row for each of its keys."""
    if ends is None:
        return values
    return [
        value
        for value, (start, end) in zip(values, pairwise(ends), strict=True)
        for _ in range(start, end)
    ]


def _lists(values: Values, ends: Sequence[int] | None) -> Values:
    """Put the values of each row's keys into one list."""
    if ends is None:
        return values
    if isinstance(values, pl.Series):
        return pl.Series(
            [values[start:end].to_list() for start, end in pairwise(ends)], dtype=pl.Object
        )
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values)


def _key_lists(named: Named) -> list[pl.Series]:
    """The keys of which each row has a list, beside the features that are lists in their order."""
    return [
        pl.Series(
            name, [keys[start:end] for start, end in pairwise(named.ends[name])], pl.List(pl.String)
        )
        for name, keys in named.of_lists.items()
    ]


def _refuse_derived(plan: Plan, several: Collection[str]) -> None:
    """Raise ValueError where a view that is computed of single values would get lists."""
    for view in plan.on_demand:
        sources = {source.name for source in view.source_feature_view_projections.values()}
        if lists := sorted(sources & {*several}):
            message = (
                f"view {view.name} is computed of one entity of {lists[0]}, of which a text may "
                "name several; give a row for each, with its key"
            )
            raise ValueError(message)


def _read(view: ViewPlan, asked: Columns, at: Sequence[datetime | None], *, is_asked: bool) -> Read:
    """Encode a view's keys, each entity once.

    A row with a null in its key gets a key that nothing is stored under.
    """
    columns = [
        key_values(names[0], _key(view, names, asked), view.key_types[key])
        for key, names in view.keys.items()
    ]
    if any(None in column for column in columns):
        is_known = [None not in key for key in zip(*columns, strict=True)]
        encoded = iter(_encoded(view, [list(compress(column, is_known)) for column in columns]))
        keys = [next(encoded) if is_row_known else NO_ENTITY for is_row_known in is_known]
    else:
        keys = _encoded(view, columns)
    return read_of(view.table, view.names, keys, at, is_asked=is_asked)


def _encoded(view: ViewPlan, columns: Sequence[Sequence[Any]]) -> list[bytes]:
    """Encode keys that are all there."""
    if not columns or not len(columns[0]):
        return []
    plain = encode_plain_keys(dict(zip(view.keys, columns, strict=True)), view.key_types)
    if plain is not None:
        return plain
    batch = pa.RecordBatch.from_arrays([pa.array(column) for column in columns], list(view.keys))
    return list(encode_entity_keys(batch, view.key_types).to_pylist())


def _within(table: FeatureView, read: Read, stored: Sequence[Stored]) -> Sequence[Stored]:
    if max_age(table) is None:
        return stored
    return [feature.within(table, read.at) for feature in stored]


def _decoded(view: ViewPlan, read: Read, stored: Sequence[Stored]) -> Iterator[tuple[str, Values]]:
    """Decode a view's features, one kind at a time, in the order of the request's rows."""
    n_keys, n_rows = len(read.keys), len(read.order)
    is_in_order = n_keys == n_rows  # for keys come in the order of their first rows
    for _, group in groupby(zip(view.kinds, view.features, stored, strict=True), key=itemgetter(0)):
        _, features, columns = zip(*group, strict=True)
        values = _decode(
            [value for column in columns for value in column.values], features[0].value_type
        )
        rows = (
            values
            if is_in_order
            else [
                values[number * n_keys + entity]
                for number in range(len(features))
                for entity in read.order
            ]
        )
        array = _array(rows, features[0].arrow_type)
        yield from (
            (feature.column, array.slice(number * n_rows, n_rows))
            for number, feature in enumerate(features)
        )


def _key(view: ViewPlan, names: Sequence[str], asked: Columns) -> Sequence[Any]:
    for name in names:
        if name in asked:
            return asked[name]
    message = f"the rows have no {names[0]!r}, which view {view.table.name} needs"
    raise ValueError(message)


def _computed(
    view: OnDemandFeatureView, asked: Columns, features: Mapping[str, Values]
) -> dict[str, Values]:
    """Compute an on-demand view from the request's own columns and its source features."""
    if EXPRESSIONS in view.tags:
        return _derived(view, asked, features)
    sources = {
        f"{source.name}__{field.name}"
        for source in view.source_feature_view_projections.values()
        for field in source.features
    }
    columns: dict[str, Any] = {
        **asked,
        **{name: column for name, column in features.items() if name in sources},
    }
    if view.mode == "python":
        found = view.transform_dict({name: _listed(column) for name, column in columns.items()})
        return {
            feature.column: _array(found[feature.name], feature.arrow_type)
            for feature in _features(view)
        }
    mixed = [name for name, column in columns.items() if isinstance(column, pl.Series)]
    if mixed:
        message = (
            f"view {view.name}: the values of {mixed[0]} have several types, which only "
            "mode='python' can take"
        )
        raise ValueError(message)
    table = view.transform_arrow(pa.table(columns), full_feature_names=True)
    # pandas makes floats of integers beside nulls
    return {
        feature.column: table[feature.column]
        .combine_chunks()
        .cast(feature.arrow_type or table[feature.column].type)
        for feature in _features(view)
    }


def _derived(
    view: OnDemandFeatureView, asked: Columns, features: Mapping[str, Values]
) -> dict[str, Values]:
    """Compute a view of expressions, as `feature_repo.derived` defines it, without pandas."""
    from feature_repo.derived import derivation  # which imports this module

    instants = pa.array(asked[EVENT_TIMESTAMP], INSTANT)
    table = derivation(view.tags[EXPRESSIONS]).of_arrow({**features, EVENT_TIMESTAMP: instants})
    return {feature.column: table[feature.name].combine_chunks() for feature in _features(view)}


def _of_request(
    views: Sequence[OnDemandFeatureView], asked: Columns, home: Path | None
) -> dict[str, Values]:
    """Compute record views of the request's text, as `feature_repo.on_demand` defines them."""
    from feature_repo.on_demand import computed  # which imports this module

    codes = {view.tags[VIEW]: view.tags["code"] for view in views}
    found = computed(codes, json.loads(views[0].tags[TREATMENT]), asked, home)
    arrays = {
        (name, column.name): column.to_arrow() for name, frame in found.items() for column in frame
    }
    return {
        feature.column: array
        if array.type == feature.arrow_type
        else array.cast(feature.arrow_type)
        for view in views
        for feature in _features(view)
        for array in [arrays[view.tags[VIEW], feature.name]]
    }


def _listed(column: Any) -> list[Any]:
    if isinstance(column, pa.Array):
        return list(column.to_pylist())
    return list(column)
