"""What training and serving code calls. Feast is loaded by the first call, not by the import."""

import copy
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    import duckdb
    import pandas as pd
    import polars as pl
    import pyarrow as pa
    from feast import FeatureStore

    from transforms.features.windows import Window
    from transforms.lineage.trace import FeatureTrace
    from transforms.training.question import Question
    from transforms.training.splits import Splits
    from transforms.warehouse.tables import Warehouse

    Spine: TypeAlias = pl.DataFrame | pl.LazyFrame | pd.DataFrame | pa.Table | Path | str | Question

REPOSITORY = Path(__file__).parent
VARIABLE = re.compile(r"\$\{(\w+)\}")
PACKAGES = ("deltalake", "duckdb", "feast", "millrace", "pandera", "polars", "pyarrow")


@dataclass(frozen=True)
class TrainingSet:
    """A training set and what it was made from.

    `frame` contains every spine row, in order, followed by its features. `lock` records the
    features, the version and code digest of every table, the versions of packages, and the digests
    of the spine, the registry and the result.
    """

    frame: "pl.DataFrame"
    lock: Mapping[str, Any]
    spine: "pa.Table" = field(repr=False, compare=False)
    home: Path

    def save_lock(self, path: Path | str) -> None:
        """Write the lock as JSON; `training_set.rebuild` takes the path."""
        from feature_repo.locks import write_lock

        write_lock(Path(path), self.lock)

    def register(self, name: str) -> None:
        """Keep lock and spine in the home.

        Maintenance then keeps the files they need, and `training_set.rebuild(name)` finds them.
        """
        from feature_repo.locks import register

        register(self.home, name, self.lock, self.spine)

    @property
    def about(self) -> dict[str, Any]:
        """What the rows are, where `spine` asked for them, and what was left out.

        Their entity and horizon, up to when the home knows labels (`known_until`), rows left out
        because their horizon is open (`n_horizon_open`) or have no label (`n_unlabelled`), and how
        many rows have each value of the label (`balance`; after negatives were drawn, `drawn`).
        """
        from transforms.training.rows import about

        return about(self.spine)

    def split(
        self,
        *,
        embargo: "timedelta | Window | None" = None,
        by: str | Sequence[str] | None = None,
        **parts: "float | datetime | str | None",
    ) -> "Splits":
        """Split by time: `split(train=0.7, valid=0.3)`, or `split(train="2026-05-01", valid=None)`.

        Each split has its share of the rows, or ends at an instant (None: with the last row). The
        rows of an `embargo` between two are left out: at least the horizon of the label, so that no
        label tells what happens in the next split. With `by="author_id"` an author is in one only.
        Raises `QuestionError` where a split would leak or have no rows.
        """
        from datetime import timedelta

        from transforms.training.splits import split

        horizon = timedelta(microseconds=self.about.get("horizon_us", 0))
        return split(self.frame, parts, horizon=horizon, embargo=embargo, by=by)

    def report(
        self, path: Path | str, splits: "Splits | None" = None, *, n_probed: int = 20
    ) -> list[str]:
        """Write a report as one HTML file; return the leaks that were found, a line each.

        Rows, nulls and drift of each feature between `splits`, how old values were, and two probes
        for leaks: a feature that predicts the label nearly alone, and one that has another value
        when `n_probed` rows are computed again of what was known at their instants.
        """
        from feature_repo.training_report import write

        return write(self, Path(path), splits, n_probed)

    def _repr_html_(self) -> str:
        from feature_repo.training_report import summary

        return summary(self)


def store(home: Path | str | None = None) -> "FeatureStore":
    """Open the Feast store of a home, from any folder.

    The home is the one given, else `MILLRACE_HOME`, else the nearest `.millrace`.

    The store is Feast's own, and also writes rows of nulls. Raises `HomeError` where no pipeline
    has run yet.
    """
    from feature_repo.stores.store import Store  # which imports Feast

    return Store(config=repo_config(home_of(home)))


def warehouse(
    home: Path | str | None = None, at: "datetime | None" = None, *, reveal: bool = False
) -> "duckdb.DuckDBPyConnection":
    """Open a home's tables for SQL, as `millrace sql` does: one version of each, sealed, masked.

    `at` shows the tables as they were at an instant, and `reveal` shows texts as they are. The
    connection is DuckDB's own, so `.sql(...)` gives a relation, and that `.pl()`, `.df()` or
    `.arrow()`. Raises `HomeError` where no pipeline has run yet, `QueryError` where nothing was
    there at that instant.

        from feature_repo import warehouse

        warehouse().sql("select label, count(*) from staging.records group by all").pl()
    """
    from contextlib import ExitStack
    from weakref import finalize

    from transforms.errors import HomeError
    from transforms.home import Settings
    from transforms.warehouse.queries import open_queries
    from transforms.warehouse.scratch import scratch_folder
    from transforms.warehouse.tables import Warehouse

    opened = Warehouse(Settings(home=_root(home)))
    if not opened.versions():
        message = (
            f"{opened.settings.root}: nothing is there yet; run the pipeline first, or say where "
            "it ran: MILLRACE_HOME or home=..."
        )
        raise HomeError(message)
    stack = ExitStack()
    scratch = stack.enter_context(scratch_folder(opened.settings.root))
    try:
        connection = open_queries(opened, scratch, at, reveal=reveal)
    except BaseException:
        stack.close()
        raise
    finalize(connection, stack.close)
    return connection


def repo_config(home: Path) -> Any:
    """Feast's configuration for a home: `feature_store.yaml` with the home's own paths in it."""
    from feature_repo.importing import feast

    settings = store_settings(home)
    # set afterwards: Feast warns that it has no effect with a file registry, but it has (a test
    # reads while rows are written)
    meanwhile = "serve_features_while_materializing"
    serves_meanwhile = settings["registry"].pop(meanwhile, None)
    config = feast.RepoConfig(**_with_variables(settings), repo_path=REPOSITORY)
    if serves_meanwhile is not None:
        setattr(config.registry, meanwhile, serves_meanwhile)
    return config


def store_file() -> Path:
    """Find the file of Feast's settings: `MILLRACE_FEATURE_STORE`, else the package's.

    Raises `SettingsError` where the variable names no file.
    """
    from transforms.errors import SettingsError
    from transforms.home import settings_of

    file = settings_of().feature_store or REPOSITORY / "feature_store.yaml"
    if not file.is_file():
        message = f"MILLRACE_FEATURE_STORE: {file}: there is no such file; name one, or unset it"
        raise SettingsError(message)
    return file


def store_settings(home: Path) -> dict[str, Any]:
    """Read `store_file` and replace the default home with this one; variables stay as named.

    Raises `UncheckedRegistryError` for a registry without a digest that no setting allows.
    """
    from feature_repo.registry_digest import has_digest

    file = store_file()
    settings = copy.deepcopy(_parsed(file.read_text("utf-8")))
    if has_digest(settings["registry"], str(file)):
        settings["registry"]["path"] = str(home / "feast" / "registry.db")
    settings["offline_store"]["warehouse"] = str(home)
    if "path" in settings["online_store"]:
        settings["online_store"]["path"] = str(home / "feast" / "online.db")
    return dict(settings)


def _with_variables(value: Any) -> Any:
    """Replace `${NAME}` by the environment's value, as Feast does where it reads the file itself.

    Raises `SettingsError` for a name that is not set, which Feast would take literally.
    """
    if isinstance(value, dict):
        return {key: _with_variables(item) for key, item in value.items()}
    return VARIABLE.sub(_variable, value) if isinstance(value, str) else value


def _variable(found: re.Match[str]) -> str:
    from transforms.errors import SettingsError

    if found[1] not in os.environ:
        message = f"{store_file()}: {found[0]} is not set in the environment; set it"
        raise SettingsError(message)
    return os.environ[found[1]]


def goes_by_the_clock(home: Path) -> bool:
    """Whether the online store of a home keeps rows to come, so that nothing has to refresh it."""
    found = store_settings(home)["online_store"]
    is_ours = str(found["type"]).startswith("feature_repo.stores.")
    return is_ours and found.get("layout", "compact") == "compact"


@lru_cache(maxsize=2)
def _parsed(text: str) -> dict[str, Any]:
    import yaml

    return dict(yaml.safe_load(text))


class _TrainingSets:
    """The callable `training_set`, with its `rebuild`."""

    def __call__(
        self,
        spine: "Spine",
        features: "Sequence[str] | str",
        home: Path | str | None = None,
        as_of_versions: Mapping[str, int] | None = None,
    ) -> TrainingSet:
        """Join features to a spine as they were known at each row's instant.

        `spine` is a Polars, pandas or Arrow frame, an SQL query over the warehouse (`select ...
        from staging.records`) or a path to Parquet, with `event_timestamp` (naive means UTC, text
        is ISO 8601) and the keys of the views asked for; or what `spine` asks for. `features` is
        the name of a feature service (`"triage_v1"`) or a list of `"view:feature"`, in which a view
        or a service alone means all of its features; columns come back as `view__feature`. Raises
        `FeatureNameError` for a name that is not there.
        `as_of_versions`, the `tables` of an earlier lock, reads the views as they were then.
        Without it, views are read as the last complete run left them, even while another run is at
        work.

        An author of two records, written at 10:00 on the first two days of the year:

        >>> times = ["2026-01-02T09:00:00Z", "2026-01-02T11:00:00Z"]
        >>> spine = pl.DataFrame({"author_id": ["ann", "ann"], "event_timestamp": times})
        >>> made = training_set(spine, ["author_activity:n_records_7d"], home)
        >>> made.frame["author_activity__n_records_7d"].to_list()
        [1, 2]
        """
        from feature_repo.references import known

        root = home_of(home)
        feature_store = store(root)
        asked = known(feature_store, features)
        table, job = _joined(feature_store, spine, asked, root, as_of_versions)
        frame = job.to_polars()
        warehouse = _warehouse_of(root)
        lock = {
            "spine": _digest(table),
            "features": asked,
            "result": _digest(frame.to_arrow()),
            "registry": _registry_digest(feature_store),
            "tables": job.metadata.versions,
            "code": {
                view: _code(warehouse, view, at) for view, at in job.metadata.versions.items()
            },
            "packages": {package: version(package) for package in PACKAGES},
        }
        return TrainingSet(frame, lock, table, root)

    def write(
        self,
        path: Path | str,
        spine: "Spine",
        features: "Sequence[str] | str",
        home: Path | str | None = None,
    ) -> int:
        """Write a training set to a Parquet file, of which only a part is in memory at a time.

        The file appears when it is complete. Returns its number of rows; there is no lock.
        """
        from feature_repo.references import known

        root = home_of(home)
        feature_store = store(root)
        _, job = _joined(feature_store, spine, known(feature_store, features), root)
        n_rows: int = job.to_parquet(path)
        return n_rows

    def rebuild(
        self,
        lock: Mapping[str, Any] | Path | str,
        spine: "Spine | None" = None,
        home: Path | str | None = None,
    ) -> TrainingSet:
        """Rebuild a training set from its lock, equal byte for byte (by its Arrow IPC digest).

        `lock` is a lock, the path of a saved one, or the name of a registered one, which brings its
        spine. Raises `LockError` where inputs are missing or changed, with a line for each.
        """
        from feature_repo.locks import LockError, changes, missing_versions
        from transforms.home import Settings
        from transforms.warehouse.tables import Warehouse

        root = home_of(home)
        content, kept = _locked(lock, root)
        rows = kept if spine is None else spine
        if rows is None:
            message = (
                "the lock does not contain its spine; say spine=..., or name a registered "
                "lock (millrace locks)"
            )
            raise LockError(message)
        missing = missing_versions(content, Warehouse(Settings(home=root)))
        if missing:
            raise LockError("\n  ".join(["the training set cannot be rebuilt:", *missing]))
        made = self(rows, content["features"], root, content["tables"])
        if made.lock["result"] != content["result"]:
            raise LockError(
                "\n  ".join(["the rebuilt training set differs:", *changes(content, made.lock)])
            )
        return made


training_set = _TrainingSets()


def _joined(
    feature_store: "FeatureStore",
    spine: "Spine",
    features: list[str] | str,
    root: Path,
    as_of_versions: Mapping[str, int] | None = None,
) -> "tuple[pa.Table, Any]":
    """Read a spine and prepare the job that joins features to it, both of one snapshot."""
    from transforms.features.build import consistent_versions, staging_version
    from transforms.training.question import Question
    from transforms.warehouse.snapshot import connect

    warehouse = _warehouse_of(root)
    versions = dict(as_of_versions or consistent_versions(warehouse))
    feature_store.config.offline_store.as_of_versions = versions
    references: Any = (
        feature_store.get_feature_service(features) if isinstance(features, str) else features
    )
    # a spine in SQL must not be ahead of the views: it reads what they were made from
    is_read = isinstance(spine, str | Question)
    staged = staging_version(warehouse, versions) if is_read else -1
    at = (
        {
            "staging.records": staged,
            **{f"features.{view}": version for view, version in versions.items()},
        }
        if staged >= 0
        else {}
    )
    with connect(warehouse, at) as connection:
        table = _arrow(spine, connection)
    return table, feature_store.get_historical_features(table, references, full_feature_names=True)


def _warehouse_of(root: Path) -> "Warehouse":
    from transforms.home import Settings
    from transforms.warehouse.tables import Warehouse

    return Warehouse(Settings(home=root))


def _locked(
    lock: Mapping[str, Any] | Path | str, home: Path
) -> "tuple[Mapping[str, Any], pa.Table | None]":
    """Find a lock's content and, where the home keeps it, its spine."""
    from feature_repo.locks import find, registered

    if isinstance(lock, str) and not Path(lock).is_file():
        found = find(home, lock)
        return found.content, found.spine()
    content = lock if isinstance(lock, Mapping) else json.loads(Path(lock).read_text("utf-8"))
    spines = (
        kept.spine() for kept in registered(home) if kept.content["spine"] == content["spine"]
    )
    return content, next(spines, None)


def online_features(
    features: "Sequence[str] | str",
    rows: "Sequence[Mapping[str, Any]]",
    home: Path | str | None = None,
    *,
    refuse_stale: bool = False,
) -> "pl.DataFrame":
    """Read the values of features for some entities, as they are now or at an instant of the row.

    For example `online_features(["author_activity:n_records_7d"], [{"author_id": "mitre"}])`.
    `features` is what `training_set` takes.

    Each row carries the keys of the views asked for. Every row comes back, in order: its own
    columns, then the features as `view__feature`, null for a null key and past the view's time to
    live. An unknown entity has 0 for counts and sums and null for the rest, as in training. A row
    may name its instant, `event_timestamp`, else it is now: a datetime (naive means UTC), a date or
    text in ISO 8601, never a number. Windows have ended by it, and views computed on demand get
    it. The store stays open between calls, and each call sees what has been applied since. Raises
    `PastError` for an instant before the row that the store has, and `NotOnlineError` for a view
    that is not online: record views are online only where `MILLRACE_ONLINE` names them. With
    `refuse_stale` it raises `StaleError` where a view is later than its `fresh_within` promises.

    >>> names = ["n_records_lifetime", "mean_characters_lifetime"]
    >>> features = [f"author_activity:{name}" for name in names]
    >>> online_features(features, [{"author_id": "ann"}, {"author_id": "nobody"}], home).rows()
    [('ann', 2, 6.0), ('nobody', 0, None)]
    """
    from feature_repo.stores.serving import opened

    root = home_of(home)
    online = opened(root, store)
    if refuse_stale:
        from feature_repo.watching.freshness import refuse_late

        refuse_late(root, online.views(features))
    return online.read(features, rows)


def trace(
    feature: str, at: "datetime | None" = None, home: Path | str | None = None, *, limit: int = 20
) -> "FeatureTrace":
    """Trace the values of an entity at an instant, by default now, to the records behind them.

    `feature` is `view:entity` or `view:feature:entity`, as for `millrace trace --feature`, of whose
    records the newest `limit` are listed. It has `mismatches` where the table says other than the
    records do. Raises `MillraceError` if there is no such view or entity.

    >>> traced = trace("author_activity:n_records_lifetime:ann", home=home)
    >>> traced.values[0].value, traced.n_records, traced.mismatches
    (2, 2, [])
    """
    from datetime import UTC, datetime

    from transforms.lineage.trace import parse_reference, trace_feature

    view, name, entity = parse_reference(feature)
    of_home = _warehouse_of(_root(home))
    return trace_feature(of_home, view, entity, at or datetime.now(UTC), feature=name, limit=limit)


def similar_records(
    query: "str | Sequence[float]",
    top_k: int = 10,
    feature: str = "record_vector:hash_vec_256",
    home: Path | str | None = None,
) -> "pl.DataFrame":
    """Find the records with vectors nearest to a text's: `record_id` and `distance`, nearest first.

    The distance is 1 less the cosine, whatever store is asked; a text becomes a vector as the
    feature's own did. Works with every online store that Feast can search by vectors. Raises
    `NotOnlineError` where the view is not online, as by default.
    """
    import numpy as np
    import polars as pl

    from feature_repo.stores.nearest import cosine_distances
    from feature_repo.stores.online import refuse_not_online
    from transforms.text.embedding import embedder_of

    feature_store = store(home)
    view, name = feature.split(":")
    refuse_not_online(feature_store.config, feature_store.get_feature_view(view))
    asked = embedder_of(view).embed([query])[0].tolist() if isinstance(query, str) else list(query)
    # only the keys of this answer are right: Feast 0.67 puts other keys' distances beside them, and
    # its Milvus store the query
    ids = (
        feature_store.retrieve_online_documents_v2(features=[feature], query=asked, top_k=top_k)
        .to_dict()
        .get("record_id", [])
    )
    records = pl.DataFrame({"record_id": ids}, {"record_id": pl.String})
    vectors = (
        online_features([feature], records.to_dicts(), home)[f"{view}__{name}"].to_list()
        if ids
        else []
    )
    distances = cosine_distances(
        np.array(vectors, np.float32).reshape(-1, len(asked)), np.array(asked, np.float32)
    )
    return records.with_columns(distance=distances).sort("distance", "record_id")


def home_of(home: Path | str | None) -> Path:
    """Find the home: the one given, else as `store` says.

    `HomeError` where no pipeline has run yet.
    """
    from transforms.errors import HomeError
    from transforms.home import settings_of

    root = _root(home)
    if settings_of(root).replica:
        _register_here(root)
    if not any((root / "feast" / name).is_file() for name in ("registry.db", "applied")):
        message = (
            f"{root}: no feature store there; run the pipeline first, or say where it ran: "
            "MILLRACE_HOME or home=..."
        )
        raise HomeError(message)
    return root


@lru_cache(maxsize=16)
def _register_here(root: Path) -> None:
    """Have the definitions in this machine's registry of a home in object storage.

    That opens tables, so a process of its own does it: a server that forks must not have their
    threads.
    """
    from feature_repo.online import is_applied
    from transforms.home import settings_of
    from transforms.warehouse.tables import Warehouse

    if not is_applied(Warehouse(settings_of(root))):
        command = [sys.executable, "-m", "feature_repo.register_here", str(root)]
        subprocess.run(command, check=True, env={**os.environ, "MILLRACE_HOME": str(root)})  # noqa: S603 - ours


def _root(home: Path | str | None) -> Path:
    from transforms.home import HOME_NAME, Settings, default_home
    from transforms.replica import address_of

    given = home or os.environ.get("MILLRACE_HOME") or default_home()  # all settings take 3 ms
    if address_of(Path(given)):
        settings = Settings(home=Path(given))
        return settings.replica.root if settings.replica else settings.root
    root = Path(given).expanduser().resolve()
    beside_checkout = REPOSITORY.parent / HOME_NAME
    return beside_checkout if not home and not root.is_dir() and beside_checkout.is_dir() else root


def _arrow(spine: Any, connection: Any) -> "pa.Table":
    from feature_repo.stores.spine import to_arrow
    from transforms.training.question import Question
    from transforms.training.rows import question_rows

    if isinstance(spine, Question):
        return question_rows(connection, spine)
    return to_arrow(connection, spine)


def _digest(table: "pa.Table") -> str:
    """Digest a table's content: its Arrow IPC stream, in one batch, so that chunks do not count."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as stream:
        stream.write_table(table.replace_schema_metadata(None).combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()


def _registry_digest(feature_store: "FeatureStore") -> str:
    """Digest what is registered, without when that was and how far it is materialized."""
    registry: Any = feature_store.registry.proto()
    kinds = ("entities", "feature_views", "on_demand_feature_views", "feature_services")
    specs = sorted(
        item.spec.SerializeToString(deterministic=True)
        for kind in kinds
        for item in getattr(registry, kind)
    )
    return hashlib.sha256(b"".join(specs)).hexdigest()


def _code(warehouse: "Warehouse", view: str, at: int | None) -> str | None:
    """The digest of the code that computed a view; None where its source keeps no versions."""
    from transforms.warehouse.publishing import CODE

    relation = f"features.{view}"
    if at is None or warehouse.table(relation) is None:
        return None
    return f"{warehouse.table_at(relation, at).transaction_version(CODE) or 0:x}"


def write_store_settings(home: Path) -> Path:
    """Write a home's own `feature_store.yaml`, for Feast's command line."""
    import yaml

    from transforms.home import replace_file

    path = home / "feature_store.yaml"
    replace_file(path, yaml.safe_dump(store_settings(home), sort_keys=False).encode())
    return path
