"""Registers the definitions of a home in object storage on this machine; run as a module."""

import sys
from pathlib import Path

from feature_repo.online import SUMMARY, apply, waits_for_run
from transforms.home import settings_of
from transforms.warehouse.tables import Warehouse


def is_ready(warehouse: Warehouse) -> bool:
    """Whether a run has left something to register."""
    home = warehouse.settings.root
    return bool(warehouse.versions()) and (not waits_for_run(home) or (home / SUMMARY).is_file())


if __name__ == "__main__":
    warehouse = Warehouse(settings_of(Path(sys.argv[1])))
    if is_ready(warehouse):
        apply(warehouse)
