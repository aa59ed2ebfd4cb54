"""`millrace locks`: the training sets that can be rebuilt."""

from pathlib import Path

import click

from flows.commands import home_option, open_warehouse


@click.group(invoke_without_command=True)
@home_option
@click.pass_context
def locks(context: click.Context, home: str | None) -> None:
    """List the registered locks of training sets, and whether all they need still exists.

    Register a lock with training_set(...).register(NAME) in Python, or here. `millrace maintain`
    keeps the table versions that a registered lock names.

    \b
      millrace locks check NAME                             rebuild it and compare
      millrace locks add NAME --lock FILE --spine PARQUET   register a saved lock
      millrace locks remove NAME                            stop keeping its table versions
    """
    if context.invoked_subcommand:
        return
    from feature_repo.locks import missing_versions, registered

    warehouse = open_warehouse(home)
    found = registered(warehouse.settings.root)
    if not found:
        click.echo("No lock is registered; training_set(...).register(NAME) registers one.")
    for lock in found:
        click.echo(
            f"{lock.name}: registered {lock.registered:%Y-%m-%d %H:%M} UTC, "
            f"{lock.spine().num_rows:,} rows"
        )
        features = lock.content["features"]
        click.echo(f"  features  {features if isinstance(features, str) else ', '.join(features)}")
        click.echo(
            "  tables    " + ", ".join(f"{view} {version}" for view, version in lock.tables.items())
        )
        click.echo(
            "  state     " + ("; ".join(missing_versions(lock.content, warehouse)) or "all there")
        )


@locks.command()
@click.argument("name")
@home_option
def check(name: str, home: str | None) -> None:
    """Rebuild a registered training set and compare it.

    Exit code 0 if it is equal; else 1, with what is missing or has changed.
    """
    from feature_repo import training_set

    made = training_set.rebuild(name, home=open_warehouse(home).settings.root)
    click.echo(f"{name}: equal, {made.frame.height:,} rows, {made.frame.width} columns")


@locks.command()
@click.argument("name")
@click.option(
    "--lock",
    "lock",
    required=True,
    type=click.Path(exists=True, dir_okay=False),
    help="The saved lock, JSON.",
)
@click.option(
    "--spine",
    required=True,
    type=click.Path(exists=True, dir_okay=False),
    help="Its spine, Parquet.",
)
@home_option
def add(name: str, lock: str, spine: str, home: str | None) -> None:
    """Register a saved lock with its spine, if it rebuilds the same training set."""
    from feature_repo import training_set
    from feature_repo.locks import register

    root = open_warehouse(home).settings.root
    made = training_set.rebuild(Path(lock), Path(spine), root)
    register(root, name, made.lock, made.spine)
    click.echo(f"{name}: registered, {made.frame.height:,} rows")


@locks.command()
@click.argument("name")
@home_option
def remove(name: str, home: str | None) -> None:
    """Remove a lock and its spine from the home."""
    from feature_repo.locks import remove

    remove(open_warehouse(home).settings.root, name)
    click.echo(f"{name}: removed")
