"""`millrace backup`: copy a home, beside runs, to a folder or to object storage."""

import click

from flows.commands import home_option, open_warehouse


@click.command()
@click.argument("place")
@home_option
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    metavar="N",
    help="Then delete all backups there but the newest N.",
)
def backup(place: str, home: str | None, keep: int | None) -> None:
    """Copy a home to PLACE, a folder or s3://BUCKET/FOLDER, as it is at one instant.

    Runs and servers go on meanwhile. Only what PLACE does not have yet is copied, and a backup that
    is interrupted leaves those before it whole. The online store and Feast's registry are not
    copied: a restore makes them again. One home a place; a second backup there waits for the first.

    \b
      millrace backup /mnt/backups/home
      millrace backup s3://backups/home --keep 30
    """
    from flows.stages import run_backup
    from transforms.upkeep.sizes import in_words

    root = open_warehouse(home).settings.root
    (taken, n_files, n_bytes), deleted = run_backup(root, place, keep)
    click.echo(
        f"  {taken.name}: {len(taken.files):,} files, {in_words(taken.n_bytes)}; copied "
        f"{n_files:,} of them, {in_words(n_bytes)}"
    )
    for name in deleted:
        click.echo(f"  {name}: deleted")
