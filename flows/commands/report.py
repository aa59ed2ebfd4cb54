"""`millrace report`: one page about the data in a home."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.commands import cert_option, check_server, home_option, key_option, open_warehouse

if TYPE_CHECKING:
    from transforms.warehouse.tables import Warehouse


@click.command()
@home_option
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Where to write it. Default: report.html in the home.",
)
@click.option("--open", "is_opened", is_flag=True, help="Show it in the browser.")
@click.option(
    "--serve", "is_served", is_flag=True, help="Serve it instead, and keep it and open pages fresh."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="With --serve.")
@click.option("--port", default=6568, show_default=True, help="With --serve.")
@cert_option
@key_option
def report(
    home: str | None,
    output: str | None,
    host: str,
    port: int,
    cert: str | None,
    key: str | None,
    *,
    is_opened: bool,
    is_served: bool,
) -> None:
    """Write a page about the home: one HTML file that needs no network and no server.

    What became of every row, volume and lateness, quality and language, drift, schema changes,
    quarantine, the speed of the last runs; the way from sources to services as a picture; every
    feature with its meaning, code, distribution, freshness and readers, to be searched. Numbers,
    names and code only: no text of a record, and no id, is on it.

    With --serve the page is drawn again whenever the home has changed, and open pages follow.
    Ctrl-C ends that. From other machines it is reached with a token only: set
    MILLRACE_SERVER_TOKEN (or _TOKEN_FILE) and --host; the browser asks for it as a password.
    """
    if is_served and output:
        message = "--serve writes no file; leave out --output"
        raise click.UsageError(message)
    warehouse = open_warehouse(home)
    if is_served:
        serve_report(warehouse, host, port, cert, key, is_opened=is_opened)
        return
    from flows.report.page import write_report

    path = write_report(warehouse, Path(output) if output else None)
    click.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    if is_opened:
        click.launch(str(path))


def serve_report(
    warehouse: "Warehouse",
    host: str,
    port: int,
    cert: str | None,
    key: str | None,
    *,
    is_opened: bool = False,
) -> None:
    """Serve the report until Ctrl-C; raises `UsageError` where others could ask without a token."""
    import uvicorn

    from feature_repo.guard import PREFIX, StaticTokens, server_settings
    from flows.report.serving import LOOPBACK, Report, create_app

    tokens, is_near = server_settings().tokens, host in LOOPBACK
    if not (tokens or is_near):
        message = f"--host {host}: other machines would reach the report; set {PREFIX}TOKEN"
        raise click.UsageError(message)
    check_server(host, cert, key)
    is_known = StaticTokens(tokens) if tokens else None
    app = create_app(Report(warehouse), is_known, LOOPBACK if is_near else ["*"])
    address = f"{'https' if cert else 'http'}://{host}:{port}/"
    click.echo(f"{address} shows {warehouse.settings.root}; Ctrl-C ends it")
    if is_opened:
        click.launch(address)
    uvicorn.run(
        app, host=host, port=port, ssl_certfile=cert, ssl_keyfile=key, log_level="warning",
        timeout_graceful_shutdown=5,
    )  # fmt: skip
