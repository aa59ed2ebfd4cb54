"""Entities never seen, not yet active, or outside all windows: equal in training and serving."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo import online_features, store, training_set
from feature_repo.online import materialize
from tests.feature_repo.conftest import ready
from transforms.features.registry import view_of
from transforms.home import Settings
from transforms.sources.ingest import ingest
from transforms.sources.source import load_source
from transforms.staging.prepare import prepare
from transforms.warehouse.tables import Warehouse, silent

EARLY, LATE = datetime(2025, 1, 1, 10, tzinfo=UTC), datetime(2026, 5, 1, 10, tzinfo=UTC)
ALIKE = [{"author_id": author} for author in ("early", "late", "never")]
WINDOWED = [
    column
    for column in view_of("author_activity").contract.served()
    if column.name.endswith(("_1d", "_7d", "_28d"))
]
FEATURES = [f"author_activity:{column.name}" for column in WINDOWED]
NOTHING = {f"author_activity__{column.name}": column.empty for column in WINDOWED}
# the last of early's windows ends at the midnight after 28 days
BETWEEN = st.datetimes(datetime(2025, 1, 30), datetime(2026, 5, 1, 10), timezones=st.just(UTC))  # noqa: DTZ001


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """A home of one record of `early` and one of `late`, known as they were written."""
    folder = tmp_path_factory.mktemp("unseen")
    rows = [
        {"id": name, "author": name, "written": at.isoformat(), "text": "a note"}
        for name, at in (("early", EARLY), ("late", LATE))
    ]
    (folder / "notes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fields = {
        "record_id": "id",
        "author_id": "author",
        "event_timestamp": "written",
        "text": "text",
    }
    (folder / "notes.yaml").write_text(
        yaml.safe_dump(
            {"name": "notes", "uri": "notes.jsonl", "known": "at_event", "record": fields}
        )
    )
    source, warehouse = (
        load_source(folder / "notes.yaml"),
        Warehouse(Settings(home=folder / "home")),
    )
    ingest(source, warehouse)
    prepare(source, warehouse)
    return ready(warehouse)


def trained(home: Warehouse, at: datetime, features: list[str] = FEATURES) -> list[dict[str, Any]]:
    spine = pd.DataFrame([{**row, "event_timestamp": at} for row in ALIKE])
    return (
        training_set(spine, features, home.settings.root)
        .frame.drop("author_id", "event_timestamp")
        .to_dicts()
    )


@given(BETWEEN)
@settings(max_examples=12)
def test_entities_of_which_nothing_counts_are_trained_on_alike(
    home: Warehouse, at: datetime
) -> None:
    assert trained(home, at) == [NOTHING] * 3


@pytest.mark.parametrize(
    "at", [EARLY, EARLY + timedelta(microseconds=1), LATE, LATE + timedelta(microseconds=1)]
)
def test_an_entity_counts_from_its_first_record_on(home: Warehouse, at: datetime) -> None:
    counted = [int(at > EARLY and at < EARLY + timedelta(days=28)), int(at > LATE), 0]
    assert [row["author_activity__n_records_28d"] for row in trained(home, at)] == counted


@given(BETWEEN)
@settings(max_examples=3)
def test_entities_of_which_nothing_counts_are_served_alike(
    home: Warehouse, tmp_path: Path, at: datetime
) -> None:
    copy = Warehouse(
        Settings(home=Path(shutil.copytree(home.settings.root, tmp_path / uuid4().hex)))
    )
    materialize(copy, at, silent)
    served = online_features(FEATURES, ALIKE, copy.settings.root).drop("author_id").to_dicts()
    assert served == [NOTHING] * 3
    of_service = online_features(
        "activity_v1", [{**row, "subject_id": None} for row in ALIKE], copy.settings.root
    )
    assert of_service.select(list(NOTHING)).to_dicts() == served
    asked = (
        store(copy.settings.root)
        .get_online_features(FEATURES, ALIKE, full_feature_names=True)
        .to_dict()
    )
    assert [{name: asked[name][place] for name in NOTHING} for place in range(3)] == served


def test_a_saved_dataset_equals_what_was_trained_on(home: Warehouse, tmp_path: Path) -> None:
    at = EARLY + timedelta(days=90)
    spine = pd.DataFrame([{**row, "event_timestamp": at} for row in ALIKE])
    job = store(home.settings.root).get_historical_features(
        spine, FEATURES, full_feature_names=True
    )
    job.to_parquet(tmp_path / "saved.parquet")
    assert (
        pl.read_parquet(tmp_path / "saved.parquet").select(list(NOTHING)).to_dicts()
        == [NOTHING] * 3
    )
