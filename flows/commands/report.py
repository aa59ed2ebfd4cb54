"""`millrace report`: one page about the data in a home."""

from pathlib import Path

import click

from flows.commands import home_option, open_warehouse


@click.command()
@home_option
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Where to write it. Default: report.html in the home.",
)
@click.option("--open", "is_opened", is_flag=True, help="Show it in the browser.")
def report(home: str | None, output: str | None, *, is_opened: bool) -> None:
    """Write a page about the home: one HTML file that needs no network and no server.

    What became of every row, volume and lateness, quality and language, drift, schema changes,
    quarantine, every feature with its distribution, the speed of the last runs. Numbers and names
    only: no text of a record, and no id, is on it.
    """
    from flows.report.page import write_report

    path = write_report(open_warehouse(home), Path(output) if output else None)
    click.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    if is_opened:
        click.launch(str(path))
