"""One definition of the stages runs plainly and as a Prefect flow, with the same result."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect.artifacts import Artifact
from prefect.client.schemas.objects import StateType
from prefect.events import Event
from prefect.events.clients import AssertingEventsClient
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from flows.pipeline import pipeline
from flows.report import page
from flows.report.page import report_path
from flows.stages import FilesRefusedError, PipelineParameters, run_plain
from transforms.errors import DriftError
from transforms.home import Settings
from transforms.staging.accounting import recount
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

# what differs from run to run: the load, and the instants of loading and computing
OF_THE_RUN = {"load_id", "loaded_timestamp", "created_timestamp"}


@pytest.fixture(scope="module", autouse=True)
def _prefect() -> Iterator[None]:
    # here, since it imports Prefect's server, which only this module's worker needs
    from prefect.testing.utilities import prefect_test_harness

    with (
        prefect_test_harness(server_startup_timeout=180),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield


def content(home: Path) -> dict[str, str]:
    """Digest every table's rows, in order of all their columns."""
    digests = {}
    warehouse = Warehouse(Settings(home=home))
    with connect(warehouse) as connection:
        for relation in warehouse.versions():
            rows = connection.sql(f"select * from {relation}").pl()
            rows = rows.select(sorted(set(rows.columns) - OF_THE_RUN))
            digests[relation] = hashlib.sha256(
                "\n".join(sorted(map(repr, rows.rows()))).encode()
            ).hexdigest()
    return digests


def test_prefect_and_plain_give_the_same(small_source: Path, tmp_path: Path) -> None:
    plain = run_plain(PipelineParameters(source=str(small_source), home=str(tmp_path / "plain")))
    flow = pipeline(PipelineParameters(source=str(small_source), home=str(tmp_path / "flow")))
    volatile = {"seconds", "notices"}
    assert {key: value for key, value in flow.items() if key not in volatile} == plain.model_dump(
        exclude={"seconds"}
    )
    assert content(tmp_path / "flow") == content(tmp_path / "plain")
    (table,) = [artifact for artifact in [Artifact.get("accounting-cve-events")] if artifact]
    assert str(plain.read) in str(table.data)
    assert flow["notices"] == []
    (link,) = [artifact for artifact in [Artifact.get("report-cve-events")] if artifact]
    report = report_path(tmp_path / "flow")
    assert report.as_uri() in str(link.data)
    assert "2,859" in report.read_text("utf-8")


def test_a_report_that_cannot_be_drawn_is_reported_and_costs_no_data(
    small_source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
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
    parameters = PipelineParameters(
        source=str(tmp_path / "source.yaml"), home=str(tmp_path / "home")
    )
    state = pipeline(parameters, return_state=True)
    assert state.type == StateType.FAILED
    assert "half.jsonl.gz: refused" in (state.message or "")
    refused = state.result(raise_on_failure=False)
    assert isinstance(refused, FilesRefusedError)
    assert (refused.summary.files_loaded, len(refused.summary.refused)) == (0, 1)


@pytest.fixture
def events() -> Iterator[Callable[[], list[Event]]]:
    """What a flow emits, about drift."""
    AssertingEventsClient.reset()
    EventsWorker.set_client_override(AssertingEventsClient)

    def emitted() -> list[Event]:
        EventsWorker.instance().wait_until_empty()
        found = [event for client in AssertingEventsClient.all for event in client.events]
        return [event for event in found if event.event.startswith("millrace.drift.")]

    yield emitted
    EventsWorker.instance().drain()
    EventsWorker.set_client_override(None)


def test_drift_emits_an_event_that_names_the_columns(
    tmp_path: Path, events: Callable[[], list[Event]]
) -> None:
    record = "{record_id: id, author_id: author, event_timestamp: written, text: text}"
    drift = (
        "{min_reference_loads: 1, min_reference_rows: 1, false_alarms: null, stop: "
        "{wasserstein: 2}}"
    )
    (tmp_path / "source.yaml").write_text(
        f"name: notes\nuri: 'data/*.jsonl'\nknown: at_event\nrecord: {record}\ndrift: {drift}\n"
    )
    parameters = PipelineParameters(
        source=str(tmp_path / "source.yaml"), home=str(tmp_path / "home")
    )
    (tmp_path / "data").mkdir()

    def add(name: str, n_words: int) -> None:
        same = {"author": "ann", "written": "2026-01-01T10:00:00Z"}
        rows = [
            {"id": f"{name}{n}", **same, "text": "word " * (n_words + n % 3)} for n in range(300)
        ]
        (tmp_path / "data" / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
        )

    add("a", 5)
    run_plain(parameters)
    add("b", 50)
    with pytest.raises(DriftError, match="n_words wasserstein"):
        pipeline(parameters)
    (stopped,) = events()
    assert (stopped.event, stopped.resource.id) == (
        "millrace.drift.stopped",
        "millrace.source.notes",
    )
    assert stopped.payload["columns"] == ["n_bytes", "n_words"]
    assert (stopped.payload["files"], stopped.payload["days"]) == (
        [f"{tmp_path}/data/b.jsonl"],
        ["2026-01-01"],
    )
    assert {row["statistic"] for row in stopped.payload["statistics"]} == {"wasserstein"}
    assert "word" not in str(stopped.payload["statistics"]).replace("n_words", "")
    flow = pipeline(parameters.model_copy(update={"accept_drift": True}))
    assert flow["staged"] == 300
    (notice,) = flow["notices"]
    assert (
        f"notes: {tmp_path}/data/b.jsonl (2026-01-01, load {stopped.payload['load']}) differs "
        "from the 1 loads before it: n_" in notice
    )
    _, warned = events()
    assert (warned.event, warned.payload["load"]) == (
        "millrace.drift.warned",
        stopped.payload["load"],
    )
    assert {"n_bytes", "n_words"} <= set(warned.payload["columns"])
