"""The log of served values: what was read online, of whom, for which instant, for which service.

Rows wait in memory until a thread hands them to Feast's own seam, `write_logged_features`, which
adds a Parquet file to `serving/log/<service>` of the home, with the columns of Feast's logs. A
number, a flag and a time are logged as they are; a text, a vector and all else as a digest, which
tells values apart and says nothing. A read never waits for the log, nor fails by it. Comparing what
was logged belongs into `feature_repo.watching`.
"""

import atexit
import hashlib
import json
import logging
import random
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureService, FeatureStore
from feast.feature_logging import (
    LOG_DATE_FIELD,
    LOG_TIMESTAMP_FIELD,
    REQUEST_ID_FIELD,
    LoggingConfig,
)
from feast.infra.offline_stores.file_source import FileLoggingDestination

from feature_repo.stores.sources import warehouse_folder
from transforms.home import replace_file, settings_of

LOG = Path("serving", "log")
EVENT_TIMESTAMP = "event_timestamp"
READ_AT = LOG_TIMESTAMP_FIELD
STATUS, TIMESTAMP = "__status", "__timestamp"  # how Feast's logs name what is beside a feature
INSTANT = pa.timestamp("us", "UTC")
CODE = b"millrace.code"  # the key of a file's metadata for the digests of derived views
SECONDS = 30.0  # that a row waits at most before it is written
ROWS_AT_ONCE, ROWS_WAITING = 10_000, 100_000
DIGEST_LETTERS = 16

logger = logging.getLogger(__name__)
Build: TypeAlias = Callable[[Sequence[int]], "Rows"]


class Cell(NamedTuple):
    """A feature as it was served, row by row: values, event timestamps in nanoseconds, statuses."""

    values: pa.Array
    instants: Sequence[int | None]
    statuses: Sequence[int]


class Rows(NamedTuple):
    """Rows of one request: keys, the instants that are asked for, when they were read, features.

    `code` digests what the derived views among them are computed by.
    """

    keys: Mapping[str, Sequence[Any]]
    at: pa.Array
    read_at: datetime
    features: Mapping[str, Cell]
    code: Mapping[str, str]

    @property
    def shape(self) -> tuple[Any, ...]:
        """What rows of one table have in common."""
        kinds = tuple((name, cell.values.type) for name, cell in self.features.items())
        return (*self.keys, *kinds, *self.code.items())


class ServedLog:
    """The log of one home; safe to share between threads."""

    def __init__(self, store: FeatureStore, share: float, n_bytes: int) -> None:
        """Take the store, the share of rows to log, and what the log may take on disk."""
        self._store, self._share, self._n_bytes = store, share, n_bytes
        self._waiting: list[tuple[str, datetime, Callable[[], Rows]]] = []
        self._n_waiting = 0
        self._lock, self._flushing = threading.Lock(), threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, service: str, read_at: datetime, n_rows: int, build: Build) -> None:
        """Sample the rows of an answer; `build` makes them, later and elsewhere."""
        chosen = [row for row in range(n_rows) if random.random() < self._share]  # noqa: S311
        if not chosen:
            return
        with self._lock:
            if self._n_waiting > ROWS_WAITING:  # the disk is slow or full: a log is a sample anyway
                return
            self._waiting.append((service, read_at, lambda: build(chosen)))
            self._n_waiting += len(chosen)
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_on, daemon=True)
                self._thread.start()
                atexit.register(self.flush)
        if self._n_waiting >= ROWS_AT_ONCE:
            self._wake.set()

    def flush(self) -> None:
        """Write all that waits, now; what cannot be written is reported and left out."""
        with self._flushing:
            with self._lock:
                waiting, self._waiting, self._n_waiting = self._waiting, [], 0
            by_service = defaultdict(list)
            for service, read_at, build in waiting:
                if read_at.timestamp() > _cleared(self._folder):
                    by_service[service].append(build)
            for service, builds in by_service.items():
                try:
                    self._write(service, [build() for build in builds])
                except Exception as error:  # noqa: BLE001 - no log is worth an answer
                    logger.warning("served values were not logged: %s", type(error).__name__)

    @property
    def _folder(self) -> Path:
        return warehouse_folder(self._store.config) / LOG

    def _write_on(self) -> None:
        while True:
            self._wake.wait(SECONDS)
            self._wake.clear()
            self.flush()

    def _write(self, service: str, requests: Sequence[Rows]) -> None:
        path = str(LOG / service)
        destination = LoggingConfig(FileLoggingDestination(path=path), sample_rate=self._share)
        logged = FeatureService(name=service, features=[], logging_config=destination)
        by_shape = defaultdict(list)
        for rows in requests:
            by_shape[rows.shape].append(rows)
        for alike in by_shape.values():
            self._store.write_logged_features(log_table(alike), logged)
        keep_within(self._folder, self._n_bytes)


_logs: dict[Path, ServedLog] = {}
_opening = threading.Lock()


def log_of(store: FeatureStore) -> ServedLog | None:
    """Open the log of a store's home, one a process; None where nothing is to be logged."""
    if not hasattr(store.config.offline_store, "warehouse"):
        return None
    home = warehouse_folder(store.config)
    settings = settings_of(home)
    if not settings.log_served:
        return None
    with _opening:
        if home not in _logs:
            _logs[home] = ServedLog(store, settings.log_served, settings.log_bytes)
        return _logs[home]


def flush(home: Path) -> None:
    """Write what this process has served of a home and not yet logged."""
    if home in _logs:
        _logs[home].flush()


def files_of(home: Path) -> dict[str, list[Path]]:
    """List the log's files by service, oldest first."""
    folders = sorted(path for path in (home / LOG).glob("*") if path.is_dir())
    return {folder.name: sorted(folder.glob("*.parquet")) for folder in folders}


def keep_within(folder: Path, n_bytes: int) -> None:
    """Delete the oldest files of a log until the others take no more than so many bytes."""
    taken = 0
    for file in sorted(folder.glob("*/*.parquet"), key=lambda path: path.name, reverse=True):
        taken += file.stat().st_size
        if taken > n_bytes:
            file.unlink(missing_ok=True)


def clear(home: Path) -> None:
    """Delete a home's log, and what other processes have read so far and not yet logged."""
    shutil.rmtree(home / LOG, ignore_errors=True)
    replace_file(_mark(home / LOG), str(time.time()).encode())


def log_table(requests: Sequence[Rows]) -> pa.Table:
    """Make a table of requests of one shape, with the columns of Feast's logs."""
    first, ids = requests[0], [uuid4().hex for _ in requests]
    columns = {
        key: pa.array([value for rows in requests for value in rows.keys[key]])
        for key in first.keys
    }
    columns[EVENT_TIMESTAMP] = pa.concat_arrays([rows.at for rows in requests])
    for name in first.features:
        cells = [rows.features[name] for rows in requests]
        instants = [instant and instant // 1000 for cell in cells for instant in cell.instants]
        columns |= {
            name: masked(pa.concat_arrays([cell.values for cell in cells])),
            f"{name}{TIMESTAMP}": pa.array(instants, pa.int64()).cast(INSTANT),
            f"{name}{STATUS}": pa.array(
                [status for cell in cells for status in cell.statuses], pa.int32()
            ),
        }
    of_request = pa.array([place for place, rows in enumerate(requests) for _ in rows.at])
    read_at = pa.array([rows.read_at for rows in requests], INSTANT)
    columns |= {
        READ_AT: read_at.take(of_request),
        LOG_DATE_FIELD: read_at.take(of_request).cast(pa.date32()),
        REQUEST_ID_FIELD: pa.array(ids).take(of_request),
    }
    code = json.dumps(dict(sorted(first.code.items())))
    return pa.table(columns).replace_schema_metadata({CODE: code.encode()})


def masked(values: pa.Array) -> pa.Array:
    """Values as they are logged: numbers, flags and times as they are, all else as digests.

    >>> masked(pa.array([1.5, None])).to_pylist(), masked(pa.array(["a secret"])).to_pylist()
    ([1.5, None], ['28ae1daa9835f7fe'])
    """
    kind = values.type
    if pa.types.is_boolean(kind) or pa.types.is_primitive(kind):
        return values
    return pa.array([None if value is None else _digest(value) for value in values.to_pylist()])


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:DIGEST_LETTERS]


def code_of(file: Path) -> str:
    """What the derived views of a log's file were computed by, as it was written down."""
    return str((pq.read_schema(file).metadata or {}).get(CODE, b"{}"), "utf-8")


def _mark(folder: Path) -> Path:
    return folder / ".cleared"


def _cleared(folder: Path) -> float:
    """When a log was last cleared, in seconds since 1970."""
    try:
        return float(_mark(folder).read_text("utf-8"))
    except FileNotFoundError:
        return 0.0
