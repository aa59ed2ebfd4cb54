"""The Prefect flow that maintains a home: compacts its tables and deletes what nobody needs any more."""

from typing import Any

import flows.importing  # noqa: F401

# isort: split
from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.stages import MaintainParameters, run_maintenance


@flow(name="maintain", flow_run_name="maintain", persist_result=False)
def maintain(parameters: MaintainParameters) -> dict[str, list[dict[str, Any]]]:
    """Merge small files, drop replaced rows, delete data files that neither a lock nor the days to keep need."""
    done = run_maintenance(parameters)
    for name, rows in done.items():
        create_table_artifact(
            key=f"maintain-{name}", table=rows, description=f"Tables {name} by maintenance"
        )
    return done
