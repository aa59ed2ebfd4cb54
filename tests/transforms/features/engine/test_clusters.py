"""A run on a cluster, real processes on loopback, has the tables of a run in one process."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal

from benchmarks.harness import EXPANDED
from benchmarks.servers import Cluster, MissingProgram, dask_cluster, spark_cluster
from tests.conftest import lacks
from tests.transforms.features.engine.test_partitions import dies_after_its_write, orphans
from tests.transforms.histories import NOW
from transforms.engines import engine as choice
from transforms.engines import exchange
from transforms.engines.engine import Engine
from transforms.features.build import featurize
from transforms.features.engine import record_parts
from transforms.features.registry import view_of
from transforms.home import Settings
from transforms.layout import LAYOUT, write_layout
from transforms.sources import file_parts
from transforms.sources.ingest import ingest
from transforms.sources.source import Source, load_source
from transforms.staging.prepare import prepare
from transforms.warehouse.tables import Warehouse

pytestmark = [pytest.mark.service, pytest.mark.timeout(900)]
N_ROWS = int(os.environ.get("CLUSTER_ROWS", "8_000"))
CLUSTERS = {"spark": spark_cluster, "dask": dask_cluster}
Query = Callable[[str], pl.DataFrame]


class Running:
    """An engine on a running cluster."""

    def __init__(self, name: str, cluster: Cluster, engine: Engine) -> None:
        self.name, self.cluster, self.engine = name, cluster, engine


@pytest.fixture(scope="module", params=CLUSTERS)
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    name = request.param
    try:
        with CLUSTERS[name]() as cluster, pytest.MonkeyPatch.context() as patch:
            for variable, value in cluster.environment.items():
                patch.setenv(variable, value)
            engine = _engine(name, cluster.address)
            yield Running(name, cluster, engine)
            engine.close()
    except MissingProgram as missing:
        lacks(str(missing))


def _engine(name: str, address: str) -> Engine:
    if name == "dask":
        from transforms.engines.dask import DaskEngine

        return DaskEngine(address)
    from transforms.engines.spark import SparkEngine

    return SparkEngine(address)


class Loaded(NamedTuple):
    """A source, and copies of raw after the first of two loads, and after both."""

    source: Source
    raws: list[Path]


@pytest.fixture(scope="module")
def loaded(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("expanded")
    generate(shared, folder / "rows")
    (folder / "in").mkdir()
    source = load_source(write_source(folder / "source.yaml", folder / "in"))
    warehouse = Warehouse(Settings(home=folder / "home"))
    raws = []
    for file in sorted((folder / "rows").glob("*.jsonl")):
        file.rename(folder / "in" / file.name)
        ingest(source, warehouse)
        raws.append(shutil.copytree(folder / "home" / "raw", folder / f"raw of {file.stem}"))
    return Loaded(source, raws)


def generate(shared: Path, out: Path) -> None:
    seed = f"commits={shared}/data/commits/*.zst,text=message,entity=author_id,label=repo"
    sizes = ["--rows", str(N_ROWS), "--chunk", str(N_ROWS // 2), "--workers", "1"]
    tool = [sys.executable, str(shared / "tools" / "expand.py"), "--out", str(out)]
    command = [*tool, "--seed", f"{seed},time=authored_at", *sizes]
    subprocess.run(command, check=True, capture_output=True)


def write_source(path: Path, folder: Path) -> Path:
    source = {
        "name": "notes",
        "uri": str(folder),
        "known": {"column": "ingested_at"},
        "record": EXPANDED,
        "positive_labels": ["linux"],
    }
    path.write_text(yaml.safe_dump(source), "utf-8")
    return path


@pytest.fixture
def on_cluster(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute on the cluster what is to be computed by its engine."""
    monkeypatch.setattr(exchange, "LEAST_ROWS", 1_000)
    monkeypatch.setattr(choice, "FEW_ROWS", 1_000)
    monkeypatch.setattr(choice, "FEW_BYTES", 100_000)
    monkeypatch.setattr(file_parts, "MOST_BYTES", 50 * N_ROWS)

    def choose(settings: Settings) -> Engine | None:
        return None if settings.engine == "local" else running.engine

    monkeypatch.setattr(choice, "engine_of", choose)


def follow(home: Path, loaded: Loaded, engine: str) -> Warehouse:
    """Stage and featurize the first load, then the second."""
    warehouse = Warehouse(Settings(home=home, engine=engine))
    write_layout(home, LAYOUT)
    for number, raw in enumerate(loaded.raws):
        shutil.copytree(raw, home / "raw", dirs_exist_ok=True)
        prepare(loaded.source, warehouse)
        featurize(warehouse, NOW + timedelta(hours=number))
    return warehouse


@pytest.fixture(scope="module")
def alone(loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """What one process makes of both loads."""
    return follow(tmp_path_factory.mktemp("alone") / "home", loaded, "local")


def digests(warehouse: Warehouse) -> dict[str, tuple[int, int]]:
    """The rows of each table, and a digest of them in any order."""
    tables = {name: pl.read_delta(str(warehouse.folder(name))) for name in warehouse.versions()}
    return {name: (rows.height, int(rows.hash_rows().sum())) for name, rows in tables.items()}


@pytest.mark.usefixtures("on_cluster")
def test_tables_of_a_cluster_are_those_of_one_process(
    running: Running, alone: Warehouse, loaded: Loaded, tmp_path: Path
) -> None:
    warehouse = follow(tmp_path / "home", loaded, running.name)
    assert digests(warehouse) == digests(alone)
    for relation in ("staging.records", "features.record_quality"):
        names = [Path(file).name for file in warehouse.files(relation)]
        assert 3 in {name.count("-") for name in names}  # part-RUN-TASK-UUID: of a worker
    versions = warehouse.versions()
    featurize(warehouse, NOW + timedelta(hours=2))
    assert warehouse.versions() == versions
    assert orphans(warehouse) == set()


@pytest.mark.usefixtures("on_cluster")
def test_raw_of_a_cluster_is_that_of_one_process(
    running: Running, alone: Warehouse, loaded: Loaded, tmp_path: Path
) -> None:
    warehouse = Warehouse(Settings(home=tmp_path / "home", engine=running.name))
    assert ingest(loaded.source, warehouse).files_loaded == 2
    folders = [str(of.folder("raw.records")) for of in (warehouse, alone)]
    rows = [pl.read_delta(folder).drop("load_id", "loaded_timestamp") for folder in folders]
    assert_frame_equal(*rows, check_row_order=False)
    assert len({Path(file).name.split("-")[2] for file in warehouse.files("raw.records")}) > 4
    assert orphans(warehouse, "raw.records") == set()


@pytest.mark.usefixtures("on_cluster")
def test_worker_that_is_killed_and_two_runs_at_once_leave_nothing_twice(
    running: Running,
    alone: Warehouse,
    tmp_path: Path,
    only: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if running.name == "spark" and "SOAK" not in os.environ:
        pytest.skip("minutes of workers that start again and import; make soak runs it")
    only(view_of("record_quality"), view_of("record_text"))
    home = tmp_path / "home"
    shutil.copytree(alone.settings.root / "staging", home / "staging")
    write_layout(home, LAYOUT)
    monkeypatch.setattr(record_parts, "compute_bucket", dies_after_its_write)
    at = NOW + timedelta(hours=1)
    with ThreadPoolExecutor(3) as threads:
        runs = [
            threads.submit(featurize, Warehouse(Settings(home=home, engine=running.name)), at)
            for _ in range(2)
        ]
        while not list(home.glob("features/record_quality/part-*")):
            time.sleep(0.02)
            for run in runs:
                assert not run.done(), run.result()  # which raises what stopped it
        killed = running.cluster.executors()[0]
        os.kill(killed, signal.SIGKILL)
        for run in runs:
            run.result()
    assert killed not in running.cluster.executors()
    warehouse = Warehouse(Settings(home=home))
    assert orphans(warehouse) == set()
    for name in ("record_quality", "record_text"):
        rows = pl.read_delta(str(warehouse.folder(f"features.{name}"))).drop("created_timestamp")
        expected = pl.read_delta(str(alone.folder(f"features.{name}"))).drop("created_timestamp")
        key = ["record_id", "event_timestamp"]
        assert rows.sort(key).equals(expected.sort(key))
