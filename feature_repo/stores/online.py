"""Feast's online stores with leaner reads and enforced time to live: the base, and SQLite's.

The bytes at rest are Feast's: writing is inherited, and any Feast client reads what is written
here. Reading differs:

- Feast makes four Python objects of every stored value. Here the stored bytes go into the
  response as they are.
- A value whose event timestamp is older than its view's time to live reads as null with the status
  OUTSIDE_MAX_AGE, as in training (a value exactly at the limit is still served). Feast serves it
  for ever.
- An entity that is not stored has the values of one with nothing counted (`empty`), PRESENT and
  without an event timestamp; its other features are null and NOT_FOUND.
- Only the features asked for are read. Feast's SQLite store reads all of an entity's.
- SQLite finds the nearest vectors by itself, and words and filters without a setting. Feast's needs
  an extension for vectors, a Python that may load it, and columns of its own for filters.

In the compact layout a read, `online_read` too, takes the row in effect at its instant: now, or
what a column `event_timestamp` of the request says. In Feast's it takes the last written one.

`online_read` returns what is stored, whatever its age: Feast calls it to precompute vectors, whose
age it judges itself.
"""

import sqlite3
from calendar import timegm
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from http import HTTPStatus
from time import localtime
from typing import Any, Literal, NamedTuple

from feast import FeatureService, Field, utils
from feast.errors import FeastError
from feast.feature_view import FeatureView, FeatureViewState
from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key
from feast.infra.online_stores import sqlite
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.registry.base_registry import BaseRegistry
from feast.metrics import track_feature_statuses
from feast.online_response import OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value
from feast.repo_config import RepoConfig
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp

from feature_repo.stores import clock
from feature_repo.stores.asked_home import asking, home_in
from feature_repo.stores.bulk import Asked, GuardedWrites, Layout, layout_of
from feature_repo.stores.clock import EPOCH, mark, microseconds
from feature_repo.stores.compact import Column
from feature_repo.stores.compact_sqlite import CompactSqlite
from feature_repo.stores.empty import empty_values
from feature_repo.stores.expiry import max_age
from feature_repo.stores.named import named_keys
from feature_repo.stores.nearest import nearest
from feature_repo.stores.searching import Search
from feature_repo.stores.sources import warehouse_folder
from feature_repo.stores.values import RequestError, key_values, proto_values
from feature_repo.stores.written import NO_ENTITY, is_written, whether_written
from transforms.errors import InstantError, MillraceError
from transforms.expressions import quoted
from transforms.features.chosen import off_views, take_back
from transforms.features.registry import view_of
from transforms.instants import instants_of

PRESENT, NOT_FOUND, OUTSIDE_MAX_AGE = (
    FieldStatus.PRESENT,
    FieldStatus.NOT_FOUND,
    FieldStatus.OUTSIDE_MAX_AGE,
)
# what Feast's copies of a view keep, unlike the intervals; a view that is materialized again has
# values all the while
MATERIALIZED = {FeatureViewState.AVAILABLE_ONLINE, FeatureViewState.MATERIALIZING}
VECTOR = GetOnlineFeaturesResponse.FeatureVector
MICROSECOND = timedelta(microseconds=1)
CACHE_KIB, MAPPED_BYTES = 65_536, 1 << 30
VECTORS_AT_ONCE = 10_000
EVERY = -1  # SQLite's limit of none
VARINT, LENGTH = 0, 2  # protobuf's wire types
EVENT_TIMESTAMP = "event_timestamp"
# the instants of the rows of a request, on its way through Feast
_at: ContextVar[Sequence[datetime | None] | None] = ContextVar("at", default=None)


class Read(NamedTuple):
    """What is asked of one view: features, entities, and the entity of each row of the answer.

    `at` is the instant for each entity, in microseconds since 1970; `is_asked` says that the
    request names it.
    """

    table: FeatureView
    requested_features: Sequence[str]
    keys: Sequence[bytes]
    order: Sequence[int]
    at: Sequence[int]
    is_asked: bool = False


class Stored(NamedTuple):
    """One feature as stored, by entity: serialized values and event timestamps, or None."""

    values: Sequence[bytes | None]
    instants: Sequence[bytes | None]

    def at(self, order: Sequence[int]) -> "Stored":
        """The same feature, row by row of an answer."""
        return Stored(
            [self.values[entity] for entity in order],
            tuple([self.instants[entity] for entity in order]),
        )

    def within(self, table: FeatureView, at: Sequence[int]) -> "Stored":
        """The same feature without the values too old to be served."""
        old = self.too_old(table, at)
        if not old:
            return self
        kept = [None if place in old else value for place, value in enumerate(self.values)]
        return Stored(kept, self.instants)

    def filled(self, value: bytes, keys: Sequence[bytes]) -> "Stored":
        """The same feature with values for entities of which nothing is stored.

        A null key is no entity.
        """
        there = zip(self.values, self.instants, keys, strict=True)
        return Stored(
            [value if at is None and key != NO_ENTITY else known for known, at, key in there],
            self.instants,
        )

    def too_old(self, table: FeatureView, at: Sequence[int]) -> set[int]:
        """Return the places of the values too old to be served, each at its instant."""
        limit = max_age(table)
        if limit is None:
            return set()
        oldest = [(now - limit // MICROSECOND) * 1000 for now in at]
        first = min(map(_nanoseconds, filter(None, set(self.instants))), default=None)
        if first is None or first >= max(oldest):
            return set()
        return {
            place
            for place, (instant, then) in enumerate(zip(self.instants, oldest, strict=True))
            if instant is not None and _nanoseconds(instant) < then
        }


# called with what each read of entities has found
watchers: list[Callable[[Sequence[Read], list[list[Stored]]], None]] = []


class PastError(RequestError):
    """A request for an instant of which the online store knows no more."""

    def __init__(self, view: str, at: int, since: int) -> None:
        """Name the view, the instant, since when the store knows, and what to do."""
        asked, known = (EPOCH + us * MICROSECOND for us in (at, since))
        super().__init__(
            f"{view}: event_timestamp {asked.isoformat()} is too early for the online store, which "
            f"has a row since {known.isoformat()}; leave event_timestamp out for now, or ask "
            "training_set, which knows the past"
        )


class NotOnlineError(MillraceError, FeastError):
    """A request for a view that is not kept online; the feature server answers with status 422."""

    def http_status_code(self) -> int:
        """Report the request as the client's mistake."""
        return HTTPStatus.UNPROCESSABLE_ENTITY


def refuse_not_online(config: RepoConfig, view: Any) -> None:
    """Raise `NotOnlineError` for a view that is not online."""
    if getattr(view, "online", True):
        return
    home = warehouse_folder(config) if hasattr(config.offline_store, "warehouse") else None
    if home and view.name in off_views(home):
        message = take_back(home, view.name)
        if not view_of(view.name).online:
            message += f"; MILLRACE_ONLINE={view.name} with it keeps it online"
    else:
        message = (
            f"{view.name}: is not online in this home; run once with "
            f"MILLRACE_ONLINE={view.name} to keep it there (names with commas between), "
            "declare online=days(30) in a view of your own, or ask for it in a training set"
        )
    raise NotOnlineError(message)


class LeanReads(GuardedWrites, OnlineStore):
    """An online store that serves from the stored bytes, in a layout of its own or in Feast's.

    A store adds its `compact` layout, and `read_stored` for Feast's, and its twin for `await`.
    """

    def compact(self, config: RepoConfig) -> Layout:
        """The compact layout in this store."""
        raise NotImplementedError

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        *others: Any,
        **options: Any,
    ) -> None:
        """Create tables for views that are kept, and delete others and those in another layout."""
        if layout := layout_of(config, self):
            layout.update(tables_to_delete, tables_to_keep)
            return
        self.compact(config).clear([*tables_to_delete, *tables_to_keep])
        super().update(config, tables_to_delete, tables_to_keep, *others, **options)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Any) -> None:
        """Delete all that the store has of views."""
        if layout := layout_of(config, self):
            layout.clear(tables)
        super().teardown(config, tables, entities)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """Read the requested features, all of the view where none are named.

        The newest of their event timestamps counts.
        """
        layout = layout_of(config, self)
        if layout is None:
            found: list[tuple[datetime | None, dict[str, Value] | None]] = super().online_read(
                config, table, entity_keys, requested_features
            )
            return found
        asked = _asked_of(config, table, entity_keys, requested_features)
        return _rows(asked.names, layout.read([asked])[0])

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """Read as `online_read` does, without blocking."""
        layout = layout_of(config, self)
        if layout is None:
            found: list[
                tuple[datetime | None, dict[str, Value] | None]
            ] = await super().online_read_async(config, table, entity_keys, requested_features)
            return found
        asked = _asked_of(config, table, entity_keys, requested_features)
        return _rows(asked.names, (await layout.read_async([asked]))[0])

    def get_online_features(
        self,
        config: RepoConfig,
        features: list[str] | FeatureService,
        entity_rows: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,  # noqa: FBT001, FBT002
        include_feature_view_version_metadata: bool = False,  # noqa: FBT001, FBT002
    ) -> OnlineResponse:
        """Answer as Feast does; nulls for a null key, nothing for no rows.

        A column `event_timestamp` says the instant of each row, null for none; without it, it is
        now. Raises RequestError for a caller's mistake.
        """
        rows = _asked(config, registry, project, features, entity_rows, full_feature_names)
        with _asking_at(rows), asking(config):
            return super().get_online_features(
                config,
                features,
                rows,
                registry,
                project,
                full_feature_names,
                include_feature_view_version_metadata,
            )

    async def get_online_features_async(
        self,
        config: RepoConfig,
        features: list[str] | FeatureService,
        entity_rows: Any,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,  # noqa: FBT001, FBT002
        include_feature_view_version_metadata: bool = False,  # noqa: FBT001, FBT002
    ) -> OnlineResponse:
        """Answer as `get_online_features` does, without blocking."""
        rows = _asked(config, registry, project, features, entity_rows, full_feature_names)
        with _asking_at(rows), asking(config):
            return await super().get_online_features_async(
                config,
                features,
                rows,
                registry,
                project,
                full_feature_names,
                include_feature_view_version_metadata,
            )

    def read_stored(self, config: RepoConfig, reads: Sequence[Read]) -> list[list[Stored]]:
        """Read what is stored: for each view, its features in the order asked for."""
        raise NotImplementedError

    async def read_stored_async(
        self, config: RepoConfig, reads: Sequence[Read]
    ) -> list[list[Stored]]:
        """Read what is stored without blocking, where the store can."""
        raise NotImplementedError

    def read(self, config: RepoConfig, reads: Sequence[Read]) -> list[list[Stored]]:
        """Read as `read_stored` does.

        An entity that the store does not know has the values of one of which nothing counts.
        """
        layout = layout_of(config, self)
        if layout is None:
            return _answers(reads, self.read_stored(config, reads), _said_by_registry(reads))
        return _answers(reads, *_compact(layout.read(_asked_by(reads))))

    async def read_async(self, config: RepoConfig, reads: Sequence[Read]) -> list[list[Stored]]:
        """Read as `read` does, without blocking."""
        layout = layout_of(config, self)
        if layout is None:
            found = await self.read_stored_async(config, reads)
            return _answers(reads, found, _said_by_registry(reads))
        return _answers(reads, *_compact(await layout.read_async(_asked_by(reads))))

    def _read_features_per_fv(
        self,
        config: RepoConfig,
        grouped_refs: Sequence[tuple[FeatureView, list[str]]],
        join_key_values: Mapping[str, list[Value]],
        entity_name_to_join_key_map: Mapping[str, str],
        *response: Any,
    ) -> None:
        reads = _reads(config, grouped_refs, join_key_values, entity_name_to_join_key_map)
        _answer(reads, self.read(config, reads), *response)

    async def _read_features_per_fv_async(
        self,
        config: RepoConfig,
        grouped_refs: Sequence[tuple[FeatureView, list[str]]],
        join_key_values: Mapping[str, list[Value]],
        entity_name_to_join_key_map: Mapping[str, str],
        *response: Any,
    ) -> None:
        reads = _reads(config, grouped_refs, join_key_values, entity_name_to_join_key_map)
        _answer(reads, await self.read_async(config, reads), *response)


class SqliteOnlineStoreConfig(sqlite.SqliteOnlineStoreConfig):
    """Feast's settings and the `layout`.

    `path` is that of the database, absolute or relative to the feature repository. The layout
    `compact` (the default) has a row an entity and view; `feast` has a row an entity and feature,
    for other clients of the file.
    """

    type: Literal["feature_repo.stores.online.SqliteOnlineStore"] = (
        "feature_repo.stores.online.SqliteOnlineStore"
    )
    layout: Literal["compact", "feast"] = "compact"


class SqliteOnlineStore(LeanReads, sqlite.SqliteOnlineStore):
    """Feast's SQLite store.

    Its own layout keeps event timestamps to the second, the compact one to the microsecond.
    """

    def compact(self, config: RepoConfig) -> Layout:
        """A table a view."""
        return CompactSqlite(config, self)

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        *others: Any,
        **options: Any,
    ) -> None:
        """Make and drop tables.

        Feast makes an index that is a prefix of its primary key, a quarter of the file; it is
        dropped.
        """
        super().update(config, tables_to_delete, tables_to_keep, *others, **options)
        connection = self._get_conn(config)
        for view in tables_to_keep:
            index = quoted(f"{self._table(config, view)}_ek")
            connection.execute(f"drop index if exists {index}")
        connection.commit()

    def _table(self, config: RepoConfig, view: FeatureView) -> str:
        versioning = config.registry.enable_online_feature_view_versioning
        return str(sqlite._table_id(config.project, view, versioning))  # noqa: SLF001

    def _get_conn(self, config: RepoConfig) -> sqlite3.Connection:
        """Open the database as Feast does, with a cache for the upper part of its indexes."""
        is_open = self._conn is not None
        connection: sqlite3.Connection = super()._get_conn(config)
        if not is_open:
            connection.execute(f"pragma cache_size = -{CACHE_KIB}")
            connection.execute(f"pragma mmap_size = {MAPPED_BYTES}")
        return connection

    def read_stored(self, config: RepoConfig, reads: Sequence[Read]) -> list[list[Stored]]:
        """Read each view by one query."""
        return [self._read_view(config, read) for read in reads]

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """Read the requested features, all that are stored where none are named.

        The newest of their event timestamps counts.
        """
        if not requested_features or not entity_keys or layout_of(config, self):
            return super().online_read(config, table, entity_keys, requested_features)
        _, keys, names, _ = _asked_of(config, table, entity_keys, requested_features)
        stored = self._read_view(config, Read(table, names, keys, range(len(keys)), ()))
        return _rows(names, stored)

    def retrieve_online_documents(
        self,
        config: RepoConfig,
        table: FeatureView,
        requested_features: list[str],  # noqa: ARG002
        embedding: list[float],
        top_k: int,
        distance_metric: str | None = None,
    ) -> list[tuple[datetime | None, EntityKey, Value, Value, Value]]:
        """Find the entities nearest to a vector, nearest first.

        Each has its instant, key, vector (twice, as Feast expects) and distance.
        """
        vector = _vector(table)
        found = nearest(
            self._vectors(config, self._search(config, table), vector.name),
            embedding,
            top_k,
            distance_metric or "L2",
        )
        keys = [
            deserialize_entity_key(key, config.entity_key_serialization_version) for key, _ in found
        ]
        rows = self.online_read(config, table, keys, [vector.name])
        return [
            (
                instant,
                key,
                (values or {})[vector.name],
                (values or {})[vector.name],
                Value(float_val=distance),
            )
            for key, (_, distance), (instant, values) in zip(keys, found, rows, strict=True)
        ]

    def retrieve_online_documents_v2(
        self,
        config: RepoConfig,
        table: FeatureView,
        requested_features: Sequence[str],
        embedding: Sequence[float] | None,
        top_k: int,
        distance_metric: str | None = None,
        query_string: str | None = None,
        filters: Any = None,
        include_feature_view_version_metadata: bool = False,  # noqa: ARG002, FBT001, FBT002
    ) -> list[tuple[datetime | None, EntityKey, dict[str, Value]]]:
        """Find entities nearest to a vector or best fitting words; returns features and `distance`.

        With both, the nearest of those that the words find. Filters choose before, so that up to
        `top_k` are found that fulfil them. They come in the order of their keys: Feast's client
        pairs distances and keys wrongly in any other. Raises RequestError for what the view does
        not have, or a query that is none.
        """
        search = self._search(config, table, filters)
        found: Mapping[bytes, float] = {}
        if query_string is not None:
            with closing(
                self._connected(config, table)
            ) as connection:  # its own, for its table is for this search alone
                found = dict(
                    search.by_words(
                        connection, query_string, EVERY if embedding is not None else top_k
                    )
                )
        if embedding is not None:
            vectors = self._vectors(
                config, search, _vector(table).name, None if query_string is None else found
            )
            found = dict(nearest(vectors, embedding, top_k, distance_metric or "L2"))
        keys = {
            key: deserialize_entity_key(key, config.entity_key_serialization_version)
            for key in found
        }
        rows = self.online_read(
            config,
            table,
            list(keys.values()),
            list(requested_features) or [field.name for field in table.features],
        )
        documents = [
            (instant, entity, {**(values or {}), "distance": Value(float_val=found[key])})
            for (key, entity), (instant, values) in zip(keys.items(), rows, strict=True)
        ]
        return sorted(documents, key=lambda document: _entity_values(document[1]))

    def _search(self, config: RepoConfig, table: FeatureView, filters: Any = None) -> Search:
        refuse_not_online(config, table)
        limit = max_age(table)
        now = microseconds(clock.now())
        oldest = None if limit is None else (now - limit // MICROSECOND) * 1000
        return Search(table, self._table(config, table), filters, oldest)

    def _connected(self, config: RepoConfig, view: FeatureView) -> sqlite3.Connection:
        """Open a connection of its own for a search of a view."""
        connection = sqlite3.connect(self._get_db_path(config))
        if layout_of(config, self):
            CompactSqlite(config, self).show_as_feast(connection, view)
        else:
            connection.create_function("is_held", 2, _is_held, deterministic=True)
        return connection

    def _vectors(
        self,
        config: RepoConfig,
        search: Search,
        feature: str,
        among: Collection[bytes] | None = None,
    ) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """Read the vectors that a search may find, or `among` these keys, some at a time."""
        valued, valued_parameters, condition, parameters = search.candidates()
        sql = f"""
            with {valued}
            select entity_key, value from {quoted(search.table)} as stored
            where feature_name = ? and length(value) > 0 and {condition}
        """
        with closing(self._connected(config, search.view)) as connection:
            cursor = connection.execute(sql, [*valued_parameters, feature, *parameters])
            while rows := cursor.fetchmany(VECTORS_AT_ONCE):
                kept = [(key, value) for key, value in rows if among is None or key in among]
                yield [key for key, _ in kept], [value for _, value in kept]

    def _read_view(self, config: RepoConfig, read: Read) -> list[Stored]:
        n_keys, n_features = len(read.keys), len(read.requested_features)
        if not n_keys:
            return [Stored([], [])] * n_features
        table = self._table(config, read.table)
        # SQLite keeps the order of a CROSS JOIN, so the rows come key by key, feature by feature;
        # the plus sign keeps the driver from making a datetime of every single event timestamp
        sql = f"""
            with
            asked_key(entity_key) as (values {_placeholders(n_keys)}),
            asked_feature(feature_name) as (values {_placeholders(n_features)})
            select stored.value, +stored.event_ts
            from asked_key
            cross join asked_feature
            left join {sqlite._quote_id(table)} as stored using (entity_key, feature_name)
        """  # noqa: SLF001
        rows = (
            self._get_conn(config).execute(sql, [*read.keys, *read.requested_features]).fetchall()
        )
        return [
            Stored(
                [value for value, _ in rows[feature::n_features]],
                [_of_seconds(seconds) for _, seconds in rows[feature::n_features]],
            )
            for feature in range(n_features)
        ]


def _vector(table: FeatureView) -> Field:
    field = next((field for field in table.features if field.vector_index), None)
    if field is None:
        message = (
            f"view {table.name} has no field with vector_index=True, so no vectors can be searched"
        )
        raise RequestError(message)
    return field


def _is_held(seconds: int, oldest: int) -> bool:
    """Whether an event timestamp is within a time to live that began at Unix nanoseconds."""
    instant = _of_seconds(seconds)
    return instant is not None and _nanoseconds(instant) >= oldest


def _entity_values(key: EntityKey) -> list[Any]:
    return [getattr(value, value.WhichOneof("val")) for value in key.entity_values]


def serialized(instant: datetime) -> bytes:
    r"""Serialize an event timestamp as Feast answers it.

    >>> serialized(datetime(1970, 1, 1, 0, 0, 5, tzinfo=UTC))
    b'\x08\x05'
    """
    timestamp = Timestamp()
    timestamp.FromDatetime(instant)
    return bytes(timestamp.SerializeToString())


def _placeholders(count: int) -> str:
    return ",".join(["(?)"] * count)


@lru_cache(maxsize=1 << 16)
def _of_seconds(seconds: int | None) -> bytes | None:
    """Serialize an SQLite store's event timestamp: the UTC wall clock, kept as if it were local."""
    if seconds is None:
        return None
    wall = timegm(localtime(seconds))
    if wall <= 0:  # protobuf leaves 0 out, and writes what is below it otherwise
        return serialized(datetime.fromtimestamp(wall, UTC))
    return _header(1, wall, VARINT)


@lru_cache(maxsize=1 << 16)
def _nanoseconds(instant: bytes) -> int:
    return int(Timestamp.FromString(instant).ToNanoseconds())


def _asked_of(
    config: RepoConfig, view: FeatureView, keys: Sequence[EntityKey], features: Sequence[str] | None
) -> Asked:
    version = config.entity_key_serialization_version
    names = features or [field.name for field in view.features]
    at = [mark(microseconds(clock.now()))] * len(keys)
    return Asked(view, [serialize_entity_key(key, version) for key in keys], names, at)


def _asked_by(reads: Sequence[Read]) -> list[Asked]:
    """Ask for what is stored of each view, then whether each is there whole."""
    return [
        *(
            Asked(read.table, read.keys, read.requested_features, list(map(mark, read.at)))
            for read in reads
        ),
        *(whether_written(read.table) for read in reads),
    ]


def _compact(found: Sequence[Sequence[Column]]) -> tuple[list[list[Stored]], list[bool]]:
    """Tell the answers apart that `_asked_by` asks for."""
    n_reads = len(found) // 2
    stored = [[Stored(*column) for column in columns] for columns in found[:n_reads]]
    return stored, list(map(is_written, found[n_reads:]))


def _said_by_registry(reads: Sequence[Read]) -> list[bool]:
    """Whether each view was materialized; Feast's layout has no room to say so itself."""
    return [read.table.state in MATERIALIZED for read in reads]


def _rows(
    names: Sequence[str], columns: Sequence[Sequence[Sequence[bytes | None]]]
) -> list[tuple[datetime | None, dict[str, Value] | None]]:
    """Entities as `online_read` gives them."""
    entities = zip(
        *(zip(values, instants, strict=True) for values, instants in columns), strict=True
    )
    return [_row(names, entity) for entity in entities]


def _row(
    features: Sequence[str], entity: Sequence[tuple[bytes | None, bytes | None]]
) -> tuple[datetime | None, dict[str, Value] | None]:
    """One entity as `online_read` returns it."""
    values = {
        name: Value.FromString(value)
        for name, (value, _) in zip(features, entity, strict=True)
        if value is not None
    }
    if not values:
        return None, None
    newest = max((instant for _, instant in entity if instant is not None), key=_nanoseconds)
    return Timestamp.FromString(newest).ToDatetime(tzinfo=UTC), values


def _reads(
    config: RepoConfig,
    grouped_refs: Sequence[tuple[FeatureView, list[str]]],
    join_key_values: Mapping[str, list[Value]],
    entity_name_to_join_key_map: Mapping[str, str],
) -> list[Read]:
    """Resolve what a request asks of each view, every entity once.

    A row with a null in its key gets a key that nothing is stored under.

    Raises RequestError, naming the key, where a view's key is missing.
    """
    reads, asked_at, now = [], _at.get(), clock.now()
    for table, features in grouped_refs:
        refuse_not_online(config, table)
        values = utils._get_table_entity_values(table, entity_name_to_join_key_map, join_key_values)  # noqa: SLF001
        missing = [column.name for column in table.entity_columns if column.name not in values]
        if missing:
            message = f"the rows have no {missing[0]!r}, which view {table.name} needs"
            raise RequestError(message)
        rows = [
            _serialized_key(config, list(values), key) for key in zip(*values.values(), strict=True)
        ]
        at = asked_at or [now] * len(rows)
        reads.append(read_of(table, features, rows, at, is_asked=asked_at is not None))
    return reads


def read_of(
    table: FeatureView,
    features: Sequence[str],
    rows: Sequence[bytes],
    at: Sequence[datetime | None],
    *,
    is_asked: bool,
) -> Read:
    """Ask for features of the rows of a request, by keys and instants, each pair of these once.

    A row without an instant is one without a key.
    """
    if is_asked:
        asked = [
            (NO_ENTITY, 0) if instant is None else (key, microseconds(instant))
            for key, instant in zip(rows, at, strict=True)
        ]
    else:  # all at one instant
        now = microseconds(at[0]) if at and at[0] else 0
        asked = [(key, now) for key in rows]
    pairs = {pair: place for place, pair in enumerate(dict.fromkeys(asked))}
    keys, instants = [key for key, _ in pairs], [instant for _, instant in pairs]
    return Read(table, features, keys, [pairs[pair] for pair in asked], instants, is_asked)


def _serialized_key(config: RepoConfig, names: list[str], values: tuple[Value, ...]) -> bytes:
    if any(value.WhichOneof("val") is None for value in values):
        return NO_ENTITY
    key = EntityKey(join_keys=names, entity_values=values)
    return bytes(serialize_entity_key(key, config.entity_key_serialization_version))


def _asked(
    config: RepoConfig,
    registry: Any,
    project: str,
    features: list[str] | FeatureService,
    rows: Any,
    full_feature_names: bool,  # noqa: FBT001
) -> dict[str, Sequence[Any]]:
    """Return the columns of a request, keys as their types have them.

    Raises RequestError where rows differ in their columns, columns in length, or a key is of
    another kind than its type.
    """
    _, _, join_keys, types, _, grouped, _, needed, _ = utils._get_cached_request_context(  # noqa: SLF001
        registry, project, features, full_feature_names
    )
    if not isinstance(rows, Mapping):
        if any(row.keys() != rows[0].keys() for row in rows):
            message = "all rows must have the same columns"
            raise RequestError(message)
        rows = {
            name: [row[name] for row in rows] for name in (rows[0] if rows else {*types, *needed})
        }
    if any(isinstance(values, str | bytes) for values in rows.values()):
        message = "a request has a list of values for each column, not one text"
        raise RequestError(message)
    columns: dict[str, Sequence[Any]] = {
        name: list(values.val if isinstance(values, RepeatedValue) else values)
        for name, values in rows.items()
    }
    if len(set(map(len, columns.values()))) != 1:
        message = (
            "the rows have no columns"
            if not columns
            else "all columns of a request must have as many values as each other"
        )
        raise RequestError(message)
    lacking = types.keys() - {join_keys.get(name, name) for name in columns} - columns.keys()
    views = [table.name for table, _ in grouped]
    columns = {**columns, **_made_keys(config, views, lacking, columns)}
    typed = {name: types.get(name, types.get(join_keys.get(name))) for name in columns}
    return {
        name: key_values(name, values, kind) if (kind := typed[name]) else values
        for name, values in columns.items()
    }


def _made_keys(
    config: RepoConfig, views: list[str], lacking: set[str], columns: Mapping[str, Sequence[Any]]
) -> Mapping[str, Sequence[Any]]:
    """Make the keys that a text's rows lack by the expressions of the entities that it names.

    Raises RequestError where a text may name several, for Feast answers one value a row.
    """
    named = named_keys(views, lacking, columns, home_in(config))
    if named.of_lists:
        message = (
            f"the rows have no {next(iter(named.of_lists))!r}, of which one text may name several; "
            "give a row for each, or ask by feature_repo.online_features, which answers lists"
        )
        raise RequestError(message)
    return named.keys


@contextmanager
def _asking_at(rows: Mapping[str, Sequence[Any]]) -> Iterator[None]:
    """Let the reads of a request go by its own instants, if it has any.

    Raises RequestError for what is no instant.
    """
    given = rows.get(EVENT_TIMESTAMP)
    try:
        instants = None if given is None else instants_of(given, EVENT_TIMESTAMP).to_pylist()
    except InstantError as error:
        raise RequestError(str(error)) from None
    token = _at.set(instants)
    try:
        yield
    finally:
        _at.reset(token)


def _answers(
    reads: Sequence[Read], found: list[list[Stored]], are_whole: Sequence[bool]
) -> list[list[Stored]]:
    """Give entities of which nothing is stored the values of those of which nothing counts.

    A view that the store does not have whole says nothing of them. Raises `PastError` for an
    instant before that of the entity's row.
    """
    for read, stored in zip(reads, found, strict=True):
        _refuse_past(read, stored)
    answered = [
        _filled(read, stored) if is_whole else stored
        for read, stored, is_whole in zip(reads, found, are_whole, strict=True)
    ]
    for watch in watchers:
        watch(reads, answered)
    return answered


def _refuse_past(read: Read, found: Sequence[Stored]) -> None:
    if not read.is_asked:
        return
    for feature in found:
        for instant, at in zip(feature.instants, read.at, strict=True):
            if instant is not None and _nanoseconds(instant) > at * 1000:
                raise PastError(read.table.name, at, _nanoseconds(instant) // 1000)


def _filled(read: Read, stored: list[Stored]) -> list[Stored]:
    empty = empty_values(read.table, read.requested_features)
    kinds = {
        field.name: field.dtype.to_value_type()
        for field in read.table.features
        if field.name in empty
    }
    return [
        feature.filled(_serialized_number(empty[name], kinds[name]), read.keys)
        if name in empty and None in feature.instants
        else feature
        for name, feature in zip(read.requested_features, stored, strict=True)
    ]


@lru_cache
def _serialized_number(number: int, kind: ValueType) -> bytes:
    (value,) = proto_values([number], kind)
    return bytes(value.SerializeToString())


def _answer(
    reads: Sequence[Read],
    found: Sequence[Sequence[Stored]],
    response: GetOnlineFeaturesResponse,
    full_feature_names: bool,  # noqa: FBT001
    include_feature_view_version_metadata: bool,  # noqa: FBT001
) -> None:
    """Put what was found into a response."""
    for read, stored in zip(reads, found, strict=True):
        at = [read.at[entity] for entity in read.order]
        prefix = f"{read.table.projection.name_to_use()}__" if full_feature_names else ""
        response.metadata.feature_names.val.extend(
            [prefix + name for name in read.requested_features]
        )
        if include_feature_view_version_metadata:
            # Feast adds it beside the features, of which there are none in this call
            utils._populate_response_from_feature_data(  # noqa: SLF001
                [],
                [],
                (),
                response,
                full_feature_names,
                read.table,
                0,
                True,  # noqa: FBT003
            )
        features = [feature.at(read.order) for feature in stored]
        statuses = [_statuses(feature, feature.too_old(read.table, at)) for feature in features]
        response.MergeFromString(_serialized_results(features, statuses))
        n_present = sum(status.count(PRESENT) for status in statuses)
        track_feature_statuses(
            read.table.name, n_present, len(features) * len(read.order) - n_present
        )


def _statuses(stored: Stored, old: set[int]) -> bytes:
    """Whether each value is stored and within its time to live."""
    if not old and None not in stored.values:
        return bytes([PRESENT]) * len(stored.values)
    return bytes(
        NOT_FOUND if value is None else OUTSIDE_MAX_AGE if place in old else PRESENT
        for place, value in enumerate(stored.values)
    )


def _serialized_results(features: Sequence[Stored], statuses: Sequence[bytes]) -> bytes:
    """Serialize a response's vectors: values, statuses and event timestamps, one feature each.

    On the wire a message, and so the packed statuses, follows its tag and its length
    (https://protobuf.dev/programming-guides/encoding/).
    """
    serialized_instants = lru_cache(maxsize=1)(
        partial(_fields, VECTOR.EVENT_TIMESTAMPS_FIELD_NUMBER)
    )  # most often all features have the same
    vectors = []
    for feature, status in zip(features, statuses, strict=True):
        is_present = status.count(PRESENT) == len(status)
        shown = (
            feature.values
            if is_present
            else [
                value if known == PRESENT else None
                for value, known in zip(feature.values, status, strict=True)
            ]
        )
        values = _fields(VECTOR.VALUES_FIELD_NUMBER, shown)
        vectors.append(
            values
            + _fields(VECTOR.STATUSES_FIELD_NUMBER, [status])
            + serialized_instants(feature.instants)
        )
    return _fields(GetOnlineFeaturesResponse.RESULTS_FIELD_NUMBER, vectors)


def _fields(number: int, contents: Sequence[bytes | None]) -> bytes:
    return b"".join(
        [
            _header(number, len(content)) + content if content else _header(number, 0)
            for content in contents
        ]
    )


@lru_cache(maxsize=1 << 16)
def _header(number: int, value: int, wire: int = LENGTH) -> bytes:
    """A field's tag and a varint: its length in bytes, or its value (lowest seven bits first)."""
    header = bytearray([number << 3 | wire])
    while value > 0x7F:  # noqa: PLR2004
        header.append(value & 0x7F | 0x80)
        value >>= 7
    header.append(value)
    return bytes(header)
