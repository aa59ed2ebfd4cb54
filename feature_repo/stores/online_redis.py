"""Feast's Redis store with lean reads; needs the extra `feast[redis]`."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Literal, TypeAlias

from feast.infra.online_stores import redis
from feast.repo_config import RepoConfig
from redis.exceptions import NoPermissionError

from feature_repo.stores.bulk import Layout
from feature_repo.stores.compact_redis import CompactRedis
from feature_repo.stores.online import LeanReads, Read, Stored

Command: TypeAlias = tuple[bytes, list[str | bytes]]  # a hash, and the fields to get of it
GET_FIELD = b"""
local values = {}
for entity, key in ipairs(KEYS) do values[entity] = redis.call('HGET', key, ARGV[1]) end
return values
"""


class RedisOnlineStoreConfig(redis.RedisOnlineStoreConfig):
    """Feast's own settings: `connection_string` and the rest; and the `layout`.

    `compact` (the default), or `feast` for other clients.
    """

    type: Literal["feature_repo.stores.online_redis.RedisOnlineStore"] = (
        "feature_repo.stores.online_redis.RedisOnlineStore"
    )
    layout: Literal["compact", "feast"] = "compact"


class RedisOnlineStore(LeanReads, redis.RedisOnlineStore):
    """Feast's Redis store: one hash an entity, with one event timestamp for each view.

    As Feast answers it, a value that is not there is null and PRESENT, for Redis does not tell it
    from a stored null.
    """

    _may_run_scripts = True

    def compact(self, config: RepoConfig) -> Layout:
        """A field a view."""
        return CompactRedis(config, self)

    def read_stored(self, config: RepoConfig, reads: Sequence[Read]) -> list[list[Stored]]:
        """Read all views by one pipeline."""
        return _by_view(reads, self.read_hashes(config, self._commands(config, reads)))

    def read_hashes(
        self, config: RepoConfig, commands: Sequence[Command]
    ) -> list[list[bytes | None]]:
        """Read fields of hashes by one pipeline."""
        if self._is_plain(config):
            # the client's own pipeline takes twice as long
            return self._exchange(config, _packed(commands), len(commands))
        found: list[list[bytes | None]] = self._read_hash_fields(config, commands)
        return found

    def _is_plain(self, config: RepoConfig) -> bool:
        return bool(
            config.online_store.redis_type == redis.RedisType.redis
            and config.online_store.client == redis.RedisClient.redis
        )

    def read_fields(
        self, config: RepoConfig, commands: Sequence[tuple[bytes, Sequence[bytes]]]
    ) -> list[list[bytes | None]]:
        """Read one field of many hashes, for each of some fields, by one pipeline.

        A script answers for all hashes at once. A user of Redis who may run none, or a cluster, is
        asked hash by hash.
        """
        if self._is_plain(config) and self._may_run_scripts:
            try:
                packed = [_packed_script(field, keys) for field, keys in commands]
                return self._exchange(config, packed, len(commands))
            except NoPermissionError:
                self._may_run_scripts = False
        hashes: list[Command] = [(key, [field]) for field, keys in commands for key in keys]
        replies = iter(self.read_hashes(config, hashes))
        return [[next(replies)[0] for _ in keys] for _, keys in commands]

    async def read_stored_async(
        self, config: RepoConfig, reads: Sequence[Read]
    ) -> list[list[Stored]]:
        """Read all views by one pipeline, without blocking."""
        client = await self._get_client_async(config.online_store)
        async with client.pipeline(transaction=False) as pipe:
            for key, fields in self._commands(config, reads):
                pipe.hmget(key, fields)
            return _by_view(reads, await pipe.execute())

    def _exchange(
        self, config: RepoConfig, commands: Iterable[bytes], n_replies: int
    ) -> list[list[bytes | None]]:
        """Send all commands at once, then read the replies."""
        packed = b"".join(commands)
        pool = self._get_client(config.online_store).connection_pool

        def exchange() -> list[list[bytes | None]]:
            connection.send_packed_command([packed])
            return [connection.read_response() for _ in range(n_replies)]

        connection = pool.get_connection()
        try:
            replies: list[list[bytes | None]] = connection.retry.call_with_retry(
                exchange, lambda _: connection.disconnect()
            )
        except BaseException:
            # the rest of the replies would be taken for those of the next read
            connection.disconnect()
            raise
        finally:
            pool.release(connection)
        return replies

    def _commands(self, config: RepoConfig, reads: Sequence[Read]) -> list[Command]:
        """The hash and fields to get for each entity of each view.

        The last is the event timestamp.
        """
        project = config.project.encode()
        commands = []
        for read in reads:
            view = redis._versioned_fv_name(read.table, config)  # noqa: SLF001
            _, fields = self._generate_hset_keys_for_features(
                read.table, list(read.requested_features), view
            )
            commands += [(key + project, fields) for key in read.keys]
        return commands


def _packed(commands: Sequence[Command]) -> Iterator[bytes]:
    """Write commands to get hash fields as Redis reads them, each part after its length.

    The protocol: https://redis.io/docs/latest/develop/reference/protocol-spec/
    """
    for fields, same in groupby(commands, itemgetter(1)):
        tail = b"".join(map(_bulk_string, fields))
        head = b"*%d\r\n%b" % (len(fields) + 2, _bulk_string(b"HMGET"))
        yield from (head + _bulk_string(key) + tail for key, _ in same)


def _packed_script(field: bytes, keys: Sequence[bytes]) -> bytes:
    """Write the call of the script that gets a field of hashes."""
    head = b"*%d\r\n" % (len(keys) + 4)
    begin = [b"EVAL", GET_FIELD, b"%d" % len(keys)]
    return head + b"".join(map(_bulk_string, [*begin, *keys, field]))


def _bulk_string(part: str | bytes) -> bytes:
    content = part.encode() if isinstance(part, str) else part
    return b"$%d\r\n%b\r\n" % (len(content), content)


def _by_view(
    reads: Sequence[Read], replies: Sequence[Sequence[bytes | None]]
) -> list[list[Stored]]:
    """Turn the replies, one an entity of each view, into features."""
    remaining = iter(replies)
    return [_features(read, [next(remaining) for _ in read.keys]) for read in reads]


def _features(read: Read, replies: Sequence[Sequence[bytes | None]]) -> list[Stored]:
    if not replies:
        return [Stored([], [])] * len(read.requested_features)
    *columns, instants = zip(*replies, strict=True)
    return [Stored([value or b"" for value in column], instants) for column in columns]
