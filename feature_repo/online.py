"""Registers the definitions and brings the online store up to date; Feast does the work."""

import base64
import contextlib
import hashlib
import io
import json
import sqlite3
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from runpy import run_path
from typing import Any

from feature_repo.client import (
    REPOSITORY,
    goes_by_the_clock,
    repo_config,
    store_file,
    store_settings,
    write_store_settings,
)
from feature_repo.client import store as open_store
from feature_repo.done import done_path, read_done, write_done
from feature_repo.online_views import choice, keep, online_views
from feature_repo.registry_digest import has_digest, is_named
from transforms.features.engine import derived
from transforms.features.on_demand import on_demand_views
from transforms.features.registry import registry, view_of, views
from transforms.home import replace_file
from transforms.staging.treatment import treatments
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Report, Warehouse

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SUMMARY = "last_run.json"  # of a run that is complete, which all machines see
MICROSECOND = timedelta(microseconds=1)


def definitions_digest(home: Path) -> str:
    """Digest what is served and how: files, views, settings, and the views online in a home."""
    code = ("definitions.py", "derived.py", "fields.py", "on_demand.py")
    files = [*(REPOSITORY / name for name in code), store_file()]
    declared = repr(
        (
            [
                (view.contract.columns(), view.entity, view.description, view.online_for)
                for view in views()
            ],
            [
                registry().derivations,
                registry().services,
                online_views(home),
                Path(derived.__file__).read_text(),
                [(name, view.digest()) for name, view in on_demand_views().items()],
                sorted(treatments(home).items()),
            ],
        )
    )
    return hashlib.sha256(
        b"".join([*(file.read_bytes() for file in files), declared.encode()])
    ).hexdigest()


def is_applied(warehouse: Warehouse) -> bool:
    """Whether the home's registry is the pipeline's, with the definitions as they are now."""
    path, home = _applied_path(warehouse), warehouse.settings.root
    is_so = path.is_file() and path.read_text("utf-8") == definitions_digest(home)
    return is_so and _is_trusted(home)


def _is_trusted(home: Path) -> bool:
    """Whether a home's registry is the one that it names, or one that a setting allows."""
    registry = store_settings(home)["registry"]
    return not has_digest(registry, str(home)) or is_named(home / "feast" / "registry.db")


def apply(warehouse: Warehouse) -> bool:
    """Register the definitions in the home's registry, as `feast apply` does.

    Returns False if they are registered already.

    Views that are not to be online any more leave the online store.
    """
    if is_applied(warehouse):
        return False
    home = warehouse.settings.root
    (home / "feast").mkdir(parents=True, exist_ok=True)
    write_store_settings(home)
    keep(home, choice(home))  # first: a run that is killed after this goes on with the choice
    _register(warehouse)
    replace_file(
        _applied_path(warehouse), definitions_digest(home).encode()
    )  # last: a run killed before applies again
    return True


def _register(warehouse: Warehouse) -> None:
    from feature_repo.importing import feast

    home = warehouse.settings.root
    if not _is_trusted(home):  # somebody else's, whose code is not to run: written again
        (home / "feast" / "registry.db").unlink(missing_ok=True)
    store = feast.FeatureStore(config=repo_config(home))
    defined = _definitions(warehouse.settings.root)
    names = {(type(item).__name__, item.name) for item in defined}
    views = store.registry.list_all_feature_views(
        store.project, skip_udf=True
    )  # their code may have been removed
    registered = [
        *store.list_feature_services(),
        *views,
        *store.list_entities(),
        *store.list_data_sources(),
    ]
    removed = [
        item
        for item in registered
        if (type(item).__name__, item.name) not in names and item.name != "__dummy"
    ]
    _forget_other_times(store, defined, warehouse)
    with _quiet():
        store.apply(defined, objects_to_delete=removed, partial=False)
        _take_offline(store, warehouse)
        _mark_written(store, warehouse)


def _mark_written(store: Any, warehouse: Warehouse) -> None:
    """Let a registry say which views an online store has that other machines have written.

    An entity that is not in one of these has no records; of any other view nothing is known.
    """
    home = warehouse.settings.root
    if not waits_for_run(home) or not (home / SUMMARY).is_file():
        return
    written = json.loads((home / SUMMARY).read_text("utf-8"))["materialized"]
    for view in store.list_feature_views():
        if view.name in written and not view.most_recent_end_time:
            store.registry.apply_materialization(view, store.project, EPOCH, datetime.now(UTC))


def waits_for_run(home: Path) -> bool:
    """Whether only a run's summary tells what an online store has.

    So it is where other machines write too, in Feast's layout.
    """
    return "path" not in store_settings(home)["online_store"] and not goes_by_the_clock(home)


def _forget_other_times(store: Any, defined: list[Any], warehouse: Warehouse) -> None:
    """Let views be written again that are to stay online for longer, or less long, than so far."""
    from feature_repo.importing import feast
    from feature_repo.stores.expiry import online_for

    so_far = {view.name: online_for(view) for view in store.list_feature_views()}
    for view in defined:
        is_known = isinstance(view, feast.FeatureView) and view.online and view.name in so_far
        if is_known and so_far[view.name] != online_for(view):
            _done_path(warehouse, view.name).unlink(missing_ok=True)


def _take_offline(store: Any, warehouse: Warehouse) -> None:
    """Delete views that are no longer online from the online store, and free their disk space."""
    from feature_repo.stores.deletion import delete_views

    off = {
        view: _done_path(warehouse, view)
        for view in _written(warehouse)
        if view not in online_views(warehouse.settings.root)
    }
    written = [store.get_feature_view(view) for view, path in off.items() if path.is_file()]
    if written:
        delete_views(store.config, store.provider.online_store, written)
    for path in off.values():
        path.unlink(missing_ok=True)


def _written(warehouse: Warehouse) -> list[str]:
    """The views that the online store may contain, including those no longer declared."""
    return sorted(path.stem for path in _done_path(warehouse, "any").parent.glob("*.json"))


def due_views(
    warehouse: Warehouse, now: datetime, views: Collection[str] | None = None
) -> list[str]:
    """List the views that are behind online, of some or of all.

    Rows were added, a change point has passed, values have to leave, or the store has lost them.
    """
    asked = [
        view
        for view in (online_views(warehouse.settings.root) if views is None else views)
        if warehouse.table(f"features.{view}") is not None
    ]
    lost = _lost(warehouse, asked)
    return [view for view in asked if view in lost or _is_due(view, warehouse, now)]


def materialize(
    warehouse: Warehouse, now: datetime, report: Report, views: Collection[str] | None = None
) -> dict[str, int]:
    """Write the newest values of every entity that is behind; entities written, by online view.

    `views` are those to look at, by default all that are online.
    """
    entities = dict.fromkeys(online_views(warehouse.settings.root) if views is None else views, 0)
    due = due_views(warehouse, now, entities)
    if not due:
        return entities
    from feature_repo.importing import feast
    from feature_repo.stores.columnar import reporting
    from feature_repo.stores.sources import reading_of

    def count(view: str, written: int, _total: int) -> None:
        entities[view] += written
        report(f"online {view}", written, 0)

    store = feast.FeatureStore(config=repo_config(warehouse.settings.root))
    if not all(
        store.get_feature_view(view).online for view in due
    ):  # `feast apply` was run on this home with another one's choice
        _register(warehouse)
        store.refresh_registry()
    begun = [view for view in due if store.get_feature_view(view).most_recent_end_time]
    with reporting(count), reading_of(warehouse), _quiet():
        for view in (view for view in due if view not in begun):
            store.materialize(start_date=EPOCH, end_date=now, feature_views=[view])
        if begun:  # together: Feast reads all services after each call
            store.materialize_incremental(end_date=now, feature_views=begun)
    return entities


def refresh(warehouse: Warehouse, now: datetime, report: Report) -> dict[str, int]:
    """Write what took effect since the last run where the store cannot know it; delete what is old.

    Returns the entities written, by view of those that `need_refresh`.
    """
    return materialize(warehouse, now, report, need_refresh(warehouse.settings.root))


def need_refresh(home: Path) -> list[str]:
    """Name the views online that change without a run.

    Of those that stay for a time only, what is too old leaves. Where the store does not go by the
    clock, windows end, of all.
    """
    is_clock = goes_by_the_clock(home)
    return [view for view in online_views(home) if not is_clock or view_of(view).online_for]


def note_compacted(warehouse: Warehouse, views: Collection[str]) -> None:
    """Record that the online store matches the current files, for views that were complete."""
    for view in views:
        relation, path = f"features.{view}", _done_path(warehouse, view)
        done = read_done(path)
        if done:
            write_done(
                path,
                replace(
                    done, identities=identities(warehouse, relation, warehouse.files(relation))
                ),
            )


def identities(warehouse: Warehouse, relation: str, files: Sequence[str]) -> list[str]:
    """Name data files of a relation as the notes of what is online do."""
    return sorted(file.removeprefix(str(warehouse.folder(relation))) for file in files)


def _definitions(home: Path) -> list[Any]:
    """Everything `feast apply` would find in `definitions.py`, sources included, for a home.

    The file is run each time: declarations may have changed since the process imported it.
    """
    from feature_repo.importing import feast
    from feature_repo.on_demand import requested_view
    from feature_repo.stores.serving import VIEW

    kinds = (
        feast.Entity,
        feast.FeatureService,
        feast.base_feature_view.BaseFeatureView,
        feast.data_source.DataSource,
    )
    found = [
        requested_view(item.tags[VIEW], home) if VIEW in getattr(item, "tags", {}) else item
        for item in run_path(str(REPOSITORY / "definitions.py")).values()
        if isinstance(item, kinds)
    ]
    for view in found:
        if isinstance(view, feast.FeatureView):
            view.online = view.name in online_views(home)
    batches = [item.batch_source for item in found if getattr(item, "batch_source", None)]
    requests = {
        source.name: source
        for item in found
        for source in getattr(item, "source_request_sources", {}).values()
    }
    return [*found, *batches, *requests.values()]


def _is_due(view: str, warehouse: Warehouse, now: datetime) -> bool:
    relation = f"features.{view}"
    done = read_done(_done_path(warehouse, view))
    files = set(identities(warehouse, relation, warehouse.files(relation)))
    if done is None or done.rows is not None or not done.is_marked:
        return True
    if not files.issubset(done.identities):
        return True
    until, stay = datetime.fromisoformat(done.until), view_of(view).online_for
    spans = [(until, now)]
    if stay:  # what was young enough to stay at the one instant, and is too old at the other
        spans += [(until - stay - MICROSECOND, now - stay - MICROSECOND)]
    with connect(warehouse, of=(relation,)) as connection:
        sql = (
            f"select count(*) from {relation} "
            "where event_timestamp > $start and event_timestamp <= $end"
        )
        return any(
            connection.execute(sql, {"start": start, "end": end}).fetchall()[0][0]
            for start, end in spans
        )


def _lost(warehouse: Warehouse, views: Collection[str]) -> set[str]:
    """Name the views of which the online store lacks what it must contain."""
    home = warehouse.settings.root
    done = {view: read_done(_done_path(warehouse, view)) for view in views}
    witnesses = {view: found.witness for view, found in done.items() if found and found.witness}
    if not witnesses:
        return set()
    settings = store_settings(home)
    if "path" not in settings["online_store"]:
        return _lost_by_server(home, witnesses)
    layout = settings["online_store"].get("layout", "compact")
    suffix = "" if layout == "feast" else f".{layout}"
    path = Path(settings["online_store"]["path"])
    return {
        view
        for view, witness in witnesses.items()
        if not _has_row(path, f"{settings['project']}_{view}{suffix}", witness)
    }


def _has_row(path: Path, table: str, witness: str) -> bool:
    """Whether SQLite's file has an entity; asked without Feast, which takes seconds to load."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        sql = f'select count(*) from "{table}" where entity_key = ?'
        try:
            return bool(connection.execute(sql, [base64.b64decode(witness)]).fetchone()[0])
        except sqlite3.OperationalError:  # no such table
            return False


def _lost_by_server(home: Path, witnesses: Mapping[str, str]) -> set[str]:
    """As `_lost`; of a server that does not answer all views, whose writing then says why."""
    from feature_repo.stores.columnar import has_entity
    from feature_repo.stores.serving import opened

    store = opened(home, open_store).store
    try:
        return {
            view
            for view, witness in witnesses.items()
            if not has_entity(
                store.config, store.provider.online_store, store.get_feature_view(view), witness
            )
        }
    except Exception:  # noqa: BLE001 - each client has its own
        return set(witnesses)


def _done_path(warehouse: Warehouse, view: str) -> Path:
    home = warehouse.settings.root
    return done_path(home, store_settings(home)["project"], view)


def _applied_path(warehouse: Warehouse) -> Path:
    return warehouse.settings.root / "feast" / "applied"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Feast's printing, progress bars and warnings on experimental parts.

    Its errors still raise.
    """
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore", RuntimeWarning)
        yield
