"""The compact layout in Redis: a field a view in the hash of an entity.

What a value is does not belong here (`compact`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

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
KEYS_A_CALL = 1_000


class CompactRedis:
    """The compact layout in a Redis store: the hash of an entity is Feast's, its fields are not."""

    def __init__(self, config: RepoConfig, store: Any) -> None:
        """Bind the layout to a store."""
        self._config, self._store = config, store

    def update(self, dropped: Sequence[FeatureView], kept: Sequence[FeatureView]) -> None:
        """Delete the fields of dropped views, if the setting `full_scan_for_deletion` allows it."""
        del kept  # a hash needs no making
        if not self._config.online_store.full_scan_for_deletion:
            return
        client = self._store._get_client(self._config.online_store)  # noqa: SLF001
        for view in dropped:
            with client.pipeline(transaction=False) as pipe:
                for number, key in enumerate(client.scan_iter(f"*{self._config.project}".encode())):
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
        client = self._store._get_client(self._config.online_store)  # noqa: SLF001
        digest = client.script_load(WRITE_UNLESS_NEWER).encode()
        connection = client.connection_pool.get_connection()
        try:
            yield partial(self._write, connection, digest, view)
        finally:
            client.connection_pool.release(connection)

    def _write(self, connection: Any, digest: bytes, view: FeatureView, batch: Batch) -> int:
        values = compact.pack(batch.event, batch.created, batch.features)
        if len(batch.features) < len(view.features):
            stored = self._stored([(view, batch.keys.to_pylist())])[0]
            values = list(map(compact.merged, stored, values))
        seconds = self._config.online_store.key_ttl_seconds or 0
        call = RedisCall(digest, bulk_strings(b"%d" % seconds, self._field(view)), 2, 1)
        keys = redis_keys(batch, self._config.project)
        return call_redis(connection, call, keys, [pa.array(values, pa.large_binary())])

    def read(self, reads: Sequence[Asked]) -> list[list[compact.Column]]:
        """Read features of entities of all views by one pipeline."""
        stored = self._stored([(view, keys) for view, keys, _ in reads])
        return [
            compact.unpack(values, names)
            for values, (_, _, names) in zip(stored, reads, strict=True)
        ]

    async def read_async(self, reads: Sequence[Asked]) -> list[list[compact.Column]]:
        """Read as `read` does, without blocking."""
        client = await self._store._get_client_async(self._config.online_store)  # noqa: SLF001
        async with client.pipeline(transaction=False) as pipe:
            for view, keys, _ in reads:
                for key in keys:
                    pipe.hget(key + self._config.project.encode(), self._field(view))
            replies = iter(await pipe.execute())
        return [compact.unpack([next(replies) for _ in keys], names) for _, keys, names in reads]

    def _stored(
        self, asked: Sequence[tuple[FeatureView, Sequence[bytes]]]
    ) -> list[list[bytes | None]]:
        project = self._config.project.encode()
        commands = [(key + project, [self._field(view)]) for view, keys in asked for key in keys]
        replies = iter(self._store.read_hashes(self._config, commands))
        return [[next(replies)[0] for _ in keys] for _, keys in asked]

    def delete(self, view: FeatureView, keys: Sequence[bytes]) -> None:
        """Delete what a view has of entities."""
        client = self._store._get_client(self._config.online_store)  # noqa: SLF001
        for first in range(0, len(keys), KEYS_A_CALL):
            with client.pipeline(transaction=False) as pipe:
                for key in keys[first : first + KEYS_A_CALL]:
                    pipe.hdel(key + self._config.project.encode(), self._field(view))
                pipe.execute()

    def _field(self, view: FeatureView) -> bytes:
        versioning = self._config.registry.enable_online_feature_view_versioning
        return f"view:{compute_versioned_name(view, versioning)}".encode()
