"""Feast's monitoring on our store counts what plain Python counts, and stores no text."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from feast import FeatureStore, FeatureView
from feast.monitoring.metrics_calculator import MetricsCalculator
from feast.monitoring.monitoring_service import MonitoringService
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.stores.asof import AsofOfflineStore
from feature_repo.stores.monitoring import describe

MakeStore = Callable[..., FeatureStore]
WriteView = Callable[..., FeatureView]

EVENT = "event_timestamp"
START = datetime(2024, 1, 1, tzinfo=UTC)
FEATURES = [
    ("n", "numeric"),
    ("share", "numeric"),
    ("mood", "categorical"),
    ("flag", "categorical"),
]
numbers = st.none() | st.integers(-1000, 1000)
shares = st.none() | st.floats(-1e6, 1e6)
moods = st.none() | st.sampled_from(["glad", "sad"])
flags = st.none() | st.booleans()


@settings(max_examples=50)
@given(st.lists(st.tuples(numbers, shares, moods, flags), max_size=30), st.integers(1, 30))
def test_metrics_are_those_of_feasts_own_calculator(
    rows: list[tuple[int, float, str, bool]], size: int
) -> None:
    columns = list(zip(*rows, strict=True)) or [()] * 4
    kinds = [pa.int64(), pa.float64(), pa.string(), pa.bool_()]
    table = pa.table(
        [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)],
        [name for name, _ in FEATURES],
    )
    parts = [table.slice(first, size) for first in range(0, max(1, table.num_rows), size)]
    ours = describe(parts, FEATURES, 20, 10)
    assert len(ours) == len(FEATURES)
    for our, stock in zip(ours, MetricsCalculator().compute_all(table, FEATURES), strict=True):
        assert set(our) == set(stock)
        for name in ("feature_name", "feature_type", "row_count", "null_count", "null_rate"):
            assert our[name] == stock[name]
        for name in ("mean", "stddev", "min_val", "max_val"):
            assert our[name] == (
                None if stock[name] is None else pytest.approx(stock[name], rel=1e-6, abs=1e-6)
            )
        if our["mean"] is not None:
            values = sorted(table[our["feature_name"]].drop_null().cast(pa.float64()).to_pylist())
            for name, share in {
                "p50": 0.5,
                "p75": 0.75,
                "p90": 0.9,
                "p95": 0.95,
                "p99": 0.99,
            }.items():
                assert our[name] == pytest.approx(
                    values[int(share * (len(values) - 1))], rel=0.011, abs=1e-8
                )
            assert sum(our["histogram"]["counts"]) == len(values)
        elif our["histogram"]:
            sizes = [
                sorted(entry["count"] for entry in metric["histogram"]["values"])
                for metric in (our, stock)
            ]
            assert sizes[0] == sizes[1]
            assert our["histogram"]["unique_count"] == stock["histogram"]["unique_count"]


@pytest.mark.parametrize("layout", ["file", "folder", "delta"])
def test_feast_monitors_a_store_and_no_text_is_kept(
    write_view: WriteView, make_store: MakeStore, tmp_path: Path, layout: str
) -> None:
    days = [START + timedelta(days=number) for number in range(10)]
    texts = [f"a private text, number {number % 3}" for number in range(10)]
    rows = pa.table({"user": range(10), EVENT: days, "n": range(10), "text": texts})
    store = make_store(write_view("visits", rows, layout=layout))
    service = MonitoringService(store)
    done = service.auto_compute(project=store.project)
    assert done["computed_feature_views"] == 1
    assert done["baseline_features"] == 2
    weekly = AsofOfflineStore.query_monitoring_metrics(
        store.config, store.project, "feature", {"granularity": "weekly", "feature_name": "n"}
    )
    assert [(metric["row_count"], metric["mean"], metric["min_val"]) for metric in weekly] == [
        (8, 5.5, 2.0)
    ]
    assert weekly[0]["max_event_timestamp"] == days[-1].isoformat()
    baseline = AsofOfflineStore.query_monitoring_metrics(
        store.config, store.project, "feature", {"is_baseline": True}
    )
    assert {metric["feature_name"]: metric["row_count"] for metric in baseline} == {
        "n": 10,
        "text": 10,
    }
    text = next(metric for metric in baseline if metric["feature_name"] == "text")
    assert sorted(entry["count"] for entry in text["histogram"]["values"]) == [3, 3, 4]
    kept = b"".join(path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file())
    assert b"granularity" in kept
    assert b"private" not in kept
    AsofOfflineStore.clear_monitoring_baseline(store.config, store.project, "visits", "text")
    baseline = AsofOfflineStore.query_monitoring_metrics(
        store.config, store.project, "feature", {"is_baseline": True}
    )
    assert [metric["feature_name"] for metric in baseline] == ["n"]


def test_metrics_are_kept_once_found_by_date_and_none_is_missing(
    write_view: WriteView, make_store: MakeStore
) -> None:
    config = make_store(
        write_view("visits", pa.table({"user": [1], EVENT: [START], "n": [1]}))
    ).config

    def metric(day: int, mean: float) -> dict[str, object]:
        own = {
            "project_id": "p",
            "feature_view_name": "visits",
            "feature_name": "n",
            "granularity": "daily",
            "data_source_type": "batch",
        }
        return {
            **own,
            "metric_date": date(2024, 1, day),
            "computed_at": START,
            "is_baseline": False,
            "mean": mean,
            "stddev": float("nan"),
        }

    with ThreadPoolExecutor(4) as threads:
        list(
            threads.map(
                lambda day: AsofOfflineStore.save_monitoring_metrics(
                    config, "feature", [metric(day, day)]
                ),
                range(1, 9),
            )
        )
    AsofOfflineStore.save_monitoring_metrics(config, "feature", [metric(3, 33.0)])
    found = AsofOfflineStore.query_monitoring_metrics(
        config, "p", "feature", None, date(2024, 1, 2), date(2024, 1, 4)
    )
    assert [(row["metric_date"], row["mean"], row["stddev"]) for row in found] == [
        ("2024-01-02", 2, None),
        ("2024-01-03", 33.0, None),
        ("2024-01-04", 4, None),
    ]
    assert len(AsofOfflineStore.query_monitoring_metrics(config, "p", "feature")) == 8
    assert AsofOfflineStore.query_monitoring_metrics(config, "another", "feature") == []
    json.dumps(found, allow_nan=False)


def test_a_source_without_rows_has_no_newest_instant(
    write_view: WriteView,
    define_view: Callable[..., FeatureView],
    make_store: MakeStore,
    tmp_path: Path,
) -> None:
    rows = pa.table(
        {"user": [1], EVENT: pa.array([START], pa.timestamp("us", "UTC")), "n": [np.nan]}
    )
    empty, absent = (
        write_view("empty", rows.slice(1)),
        define_view("absent", str(tmp_path / "absent"), rows.schema),
    )
    config = make_store(empty, absent).config
    for view in (empty, absent):
        assert (
            AsofOfflineStore.get_monitoring_max_timestamp(config, view.batch_source, EVENT) is None
        )
    (metric,) = AsofOfflineStore.compute_monitoring_metrics(
        config, empty.batch_source, [("n", "numeric")], EVENT
    )
    assert (metric["row_count"], metric["mean"]) == (0, None)
