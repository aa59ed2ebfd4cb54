"""The compact layout in PostgreSQL: a table a view, a row an entity.

What a value is does not belong here (`compact`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any

import pyarrow as pa
from feast.feature_view import FeatureView
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.utils.postgres.connection_utils import _get_conn
from feast.repo_config import RepoConfig
from psycopg import sql
from psycopg.errors import UndefinedTable

from feature_repo.stores import compact
from feature_repo.stores.bulk import Asked, Batch, WriteBatch, postgres_fields
from feature_repo.stores.clock import mark, microseconds
from feature_repo.stores.codec import joined, row_bytes

SCHEMA = "select 1 from information_schema.schemata where schema_name = %s"
CREATE = "create table if not exists {table} (entity_key bytea primary key, value bytea not null)"
STAGE = "create temporary table staged (entity_key bytea, value bytea) on commit drop"
COPY = "copy staged (entity_key, value) from stdin (format binary)"
UPSERT = f"""
    insert into {{table}} as stored select * from staged
    on conflict (entity_key) do update set value = excluded.value
    where {compact.age("stored.value")} <= {compact.age("excluded.value")}
"""
WITH_LAST = rf"'\x{compact.WITH_LAST:02x}'::bytea"
EXPIRE = f"delete from {{table}} where {compact.last('value', WITH_LAST)} < %b"
READ = "select {number} as number, entity_key, value from {table} where entity_key = any(%b)"


class CompactPostgres:
    """The compact layout in the schema of a PostgreSQL store."""

    def __init__(self, config: RepoConfig, store: Any) -> None:
        """Bind the layout to a store."""
        self._config, self._store = config, store

    def update(self, dropped: Sequence[FeatureView], kept: Sequence[FeatureView]) -> None:
        """Create the tables of kept views; drop the others and all that are in Feast's layout."""
        with self._store._get_conn(self._config) as connection, connection.cursor() as cursor:  # noqa: SLF001
            schema = self._config.online_store.db_schema or self._config.online_store.user
            if not cursor.execute(SCHEMA, [schema]).fetchone():
                cursor.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
            for view in kept:
                cursor.execute(self._sql(CREATE, view))
            for view in (*dropped, *kept):
                table = sql.Identifier(self._table_id(view))
                cursor.execute(sql.SQL("drop table if exists {}").format(table))
            connection.commit()
        self.clear(dropped)

    def clear(self, views: Sequence[FeatureView]) -> None:
        """Drop the tables of views in this layout."""
        with self._store._get_conn(self._config) as connection, connection.cursor() as cursor:  # noqa: SLF001
            for view in views:
                cursor.execute(self._sql("drop table if exists {table}", view))
            connection.commit()

    @contextmanager
    def writer(self, view: FeatureView) -> Iterator[WriteBatch]:
        """Open a view's table for writing, on a connection of its own.

        Feast's is shared with readers.
        """
        with _get_conn(self._config.online_store) as connection:
            yield partial(self._write, connection, view)

    def _write(self, connection: Any, view: FeatureView, batch: Batch) -> int:
        values = compact.pack(batch.event, batch.created, batch.features, batch.coming)
        with connection.transaction(), connection.cursor(binary=True) as cursor:
            if batch.coming is None:
                keys = batch.keys.to_pylist()
                cursor.execute(*self._query([Asked(view, keys, (), ())]))
                stored = {key: value for _, key, value in cursor.fetchall()}
                values = [
                    compact.merged(stored.get(key), value)
                    for key, value in zip(keys, values, strict=True)
                ]
            cursor.execute(STAGE)
            with cursor.copy(COPY) as copy:
                copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
                copy.write(_rows(batch.keys, pa.array(values, pa.large_binary())))
                copy.write(b"\xff\xff")
            cursor.execute(self._sql(UPSERT, view))
            return int(cursor.rowcount)

    def read(self, reads: Sequence[Asked]) -> list[list[compact.Column]]:
        """Read features of entities of all views by one query."""
        with (
            self._store._get_conn(self._config, autocommit=True) as connection,  # noqa: SLF001
            connection.cursor(binary=True) as cursor,
        ):
            with _refusing_unapplied(reads):
                cursor.execute(*self._query(reads))
            return _by_view(reads, cursor.fetchall())

    async def read_async(self, reads: Sequence[Asked]) -> list[list[compact.Column]]:
        """Read as `read` does, without blocking."""
        async with (
            self._store._get_conn_async(self._config, autocommit=True) as connection,  # noqa: SLF001
            connection.cursor(binary=True) as cursor,
        ):
            with _refusing_unapplied(reads):
                await cursor.execute(*self._query(reads))
            return _by_view(reads, await cursor.fetchall())

    def _query(self, reads: Sequence[Asked]) -> tuple[sql.Composed, list[Any]]:
        parts = [
            self._sql(READ, asked.view, number=sql.Literal(number))
            for number, asked in enumerate(reads)
        ]
        return sql.SQL(" union all ").join(parts), [list(asked.keys) for asked in reads]

    def delete(self, view: FeatureView, keys: Sequence[bytes]) -> None:
        """Delete what a view has of entities."""
        with _get_conn(self._config.online_store) as connection, connection.cursor() as cursor:
            cursor.execute(self._sql(CREATE, view))
            cursor.execute(
                self._sql("delete from {table} where entity_key = any(%b)", view), [list(keys)]
            )

    def expire(self, view: FeatureView, oldest: datetime) -> None:
        """Delete what is older than an instant."""
        with _get_conn(self._config.online_store) as connection, connection.cursor() as cursor:
            cursor.execute(self._sql(CREATE, view))
            cursor.execute(self._sql(EXPIRE, view), [mark(microseconds(oldest))])

    def _sql(self, statement: str, view: FeatureView, **parts: Any) -> sql.Composed:
        table = sql.Identifier(f"{self._table_id(view)}.compact")
        return sql.SQL(statement).format(table=table, **parts)

    def _table_id(self, view: FeatureView) -> str:
        versioning = self._config.registry.enable_online_feature_view_versioning
        return str(compute_table_id(self._config.project, view, versioning))


@contextmanager
def _refusing_unapplied(reads: Sequence[Asked]) -> Iterator[None]:
    try:
        yield
    except UndefinedTable as error:
        names = ", ".join(asked.view.name for asked in reads)
        raise compact.NotAppliedError(names) from error


def _rows(keys: pa.LargeBinaryArray, values: pa.LargeBinaryArray) -> memoryview:
    """Write rows in PostgreSQL's binary copy format."""
    width = pa.scalar((2).to_bytes(2), pa.large_binary())
    return row_bytes(joined(width, *postgres_fields(keys), *postgres_fields(values)))


def _by_view(
    reads: Sequence[Asked], rows: Sequence[tuple[int, bytes, bytes]]
) -> list[list[compact.Column]]:
    """Turn rows of (view, key, value), in any order, into features."""
    stored: Mapping[tuple[int, bytes], bytes] = {(view, key): value for view, key, value in rows}
    return [
        compact.unpack([stored.get((number, key)) for key in asked.keys], asked.names, asked.at)
        for number, asked in enumerate(reads)
    ]
