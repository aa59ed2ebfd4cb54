"""The Prefect flow that fills gaps in the feature views, then updates the online store."""

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
    """Compute rows of a span that are missing or outdated, in chunks; a stopped run resumes."""
    rows = run_backfill(parameters)
    table = [{"table": relation, **counts} for relation, counts in rows.items()]
    create_table_artifact(
        key="backfill", table=table, description="rows that are new, recomputed, untouched"
    )
    return rows
