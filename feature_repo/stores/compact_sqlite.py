"""The compact layout in SQLite: a table a view, a row an entity.

What a value is does not belong here (`compact`).
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from functools import partial
from typing import Any

from feast.feature_view import FeatureView
from feast.infra.online_stores.helpers import compute_table_id
from feast.repo_config import RepoConfig
from feast.value_type import ValueType

from feature_repo.stores import clock, compact
from feature_repo.stores.bulk import (
    SQLITE_WAIT_SECONDS,
    Asked,
    Batch,
    WriteBatch,
    readers_go_on,
    texts,
)
from feature_repo.stores.clock import mark, microseconds
from feature_repo.stores.expiry import online_for
from transforms.expressions import quoted

QUOTE = "'"
WITH_LAST = f"x'{compact.WITH_LAST:02x}'"
UPSERT = f"""
    insert into {{table}} as stored values (?, ?)
    on conflict (entity_key) do update set value = excluded.value
    where {compact.age("stored.value")} <= {compact.age("excluded.value")}
"""
# not every SQLite does so by itself; else what is deleted stays in the file for a while
OVERWRITE = "pragma secure_delete = on"
EXPIRE = f"delete from {{table}} where {compact.last('value', WITH_LAST)} < ?"
# what Feast's layout has, of values in this one: for searches, and for whatever of Feast's reads
# the table by itself
AS_FEAST = """
    create temp view {view} as
    select
        entity_key, feature_name, value_of(value, feature_name) as value,
        text_of(value, feature_name, kind) as value_text, event_us(value) as event_ts
    from main.{table}
    cross join (select column1 as feature_name, column2 as kind from (values {names}))
    where entity_key <> x'00000000'  -- which says that the view is whole
"""


class CompactSqlite:
    """The compact layout in the file of an SQLite store."""

    def __init__(self, config: RepoConfig, store: Any) -> None:
        """Bind the layout to a store."""
        self._config, self._store = config, store

    def update(self, dropped: Sequence[FeatureView], kept: Sequence[FeatureView]) -> None:
        """Create the tables of kept views; drop the others and all that are in Feast's layout."""
        connection = self._store._get_conn(self._config)  # noqa: SLF001
        for view in kept:
            connection.execute(
                f"create table if not exists {self._table(view)} "
                "(entity_key blob primary key, value blob not null) without rowid"
            )
        for view in (*dropped, *kept):
            connection.execute(f"drop table if exists main.{self._feast_table(view)}")
        self.clear(dropped)

    def clear(self, views: Sequence[FeatureView]) -> None:
        """Drop the tables of views in this layout."""
        connection = self._store._get_conn(self._config)  # noqa: SLF001
        for view in views:
            connection.execute(f"drop table if exists {self._table(view)}")
        connection.commit()

    @contextmanager
    def writer(self, view: FeatureView) -> Iterator[WriteBatch]:
        """Open a view's table for writing, on a connection of its own.

        Readers do not see half a batch.
        """
        path = self._store._get_db_path(self._config)  # noqa: SLF001
        with (
            closing(sqlite3.connect(path, SQLITE_WAIT_SECONDS, isolation_level=None)) as connection,
            readers_go_on(connection),
        ):
            if online_for(view):
                connection.execute(OVERWRITE)
            yield partial(self._write, connection, view)

    def _write(self, connection: sqlite3.Connection, view: FeatureView, batch: Batch) -> int:
        keys = batch.keys.to_pylist()
        values = compact.pack(batch.event, batch.created, batch.features, batch.coming)
        with connection:
            connection.execute("begin immediate")
            if batch.coming is None:
                stored = self._values(connection, view, keys)
                values = [
                    compact.merged(stored.get(key), value)
                    for key, value in zip(keys, values, strict=True)
                ]
            before = connection.total_changes
            connection.executemany(
                UPSERT.format(table=self._table(view)), zip(keys, values, strict=True)
            )
            return connection.total_changes - before

    def read(self, reads: Sequence[Asked]) -> list[list[compact.Column]]:
        """Read features of entities, each view by one query."""
        connection = self._store._get_conn(self._config)  # noqa: SLF001
        found = [self._values(connection, asked.view, asked.keys) for asked in reads]
        return [
            compact.unpack([stored.get(key) for key in asked.keys], asked.names, asked.at)
            for stored, asked in zip(found, reads, strict=True)
        ]

    async def read_async(self, reads: Sequence[Asked]) -> list[list[compact.Column]]:
        """Read as `read` does; SQLite has no other way."""
        return self.read(reads)

    def _values(
        self, connection: sqlite3.Connection, view: FeatureView, keys: Sequence[bytes]
    ) -> dict[bytes, bytes]:
        limit = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
        found: dict[bytes, bytes] = {}
        for first in range(0, len(keys), limit):
            some = keys[first : first + limit]
            marks = ",".join("?" * len(some))
            sql = f"select entity_key, value from {self._table(view)} where entity_key in ({marks})"
            try:
                found |= dict(connection.execute(sql, some).fetchall())
            except sqlite3.OperationalError as error:
                if "no such table" not in str(error):
                    raise
                raise compact.NotAppliedError(view.name) from error
        return found

    def delete(self, view: FeatureView, keys: Sequence[bytes]) -> None:
        """Delete entities; the file is written again afterwards, for deleted rows stay in it."""
        path = self._store._get_db_path(self._config)  # noqa: SLF001
        with closing(
            sqlite3.connect(path, SQLITE_WAIT_SECONDS, isolation_level=None)
        ) as connection:
            if self._is_there(connection, view):
                sql = f"delete from {self._table(view)} where entity_key = ?"
                connection.execute("begin immediate")
                connection.executemany(sql, [[key] for key in keys])
                connection.execute("commit")
                connection.execute("vacuum")

    def expire(self, view: FeatureView, oldest: datetime) -> None:
        """Delete what is older than an instant; its bytes are overwritten, its room is reused."""
        path = self._store._get_db_path(self._config)  # noqa: SLF001
        with (
            closing(sqlite3.connect(path, SQLITE_WAIT_SECONDS, isolation_level=None)) as connection,
            readers_go_on(connection),
        ):
            if self._is_there(connection, view):
                connection.execute(OVERWRITE)
                connection.execute(
                    EXPIRE.format(table=self._table(view)), [mark(microseconds(oldest))]
                )

    def show_as_feast(self, connection: sqlite3.Connection, view: FeatureView) -> None:
        """Show a view's table, as it is now, to a connection as if it were in Feast's layout.

        Event timestamps are in microseconds.
        """
        at = mark(microseconds(clock.now()))

        def value_of(value: bytes, name: str) -> bytes | None:
            (((found,), _),) = compact.unpack([value], [name], [at])
            return found

        def text_of(value: bytes, name: str, kind: str) -> str | None:
            found = value_of(value, name)
            return None if found is None else texts([found], ValueType[kind])[0]

        connection.create_function("value_of", 2, value_of, deterministic=True)
        connection.create_function("text_of", 3, text_of, deterministic=True)
        connection.create_function(
            "event_us", 1, partial(compact.event_us, at=at), deterministic=True
        )
        connection.create_function("is_held", 2, _is_held, deterministic=True)
        features = [(field.name, field.dtype.to_value_type().name) for field in view.features]
        names = ", ".join(f"({_literal(name)}, {_literal(kind)})" for name, kind in features)
        feast_table = self._feast_table(view)
        connection.execute(f"drop view if exists temp.{feast_table}")
        connection.execute(AS_FEAST.format(view=feast_table, table=self._table(view), names=names))

    def _is_there(self, connection: sqlite3.Connection, view: FeatureView) -> bool:
        name = self._table(view)[1:-1].replace('""', '"')
        return bool(
            connection.execute("select 1 from sqlite_master where name = ?", [name]).fetchone()
        )

    def _table(self, view: FeatureView) -> str:
        return quoted(f"{self._table_id(view)}.compact")

    def _feast_table(self, view: FeatureView) -> str:
        return quoted(self._table_id(view))

    def _table_id(self, view: FeatureView) -> str:
        versioning = self._config.registry.enable_online_feature_view_versioning
        return str(compute_table_id(self._config.project, view, versioning))


def _is_held(event_us: int, oldest: int) -> bool:
    """Whether an event is not older than an instant, in nanoseconds since 1970."""
    return event_us * 1000 >= oldest


def _literal(text: str) -> str:
    return f"'{text.replace(QUOTE, 2 * QUOTE)}'"
