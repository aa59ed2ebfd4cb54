"""What training and serving code calls. Feast is loaded by the first call, not by the import."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa
    from feast import FeatureStore

    Spine: TypeAlias = pl.DataFrame | pl.LazyFrame | pd.DataFrame | pa.Table | str

REPOSITORY = Path(__file__).parent
PACKAGES = ("deltalake", "duckdb", "feast", "millrace", "pandera", "polars", "pyarrow")


@dataclass(frozen=True)
class TrainingSet:
    """A training set and what it was made from.

    `frame` holds every spine row, in order, with the features behind it. `lock` tells the spine's digest, the features,
    the registry's digest, the version of every table and of every package: two equal locks make equal frames.
    """

    frame: "pl.DataFrame"
    lock: Mapping[str, Any]


def store(home: Path | str | None = None) -> "FeatureStore":
    """Open the Feast store of a home, from any folder: the one given, else `MILLRACE_HOME`, else the nearest `.millrace`.

    Raises `HomeError` where no pipeline has run yet.
    """
    from feast import FeatureStore

    return FeatureStore(config=repo_config(_home(home)))


def repo_config(home: Path) -> Any:
    """Feast's configuration for a home: `feature_store.yaml` of this folder, with the home's own paths in it."""
    from feast.repo_config import RepoConfig

    return RepoConfig(**store_settings(home), repo_path=REPOSITORY)


def store_settings(home: Path) -> dict[str, Any]:
    """Read `feature_store.yaml` and put a home in the place of the default one."""
    import yaml

    settings = yaml.safe_load((REPOSITORY / "feature_store.yaml").read_text("utf-8"))
    settings["registry"] = str(home / "feast" / "registry.db")
    settings["offline_store"]["warehouse"] = str(home)
    if settings["online_store"]["type"] == "sqlite":
        settings["online_store"]["path"] = str(home / "feast" / "online.db")
    return dict(settings)


def training_set(spine: "Spine", features: "Sequence[str] | str", home: Path | str | None = None) -> TrainingSet:
    """Join features to a spine as they were known at each row's instant.

    `spine` is a Polars, pandas or Arrow frame, or an SQL query over the warehouse (`select ... from staging.records`),
    with `event_timestamp` (naive means UTC) and the keys of the views asked for. `features` is the name of a feature
    service (`"triage_v1"`) or a list of `"view:feature"`; columns come back as `view__feature`.
    """
    import polars as pl

    from transforms.settings import Settings
    from transforms.warehouse import Warehouse

    root = _home(home)
    warehouse = Warehouse(Settings(home=root))
    feature_store = store(root)
    references: Any = feature_store.get_feature_service(features) if isinstance(features, str) else list(features)
    with warehouse.connect() as connection:
        table = _arrow(spine, connection)
    versions: dict[str, int] = {}
    while versions != warehouse.versions():  # a commit in between would make the lock name other tables than were joined
        versions = warehouse.versions()
        frame = pl.DataFrame(feature_store.get_historical_features(table, references, full_feature_names=True).to_arrow())
    lock = {
        "spine": _digest(table),
        "features": features if isinstance(features, str) else list(features),
        "registry": hashlib.sha256((root / "feast" / "registry.db").read_bytes()).hexdigest(),
        "tables": versions,
        "packages": {package: version(package) for package in PACKAGES},
    }
    return TrainingSet(frame, lock)


def online_features(features: "Sequence[str] | str", rows: "Sequence[Mapping[str, Any]]", home: Path | str | None = None) -> "pl.DataFrame":
    """Read the newest values for some entities, e.g. `online_features("triage_v1", [{"author_id": "mitre"}])`.

    Each row carries the keys of the views asked for; columns come back as `view__feature`.
    """
    import polars as pl

    feature_store = store(home)
    references: Any = feature_store.get_feature_service(features) if isinstance(features, str) else list(features)
    asked = [{"event_timestamp": datetime.now(UTC), **row} for row in rows] if _wants_instant(feature_store, references) else list(rows)
    response = feature_store.get_online_features(features=references, entity_rows=asked, full_feature_names=True)
    return pl.DataFrame(response.to_arrow())


def _wants_instant(feature_store: "FeatureStore", references: Any) -> bool:
    on_demand = {view.name for view in feature_store.list_on_demand_feature_views()}
    names = (
        {reference.split(":")[0] for reference in references}
        if isinstance(references, list)
        else {p.name for p in references.feature_view_projections}
    )
    return bool(on_demand & names)


def _home(home: Path | str | None) -> Path:
    from transforms.errors import HomeError
    from transforms.settings import HOME_NAME, Settings

    root = Settings(home=Path(home)).root if home else Settings().root
    beside_checkout = REPOSITORY.parent / HOME_NAME
    if not home and not root.is_dir() and beside_checkout.is_dir():
        root = beside_checkout
    if not (root / "feast" / "registry.db").is_file():
        message = f"{root}: no feature store there; run the pipeline first, or say where it ran: MILLRACE_HOME or home=..."
        raise HomeError(message)
    return root


def _arrow(spine: Any, connection: Any) -> "pa.Table":
    from feature_repo.stores.asof import to_arrow

    return to_arrow(connection, spine)


def _digest(table: "pa.Table") -> str:
    """Digest a table's content: its Arrow IPC stream, in one batch, so that chunks do not count."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as stream:
        stream.write_table(table.replace_schema_metadata(None).combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()


def write_store_settings(home: Path) -> Path:
    """Write a home's own `feature_store.yaml`, so that Feast's command line can be pointed at it."""
    import yaml

    path = home / "feature_store.yaml"
    path.write_text(yaml.safe_dump(store_settings(home), sort_keys=False), "utf-8")
    return path
