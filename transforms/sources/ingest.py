"""source -> raw: load every new file whole, unchanged and exactly once."""

import hashlib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pyarrow as pa

from transforms.engines.engine import Engine, engine_for_bytes
from transforms.errors import FileRefusedError, NoFilesError
from transforms.schemas.raw import RawRecord
from transforms.sources import objects, pages, streams
from transforms.sources.file_parts import group_files, publish_by_workers
from transforms.sources.loads import NewFile, begin_load
from transforms.sources.posts import SCHEME
from transforms.sources.reading import read_rows
from transforms.sources.source import Source, SourceFile, list_files
from transforms.warehouse.checkpoint import consumed_version
from transforms.warehouse.publishing import AlreadyPublishedError, publish
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse


class Ingested(NamedTuple):
    """What one ingest did."""

    files_loaded: int
    rows_loaded: int
    notices: list[str]
    refused: list[str]


class Pending(NamedTuple):
    """What ingest would load: files, or about how many rows of a database or a stream."""

    files: list[NewFile]
    notices: list[str]
    refused: list[str]
    n_rows: int = 0


def pending_files(source: Source, warehouse: Warehouse) -> Pending:
    """List the files of a source that are not in raw, by URI, size and content; or count rows.

    So a changed file is a new one. Raises `NoFilesError` if there is no file at all, unless some
    were loaded from there before, and `SourceError` if a database cannot be read.
    """
    if source.is_database:
        return Pending([], [], [], pages.look(source, warehouse))
    if source.is_stream:
        behind = streams.look(source, warehouse)
        return Pending([], [], behind.gaps, behind.n_rows)
    try:
        listing = list_files(source)
    except NoFilesError:
        n_files, n_posts = _n_loaded(source, warehouse)
        if not n_files + n_posts:
            raise
        if not n_files:
            return Pending([], [], [])
        return Pending(
            [],
            [f"{source.place}: no file there now; {n_files:,} were loaded from there before"],
            [],
        )
    raw = warehouse.opened(RawRecord.relation())
    new: list[NewFile] = []
    refused: list[str] = []
    for file in listing.files:
        try:
            identified = _identify(file, source)
        except OSError as error:
            refused.append(f"{file.place}: refused, cannot be opened ({error.strerror})")
            continue
        if not raw or raw.transaction_version(identified.transaction) is None:
            new.append(identified)
    return Pending(new, listing.passed_over, refused)


def _n_loaded(source: Source, warehouse: Warehouse) -> tuple[int, int]:
    """Count the files that were loaded from where a source points to now, and the posts."""
    if warehouse.table(RawRecord.relation()) is None:
        return 0, 0
    with connect(warehouse, of=("raw.records",)) as connection:
        sql = "select distinct source_uri from raw.records where source = $source"
        uris = [uri for (uri,) in connection.execute(sql, {"source": source.name}).fetchall()]
    posts = [uri for uri in uris if uri.startswith(SCHEME)]
    if source.addresses:
        return sum(objects.leads_to(source, uri) for uri in uris), len(posts)
    paths = [url2pathname(urlsplit(uri).path) for uri in set(uris).difference(posts)]
    n_files = sum(
        Path(path).is_relative_to(source.uri) or fnmatchcase(path, source.uri) for path in paths
    )
    return n_files, len(posts)


def ingest(source: Source, warehouse: Warehouse, *, accept_gap: bool = False) -> Ingested:
    """Load all new files to raw, in commits of at most `load_bytes`; refuse unreadable files.

    Of a database load new rows, in commits of at most `page_rows`. Of a stream load what is there;
    raises `GapError` if rows are lost, unless that is accepted.
    """
    if source.is_database:
        taken = pages.take_all(source, warehouse)
        return Ingested(0, taken.n_rows, taken.notices, [])
    if source.is_stream:
        n_rows, notices = streams.take_all(source, warehouse, accept_gap=accept_gap)
        return Ingested(0, n_rows, notices, [])
    pending = pending_files(source, warehouse)
    notices = pending.notices + _changed(pending.files, source, warehouse)
    n_files, n_rows = 0, 0
    refused = list(pending.refused)
    for group in group_files(pending.files, warehouse.settings.load_bytes):
        with objects.local_copies([new.file for new in group], warehouse.settings.root) as local:
            engine = engine_for_bytes(warehouse.settings, sum(new.n_bytes for new in group))
            loaded, rows = (
                _load_by_workers(engine, group, source, warehouse, refused, local)
                if engine
                else _load(group, source, warehouse, refused, local)
            )
        n_files, n_rows = n_files + loaded, n_rows + rows
    return Ingested(n_files, n_rows, notices, refused)


def _load(
    files: list[NewFile],
    source: Source,
    warehouse: Warehouse,
    refused: list[str],
    local: objects.LocalCopy,
) -> tuple[int, int]:
    """Publish a group of files in one commit, without unreadable and already loaded ones."""
    while files:
        reading = _Reading(files, source, warehouse.settings.batch_rows, local)
        try:
            published = publish(
                warehouse, RawRecord, reading.batches(), {new.transaction: 1 for new in files}
            )
        except FileRefusedError as error:
            refused.append(str(error))
            files = [new for new in files if new is not reading.current]
        except AlreadyPublishedError:
            files = _unpublished(files, warehouse)
        else:
            return len(files), published.n_rows
    return 0, 0


def _load_by_workers(
    engine: Engine,
    files: list[NewFile],
    source: Source,
    warehouse: Warehouse,
    refused: list[str],
    local: objects.LocalCopy,
) -> tuple[int, int]:
    """Do as `_load` does, by the workers of an engine; remote files are fetched here."""
    here: list[NewFile] = []
    for new in files:
        try:
            here.append(new._replace(file=local(new.file)))
        except FileRefusedError as error:
            refused.append(str(error))
    while here:
        try:
            loaded = publish_by_workers(engine, here, source, warehouse)
        except AlreadyPublishedError:
            here = _unpublished(here, warehouse)
        else:
            refused += loaded.refused
            return len(here) - len(loaded.refused), loaded.n_rows
    return 0, 0


def _unpublished(files: list[NewFile], warehouse: Warehouse) -> list[NewFile]:
    """Leave out files that another run has loaded meanwhile."""
    return [
        new
        for new in files
        if consumed_version(warehouse, RawRecord.relation(), new.transaction) < 0
    ]


class _Reading:
    """Raw rows of a group of files; `current` is the one being read, which an error is about."""

    def __init__(
        self, files: list[NewFile], source: Source, batch_rows: int, local: objects.LocalCopy
    ) -> None:
        self.files, self.source, self.batch_rows, self.local = files, source, batch_rows, local
        self.current: NewFile | None = None
        self.load = begin_load(source.name)

    def batches(self) -> Iterator[pa.RecordBatch]:
        for new in self.files:
            self.current = new
            yield from read_rows(self.local(new.file), self.source, self.load, self.batch_rows)


def _identify(file: SourceFile, source: Source) -> NewFile:
    """Name the transaction of a file by its source, URI, size and content, or its ETag for that.

    The encoding is part of it where raw has the decoded text: another one needs another load.
    """
    if file.remote:
        n_bytes, content = file.state()
    else:
        with Path(file.path).open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        n_bytes = file.path.stat().st_size
    decoded = f"\n{source.encoding}" if source.is_transcoded and file.format != "parquet" else ""
    identity = hashlib.sha256(
        f"{source.name}\n{file.uri}\n{n_bytes}\n{content}{decoded}".encode()
    ).hexdigest()
    return NewFile(file, n_bytes, f"file:{identity}")


def _changed(files: list[NewFile], source: Source, warehouse: Warehouse) -> list[str]:
    """Name the new files that were loaded before with other content."""
    uris = [new.file.uri for new in files]
    if not uris or warehouse.table("accounting.files") is None:
        return []
    with connect(warehouse, of=("accounting.files",)) as connection:
        rows = connection.execute(
            "select distinct source_uri from accounting.files "
            "where source = $source and list_contains($uris, source_uri)",
            {"source": source.name, "uris": uris},
        ).fetchall()
    known = {row[0] for row in rows}
    return [
        f"{new.file.place}: has changed since it was loaded; loaded again, as a new file"
        for new in files
        if new.file.uri in known
    ]
