"""staging -> features: compute every view and publish only the rows that are new or have changed.

Each view records, in its own commit, the staging version that it was computed from and the digest
of the code that computed it. A run works on the versions that arrived since, or where the code is
another, on all of them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from deltalake import DeltaTable

from transforms.features.chosen import chosen_views, computed_views, home_views, keep_choice
from transforms.features.contracts import UNSERVED
from transforms.features.engine.partitions import computed_parts, engine_for, passes_of
from transforms.features.registry import views
from transforms.features.view import Run, View
from transforms.home import remove_files, replace_file
from transforms.paths import parquet
from transforms.profiles.profile import profile_views
from transforms.schemas.base import Contract
from transforms.schemas.staging import StagedRecord
from transforms.warehouse.checkpoint import FEATURIZE, consumed_version
from transforms.warehouse.publishing import (
    CODE,
    AlreadyPublishedError,
    Publication,
    publish,
    publishing,
)
from transforms.warehouse.snapshot import connect, create_arrivals, create_view
from transforms.warehouse.tables import Rows, Warehouse

FEW_ROWS = 10_000


def stale_views(warehouse: Warehouse, wanted: Sequence[View] | None = None) -> list[View]:
    """List the wanted views, by default the chosen ones, that a run has to compute.

    They have not seen the newest staged records, or other code computed them.
    """
    version = warehouse.version(StagedRecord.relation())
    return [
        view
        for view in (chosen_views(warehouse.settings.root) if wanted is None else wanted)
        if _consumed(view, warehouse) < version
    ]


def is_made_by_other_code(view: View, warehouse: Warehouse) -> bool:
    """Whether a view has rows computed by another declaration, kernel, model or engine."""
    made_by = consumed_version(warehouse, view.relation, CODE)
    return FEATURIZE.consumed(warehouse, view.relation) >= 0 and made_by != view.digest()


def breaking_changes(warehouse: Warehouse) -> list[str]:
    """List the published features that their contract has removed or given another type.

    Whoever reads them would fail.
    """
    changes = []
    for view in chosen_views(warehouse.settings.root):
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
    """List the relations of feature tables with rows that nothing declares any more.

    They stay as they are, for locks name them.
    """
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
    """Count the staged versions that a view's next run reads, and say why."""
    n_rows = warehouse.n_rows(StagedRecord.relation(), since=_consumed(view, warehouse))
    if is_made_by_other_code(view, warehouse):
        return n_rows, "its declaration, kernel or engine has changed, so it is rebuilt"
    if FEATURIZE.consumed(warehouse, view.relation) < 0:
        return n_rows, "it is new"
    return n_rows, "they arrived since it was computed"


class Unfinished(NamedTuple):
    """A backfill in progress: its name, basis and chunks, and the views' versions before it.

    The basis identifies what it works on. Versions are by the view's name.
    """

    name: str
    basis: str
    n_chunks: int
    versions: dict[str, int]


def read_unfinished(warehouse: Warehouse) -> Unfinished | None:
    """Read which backfill is in progress or was stopped; None if none is.

    >>> from tempfile import TemporaryDirectory
    >>> from transforms.home import Settings
    >>> with TemporaryDirectory() as home:
    ...     warehouse = Warehouse(Settings(home=home))
    ...     write_unfinished(warehouse, Unfinished("fill", "all", 4, {"record_text": 2}))
    ...     read_unfinished(warehouse).n_chunks
    4
    """
    path = _unfinished_path(warehouse)
    return Unfinished(**json.loads(path.read_text("utf-8"))) if path.is_file() else None


def write_unfinished(warehouse: Warehouse, unfinished: Unfinished | None) -> None:
    """Record that a backfill is in progress, or that none is."""
    path = _unfinished_path(warehouse)
    if unfinished is None:
        remove_files([path])
        return
    replace_file(path, json.dumps(unfinished._asdict()).encode())


def _unfinished_path(warehouse: Warehouse) -> Path:
    return warehouse.settings.root / "backfill.json"


def consistent_versions(warehouse: Warehouse) -> dict[str, int]:
    """Return the newest versions of the views that one and the same staging version led to.

    A run publishes one view after the other; whoever reads meanwhile gets what all of them agree
    on. While a backfill is in progress or stopped, these are the versions before it. They are by
    the view's name.
    """
    if unfinished := read_unfinished(warehouse):
        return unfinished.versions
    tables = {
        view: table
        for view in home_views(warehouse.settings.root)
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
    """Return the staging version that versions of the views were computed from.

    If there are several, it is the newest. `versions` are by the view's name.
    """
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
    """The staging version that today's code computed a view from; -1 if other code did.

    It is -1 too for a view that was never computed.
    """
    return (
        -1
        if is_made_by_other_code(view, warehouse)
        else FEATURIZE.consumed(warehouse, view.relation)
    )


def featurize(
    warehouse: Warehouse, now: datetime, *, with_profiles: bool = True
) -> dict[str, Rows]:
    """Update the chosen views to the newest staged records; count what became of their rows.

    Without their profiles, a later run makes those of all that was published since.
    """
    wanted = chosen_views(warehouse.settings.root)
    rows = update(wanted, warehouse, now, with_profiles=with_profiles)
    # last: until a view that is taken back is up to date, nobody may read it beside the others
    keep_choice(warehouse.settings.root)
    return rows


def update(
    wanted: Sequence[View], warehouse: Warehouse, now: datetime, *, with_profiles: bool = True
) -> dict[str, Rows]:
    """Update views, listed after those that they read, with their profiles."""
    rows = compute_views(wanted, warehouse, now)
    if with_profiles:
        profile_views(warehouse, [view.contract for view in wanted])
    # rows that a stopped backfill left behind are recomputed; the next backfill finds other gaps
    write_unfinished(warehouse, None)
    return rows


def compute_views(wanted: Sequence[View], warehouse: Warehouse, now: datetime) -> dict[str, Rows]:
    """Update views, listed after those that they read, to the newest staged records.

    Those that continue from the same staging version share what they read. Those that are computed
    from each record alone share its words too: what arrived goes through all of them in one pass.
    """
    for view in wanted:
        warehouse.create(view.contract)
    stale = stale_views(warehouse, wanted)
    rows = {view.name: Rows(untouched=warehouse.n_rows(view.relation)) for view in wanted}
    aside = _aside(stale, warehouse)
    with ThreadPoolExecutor(1) as second:
        waiting = [second.submit(_publish, warehouse, now, [view]) for view in aside]
        stale = [view for view in stale if view not in aside]
        for beside in _passes([view for view in stale if view.is_of_records], warehouse):
            rows |= _publish(warehouse, now, beside)
        of_entities = sorted(
            (view for view in stale if not view.is_of_records),
            key=lambda view: _consumed(view, warehouse),
        )
        for _, group in groupby(of_entities, key=lambda view: _consumed(view, warehouse)):
            rows |= _publish(warehouse, now, list(group))
        for published in waiting:
            rows |= published.result()
    return rows


def _aside(due: Sequence[View], warehouse: Warehouse) -> list[View]:
    """Choose the views to compute in a second thread, beside the others.

    They read no view and no view reads them. Many arrivals get all memory for one view at a time.
    """
    read, staged = {name for view in due for name in view.reads}, StagedRecord.relation()
    return [
        view
        for view in due
        if view.is_of_records
        and not (view.is_computed_beside or view.reads or view.name in read)
        and warehouse.n_rows(staged, since=_consumed(view, warehouse)) <= FEW_ROWS
    ]


def _passes(due: Sequence[View], warehouse: Warehouse) -> Iterator[list[View]]:
    """Group views of records, listed after those that they read, that one pass can compute.

    None of a pass reads another, and all continue from the same staging version: a view that lags,
    because a run was killed between two commits, has a pass of its own.
    """
    while due:
        first, names = due[0], {view.name for view in due}
        beside = [
            view
            for view in due
            if first.is_computed_beside
            and view.is_computed_beside
            and _consumed(view, warehouse) == _consumed(first, warehouse)
            and not names & set(view.reads)
        ] or [first]
        due = [view for view in due if view not in beside]
        yield beside


def _publish(warehouse: Warehouse, now: datetime, beside: Sequence[View]) -> dict[str, Rows]:
    """Publish views that continue from the same staging version."""
    version = warehouse.version(StagedRecord.relation())
    # another run may just have published one of them: then this publishes only the others
    consumed = min(_consumed(view, warehouse) for view in beside)
    carried = {view: _prepare(view, warehouse, now, version) for view in beside}
    reads = {f"features.{name}" for view in beside for name in view.reads}
    with connect(
        warehouse, of=(StagedRecord.relation(), *reads, *(view.relation for view in beside))
    ) as connection:
        create_arrivals(connection, warehouse, StagedRecord, since=consumed)
        run = Run(warehouse, connection, now, tuple(beside), since=consumed)
        rows: dict[str, Rows] = {}
        for views in passes_of(run, beside):
            rows |= _publish_pass(views, run, carried, is_replaced=consumed < 0)
        return rows


def _prepare(
    view: View, warehouse: Warehouse, now: datetime, version: int
) -> dict[str, int] | None:
    """Publish what a view needs before its rows, and return the transactions of its commit.

    None means that another run has just published it.
    """
    done = FEATURIZE.at(version)
    try:
        return done | view.prepare(warehouse, now, done)
    except AlreadyPublishedError:
        return None


def _publish_pass(
    views: Sequence[View],
    run: Run,
    carried: Mapping[View, dict[str, int] | None],
    *,
    is_replaced: bool,
) -> dict[str, Rows]:
    """Write the rows of views side by side, then publish one view after the other."""
    before = {view: run.warehouse.n_rows(view.relation) for view in views}
    rows = {view.name: Rows(untouched=before[view]) for view in views}
    n_new = dict.fromkeys(views, 0)
    with ExitStack() as stack:
        begun: dict[View, Publication] = {}
        for view in views:
            if (done := carried[view]) is not None:
                with suppress(AlreadyPublishedError):
                    # other code's rows are replaced in one commit; older versions keep them
                    begun[view] = stack.enter_context(
                        publishing(
                            run.warehouse, view.contract, done, view.digest(), is_whole=is_replaced
                        )
                    )
        if engine := engine_for(run, tuple(begun)):
            computed = computed_parts(engine, run, tuple(begun), is_whole=is_replaced)
            for view, part in stack.enter_context(computed):
                n_new[view] += part.n_new
                begun[view].adopt(part.files, part.n_rows)
        else:
            for view, batch in views[0].rows_beside(run, tuple(begun), is_whole=is_replaced):
                n_new[view] += batch.column("is_new").true_count
                begun[view].write(batch.drop_columns("is_new"))
        for publication in begun.values():
            publication.finish()  # where one of a pass breaks its contract, none is published
        for view, publication in begun.items():
            with suppress(AlreadyPublishedError):
                n_rows = publication.commit().n_rows
                n_recomputed = n_rows - n_new[view]
                rows[view.name] = (
                    Rows(recomputed=n_rows)
                    if is_replaced and before[view]
                    else Rows(n_new[view], n_recomputed, before[view] - n_recomputed)
                )
    return rows


def recompute(warehouse: Warehouse, entities: Mapping[str, Path], now: datetime) -> None:
    """Recompute some entities from all that is staged, replacing all their published rows.

    `entities` has for each view, by its name, a Parquet file with their `entity_id`. The data files
    with rows of theirs are rewritten. An entity of which nothing is staged any more has no rows
    afterwards. Every view must have been up to date before staging changed.
    """
    version = warehouse.version(StagedRecord.relation())
    for view in computed_views(warehouse):
        if FEATURIZE.consumed(warehouse, view.relation) == version:
            continue
        done = FEATURIZE.at(version)
        done |= view.prepare(warehouse, now, done, is_rebuilt=True)
        with connect(warehouse) as connection:
            run = Run(warehouse, connection, now)
            if view.is_rebuilt_whole:
                rows = Counted(view.rows(run, is_whole=True), view.contract)
                publish(warehouse, view.contract, rows, done, view.digest(), is_whole=True)
                continue
            parquet(connection, [entities[view.name]]).create("touched_entities")
            files = warehouse.files(view.relation)
            touched = view.files_of(connection, files, "touched_entities")
            create_view(connection, "published_files", files, view.contract.arrow_schema())
            create_view(connection, "touched_files", touched, view.contract.arrow_schema())
            # rows that other code computed stay marked as such: the next run recomputes them
            code = consumed_version(warehouse, view.relation, CODE)
            publish(warehouse, view.contract, _replaced(view, run), done, code, touched)


def _replaced(view: View, run: Run) -> Iterator[pa.RecordBatch]:
    """Stream the other rows of the touched files, then those of `touched_entities`.

    The latter are computed as if nothing had been published of them.
    """
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
    """Batches in their contract's columns, with a count of the rows that are new."""

    def __init__(self, batches: Iterable[pa.RecordBatch], contract: type[Contract]) -> None:
        """Take batches with the column `is_new`."""
        self.n_new = 0
        self._batches, self._names = batches, contract.arrow_schema().names

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield each batch without `is_new`."""
        for batch in self._batches:
            self.n_new += batch.column("is_new").true_count
            yield batch.select(self._names)
