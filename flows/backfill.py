"""The Prefect flow that fills what the feature views lack in a span of time, then brings the online store up to date."""

from typing import Any

import flows.importing  # noqa: F401

# isort: split
from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.stages import BackfillParameters, run_backfill


@flow(
    name="backfill",
    flow_run_name="backfill {parameters.start} to {parameters.end}",
    persist_result=False,
)
def backfill(parameters: BackfillParameters) -> dict[str, Any]:
    """Compute what is lacking or of other code in a span, chunk by chunk; a run that was stopped goes on at its chunk."""
    rows = run_backfill(parameters)
    table = [{"table": relation, **counts} for relation, counts in rows.items()]
    create_table_artifact(
        key="backfill", table=table, description="rows that are new, computed again, untouched"
    )
    return rows
