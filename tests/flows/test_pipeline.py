"""One definition of the stages, two ways to run it: plainly and as a Prefect flow, with the same result."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import polars.selectors as cs
import pytest
from prefect.artifacts import Artifact
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from flows.pipeline import pipeline
from flows.report import page
from flows.report.page import report_path
from flows.stages import PipelineParameters, run_plain
from transforms.accounting import recount
from transforms.settings import Settings
from transforms.warehouse import RELATIONS, Warehouse

# what differs from run to run: the load, and the instants of loading and computing
OF_THE_RUN = {"load_id", "loaded_timestamp", "created_timestamp"}


@pytest.fixture(scope="module", autouse=True)
def _prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=180), temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def content(home: Path) -> dict[str, str]:
    """Digest every table's rows, in order of all their columns."""
    digests = {}
    with Warehouse(Settings(home=home)).connect() as connection:
        for relation in RELATIONS:
            rows = connection.sql(f"select * from {relation}").pl()
            rows = rows.select(sorted(set(rows.columns) - OF_THE_RUN)).with_columns(cs.binary().bin.encode("hex"))
            digests[relation] = hashlib.sha256(rows.sort(rows.columns).write_csv().encode()).hexdigest()
    return digests


def test_prefect_and_plain_give_the_same(small_source: Path, tmp_path: Path) -> None:
    plain = run_plain(PipelineParameters(source=str(small_source), home=str(tmp_path / "plain")))
    flow = pipeline(PipelineParameters(source=str(small_source), home=str(tmp_path / "flow")))
    volatile = {"seconds", "notices"}
    assert {key: value for key, value in flow.items() if key not in volatile} == plain.model_dump(exclude={"seconds"})
    assert content(tmp_path / "flow") == content(tmp_path / "plain")
    (table,) = [artifact for artifact in [Artifact.get("accounting-cve-events")] if artifact]
    assert str(plain.read) in str(table.data)
    assert flow["notices"] == []
    (link,) = [artifact for artifact in [Artifact.get("report-cve-events")] if artifact]
    report = report_path(tmp_path / "flow")
    assert report.as_uri() in str(link.data)
    assert "2,859" in report.read_text("utf-8")


def test_a_report_that_cannot_be_drawn_is_told_and_costs_no_data(
    small_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Warehouse) -> Path:
        message = "a value nobody may see"
        raise ValueError(message)

    monkeypatch.setattr(page, "write_report", fail)
    flow = pipeline(PipelineParameters(source=str(small_source), home=str(tmp_path / "home")))
    assert recount(Warehouse(Settings(home=tmp_path / "home")))["adds_up"].all()
    (notice,) = flow["notices"]
    assert "could not be drawn (ValueError)" in notice
    assert notice in caplog.text
    assert "nobody may see" not in caplog.text + notice
    assert not report_path(tmp_path / "home").exists()


def test_a_failed_stage_fails_the_flow(tmp_path: Path) -> None:
    (tmp_path / "half.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00half")
    record = "record: {record_id: id, author_id: author, event_timestamp: written, text: text}"
    (tmp_path / "source.yaml").write_text(f"name: x\nuri: '*.jsonl*'\nknown: at_event\n{record}\n")
    parameters = PipelineParameters(source=str(tmp_path / "source.yaml"), home=str(tmp_path / "home"))
    state = pipeline(parameters, return_state=True)
    assert state.type == StateType.FAILED
    assert "half.jsonl.gz: refused" in (state.message or "")
