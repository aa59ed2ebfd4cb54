"""`millrace migrate`: bring a home that an older version made up to this one."""

import click

from flows.commands import HOME_HELP


@click.command()
@click.option("--home", metavar="DIR", help=HOME_HELP)
@click.option("--dry-run", is_flag=True, help="Show what would be done; change nothing.")
def migrate(home: str | None, *, dry_run: bool) -> None:
    """Bring a home that an older version of millrace made up to this one.

    Every run does so first; commands that only read ask for it. What a migration does, it does
    once, and one that is interrupted goes on where it was. A home that a newer version has written
    to is refused. Stop the servers and consumers of the older version before.

    \b
      millrace migrate --dry-run
      millrace migrate
    """
    from pathlib import Path

    from flows.migrations import pending_migrations
    from flows.stages import lock_home
    from transforms.home import Settings
    from transforms.layout import LAYOUT

    settings = Settings(home=Path(home)) if home else Settings()
    root = settings.root
    if settings.replica:
        settings.replica.pull()
    steps = pending_migrations(root)
    if steps and not dry_run:
        with lock_home(root):
            pass  # whoever locks a home migrates it first
    for layout, step in enumerate(steps, LAYOUT - len(steps) + 1):
        click.echo(f"  {layout}  {(step.__doc__ or '').splitlines()[0]}")
    if not steps:
        click.echo(f"{root}: has layout {LAYOUT} already")
    elif dry_run:
        click.echo("Nothing was changed.")
