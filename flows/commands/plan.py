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
    New rows are estimated from existing ones, and seconds from past runs of this home. Changed
    fields and failing checks are looked for in the first rows of each file.
    """
    from flows.planning import plan_run
    from transforms.home import Settings
    from transforms.sources.source import load_source
    from transforms.warehouse.tables import Warehouse

    checked = load_source(Path(source))
    warehouse = Warehouse(Settings(home=Path(home)) if home else Settings())
    planned = plan_run(checked, warehouse)
    for notice in [*planned.notices, *planned.refused]:
        click.echo(f"note: {notice}", err=True)
    click.echo(f"{checked.name}: what a run would do in {warehouse.settings.root}")
    if not planned.steps:
        click.echo("  nothing to load, stage or compute")
    else:
        click.echo(f"  {'table':<28}{'rows, about':>14}{'seconds, about':>16}   why")
    for step in planned.steps:
        rows = f"{step.rows:,}" if step.rows else "unknown"
        seconds = f"{step.seconds:,.1f}" if step.rows and step.seconds is not None else "unknown"
        click.echo(f"  {step.relation:<28}{rows:>14}{seconds:>16}   {step.why}")
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
