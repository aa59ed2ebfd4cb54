"""`millrace plan`: what a run would do, without doing it."""

from pathlib import Path

import click

from flows.commands import home_option, source_option


@click.command()
@source_option
@home_option
def plan(source: str, home: str | None) -> None:
    """Show what a run would load, stage, compute and invalidate, table by table.

    Nothing is written.

    A view is recomputed in full if its model, kernel, contract or engine has changed. Removing or
    retyping a published feature is a breaking change: run refuses it without --accept-breaking.
    New rows are estimated from existing ones, seconds from past runs of this home, and disk from
    what these added a row; rows that a run replaces stay on disk until millrace maintain. Changed
    fields and failing checks are looked for in the first rows of each file.
    """
    from flows.planning import plan_run
    from transforms.home import Settings
    from transforms.sources.source import load_source
    from transforms.upkeep.sizes import free_bytes, in_words
    from transforms.warehouse.tables import Warehouse

    checked = load_source(Path(source))
    warehouse = Warehouse(Settings(home=Path(home)) if home else Settings())
    planned, root = plan_run(checked, warehouse), warehouse.settings.root
    for notice in [*planned.notices, *planned.refused]:
        click.echo(f"note: {notice}", err=True)
    click.echo(f"{checked.name}: what a run would do in {root}")
    if not planned.steps:
        click.echo("  nothing to load, stage or compute")
    else:
        click.echo(
            f"  {'table':<28}{'rows, about':>14}{'seconds, about':>16}{'disk, about':>14}   why"
        )
    for step in planned.steps:
        rows = f"{step.rows:,}" if step.rows else "unknown"
        seconds = f"{step.seconds:,.1f}" if step.rows and step.seconds is not None else "unknown"
        disk = in_words(step.n_bytes) if step.rows and step.n_bytes is not None else "unknown"
        click.echo(f"  {step.relation:<28}{rows:>14}{seconds:>16}{disk:>14}   {step.why}")
    n_bytes, n_free = sum(step.n_bytes or 0 for step in planned.steps), free_bytes(root)
    if n_bytes > n_free:
        click.echo(
            f"  disk: {in_words(n_bytes)} are more than the {in_words(n_free)} that are free"
        )
    for line in planned.fields:
        click.echo(f"  fields: {line}")
    for line in planned.checks:
        click.echo(f"  checks: {line}")
    for change in planned.breaking:
        click.echo(f"  breaking: {change}")
    if planned.breaking:
        click.echo(
            "  run stops before it writes anything; --accept-breaking makes these views "
            "again, as they are defined now"
        )
