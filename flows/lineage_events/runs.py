"""The events of one run of the pipeline: of the run itself, and of each stage as its child.

A stage is a job that reads and writes datasets; each view is a job of its own. A job's run has
START, then COMPLETE, or FAIL with the reason, or ABORT if somebody stopped it.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import pyarrow as pa

from feature_repo.online_views import online_views
from flows.lineage_events.datasets import Dataset, of_online, of_source, of_table
from flows.lineage_events.sending import Sender, open_sender
from transforms.errors import MillraceError
from transforms.features.chosen import chosen_views
from transforms.features.registry import views
from transforms.schemas.raw import RawRecord
from transforms.schemas.staging import QuarantinedRecord, StagedRecord
from transforms.sources.source import Source
from transforms.warehouse.tables import Warehouse, n_rows_of

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent

NAMESPACE = "millrace"
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class Job(NamedTuple):
    """A part of a run, and what it reads and writes."""

    name: str
    reads: Sequence[Dataset] = ()
    writes: Sequence[Dataset] = ()


class JobRun:
    """A run of a job: its id, the versions of tables before it, and the rows it wrote elsewhere."""

    def __init__(self, job: Job, warehouse: Warehouse) -> None:
        """Take the job before it begins."""
        from openlineage.client.uuid import generate_new_uuid

        self.id, self.job = str(generate_new_uuid()), job
        written = [dataset.relation for dataset in job.writes if dataset.relation]
        self.since = {relation: warehouse.version(relation) for relation in written}
        self.n_rows: int | None = None


class NoEvents:
    """A run of which no events are sent."""

    refused: Sequence[str] = ()

    def stage(self, _name: str, run: Callable[[], Result]) -> Result:
        """Run a stage."""
        return run()


@contextmanager
def run_events(source: Source, warehouse: Warehouse, *, sent: bool) -> Iterator[NoEvents]:
    """Send the events of a run, if they are to be `sent` and OpenLineage is configured.

    A run that names `refused` files has failed. No event lets a run fail.
    """
    sender = open_sender() if sent else None
    if sender is None:
        yield NoEvents()
        return
    events = Events(sender, source, warehouse)
    try:
        with events.during([events.whole]):
            yield events
    finally:
        sender.close()


class Events(NoEvents):
    """A run whose events are sent."""

    def __init__(self, sender: Sender, source: Source, warehouse: Warehouse) -> None:
        """Take what sends, and what the run reads and writes."""
        self._sender, self._source, self._warehouse = sender, source, warehouse
        self.whole = JobRun(Job(source.name), warehouse)

    def stage(self, name: str, run: Callable[[], Result]) -> Result:
        """Run a stage between its events."""
        runs = self._begun(name)
        with self.during(runs):
            result = run()
            if isinstance(result, dict) and name == "materialize":
                for one in runs:
                    one.n_rows = sum(result.values())
        return result

    def _begun(self, stage: str) -> list[JobRun]:
        try:
            jobs = jobs_of(stage, self._source, self._warehouse)
            return [JobRun(job, self._warehouse) for job in jobs]
        except Exception as error:  # noqa: BLE001 - the stage itself says what is wrong
            reason = type(error).__name__
            logger.warning("OpenLineage: %s cannot be described (%s)", stage, reason)
            return []

    @contextmanager
    def during(self, runs: Sequence[JobRun]) -> Iterator[None]:
        """Send START of some runs, and how they end."""
        self._put(runs, "START")
        try:
            yield
        except BaseException as error:
            # the text of a library's error may have a value of a record in it
            reason = str(error) if isinstance(error, MillraceError) else type(error).__name__
            self._put(runs, "FAIL" if isinstance(error, Exception) else "ABORT", reason)
            raise
        self._put(runs, "FAIL" if self.refused else "COMPLETE", "\n".join(self.refused))

    def _put(self, runs: Sequence[JobRun], state: str, reason: str = "") -> None:
        for run in runs:
            self._sender.put(partial(self._event, run, state, reason))

    def _event(self, run: JobRun, state: str, reason: str) -> "RunEvent":
        from openlineage.client import event_v2, facet_v2

        by: dict[str, Any] = {"producer": f"urn:millrace:{version('millrace')}"}
        engine = facet_v2.processing_engine_run.ProcessingEngineRunFacet
        facets: dict[str, Any] = {
            "processing_engine": engine(version=version("millrace"), name="millrace", **by)
        }
        if run is not self.whole:
            facets["parent"] = _parent(self.whole, by)
        if reason:
            failed = facet_v2.error_message_run.ErrorMessageRunFacet
            facets["errorMessage"] = failed(reason, "PYTHON", **by)
        kind = facet_v2.job_type_job.JobTypeJobFacet(
            "BATCH", "MILLRACE", "PIPELINE" if run is self.whole else "STAGE", **by
        )
        return event_v2.RunEvent(
            eventType=event_v2.RunState(state),
            eventTime=datetime.now(UTC).isoformat(),
            run=event_v2.Run(run.id, facets),
            job=event_v2.Job(namespace(), run.job.name, {"jobType": kind}),
            inputs=[
                event_v2.InputDataset(*dataset.place, facets=self._facets(dataset, by))
                for dataset in run.job.reads
            ],
            outputs=[
                event_v2.OutputDataset(
                    *dataset.place,
                    facets=self._facets(dataset, by),
                    outputFacets={} if state == "START" else self._written(run, dataset, by),
                )
                for dataset in run.job.writes
            ],
            **by,
        )

    def _facets(self, dataset: Dataset, by: dict[str, Any]) -> dict[str, Any]:
        """Describe a dataset: its columns, and of a table its version and kind."""
        from openlineage.client.facet_v2 import (
            dataset_version_dataset,
            schema_dataset,
            storage_dataset,
        )

        facets: dict[str, Any] = {}
        if dataset.fields:
            fields = [schema_dataset.SchemaDatasetFacetFields(*field) for field in dataset.fields]
            facets["schema"] = schema_dataset.SchemaDatasetFacet(fields, **by)
        if dataset.relation and (number := self._warehouse.version(dataset.relation)) >= 0:
            facets["storage"] = storage_dataset.StorageDatasetFacet("delta", "parquet", **by)
            facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(
                str(number), **by
            )
        return facets

    def _written(self, run: JobRun, dataset: Dataset, by: dict[str, Any]) -> dict[str, Any]:
        """Count what a run has written to a dataset."""
        from openlineage.client.facet_v2 import output_statistics_output_dataset

        counts = (
            written(self._warehouse, dataset.relation, run.since[dataset.relation])
            if dataset.relation
            else (run.n_rows, None, None)
        )
        statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet
        return {"outputStatistics": statistics(*counts, **by)}


def namespace() -> str:
    """Return the namespace of jobs, by the variable that OpenLineage's integrations share."""
    return os.environ.get("OPENLINEAGE_NAMESPACE") or NAMESPACE


def jobs_of(stage: str, source: Source, warehouse: Warehouse) -> list[Job]:
    """List the jobs of a stage with what they read and write; none for a stage without data."""
    home = warehouse.settings.root
    raw, staged, quarantined = (
        of_table(warehouse, contract) for contract in (RawRecord, StagedRecord, QuarantinedRecord)
    )
    tables = {view.name: of_table(warehouse, view.contract) for view in views()}
    if stage == "ingest":
        return [Job(f"{source.name}.ingest", of_source(source), [raw])]
    if stage == "prepare":
        return [Job(f"{source.name}.prepare", [raw], [staged, quarantined])]
    if stage == "featurize":
        return [
            Job(
                f"{source.name}.featurize.{view.name}",
                [staged, *(tables[name] for name in view.reads)],
                [tables[view.name]],
            )
            for view in chosen_views(home)
        ]
    if stage == "materialize":
        read = [tables[name] for name in online_views(home)]
        return [Job(f"{source.name}.materialize", read, [of_online(home)])]
    return []


def written(warehouse: Warehouse, relation: str, since: int) -> tuple[int, int, int]:
    """Count rows, bytes and data files that versions after one have added to a table."""
    table, added = warehouse.table(relation), warehouse.changes(relation, since).added
    if table is None:
        return 0, 0, 0
    actions = pa.table(table.get_add_actions(flatten=True)).select(["path", "size_bytes"])
    sizes = {Path(row["path"]).name: row["size_bytes"] for row in actions.to_pylist()}
    return (
        sum(map(n_rows_of, added)),
        sum(sizes[Path(file).name] for file in added),
        len(added),
    )


def _parent(whole: JobRun, by: dict[str, Any]) -> Any:
    from openlineage.client.facet_v2 import parent_run

    job = (namespace(), whole.job.name)
    return parent_run.ParentRunFacet(
        parent_run.Run(whole.id),
        parent_run.Job(*job),
        parent_run.Root(parent_run.RootRun(whole.id), parent_run.RootJob(*job)),
        **by,
    )
