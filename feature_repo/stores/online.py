"""Feast's online stores with leaner reads, and the time to live kept: what they have in common, and the one for SQLite.

The bytes at rest are Feast's: writing is inherited, and any Feast client reads what is written here. Reading differs:

- Feast makes four Python objects of every stored value. Here the stored bytes go into the response as they are.
- A value whose event timestamp is older than its view's time to live reads as null with the status OUTSIDE_MAX_AGE, as in
  training (the boundary itself still holds). Feast serves it for ever.
- Only the features asked for are read. Feast's SQLite store reads all of an entity's.
- SQLite finds the nearest vectors by itself. Feast's needs an extension and a Python that may load it.

`online_read` gives what is stored, whatever its age: Feast calls it to precompute vectors, whose age it judges itself.
"""

import sqlite3
from calendar import timegm
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from http import HTTPStatus
from time import localtime, time_ns
from typing import Any, Literal, NamedTuple

from feast import utils
from feast.errors import FeastError
from feast.feature_view import FeatureView
from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key
from feast.infra.online_stores import sqlite
from feast.metrics import track_feature_statuses
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from google.protobuf.timestamp_pb2 import Timestamp

from feature_repo.stores.nearest import nearest
from transforms.errors import MillraceError

PRESENT, NOT_FOUND, OUTSIDE_MAX_AGE = FieldStatus.PRESENT, FieldStatus.NOT_FOUND, FieldStatus.OUTSIDE_MAX_AGE
VECTOR = GetOnlineFeaturesResponse.FeatureVector
MICROSECOND = timedelta(microseconds=1)
CACHE_KIB, MAPPED_BYTES = 65_536, 1 << 30
VECTORS_AT_ONCE = 10_000
VARINT, LENGTH = 0, 2  # protobuf's wire types


class Read(NamedTuple):
    """What is asked of one view: some features of some entities, and which of the entities each row of the answer is."""

    table: FeatureView
    requested_features: Sequence[str]
    keys: Sequence[bytes]
    order: Sequence[int]


class Stored(NamedTuple):
    """One feature as it lies in the store, entity by entity: serialized values and event timestamps, None where there is none."""

    values: Sequence[bytes | None]
    instants: Sequence[bytes | None]

    def at(self, order: Sequence[int]) -> "Stored":
        """The same feature, row by row of an answer."""
        return Stored([self.values[entity] for entity in order], tuple([self.instants[entity] for entity in order]))

    def within(self, table: FeatureView, now: int) -> "Stored":
        """The same feature without the values past the view's time to live."""
        old = self.too_old(table, now)
        if not old:
            return self
        kept = [None if instant in old else value for value, instant in zip(self.values, self.instants, strict=True)]
        return Stored(kept, self.instants)

    def too_old(self, table: FeatureView, now: int) -> set[bytes]:
        """The event timestamps past the view's time to live at an instant, in nanoseconds since 1970; none or 0 is for ever."""
        ttl = getattr(table, "ttl", None)  # an on-demand view that is written online has none
        if not ttl:
            return set()
        oldest = now - ttl // MICROSECOND * 1000
        return {instant for instant in set(self.instants) if instant is not None and _nanoseconds(instant) < oldest}


class NotOnlineError(MillraceError, FeastError):
    """Asked online for a view that is not kept there; the feature server answers with status 422."""

    def http_status_code(self) -> int:
        """Tell the client that the request is at fault."""
        return HTTPStatus.UNPROCESSABLE_ENTITY


def refuse_not_online(view: Any) -> None:
    """Raise `NotOnlineError` for a view that is not online."""
    if not getattr(view, "online", True):
        message = (
            f"{view.name}: is not online in this home; run once with MILLRACE_ONLINE={view.name} to keep it there "
            "(names with commas between; a row a record and feature), or ask for it in a training set"
        )
        raise NotOnlineError(message)


class LeanReads:
    """An online store that serves from the stored bytes; a store adds `read_stored`, and its twin for `await`."""

    def read_stored(self, config: RepoConfig, reads: Sequence[Read]) -> list[list[Stored]]:
        """Read what is stored: for each view, its features in the order asked for."""
        raise NotImplementedError

    async def read_stored_async(self, config: RepoConfig, reads: Sequence[Read]) -> list[list[Stored]]:
        """Read what is stored without blocking, where the store can."""
        raise NotImplementedError

    def _read_features_per_fv(
        self,
        config: RepoConfig,
        grouped_refs: Sequence[tuple[FeatureView, list[str]]],
        join_key_values: Mapping[str, list[Value]],
        entity_name_to_join_key_map: Mapping[str, str],
        *response: Any,
    ) -> None:
        reads = _reads(config, grouped_refs, join_key_values, entity_name_to_join_key_map)
        _answer(reads, self.read_stored(config, reads), *response)

    async def _read_features_per_fv_async(
        self,
        config: RepoConfig,
        grouped_refs: Sequence[tuple[FeatureView, list[str]]],
        join_key_values: Mapping[str, list[Value]],
        entity_name_to_join_key_map: Mapping[str, str],
        *response: Any,
    ) -> None:
        reads = _reads(config, grouped_refs, join_key_values, entity_name_to_join_key_map)
        _answer(reads, await self.read_stored_async(config, reads), *response)


class SqliteOnlineStoreConfig(sqlite.SqliteOnlineStoreConfig):
    """Feast's own settings: `path` of the database, relative to the feature repository or absolute."""

    type: Literal["feature_repo.stores.online.SqliteOnlineStore"] = "feature_repo.stores.online.SqliteOnlineStore"


class SqliteOnlineStore(LeanReads, sqlite.SqliteOnlineStore):
    """Feast's SQLite store, which keeps event timestamps to the second."""

    def _get_conn(self, config: RepoConfig) -> sqlite3.Connection:
        """Open the database as Feast does, with a cache that holds the upper part of its indexes."""
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
        """Read the requested features, all that are stored where none are named; the newest of their event timestamps counts."""
        if not requested_features or not entity_keys:
            found: list[tuple[datetime | None, dict[str, Value] | None]] = super().online_read(
                config, table, entity_keys, requested_features
            )
            return found
        keys = [serialize_entity_key(key, config.entity_key_serialization_version) for key in entity_keys]
        stored = self._read_view(config, Read(table, requested_features, keys, range(len(keys))))
        entities = zip(*(zip(feature.values, feature.instants, strict=True) for feature in stored), strict=True)
        return [_row(requested_features, entity) for entity in entities]

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
        """Find the entities whose vectors are nearest to one, by comparing all; their features, and `distance` beside them.

        They come in the order of their keys: Feast's client pairs distances and keys wrongly in any other. Raises ValueError for
        a search by text or with filters.
        """
        refuse_not_online(table)
        if embedding is None or query_string is not None or filters is not None:
            message = f"view {table.name}: this store searches by vector only, without text and filters"
            raise ValueError(message)
        vector = next(field for field in table.features if field.vector_index)
        found = dict(nearest(self._vectors(config, table, vector.name), embedding, top_k, distance_metric or "L2"))
        keys = {key: deserialize_entity_key(key, config.entity_key_serialization_version) for key in found}
        rows = self.online_read(config, table, list(keys.values()), list(requested_features) or [vector.name])
        documents = [
            (instant, entity, {**(values or {}), "distance": Value(float_val=found[key])})
            for (key, entity), (instant, values) in zip(keys.items(), rows, strict=True)
        ]
        return sorted(documents, key=lambda document: _entity_values(document[1]))

    def _vectors(self, config: RepoConfig, table: FeatureView, feature: str) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """Read all vectors of a view that are there and within its time to live, some at a time."""
        name = sqlite._table_id(config.project, table, config.registry.enable_online_feature_view_versioning)  # noqa: SLF001
        sql = f"select entity_key, value, +event_ts from {sqlite._quote_id(name)} where feature_name = ? and length(value) > 0"  # noqa: SLF001
        cursor = self._get_conn(config).execute(sql, [feature])
        while rows := cursor.fetchmany(VECTORS_AT_ONCE):
            stored = Stored([value for _, value, _ in rows], [_of_seconds(seconds) for _, _, seconds in rows]).within(table, time_ns())
            kept = [(key, value) for (key, _, _), value in zip(rows, stored.values, strict=True) if value is not None]
            yield [key for key, _ in kept], [value for _, value in kept]

    def _read_view(self, config: RepoConfig, read: Read) -> list[Stored]:
        n_keys, n_features = len(read.keys), len(read.requested_features)
        if not n_keys:
            return [Stored([], [])] * n_features
        table = sqlite._table_id(config.project, read.table, config.registry.enable_online_feature_view_versioning)  # noqa: SLF001
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
        rows = self._get_conn(config).execute(sql, [*read.keys, *read.requested_features]).fetchall()
        return [
            Stored([value for value, _ in rows[feature::n_features]], [_of_seconds(seconds) for _, seconds in rows[feature::n_features]])
            for feature in range(n_features)
        ]


def _entity_values(key: EntityKey) -> list[Any]:
    return [getattr(value, value.WhichOneof("val")) for value in key.entity_values]


def serialized(instant: datetime) -> bytes:
    """Serialize an event timestamp as Feast answers it."""
    timestamp = Timestamp()
    timestamp.FromDatetime(instant)
    return bytes(timestamp.SerializeToString())


def _placeholders(count: int) -> str:
    return ",".join(["(?)"] * count)


@lru_cache(maxsize=1 << 16)
def _of_seconds(seconds: int | None) -> bytes | None:
    """Serialize an event timestamp of the SQLite store, which keeps the UTC wall clock as if it were the machine's own."""
    if seconds is None:
        return None
    wall = timegm(localtime(seconds))
    if wall <= 0:  # protobuf leaves 0 out, and writes what is below it otherwise
        return serialized(datetime.fromtimestamp(wall, UTC))
    return _header(1, wall, VARINT)


@lru_cache(maxsize=1 << 16)
def _nanoseconds(instant: bytes) -> int:
    return int(Timestamp.FromString(instant).ToNanoseconds())


def _row(features: Sequence[str], entity: Sequence[tuple[bytes | None, bytes | None]]) -> tuple[datetime | None, dict[str, Value] | None]:
    """One entity as `online_read` gives it."""
    values = {name: Value.FromString(value) for name, (value, _) in zip(features, entity, strict=True) if value is not None}
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
    """Resolve what a request asks of each view, every entity once."""
    reads = []
    for table, features in grouped_refs:
        refuse_not_online(table)
        entities, rows_of, n_rows = utils._get_unique_entities(table, join_key_values, entity_name_to_join_key_map)  # noqa: SLF001
        protos = utils._get_entity_key_protos(entities)  # noqa: SLF001
        order = [0] * n_rows
        for entity, rows in enumerate(rows_of):
            for row in rows:
                order[row] = entity
        keys = [serialize_entity_key(key, config.entity_key_serialization_version) for key in protos]
        reads.append(Read(table, features, keys, order))
    return reads


def _answer(
    reads: Sequence[Read],
    found: Sequence[Sequence[Stored]],
    response: GetOnlineFeaturesResponse,
    full_feature_names: bool,  # noqa: FBT001
    include_feature_view_version_metadata: bool,  # noqa: FBT001
) -> None:
    """Put what was found into a response."""
    now = time_ns()
    for read, stored in zip(reads, found, strict=True):
        prefix = f"{read.table.projection.name_to_use()}__" if full_feature_names else ""
        response.metadata.feature_names.val.extend([prefix + name for name in read.requested_features])
        if include_feature_view_version_metadata:  # Feast adds it beside the features, of which there are none in this call
            utils._populate_response_from_feature_data([], [], (), response, full_feature_names, read.table, 0, True)  # noqa: FBT003, SLF001
        features = [feature.at(read.order) for feature in stored]
        statuses = [_statuses(feature, feature.too_old(read.table, now)) for feature in features]
        response.MergeFromString(_serialized_results(features, statuses))
        n_present = sum(status.count(PRESENT) for status in statuses)
        track_feature_statuses(read.table.name, n_present, len(features) * len(read.order) - n_present)


def _statuses(stored: Stored, old: set[bytes]) -> bytes:
    """Tell of each value whether it is there and within its time to live."""
    if not old and None not in stored.values:
        return bytes([PRESENT]) * len(stored.values)
    return bytes(
        NOT_FOUND if value is None else OUTSIDE_MAX_AGE if instant in old else PRESENT
        for value, instant in zip(stored.values, stored.instants, strict=True)
    )


def _serialized_results(features: Sequence[Stored], statuses: Sequence[bytes]) -> bytes:
    """Serialize a response's vectors, each the values, the statuses and the event timestamps of one feature.

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
            else [value if known == PRESENT else None for value, known in zip(feature.values, status, strict=True)]
        )
        values = _fields(VECTOR.VALUES_FIELD_NUMBER, shown)
        vectors.append(values + _fields(VECTOR.STATUSES_FIELD_NUMBER, [status]) + serialized_instants(feature.instants))
    return _fields(GetOnlineFeaturesResponse.RESULTS_FIELD_NUMBER, vectors)


def _fields(number: int, contents: Sequence[bytes | None]) -> bytes:
    return b"".join([_header(number, len(content)) + content if content else _header(number, 0) for content in contents])


@lru_cache(maxsize=1 << 16)
def _header(number: int, value: int, wire: int = LENGTH) -> bytes:
    """A field's tag and a number: the length of its bytes, or its value; seven bits a byte, the lowest first."""
    header = bytearray([number << 3 | wire])
    while value > 0x7F:  # noqa: PLR2004
        header.append(value & 0x7F | 0x80)
        value >>= 7
    header.append(value)
    return bytes(header)
