"""`millrace plan`: what a run would do, without doing it."""

from pathlib import Path

import click

from flows.commands import home_option, source_option


@click.command()
@source_option
@home_option
def plan(source: str, home: str | None) -> None:
    """Show what a run would load, stage and compute. Nothing is written.

    A view whose model, kernel, contract or engine has changed since it was made is computed again, all of it.
    """
    from flows.stages import Planned, planned_work
    from transforms.settings import Settings
    from transforms.source import load_source
    from transforms.warehouse import Warehouse

    checked = load_source(Path(source))
    warehouse = Warehouse(Settings(home=Path(home)) if home else Settings())
    planned: Planned = planned_work(checked, warehouse)
    for notice in [*planned.notices, *planned.refused]:
        click.echo(f"note: {notice}", err=True)
    click.echo(f"{checked.name}: what a run would do in {warehouse.settings.root}")
    if planned.n_files:
        click.echo(f"  load     {planned.n_files:>12,} files, {planned.n_bytes / 1e6:,.1f} MB")
    if planned.n_unstaged:
        click.echo(f"  stage    {planned.n_unstaged:>12,} raw rows that are loaded already")
    for relation, (n_rows, reason) in planned.views.items():
        if n_rows:
            click.echo(f"  compute  {n_rows:>12,} staged versions into {relation}: {reason}")
    if planned.n_files or planned.n_unstaged:
        click.echo("  then compute what these rows bring: how much is known once they are staged")
    elif not any(n_rows for n_rows, _ in planned.views.values()):
        click.echo("  nothing to load, stage or compute")
