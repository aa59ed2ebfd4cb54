"""What training and serving code calls. Feast is loaded by the first call, not by the import."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa
    from feast import FeatureStore

    Spine: TypeAlias = pl.DataFrame | pl.LazyFrame | pd.DataFrame | pa.Table | Path | str

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

    logging.getLogger("feast.repo_config").addFilter(_is_news)
    return RepoConfig(**store_settings(home), repo_path=REPOSITORY)


def _is_news(record: logging.LogRecord) -> bool:
    """Leave out Feast's warning that this setting has no effect with a file registry: it has (a test reads meanwhile)."""
    return "serve_features_while_materializing" not in record.getMessage()


def store_settings(home: Path) -> dict[str, Any]:
    """Read `feature_store.yaml` and put a home in the place of the default one."""
    import yaml

    settings = yaml.safe_load((REPOSITORY / "feature_store.yaml").read_text("utf-8"))
    settings["registry"]["path"] = str(home / "feast" / "registry.db")
    settings["offline_store"]["warehouse"] = str(home)
    if "path" in settings["online_store"]:
        settings["online_store"]["path"] = str(home / "feast" / "online.db")
    return dict(settings)


def training_set(
    spine: "Spine", features: "Sequence[str] | str", home: Path | str | None = None, as_of_versions: Mapping[str, int] | None = None
) -> TrainingSet:
    """Join features to a spine as they were known at each row's instant.

    `spine` is a Polars, pandas or Arrow frame, an SQL query over the warehouse (`select ... from staging.records`) or a path
    to Parquet, with `event_timestamp` (naive means UTC) and the keys of the views asked for. `features` is the name of a
    feature service (`"triage_v1"`) or a list of `"view:feature"`; columns come back as `view__feature`. `as_of_versions`, the
    `tables` of an earlier lock, reads the views as they were then; else they are read as the last run left them that
    finished all of them, also while another is at work.
    """
    from transforms.featurize import consistent_versions
    from transforms.settings import Settings
    from transforms.warehouse import Warehouse

    root = _home(home)
    warehouse = Warehouse(Settings(home=root))
    feature_store = store(root)
    feature_store.config.offline_store.as_of_versions = dict(as_of_versions or consistent_versions(warehouse))
    references: Any = feature_store.get_feature_service(features) if isinstance(features, str) else list(features)
    with warehouse.connect() as connection:
        table = _arrow(spine, connection)
    job = feature_store.get_historical_features(table, references, full_feature_names=True)
    lock = {
        "spine": _digest(table),
        "features": features if isinstance(features, str) else list(features),
        "registry": hashlib.sha256((root / "feast" / "registry.db").read_bytes()).hexdigest(),
        "tables": job.metadata.versions,
        "packages": {package: version(package) for package in PACKAGES},
    }
    return TrainingSet(job.to_polars(), lock)


def online_features(features: "Sequence[str] | str", rows: "Sequence[Mapping[str, Any]]", home: Path | str | None = None) -> "pl.DataFrame":
    """Read the newest values for some entities, e.g. `online_features(["author_activity:n_records_7d"], [{"author_id": "mitre"}])`.

    Each row carries the keys of the views asked for. Every row comes back, in order: its own columns, then the features as
    `view__feature`, null for an unknown or null key and past the view's time to live. A view computed on demand gets the
    row's `event_timestamp`, or now. The store stays open between calls; what is applied since is seen by the next one.
    """
    from feature_repo.stores.serving import opened

    return opened(_home(home), store).read(features, rows)


def _home(home: Path | str | None) -> Path:
    from transforms.errors import HomeError
    from transforms.settings import HOME_NAME, Settings

    root = Path(home).expanduser().resolve() if home else Settings().root
    beside_checkout = REPOSITORY.parent / HOME_NAME
    if not home and not root.is_dir() and beside_checkout.is_dir():
        root = beside_checkout
    if not (root / "feast" / "registry.db").is_file():
        message = f"{root}: no feature store there; run the pipeline first, or say where it ran: MILLRACE_HOME or home=..."
        raise HomeError(message)
    return root


def _arrow(spine: Any, connection: Any) -> "pa.Table":
    from feature_repo.stores.spine import to_arrow

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
