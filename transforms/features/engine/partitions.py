"""Which views of a run an engine computes, and what becomes of the files that its workers write."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from transforms.engines.engine import Engine
from transforms.engines.engine import engine_for as engine_for_rows
from transforms.features.engine.group_by import GroupView
from transforms.features.engine.group_parts import group_parts
from transforms.features.engine.parts import Part, n_arrived
from transforms.features.engine.record_parts import record_parts
from transforms.features.view import Run, View
from transforms.warehouse.scratch import PARTS, scratch_folder, sweep_parts


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
    is_in_parts = any(view.is_computed_beside or isinstance(view, GroupView) for view in views)
    return engine_for_rows(run.warehouse.settings, n_arrived(run)) if is_in_parts else None


@contextmanager
def computed_parts(
    engine: Engine, run: Run, views: Sequence[View], *, is_whole: bool
) -> Iterator[Iterator[tuple[View, Part]]]:
    """Compute views of a pass by an engine: their parts, as they are written.

    At the end, files that no commit made visible are deleted: those of an attempt whose worker
    ended after it wrote them, and all of them where the run fails.
    """
    groups = [view for view in views if isinstance(view, GroupView)]
    with scratch_folder(run.warehouse.settings.root) as folder:
        try:
            yield (
                group_parts(engine, run, groups, folder, is_whole=is_whole)
                if groups
                else record_parts(engine, run, views, folder, is_whole=is_whole)
            )
        finally:
            sweep_parts(run.warehouse, folder / PARTS)
