"""Streams -> raw: what is appended to a topic or a table, every row exactly once.

How far a stream is read lies in the commits to raw, beside the rows: a transaction for each of its
parts has the position of the part's next row. Another numbers the commits of a source, so that of
two processes which read the same rows one commits, and the other reads on from there.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

import pyarrow as pa

from transforms.errors import GapError
from transforms.schemas.raw import RawRecord
from transforms.sources.loads import Load, load_id_of
from transforms.sources.source import Source
from transforms.warehouse.checkpoint import consumed_version, following
from transforms.warehouse.publishing import AlreadyPublishedError, publishing
from transforms.warehouse.tables import Warehouse

RAW = RawRecord.relation()
PositionOf = Callable[[str], int]


class Chunk(NamedTuple):
    """Rows of one part of a stream, in order, and the position of the row after them."""

    part: str
    uri: str
    row_numbers: range | pa.Array
    payloads: pa.Array
    end: int


class Behind(NamedTuple):
    """Rows of a stream that raw does not have, about, and those that are lost, a line a part."""

    n_rows: int
    gaps: list[str]


class Stream(Protocol):
    """What is appended to; its parts are read in order, from positions that only grow.

    `position_of` a part is where raw is with it, or -1 if raw has nothing of it.
    """

    @property
    def is_read(self) -> bool:
        """Whether all is read that was there at the first `seek`."""

    def behind(self, position_of: PositionOf) -> Behind:
        """Look how much there is to read, without reading it."""

    def seek(self, position_of: PositionOf, *, accept_gap: bool) -> list[str]:
        """Read from there on; raises `GapError` if rows are lost, or tells of it if accepted."""

    def has_grown(self) -> bool:
        """Whether there are parts that the last `seek` did not see."""

    def read(self, seconds: float | None, max_bytes: int) -> Iterator[Chunk]:
        """Yield what comes in some seconds, or until `is_read`; about `max_bytes` at most."""

    def close(self) -> None:
        """Let go of it."""


def open_stream(source: Source) -> Stream:
    """Open the stream of a source."""
    if source.is_topic:
        from transforms.sources.kafka import Topic

        return Topic(source)
    if source.is_iceberg:
        from transforms.sources.iceberg import Iceberg

        return Iceberg(source)
    from transforms.sources.delta import Delta

    return Delta(source)


class Following:
    """Takes a source's stream into raw, from one thread."""

    def __init__(self, source: Source, warehouse: Warehouse, *, accept_gap: bool = False) -> None:
        """Open the stream; raises `SourceError` if it cannot be reached."""
        self._source, self._warehouse, self._accept_gap = source, warehouse, accept_gap
        self._stream = open_stream(source)
        self._number: int | None = None
        self.notices: list[str] = []

    @property
    def is_done(self) -> bool:
        """Whether raw has all that was there when the reading began."""
        return self._number is not None and self._stream.is_read

    def read(self, seconds: float | None, max_bytes: int) -> Iterator[Chunk]:
        """Read on from where raw is, as `Stream.read` does; it is for the next `commit`."""
        if self._number is None or self._stream.has_grown():
            # before the positions: who commits in between makes this number a repeat
            self._number = following(self._source.name).consumed(self._warehouse, RAW) + 1
            self.notices += self._stream.seek(self._position_of, accept_gap=self._accept_gap)
        yield from self._stream.read(seconds, max_bytes)

    def commit(self, chunks: Iterable[Chunk], load_id: str) -> int:
        """Commit what was read with its positions; how many rows, 0 if others committed them."""
        number, self._number = self._number, None  # unless committed, it is read again
        if number is None:
            return 0
        load = Load(self._source.name, load_id, datetime.now(UTC))
        transactions = following(self._source.name).at(number)
        try:
            with publishing(self._warehouse, RawRecord, transactions) as publication:
                for chunk in chunks:
                    if len(chunk.payloads):
                        publication.write(load.rows(chunk.uri, chunk.row_numbers, chunk.payloads))
                    transactions[transaction_of(self._source, chunk.part)] = chunk.end
                n_rows = publication.commit().n_rows
        except AlreadyPublishedError:
            return 0
        self._number = number + 1
        return n_rows

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()

    def _position_of(self, part: str) -> int:
        return position_of(self._source, self._warehouse, part)


def take_all(source: Source, warehouse: Warehouse, *, accept_gap: bool) -> tuple[int, list[str]]:
    """Take what is there now into raw, in commits of about `load_bytes`; rows, and notices.

    What comes meanwhile is for the next run, so that it ends.
    """
    n_rows = 0
    with closing(Following(source, warehouse, accept_gap=accept_gap)) as followed:
        while not followed.is_done:
            chunks = followed.read(None, warehouse.settings.load_bytes)
            if first := next(chunks, None):
                whole = itertools.chain([first], chunks)
                n_rows += followed.commit(whole, load_id_of(datetime.now(UTC)))
    return n_rows, followed.notices


def look(source: Source, warehouse: Warehouse) -> Behind:
    """Look how far raw is behind a stream."""
    with closing(open_stream(source)) as stream:
        return stream.behind(lambda part: position_of(source, warehouse, part))


def position_of(source: Source, warehouse: Warehouse, part: str) -> int:
    """Return the position of a part's next row; -1 if raw has none."""
    return consumed_version(warehouse, RAW, transaction_of(source, part))


def transaction_of(source: Source, part: str) -> str:
    """Name the transaction that has the position of a part."""
    return f"stream:{source.name}:{part}"


def gap_error(lines: Iterable[str]) -> GapError:
    """Say which rows are lost, and how to go on."""
    fix = (
        "millrace run --source FILE --accept-gap goes on with what is still there, once; to lose "
        "nothing, let the stream keep its rows for longer, or run more often"
    )
    return GapError("\n  ".join([*lines, fix]))
