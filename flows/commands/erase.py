"""`millrace erase`: erase a person's or a record's data from a home."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.commands import home_option, open_warehouse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flows.stages import Erasure

LISTED = 3


@click.command()
@click.option("--author", metavar="ID", help="All rows of an author.")
@click.option("--record", metavar="ID", help="All versions of a record.")
@click.option("--source-file", metavar="PATH", help="All rows that came in a file.")
@home_option
@click.option("--dry-run", is_flag=True, help="Show what would be erased; change nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def erase(
    author: str | None,
    record: str | None,
    source_file: str | None,
    home: str | None,
    *,
    dry_run: bool,
    yes: bool,
) -> None:
    """Erase an author's, a record's or a file's data. This cannot be undone.

    The data is deleted from raw, staging, quarantine, the accounts, the features, the online
    store, the spines of locked training sets, and all older versions of the tables. What remains
    equals a rebuild from the other rows. Rejected rows have no parsed id; they are deleted if
    their bytes contain the id as a word. The next command that writes finishes an interrupted
    erasure.

    \b
    Not erased: the source's own files, texts of others that mention the id,
    training sets saved elsewhere, backups.

    \b
      millrace erase --author jane --dry-run
      millrace erase --record CVE-2024-39337 --yes
    """
    from flows.stages import run_erasure
    from transforms.lineage.trace import find_uri
    from transforms.upkeep.erase import Wanted

    if sum(asked is not None for asked in (author, record, source_file)) != 1:
        message = "give one of --author, --record and --source-file"
        raise click.UsageError(message)
    warehouse = open_warehouse(home)
    root: Path = warehouse.settings.root
    wanted = Wanted(
        author=author,
        record=record,
        source_file=find_uri(warehouse, source_file) if source_file is not None else None,
    )
    found = run_erasure(root, wanted, is_dry=True)
    click.echo("\n".join(_lines(found)))
    if dry_run:
        click.echo("Nothing was changed.")
        return
    if not yes:
        click.confirm("Erase this permanently?", abort=True)
    run_erasure(root, wanted, is_dry=False)
    click.echo("Erased; all data files were read back, and none contains any of it.")


def _lines(found: "Erasure") -> "Iterator[str]":
    erased, locks = found
    for relation, n_rows in erased.rows.items():
        yield f"  {relation:<28}{n_rows:>11,} rows erased" + (
            f", of {erased.n_records:,} records" if relation == "staging.records" else ""
        )
    for view, n_entities in erased.entities.items():
        yield (
            f"  {'features.' + view:<28}{erased.feature_rows[view]:>11,} rows of {n_entities:,} "
            "entities recomputed or erased"
        )
    for lock in locks:
        spine = f"; {lock.n_spine_rows:,} rows of its spine erased" if lock.n_spine_rows else ""
        yield (
            f"  lock {lock.name}: "
            + ("can no longer be rebuilt" if lock.is_lost else "its tables stay")
            + spine
        )
    if erased.n_mentions:
        yield f"  {erased.n_mentions:,} rows of others mention it in their text, and are kept"
    files = erased.source_files
    listed = ", ".join(files[:LISTED]) + (" ..." if len(files) > LISTED else "")
    yield f"  still in {len(files):,} files of the source, which are yours to edit: {listed}"
