"""The Prefect flow that brings an online store up to date for windows that have ended."""

import flows.importing  # noqa: F401

# isort: split
from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.stages import RefreshParameters, run_refresh


@flow(name="refresh", flow_run_name="refresh", persist_result=False)
def refresh(parameters: RefreshParameters) -> dict[str, int]:
    """Write online the entities whose windows have ended since the last run, and no others."""
    written = run_refresh(parameters)
    if any(written.values()):
        rows = [{"view": view, "entities": count} for view, count in written.items()]
        create_table_artifact(key="refresh", table=rows, description="Entities written online")
    return written
