"""Out of Feast's online stores: entities, which Feast itself cannot delete (SQLite, Redis and Postgres), and whole views."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import pyarrow as pa
from feast.feature_view import FeatureView
from feast.infra.online_stores.helpers import _mmh3, compute_table_id, compute_versioned_name
from feast.infra.online_stores.online_store import OnlineStore
from feast.repo_config import RepoConfig

from feature_repo.stores.codec import encode_entity_keys

WAIT_SECONDS = 60  # for another writer, or a reader
KEYS_A_CALL = 1_000
Keys: TypeAlias = Sequence[bytes]


def can_delete(online_store: OnlineStore) -> bool:
    """Whether entities can be deleted from a store."""
    return _deleter(online_store) is not None


def delete_entities(config: RepoConfig, online_store: OnlineStore, view: FeatureView, entities: Sequence[str]) -> None:
    """Delete what a view holds of entities, named by the view's one join key; those that are not there are passed over.

    SQLite's file is written anew afterwards, for deleted rows stay in it. Raises ValueError for a store of another kind.
    """
    delete = _deleter(online_store)
    if delete is None:
        message = f"{type(online_store).__name__}: entities cannot be deleted from this online store"
        raise ValueError(message)
    (key,) = view.entity_columns
    encoded = encode_entity_keys(pa.table({key.name: pa.array(entities, pa.string())}), {key.name: key.dtype.to_value_type()})
    delete(config, online_store, view, encoded.to_pylist())


def delete_views(config: RepoConfig, online_store: OnlineStore, views: Sequence[FeatureView]) -> None:
    """Delete all that a store holds of some views. SQLite's file is written anew, for it keeps the space of what is deleted."""
    online_store.update(config, views, [], [], [], partial=True)
    if _deleter(online_store) is _sqlite:
        path = online_store._get_db_path(config)  # noqa: SLF001
        with contextlib.closing(sqlite3.connect(path, WAIT_SECONDS, isolation_level=None)) as connection:
            connection.execute("vacuum")


def _sqlite(config: RepoConfig, online_store: Any, view: FeatureView, keys: Keys) -> None:
    with contextlib.closing(sqlite3.connect(online_store._get_db_path(config), WAIT_SECONDS, isolation_level=None)) as connection:  # noqa: SLF001
        if not connection.execute("select 1 from sqlite_master where name = ?", [_table(config, view)]).fetchone():
            return
        connection.execute("begin immediate")
        connection.executemany(f'delete from "{_table(config, view)}" where entity_key = ?', [[key] for key in keys])
        connection.execute("commit")
        connection.execute("vacuum")


def _redis(config: RepoConfig, online_store: Any, view: FeatureView, keys: Keys) -> None:
    client = online_store._get_client(config.online_store)  # noqa: SLF001
    name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
    fields = [f"_ts:{name}".encode(), *(_mmh3(f"{name}:{feature.name}") for feature in view.features)]
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
        if cursor.execute("select to_regclass(%s)", [table.as_string(connection)]).fetchone() == (None,):
            return
        for some in _calls(keys):
            cursor.execute(sql.SQL("delete from {} where entity_key = any(%b)").format(table), [list(some)])


def _calls(keys: Keys) -> Iterator[Keys]:
    for first in range(0, len(keys), KEYS_A_CALL):
        yield keys[first : first + KEYS_A_CALL]


def _table(config: RepoConfig, view: FeatureView) -> str:
    return str(compute_table_id(config.project, view, config.registry.enable_online_feature_view_versioning))


Deleter: TypeAlias = Callable[[RepoConfig, Any, FeatureView, Keys], None]
DELETERS: Mapping[str, Deleter] = {
    "feast.infra.online_stores.sqlite.SqliteOnlineStore": _sqlite,
    "feast.infra.online_stores.redis.RedisOnlineStore": _redis,
    "feast.infra.online_stores.postgres_online_store.postgres.PostgreSQLOnlineStore": _postgres,
}


def _deleter(online_store: OnlineStore) -> Deleter | None:
    classes = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(online_store).__mro__)
    return next((DELETERS[name] for name in classes if name in DELETERS), None)
