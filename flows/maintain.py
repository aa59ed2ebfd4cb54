"""The Prefect flow that compacts the tables of a home and deletes files no longer needed."""

from typing import Any

import flows.importing  # noqa: F401

# isort: split
from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.stages import MaintainParameters, run_maintenance


@flow(name="maintain", flow_run_name="maintain", persist_result=False)
def maintain(parameters: MaintainParameters) -> dict[str, list[dict[str, Any]]]:
    """Merge small files, drop replaced rows and delete data files that are no longer needed."""
    done = run_maintenance(parameters)
    for name, rows in done.items():
        create_table_artifact(
            key=f"maintain-{name}", table=rows, description=f"Tables {name} by maintenance"
        )
    return done
