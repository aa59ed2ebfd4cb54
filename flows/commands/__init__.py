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
    "Folder for everything the pipeline writes. Default: MILLRACE_HOME, else the nearest "
    ".millrace, here or above."
)
source_option = click.option(
    "--source",
    required=True,
    metavar="FILE",
    help="YAML file that says where the records are and which field is which.",
)
home_option = click.option("--home", metavar="DIR", help=HOME_HELP)


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
