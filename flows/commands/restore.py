"""`millrace restore`: make a home from a backup."""

import click

from flows.commands import HOME_HELP


@click.command()
@click.argument("place")
@click.option("--home", metavar="DIR", help=HOME_HELP)
@click.option("--backup", "name", metavar="NAME", help="Which one; by default the newest there.")
@click.option("--check", "is_check", is_flag=True, help="Read the backup back; restore nothing.")
def restore(place: str, home: str | None, name: str | None, *, is_check: bool) -> None:
    """Make an empty home from a backup in PLACE, and write its online store.

    Every file is compared with its digest; one that is damaged or missing is named, and the home
    stays empty. Nobody can use a home before it is whole: a restore that is interrupted has to be
    run again. Who was erased after the backup is erased again, as far as backups in PLACE tell.

    \b
      millrace restore /mnt/backups/home --home /srv/millrace
      millrace restore s3://backups/home --check
    """
    from pathlib import Path

    from flows.stages import run_restore
    from transforms.home import Settings
    from transforms.upkeep.restore import check
    from transforms.upkeep.sizes import in_words

    if is_check:
        backup = check(place, name)
        click.echo(f"  {backup.name}: {len(backup.files):,} files, all as they were written")
        return
    root = (Settings(home=Path(home)) if home else Settings()).root
    backup, n_due = run_restore(root, place, name)
    click.echo(
        f"  {backup.name}: {len(backup.files):,} files, {in_words(backup.n_bytes)}; {root} is whole"
    )
    if n_due:
        click.echo(
            f"  {n_due} erasures were done after it and wait until all loads are staged: run every "
            "source"
        )
