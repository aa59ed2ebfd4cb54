"""Posted records -> raw: what waits goes into one commit, and each idempotency key exactly once.

The key of a post is in its rows, as their `source_uri`, so it is committed with them. Which keys
raw has is also kept in a small database in `HOME/posts`, which may be deleted: it follows raw,
version by version. A transaction numbers the commits of a source, so that of two processes that
take posts at once each sees what the other has committed.
"""

import hashlib
import re
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from deltalake.exceptions import DeltaError

from transforms.errors import HomeError, PostError, SourceError
from transforms.schemas.raw import RawRecord
from transforms.sources.loads import Load, load_id_of
from transforms.sources.reading import cut_lines
from transforms.sources.source import Source
from transforms.sql import model
from transforms.warehouse.arrivals import is_erasing, lock_arrivals
from transforms.warehouse.checkpoint import taking
from transforms.warehouse.publishing import AlreadyPublishedError, publish
from transforms.warehouse.snapshot import connect, create_view
from transforms.warehouse.tables import Warehouse

RAW = RawRecord.relation()
SCHEME = "post:"
KEY = re.compile(r"[!-~]{1,200}")
TABLES = """
create table if not exists posts (
    source_uri text primary key, load_id text, n_rows integer, digest text, version integer
) without rowid;
create table if not exists upto (one integer primary key, of_table text, version integer);
"""


class Post(NamedTuple):
    """Records that came together, one JSON object a line, under their sender's key."""

    key: str
    payloads: pa.Array

    @property
    def uri(self) -> str:
        """What raw has as the `source_uri` of its rows."""
        return SCHEME + self.key

    @property
    def digest(self) -> str:
        """Digest its rows, as the model `staging/posts` does."""
        of_rows = (hashlib.sha256(row.as_buffer()).hexdigest() for row in self.payloads)
        return hashlib.sha256("".join(of_rows).encode()).hexdigest()


class Taken(NamedTuple):
    """Where the rows of a post are: their load, and the version of raw that has them."""

    load_id: str
    n_rows: int
    digest: str
    version: int


def read_post(key: str, body: bytes) -> Post:
    r"""Cut the body of a post into rows as a file of JSON lines is; raises `PostError`.

    >>> len(read_post("order-1", b'{"id": 1}\n{"id": 2}\n').payloads)
    2
    >>> read_post("order 1", b"{}")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    transforms.errors.PostError: an idempotency key is 1 to 200 printable ASCII characters...
    """
    if not KEY.fullmatch(key):
        message = "an idempotency key is 1 to 200 printable ASCII characters, no blank"
        raise PostError(message)
    arrays = list(cut_lines(iter([body])))
    if not any(map(len, arrays)):
        message = "there is no record in it; post one JSON object a line"
        raise PostError(message)
    return Post(key, pa.concat_arrays(arrays))


class Intake:
    """Takes the posts of a source into raw, from one thread; `end_load` may come from another.

    All posts until the end of a load are one load, whatever the commits: a load is checked and
    profiled as a whole, and its tables have rows for each.
    """

    def __init__(self, source: Source, warehouse: Warehouse) -> None:
        """Open a home for a source; raises `SourceError` if its rows are not UTF-8."""
        if source.payload_encoding != "utf-8":
            message = (
                f"{source.name}: posts are JSON lines in UTF-8, and its rows are in "
                f"{source.payload_encoding}; give posts a source file of their own"
            )
            raise SourceError(message)
        self._source, self._warehouse = source, warehouse
        self._keys = _Keys(source, warehouse)
        self._load_id: str | None = None
        self._taking = threading.Lock()

    def end_load(self) -> int:
        """Let the next commit begin a new load; return the version of raw that has the last."""
        with self._taking:
            self._load_id = None
            return self._warehouse.version(RAW)

    def let(self, commit: Callable[[str], int]) -> int:
        """Let others commit to raw as part of the load that is being taken, whose id they get.

        Raises `HomeError` as `take` does.
        """
        with self._alone():
            return commit(self._load())

    def _load(self) -> str:
        self._load_id = self._load_id or load_id_of(datetime.now(UTC))
        return self._load_id

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let nobody else commit, compact or erase; raises `HomeError` if that was killed."""
        home = self._warehouse.settings.root
        with self._taking, lock_arrivals(home):
            if is_erasing(home):
                message = (
                    f"{home}: an erasure was killed; the next run finishes it, then post again"
                )
                raise HomeError(message)
            yield

    def close(self) -> None:
        """Close the file of keys."""
        self._keys.close()

    def take(self, posts: Sequence[Post]) -> list[Taken]:
        """Commit posts whose keys raw does not have; return where the rows of each key are.

        The digest of what was taken differs from the post's if the key had other rows before.
        Raises `HomeError` while raw cannot be written, or what is erased from it is not erased yet.
        """
        with self._alone():
            while True:
                # before the keys are read: who commits in between makes this number a repeat
                number = taking(self._source.name).consumed(self._warehouse, RAW) + 1
                version = self._keys.follow()
                new: dict[str, Post] = {}
                for post in posts:
                    if self._keys.find(post.key) is None:
                        new.setdefault(post.key, post)
                if not new:
                    break
                self._commit(list(new.values()), number, version)
        return [taken for post in posts if (taken := self._keys.find(post.key))]

    def _commit(self, posts: list[Post], number: int, version: int) -> None:
        load_id = self._load()
        rows = raw_rows(posts, Load(self._source.name, load_id, datetime.now(UTC)))
        transactions = taking(self._source.name).at(number)
        try:
            publish(self._warehouse, RawRecord, [rows], transactions)
        except AlreadyPublishedError:
            return  # another process took posts: look which
        if self._warehouse.version(RAW) == version + 1:  # else others committed: raw is read
            taken = [
                (post.uri, load_id, len(post.payloads), post.digest, version + 1) for post in posts
            ]
            self._keys.add(taken, version + 1)


def find_post(source: Source, warehouse: Warehouse, key: str) -> Taken | None:
    """Find where the rows of a key are in raw; None if it has none."""
    keys = _Keys(source, warehouse)
    try:
        return keys.find(key)
    finally:
        keys.close()


def raw_rows(posts: Sequence[Post], load: Load) -> pa.RecordBatch:
    """Lay out posts as rows of raw."""
    sizes = [len(post.payloads) for post in posts]
    return load.rows(
        pa.array(np.repeat([post.uri for post in posts], sizes).tolist(), pa.string()),
        pa.array(np.concatenate([np.arange(1, size + 1) for size in sizes])),
        pa.concat_arrays([post.payloads for post in posts]),
    )


class _Keys:
    """The keys that raw has of a source, in a small database that follows raw."""

    def __init__(self, source: Source, warehouse: Warehouse) -> None:
        self._source, self._warehouse = source, warehouse
        folder = warehouse.settings.root / "posts"
        folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(source.name.encode()).hexdigest()[:16]
        # never synced: what a crash of the machine loses is read from raw again
        self._database = sqlite3.connect(
            folder / f"{digest}.db", isolation_level=None, check_same_thread=False
        )
        self._database.execute("pragma synchronous = off")
        self._database.executescript(TABLES)

    def close(self) -> None:
        self._database.close()

    def find(self, key: str) -> Taken | None:
        sql = "select load_id, n_rows, digest, version from posts where source_uri = ?"
        row = self._database.execute(sql, [SCHEME + key]).fetchone()
        return Taken(*row) if row else None

    def follow(self) -> int:
        """Add the posts of what was committed to raw since; return the version it is at."""
        # known before the table is opened: who commits in between makes what is known older only
        known = self._database.execute("select of_table, version from upto").fetchone()
        table = self._warehouse.create(RawRecord)
        of_table, version = str(table.metadata().id), table.version()
        if known == (of_table, version):
            return version
        if known is None or known[0] != of_table or known[1] > version:
            self._database.execute("delete from posts")
            known = (of_table, -1)
        try:
            committed = self._committed(known[1], version)
        except DeltaError:  # the log no longer has that version
            committed = self._committed(-1, version)
        self.add(committed, version, of_table)
        return version

    def add(
        self,
        rows: Iterable[tuple[str, str, int, str, int]],
        version: int,
        of_table: str | None = None,
    ) -> None:
        """Add posts: all those that versions of raw up to `version` have."""
        self._database.execute("begin")
        self._database.executemany("insert or ignore into posts values (?, ?, ?, ?, ?)", rows)
        self._database.execute(
            "insert into upto values (0, ?1, ?2) on conflict (one) do update set "
            "of_table = coalesce(?1, of_table), version = ?2",
            [of_table, version],
        )
        self._database.execute("commit")

    def _committed(self, since: int, version: int) -> list[tuple[str, str, int, str, int]]:
        added = self._warehouse.changes(RAW, since, version).added
        with connect(self._warehouse, of=()) as connection:
            create_view(connection, "arrived", added, RawRecord.arrow_schema())
            posts = connection.sql(model("staging/posts"), params={"source": self._source.name})
            return [(*post, version) for post in posts.fetchall()]
