"""Registering the definitions and bringing the online store up to date: Feast does the work, this says what is due."""

import contextlib
import hashlib
import io
import json
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from feature_repo.client import REPOSITORY, repo_config, write_store_settings
from transforms import schemas
from transforms.featurize import VIEWS, view_name
from transforms.schemas.base import Contract
from transforms.warehouse import Warehouse


class Due(NamedTuple):
    """What one view's materialization would write: the newest values of the entities with a row since `start`."""

    view: str
    start: datetime
    entities: int
    version: int


def definitions_digest() -> str:
    """Digest the files that say what is served."""
    files = [REPOSITORY / "definitions.py", REPOSITORY / "fields.py", Path(schemas.__file__).parent / "features.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def is_applied(warehouse: Warehouse) -> bool:
    """Whether the home's registry holds the definitions as they are now."""
    return _state(warehouse).get("applied") == definitions_digest()


def apply(warehouse: Warehouse) -> bool:
    """Register the definitions in the home's registry, as `feast apply` does; False if they are registered already."""
    if is_applied(warehouse):
        return False
    from feast import FeatureStore

    home = warehouse.settings.root
    (home / "feast").mkdir(parents=True, exist_ok=True)
    write_store_settings(home)
    store = FeatureStore(config=repo_config(home))
    defined = _definitions()
    names = {(type(item).__name__, item.name) for item in defined}
    views = store.registry.list_all_feature_views(store.project, skip_udf=True)  # their code may be gone since
    registered = [*store.list_feature_services(), *views, *store.list_entities(), *store.list_data_sources()]
    gone = [item for item in registered if (type(item).__name__, item.name) not in names and item.name != "__dummy"]
    with _quiet():
        store.apply(defined, objects_to_delete=gone, partial=False)
    _remember(warehouse, applied=definitions_digest())
    return True


def due_views(warehouse: Warehouse, now: datetime) -> list[Due]:
    """List the views whose online values are behind: rows were added, or a window's change point has passed since."""
    done = _state(warehouse).get("materialized", {})
    behind = [_due(contract, warehouse, done.get(view_name(contract), {}), now) for contract in VIEWS]
    return [due for due in behind if due]


def materialize(warehouse: Warehouse, now: datetime, report: Callable[[str, int, int], None]) -> dict[str, int]:
    """Write the newest values of every entity that is behind to the online store; the number of entities of each view."""
    entities = dict.fromkeys((view_name(contract) for contract in VIEWS), 0)
    due = due_views(warehouse, now)
    if not due:
        return entities
    from feast import FeatureStore

    store = FeatureStore(config=repo_config(warehouse.settings.root))
    for view in due:
        report(f"online {view.view}", 0, 0)
        with _quiet():
            store.materialize(start_date=view.start, end_date=now, feature_views=[view.view])
        done = _state(warehouse).get("materialized", {})
        _remember(warehouse, materialized={**done, view.view: {"version": view.version, "until": now.isoformat()}})
        entities[view.view] = view.entities
        report(f"online {view.view}", view.entities, 0)
    return entities


def _definitions() -> list[Any]:
    """Everything that `feast apply` would find in `definitions.py`, the views' sources included."""
    from feast import Entity, FeatureService
    from feast.base_feature_view import BaseFeatureView
    from feast.data_source import DataSource

    from feature_repo import definitions

    found = [item for item in vars(definitions).values() if isinstance(item, Entity | FeatureService | BaseFeatureView | DataSource)]
    return found + [item.batch_source for item in found if getattr(item, "batch_source", None)]


def _due(contract: type[Contract], warehouse: Warehouse, done: dict[str, str], now: datetime) -> Due | None:
    relation, key = contract.relation(), contract.key()[0]
    table = warehouse.table(relation)
    if table is None:
        return None
    with warehouse.connect() as connection:
        added = warehouse.files(relation, since=int(done.get("version", -1)))
        warehouse.create_view(connection, "added", added, contract.arrow_schema())
        until = done.get("until", "-infinity")
        sql = f"""
            select min(event_timestamp) from (
                select event_timestamp from added where event_timestamp <= $now
                union all
                select event_timestamp from {relation} where event_timestamp > $until::timestamptz and event_timestamp <= $now
            )
        """
        start = connection.execute(sql, {"now": now, "until": until}).fetchall()[0][0]
        if start is None:
            return None
        sql = f"select count(distinct {key}) from {relation} where event_timestamp between $start and $now"
        entities = connection.execute(sql, {"now": now, "start": start}).fetchall()[0][0]
    return Due(view_name(contract), start, entities, table.version())


def _state_path(warehouse: Warehouse) -> Path:
    return warehouse.settings.root / "feast" / "state.json"


def _state(warehouse: Warehouse) -> dict[str, Any]:
    path = _state_path(warehouse)
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {}


def _remember(warehouse: Warehouse, **changes: object) -> None:
    """Write what is done, after it is done: a run killed before does it again, which changes nothing."""
    path = _state_path(warehouse)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps({**_state(warehouse), **changes}, indent=2), "utf-8")
    unfinished.replace(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Feast's own printing, progress bars and words on its experimental parts to itself; its errors still raise."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore", RuntimeWarning)
        yield
