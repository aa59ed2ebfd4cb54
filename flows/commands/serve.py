"""`millrace serve`: the feature server on a home."""

import os
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import click

from flows.commands import cert_option, check_server, home_option, key_option
from flows.commands.consume import consuming

REFRESH_SECONDS = 300  # the hop of the shortest windows


@click.command()
@home_option
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=6566, show_default=True)
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(min=1), help="Processes."
)
@cert_option
@key_option
@click.option("--writes", is_flag=True, help="Have Feast's routes that write, too: /push and more.")
@click.option("--open-metrics", is_flag=True, help="Answer /metrics without a token.")
@click.option("--no-access-log", is_flag=True, help="Print no line for each request.")
@click.option(
    "--ingest",
    metavar="FILE",
    help="Also take posted records of this source file, as `millrace consume` does.",
)
@click.option(
    "--ingest-port", default=6567, show_default=True, help="Port that takes posts with --ingest."
)
def serve(
    home: str | None,
    host: str,
    port: int,
    workers: int,
    cert: str | None,
    key: str | None,
    ingest: str | None,
    ingest_port: int,
    *,
    writes: bool,
    open_metrics: bool,
    no_access_log: bool,
) -> None:
    """Serve online features over HTTP: Feast's own feature server on this home.

    Windows end as the clock says. What does not go by the clock (a store with layout: feast, a view
    with online=days(n)) is brought up to date every five minutes, as by millrace refresh.

    With --ingest a second process takes records on a port of its own and keeps the features fresh;
    both end together.

    \b
    Who may ask, and how much, is set in the environment (docs/operate.md):
      MILLRACE_SERVER_TOKEN        token that every request but /health brings
      MILLRACE_SERVER_TOKEN_FILE   file with such tokens, one a line
      MILLRACE_SERVER_MAX_ROWS, _MAX_BODY_BYTES, _MAX_REQUESTS, _BODY_SECONDS

    OIDC is Feast's: `auth:` in feature_store.yaml, with audience and issuer.
    """
    from yaml import safe_load

    from feature_repo.client import REPOSITORY, home_of
    from feature_repo.guard import PREFIX, auth_of, checked_auth, server_settings
    from feature_repo.online import need_refresh
    from feature_repo.registry_digest import has_digest, read
    from transforms.importing import unchecked

    check_server(host, cert, key)
    for name, is_asked in (("WRITES", writes), ("OPEN_METRICS", open_metrics)):
        if is_asked:
            os.environ[PREFIX + name] = "1"
    beside = consuming(ingest, home, host, ingest_port, cert, key) if ingest else nullcontext()
    with beside:
        root = home_of(home)  # the first pass of a consumer makes it
        settings = root / "feature_store.yaml"
        if has_digest(safe_load(settings.read_text("utf-8"))["registry"], str(settings)):
            read(root / "feast" / "registry.db")
        checked_auth(server_settings(), auth_of(root))
        # no table is opened: Delta's threads would be missing where the server forks
        if need_refresh(root):
            keep_fresh(root)
        with unchecked("feast"):
            from feast.cli.cli import cli

        # Feast restarts a worker after 1,000 requests, which are answered late
        options = ["--host", host, "--port", port, "--workers", workers, "--max-requests", 0]
        options += ["--cert", cert, "--key", key] if cert and key else []
        options += ["--no-access-log"] if no_access_log else []
        cli(["-c", str(REPOSITORY), "-f", str(settings), "serve", *map(str, options)])


def keep_fresh(home: Path, seconds: float = REFRESH_SECONDS) -> None:
    """Start a refresh of a home in a process of its own at every so many seconds of the clock."""
    command = [sys.executable, "-m", "flows.cli", "refresh", "--home", str(home)]

    def run_on() -> None:
        while True:
            time.sleep(seconds - time.time() % seconds)
            done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)  # noqa: S603 - ours
            if done.returncode:
                click.echo("millrace: the online store was not refreshed; see above", err=True)

    threading.Thread(target=run_on, name="refresh", daemon=True).start()
