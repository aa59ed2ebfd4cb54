"""The compact layout in Redis: a field a view in the hash of an entity.

What a value is does not belong here (`compact`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa
from feast.feature_view import FeatureView
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.repo_config import RepoConfig

from feature_repo.stores import compact
from feature_repo.stores.bulk import (
    Asked,
    Batch,
    RedisCall,
    WriteBatch,
    bulk_strings,
    call_redis,
    redis_keys,
)
from feature_repo.stores.clock import microseconds
from feature_repo.stores.expiry import online_for

# KEYS: entities. ARGV: seconds to live (0: for ever), the field of the view, each entity's value.
# Lua compares texts as the machine's language has it, so the bytes of an age are compared as whole
# numbers.
WRITE_UNLESS_NEWER = f"""
local function is_newer(stored, given)
  local old = {{struct.unpack('>I4I4I4I4', stored, {compact.AGE.start + 1})}}
  local new = {{struct.unpack('>I4I4I4I4', given, {compact.AGE.start + 1})}}
  for part = 1, 4 do
    if old[part] ~= new[part] then return old[part] > new[part] end
  end
  return false
end
local seconds_to_live, written = tonumber(ARGV[1]), 0
for entity, key in ipairs(KEYS) do
  local stored, given = redis.call('HGET', key, ARGV[2]), ARGV[2 + entity]
  if not (stored and is_newer(stored, given)) then
    redis.call('HSET', key, ARGV[2], given)
    if seconds_to_live > 0 then redis.call('EXPIRE', key, seconds_to_live) end
    written = written + 1
  end
end
return written
"""
# KEYS: the events of a view. ARGV: the field of the view, the oldest event that stays, in
# microseconds.
EXPIRE = """
local expired = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[2], 'LIMIT', 0, 1000)
for _, key in ipairs(expired) do
  redis.call('HDEL', key, ARGV[1])
  redis.call('ZREM', KEYS[1], key)
end
return #expired
"""
KEYS_A_CALL = 1_000
ALL_LISTED = b""  # among the events of a view: those of all its entities are listed
NEVER = float("inf")
Item = TypeVar("Item")


class CompactRedis:
    """The compact layout in a Redis store: the hash of an entity is Feast's, its fields are not.

    Of a view whose values expire, a sorted set lists the hashes by the events of their last rows,
    for a field of a hash cannot expire by itself before Redis 7.4.
    """

    def __init__(self, config: RepoConfig, store: Any) -> None:
        """Bind the layout to a store."""
        self._config, self._store = config, store

    def update(self, dropped: Sequence[FeatureView], kept: Sequence[FeatureView]) -> None:
        """Delete the fields of dropped views, if the setting `full_scan_for_deletion` allows it."""
        del kept  # a hash needs no making
        for view in dropped:
            self._expire(view, NEVER)  # what is listed needs no scan
            self._client.delete(self._events(view))
        if not self._config.online_store.full_scan_for_deletion:
            return
        for view in dropped:
            with self._client.pipeline(transaction=False) as pipe:
                for number, key in enumerate(self._hashes()):
                    pipe.hdel(key, self._field(view))
                    if number % KEYS_A_CALL == 0:
                        pipe.execute()
                pipe.execute()

    def clear(self, views: Sequence[FeatureView]) -> None:
        """Do nothing.

        A look at all keys each time definitions are applied would cost more than the memory.
        """

    @contextmanager
    def writer(self, view: FeatureView) -> Iterator[WriteBatch]:
        """Open a view for writing."""
        client = self._client
        digest = client.script_load(WRITE_UNLESS_NEWER).encode()
        connection = client.connection_pool.get_connection()
        try:
            yield partial(self._write, connection, digest, view)
        finally:
            client.connection_pool.release(connection)

    def _write(self, connection: Any, digest: bytes, view: FeatureView, batch: Batch) -> int:
        values = compact.pack(batch.event, batch.created, batch.features, batch.coming)
        if batch.coming is None:
            (stored,) = self._stored([(view, batch.keys.to_pylist())])
            values = list(map(compact.merged, stored, values))
        seconds = self._config.online_store.key_ttl_seconds or 0
        call = RedisCall(digest, bulk_strings(b"%d" % seconds, self._field(view)), 2, 1)
        keys = redis_keys(batch, self._config.project)
        if online_for(view):  # listed before they are written, so that none is written unlisted
            last = map(compact.last_us, values)
            self._list(view, dict(zip(keys.to_pylist(), last, strict=True)))
        return call_redis(connection, call, keys, [pa.array(values, pa.large_binary())])

    def read(self, reads: Sequence[Asked]) -> list[list[compact.Column]]:
        """Read features of entities of all views by one pipeline."""
        stored = self._stored([(asked.view, asked.keys) for asked in reads])
        return [
            compact.unpack(values, asked.names, asked.at)
            for values, asked in zip(stored, reads, strict=True)
        ]

    async def read_async(self, reads: Sequence[Asked]) -> list[list[compact.Column]]:
        """Read as `read` does, without blocking."""
        client = await self._store._get_client_async(self._config.online_store)  # noqa: SLF001
        async with client.pipeline(transaction=False) as pipe:
            for asked in reads:
                field = self._field(asked.view)
                for key in asked.keys:
                    pipe.hget(key + self._config.project.encode(), field)
            replies = iter(await pipe.execute())
        return [
            compact.unpack([next(replies) for _ in asked.keys], asked.names, asked.at)
            for asked in reads
        ]

    def _stored(
        self, asked: Sequence[tuple[FeatureView, Sequence[bytes]]]
    ) -> list[list[bytes | None]]:
        project = self._config.project.encode()
        fields = [[self._field(view)] for view, _ in asked]
        commands = [
            (key + project, field)
            for field, (_, keys) in zip(fields, asked, strict=True)
            for key in keys
        ]
        replies = iter(self._store.read_hashes(self._config, commands))
        return [[next(replies)[0] for _ in keys] for _, keys in asked]

    def delete(self, view: FeatureView, keys: Sequence[bytes]) -> None:
        """Delete what a view has of entities."""
        for first in range(0, len(keys), KEYS_A_CALL):
            with self._client.pipeline(transaction=False) as pipe:
                for key in keys[first : first + KEYS_A_CALL]:
                    name = key + self._config.project.encode()
                    pipe.hdel(name, self._field(view))
                    pipe.zrem(self._events(view), name)
                pipe.execute()

    def expire(self, view: FeatureView, oldest: datetime) -> None:
        """Delete what is older than an instant, and list first what is there unlisted.

        That is what was written before the view's values were to expire.
        """
        if self._client.zscore(self._events(view), ALL_LISTED) is None:
            for keys in _calls(self._hashes()):
                values = self._store.read_hashes(
                    self._config, [(key, [self._field(view)]) for key in keys]
                )
                events = {
                    key: compact.last_us(value)
                    for key, (value,) in zip(keys, values, strict=True)
                    if value is not None
                }
                self._list(view, events)
            self._list(view, {ALL_LISTED: NEVER})
        self._expire(view, microseconds(oldest))

    def _expire(self, view: FeatureView, oldest: float) -> None:
        """Delete what is listed with an event before a number of microseconds."""
        while self._client.eval(EXPIRE, 1, self._events(view), self._field(view), oldest):
            pass

    def _list(self, view: FeatureView, events: Mapping[bytes, float]) -> None:
        """List hashes with their events; of two events of a hash the later stays."""
        for some in _calls(events.items()):
            self._client.zadd(self._events(view), dict(some), gt=True)

    def _hashes(self) -> Iterator[bytes]:
        """All hashes of entities, found by a look at every key."""
        found = self._client.scan_iter(f"*{self._config.project}".encode(), _type="hash")
        return iter(found)

    @property
    def _client(self) -> Any:
        return self._store._get_client(self._config.online_store)  # noqa: SLF001

    def _events(self, view: FeatureView) -> bytes:
        """The name of the sorted set that lists a view's hashes."""
        return b"events:" + self._field(view)

    def _field(self, view: FeatureView) -> bytes:
        versioning = self._config.registry.enable_online_feature_view_versioning
        # with the project: a scan by the end of keys also finds those of a project `x` + its name
        return f"{self._config.project}:{compute_versioned_name(view, versioning)}".encode()


def _calls(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Cut items into lists of what one call takes."""
    remaining = iter(items)
    while some := list(islice(remaining, KEYS_A_CALL)):
        yield some
