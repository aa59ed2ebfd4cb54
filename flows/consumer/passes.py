"""The passes: the pipeline's own stages, run again and again on what has arrived in raw."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from flows.consumer.follower import Appended
from flows.stages import (
    MaintainParameters,
    PipelineParameters,
    featurize,
    ingest,
    materialize,
    prepare,
    run_maintenance,
    run_stages,
)
from transforms.errors import MillraceError, NoFilesError, SourceError
from transforms.home import Settings
from transforms.schemas.staging import StagedRecord
from transforms.sources.ingest import Ingested
from transforms.sources.pages import look
from transforms.sources.posts import Taken
from transforms.sources.source import Source, list_files
from transforms.staging.outcomes import Outcome, Since, outcomes, versions_before
from transforms.warehouse.checkpoint import preparing
from transforms.warehouse.tables import Warehouse, silent

Stage = Literal["staged", "online"]
Seen = tuple[tuple[str, int, str], ...]
SECONDS_OF_A_LOOK = 1.0
# between passes, so that a run, maintenance or an erasure that waits for the home gets its turn
SECONDS_OF_A_PAUSE = 0.05
SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_BETWEEN_LISTINGS = 10.0
SECONDS_BETWEEN_COMPARISONS = 60.0
SECONDS_UNTIL_RETRY = (1, 2, 5, 15, 30)
# each pass leaves a file in every table, and the more there are the longer a pass takes. One or two
# tables are maintained after each, for all at once would let everybody wait for seconds, and the
# two that small files make dearest to read are compacted
PASSES_UNTIL_MAINTENANCE = 20
CROWDED_OF_A_PASS = 2
# of replaced data files, for who is reading them: a file a second in each table is many in a week
DAYS_KEPT = 3 / 24
SECONDS_BETWEEN_HISTORY = 3600.0
logger = logging.getLogger(__name__)


class StoppedError(MillraceError):
    """The stages are stopped; the records stay in raw until the reason is mended."""


@dataclass
class _Waiter:
    stage: Stage
    uri: str
    version: int
    future: Future[Outcome]
    outcome: Outcome | None = None


class Passes(threading.Thread):
    """Runs the stages whenever something has arrived, and tells who waits for it."""

    def __init__(
        self, parameters: PipelineParameters, source: Source, end_load: Callable[[], int]
    ) -> None:
        """Take what a run is asked to do, its source, and what ends the load that is being taken.

        What ends it returns the version of raw that has all of it, which a pass goes up to.
        """
        super().__init__(name="millrace-passes")
        self.trouble: str | None = None
        self.versions: dict[Stage, int] = {"staged": -1, "online": -1}
        self._parameters, self._source = parameters, source
        self._end_load = end_load
        self._origin = _origin_of(source, parameters.settings())
        self._lock = threading.Lock()
        self._is_due = threading.Event()
        self._is_due.set()  # a killed process may have left something
        self._is_closed = False
        self._waiters: list[_Waiter] = []
        self.n_passes = self._n_failed = 0
        self._retry_at = self._history_at = 0.0

    def arrived(self) -> None:
        """Let a pass begin: there is more in raw."""
        self._is_due.set()

    def close(self) -> None:
        """Let the pass under way be the last."""
        self._is_closed = True
        self._is_due.set()

    def wait_for(self, stage: Stage, uri: str, taken: Taken) -> Future[Outcome] | None:
        """Wait until a post is staged, or online, for what became of its rows.

        None if that was so before: then the tables say what became of them.
        """
        with self._lock:
            if taken.version <= self.versions[stage]:
                return None
            waiter = _Waiter(stage, uri, taken.version, Future())
            if self.trouble or self._is_closed:
                waiter.future.set_exception(StoppedError(self.trouble or "millrace is closing"))
            else:
                self._waiters.append(waiter)
            return waiter.future

    def run(self) -> None:
        """Run passes until closed."""
        while not self._is_closed:
            is_due = self._is_due.wait(SECONDS_OF_A_LOOK)
            if self._is_closed or time.monotonic() < self._retry_at:
                time.sleep(SECONDS_OF_A_PAUSE)
                continue
            self._is_due.clear()
            if is_due or self.trouble or self._origin.is_due():
                self._try()
                time.sleep(SECONDS_OF_A_PAUSE)
        self._fail(StoppedError("millrace is closing"))

    def _try(self) -> None:
        try:
            self._pass()
        except Exception as error:  # noqa: BLE001 - the next try may succeed; nothing is lost
            self.trouble = str(error) if isinstance(error, MillraceError) else type(error).__name__
            logger.error("nothing new is served: %s", self.trouble)  # noqa: TRY400 - no text
            delay = SECONDS_UNTIL_RETRY[min(self._n_failed, len(SECONDS_UNTIL_RETRY) - 1)]
            self._n_failed += 1
            self._retry_at = time.monotonic() + delay
            self._fail(StoppedError(self.trouble))
        else:
            self.trouble, self._n_failed = None, 0

    def _pass(self) -> None:
        with_history = time.monotonic() >= self._history_at
        run_stages(self._parameters, silent, self._call, with_history=with_history)
        if with_history:
            self._history_at = time.monotonic() + SECONDS_BETWEEN_HISTORY
        self._reached("online", self.versions["staged"])
        self.n_passes += 1
        self._maintain()

    def _maintain(self) -> None:
        """Maintain the tables whose turn it is, and compact some that small files make dear."""
        maintain_after(self.n_passes, self._parameters)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a stage, as `run_stages` asks for it."""
        if function is ingest:
            return self._origin.load(*arguments[:2])
        if function is materialize:
            # not as of the pass's begin: what was known a moment later is staged too
            return function(arguments[0], datetime.now(UTC))
        if function is featurize:
            # maintenance profiles: what several passes published costs what one pass's does
            return function(*arguments, with_profiles=False)
        if function is not prepare:
            return function(*arguments)
        source, warehouse, *accepted = arguments
        since = versions_before(warehouse)
        account = function(source, warehouse, *accepted, self._end_load())
        version = preparing(source.name).consumed(warehouse, StagedRecord.relation())
        self._keep_outcomes(warehouse, since, version)
        self._reached("staged", version)
        return account

    def _keep_outcomes(self, warehouse: Warehouse, since: Since, version: int) -> None:
        """Note for all who wait what became of their rows, now that they are staged."""
        with self._lock:
            waiters = [waiter for waiter in self._waiters if waiter.version <= version]
        uris = [waiter.uri for waiter in waiters]
        found = outcomes(self._source, warehouse, uris, since) if uris else {}
        if missing := sorted({*uris} - {*found}):  # another process staged them
            found |= outcomes(self._source, warehouse, missing)
        for waiter in waiters:
            waiter.outcome = found[waiter.uri]

    def _reached(self, stage: Stage, version: int) -> None:
        """Answer who waited for a stage that a version of raw has reached."""
        with self._lock:
            self.versions[stage] = version
            ready = [waiter for waiter in self._waiters if waiter.stage == stage and waiter.outcome]
            self._waiters = [waiter for waiter in self._waiters if waiter not in ready]
        for waiter in ready:
            if waiter.outcome:
                waiter.future.set_result(waiter.outcome)

    def _fail(self, error: StoppedError) -> None:
        with self._lock:
            failed, self._waiters = self._waiters, []
        for waiter in failed:
            waiter.future.set_exception(error)


def maintain_after(n_passes: int, parameters: PipelineParameters) -> None:
    """Maintain what is due after a number of passes."""
    settings = parameters.settings()
    turn = Warehouse(settings).relations()[
        n_passes % PASSES_UNTIL_MAINTENANCE :: PASSES_UNTIL_MAINTENANCE
    ]
    keep = None if "keep_days" in settings.model_fields_set else DAYS_KEPT
    maintained = MaintainParameters(home=parameters.home, keep_days=keep)
    run_maintenance(maintained, n_reads=0, relations=turn, n_crowded=CROWDED_OF_A_PASS)


def _origin_of(source: Source, settings: Settings) -> "_Folder | _Database | Appended":
    """Choose what looks for rows where a source's `uri` points to."""
    if source.is_database:
        return _Database(source, settings)
    if source.is_table:
        return Appended(source, Warehouse(settings))
    return _Folder(source)


class _Database:
    """The database that a source points to; looked at now and then."""

    def __init__(self, source: Source, settings: Settings) -> None:
        self._source, self._settings = source, settings
        self._look_at, self._is_due = 0.0, True

    def is_due(self) -> bool:
        """Whether there are rows to read, or it is time to compare all."""
        if time.monotonic() >= self._look_at:
            is_compared = self._source.is_compared
            seconds = SECONDS_BETWEEN_COMPARISONS if is_compared else SECONDS_BETWEEN_LOOKS
            self._look_at = time.monotonic() + seconds
            self._is_due = self._is_due or is_compared or self._has_rows()
        return self._is_due

    def load(self, source: Source, warehouse: Warehouse) -> Ingested:
        """Load what is new, if there is anything."""
        if not self._is_due:
            return Ingested(0, 0, [], [])
        ingested: Ingested = ingest(source, warehouse)
        self._is_due = False
        return ingested

    def _has_rows(self) -> bool:
        try:
            return look(self._source, Warehouse(self._settings)) > 0
        except MillraceError:
            return True  # the pass says why


class _Folder:
    """The files that a source points to; loaded once they have stopped changing.

    Each file is loaded as a run loads it, whole and once, so files are moved into the folder.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._loaded: Seen | None = None
        self._seen: Seen | None = None
        self._look_at = 0.0

    def is_due(self) -> bool:
        """Whether files have come, and were the same at the last look."""
        if self._source.addresses:
            if time.monotonic() < self._look_at:
                return False
            self._look_at = time.monotonic() + SECONDS_BETWEEN_LISTINGS
        try:
            seen, self._seen = self._seen, self._look()
        except SourceError:
            return True  # the pass says why
        return self._seen not in (self._loaded, ()) and self._seen == seen

    def load(self, source: Source, warehouse: Warehouse) -> Ingested:
        """Load what is new, if anything has changed since the last time."""
        seen = self._look()
        if not seen or seen == self._loaded or (self._loaded is not None and seen != self._seen):
            return Ingested(0, 0, [], [])
        ingested: Ingested = ingest(source, warehouse)
        self._loaded = seen
        return ingested

    def _look(self) -> Seen:
        try:
            files = list_files(self._source).files
        except NoFilesError:
            return ()
        found = []
        for file in files:
            with suppress(FileNotFoundError):
                found.append((file.uri, *file.state()))
        return tuple(found)
