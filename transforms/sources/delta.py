"""A Delta table as a stream: its versions and their data files, by the entries of its log."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from transforms.errors import SourceError
from transforms.sources.appended import BATCH_ROWS, AppendedTable, Version, lost, no_append
from transforms.sources.reading import read_payloads
from transforms.sources.source import Source, SourceFile
from transforms.warehouse.tables import n_rows_of

# what a table may ask of its readers without changing which rows its files have
HARMLESS = {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"}


class _Added(NamedTuple):
    """A data file, and the columns of its partition, which it lacks."""

    path: Path
    columns: Mapping[str, str | None]

    @property
    def uri(self) -> str:
        return self.path.as_uri()

    def n_rows(self) -> int:
        return n_rows_of(str(self.path))

    def payloads(self, source: Source) -> Iterator[pa.Array]:
        parquet = SourceFile(self.path, "parquet", None)
        for _, payloads in read_payloads(parquet, source, BATCH_ROWS):
            yield _with_columns(payloads, self.columns)


class _Entry(NamedTuple):
    """What the log's entry of a version adds, and why it is no append, if that is so."""

    number: int
    files: list[_Added]
    gap: str | None


class Delta(AppendedTable):
    """A Delta table in a folder, that others append to."""

    def __init__(self, source: Source) -> None:
        """Open it; raises `SourceError` if it cannot be read."""
        self._folder = Path(source.uri)
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
        super().__init__(source, str(self._table.metadata().id))

    def versions(self, position: int) -> list[Version]:
        """List the versions from a position on; the newest one, whole, if the log lacks some."""
        newest = self._table.version()
        if position < 0:
            return [Version(newest + 1, self._all_files())]
        missing = next(
            (n for n in range(position, newest + 1) if not self._entry(n).exists()), None
        )
        if missing is not None:
            gap = lost(self._folder, f"its log has no entry of version {missing} any more")
            return [Version(newest + 1, self._all_files(), gap)]
        entries = [self._read(number) for number in range(position, newest + 1)]
        for entry in entries:
            if not all(file.path.is_file() for file in entry.files):
                reason = f"data files that version {entry.number} added are deleted"
                gap = lost(self._folder, reason)
                return [Version(newest + 1, self._all_files(), gap)]
        return [Version(entry.number + 1, entry.files, entry.gap) for entry in entries]

    def _read(self, number: int) -> _Entry:
        """Read the log's entry of a version."""
        files, is_append, operation = [], True, "unknown operation"
        for line in self._entry(number).read_text("utf-8").splitlines():
            action = json.loads(line)
            if (added := action.get("add")) and added["dataChange"]:
                files.append(self._added(added["path"], added["partitionValues"]))
            is_append &= not action.get("remove", {}).get("dataChange", False)
            operation = action.get("commitInfo", {}).get("operation", operation)
        gap = no_append(self._folder, f"version {number} ({operation})")
        return _Entry(number, files, None if is_append else gap)

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
