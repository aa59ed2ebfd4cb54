"""The pipeline's stages in order, run plainly here or as Prefect tasks in `flows.pipeline`."""

import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, Field

from flows.history import STAGES, note_run, note_source
from transforms.errors import (
    BreakingChangeError,
    ErasureError,
    FileRefusedError,
    HomeError,
    MillraceError,
)
from transforms.home import EngineName, Settings, replace_file, settings_of
from transforms.instants import instant_of
from transforms.replica import replica_of
from transforms.sources.source import Source, load_source
from transforms.warehouse.arrivals import is_erasing, lock_arrivals
from transforms.warehouse.scratch import sweep
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Report, Rows, Warehouse, silent

if TYPE_CHECKING:
    import polars as pl

    from feature_repo.erase import TouchedLock
    from feature_repo.watching.freshness import Freshness
    from flows.lineage_events.runs import NoEvents
    from transforms.features.backfill import Span
    from transforms.upkeep.backup import Backup, Taken
    from transforms.upkeep.erase import Erased, Wanted

Call = Callable[..., Any]
HOME_HELP = "Folder for everything the pipeline writes; MILLRACE_HOME or .millrace if empty."
FULL = ("no space left", "disk is full", "disk full", "disk quota exceeded", "os error 28")
READ_ONLY = (
    "read-only file system",
    "readonly database",
    "permission denied",
    "os error 13",
    "os error 30",
    "unable to open database",
)
RAW, STAGING = "raw.records", "staging.records"
logger = logging.getLogger(__name__)


class PipelineParameters(BaseModel):
    """What one run of the pipeline is asked to do."""

    source: str = Field(description="Path of the source's YAML file.")
    home: str | None = Field(default=None, description=HOME_HELP)
    accept_breaking: bool = Field(
        default=False,
        description="Rebuild views even if some of their features were removed or retyped.",
    )
    accept_schema: bool = Field(
        default=False, description="Accept changed fields of a frozen source, for this run only."
    )
    accept_drift: bool = Field(
        default=False, description="Stage loads even if they differ too much from earlier ones."
    )

    accept_load: bool = Field(
        default=False,
        description="Stage loads even if a check stops them: rejected rows, keys, dates, ids.",
    )

    accept_gap: bool = Field(
        default=False,
        description="Go on where a topic or table goes on, though rows before are lost.",
    )

    engine: EngineName | None = Field(
        default=None, description="What computes large stages; MILLRACE_ENGINE if empty."
    )

    def settings(self) -> Settings:
        """Settings of the run."""
        settings = settings_of(Path(self.home)) if self.home else Settings()
        return settings.model_copy(update={"engine": self.engine}) if self.engine else settings


Instant = Annotated[
    datetime, BeforeValidator(instant_of)
]  # in UTC; Pydantic would guess a number's unit


class BackfillParameters(BaseModel):
    """Which span a backfill is to look at; UTC, the end not included."""

    start: Instant | None = Field(
        default=None, description="First instant; from the beginning if empty."
    )
    end: Instant | None = Field(
        default=None, description="Instant before which it ends; no end if empty."
    )
    home: str | None = Field(default=None, description=HOME_HELP)

    def settings(self) -> Settings:
        """Settings of the run."""
        return settings_of(Path(self.home)) if self.home else Settings()

    def span(self) -> "Span":
        """The span."""
        from transforms.features.backfill import Span

        return Span(self.start, self.end)


class RefreshParameters(BaseModel):
    """Which home's online store is to be brought up to date."""

    home: str | None = Field(default=None, description=HOME_HELP)

    def settings(self) -> Settings:
        """Settings of the run."""
        return settings_of(Path(self.home)) if self.home else Settings()


class MaintainParameters(BaseModel):
    """What maintenance is asked to do."""

    keep_days: float | None = Field(
        default=None,
        ge=0,
        description=(
            "Days for which replaced data files are kept; MILLRACE_KEEP_DAYS or 7 if empty."
        ),
    )
    dry_run: bool = Field(default=False, description="Show what would be done; change nothing.")
    home: str | None = Field(default=None, description=HOME_HELP)

    def settings(self) -> Settings:
        """Settings of the run."""
        settings = Settings(home=Path(self.home)) if self.home else Settings()
        return (
            settings
            if self.keep_days is None
            else settings.model_copy(update={"keep_days": self.keep_days})
        )


class ConsistencyParameters(BaseModel):
    """What is to be compared with the log of served values."""

    rows: int = Field(
        default=100_000, ge=1, description="Logged rows of each service to compare, the newest."
    )
    home: str | None = Field(default=None, description=HOME_HELP)

    def settings(self) -> Settings:
        """Settings of the run."""
        return settings_of(Path(self.home)) if self.home else Settings()


class Watched(NamedTuple):
    """What was served and is not what training says, by feature, and the views that are late."""

    consistency: "pl.DataFrame"
    late: list["Freshness"]


class Summary(BaseModel):
    """What one run did; `read` is `staged` + `duplicates` + `quarantined`.

    `features` counts the rows added to each view; `tables` the rows of each table that are new,
    computed again, untouched.
    """

    source: str
    files_loaded: int
    read: int
    staged: int
    duplicates: int
    quarantined: int
    features: dict[str, int]
    tables: dict[str, dict[str, int]]
    materialized: dict[str, int]
    seconds: dict[str, float]
    notices: list[str] = Field(default_factory=list, exclude=True)
    drifts: list[dict[str, Any]] = Field(default_factory=list, exclude=True)
    refused: list[str] = Field(default_factory=list, exclude=True)

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing to do."""
        return not (
            self.read
            or self.files_loaded
            or any(self.features.values())
            or any(self.materialized.values())
        )


class FilesRefusedError(FileRefusedError):
    """Files were refused; the rest of the run is done, and `summary` describes it."""

    def __init__(self, summary: Summary) -> None:
        """Take the summary; the message is a line a file."""
        super().__init__("\n".join(summary.refused))
        self.summary = summary


class Erasure(NamedTuple):
    """What an erasure took away, or would, and the locks it touched."""

    erased: "Erased"
    locks: list["TouchedLock"]


class Pending(NamedTuple):
    """Whether a run would find anything to do, and what was passed over in looking."""

    notices: list[str]
    nothing: bool


def pending_work(source: Source, warehouse: Warehouse) -> Pending:
    """Look cheaply for new files, unstaged rows and outdated views, to skip a run without work."""
    from transforms.features.build import stale_views
    from transforms.features.chosen import is_kept
    from transforms.sources.ingest import pending_files
    from transforms.staging.prepare import is_prepared

    found = pending_files(source, warehouse)
    # a file that cannot be opened is work too: the run must fail over it, not call the home up to
    # date
    is_current = (
        not (found.files or found.n_rows or found.refused)
        and is_prepared(source, warehouse)
        and not stale_views(warehouse)
        and is_kept(warehouse.settings.root)
    )
    return Pending(found.notices, nothing=is_current and not _is_behind(warehouse))


def _is_behind(warehouse: Warehouse) -> bool:
    from feature_repo.online import due_views, is_applied

    return not is_applied(warehouse) or bool(due_views(warehouse, datetime.now(UTC)))


def ingest(source: Source, warehouse: Warehouse, accept_gap: bool = False) -> Any:  # noqa: FBT001, FBT002 - tasks pass by position
    """source -> raw."""
    from transforms.sources.ingest import ingest

    return ingest(source, warehouse, accept_gap=accept_gap)


def prepare(
    source: Source,
    warehouse: Warehouse,
    accept_schema: bool,  # noqa: FBT001 - tasks pass by position
    accept_drift: bool,  # noqa: FBT001
    accept_load: bool,  # noqa: FBT001
    until: int | None = None,
) -> Any:
    """raw -> staging and quarantine."""
    from transforms.staging.prepare import prepare

    return prepare(
        source,
        warehouse,
        accept_schema=accept_schema,
        accept_drift=accept_drift,
        accept_load=accept_load,
        until=until,
    )


def staged_loads(source: Source, warehouse: Warehouse) -> set[str]:
    """Name the loads that are staged."""
    from transforms.profiles.drift import staged_loads

    return staged_loads(warehouse, source.name)


def notice_drifts(
    source: Source, warehouse: Warehouse, loads: set[str]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Report which of some loads drifted from earlier ones, in words and as event payloads."""
    from transforms.profiles.drift import described, drifted, payload

    found = drifted(warehouse, source.name, loads)
    notices = [
        f"{source.name}: {described(load, rows)}; see millrace report" for load, rows in found
    ]
    return notices, [payload(source.name, load, rows) for load, rows in found]


def notice_checks(source: Source, warehouse: Warehouse, loads: set[str]) -> list[str]:
    """Say what the checks found in some loads that is worth a look."""
    from transforms.staging.checks import notices

    return notices(warehouse, source.name, loads)


def featurize(
    warehouse: Warehouse, now: datetime, *, with_profiles: bool = True
) -> dict[str, Rows]:
    """staging -> features."""
    from transforms.features.build import featurize

    return featurize(warehouse, now, with_profiles=with_profiles)


def changed_code(warehouse: Warehouse) -> list[str]:
    """Report which views were computed by other code: all their rows are recomputed."""
    from transforms.features.build import is_made_by_other_code
    from transforms.features.chosen import chosen_views

    changed = [
        view.relation
        for view in chosen_views(warehouse.settings.root)
        if is_made_by_other_code(view, warehouse)
    ]
    return [
        f"{relation}: its model, kernel, contract or engine has changed; all rows are recomputed"
        for relation in changed
    ]


def refuse_breaking(warehouse: Warehouse, *, accepted: bool) -> None:
    """Raise if a published feature was removed or retyped, unless that is accepted."""
    from transforms.features.build import breaking_changes

    changes = breaking_changes(warehouse)
    if changes and not accepted:
        lines = "\n  ".join(changes)
        message = (
            f"a run would break what is published:\n  {lines}\n  --accept-breaking makes these "
            "views again, as they are defined now"
        )
        raise BreakingChangeError(message)


def apply(warehouse: Warehouse) -> bool:
    """definitions -> registry."""
    from feature_repo.online import apply

    return apply(warehouse)


def materialize(warehouse: Warehouse, now: datetime) -> dict[str, int]:
    """features -> online store."""
    from feature_repo.online import materialize

    return materialize(warehouse, now, warehouse.report)


def run_stages(
    parameters: PipelineParameters, report: Report, call: Call, *, with_history: bool = True
) -> Summary:
    """Run all stages through `call`, which runs a function with its arguments.

    A second run on the same home waits for the first to end, then does what is left. Refused
    files do not stop the others; they are listed in the summary. Rows and seconds go into the
    home's history if `with_history`, and events to OpenLineage.
    """
    from feature_repo.watching.freshness import mark_fresh
    from flows.lineage_events.runs import run_events
    from transforms.sources.schema_changes import newest_load, notices

    source = load_source(Path(parameters.source))
    warehouse = _warehouse(parameters.settings())
    with (
        run_events(source, warehouse, sent=with_history) as events,
        lock_home(warehouse.settings.root),
    ):
        clock = _Clock(events)
        warehouse.report = report
        now = datetime.now(UTC)
        recover(warehouse, now)
        refuse_breaking(warehouse, accepted=parameters.accept_breaking)
        note_source(warehouse.settings.root, source)
        before = {relation: warehouse.n_rows(relation) for relation in (RAW, STAGING)}
        ingested = clock.time("ingest", call, ingest, source, warehouse, parameters.accept_gap)
        newest, known = newest_load(warehouse, source.name), staged_loads(source, warehouse)
        accepted = (parameters.accept_schema, parameters.accept_drift, parameters.accept_load)
        account = clock.time("prepare", call, prepare, source, warehouse, *accepted)
        staged = staged_loads(source, warehouse) - known
        check_notices = notice_checks(source, warehouse, staged)
        drift_notices, drifts = notice_drifts(source, warehouse, staged)
        rebuilt = changed_code(warehouse)
        features = clock.time("featurize", call, featurize, warehouse, now)
        tables = {
            RAW: Rows(new=ingested.rows_loaded, untouched=before[RAW]),
            STAGING: Rows(new=account.staged, untouched=before[STAGING]),
            **{f"features.{view}": rows for view, rows in features.items()},
        }
        clock.time("apply", call, apply, warehouse)
        # what was just loaded counts from an instant after this run began
        until = datetime.now(UTC)
        materialized = clock.time("materialize", call, materialize, warehouse, until)
        mark_fresh(warehouse.settings.root, now)
        summary = Summary(
            source=source.name,
            files_loaded=ingested.files_loaded,
            **account._asdict(),
            features={view: rows.new + rows.recomputed for view, rows in features.items()},
            tables={relation: rows._asdict() for relation, rows in tables.items()},
            materialized=materialized,
            seconds=clock.seconds,
            notices=ingested.notices
            + notices(warehouse, source, newest)
            + check_notices
            + drift_notices
            + rebuilt,
            drifts=drifts,
            refused=ingested.refused,
        )
        write_summary(warehouse.settings.root, summary)
        if with_history:
            _note_history(warehouse.settings.root, summary, ingested.rows_loaded)
        events.refused = summary.refused
    return summary


def _note_history(home: Path, summary: Summary, n_ingested: int) -> None:
    from feature_repo.sizes import online_size

    n_features, n_online = (sum(rows.values()) for rows in (summary.features, summary.materialized))
    n_rows = (n_ingested, summary.read, n_features, n_online)
    rows = dict(zip(STAGES, n_rows, strict=True))
    note_run(home, rows, summary.seconds, online_size(home).n_bytes)


@lru_cache(maxsize=4)
def _warehouse(settings: Settings) -> Warehouse:
    """Keep a home's warehouse for the next run of this process; use it under the home's lock."""
    return Warehouse(settings)


def recover(warehouse: Warehouse, now: datetime) -> None:
    """Delete what a killed run left behind, and finish an erasure that was killed."""
    sweep(warehouse)
    if is_erasing(warehouse.settings.root):
        if warehouse.settings.replica:
            apply(warehouse)  # it may have begun on another machine
        with lock_arrivals(warehouse.settings.root):
            finish_erasure(warehouse, now)
    erase_again(warehouse, now)


def erase_again(warehouse: Warehouse, now: datetime) -> None:
    """Erase from a restored home whom later backups did not have; what is not staged yet waits."""
    from transforms.staging.accounting import recount
    from transforms.upkeep.erasures import find_due, read_due, write_due

    root = warehouse.settings.root
    if not read_due(root):
        return
    if not recount(warehouse)["adds_up"].all():
        logger.warning("%s: what is to be erased again waits until all loads are staged", root)
        return
    try:
        for wanted in find_due(warehouse):
            _erase(warehouse, wanted, now, is_dry=False)
    except ErasureError as error:
        logger.warning("%s: what is to be erased again waits for the next run: %s", root, error)
    else:
        write_due(root, [])


def run_erasure(home: Path, wanted: "Wanted", *, is_dry: bool) -> Erasure:
    """Erase an author's, a record's or a file's data from a home, or find what would be erased.

    Raises `ErasureError` if nothing is found, if the owner of the loaded rows is unknown, or if
    something is still there afterwards.
    """
    warehouse = Warehouse(Settings(home=home))
    with lock_home(warehouse.settings.root):
        now = datetime.now(UTC)
        recover(warehouse, now)
        return _erase(warehouse, wanted, now, is_dry=is_dry)


def _erase(warehouse: Warehouse, wanted: "Wanted", now: datetime, *, is_dry: bool) -> Erasure:
    from feature_repo.erase import refuse_other_stores, touched_locks
    from transforms.features.build import update
    from transforms.features.chosen import kept_views
    from transforms.upkeep.erase import begin, find

    with lock_arrivals(warehouse.settings.root):  # nothing may arrive that would count as staged
        if not is_dry:
            refuse_other_stores(warehouse)
            # views that are off have rows to erase too
            update(kept_views(warehouse), warehouse, now)
            apply(warehouse)
        with connect(warehouse) as connection:
            erased = find(connection, warehouse, wanted)
            locks = touched_locks(warehouse, connection, wanted.author)
        if not is_dry:
            begin(warehouse, wanted)
            finish_erasure(warehouse, now)
    return Erasure(erased, locks)


def finish_erasure(warehouse: Warehouse, now: datetime) -> None:
    """Do what is left of an erasure that has begun; else nothing."""
    from transforms.upkeep.erase import begun_erasure

    erasure = begun_erasure(warehouse)
    if erasure is None:
        return
    from feature_repo.erase import erase_online, erase_spines
    from feature_repo.stores import served_log
    from transforms.upkeep.erase import (
        delete_files,
        end,
        erase_rows,
        recompute_views,
        refuse_what_is_left,
    )
    from transforms.upkeep.erasures import note_done

    erase_rows(warehouse, erasure)
    recompute_views(warehouse, erasure, now)
    erase_online(warehouse, erasure, now)
    erase_spines(warehouse, erasure)
    served_log.clear(warehouse.settings.root)
    delete_files(warehouse, erasure)
    refuse_what_is_left(warehouse, erasure)
    note_done(warehouse.settings.root, erasure.wanted, now.isoformat())
    end(warehouse)


def run_backfill(
    parameters: BackfillParameters, report: Report = silent
) -> dict[str, dict[str, int]]:
    """Fill gaps in the views over a span and update the online store.

    Returns the rows that are new, recomputed and untouched, by relation.
    """
    from transforms.features.backfill import fill

    warehouse = Warehouse(parameters.settings(), report)
    with lock_home(warehouse.settings.root):
        now = datetime.now(UTC)
        recover(warehouse, now)
        rows = fill(warehouse, parameters.span(), now)
        apply(warehouse)
        materialize(warehouse, now)
    return {relation: counts._asdict() for relation, counts in rows.items()}


def run_refresh(parameters: RefreshParameters) -> dict[str, int]:
    """Bring views up to date that do not go by the clock online; entities written, by view."""
    from feature_repo.online import need_refresh, refresh

    warehouse = Warehouse(parameters.settings())
    root = warehouse.settings.root
    if not root.is_dir() or not need_refresh(root):
        return {}
    with lock_home(root):
        now = datetime.now(UTC)
        recover(warehouse, now)
        apply(warehouse)
        return refresh(warehouse, now, warehouse.report)


def run_maintenance(
    parameters: MaintainParameters,
    n_reads: int = 3,
    relations: Sequence[str] | None = None,
    n_crowded: int = 0,
) -> dict[str, list[dict[str, Any]]]:
    """Compact and vacuum the tables of a home; return what was done, as `compacted`, `vacuumed`.

    All tables are maintained, or the `relations`; then as many as `n_crowded` are compacted besides
    whose small files make them dear to read.

    How long a read of each table takes is measured `n_reads` times, before and after.
    The online store is not rewritten: compaction does not change its values.
    """
    from feature_repo.locks import registered
    from feature_repo.online import due_views, note_compacted
    from transforms.upkeep.maintain import compact, crowded, vacuum

    warehouse = _warehouse(MaintainParameters(home=parameters.home).settings())  # as runs have it
    with lock_home(warehouse.settings.root):
        warehouse.report = silent
        now = datetime.now(UTC)
        recover(warehouse, now)
        due = due_views(warehouse, now)
        chosen = None if relations is None else {*relations, *crowded(warehouse, n_crowded)}
        compacted = compact(warehouse, is_dry=parameters.dry_run, n_reads=n_reads, relations=chosen)
        if not parameters.dry_run:
            note_compacted(
                warehouse,
                {item.relation.removeprefix("features.") for item in compacted} - set(due),
            )
        locked = [lock.tables for lock in registered(warehouse.settings.root)]
        vacuumed = vacuum(
            warehouse,
            locked,
            is_dry=parameters.dry_run,
            relations=relations,
            keep_days=parameters.settings().keep_days,
        )
    return {
        "compacted": [item._asdict() for item in compacted],
        "vacuumed": [item._asdict() for item in vacuumed],
    }


def run_backup(home: Path, place: str, n_kept: int | None) -> tuple["Taken", list[str]]:
    """Back up a home, beside runs; return what was taken, and the older backups then deleted.

    A second backup to the same place waits for the first to end.
    """
    from feature_repo.locks import registered
    from transforms.upkeep.backup import keep_newest, take
    from transforms.upkeep.places import open_place

    warehouse = Warehouse(Settings(home=home))
    root = warehouse.settings.root

    def tell(whom: str) -> None:
        logger.warning("%s: waiting for another backup (%s) to end", place, whom)

    with _disk_trouble(Path(place)), open_place(place).alone(tell) as check:
        taken = take(warehouse, place, lambda: [lock.tables for lock in registered(root)], check)
        return taken, keep_newest(place, n_kept, check) if n_kept else []


def run_restore(home: Path, place: str, name: str | None) -> tuple["Backup", int]:
    """Restore a backup into an empty home, and fill its online store.

    Returns the backup, and the number of erasures that wait for a run.
    """
    from transforms.upkeep.erasures import read_due
    from transforms.upkeep.restore import restore

    settings = Settings(home=home)
    warehouse = Warehouse(settings)  # first: who locks a home in object storage must know that
    with lock_as_it_is(settings.root):
        backup = restore(settings, place, name)
    with lock_home(settings.root):
        now = datetime.now(UTC)
        recover(warehouse, now)
        apply(warehouse)
        materialize(warehouse, now)
        return backup, len(read_due(settings.root))


def run_consistency(parameters: ConsistencyParameters) -> Watched:
    """Compare what was served with what training says of it now, and see who is late."""
    from feature_repo.watching.consistency import check
    from feature_repo.watching.freshness import late_views

    warehouse, now = Warehouse(parameters.settings()), datetime.now(UTC)
    return Watched(check(warehouse, now, parameters.rows), late_views(warehouse.settings.root, now))


def run_plain(parameters: PipelineParameters, report: Report = silent) -> Summary:
    """Run the pipeline in this process, without Prefect.

    Raises `FilesRefusedError` at the end if a file was refused.
    """
    summary = run_stages(parameters, report, lambda function, *arguments: function(*arguments))
    fail_on_refused(summary)
    return summary


def fail_on_refused(summary: Summary) -> None:
    """Raise `FilesRefusedError` if files were refused: a run that left a file out has failed."""
    if summary.refused:
        raise FilesRefusedError(summary)


def summary_path(home: Path) -> Path:
    """Where the last run's summary is kept."""
    return home / "last_run.json"


def write_summary(home: Path, summary: Summary) -> None:
    """Keep the summary of the run in the home."""
    document = {**summary.model_dump(), "notices": summary.notices, "refused": summary.refused}
    replace_file(summary_path(home), json.dumps(document, indent=2).encode())


@contextmanager
def lock_home(home: Path) -> Iterator[None]:
    """Lock a home for one run, and bring it up to the layout of this code.

    While another run has it, log a warning and wait. The operating system releases the lock if the
    process dies. Raises `HomeError` if newer code has written to the home.
    """
    from flows.migrations import migrate

    with lock_as_it_is(home):
        migrate(home)
        yield


@contextmanager
def lock_as_it_is(home: Path) -> Iterator[None]:
    """Lock a home of whatever layout."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        file = (home / ".lock").open("a+")
    except OSError as error:
        message = f"{home}: cannot be written ({error.strerror}); choose another --home"
        raise HomeError(message) from None
    with file, _disk_trouble(home):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            logger.warning(
                "%s: waiting for another run (process %s) to end",
                home,
                file.read().strip() or "unknown",
            )
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        with _lease(home):
            yield


@contextmanager
def _lease(home: Path) -> Iterator[None]:
    """Lock a home in object storage among machines too."""
    there = replica_of(home)
    if there is None:
        yield
        return

    def tell(holder: str) -> None:
        machine, process, *_ = holder.split(":")
        logger.warning(
            "%s: waiting for another run (process %s on %s) to end", there.uri, process, machine
        )

    with there.lease("home", tell):
        yield


@contextmanager
def _disk_trouble(home: Path) -> Iterator[None]:
    """Turn what each library says of a full disk, or one that may not be written, into one line.

    Arrow, DuckDB, delta-rs and SQLite each have an error of their own for it, with the system's
    words in it at most.
    """
    try:
        yield
    except MillraceError:
        raise
    except Exception as error:
        said = str(error).lower()
        if any(words in said for words in FULL):
            message = (
                f"{home}: the disk is full; no partial results are visible; "
                "free some space and run again"
            )
        elif any(words in said for words in READ_ONLY):
            message = (
                f"{home}: cannot be written any more; no partial results are visible; fix its "
                "permissions and run again"
            )
        else:
            raise
        raise HomeError(message) from error


class _Clock:
    """Times stages, between their events."""

    def __init__(self, events: "NoEvents") -> None:
        self.seconds: dict[str, float] = {}
        self._events = events

    def time(self, stage: str, call: Call, function: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = self._events.stage(stage, lambda: call(function, *arguments))
        self.seconds[stage] = round(time.perf_counter() - start, 3)
        return result
