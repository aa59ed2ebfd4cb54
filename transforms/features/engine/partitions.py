"""Which views of a run an engine computes, and what becomes of the files that its workers write."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from transforms.engines.engine import Engine
from transforms.engines.engine import engine_for as engine_for_rows
from transforms.features.engine.group_by import GroupView
from transforms.features.engine.group_parts import group_parts, rebuilt_groups
from transforms.features.engine.parts import Part, n_arrived
from transforms.features.engine.record_parts import rebuilt_records, record_parts
from transforms.features.rows import Kept
from transforms.features.view import Run, View
from transforms.warehouse.scratch import PARTS, scratch_folder, sweep_parts
from transforms.warehouse.tables import Warehouse


def passes_of(run: Run, views: Sequence[View]) -> list[list[View]]:
    """Group views that continue from one staging version: those of a pass are computed at once.

    Those of an engine are, for what they read is scattered once.
    """
    if views[0].is_computed_beside:
        return [list(views)]
    together = [view for view in views if engine_for(run, [view])]
    alone = [[view] for view in views if view not in together]
    return [together, *alone] if together else alone


def engine_for(run: Run, views: Sequence[View]) -> Engine | None:
    """Return the engine that is to compute views of a pass; None is this process.

    Other kinds of views are computed in this process.
    """
    if not any(map(has_parts, views)):
        return None
    return engine_for_rows(run.warehouse.settings, n_arrived(run))


def has_parts(view: View) -> bool:
    """Whether an engine can compute a view."""
    return view.is_computed_beside or isinstance(view, GroupView)


@contextmanager
def computed_parts(
    engine: Engine, run: Run, views: Sequence[View], *, is_whole: bool
) -> Iterator[Iterator[tuple[View, Part]]]:
    """Compute views of a pass by an engine: their parts, as they are written.

    At the end, files that no commit made visible are deleted: those of an attempt whose worker
    ended after it wrote them, and all of them where the run fails.
    """
    groups = [view for view in views if isinstance(view, GroupView)]
    with _swept_folder(run.warehouse) as folder:
        yield (
            group_parts(engine, run, groups, folder, is_whole=is_whole)
            if groups
            else record_parts(engine, run, views, folder, is_whole=is_whole)
        )


@contextmanager
def rebuilt_parts(
    engine: Engine, run: Run, view: View, entities: str, kept: Kept
) -> Iterator[Iterator[tuple[View, Part]]]:
    """Compute some entities of a view again by an engine: the parts of the rows that are kept.

    `entities` is a relation with `entity_id`. At the end, files are deleted as by `computed_parts`.
    """
    with _swept_folder(run.warehouse) as folder:
        of = (engine, run)
        yield (
            rebuilt_groups(*of, view, entities, folder, kept)
            if isinstance(view, GroupView)
            else rebuilt_records(*of, view, entities, folder, kept)
        )


@contextmanager
def _swept_folder(warehouse: Warehouse) -> Iterator[Path]:
    with scratch_folder(warehouse.settings.root) as folder:
        try:
            yield folder
        finally:
            sweep_parts(warehouse, folder / PARTS)
