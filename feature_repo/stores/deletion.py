"""Deletion from Feast's online stores: entities (SQLite, Redis, Postgres), and whole views.

Feast itself cannot delete entities.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import polars as pl
import pyarrow as pa
from feast.feature_view import FeatureView
from feast.infra.online_stores.helpers import _mmh3, compute_table_id, compute_versioned_name
from feast.infra.online_stores.online_store import OnlineStore
from feast.repo_config import RepoConfig

from feature_repo.stores.bulk import layout_of
from feature_repo.stores.codec import encode_entity_keys
from feature_repo.stores.serving import arrow_type

WAIT_SECONDS = 60  # for another writer, or a reader
KEYS_A_CALL = 1_000
Keys: TypeAlias = Sequence[bytes]


def can_delete(online_store: OnlineStore) -> bool:
    """Whether entities can be deleted from a store."""
    return _deleter(online_store) is not None


def delete_entities(
    config: RepoConfig,
    online_store: OnlineStore,
    view: FeatureView,
    entities: pl.DataFrame | Sequence[Mapping[str, Any]],
) -> None:
    """Delete entities of a view: rows with all its join keys, a frame or dictionaries.

    Unknown entities are passed over.

    SQLite's file is rewritten afterwards, because deleted rows stay in it. Raises ValueError for a
    store of another kind, and for rows that lack a key.
    """
    delete = _deleter(online_store)
    if delete is None:
        message = (
            f"{type(online_store).__name__}: entities cannot be deleted from this online store"
        )
        raise ValueError(message)
    rows = entities.to_dicts() if isinstance(entities, pl.DataFrame) else entities
    keys = _encoded(view, rows)
    if layout := layout_of(config, online_store):
        layout.delete(view, keys)
    else:
        delete(config, online_store, view, keys)


def _encoded(view: FeatureView, rows: Sequence[Mapping[str, Any]]) -> Keys:
    missing = [
        f"{field.name!r}"
        for field in view.entity_columns
        if any(field.name not in row for row in rows)
    ]
    if missing:
        message = f"view {view.name}: the rows to delete lack the key {', '.join(missing)}"
        raise ValueError(message)
    types = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
    keys = {
        field.name: pa.array([row[field.name] for row in rows], arrow_type(field.dtype))
        for field in view.entity_columns
    }
    return list(encode_entity_keys(pa.table(keys), types).to_pylist())


def delete_views(
    config: RepoConfig, online_store: OnlineStore, views: Sequence[FeatureView]
) -> None:
    """Delete all values of some views; SQLite's file is rewritten, since it keeps freed space."""
    online_store.update(config, views, [], [], [], partial=True)
    if _deleter(online_store) is _sqlite:
        path = online_store._get_db_path(config)  # noqa: SLF001
        with contextlib.closing(
            sqlite3.connect(path, WAIT_SECONDS, isolation_level=None)
        ) as connection:
            connection.execute("vacuum")


def _sqlite(config: RepoConfig, online_store: Any, view: FeatureView, keys: Keys) -> None:
    with contextlib.closing(
        sqlite3.connect(
            online_store._get_db_path(config),  # noqa: SLF001
            WAIT_SECONDS,
            isolation_level=None,
        )
    ) as connection:
        if not connection.execute(
            "select 1 from sqlite_master where name = ?", [_table(config, view)]
        ).fetchone():
            return
        connection.execute("begin immediate")
        connection.executemany(
            f'delete from "{_table(config, view)}" where entity_key = ?', [[key] for key in keys]
        )
        connection.execute("commit")
        connection.execute("vacuum")


def _redis(config: RepoConfig, online_store: Any, view: FeatureView, keys: Keys) -> None:
    client = online_store._get_client(config.online_store)  # noqa: SLF001
    name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
    fields = [
        f"_ts:{name}".encode(),
        *(_mmh3(f"{name}:{feature.name}") for feature in view.features),
    ]
    for some in _calls(keys):
        with client.pipeline(transaction=False) as pipe:
            for key in some:
                pipe.hdel(key + config.project.encode(), *fields)
            pipe.execute()


def _postgres(config: RepoConfig, _: OnlineStore, view: FeatureView, keys: Keys) -> None:
    from feast.infra.utils.postgres.connection_utils import _get_conn
    from psycopg import sql

    table = sql.Identifier(_table(config, view))
    with _get_conn(config.online_store) as connection, connection.cursor() as cursor:
        if cursor.execute("select to_regclass(%s)", [table.as_string(connection)]).fetchone() == (
            None,
        ):
            return
        for some in _calls(keys):
            cursor.execute(
                sql.SQL("delete from {} where entity_key = any(%b)").format(table), [list(some)]
            )


def _calls(keys: Keys) -> Iterator[Keys]:
    for first in range(0, len(keys), KEYS_A_CALL):
        yield keys[first : first + KEYS_A_CALL]


def _table(config: RepoConfig, view: FeatureView) -> str:
    return str(
        compute_table_id(
            config.project, view, config.registry.enable_online_feature_view_versioning
        )
    )


Deleter: TypeAlias = Callable[[RepoConfig, Any, FeatureView, Keys], None]
DELETERS: Mapping[str, Deleter] = {
    "feast.infra.online_stores.sqlite.SqliteOnlineStore": _sqlite,
    "feast.infra.online_stores.redis.RedisOnlineStore": _redis,
    "feast.infra.online_stores.postgres_online_store.postgres.PostgreSQLOnlineStore": _postgres,
}


def _deleter(online_store: OnlineStore) -> Deleter | None:
    classes = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(online_store).__mro__)
    return next((DELETERS[name] for name in classes if name in DELETERS), None)
