"""Registers the definitions of a home in object storage on this machine; run as a module."""

import sys
from pathlib import Path

from feature_repo.client import store_settings
from feature_repo.online import SUMMARY, apply
from transforms.home import settings_of
from transforms.warehouse.tables import Warehouse


def is_ready(warehouse: Warehouse) -> bool:
    """Whether a run has left something to register; in a store of all machines, a whole run."""
    home = warehouse.settings.root
    is_own = "path" in store_settings(home)["online_store"]
    return bool(warehouse.versions()) and (is_own or (home / SUMMARY).is_file())


if __name__ == "__main__":
    warehouse = Warehouse(settings_of(Path(sys.argv[1])))
    if is_ready(warehouse):
        apply(warehouse)
