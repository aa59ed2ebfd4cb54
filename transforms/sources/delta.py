"""A Delta table as a stream: one part, whose positions are the table's versions.

At first it is read whole, as it is then; from there on version by version, by what each one's entry
in the log adds. Only appends are followed: compaction changes no row, and a version that deletes or
overwrites rows stops until that is accepted.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from transforms.errors import GapError, SourceError
from transforms.sources.reading import read_payloads
from transforms.sources.source import Source, SourceFile
from transforms.sources.streams import Behind, Chunk, PositionOf
from transforms.warehouse.tables import n_rows_of

BATCH_ROWS = 50_000
# what a table may ask of its readers without changing which rows its files have
HARMLESS = {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"}
ACCEPT = "millrace run --source FILE --accept-gap"


class _Added(NamedTuple):
    """A data file, and the columns of its partition, which it lacks."""

    path: Path
    columns: Mapping[str, str | None]


class _Version(NamedTuple):
    """What a version adds, and why it cannot be read on from, if that is so."""

    number: int
    files: list[_Added]
    gap: str | None = None


class AppendedTable:
    """A Delta table in a folder, that others append to."""

    def __init__(self, source: Source) -> None:
        """Open it; raises `SourceError` if it cannot be read."""
        self._source, self._folder = source, Path(source.uri)
        try:
            self._table = DeltaTable(source.uri)
        except TableNotFoundError:
            message = (
                f"{source.uri}: is no Delta table; check `uri`: a folder that has a _delta_log"
            )
            raise SourceError(message) from None
        except DeltaError as error:
            message = f"{source.uri}: cannot be opened ({str(error).splitlines()[0]})"
            raise SourceError(message) from None
        _refuse_features(self._table, source.uri)
        self._part = str(self._table.metadata().id)
        self._waiting: list[_Version] = []

    @property
    def is_read(self) -> bool:
        """Whether all is read that was there at the first `seek`."""
        return not self._waiting

    def close(self) -> None:
        """Do nothing: no file is open."""

    def has_grown(self) -> bool:
        """Return False: a table has one part."""
        return False

    def behind(self, position_of: PositionOf) -> Behind:
        """Count the rows that versions since have added."""
        versions = self._versions(position_of(self._part))
        n_rows = sum(n_rows_of(str(file.path)) for version in versions for file in version.files)
        return Behind(n_rows, [version.gap for version in versions if version.gap])

    def seek(self, position_of: PositionOf, *, accept_gap: bool) -> list[str]:
        """Look which versions are to be read, up to the one that was the newest at first."""
        self._waiting = self._versions(position_of(self._part))
        gaps = [version.gap for version in self._waiting if version.gap]
        if gaps and not accept_gap:
            raise GapError("\n  ".join(gaps))
        return gaps

    def read(self, seconds: float | None, max_bytes: int) -> Iterator[Chunk]:  # noqa: ARG002 - what is there is there at once
        """Yield the rows of whole versions; the last one may make them more than `max_bytes`."""
        n_bytes = 0
        while self._waiting and n_bytes < max_bytes:
            version = self._waiting[0]
            if not version.files:
                yield self._chunk(version, self._folder, 1, pa.array([], pa.binary()))
            for file in version.files:
                for chunk in self._chunks(version, file):
                    n_bytes += chunk.payloads.nbytes
                    yield chunk
            del self._waiting[0]

    def _chunks(self, version: _Version, file: _Added) -> Iterator[Chunk]:
        first = 1
        parquet = SourceFile(file.path, "parquet", None)
        for _, payloads in read_payloads(parquet, self._source, BATCH_ROWS):
            with_columns = _with_columns(payloads, file.columns)
            yield self._chunk(version, file.path, first, with_columns)
            first += len(payloads)

    def _chunk(self, version: _Version, path: Path, first: int, payloads: pa.Array) -> Chunk:
        numbers = range(first, first + len(payloads))
        return Chunk(self._part, path.as_uri(), numbers, payloads, version.number + 1)

    def _versions(self, position: int) -> list[_Version]:
        """List the versions from a position on; the newest one, whole, if the log lacks some."""
        newest = self._table.version()
        if position < 0:
            return [_Version(newest, self._all_files())]
        missing = next(
            (n for n in range(position, newest + 1) if not self._entry(n).exists()), None
        )
        if missing is not None:
            gap = self._whole(f"its log has no entry of version {missing} any more")
            return [_Version(newest, self._all_files(), gap)]
        versions = [self._version(number) for number in range(position, newest + 1)]
        for version in versions:
            if not all(file.path.is_file() for file in version.files):
                gap = self._whole(f"data files that version {version.number} added are deleted")
                return [_Version(newest, self._all_files(), gap)]
        return versions

    def _version(self, number: int) -> _Version:
        """Read the log's entry of a version."""
        files, is_append, operation = [], True, "unknown operation"
        for line in self._entry(number).read_text("utf-8").splitlines():
            action = json.loads(line)
            if (added := action.get("add")) and added["dataChange"]:
                files.append(self._added(added["path"], added["partitionValues"]))
            is_append &= not action.get("remove", {}).get("dataChange", False)
            operation = action.get("commitInfo", {}).get("operation", operation)
        gap = (
            f"{self._folder}: version {number} ({operation}) deletes or overwrites rows, and only "
            f"appends are followed; {ACCEPT} takes all rows of the files that it adds, of which "
            "those that raw has count as duplicates, and leaves what it deletes to millrace erase"
        )
        return _Version(number, files, None if is_append else gap)

    def _all_files(self) -> list[_Added]:
        """List the data files of the newest version."""
        actions = pa.table(self._table.get_add_actions(flatten=True)).to_pylist()
        prefix = "partition."
        return sorted(
            self._added(
                action["path"],
                {
                    name.removeprefix(prefix): _as_in_the_log(value)
                    for name, value in action.items()
                    if name.startswith(prefix)
                },
            )
            for action in actions
        )

    def _added(self, path: str, columns: Mapping[str, str | None]) -> _Added:
        """Find a data file; raises `SourceError` if it is not in the table's folder."""
        file = self._folder / unquote(path)
        if not file.resolve().is_relative_to(self._folder.resolve()):
            message = f"{self._folder}: has data files elsewhere (a shallow clone?); copy it whole"
            raise SourceError(message)
        # an empty text is null there, and not every writer says so
        return _Added(file, {name: value or None for name, value in columns.items()})

    def _entry(self, number: int) -> Path:
        return self._folder / "_delta_log" / f"{number:020d}.json"

    def _whole(self, reason: str) -> str:
        return (
            f"{self._folder}: {reason}, and raw does not have its rows; {ACCEPT} reads the table "
            "whole, as it is now, of which rows that raw has count as duplicates; to prevent it, "
            "let the table keep log and files for longer, or run more often"
        )


def _refuse_features(table: DeltaTable, uri: str) -> None:
    """Refuse a table whose files do not say by themselves which rows and columns it has."""
    asked = {*(table.protocol().reader_features or [])} - HARMLESS
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        asked.add("columnMapping")
    if asked:
        message = (
            f"{uri}: has features of Delta that are not read here: {', '.join(sorted(asked))}; "
            "write its rows to a table without them"
        )
        raise SourceError(message)


def _with_columns(payloads: pa.Array, columns: Mapping[str, str | None]) -> pa.Array:
    """Put the columns of a partition before those that a row has.

    >>> _with_columns(pa.array([b'{"id":1}']), {"day": "2026-01-15"})[0].as_py()
    b'{"day": "2026-01-15", "id":1}'
    """
    if not columns:
        return payloads
    before = json.dumps(dict(columns))[:-1].encode() + b", "
    return pc.binary_replace_slice(payloads, 0, 1, before)


def _as_in_the_log(value: Any) -> str | None:
    """Write the value of a partition column as entries of the log have it.

    >>> _as_in_the_log(True), _as_in_the_log(7)
    ('true', '7')
    """
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)
