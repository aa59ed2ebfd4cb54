"""staging -> features: score texts with Polars, count activity with SQL, publish only what is new or has changed.

Each view remembers, in its own commit, the staging version it was made from and the digest of the code that made it. What
arrived since is what it works on; where the code is another, that is everything.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from deltalake import DeltaTable

from transforms.features.contracts import UNSERVED
from transforms.features.registry import views
from transforms.features.view import Run, View
from transforms.home import replace_file
from transforms.paths import parquet
from transforms.profiles.profile import profile_views
from transforms.schemas.base import Contract
from transforms.schemas.staging import StagedRecord
from transforms.warehouse.checkpoint import FEATURIZE
from transforms.warehouse.tables import CODE, AlreadyPublishedError, Rows, Warehouse


def stale_views(warehouse: Warehouse, wanted: Sequence[View] | None = None) -> list[View]:
    """List those of the wanted views, by default of all, that have not seen the newest staged records or that other code has made."""
    version = warehouse.versions().get(StagedRecord.relation(), -1)
    return [
        view
        for view in (views() if wanted is None else wanted)
        if _consumed(view, warehouse) < version
    ]


def is_made_by_other_code(view: View, warehouse: Warehouse) -> bool:
    """Whether a view holds rows whose declaration, kernel, model or engine has changed since, so that it must be made again."""
    made_by = warehouse.consumed(view.relation, CODE)
    return FEATURIZE.consumed(warehouse, view.relation) >= 0 and made_by != view.digest()


def breaking_changes(warehouse: Warehouse) -> list[str]:
    """List the published features that their contract no longer has, or has with another type: whoever reads them would fail."""
    changes = []
    for view in views():
        table = warehouse.table(view.relation)
        published = pa.schema(table.schema().to_arrow()) if table else pa.schema([])
        wanted = view.contract.arrow_schema()
        for field in published:
            name = f"{view.relation}.{field.name}"
            if UNSERVED in field.name:
                continue
            if field.name not in wanted.names:
                changes.append(f"{name}: removed")
            elif wanted.field(field.name).type != field.type:
                changes.append(f"{name}: {field.type} becomes {wanted.field(field.name).type}")
    return changes


def undeclared(warehouse: Warehouse) -> list[str]:
    """List the feature tables with rows that nothing declares any more, as relations; they stay as they are, for locks name them."""
    declared = {view.relation for view in views()}
    tables = (
        relation
        for relation in warehouse.relations()
        if relation.startswith("features.") and relation not in declared
    )
    return [relation for relation in tables if warehouse.n_rows(relation)]


def has_columns_as_defined(view: View, warehouse: Warehouse) -> bool:
    """Whether a view's table has the columns of its contract."""
    table = warehouse.table(view.relation)
    # types are compared, not hashed: Delta and Arrow name the items of a list in different ways
    return table is None or {
        field.name: field.type for field in pa.schema(table.schema().to_arrow())
    } == {field.name: field.type for field in view.contract.arrow_schema()}


def pending_versions(view: View, warehouse: Warehouse) -> tuple[int, str]:
    """Count the staged versions that a view's next run starts from, and say why."""
    n_rows = warehouse.n_rows(StagedRecord.relation(), since=_consumed(view, warehouse))
    if is_made_by_other_code(view, warehouse):
        return n_rows, "its declaration, kernel or engine has changed, so all of it again"
    if FEATURIZE.consumed(warehouse, view.relation) < 0:
        return n_rows, "it is new"
    return n_rows, "they came since it was made"


class Unfinished(NamedTuple):
    """A backfill under way: its name, what it works on, its chunks, and the versions of the views before it, by their names."""

    name: str
    basis: str
    n_chunks: int
    versions: dict[str, int]


def read_unfinished(warehouse: Warehouse) -> Unfinished | None:
    """Read which backfill is under way, or was stopped; None if none is."""
    path = _unfinished_path(warehouse)
    return Unfinished(**json.loads(path.read_text("utf-8"))) if path.is_file() else None


def write_unfinished(warehouse: Warehouse, unfinished: Unfinished | None) -> None:
    """Note that a backfill is under way, or that none is."""
    path = _unfinished_path(warehouse)
    if unfinished is None:
        path.unlink(missing_ok=True)
        return
    replace_file(path, json.dumps(unfinished._asdict()).encode())


def _unfinished_path(warehouse: Warehouse) -> Path:
    return warehouse.settings.root / "backfill.json"


def consistent_versions(warehouse: Warehouse) -> dict[str, int]:
    """The newest versions of the feature views that were made from one and the same staging version, by the view's name.

    A run publishes one view after the other; who reads meanwhile gets what all of them agree on. While a backfill is under way,
    or was stopped, that is what stood before it.
    """
    if unfinished := read_unfinished(warehouse):
        return unfinished.versions
    tables = {
        view: table
        for view in views()
        if (table := warehouse.table(view.relation)) and _made_from(table) >= 0
    }
    agreed = min((_made_from(table) for table in tables.values()), default=-1)
    versions = {}
    for view, newest in tables.items():
        table = newest
        while _made_from(table) > agreed:
            table = warehouse.table_at(view.relation, table.version() - 1)
        versions[view.name] = table.version()
    return versions


def staging_version(warehouse: Warehouse, versions: Mapping[str, int]) -> int:
    """The staging version that versions of the feature views, by the view's name, were made from: of several, the newest."""
    relations = {f"features.{view}": version for view, version in versions.items()}
    tables = [
        warehouse.table_at(relation, version)
        for relation, version in relations.items()
        if warehouse.table(relation)
    ]
    return max(map(_made_from, tables), default=-1)


def _made_from(table: DeltaTable) -> int:
    version = table.transaction_version(FEATURIZE.name)
    return -1 if version is None else version


def _consumed(view: View, warehouse: Warehouse) -> int:
    """The staging version a view was made from by the code as it is now; -1 if by other code, or never."""
    return (
        -1
        if is_made_by_other_code(view, warehouse)
        else FEATURIZE.consumed(warehouse, view.relation)
    )


def featurize(warehouse: Warehouse, now: datetime) -> dict[str, Rows]:
    """Bring every feature view up to the newest staged records; what became of the rows of each, by its name."""
    rows = compute_views(views(), warehouse, now)
    profile_views(warehouse, [view.contract for view in views()])
    write_unfinished(
        warehouse, None
    )  # what a stopped backfill had left of other code is made now; of holes, the next one finds them
    return rows


def compute_views(wanted: Sequence[View], warehouse: Warehouse, now: datetime) -> dict[str, Rows]:
    """Bring views, listed after those that they read, up to the newest staged records. Those that take up the same share what they read."""
    for view in wanted:
        warehouse.create(view.contract)
    stale = stale_views(warehouse, wanted)
    rows = {view.name: Rows(untouched=warehouse.n_rows(view.relation)) for view in wanted}
    for view in (view for view in stale if view.is_of_records):
        rows[view.name] = _publish(warehouse, now, [view])[view.name]
    others = sorted(
        (view for view in stale if not view.is_of_records),
        key=lambda view: _consumed(view, warehouse),
    )
    for _, beside in groupby(others, key=lambda view: _consumed(view, warehouse)):
        rows |= _publish(warehouse, now, list(beside))
    return rows


def _publish(warehouse: Warehouse, now: datetime, beside: Sequence[View]) -> dict[str, Rows]:
    """Publish views that have taken up the same records so far, one after the other."""
    version = warehouse.versions()[StagedRecord.relation()]
    consumed = _consumed(beside[0], warehouse)
    carried = {view: _prepare(view, warehouse, now, version) for view in beside}
    reads = {f"features.{name}" for view in beside for name in view.reads}
    with warehouse.connect(
        of=(StagedRecord.relation(), *reads, *(view.relation for view in beside))
    ) as connection:
        warehouse.create_arrivals(connection, StagedRecord, since=consumed)
        run = Run(warehouse, connection, now, tuple(beside))
        return {
            view.name: _publish_view(view, run, done, is_replaced=consumed < 0)
            for view, done in carried.items()
        }


def _prepare(
    view: View, warehouse: Warehouse, now: datetime, version: int
) -> dict[str, int] | None:
    """Publish what a view needs before its rows; the transactions of its commit, None if another run has just published it."""
    done = FEATURIZE.at(version)
    try:
        return done | view.prepare(warehouse, now, done)
    except AlreadyPublishedError:
        return None


def _publish_view(view: View, run: Run, done: dict[str, int] | None, *, is_replaced: bool) -> Rows:
    n_before = run.warehouse.n_rows(view.relation)
    if done is None:
        return Rows(untouched=n_before)
    counted = Counted(view.rows(run, is_whole=is_replaced), view.contract)
    try:
        # what other code made is replaced in one commit; older versions of the table keep it
        published = run.warehouse.publish(
            view.contract, counted, done, view.digest(), is_whole=is_replaced
        )
    except AlreadyPublishedError:
        return Rows(untouched=n_before)
    n_recomputed = published.n_rows - counted.n_new
    if is_replaced and n_before:
        return Rows(recomputed=published.n_rows)
    return Rows(counted.n_new, n_recomputed, n_before - n_recomputed)


def recompute(warehouse: Warehouse, entities: Mapping[str, Path], now: datetime) -> None:
    """Compute some entities again from all that is staged, in place of all that was published of them.

    `entities` has for each view, by its name, a Parquet file with the `entity_id` of those. The data files that hold rows of theirs
    are written anew; an entity of which nothing is staged any more has no rows afterwards. Every view must have been up to date
    before staging changed.
    """
    version = warehouse.versions()[StagedRecord.relation()]
    for view in views():
        if FEATURIZE.consumed(warehouse, view.relation) == version:
            continue
        done = FEATURIZE.at(version)
        done |= view.prepare(warehouse, now, done, is_anew=True)
        with warehouse.connect() as connection:
            run = Run(warehouse, connection, now)
            if view.is_rebuilt_whole:
                rows = Counted(view.rows(run, is_whole=True), view.contract)
                warehouse.publish(view.contract, rows, done, view.digest(), is_whole=True)
                continue
            parquet(connection, [entities[view.name]]).create("touched_entities")
            files = warehouse.files(view.relation)
            touched = view.files_of(connection, files, "touched_entities")
            warehouse.create_view(
                connection, "published_files", files, view.contract.arrow_schema()
            )
            warehouse.create_view(
                connection, "touched_files", touched, view.contract.arrow_schema()
            )
            # rows that other code made stay other code's: the next run makes them again
            code = warehouse.consumed(view.relation, CODE)
            warehouse.publish(view.contract, _replaced(view, run), done, code, touched)


def _replaced(view: View, run: Run) -> Iterator[pa.RecordBatch]:
    """Stream the other rows of the touched files, then those of `touched_entities`, computed as if nothing had been published of them."""
    untouched = f"{view.entity.id_of_columns} not in (select entity_id from touched_entities)"
    yield from run.connection.sql(f"from touched_files where {untouched}").to_arrow_reader(
        run.batch_rows
    )
    run.connection.execute(
        f"create or replace view {view.relation} as from main.published_files where {untouched}"
    )
    for batch in view.rebuild(run, "touched_entities"):
        yield batch.select(view.contract.arrow_schema().names)


class Counted:
    """Batches as a contract has them, counting on their way the rows that are new."""

    def __init__(self, batches: Iterable[pa.RecordBatch], contract: type[Contract]) -> None:
        """Take batches with the column `is_new`."""
        self.n_new = 0
        self._batches, self._names = batches, contract.arrow_schema().names

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Give each batch without `is_new`."""
        for batch in self._batches:
            self.n_new += batch.column("is_new").true_count
            yield batch.select(self._names)
