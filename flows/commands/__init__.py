"""What the commands share: their options, and opening an existing home.

Each other module is one command; all are cheap to import.
"""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from transforms.warehouse.tables import Warehouse

HOME_HELP = (
    "Folder for everything the pipeline writes, or s3://BUCKET/FOLDER. Default: MILLRACE_HOME, "
    "else the nearest .millrace, here or above."
)
source_option = click.option(
    "--source",
    required=True,
    metavar="FILE",
    help="YAML file that says where the records are and which field is which.",
)
home_option = click.option("--home", metavar="DIR", help=HOME_HELP)
cert_option = click.option(
    "--cert",
    type=click.Path(exists=True, dir_okay=False),
    help="Certificate, PEM: speak TLS, with --key.",
)
key_option = click.option(
    "--key", type=click.Path(exists=True, dir_okay=False), help="Private key of --cert, PEM."
)


class Instant(click.ParamType):  # type: ignore[type-arg]  # which only newer versions take
    """An instant in ISO 8601; without an offset it is UTC."""

    name = "instant"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Read the text; click adds which option it was for."""
        from transforms.errors import InstantError
        from transforms.instants import parse_instant

        try:
            return value if isinstance(value, datetime) else parse_instant(value)
        except InstantError as error:
            self.fail(f"{value!r} is {error}", param, ctx)


def check_server(host: str, cert: str | None, key: str | None) -> None:
    """Refuse half of a TLS pair; tell who is about to let anybody in from other machines."""
    from feature_repo.guard import PREFIX, server_settings

    if bool(cert) != bool(key):
        message = "--cert and --key go together"
        raise click.UsageError(message)
    is_asked_for_token = server_settings().tokens
    if host not in {"127.0.0.1", "::1", "localhost"} and not is_asked_for_token:
        click.echo(
            f"note: whoever reaches {host} may ask, unless feature_store.yaml has auth: oidc; "
            f"{PREFIX}TOKEN asks for a token",
            err=True,
        )


def open_warehouse(home: str | None) -> "Warehouse":
    """Open a home that has tables; raises `HomeError` if there is none."""
    from transforms.errors import HomeError
    from transforms.home import Settings
    from transforms.warehouse.tables import Warehouse

    settings = Settings(home=Path(home)) if home else Settings()
    warehouse = Warehouse(settings)
    if not warehouse.versions():
        message = (
            f"{settings.root}: nothing is there yet; run millrace run --source FILE first, or say "
            "--home"
        )
        raise HomeError(message)
    return warehouse
