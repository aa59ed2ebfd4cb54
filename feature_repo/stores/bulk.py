"""Rows into Feast's online stores, by one guarded writer for materializations, pushes and requests.

SQLite, Redis and Postgres are written by column, any other store through Feast's own writer. An
empty store then contains, byte for byte, what Feast's writer would have put there. Beyond that
an older value never overwrites a newer one, and the same value may be written again. What to write,
and when, does not belong here.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.feature_view import FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3, compute_table_id, compute_versioned_name
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from feast.type_map import PROTO_VALUE_TO_VALUE_TYPE_MAP
from feast.utils import _convert_arrow_to_proto, _validate_vector_field_lengths, to_naive_utc
from feast.value_type import ValueType

from feature_repo.stores.codec import (
    decode_values,
    encode_entity_keys,
    encode_instants,
    encode_values,
    fixed,
    joined,
    row_bytes,
)
from feature_repo.stores.coming import Coming
from feature_repo.stores.compact import Column

Write: TypeAlias = Callable[[pa.RecordBatch], int]
Row: TypeAlias = tuple[
    EntityKey, dict[str, Value], datetime, datetime | None
]  # an entity as Feast hands it to an online store
WriteBatch: TypeAlias = Callable[["Batch"], int]
Instants: TypeAlias = npt.NDArray[np.datetime64]

TEXT_TYPES = {
    ValueType.STRING,
    ValueType.INT32,
    ValueType.INT64,
    ValueType.DOUBLE,
    ValueType.FLOAT,
    ValueType.BOOL,
}
SQLITE_WAIT_SECONDS = 60  # for another writer's batch
SQLITE_CACHE_KIB = 65_536
ENTITIES_A_READ = 500
ENTITIES_A_CALL = 50  # Redis answers nobody else during one call
CALLS_IN_FLIGHT = 20
ENTITIES_A_PIECE = 5_000
POSTGRES_EPOCH = np.datetime64("2000-01-01", "us")

_told: set[type] = set()


class Asked(NamedTuple):
    """Features that are asked for of entities of a view, each at an instant, a `mark`."""

    view: FeatureView
    keys: Sequence[bytes]
    names: Sequence[str]
    at: Sequence[bytes]


class Batch(NamedTuple):
    """A batch for the stores, sorted by key: neighbours in an index are written together."""

    keys: pa.LargeBinaryArray
    event: Instants  # NaT: the entity's first row is to come
    created: Instants  # NaT: not known
    features: Mapping[str, pa.LargeBinaryArray]
    types: Mapping[str, ValueType]
    coming: Coming | None = None  # None: the writer does not know

    def take(self, rows: npt.NDArray[np.int64]) -> "Batch":
        """Some rows, in the order given."""
        features = {name: values.take(pa.array(rows)) for name, values in self.features.items()}
        return Batch(
            self.keys.take(pa.array(rows)),
            self.event[rows],
            self.created[rows],
            features,
            self.types,
        )

    def at(self, places: pa.Array) -> "Batch":
        """The rows at places; where there is none, no row: NaT, and nothing for features."""
        rows = places.fill_null(0).to_numpy()
        is_there = places.is_valid()
        never = np.full(len(rows), "NaT", "datetime64[us]")
        event, created = (
            np.where(is_there.to_numpy(zero_copy_only=False), times[rows], never)
            if len(times)
            else never
            for times in (self.event, self.created)
        )
        features = {
            name: values.take(places).fill_null(b"") for name, values in self.features.items()
        }
        return Batch(self.keys.take(places), event, created, features, self.types)

    def newest(self) -> "Batch":
        """Sort by key, one row an entity: newest first, then last created, then last given."""
        order = pc.sort_indices(self.keys).to_numpy()
        keys = self.keys.take(pa.array(order))
        is_last = np.append(
            pc.not_equal(keys[:-1], keys[1:]).to_numpy(zero_copy_only=False),
            [True] * (len(keys) > 0),
        ).astype(np.bool_)
        if not is_last.all():
            entity = np.empty(len(keys), np.int64)
            entity[order] = np.cumsum(is_last) - is_last  # the same number in all rows of an entity
            created = np.where(
                np.isnat(self.created), np.iinfo(np.int64).min, self.created.astype(np.int64)
            )
            order = np.lexsort((created, self.event, entity))  # keeps what is equal in its order
        return self.take(order[is_last])


class GuardedWrites:
    """An online store in which no row, whichever way it comes, overwrites a newer one."""

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: Sequence[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows, all or none in SQLite and Postgres.

        Leave out those older than what is stored.
        """
        self.write_rows(config, table, data)
        if progress:
            progress(len(data))

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: Sequence[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows by a thread of their own."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    def write_rows(self, config: RepoConfig, table: FeatureView, data: Sequence[Row]) -> int:
        """Write rows as `online_write_batch` does; returns the number of entities written."""
        store: Any = self
        if _unfit(config, store):
            return _write_fresh(config, store, table, data, super())
        with _opened(config, store, table) as write_batch:
            return sum(write_batch(batch) for batch in _batches(table, data))


@contextmanager
def bulk_writer(
    config: RepoConfig,
    online_store: OnlineStore,
    view: FeatureView,
    until: datetime | None = None,
) -> Iterator[Write]:
    """Open a view's online table for writing; `write(rows)` returns the number of entities written.

    `rows` has one row an entity: the view's join keys and features, and its batch source's
    timestamps. With `until`, which needs the compact layout, it also has all rows of the entities
    that come after that instant, one an instant. An entity that the store knows more newly is left
    out. A batch that fails is not written in part in SQLite and Postgres, raises, and leaves the
    writer usable. Raises ValueError naming view and column where a value does not fit its type.
    """
    reason = _unfit(config, online_store)
    if reason and type(online_store) not in _told:
        _told.add(type(online_store))
        logging.getLogger(__name__).warning(
            "%s: written through Feast's own writer, slowly: %s",
            type(online_store).__name__,
            reason,
        )
    if reason:
        yield (
            lambda rows: _write_with_feast(config, online_store, view, rows) if rows.num_rows else 0
        )
        return
    with _opened(config, online_store, view) as write:
        yield lambda rows: write(_encode(view, rows, until)) if rows.num_rows else 0


class Layout(Protocol):
    """How a store of ours keeps values in another layout than Feast's."""

    def update(self, dropped: Sequence[FeatureView], kept: Sequence[FeatureView]) -> None:
        """Make room for views, and delete what the store has of others."""

    def clear(self, views: Sequence[FeatureView]) -> None:
        """Delete what the store has of views in this layout, where Feast's is the one in use."""

    def writer(self, view: FeatureView) -> AbstractContextManager[WriteBatch]:
        """Open a view for writing."""

    def read(self, reads: Sequence[Asked]) -> list[list[Column]]:
        """Read features of entities of views."""

    async def read_async(self, reads: Sequence[Asked]) -> list[list[Column]]:
        """Read as `read` does, without blocking."""

    def delete(self, view: FeatureView, keys: Sequence[bytes]) -> None:
        """Delete what a view has of entities."""

    def expire(self, view: FeatureView, oldest: datetime) -> None:
        """Delete the entities of a view whose last row, be it to come, is before an instant."""


def layout_of(config: RepoConfig, online_store: Any) -> Layout | None:
    """The layout in which a store keeps values; None for Feast's.

    Raises ValueError where the settings allow no other than Feast's.
    """
    if getattr(config.online_store, "layout", "feast") == "feast":
        return None
    if reason := _unfit(config, online_store):
        message = f"online_store: layout: compact: {reason}; say `layout: feast`"
        raise ValueError(message)
    layout: Layout = online_store.compact(config)
    return layout


def _opened(
    config: RepoConfig, online_store: OnlineStore, view: FeatureView
) -> AbstractContextManager[WriteBatch]:
    if layout := layout_of(config, online_store):
        return layout.writer(view)
    return WRITERS[_writer_class(online_store)](config, online_store, view)


def _unfit(config: RepoConfig, online_store: OnlineStore) -> str:
    """Say why there is no fast path; nothing where there is one."""
    settings = config.online_store
    if _writer_class(online_store) not in WRITERS:
        return "there is no writer by column for this store"
    if config.entity_key_serialization_version != 3:  # noqa: PLR2004 - Feast's own number
        return "entity_key_serialization_version is not 3"
    for option in ("vector_enabled", "enable_openai_compatible_store"):
        if getattr(settings, option, False):
            return f"{option} adds columns"
    return (
        "a cluster needs a connection a slot"
        if getattr(settings, "redis_type", "") == "redis_cluster"
        else ""
    )


def _writer_class(online_store: OnlineStore) -> str:
    """Name the class whose `online_write_batch` a store uses.

    A subclass with a writer of its own is another store.
    """
    owner = next(
        kind
        for kind in type(online_store).__mro__
        if "online_write_batch" in vars(kind) and kind is not GuardedWrites
    )
    return f"{owner.__module__}.{owner.__qualname__}"


def _batches(view: FeatureView, data: Sequence[Row]) -> Iterator[Batch]:
    """Turn rows of Feast's into batches, one for each set of features that some of them have."""
    widths: dict[tuple[str, ...], list[Row]] = {}
    for row in data:
        widths.setdefault(tuple(row[1]), []).append(row)
    for names, rows in widths.items():
        keys, values, events, created = zip(*rows, strict=True)
        _refuse_nulls(view, keys, events)
        features = {name: [row[name] for row in values] for name in names}
        yield Batch(
            pa.array([serialize_entity_key(key, 3) for key in keys], pa.large_binary()),
            np.array([to_naive_utc(instant) for instant in events], "datetime64[us]"),
            np.array([instant and to_naive_utc(instant) for instant in created], "datetime64[us]"),
            {
                name: pa.array([value.SerializeToString() for value in column], pa.large_binary())
                for name, column in features.items()
            },
            {name: _type_of(column) for name, column in features.items()},
        ).newest()


def _refuse_nulls(view: FeatureView, keys: Sequence[EntityKey], events: Sequence[datetime]) -> None:
    n_null = sum(
        any(value.WhichOneof("val") is None for value in key.entity_values) for key in keys
    )
    if n_null:
        message = f"view {view.name}: {n_null} of {len(keys)} entity keys are null"
        raise ValueError(message)
    if any(pd.isna(instant) for instant in events):
        message = (
            f"view {view.name}: column {view.batch_source.timestamp_field!r} has null instants"
        )
        raise ValueError(message)


def _type_of(values: Sequence[Value]) -> ValueType:
    kind = next((kind for value in values if (kind := value.WhichOneof("val"))), "")
    return PROTO_VALUE_TO_VALUE_TYPE_MAP.get(
        kind, ValueType.UNKNOWN
    )  # Feast has forgotten zoned timestamps there


def _encode(view: FeatureView, rows: pa.RecordBatch, until: datetime | None) -> Batch:
    _validate_vector_field_lengths(rows, view)
    source = view.batch_source
    types = {feature.name: feature.dtype.to_value_type() for feature in view.features}
    event = read_instants(_column(view, rows, source.timestamp_field))
    if np.isnat(event).any():
        message = f"view {view.name}: column {source.timestamp_field!r} has null instants"
        raise ValueError(message)
    created = source.created_timestamp_column
    known = (
        read_instants(_column(view, rows, created))
        if created
        else np.full(len(event), "NaT", "datetime64[us]")
    )
    keys = _entity_keys(view, rows)
    values = {name: _values(view, rows, name, kind) for name, kind in types.items()}
    batch = Batch(keys, event, known, values, types)
    return batch.newest() if until is None else _split(batch, to_naive_utc(until))


def _split(rows: Batch, until: datetime) -> Batch:
    """Take each entity's row in effect at an instant, and its rows after that as those to come."""
    is_coming = rows.event > np.datetime64(until, "us")
    current = rows.take(np.flatnonzero(~is_coming)).newest()
    later = rows.take(np.flatnonzero(is_coming))
    keys = pc.unique(pa.concat_arrays([current.keys, later.keys]))
    keys = keys.take(pc.sort_indices(keys))
    entity = pc.index_in(later.keys, keys).to_numpy()
    later = later.take(np.lexsort((later.event, entity)))
    counts = np.bincount(entity, minlength=len(keys))
    coming = Coming(counts, later.event, later.features)
    if len(keys) == len(current.keys):
        return current._replace(coming=coming)
    return current.at(pc.index_in(keys, current.keys))._replace(keys=keys, coming=coming)


def _join_keys(view: FeatureView) -> dict[str, ValueType]:
    return {entity.name: entity.dtype.to_value_type() for entity in view.entity_columns}


def _entity_keys(view: FeatureView, rows: pa.RecordBatch) -> pa.LargeBinaryArray:
    keys = _join_keys(view)
    columns = pa.table({name: _column(view, rows, name) for name in keys})
    try:
        return encode_entity_keys(columns if keys else rows, keys)
    except ValueError as error:
        message = f"view {view.name}: {error}"
        raise ValueError(message) from error


def _values(
    view: FeatureView, rows: pa.RecordBatch, name: str, value_type: ValueType
) -> pa.LargeBinaryArray:
    column = _column(view, rows, name)
    try:
        return encode_values(column, value_type)
    except Exception as error:  # Feast refuses with any kind of error
        message = (
            f"view {view.name}: column {name!r} ({column.type}) does not fit its type "
            f"{value_type.name}: {error}"
        )
        raise ValueError(message) from error


def _column(view: FeatureView, rows: pa.RecordBatch, name: str) -> pa.Array:
    if name not in rows.schema.names:
        message = (
            f"view {view.name}: the rows have no column {name!r}; they have "
            f"{', '.join(rows.schema.names)}"
        )
        raise ValueError(message)
    return rows.column(name)


def read_instants(column: pa.Array) -> Instants:
    """Read instants as Feast does: naive is UTC, nanoseconds are cut off."""
    if pa.types.is_timestamp(column.type) and column.type.unit == "us":  # as our own tables have
        return np.asarray(
            column.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False), "datetime64[us]"
        )
    instants = pd.to_datetime(column.to_numpy(zero_copy_only=False), utc=True)
    return np.asarray(instants.tz_localize(None), "datetime64[us]")


def texts(values: list[bytes], value_type: ValueType) -> list[str | None]:
    """Return the text that SQL stores keep beside a value, as Feast's `extract_text_and_num`."""
    if value_type not in TEXT_TYPES:
        return [None] * len(values)
    return [None if value is None else str(value) for value in decode_values(values, value_type)]


# SQLite


@contextmanager
def _sqlite_writer(
    config: RepoConfig, online_store: Any, view: FeatureView
) -> Iterator[WriteBatch]:
    # its own connection: Feast's is shared with readers, who would see half a batch
    connection = sqlite3.connect(
        online_store._get_db_path(config),  # noqa: SLF001
        SQLITE_WAIT_SECONDS,
        isolation_level=None,
    )
    try:
        with readers_go_on(connection):
            yield partial(_write_sqlite, connection, _table(config, view))
    finally:
        connection.close()


@contextmanager
def readers_go_on(connection: sqlite3.Connection) -> Iterator[None]:
    """Write ahead into a log, so that no reader waits or fails.

    Afterwards the journal is what it was.
    """
    journal = connection.execute("pragma journal_mode").fetchone()[0]
    for pragma in (
        "journal_mode = wal",
        "synchronous = normal",
        f"cache_size = -{SQLITE_CACHE_KIB}",
    ):
        connection.execute(f"pragma {pragma}")
    try:
        yield
    finally:
        connection.execute("pragma busy_timeout = 0")
        # a connection that has the file open keeps it in this mode, which every SQLite can read
        with suppress(sqlite3.OperationalError):
            connection.execute(f"pragma journal_mode = {journal}")


def _write_sqlite(connection: sqlite3.Connection, table: str, batch: Batch) -> int:
    # instants stay datetimes: Feast's adapter writes them as its own writer would (local time,
    # whole seconds)
    shared = [batch.keys.to_pylist(), batch.event.tolist(), batch.created.tolist()]
    width = (connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) - len(shared)) // 2
    names = sorted(batch.features)  # the order of the index
    written = np.zeros(len(batch.keys), np.bool_)
    with connection:
        connection.execute("begin immediate")
        for first in range(0, len(names), width):
            some = names[first : first + width]
            statement = _sqlite_statement(
                table, [_sqlite_literal(connection, name) for name in some]
            )
            columns = [column for name in some for column in _sqlite_columns(batch, name)]
            written |= [
                connection.execute(statement, row).rowcount > 0
                for row in zip(*shared, *columns, strict=True)
            ]
    return int(written.sum())


def _sqlite_columns(batch: Batch, name: str) -> tuple[list[bytes], list[str | None]]:
    values = batch.features[name].to_pylist()
    return values, texts(values, batch.types[name])


def _sqlite_literal(connection: sqlite3.Connection, name: str) -> str:
    return str(connection.execute("select quote(?)", [name]).fetchone()[0])


def _sqlite_statement(table: str, names: list[str]) -> str:
    """Compose the upsert of one entity: key and instants are bound once, features are literals."""
    rows = ", ".join(
        f"(?1, {name}, ?{place}, ?{place + 1}, ?2, ?3)"
        for place, name in zip(count(4, 2), names, strict=False)
    )
    never = -(2**63)
    return f"""
        insert into "{table}" as stored (
            entity_key, feature_name, value, value_text, event_ts, created_ts
        )
        values {rows}
        on conflict (entity_key, feature_name) do update set
            value = excluded.value, value_text = excluded.value_text,
            event_ts = excluded.event_ts, created_ts = excluded.created_ts
        where (stored.event_ts, coalesce(stored.created_ts, {never}))
            <= (excluded.event_ts, coalesce(excluded.created_ts, {never}))
    """


# Redis

# KEYS: entities. ARGV: seconds to live (0: for ever), fields of a hash, their names (the instant's
# first), each entity's values.
WRITE_UNLESS_NEWER = """
local function instant(bytes)  -- of a serialized Timestamp: {seconds, nanoseconds}
  local found, place = {0, 0}, 1
  while place <= #bytes do
    local field = math.floor(bytes:byte(place) / 8)
    local value, inverse, scale = 0, 0, 1
    repeat
      place = place + 1
      local byte = bytes:byte(place)
      value = value + byte % 128 * scale
      if scale < 2 ^ 63 then inverse = inverse + (127 - byte % 128) * scale end
      scale = scale * 128
    until byte < 128
    found[field] = scale > 2 ^ 63 and -inverse - 1 or value  -- ten bytes: before 1970
    place = place + 1
  end
  return found
end
local function is_newer(stored, given)
  if stored == given then return false end
  stored, given = instant(stored), instant(given)
  return stored[1] > given[1] or stored[1] == given[1] and stored[2] > given[2]
end
local seconds_to_live, fields, written = tonumber(ARGV[1]), tonumber(ARGV[2]), 0
for entity, key in ipairs(KEYS) do
  local first = 2 + entity * fields
  local stored = redis.call('HGET', key, ARGV[3])
  if not (stored and is_newer(stored, ARGV[first + 1])) then
    local content = {}
    for field = 1, fields do
      content[2 * field - 1] = ARGV[2 + field]
      content[2 * field] = ARGV[first + field]
    end
    for start = 1, #content, 2000 do  -- Lua unpacks some thousands at most
      redis.call('HSET', key, unpack(content, start, math.min(start + 1999, #content)))
    end
    if seconds_to_live > 0 then redis.call('EXPIRE', key, seconds_to_live) end
    written = written + 1
  end
end
return written
"""


class RedisCall(NamedTuple):
    """What all calls of a script share.

    Its digest, what follows the keys, as bytes and counted, and how many values an entity has.
    """

    digest: bytes
    constant: bytes
    n_constant: int
    n_values: int

    def head(self, entities: int) -> bytes:
        """Begin a call: the number of its arguments, and those before the keys."""
        arguments = 3 + entities + self.n_constant + entities * self.n_values
        return b"*%d\r\n" % arguments + bulk_strings(b"EVALSHA", self.digest, b"%d" % entities)


@contextmanager
def _redis_writer(config: RepoConfig, online_store: Any, view: FeatureView) -> Iterator[WriteBatch]:
    client = online_store._get_client(config.online_store)  # noqa: SLF001
    digest = client.script_load(WRITE_UNLESS_NEWER).encode()
    name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
    connection = client.connection_pool.get_connection()

    def write(batch: Batch) -> int:
        fields = [
            f"_ts:{name}".encode(),
            *(_mmh3(f"{name}:{feature}") for feature in batch.features),
        ]
        numbers = (config.online_store.key_ttl_seconds or 0, len(fields))
        constant = bulk_strings(*(b"%d" % number for number in numbers), *fields)
        call = RedisCall(digest, constant, len(numbers) + len(fields), len(fields))
        values = [encode_instants(batch.event.astype(np.int64)), *batch.features.values()]
        return call_redis(connection, call, redis_keys(batch, config.project), values)

    try:
        yield write
    finally:
        client.connection_pool.release(connection)


def redis_keys(batch: Batch, project: str) -> pa.LargeBinaryArray:
    """Name the hashes of entities."""
    return joined(batch.keys, pa.scalar(project.encode(), pa.large_binary()))


def call_redis(
    connection: Any,
    call: RedisCall,
    of_entities: pa.LargeBinaryArray,
    columns: Sequence[pa.LargeBinaryArray],
) -> int:
    """Call a script with some entities at a time.

    Redis-py's own packing of the arguments would take most of the time.
    """
    keys, values = _bulk_columns(of_entities), _bulk_columns(*columns)
    left, written = len(of_entities), 0
    try:
        for first in range(0, len(keys), CALLS_IN_FLIGHT):
            calls = list(
                zip(
                    keys[first : first + CALLS_IN_FLIGHT],
                    values[first : first + CALLS_IN_FLIGHT],
                    strict=True,
                )
            )
            for some_keys, some_values in calls:
                head = call.head(min(left, ENTITIES_A_CALL))
                connection.send_packed_command(
                    [b"".join((head, some_keys, call.constant, some_values))]
                )
                left -= ENTITIES_A_CALL
            written += sum(connection.read_response() for _ in calls)
    except BaseException:
        connection.disconnect()  # answers may be left on it; the next batch connects again
        raise
    return written


def bulk_strings(*values: bytes) -> bytes:
    """Write values as Redis's protocol has them."""
    return b"".join(b"$%d\r\n%b\r\n" % (len(value), value) for value in values)


def _bulk_columns(*columns: pa.LargeBinaryArray) -> list[memoryview]:
    """Write columns as Redis's protocol has them, row after row, the rows of each call together."""
    line_end, dollar = (pa.scalar(text, pa.large_binary()) for text in (b"\r\n", b"$"))
    lengths = [
        pc.binary_length(column).cast(pa.large_string()).cast(pa.large_binary())
        for column in columns
    ]
    parts = [
        part
        for column, length in zip(columns, lengths, strict=True)
        for part in (dollar, length, line_end, column, line_end)
    ]
    rows = joined(*parts)
    return [
        row_bytes(rows.slice(first, ENTITIES_A_CALL))
        for first in range(0, len(rows), ENTITIES_A_CALL)
    ]


# Postgres

STAGE = """
    create temporary table staged (
        entity_key bytea, feature_name text, value bytea, value_text text,
        event_ts timestamp, created_ts timestamp
    ) on commit drop
"""
POSTGRES_COLUMNS = "(entity_key, feature_name, value, value_text, event_ts, created_ts)"
STORED_KEYS = """
    select given.entity_key from unnest(%b::bytea[]) as given (entity_key)
    where exists (select from {table} as stored where stored.entity_key = given.entity_key)
"""
UPSERT = """
    with written as (
        insert into {table} as stored {columns}
        select * from staged
        on conflict (entity_key, feature_name) do update set
            value = excluded.value, value_text = excluded.value_text,
            event_ts = excluded.event_ts, created_ts = excluded.created_ts
        where (stored.event_ts, coalesce(stored.created_ts, '-infinity'))
            <= (excluded.event_ts, coalesce(excluded.created_ts, '-infinity'))
        returning stored.entity_key
    )
    select count(distinct entity_key) from written
"""


@contextmanager
def _postgres_writer(config: RepoConfig, _: OnlineStore, view: FeatureView) -> Iterator[WriteBatch]:
    from feast.infra.utils.postgres.connection_utils import _get_conn

    with _get_conn(config.online_store) as connection:  # its own: Feast's is shared with readers
        yield partial(_write_postgres, connection, _table(config, view))


def _write_postgres(connection: Any, table: str, batch: Batch) -> int:
    """Copy new entities straight into the table, in half the time of an upsert; upsert the others.

    Feast hands over naive instants, which the session's time zone makes absolute. A straight copy
    would not do that, so it is for sessions in UTC.
    """
    from psycopg import errors

    try:
        with connection.transaction(), connection.cursor() as cursor:
            stored = (
                _stored_keys(cursor, table, batch)
                if connection.info.timezone.utcoffset(None) == timedelta(0)
                else batch.keys
            )
            is_stored = pc.is_in(batch.keys, stored).to_numpy(zero_copy_only=False)
            new = batch.take(np.flatnonzero(~is_stored))
            _copy(cursor, table, new)
            return len(new.keys) + _upsert(cursor, table, batch.take(np.flatnonzero(is_stored)))
    except errors.UniqueViolation:  # another writer has just stored one of the new ones
        with connection.transaction(), connection.cursor() as cursor:
            return _upsert(cursor, table, batch)


def _stored_keys(cursor: Any, table: str, batch: Batch) -> pa.LargeBinaryArray:
    cursor.execute(_sql(STORED_KEYS, table), [batch.keys.to_pylist()])
    return pa.array([key for (key,) in cursor.fetchall()], pa.large_binary())


def _upsert(cursor: Any, table: str, batch: Batch) -> int:
    if not len(batch.keys):
        return 0
    cursor.execute(STAGE)
    _copy(cursor, "staged", batch)
    cursor.execute(_sql(UPSERT, table))
    return int(cursor.fetchone()[0])


def _copy(cursor: Any, table: str, batch: Batch) -> None:
    """Copy in pieces: the server takes one in while the next is encoded."""
    with cursor.copy(_sql("copy {table} {columns} from stdin (format binary)", table)) as copy:
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
        for first in range(0, len(batch.keys), ENTITIES_A_PIECE):
            copy.write(
                _postgres_rows(
                    batch.take(np.arange(first, min(first + ENTITIES_A_PIECE, len(batch.keys))))
                )
            )
        copy.write(b"\xff\xff")


def _sql(statement: str, table: str) -> Any:
    from psycopg import sql

    return sql.SQL(statement).format(table=sql.Identifier(table), columns=sql.SQL(POSTGRES_COLUMNS))


def _postgres_rows(batch: Batch) -> memoryview:
    """Write a batch in Postgres's binary copy format, a row for each entity and feature."""
    width = pa.scalar((6).to_bytes(2), pa.large_binary())
    key, event, created = (
        postgres_fields(column)
        for column in (batch.keys, *map(_postgres_instants, (batch.event, batch.created)))
    )
    parts: list[Any] = []
    for name in sorted(batch.features):
        as_text = pa.array(
            texts(batch.features[name].to_pylist(), batch.types[name]), pa.large_string()
        )
        given_name = pa.scalar(len(name.encode()).to_bytes(4) + name.encode(), pa.large_binary())
        value, text = (
            postgres_fields(batch.features[name]),
            postgres_fields(as_text.cast(pa.large_binary())),
        )
        parts += [width, *key, given_name, *value, *text, *event, *created]
    return row_bytes(joined(*parts))


def postgres_fields(
    column: pa.LargeBinaryArray,
) -> tuple[pa.LargeBinaryArray, pa.LargeBinaryArray]:
    """Write each value's length, -1 for null, and its bytes."""
    lengths = pc.binary_length(column).fill_null(-1).to_numpy().astype(">i4")
    return fixed(b"", lengths, np.ones(len(lengths), np.bool_)), column.fill_null(b"")


def _postgres_instants(instants: Instants) -> pa.LargeBinaryArray:
    known = ~np.isnat(instants)
    encoded = fixed(b"", (instants - POSTGRES_EPOCH).astype(np.int64).astype(">i8"), known)
    return pc.if_else(pa.array(known), encoded, pa.scalar(None, pa.large_binary()))


# any other store


def _write_with_feast(
    config: RepoConfig, online_store: OnlineStore, view: FeatureView, rows: pa.RecordBatch
) -> int:
    """Write by Feast's own means, without the entities that the store knows more newly."""
    given = _convert_arrow_to_proto(rows, view, _join_keys(view))
    if getattr(config.online_store, "vector_enabled", False):
        _fill_vectors(view, given)
    return _write_fresh(config, online_store, view, given, online_store)


def _write_fresh(
    config: RepoConfig,
    online_store: OnlineStore,
    view: FeatureView,
    given: Sequence[Row],
    writer: Any,
) -> int:
    """Have Feast's own writer write each entity's newest row, unless the store has a newer one."""
    features, newest = [feature.name for feature in view.features], dict[bytes, Row]()
    for row in given:
        key = row[0].SerializeToString(deterministic=True)
        if key not in newest or _instants_of(newest[key]) <= _instants_of(row):
            newest[key] = row
    rows, fresh = list(newest.values()), list[Row]()
    for first in range(0, len(rows), ENTITIES_A_READ):
        some = rows[first : first + ENTITIES_A_READ]
        stored = online_store.online_read(config, view, [row[0] for row in some], features)
        fresh += [
            row
            for row, (instant, _) in zip(some, stored, strict=True)
            if instant is None or _utc(instant) <= _utc(row[2])
        ]
    if fresh:
        writer.online_write_batch(config, view, fresh, None)
    return len(fresh)


def _instants_of(row: Row) -> tuple[datetime, datetime]:
    _, _, event, created = row
    return _utc(event), _utc(created or datetime.min)  # noqa: DTZ901 - made aware here


def _fill_vectors(view: FeatureView, given: list[Any]) -> None:
    """Put zeros where there is no vector.

    Stores that index vectors accept no null, and an earlier vector must be removed.
    """
    for field in view.features:
        if field.vector_index:
            vectors = [values[field.name] for _, values, *_ in given]
            length = field.vector_length or max(
                len(vector.float_list_val.val) for vector in vectors
            )
            for vector in vectors:
                if vector.WhichOneof("val") is None:
                    vector.float_list_val.val.extend([0.0] * length)


def _utc(instant: datetime) -> datetime:
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant


def _table(config: RepoConfig, view: FeatureView) -> str:
    return str(
        compute_table_id(
            config.project, view, config.registry.enable_online_feature_view_versioning
        )
    )


Writer: TypeAlias = Callable[[RepoConfig, Any, FeatureView], AbstractContextManager[WriteBatch]]
WRITERS: Mapping[str, Writer] = {
    "feast.infra.online_stores.sqlite.SqliteOnlineStore": _sqlite_writer,
    "feast.infra.online_stores.redis.RedisOnlineStore": _redis_writer,
    "feast.infra.online_stores.postgres_online_store.postgres."
    "PostgreSQLOnlineStore": _postgres_writer,
}
