"""Erasing outside the warehouse: in the online store and in the spines of training sets' locks."""

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import duckdb

from feature_repo.client import repo_config, store_settings
from feature_repo.done import done_path, read_done, write_done
from feature_repo.locks import Lock, registered, replace_spine
from feature_repo.online import identities, materialize
from transforms.errors import ErasureError
from transforms.features.chosen import computed_views
from transforms.upkeep.erase import Erasure, create_erasure, every_file, touched, touched_by
from transforms.warehouse.rewrite import PLACE
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse, files_of_version

if TYPE_CHECKING:
    import pyarrow as pa


class TouchedLock(NamedTuple):
    """A lock that an erasure touches: whether it loses table versions, and how many spine rows."""

    name: str
    is_lost: bool
    n_spine_rows: int


def refuse_other_stores(warehouse: Warehouse) -> None:
    """Raise `ErasureError` if the home's online store is one from which nothing can be deleted."""
    from feature_repo.importing import feast
    from feature_repo.stores.deletion import can_delete

    online_store = feast.FeatureStore(
        config=repo_config(warehouse.settings.root)
    ).provider.online_store
    if not can_delete(online_store):
        message = (
            f"{type(online_store).__name__}: nothing can be deleted from this online store, so "
            "nothing is erased"
        )
        raise ErasureError(message)


def erase_online(warehouse: Warehouse, erasure: Erasure, now: datetime) -> None:
    """Delete the touched entities from the online store, then write those that still exist.

    In between, none of them is served.

    Writing alone would not do: an older row never overwrites a newer one, and the newest may be the
    erased one.
    """
    from feature_repo.importing import feast
    from feature_repo.stores.deletion import delete_entities

    home = warehouse.settings.root
    store = feast.FeatureStore(config=repo_config(home))
    online_store = store.provider.online_store
    for view in computed_views(warehouse):
        path = done_path(home, store_settings(home)["project"], view.name)
        done = read_done(path)
        if done:  # else nothing was ever written
            with connect(warehouse) as connection:
                create_erasure(connection, erasure)
                files = view.rests_on(connection, warehouse.files(view.relation), touched_by(view))
            # the witness may be one of those that go, and what their files hold is not online any
            # more
            of_others = sorted(
                set(done.identities) - set(identities(warehouse, view.relation, files))
            )
            write_done(path, replace(done, witness="", identities=of_others))
            delete_entities(
                store.config,
                online_store,
                store.get_feature_view(view.name),
                touched(erasure, view),
            )
    materialize(warehouse, now, warehouse.report)


def touched_locks(
    warehouse: Warehouse, connection: duckdb.DuckDBPyConnection, author: str | None
) -> list[TouchedLock]:
    """List the locks whose data files or spines contain rows of touched entities.

    A spine counts if it names what is in `erased_rows`.
    """
    removed = {
        file
        for view in computed_views(warehouse)
        for file in view.rests_on(
            connection, every_file(warehouse, view.contract), touched_by(view)
        )
    }
    found = []
    for lock in registered(warehouse.settings.root):
        files = {
            file
            for view, version in lock.tables.items()
            for file in files_of_version(warehouse.folder(f"features.{view}"), version)
        }
        n_rows = lock.spine().num_rows - _spine_left(connection, lock, author).num_rows
        if files & removed or n_rows:
            found.append(TouchedLock(lock.name, bool(files & removed), n_rows))
    return found


def erase_spines(warehouse: Warehouse, erasure: Erasure) -> None:
    """Take the rows that name erased records, or the erased author, out of the spines of locks."""
    with connect(warehouse) as connection:
        create_erasure(connection, erasure)
        for lock in registered(warehouse.settings.root):
            left = _spine_left(connection, lock, erasure.wanted.author)
            if left.num_rows < lock.spine().num_rows:
                replace_spine(lock, left)


def _spine_left(
    connection: duckdb.DuckDBPyConnection, lock: Lock, author: str | None
) -> "pa.Table":
    spine = lock.spine()
    stays = (
        f"select record_id from staging.records anti join erased_rows using ({', '.join(PLACE)})"
    )
    vanished = f"select record_id from erased_rows where record_id not in ({stays})"
    named = [f"record_id::varchar in ({vanished})"] if "record_id" in spine.column_names else []
    is_by_author = author is not None and "author_id" in spine.column_names
    named += ["author_id::varchar = $author"] if is_by_author else []
    connection.register("spine", spine)
    left = connection.sql(
        f"from spine where not coalesce({' or '.join(named) or 'false'}, false)",
        params={"author": author} if is_by_author else None,
    ).to_arrow_table()
    return left.replace_schema_metadata(spine.schema.metadata)
