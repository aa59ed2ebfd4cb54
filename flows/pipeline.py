"""The Prefect flow: ingest -> prepare -> featurize -> apply -> materialize -> summary."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

import flows.importing

# isort: split
from prefect import flow, task
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL

from flows.stages import (
    PipelineParameters,
    Summary,
    fail_on_refused,
    ingest,
    materialize,
    run_stages,
    summary_path,
)
from transforms.errors import DriftError, LoadStoppedError, OrchestratorError
from transforms.warehouse.tables import Report, Warehouse, silent

# what talks to files or to the online store may fail for a moment; data that breaks a rule will
# break it again
RETRIED: tuple[Callable[..., Any], ...] = (ingest, materialize)


# progress cannot be a parameter: those are shown in Prefect's UI and kept as JSON
_report: ContextVar[Report] = ContextVar("report", default=silent)


def _as_task(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a stage as a Prefect task.

    Only small manifests pass between tasks, and nothing is cached: the tables are the truth.
    """
    stage = task(
        name=function.__name__,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=2 * (function in RETRIED),
        retry_delay_seconds=5,
    )
    return stage(function)(*arguments)


@flow(name="pipeline", flow_run_name="pipeline {parameters.source}", persist_result=False)
def pipeline(parameters: PipelineParameters) -> dict[str, Any]:
    """Load a source's new rows, stage them, compute their features and update the online store."""
    try:
        summary = run_stages(parameters, _report.get(), _as_task)
    except LoadStoppedError as error:
        emit_load_event(
            "drift.stopped" if isinstance(error, DriftError) else "checks.stopped", error.payload
        )
        raise
    for payload in summary.drifts:
        emit_load_event("drift.warned", payload)
    publish_artifacts(parameters, summary)
    publish_report(parameters, summary)
    fail_on_refused(summary)
    return {**summary.model_dump(), "notices": summary.notices}


def emit_load_event(what: str, payload: dict[str, Any]) -> None:
    """Emit an event about a load, with what was found.

    It is `millrace.drift.stopped`, `millrace.drift.warned` or `millrace.checks.stopped`.
    """
    resource = {
        "prefect.resource.id": f"millrace.source.{payload['source']}",
        "prefect.resource.name": payload["source"],
    }
    emit_event(event=f"millrace.{what}", resource=resource, payload=payload)


def run_local(parameters: PipelineParameters, report: Report) -> Summary:
    """Run the flow in this process, as a Prefect run of its own; progress goes to `report`."""
    flows.importing.show_runs()
    refuse_silent_api()
    token = _report.set(report)
    try:
        return Summary.model_validate(pipeline(parameters))
    finally:
        _report.reset(token)


def refuse_silent_api() -> None:
    """Raise `OrchestratorError` if Prefect is configured for an API that does not answer.

    Prefect itself reports this in three tracebacks.
    """
    url = PREFECT_API_URL.value()
    if not url:
        return
    with get_client(sync_client=True) as client:
        trouble = client.api_healthcheck()
    if trouble:
        host = urlsplit(url).netloc.rpartition("@")[2]  # without a password
        message = (
            f"Prefect's API at {host} does not answer ({type(trouble).__name__}); start it "
            "with prefect server start, "
            "unset PREFECT_API_URL, or run with --plain"
        )
        raise OrchestratorError(message)


def publish_artifacts(parameters: PipelineParameters, summary: Summary) -> None:
    """Leave the accounting table and a link to the run's summary in Prefect."""
    name = summary.source.replace("_", "-")
    rows = [
        {"outcome": key, "rows": getattr(summary, key)}
        for key in ("read", "staged", "duplicates", "quarantined")
    ]
    rows += [
        {"outcome": f"{relation}, {what}", "rows": n}
        for relation, counts in summary.tables.items()
        for what, n in counts.items()
    ]
    rows += [
        {"outcome": f"online {view}", "rows": count} for view, count in summary.materialized.items()
    ]
    create_table_artifact(
        key=f"accounting-{name}", table=rows, description="read = staged + duplicates + quarantined"
    )
    path = summary_path(parameters.settings().root)
    create_link_artifact(key=f"summary-{name}", link=path.as_uri(), link_text="Summary of the run")


def publish_report(parameters: PipelineParameters, summary: Summary) -> None:
    """Draw the home's report and leave a link to it in Prefect.

    The data is in by now, so a page that fails is a notice and an error in the log, no failed run.
    Only the error's type is reported: a library's message may contain a value.
    """
    from flows.report.page import write_report

    try:
        path = write_report(Warehouse(parameters.settings()))
    except Exception as error:  # noqa: BLE001  # no page is worth a run's data
        notice = (
            f"the run is complete, but its report could not be drawn ({type(error).__name__}); "
            "run millrace report to see why"
        )
        get_run_logger().error(notice)
        summary.notices.append(notice)
        return
    create_link_artifact(
        key=f"report-{summary.source.replace('_', '-')}",
        link=path.as_uri(),
        link_text="Report of the home",
    )
