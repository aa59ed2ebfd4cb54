"""A table that others append to, as a stream: one part, whose positions are the table's versions.

At first it is read whole, as it is then; from there on version by version, by what each one adds.
Only appends are followed: compaction changes no row, and a version that deletes or overwrites rows
stops until that is accepted. `delta` and `iceberg` say which versions and files a table has.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import pyarrow as pa

from transforms.errors import GapError
from transforms.sources.source import Source
from transforms.sources.streams import Behind, Chunk, PositionOf

BATCH_ROWS = 50_000
ACCEPT = "millrace run --source FILE --accept-gap"


class DataFile(Protocol):
    """A data file of a table."""

    @property
    def uri(self) -> str:
        """Its address."""

    def n_rows(self) -> int:
        """Count its rows, without reading them."""

    def payloads(self, source: Source) -> Iterator[pa.Array]:
        """Yield its rows in order, each a JSON object with all columns of the table."""


class Version(NamedTuple):
    """What a version adds, the position after it, and why it is no append, if that is so."""

    end: int
    files: Sequence[DataFile]
    gap: str | None = None


class AppendedTable(ABC):
    """A table that others append to. Raises `SourceError` if it cannot be opened."""

    def __init__(self, source: Source, part: str) -> None:
        """Take the source, and the id that the table keeps for as long as it is the same one."""
        self._source, self._part = source, part
        self._waiting: list[Version] = []

    @abstractmethod
    def versions(self, position: int) -> list[Version]:
        """List the versions from a position on; the newest one, whole, if some are lost."""

    @property
    def is_read(self) -> bool:
        """Whether all is read that was there at the first `seek`."""
        return not self._waiting

    def close(self) -> None:  # noqa: B027 - what has a file open may close it
        """Do nothing: no file is open."""

    def has_grown(self) -> bool:
        """Return False: a table has one part."""
        return False

    def behind(self, position_of: PositionOf) -> Behind:
        """Count the rows that versions since have added."""
        versions = self.versions(position_of(self._part))
        n_rows = sum(file.n_rows() for version in versions for file in version.files)
        return Behind(n_rows, [version.gap for version in versions if version.gap])

    def seek(self, position_of: PositionOf, *, accept_gap: bool) -> list[str]:
        """Look which versions are to be read, up to the one that was the newest at first."""
        self._waiting = self.versions(position_of(self._part))
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
                yield Chunk(self._part, "", range(0), pa.array([], pa.binary()), version.end)
            for file in version.files:
                for chunk in self._chunks(version, file):
                    n_bytes += chunk.payloads.nbytes
                    yield chunk
            del self._waiting[0]

    def _chunks(self, version: Version, file: DataFile) -> Iterator[Chunk]:
        first = 1
        for payloads in file.payloads(self._source):
            numbers = range(first, first + len(payloads))
            yield Chunk(self._part, file.uri, numbers, payloads, version.end)
            first = numbers.stop


def no_append(place: object, version: str) -> str:
    """Say that a version is no append, and what can be done."""
    return (
        f"{place}: {version} deletes or overwrites rows, and only "
        f"appends are followed; {ACCEPT} takes all rows of the files that it adds, of which "
        "those that raw has count as duplicates, and leaves what it deletes to millrace erase"
    )


def lost(place: object, reason: str) -> str:
    """Say that versions are lost, and what can be done."""
    return (
        f"{place}: {reason}, and raw does not have its rows; {ACCEPT} reads the table "
        "whole, as it is now, of which rows that raw has count as duplicates; to prevent it, "
        "let the table keep log and files for longer, or run more often"
    )
