"""`millrace refresh`: bring the online store up to date for windows that have ended."""

import click

from flows.commands import home_option, open_warehouse


@click.command()
@home_option
def refresh(home: str | None) -> None:
    """Write online the entities whose windows have ended since the last run.

    A store with `layout: feast`, or one of another kind than ours, has the values of its last
    update; schedule this at every hop of your windows, as the deployment of that name does.
    millrace serve does it by itself. With `layout: compact`, the default, only views with
    online=days(n) need it: of all others the store has what is to come and goes by the clock. Reads
    no new records: see millrace run.
    """
    from flows.stages import RefreshParameters, run_refresh

    root = open_warehouse(home).settings.root
    written = run_refresh(RefreshParameters(home=str(root)))
    for view, count in written.items():
        click.echo(f"  online {view:<28}{count:>12,} entities")
    if not written:
        click.echo(f"{root}: the online store goes by the clock; nothing to refresh")
