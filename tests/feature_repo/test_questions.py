"""Training sets from a question: locked and rebuilt with their labels, and without the future."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from feature_repo import TrainingSet, label, spine, training_set
from tests.feature_repo.conftest import NOW
from transforms.features import days
from transforms.features.build import featurize
from transforms.warehouse.tables import Warehouse

FEATURES = ["subject_activity:n_records_28d", "author_activity:positive_ratio_lifetime"]
ASKED = spine(
    ["subject", "author"],
    until="2024-06-01",
    per_entity=2,
    sample=30,
    label=label("length(text) > 400", take="own", within=days(3), negatives=2),
)


@pytest.fixture(scope="module")
def made(small: Warehouse) -> TrainingSet:
    return training_set(ASKED, FEATURES, small.settings.root)


def test_question_says_what_its_rows_are(made: TrainingSet) -> None:
    facts = made.about
    assert made.frame.columns[:6] == [
        "event_timestamp",
        "subject_id",
        "record_id",
        "author_id",
        "label",
        "weight",
    ]
    assert made.frame.height == sum(facts["drawn"].values()) > 5
    assert 20 < sum(facts["balance"].values()) <= 30
    assert facts["balance"]["true"] == made.frame["label"].sum() > 2
    assert facts["keys"] == ["subject_id", "record_id", "author_id"]


def test_question_is_rebuilt_equal_to_the_byte_after_more_runs(
    staged: pl.DataFrame,
    home_of: Callable[..., Warehouse],
    stage: Callable[..., Warehouse],
    tmp_path: Path,
) -> None:
    half = staged.height // 2
    home = home_of(staged[:half])
    root = home.settings.root
    own = label("length(text) > 400", take="own", within=timedelta(hours=1), negatives=1)
    asked = spine(["subject", "author"], sample=50, label=own)
    made = training_set(asked, FEATURES[:1], root)
    made.register("first")
    made.save_lock(tmp_path / "first.lock")
    featurize(stage(home, staged[half:]), NOW + timedelta(days=1))
    later = training_set(asked, FEATURES[:1], root)
    assert later.lock["spine"] != made.lock["spine"]
    for again in (
        training_set.rebuild("first", home=root),
        # asked again of the tables of the lock
        training_set.rebuild(made.lock, asked, root),
    ):
        assert again.lock == made.lock
        assert again.frame.equals(made.frame)
        assert again.about == made.about


CUT = datetime(2024, 5, 27, tzinfo=UTC)
HORIZON = timedelta(days=1)


@pytest.mark.parametrize("change", ["altered", "deleted"])
def test_nothing_after_its_horizon_reaches_a_row(
    small: Warehouse, staged: pl.DataFrame, home_of: Callable[..., Warehouse], change: str
) -> None:
    is_known = pl.col("known_timestamp") <= CUT
    future = staged.filter(~is_known)
    other: Any = future.with_columns(
        pl.col("text", "author_id", "subject_id").shuffle(seed=1),
        is_positive=~pl.col("is_positive"),
    )
    changed = home_of(
        pl.concat([staged.filter(is_known), other if change == "altered" else other.clear()])
    )
    asked = spine(
        ["author", "subject"],
        label=label("text <> ''", within=HORIZON, take="count", known_until=CUT),
    )
    now, then = (
        training_set(asked, FEATURES, home.settings.root).frame for home in (small, changed)
    )
    assert now["event_timestamp"].max() <= CUT - HORIZON
    assert now["label"].n_unique() > 1
    assert_frame_equal(now, then, check_exact=True)
