"""Registers the definitions of a home in object storage on this machine; run as a module."""

import sys
from pathlib import Path

from feature_repo.online import apply
from transforms.home import settings_of
from transforms.warehouse.tables import Warehouse

if __name__ == "__main__":
    warehouse = Warehouse(settings_of(Path(sys.argv[1])))
    if warehouse.versions():
        apply(warehouse)
