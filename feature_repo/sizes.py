"""How many bytes the online store of a home takes; the tables' are in `transforms.upkeep`."""

from pathlib import Path
from typing import NamedTuple

from feature_repo.client import store, store_settings
from transforms.paths import file_bytes

SUFFIX = "OnlineStore"
NAMES = {"Sqlite": "SQLite", "Postgres": "PostgreSQL"}


class OnlineSize(NamedTuple):
    """An online store and its bytes; None if they are not measured, for the reason in `note`."""

    store: str
    n_bytes: int | None
    note: str = ""


def online_size(home: Path) -> OnlineSize:
    """Measure the online store: a file by its size, which loads no Feast; others are asked."""
    settings = store_settings(home)["online_store"]
    kind = settings["type"].rpartition(".")[2].removesuffix(SUFFIX)
    name = NAMES.get(kind, kind)
    if "path" in settings:
        path = Path(settings["path"])  # SQLite keeps what was written last in files beside it
        files = [path, *(path.with_name(f"{path.name}-{end}") for end in ("wal", "shm"))]
        return OnlineSize(name, sum(map(file_bytes, files)))
    try:
        opened = store(home)
        measure = getattr(opened.provider.online_store, "n_bytes", None)
        if measure is None:
            return OnlineSize(name, None, "not measured: the store does not tell it by home")
        return OnlineSize(name, measure(opened.config))
    except Exception as error:  # noqa: BLE001 - each client has its own; the tables are still told
        return OnlineSize(name, None, f"not measured: no answer ({type(error).__name__})")
