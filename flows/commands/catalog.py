"""`millrace catalog`: the relations of a home as a DuckDB file, for other programs."""

from datetime import datetime
from pathlib import Path

import click

from flows.commands import Instant, home_option, open_warehouse


@click.command()
@click.option(
    "--duckdb", "path", required=True, type=click.Path(path_type=Path), help="The file to write."
)
@click.option("--at", type=Instant(), metavar="INSTANT", help="The tables as they were then.")
@click.option("--reveal", is_flag=True, help="Show texts, raw rows and addresses as they are.")
@home_option
def catalog(path: Path, at: datetime | None, home: str | None, *, reveal: bool) -> None:
    """Write a small DuckDB file with a view of each relation: for dbt, Ibis, notebooks, BI tools.

    The file has no rows. Its views read the home's data files, each table at the version of now,
    so write it again after each run; maintenance deletes files that a newer run has replaced after
    MILLRACE_KEEP_DAYS days. Texts and persons are masked as in millrace sql, unless you say
    --reveal.

    \b
      millrace catalog --duckdb tickets.duckdb
      duckdb -readonly tickets.duckdb "from features.author_activity"
    """
    from transforms.warehouse.queries import write_catalog

    for name in write_catalog(open_warehouse(home), path, at, reveal=reveal):
        click.echo(name)
