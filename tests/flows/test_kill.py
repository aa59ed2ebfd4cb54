"""SIGKILL before and after every commit of a run: the next run ends where an undisturbed one does."""

import contextlib
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows.stages import PipelineParameters, run_plain
from transforms.accounting import recount
from transforms.settings import Settings
from transforms.warehouse import RELATIONS, Warehouse

# what differs between two runs that do the same: when they ran, and the names of their loads
OF_A_RUN = ("load_id", "loaded_timestamp", "created_timestamp")
COMMITS = (
    "raw.records",
    "quarantine.records",
    "accounting.files",
    "staging.repeats",
    "staging.records",
    "record_quality",
    "author_activity",
    "subject_activity",
)
KILLED_AT = """
import os, signal, sys
import feature_repo.online
import feature_repo.stores.columnar as columnar
from flows.stages import PipelineParameters, run_plain
from transforms.warehouse import Warehouse

source, home, point = sys.argv[1:]

def dying(owner, attribute, name):
    real = getattr(owner, attribute)
    def run(*arguments, **keywords):
        label = name(arguments)
        if point == f"before {label}":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments, **keywords)
        if point == f"after {label}":
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, attribute, run)

dying(Warehouse, "_commit", lambda arguments: arguments[2].relation().removeprefix("features."))
dying(feature_repo.online, "write_store_settings", lambda _: "apply")
dying(columnar, "write_done", lambda arguments: "online " + arguments[0].stem)
run_plain(PipelineParameters(source=source, home=home))
"""
POINTS = [
    *(f"{side} {commit}" for commit in COMMITS for side in ("before", "after")),
    "after apply",
    *(f"{side} online {view}" for view in ("record_quality", "subject_activity") for side in ("before", "after")),
]


def contents(home: Path) -> dict[str, Any]:
    """Everything a home says, whoever's run it was: the rows of all tables, and the online store's."""
    warehouse = Warehouse(Settings(home=home))
    assert recount(warehouse)["adds_up"].all()
    found: dict[str, Any] = {}
    for relation in RELATIONS:
        frame = pl.read_delta(str(warehouse.folder(relation))).drop(OF_A_RUN, strict=False)
        found[relation] = frame.sort(frame.columns).rows()
    with contextlib.closing(sqlite3.connect(home / "feast" / "online.db")) as connection:
        for view in COMMITS[5:]:
            rows = connection.execute(f"select entity_key, feature_name, value, event_ts from millrace_{view}").fetchall()
            found[f"online {view}"] = sorted(rows)
    return found


@pytest.fixture(scope="module")
def undisturbed(small_source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run that nobody killed leaves."""
    home = tmp_path_factory.mktemp("undisturbed") / "home"
    run_plain(PipelineParameters(source=str(small_source), home=str(home)))
    return contents(home)


@pytest.mark.parametrize("point", POINTS)
def test_run_after_a_kill_ends_where_an_undisturbed_one_does(
    small_source: Path, undisturbed: dict[str, Any], tmp_path: Path, point: str
) -> None:
    home = tmp_path / "home"
    killed = subprocess.run([sys.executable, "-c", KILLED_AT, small_source, home, point], capture_output=True, check=False, timeout=280)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    run_plain(PipelineParameters(source=str(small_source), home=str(home)))
    found = contents(home)
    assert [name for name in undisturbed if found[name] != undisturbed[name]] == []
