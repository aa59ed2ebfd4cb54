"""Exports give other libraries the rows of a training set, a batch at a time."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from feature_repo import exports, spine, training_set
from feature_repo.exports import arrays, batches, hf_dataset, tf_dataset, torch_dataset
from transforms.warehouse.tables import Warehouse

FRAME = pl.DataFrame(
    {
        "author_id": [f"a{n}" for n in range(25)],
        "event_timestamp": [datetime(2026, 1, 1, n % 24, tzinfo=UTC) for n in range(25)],
        "label": [n % 3 == 0 for n in range(25)],
        "weight": [1.0 + n for n in range(25)],
        "author_activity__n_records_7d": [None if n == 4 else n for n in range(25)],
        "author_activity__is_new": [n % 2 == 0 for n in range(25)],
        "record_text__language": ["en"] * 25,
    }
)
INPUTS = FRAME.select("author_activity__n_records_7d", "author_activity__is_new")


@pytest.fixture(params=["frame", "file"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> pl.DataFrame | Path:
    if request.param == "frame":
        return FRAME
    FRAME.write_parquet(tmp_path / "made.parquet", row_group_size=8)
    return tmp_path / "made.parquet"


def joined(parts: Any) -> list[np.ndarray[Any, Any]]:
    return [
        np.concatenate([np.asarray(column) for column in columns])
        for columns in zip(*parts, strict=True)
    ]


def assert_rows(parts: list[Any]) -> None:
    inputs, label, weight = joined(parts)
    np.testing.assert_array_equal(inputs, INPUTS.cast(pl.Float32).to_numpy())
    assert inputs.dtype == label.dtype == np.float32
    assert label.tolist() == FRAME["label"].cast(pl.Float32).to_list()
    assert weight.tolist() == FRAME["weight"].to_list()


def test_batches_are_the_rows_in_order(source: pl.DataFrame | Path) -> None:
    found = list(batches(source, 10))
    assert all(0 < batch.num_rows <= 10 for batch in found)
    assert pl.concat([pl.DataFrame(batch) for batch in found]).equals(FRAME)


def test_arrays_are_inputs_label_and_weight(source: pl.DataFrame | Path) -> None:
    assert_rows(list(arrays(source, rows=10)))
    ((only,),) = arrays(FRAME.drop("label", "weight"), ["author_activity__n_records_7d"])
    assert only.shape == (25, 1)
    assert np.isnan(only[4, 0])


def test_a_batch_is_read_when_it_is_asked_for(
    source: pl.DataFrame | Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    every = exports.batches
    monkeypatch.setattr(
        exports, "batches", lambda *given: (read.append(1) or part for part in every(*given))
    )
    stream = arrays(source, rows=5)
    next(stream)
    assert len(read) == 1


def test_torch_gets_the_rows_with_and_without_workers(source: pl.DataFrame | Path) -> None:
    loader = pytest.importorskip("torch.utils.data").DataLoader
    assert_rows(list(loader(torch_dataset(source, rows=10), batch_size=None)))
    made = torch_dataset(source, rows=5)
    shared = list(loader(made, batch_size=None, num_workers=2, multiprocessing_context="spawn"))
    assert sorted(joined(shared)[2].tolist()) == FRAME["weight"].to_list()


def test_tensorflow_gets_the_rows(source: pl.DataFrame | Path) -> None:
    pytest.importorskip("tensorflow")
    made = tf_dataset(source, rows=10)
    assert_rows(list(made.as_numpy_iterator()))
    assert made.element_spec[0].shape.as_list() == [None, 2]


def test_hugging_face_gets_the_rows(source: pl.DataFrame | Path) -> None:
    pytest.importorskip("datasets")
    assert list(hf_dataset(source)) == FRAME.to_dicts()


def test_a_training_set_is_written_to_a_file_as_it_would_be_made(
    small: Warehouse, tmp_path: Path
) -> None:
    root, features = small.settings.root, ["author_activity:n_records_7d"]
    asked = spine("author", sample=40)
    made = training_set(asked, features, root)
    path = tmp_path / "made.parquet"
    assert training_set.write(path, asked, features, root) == made.frame.height == 40
    assert pl.read_parquet(path).equals(made.frame)
    assert exports.input_names(path) == exports.input_names(made)
    assert next(batches(made)).num_rows == 40
