"""Feast's materialization by column: what changed since the last time, in chunks, in bulk.

`materialize(start, end)` writes the newest row of every entity with a row in that span, as Feast's
own engine does. `materialize-incremental` goes by arrival: it writes the entities whose newest row
came with a file that was not there the last time, or applies from an instant passed since (a window
that expired). So late rows get online, and nothing unchanged is written. In the compact layout the
rows after the span are written beside it, as rows to come. Of what stays online for a time only, an
entity is deleted once its last row is older; one that has rows to come is written without the
values of a row that is. What was done is remembered in the warehouse's folder; a run that was
killed goes on after its last whole chunk.
"""

import base64
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from feast.entity import Entity
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.common.materialization_job import (
    MaterializationJob,
    MaterializationJobStatus,
    MaterializationTask,
)
from feast.infra.compute_engines.base import ComputeEngine
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.key_encoding_utils import deserialize_entity_key
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import RepoConfig
from feast.utils import make_tzaware, to_naive_utc
from feast.value_type import ValueType
from tqdm import tqdm

from feature_repo.done import Done, done_path, read_done, write_done
from feature_repo.stores import compact, sources
from feature_repo.stores.asof import AsofOfflineStore, connect, memory_limit, warehouse
from feature_repo.stores.bulk import bulk_writer, layout_of, read_instants
from feature_repo.stores.clock import EPOCH
from feature_repo.stores.codec import encode_entity_keys
from feature_repo.stores.columns import Files, gathered
from feature_repo.stores.expiry import WindowError, online_for
from feature_repo.stores.newest import FOUND_ROWS, NEWEST_FIRST, list_rows, picked
from feature_repo.stores.sources import Index, Snapshot, numbered, snapshot
from feature_repo.stores.timeline import CREATED, INSTANT, n_partitions, units_since_1970
from feature_repo.stores.written import mark_written
from transforms.warehouse.scratch import scratch_folder

CHUNK_ROWS = 50_000
FIRST = datetime(1, 1, 1, tzinfo=UTC)
Progress = Callable[[str, int, int], None]
_log = logging.getLogger(__name__)
_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)


@contextmanager
def reporting(progress: Progress) -> Iterator[None]:
    """Call `progress(view, written, total)` after each chunk that is written inside the block.

    `written` counts the entities of the chunk, `total` those of all chunks.
    """
    token = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(token)


class Chunk(NamedTuple):
    """All rows that are written of some entities, in the order of keys and instants."""

    rows: pa.RecordBatch
    n_entities: int


@dataclass(frozen=True)
class Span:
    """The rows of a run: from `start` to `end`, and of these the ones that arrived `since`."""

    start: datetime
    end: datetime
    since: Done | None


class ColumnarComputeEngine(ComputeEngine):
    """A Feast batch engine.

    `batch_engine: {type: feature_repo.stores.columnar.ColumnarComputeEngine}`.

    `chunk_rows` (50,000) is how many entities are read, encoded and written at a time. It reads
    `AsofOfflineStore`; views that Feast itself transforms, and other offline stores, are left to
    Feast's local engine. Errors raise.
    """

    def __init__(
        self,
        *,
        repo_config: RepoConfig,
        offline_store: Any,
        online_store: OnlineStore,
        chunk_rows: int = CHUNK_ROWS,
        **options: Any,
    ) -> None:
        """Keep the stores that Feast opened."""
        super().__init__(
            repo_config=repo_config,
            offline_store=offline_store,
            online_store=online_store,
            **options,
        )
        self.chunk_rows = chunk_rows

    def update(
        self,
        project: str,
        views_to_delete: Sequence[FeatureView],
        views_to_keep: Sequence[FeatureView],  # noqa: ARG002
        entities_to_delete: Sequence[Entity],  # noqa: ARG002
        entities_to_keep: Sequence[Entity],  # noqa: ARG002
    ) -> None:
        """Forget what was done for views that no longer exist."""
        self._forget(project, views_to_delete)

    def teardown_infra(
        self,
        project: str,
        fvs: Sequence[FeatureView],
        entities: Sequence[Entity],  # noqa: ARG002
    ) -> None:
        """Forget what was done: the online store is emptied."""
        self._forget(project, fvs)

    def _forget(self, project: str, views: Sequence[FeatureView]) -> None:
        if isinstance(self.offline_store, AsofOfflineStore):
            for view in views:
                done_path(sources.warehouse_folder(self.repo_config), project, view.name).unlink(
                    missing_ok=True
                )

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **options: Any
    ) -> MaterializationJob:
        view = task.feature_view
        if not isinstance(self.offline_store, AsofOfflineStore) or _is_transformed(view):
            return self._leave_to_feast(registry, task, **options)
        if view.online:
            Materialization(self.repo_config, self.online_store, view, self.chunk_rows).run(task)
        return LocalMaterializationJob(
            job_id=f"{view.name}-{task.start_time}-{task.end_time}",
            status=MaterializationJobStatus.SUCCEEDED,
        )

    def _leave_to_feast(
        self, registry: BaseRegistry, task: MaterializationTask, **options: Any
    ) -> MaterializationJob:
        _log.warning(
            "view %s: transformed by Feast or not read by AsofOfflineStore; "
            "left to Feast's local engine",
            task.feature_view.name,
        )
        engine = LocalComputeEngine(
            backend="pandas",
            repo_config=self.repo_config,
            offline_store=self.offline_store,
            online_store=self.online_store,
        )
        (job,) = engine.materialize(registry, task, **options)
        if job.error():
            raise job.error()
        return job


@dataclass(frozen=True)
class Materialization:
    """One view's way into the online store."""

    config: RepoConfig
    online_store: OnlineStore
    view: FeatureView
    chunk_rows: int = CHUNK_ROWS

    @property
    def _path(self) -> Path:
        return done_path(sources.warehouse_folder(self.config), self.config.project, self.view.name)

    def run(self, task: MaterializationTask) -> int:
        """Finish what a killed run left, then write what the task asks for.

        Returns entities written.
        """
        done, written = self.done(), 0
        span = self.span(
            done,
            make_tzaware(task.start_time).astimezone(UTC),
            make_tzaware(task.end_time).astimezone(UTC),
        )
        if done and done.rows is not None:
            is_same_run = (
                done.since is None and done.start == span.start.isoformat()
            )  # which has only to add what came since
            written, done = self._resume(done, task)
            span = replace(span, since=done if span.start == FIRST or is_same_run else None)
        self._expire(span.end)  # a run that is killed after this still has to write, so it is due
        return written + self._write(snapshot(self.config, self.view.batch_source), span, 0, task)

    def _oldest(self, end: datetime | None) -> datetime:
        """The earliest event that a run up to an instant keeps online; without a run, any."""
        stay = online_for(self.view)
        return FIRST if stay is None or end is None else end - stay

    def _expire(self, end: datetime) -> None:
        """Delete from the online store what does not stay there any longer.

        Raises `WindowError` for a store that cannot.
        """
        if online_for(self.view) is None:
            return
        layout = layout_of(self.config, self.online_store)
        if layout is None:
            message = (
                f"view {self.view.name} stays online for {online_for(self.view)} only, which needs "
                "the compact layout: say `layout: compact` and a store of ours in "
                "feature_store.yaml, or declare online=True"
            )
            raise WindowError(message)
        layout.expire(self.view, self._oldest(end))

    def span(self, done: Done | None, start: datetime, end: datetime) -> Span:
        """Whether the task is an increment, which starts where Feast's last materialization ended.

        An increment on what is not known to be done starts again.
        """
        last = self.view.most_recent_end_time
        if last is None or make_tzaware(last) != start:
            return Span(start, end, None)
        return Span(FIRST, end, done)

    def done(self) -> Done | None:
        """Read what was done, unless the definition or store changed, or the store lacks it."""
        done = read_done(self._path)
        if done and done.of == self._digest() and self._is_there(done.witness):
            return done
        self._path.unlink(
            missing_ok=True
        )  # else a run over a part of it could bring the witness back
        return None

    def _resume(self, done: Done, task: MaterializationTask) -> tuple[int, Done | None]:
        """Resume a killed run if its input still exists; else keep only what was done before it."""
        try:
            rows = snapshot(self.config, self.view.batch_source, done.version)
        except ValueError:
            return 0, done.since
        if done.version is None or rows.identities != done.identities or not rows.is_whole():
            return 0, done.since
        span = Span(
            datetime.fromisoformat(done.start), datetime.fromisoformat(done.until), done.since
        )
        return self._write(rows, span, done.rows or 0, task), self.done()

    def _write(self, rows: Snapshot, span: Span, skipped: int, task: MaterializationTask) -> int:
        written = 0
        with self._newest(rows, span) as (newest, total, has_earlier):
            finished = self._finished(rows, span, has_earlier=has_earlier)
            for chunk, n_written in self._written(newest, total, skipped, span.end, task):
                written, skipped = written + n_written, skipped + chunk.n_entities
                if finished:
                    witness = self._witness(chunk.rows, span.end) or finished.witness
                    finished = replace(finished, witness=witness)
                    write_done(
                        self._path,
                        replace(finished, rows=skipped, version=rows.version, since=span.since),
                    )
        if finished:
            # where rows expire, one that is not there may have been
            forgets = getattr(self.config.online_store, "key_ttl_seconds", None)
            layout = layout_of(self.config, self.online_store)
            if layout and not forgets:
                mark_written(layout, self.view)
            write_done(self._path, finished)
        return written

    def _written(
        self,
        newest: Callable[[int], Iterator[Chunk]],
        total: int,
        skipped: int,
        end: datetime,
        task: MaterializationTask,
    ) -> Iterator[tuple[Chunk, int]]:
        """Write the chunks after those skipped; yield each with its number of entities written.

        Entities left out as older are not counted.
        """
        if skipped >= total:
            return
        report = _progress.get() or _nobody
        with (
            bulk_writer(
                self.config, self.online_store, self.view, end if self._has_coming else None
            ) as write,
            (task.tqdm_builder or _no_bar)(total) as bar,
        ):
            bar.update(skipped)
            for chunk in newest(skipped):
                yield chunk, write(self._without_old(chunk.rows, end))
                bar.update(chunk.n_entities)
                report(self.view.name, chunk.n_entities, total)

    def _without_old(self, rows: pa.RecordBatch, end: datetime) -> pa.RecordBatch:
        """Leave out the features of rows that are too old to stay online; rows come after them."""
        if online_for(self.view) is None:
            return rows
        instants = read_instants(rows[self.view.batch_source.timestamp_field])
        is_old = instants < np.datetime64(to_naive_utc(self._oldest(end)), "us")
        staying = pa.array(np.arange(len(rows)), mask=is_old)
        for name in {field.name for field in self.view.features}:
            place = rows.schema.get_field_index(name)
            rows = rows.set_column(place, name, rows[name].take(staying))
        return rows

    def _zones(self, schema: pa.Schema) -> dict[str, pa.DataType]:
        """The source's types of the features that keep a zone, which DuckDB does not carry."""
        mapped = {name: column for column, name in self.view.batch_source.field_mapping.items()}
        zoned = [
            field.name
            for field in self.view.features
            if field.dtype.to_value_type() == ValueType.ZONED_TIMESTAMP
        ]
        return {name: schema.field(mapped.get(name, name)).type for name in zoned}

    def _finished(self, rows: Snapshot, span: Span, *, has_earlier: bool) -> Done | None:
        """Say what is done after a run; None where it leaves out what an increment has to bring."""
        before, current = self._last(), self.done()
        if (has_earlier and not span.since) or (before and span.end.isoformat() < before.until):
            return None
        start = span.since.start if span.since else span.start.isoformat()
        return Done(
            self._digest(),
            start,
            span.end.isoformat(),
            rows.identities,
            current.witness if current else "",
            is_marked=True,
        )

    def _last(self) -> Done | None:
        """Read what was done by the last run that finished."""
        done = self.done()
        return done.since if done and done.rows is not None else done

    @property
    def _has_coming(self) -> bool:
        """Whether rows after the end of a run are written too."""
        return layout_of(self.config, self.online_store) is not None

    @contextmanager
    def _newest(
        self, rows: Snapshot, span: Span
    ) -> Iterator[tuple[Callable[[int], Iterator[Chunk]], int, bool]]:
        """Find each entity's newest row of the span, and those to come; for an increment, if new.

        Gives what reads the rows in chunks, in the order of their keys, after some that are
        skipped; how many entities there are; and whether there are rows before the span.
        """
        index = self._index(rows)
        start, end = (units_since_1970(time, index.unit) for time in (span.start, span.end))
        before = datetime.fromisoformat(span.since.until) if span.since else None
        until, left, oldest = (
            units_since_1970(time, index.unit)
            for time in (before or FIRST, self._oldest(before), self._oldest(span.end))
        )
        known = span.since.identities if span.since else []
        with connect(self.config) as connection:
            arrived = set(rows.identities) - set(known)
            passed = [(until, end), (left - 1, oldest - 1)] if span.since else []
            list_rows(connection, index, arrived, passed)
            instants = {"start": start, "end": end, "until": until, "left": left, "oldest": oldest}
            connection.execute(f"create temp table newest as {self._sql(span)}", instants)
            earlier = f"exists (from seen where has_arrived and {INSTANT} < $start)"
            counts = f"select count(distinct rank), {earlier} from newest"
            ((total, has_earlier),) = connection.execute(counts, {"start": start}).fetchall()
            yield partial(self._chunks, connection, rows, total), total, has_earlier

    def _chunks(
        self, connection: duckdb.DuckDBPyConnection, rows: Snapshot, total: int, skipped: int
    ) -> Iterator[Chunk]:
        """Read the newest rows in the order of their keys, though they lie in that of the files.

        The rows of an entity are in one chunk.
        """
        kinds = rows.kinds(self._columns)
        for part in self._parts(connection, rows, total, skipped):
            ranks, numbers = part.columns[len(kinds) :]
            order = pc.sort_indices(numbers)
            ranks = ranks.take(order).to_numpy()
            for first, end in _cuts(ranks, self.chunk_rows):
                places = order[first:end]
                columns = [
                    gathered(column, places, kind)
                    for column, kind in zip(part.columns[: len(kinds)], kinds.types, strict=True)
                ]
                chunk = pa.table(columns, kinds)
                if DUMMY_ENTITY_ID in _keys(self.view):
                    chunk = chunk.append_column(
                        DUMMY_ENTITY_ID, pa.repeat(DUMMY_ENTITY_VAL, chunk.num_rows)
                    )
                (batch,) = chunk.combine_chunks().to_batches()
                yield Chunk(batch, int(ranks[end - 1] - ranks[first] + 1))

    def _parts(
        self, connection: duckdb.DuckDBPyConnection, rows: Snapshot, total: int, skipped: int
    ) -> Iterator[pa.Table]:
        """Cut the newest rows by key into parts that fit in memory.

        After the columns, which may have any name, are the entity's rank, and the row's number in
        the order of keys.
        """
        sql = (
            "select place, rank - $skipped as rank, number from newest "
            "where rank >= $skipped order by place"
        )
        ((n_rows,),) = connection.execute("select count(*) from newest").fetchall()
        found = connection.sql(sql, params={"skipped": skipped}).to_arrow_reader(FOUND_ROWS)
        added = [pa.field("rank", pa.int64()), pa.field("number", pa.int64())]
        schema = pa.schema([*rows.carried(self._columns), *added])
        part_rows = self.chunk_rows
        if n_rows > part_rows:
            size = rows.row_bytes(self._columns)
            number = n_partitions(n_rows, size, memory_limit(self.config) // 2)
            part_rows *= -(-total // (number * part_rows))
        ranked = (
            pa.RecordBatch.from_arrays(
                [
                    *batch.take(places).columns,
                    *(ranks[item.name].combine_chunks() for item in added),
                ],
                schema=schema,
            )
            for ranks, batch, places in picked(rows, self._columns, found)
        )
        if total - skipped <= part_rows:
            yield pa.Table.from_batches(ranked, schema)
            return
        with scratch_folder(warehouse(self.config).settings.root) as folder:
            files = Files(folder, schema)
            for batch in ranked:
                files.add(batch, batch.column(len(schema) - 2).to_numpy() // part_rows)
            files.close()
            yield from (files.read(part) for part in range(-(-(total - skipped) // part_rows)))

    def _index(self, rows: Snapshot) -> Index:
        source, columns = self.view.batch_source, self._columns
        times = {INSTANT: source.timestamp_field, CREATED: source.created_timestamp_column}
        keys = [columns[key] for key in _keys(self.view) if key != DUMMY_ENTITY_ID]
        return Index(rows, keys, {name: columns[time] for name, time in times.items() if time})

    @property
    def _columns(self) -> dict[str, str]:
        """For each key, feature and timestamp of the view the source's column."""
        source = self.view.batch_source
        mapped = {name: column for column, name in source.field_mapping.items()}
        keys = [key for key in _keys(self.view) if key != DUMMY_ENTITY_ID]
        times = [time for time in (source.timestamp_field, source.created_timestamp_column) if time]
        return {
            name: mapped.get(name, name)
            for name in (*keys, *(field.name for field in self.view.features), *times)
        }

    def _sql(self, span: Span) -> str:
        keys = list(numbered("key", [key for key in _keys(self.view) if key != DUMMY_ENTITY_ID]))
        there = " and ".join(f"{key} is not null" for key in keys) or "true"
        key_list = ", ".join(keys) or "1"
        changed = f"where ({key_list}) in (select ({key_list}) from fresh)" if span.since else ""
        last = "true" if self._has_coming else f"{INSTANT} <= $end"
        is_new = f"""has_arrived or {INSTANT} > $until and {INSTANT} <= $end
                or {INSTANT} >= $left and {INSTANT} < $oldest"""
        return f"""
            with passed as (from seen where {there} and {INSTANT} >= $start and {last}),
            fresh as (from passed where {is_new}),
            kept as (
                from passed {changed}
                qualify row_number() over (
                    partition by {key_list}, case when {INSTANT} > $end then {INSTANT} end
                    order by {NEWEST_FIRST}, has_arrived desc, place desc
                ) = 1
            ),
            newest as (
                from kept
                window entity as (partition by {key_list})
                qualify bool_or({is_new}) over entity and max({INSTANT}) over entity >= $oldest
            )
            select
                place,
                dense_rank() over (order by {key_list}) - 1 as rank,
                row_number() over (order by {key_list}, {INSTANT}) - 1 as number
            from newest
        """

    def _digest(self) -> str:
        """Digest what decides what is written and where."""
        fields = sorted((field.name, str(field.dtype)) for field in self.view.schema)
        store = self.config.online_store.model_dump(mode="json")
        source = self.view.batch_source
        said = [
            fields,
            _keys(self.view),
            store,
            sources.location(self.config, source.path),
            source.timestamp_field,
            source.created_timestamp_column,
        ]
        stay = online_for(self.view)
        said += [] if stay is None else [stay]
        said += [compact.VERSION] if self._has_coming else []
        return hashlib.sha256(
            json.dumps([*said, source.field_mapping], sort_keys=True, default=str).encode()
        ).hexdigest()

    def _witness(self, rows: pa.RecordBatch, end: datetime) -> str:
        """Choose the entity that is the last to expire, of those that have a row by the end."""
        instants = read_instants(rows[self.view.batch_source.timestamp_field])
        is_there = np.flatnonzero(instants <= np.datetime64(to_naive_utc(end), "us"))
        if not len(is_there):
            return ""
        newest = int(is_there[instants[is_there].argmax()])
        types = {field.name: field.dtype.to_value_type() for field in self.view.entity_columns}
        return base64.b64encode(
            encode_entity_keys(rows.slice(newest, 1), types)[0].as_py()
        ).decode()

    def _is_there(self, witness: str) -> bool:
        return not witness or has_entity(self.config, self.online_store, self.view, witness)


def has_entity(config: RepoConfig, store: OnlineStore, view: FeatureView, witness: str) -> bool:
    """Whether an online store has a view's row of an entity, named as in `Done`."""
    key = deserialize_entity_key(base64.b64decode(witness), entity_key_serialization_version=3)
    ((instant, _),) = store.online_read(config, view, [key], [view.features[0].name])
    return instant not in (None, EPOCH)  # Feast's Redis store returns 1970 for what it lacks


def _cuts(ranks: npt.NDArray[np.int64], size: int) -> Iterator[tuple[int, int]]:
    """Cut sorted ranks into pieces of a size, less where a rank would be cut, else one rank.

    >>> list(_cuts(np.array([0, 1, 1, 1, 2]), 2))
    [(0, 1), (1, 4), (4, 5)]
    """
    first = 0
    while first < len(ranks):
        end = min(first + size, len(ranks))
        if end < len(ranks) and ranks[end] == ranks[end - 1]:
            end = int(np.searchsorted(ranks, ranks[end]))
        if end <= first:
            end = int(np.searchsorted(ranks, ranks[first], "right"))
        yield first, end
        first = end


def _nobody(_view: str, _entities: int, _total: int) -> None:
    pass


def _no_bar(total: int) -> Any:
    return tqdm(total=total, disable=True)


def _keys(view: FeatureView) -> list[str]:
    return [field.name for field in view.entity_columns]


def _is_transformed(view: FeatureView) -> bool:
    """Whether Feast computes or checks the view's values itself, or writes them back offline."""
    said = (
        "aggregations",
        "udf",
        "feature_transformation",
        "source_views",
        "enable_validation",
        "offline",
    )
    return any(getattr(view, name, None) for name in said)
