"""Feast's PostgreSQL store with lean reads; needs the extra `feast[postgres]`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

from feast.infra.online_stores.postgres_online_store import postgres
from feast.infra.utils.postgres.postgres_config import ConnectionType
from feast.repo_config import RepoConfig
from psycopg import Connection
from psycopg_pool import ConnectionPool

from feature_repo.stores.bulk import Layout
from feature_repo.stores.compact_postgres import CompactPostgres
from feature_repo.stores.online import LeanReads, Read, Stored, serialized

SIZE = """
    select coalesce(sum(pg_total_relation_size(oid)), 0)
    from pg_class
    where relkind = 'r' and relnamespace = current_schema()::regnamespace
        and starts_with(relname, %s || '_')
"""


class PostgresOnlineStoreConfig(postgres.PostgreSQLOnlineStoreConfig):
    """Feast's own settings: `host`, `database`, `db_schema` and the rest; and the `layout`.

    `compact` (the default), or `feast`.
    """

    type: Literal["feature_repo.stores.online_postgres.PostgresOnlineStore"] = (
        "feature_repo.stores.online_postgres.PostgresOnlineStore"
    )
    layout: Literal["compact", "feast"] = "compact"


class PostgresOnlineStore(LeanReads, postgres.PostgreSQLOnlineStore):
    """Feast's PostgreSQL store. Event timestamps are kept to the microsecond in both layouts."""

    _conn: Connection[Any] | None
    _conn_pool: ConnectionPool | None

    def compact(self, config: RepoConfig) -> Layout:
        """A table a view."""
        return CompactPostgres(config, self)

    def n_bytes(self, config: RepoConfig) -> int:
        """Sum what the project's tables take, with their indexes and long values."""
        with self._get_conn(config, autocommit=True) as connection:
            (found,) = connection.execute(SIZE, [config.project]).fetchone() or (0,)
        return int(found)

    def read_stored(self, config: RepoConfig, reads: Sequence[Read]) -> list[list[Stored]]:
        """Read all views by one query."""
        query, parameters = self._construct_batched_query_and_params(config, reads)
        with (
            self._get_conn(config, autocommit=True) as connection,
            connection.cursor(binary=True) as cursor,
        ):
            return _by_view(reads, cursor.execute(query, parameters).fetchall())

    async def read_stored_async(
        self, config: RepoConfig, reads: Sequence[Read]
    ) -> list[list[Stored]]:
        """Read all views by one query, without blocking."""
        query, parameters = self._construct_batched_query_and_params(config, reads)
        async with (
            self._get_conn_async(config, autocommit=True) as connection,
            connection.cursor(binary=True) as cursor,
        ):
            await cursor.execute(query, parameters)
            return _by_view(reads, await cursor.fetchall())

    @contextmanager
    def _get_conn(self, config: RepoConfig, autocommit: bool = False) -> Iterator[Connection[Any]]:  # noqa: FBT001, FBT002
        """Yield a connection, as Feast's own does for stores of its own type name only."""
        if config.online_store.conn_type == ConnectionType.pool:
            if not self._conn_pool:
                self._conn_pool = postgres._get_connection_pool(config.online_store)  # noqa: SLF001
                self._conn_pool.open()
            with self._conn_pool.connection() as connection:
                connection.set_autocommit(autocommit)
                yield connection
            return
        if not self._conn:
            self._conn = postgres._get_conn(config.online_store)  # noqa: SLF001
        self._conn.set_autocommit(autocommit)
        yield self._conn


def _by_view(
    reads: Sequence[Read], rows: Sequence[tuple[int, bytes, str, bytes, datetime]]
) -> list[list[Stored]]:
    """Turn rows of (view, key, feature, value, event timestamp), in any order, into features."""
    found = {
        (view, feature, key): (value, _of_datetime(instant))
        for view, key, feature, value, instant in rows
    }
    return [
        [
            _feature([found.get((view, feature, key), (None, None)) for key in read.keys])
            for feature in read.requested_features
        ]
        for view, read in enumerate(reads)
    ]


def _feature(pairs: Sequence[tuple[bytes | None, bytes | None]]) -> Stored:
    return Stored([value for value, _ in pairs], [instant for _, instant in pairs])


_of_datetime = lru_cache(maxsize=1 << 16)(serialized)
