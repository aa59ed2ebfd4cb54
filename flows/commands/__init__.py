"""What the commands share: their options, and opening a home that is there. One further command a module; all are light to import."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from transforms.warehouse import Warehouse

HOME_HELP = "Folder that holds everything the pipeline writes. Default: MILLRACE_HOME, else the nearest .millrace, here or above."
source_option = click.option(
    "--source", required=True, metavar="FILE", help="YAML file that says where the records are and which field is which."
)
home_option = click.option("--home", metavar="DIR", help=HOME_HELP)


def open_warehouse(home: str | None) -> "Warehouse":
    """Open a home that holds tables; `HomeError` where there is none."""
    from transforms.errors import HomeError
    from transforms.settings import Settings
    from transforms.warehouse import Warehouse

    settings = Settings(home=Path(home)) if home else Settings()
    warehouse = Warehouse(settings)
    if not warehouse.versions():
        message = f"{settings.root}: nothing is there yet; run millrace run --source FILE first, or say --home"
        raise HomeError(message)
    return warehouse
