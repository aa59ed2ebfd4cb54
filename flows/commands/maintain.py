"""`millrace maintain`: compact tables and delete files that are no longer needed."""

import click

from flows.commands import home_option, open_warehouse


@click.command()
@home_option
@click.option(
    "--keep-days",
    type=click.FloatRange(min=0),
    help="Days for which replaced data files are kept. Default: 7.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done; change nothing.")
def maintain(home: str | None, keep_days: float | None, *, dry_run: bool) -> None:
    """Merge small files, drop replaced rows and delete data files that are no longer needed.

    It keeps the newest version of every table, the versions that registered locks name (millrace
    locks), what a view or a source has not processed yet, and what was replaced less than
    --keep-days ago. It causes no work for the next run. Seconds are the median of three reads of
    all rows and columns.
    """
    from flows.stages import MaintainParameters, run_maintenance
    from transforms.upkeep.sizes import in_words

    settings = open_warehouse(home).settings
    done = run_maintenance(
        MaintainParameters(home=str(settings.root), keep_days=keep_days, dry_run=dry_run)
    )
    would = "would be " if dry_run else ""
    if not done["compacted"]:
        click.echo("  no table has many small files or replaced rows")
    for item in done["compacted"]:
        measured = "" if dry_run else f", {item['n_rows_dropped']:,} replaced rows dropped"
        speed = (
            ""
            if dry_run
            else f"; a read takes {item['seconds_after']:.3f} s, before {item['seconds']:.3f} s"
        )
        click.echo(
            f"  {item['relation']:<28}{item['n_files']:>5} files {would}written as "
            f"{item['n_files_after']}{measured}{speed}"
        )
    n_files, n_bytes = (
        sum(item[name] for item in done["vacuumed"]) for name in ("n_files", "n_bytes")
    )
    click.echo(f"  {n_files:,} data files {would}deleted, {in_words(n_bytes)}")
