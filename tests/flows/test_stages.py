"""Looking for work before a run starts: what is no work, and what must not pass for none."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import transforms.featurize
import transforms.ingest
from flows.planning import plan_run
from flows.stages import PipelineParameters, pending_work, run_plain
from transforms.featurize import VIEWS
from transforms.settings import Settings
from transforms.source import load_source
from transforms.warehouse import Warehouse


def test_a_file_that_cannot_be_opened_is_not_nothing_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"id": "a", "author": "u", "written": "2026-01-01", "text": "fine"}
    (tmp_path / "good.jsonl").write_text(json.dumps(row) + "\n")
    record = "record: {record_id: id, author_id: author, event_timestamp: written, text: text}"
    (tmp_path / "source.yaml").write_text(f"name: x\nuri: '*.jsonl'\nknown: at_event\n{record}\n")
    run_plain(PipelineParameters(source=str(tmp_path / "source.yaml"), home=str(tmp_path / "home")))
    source, warehouse = load_source(tmp_path / "source.yaml"), Warehouse(Settings(home=tmp_path / "home"))
    assert pending_work(source, warehouse).nothing

    locked = tmp_path / "locked.jsonl"
    locked.write_text(json.dumps(row) + "\n")

    def digest(stream: Any, name: str) -> Any:
        if stream.name == str(locked):
            raise PermissionError(13, "Permission denied")
        return hashlib.new(name, stream.read())

    monkeypatch.setattr(transforms.ingest.hashlib, "file_digest", digest)
    assert not pending_work(source, warehouse).nothing


def test_run_says_that_changed_code_computes_a_view_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good.jsonl").write_text(json.dumps({"id": "a", "author": "u", "written": "2026-01-01", "text": "fine"}) + "\n")
    record = "record: {record_id: id, author_id: author, event_timestamp: written, text: text}"
    (tmp_path / "source.yaml").write_text(f"name: x\nuri: '*.jsonl'\nknown: at_event\n{record}\n")
    parameters = PipelineParameters(source=str(tmp_path / "source.yaml"), home=str(tmp_path / "home"))
    assert run_plain(parameters).notices == []
    digest = transforms.featurize.code_digest
    monkeypatch.setattr(transforms.featurize, "code_digest", lambda contract: 1 + digest(contract))
    source, warehouse = load_source(tmp_path / "source.yaml"), Warehouse(Settings(home=tmp_path / "home"))
    assert not pending_work(source, warehouse).nothing
    assert ["has changed" in step.why for step in plan_run(source, warehouse).steps] == len(VIEWS) * [True]
    summary = run_plain(parameters)
    assert [notice.split(":")[0] for notice in summary.notices] == [contract.relation() for contract in VIEWS]
    assert pending_work(source, warehouse).nothing
    assert run_plain(parameters).notices == []
