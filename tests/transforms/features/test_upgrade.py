"""A home of an older version is reported in one line, with a remedy that works."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from deltalake import DeltaTable

from tests.transforms.features.test_build import NOW
from transforms.errors import HomeError
from transforms.features.build import featurize
from transforms.schemas.staging import StagedRecord
from transforms.sources.ingest import ingest
from transforms.sources.source import Source
from transforms.staging.prepare import prepare
from transforms.warehouse.publishing import REMADE
from transforms.warehouse.tables import Warehouse


def test_a_home_without_a_column_is_refused_and_made_again_from_raw(
    write: Callable[..., Path],
    note: Callable[..., bytes],
    make_source: Callable[..., Source],
    warehouse: Warehouse,
) -> None:
    source = make_source(write("a.jsonl", note("r1"), note("r2", text="two"), b"{ broken"))
    ingest(source, warehouse)
    folder = warehouse.folder(StagedRecord.relation())
    folder.mkdir(parents=True)
    schema = StagedRecord.arrow_schema()
    DeltaTable.create(str(folder), schema.remove(schema.get_field_index("text_redacted")))
    with pytest.raises(
        HomeError,
        match=r"staging\.records .* differ: text_redacted\); delete staging, .* rebuilt from raw",
    ):
        prepare(source, warehouse)
    for name in REMADE:
        shutil.rmtree(warehouse.settings.root / name, ignore_errors=True)
    assert prepare(source, warehouse)._asdict() == {
        "read": 3,
        "staged": 2,
        "duplicates": 0,
        "quarantined": 1,
    }
    assert featurize(warehouse, NOW)["record_text"].new == 2
