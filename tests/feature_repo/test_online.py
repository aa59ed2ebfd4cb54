"""The online store: what is served is what a model was trained on."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import polars as pl
import pytest

from feature_repo import online_features, store, training_set
from feature_repo.online import materialize
from transforms.features.build import featurize
from transforms.features.registry import views
from transforms.warehouse.tables import Warehouse

SERVICE = "triage_v1"
TENURE = "author_tenure:days_since_first_record"
COUNT = "author_activity:n_records_lifetime"
FIRST = datetime.fromisoformat("2024-09-01T00:00:00+00:00")
ASKED = [
    f"author_activity:{name}_{window}"
    for name in ("n_records", "n_words", "mean_characters")
    for window in ("1d", "lifetime")
]
ANSWERED = [name.replace(":", "__") for name in ASKED]


@pytest.fixture(scope="module")
def served(small: Warehouse) -> Iterator[Warehouse]:
    """The small home with its online store filled as of FIRST."""
    fill(small, FIRST)
    return small


def fill(warehouse: Warehouse, now: datetime) -> dict[str, int]:
    return materialize(warehouse, now, lambda _relation, _rows, _bytes: None)


def offline(
    warehouse: Warehouse,
    rows: list[dict[str, Any]],
    features: list[str] | str,
    now: datetime = FIRST,
) -> list[dict[str, Any]]:
    spine = pl.DataFrame([{**row, "event_timestamp": now} for row in rows]).with_columns(
        pl.col("event_timestamp").cast(pl.Datetime("us", "UTC"))
    )
    return (
        training_set(spine, features, warehouse.settings.root)
        .frame.drop("event_timestamp")
        .to_dicts()
    )


def online(
    warehouse: Warehouse,
    rows: list[dict[str, Any]],
    features: list[str] | str,
    now: datetime = FIRST,
) -> list[dict[str, Any]]:
    asked = [{**row, "event_timestamp": now} for row in rows]
    return (
        online_features(features, asked, warehouse.settings.root)
        .drop("event_timestamp", strict=False)
        .to_dicts()
    )


def features_alone(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if "__" in name} for row in rows]


def keys(spine: pl.DataFrame) -> list[dict[str, Any]]:
    """Fifty records with their authors and subjects, all authors among them."""
    some = pl.concat(
        [spine.unique("author_id", keep="first", maintain_order=True), spine.sample(50, seed=2)]
    ).unique("record_id", maintain_order=True)
    return (
        some.drop_nulls("subject_id")
        .head(50)
        .select("record_id", "author_id", "subject_id")
        .to_dicts()
    )


def test_served_features_equal_those_of_a_training_set(
    served: Warehouse, spine: pl.DataFrame
) -> None:
    rows = keys(spine)
    assert len(rows) == 50
    assert features_alone(online(served, rows, SERVICE)) == features_alone(
        offline(served, rows, SERVICE)
    )


def test_second_materialize_writes_nothing(served: Warehouse) -> None:
    before = (served.settings.root / "feast" / "online.db").read_bytes()
    assert fill(served, FIRST) == dict.fromkeys((view.name for view in views()), 0)
    assert (served.settings.root / "feast" / "online.db").read_bytes() == before


@pytest.mark.parametrize("author", ["nobody", None])
def test_unknown_entity_is_served_no_records_and_a_null_key_nulls(
    served: Warehouse, author: str | None
) -> None:
    asked = [{"author_id": author}]
    expected = {
        name: 0 if author and name.startswith("author_activity__n_") else None for name in ANSWERED
    }
    assert features_alone(online(served, asked, ASKED)) == [expected]
    assert features_alone(offline(served, asked, ASKED)) == [expected]


@pytest.mark.parametrize("features", [[TENURE], [COUNT, TENURE]])
def test_tenure_is_the_same_online_and_offline(
    served: Warehouse, spine: pl.DataFrame, features: list[str]
) -> None:
    rows = spine.select("author_id").unique(maintain_order=True).to_dicts()
    names = [feature.replace(":", "__") for feature in features]
    trained, answered = offline(served, rows, features), online(served, rows, features)
    assert [[row[name] for name in names] for row in answered] == [
        [row[name] for name in names] for row in trained
    ]
    assert all(row["author_tenure__days_since_first_record"] > 0 for row in answered)


def test_tenure_is_asked_of_now_where_no_instant_is_given(
    served: Warehouse, spine: pl.DataFrame
) -> None:
    author = {"author_id": spine["author_id"][0]}
    (then,) = online(served, [author], [TENURE])
    (now,) = online_features([TENURE], [author], served.settings.root).to_dicts()
    assert (
        now["author_tenure__days_since_first_record"]
        > then["author_tenure__days_since_first_record"]
    )


def test_plain_feast_serves_the_same(served: Warehouse, spine: pl.DataFrame) -> None:
    rows = keys(spine)[:3]
    response = store(served.settings.root).get_online_features(
        [COUNT], [{"author_id": row["author_id"]} for row in rows], full_feature_names=True
    )
    assert response.to_dict()["author_activity__n_records_lifetime"] == [
        row["author_activity__n_records_lifetime"] for row in online(served, rows, [COUNT])
    ]


# --- increments ---


def test_later_increment_reaches_the_online_store(
    staged: pl.DataFrame,
    spine: pl.DataFrame,
    home_of: Callable[..., Warehouse],
    stage: Callable[..., Warehouse],
) -> None:
    first_known = staged["known_timestamp"].sort()[staged.height // 2]
    is_first = pl.col("known_timestamp") <= first_known
    warehouse = home_of(staged.filter(is_first))
    fill(warehouse, FIRST)
    featurize(stage(warehouse, staged.filter(~is_first)), FIRST + timedelta(hours=1))
    written = fill(warehouse, FIRST + timedelta(hours=1))
    rows = keys(spine)
    now = FIRST + timedelta(hours=1)
    assert 0 < written["author_activity"] <= spine["author_id"].n_unique()
    assert features_alone(online(warehouse, rows, SERVICE, now)) == features_alone(
        offline(warehouse, rows, SERVICE, now)
    )


def test_record_written_long_ago_and_known_late_reaches_the_online_store(
    staged: pl.DataFrame, home_of: Callable[..., Warehouse], stage: Callable[..., Warehouse]
) -> None:
    warehouse = home_of(staged.head(5))
    fill(warehouse, FIRST)
    late = staged.head(1).with_columns(
        record_id=pl.lit("late"),
        author_id=pl.lit("newcomer"),
        known_timestamp=pl.lit(FIRST - timedelta(days=60)).cast(pl.Datetime("us", "UTC")),
    )
    late = late.with_columns(
        event_timestamp=pl.col("known_timestamp") - pl.duration(days=900),
        text=pl.lit("late"),
        is_tombstone=pl.lit(value=False),
    )
    featurize(stage(warehouse, late), FIRST)
    fill(warehouse, FIRST)
    (row,) = online(
        warehouse, [{"author_id": "newcomer"}], [COUNT, "author_activity:n_records_28d"]
    )
    assert (row["author_activity__n_records_lifetime"], row["author_activity__n_records_28d"]) == (
        1,
        0,
    )


def test_window_that_ends_between_two_runs_is_served_without_a_run(
    staged: pl.DataFrame, spine: pl.DataFrame, home_of: Callable[..., Warehouse]
) -> None:
    warehouse = home_of(staged)
    rows, count = (
        spine.select("author_id").unique(maintain_order=True).to_dicts(),
        ["author_activity:n_records_28d"],
    )
    early, later = datetime.fromisoformat("2024-06-10T00:00:00+00:00"), FIRST
    fill(warehouse, early)
    for now in (early, later):
        assert features_alone(online(warehouse, rows, count, now)) == features_alone(
            offline(warehouse, rows, count, now)
        )
    assert offline(warehouse, rows, count, early) != offline(warehouse, rows, count, later)
