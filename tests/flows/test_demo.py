"""The demo's model: its scores, and that its features were known at each record's first instant."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flows.demo import example_keys, score
from transforms.features.testing import stage
from transforms.schemas.staging import StagedRecord
from transforms.warehouse.publishing import publish
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

START = datetime(2024, 5, 1, tzinfo=UTC)


def test_keys_are_those_of_the_first_version(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_FEATURES", str(Path(__file__).parents[2] / "features"))
    first = {
        "record_id": "CVE-2024-0001",
        "subject_id": "acme/router",
        "event_timestamp": START,
        "attributes": {"cwe": "CWE-79"},
    }
    later = first | {
        "subject_id": "other/switch",
        "known_timestamp": START + timedelta(days=1),
        "attributes": {"cwe": "CWE-20"},
    }
    unknown = {"record_id": "CVE-2024-0002", "subject_id": "n/a/n/a", "event_timestamp": START}
    frame = stage([later, unknown, first]).to_arrow().cast(StagedRecord.arrow_schema())
    publish(warehouse, StagedRecord, frame.to_batches(), {})
    with connect(warehouse) as connection:
        keys = example_keys(connection).sort("record_id")
    assert keys.rows() == [
        ("CVE-2024-0001", "acme", "CWE-79", "CVE-2024-0001"),
        ("CVE-2024-0002", None, None, "CVE-2024-0002"),
    ]


def test_the_example_has_a_row_of_its_own() -> None:
    random = np.random.default_rng(0)
    is_positive = np.arange(200) % 2 == 0
    frame = pl.DataFrame(
        {
            "event_timestamp": [START + timedelta(hours=hour) for hour in range(200)],
            "is_positive": is_positive,
            "record_quality__n_words": random.random(200),
            "author_activity__n_records_1d": random.random(200),
            "vendor_activity__exploited_ratio_28d": is_positive + random.random(200) / 2,
        }
    )
    table, model, inputs = score(frame)
    assert inputs == ["record_quality__n_words", "author_activity__n_records_1d"]
    assert model.n_features_in_ == len(inputs)
    scores = {line[:44].strip(): float(line[44:].split()[0]) for line in table.splitlines()[5:]}
    assert scores["with features declared in features/cve.py"] == 1.0
    assert scores["all of triage_v2"] < 0.8  # which may not see the example's features
