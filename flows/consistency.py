"""The Prefect flow that watches serving: what was served, and which views are late."""

from typing import Any

import flows.importing  # noqa: F401

# isort: split
from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.events import emit_event

from feature_repo.watching.consistency import causes_of, n_wrong
from flows.stages import ConsistencyParameters, run_consistency
from transforms.errors import ConsistencyError

SHOWN = ("n_compared", "n_matched", "n_missing", "n_extra", "n_differing")


@flow(name="consistency", flow_run_name="consistency", persist_result=False)
def consistency(parameters: ConsistencyParameters) -> dict[str, Any]:
    """Compare served values with what training says of them now; tell who differs and who is late.

    It fails where a value differs, after its artifact and events.
    """
    watched = run_consistency(parameters)
    rows = [_row(row) for row in watched.consistency.to_dicts()]
    create_table_artifact(
        key="consistency", table=rows, description="Served values beside what training says now"
    )
    n_compared, wrong = int(watched.consistency["n_compared"].sum()), n_wrong(watched.consistency)
    counted = {"n_compared": n_compared, "n_wrong": wrong}
    differing = [row for row in rows if row["matched"] < row["compared"]]
    _emit(
        f"consistency.{'differing' if wrong else 'matched'}",
        f"home.{parameters.settings().root.name}",
        {**counted, "features": differing},
    )
    for item in watched.late:
        as_of = item.as_of and item.as_of.isoformat()
        payload = {"as_of": as_of, "within_seconds": item.within.total_seconds()}
        _emit("freshness.late", f"view.{item.view}", payload)
    if wrong:
        message = f"{wrong:,} of {n_compared:,} served values differ from what training says now"
        raise ConsistencyError(message)
    return {**counted, "late": [item.view for item in watched.late]}


def _row(found: dict[str, Any]) -> dict[str, Any]:
    counts = {name.removeprefix("n_"): found[name] for name in SHOWN}
    feature = f"{found['view']}:{found['feature']}"
    return {
        "service": found["service"],
        "feature": feature,
        **counts,
        "largest_difference": found["largest_difference"],
        "causes": causes_of(found),
    }


def _emit(what: str, resource: str, payload: dict[str, Any]) -> None:
    """Emit an event: `consistency.matched`, `consistency.differing` or `freshness.late`."""
    emit_event(
        event=f"millrace.{what}",
        resource={"prefect.resource.id": f"millrace.{resource}", "prefect.resource.name": resource},
        payload=payload,
    )
