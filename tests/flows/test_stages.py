"""Looking for work before a run: what is no work, and what must count as some."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import transforms.sources.ingest
from flows.cli import run, status
from flows.planning import plan_run
from flows.report.page import write_report
from flows.stages import PipelineParameters, pending_work, run_plain
from tests.flows.conftest import Notes
from transforms.errors import ChecksError, NoFilesError
from transforms.features import fingerprint
from transforms.features.registry import views
from transforms.home import Settings
from transforms.sources.ingest import ingest
from transforms.sources.source import load_source
from transforms.warehouse.tables import Warehouse


def test_a_file_that_cannot_be_opened_is_not_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"id": "a", "author": "u", "written": "2026-01-01", "text": "fine"}
    (tmp_path / "good.jsonl").write_text(json.dumps(row) + "\n")
    record = "record: {record_id: id, author_id: author, event_timestamp: written, text: text}"
    (tmp_path / "source.yaml").write_text(f"name: x\nuri: '*.jsonl'\nknown: at_event\n{record}\n")
    run_plain(PipelineParameters(source=str(tmp_path / "source.yaml"), home=str(tmp_path / "home")))
    source, warehouse = (
        load_source(tmp_path / "source.yaml"),
        Warehouse(Settings(home=tmp_path / "home")),
    )
    assert pending_work(source, warehouse).nothing

    locked = tmp_path / "locked.jsonl"
    locked.write_text(json.dumps(row) + "\n")

    def digest(stream: Any, name: str) -> Any:
        if stream.name == str(locked):
            raise PermissionError(13, "Permission denied")
        return hashlib.new(name, stream.read())

    monkeypatch.setattr(transforms.sources.ingest.hashlib, "file_digest", digest)
    assert not pending_work(source, warehouse).nothing


def test_run_says_that_changed_code_computes_a_view_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good.jsonl").write_text(
        json.dumps({"id": "a", "author": "u", "written": "2026-01-01", "text": "fine"}) + "\n"
    )
    record = "record: {record_id: id, author_id: author, event_timestamp: written, text: text}"
    (tmp_path / "source.yaml").write_text(f"name: x\nuri: '*.jsonl'\nknown: at_event\n{record}\n")
    parameters = PipelineParameters(
        source=str(tmp_path / "source.yaml"), home=str(tmp_path / "home")
    )
    assert run_plain(parameters).notices == []
    monkeypatch.setattr(fingerprint, "_code", lambda *_: "other code")
    source, warehouse = (
        load_source(tmp_path / "source.yaml"),
        Warehouse(Settings(home=tmp_path / "home")),
    )
    assert not pending_work(source, warehouse).nothing
    computed = [
        step
        for step in plan_run(source, warehouse).steps
        if not step.relation.startswith("online ")
    ]
    assert ["has changed" in step.why for step in computed] == len(views()) * [True]
    summary = run_plain(parameters)
    assert [notice.split(":")[0] for notice in summary.notices] == [
        view.relation for view in views()
    ]
    assert pending_work(source, warehouse).nothing
    assert run_plain(parameters).notices == []


def test_an_emptied_inbox_is_a_normal_run_that_materializes(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    notes.add()
    parameters = PipelineParameters(source=str(notes.source), home=str(tmp_path / "home"))
    source, warehouse = load_source(notes.source), Warehouse(Settings(home=tmp_path / "home"))
    with pytest.raises(NoFilesError, match="no file to load there"):
        pending_work(
            source.model_copy(update={"uri": str(tmp_path / "elsewhere" / "*.jsonl")}), warehouse
        )
    ingest(source, warehouse)
    (tmp_path / "data" / "1.jsonl").unlink()
    pending = pending_work(source, warehouse)
    assert not pending.nothing
    assert pending.notices == [f"{source.uri}: no file there now; 1 were loaded from there before"]
    summary = run_plain(parameters)
    assert (summary.files_loaded, summary.read) == (0, 45)
    assert min(summary.materialized.values()) > 0
    assert pending_work(source, warehouse).nothing
    (tmp_path / "data").rmdir()
    assert pending_work(source, warehouse).nothing
    # a path never loaded from is a mistake in the source file, whatever came from elsewhere
    with pytest.raises(NoFilesError, match="no file to load there"):
        pending_work(
            source.model_copy(update={"uri": str(tmp_path / "date" / "*.jsonl")}), warehouse
        )


def test_a_stopped_load_is_named_by_plan_run_status_and_report(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    cut = [
        {
            "id": f"{n % 3}.70306E+17",
            "author": f"u{n}",
            "written": "2024-01-01",
            "known": "2024-01-01",
            "text": f"t{n}",
        }
        for n in range(30)
    ]
    (tmp_path / "data" / "1.jsonl").write_text(
        "".join(json.dumps({**row, "about": "", "label": "", "gone": False}) + "\n" for row in cut)
    )
    parameters = PipelineParameters(source=str(notes.source), home=str(tmp_path / "home"))
    source, warehouse = load_source(notes.source), Warehouse(Settings(home=tmp_path / "home"))
    expected = (
        "30 of 30 rows (100.0%) are rejected (max_quarantined_ratio 50%): record_id: "
        "exponent_form (30 rows; "
    )
    planned = plan_run(source, warehouse).checks
    assert not warehouse.settings.root.exists()
    assert planned[0].startswith(expected)
    assert "(first row 1 of 1.jsonl)" in planned[0]
    assert "this stops the run" in planned[1]
    command = CliRunner().invoke(
        run, ["--source", str(notes.source), "--home", str(tmp_path / "home"), "--plain"]
    )
    assert isinstance(command.exception, ChecksError)
    assert expected in str(command.exception)
    assert expected in plan_run(source, warehouse).checks[0]
    stopped = CliRunner().invoke(status, ["--home", str(tmp_path / "home")])
    assert isinstance(stopped.exception, ChecksError)
    assert expected in str(stopped.exception)
    page = write_report(warehouse).read_text("utf-8")
    assert expected in page
    assert "1 load stopped: see checks" in page
    summary = run_plain(parameters.model_copy(update={"accept_load": True}))
    assert (summary.read, summary.quarantined) == (30, 30)
    assert expected in summary.notices[0]
    assert plan_run(source, warehouse).checks == []
