"""A home in object storage, and its copy on this machine that all reading goes by.

There are the tables, whole, and the files of state that every machine must see. Here is a replica
of their logs and of that state, brought up to date by one listing, and a bounded cache of data
files, which never change and are fetched when they are first read.

Whatever is written is there before it is here: a kill leaves what is there, and the next listing
mends what is here. A commit is a new entry of a log, put only if there is none of its number. What
`fcntl` does among the processes of a machine a lease does among machines.
"""

import json
import os
import re
import secrets
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from transforms.buckets import failing, open_store
from transforms.errors import HomeError

if TYPE_CHECKING:
    from deltalake import DeltaTable

AT_ONCE = 16
CHUNK_BYTES = 8 << 20
# what all machines share, beside the tables; the rest of a home is each machine's own
STATE = re.compile(
    r"layout|views|texts\.json|sources\.json|backfill\.json|runs\.jsonl|last_run\.json"
    r"|erasures\.json|restoring"
    r"|(erasing|locks/[^/.][^/]*)/[^/]+"
)
LOG = re.compile(r"[^/]+/[^/]+/_delta_log/[^/]+")
DATA = re.compile(r"[^/]+/[^/]+/[^/]+\.parquet")
ADDRESS = re.compile(r"(?P<root>(?:s3|gs|az):/)/?(?P<bucket>[^/]+)(?:/+(?P<path>.*?))?/*")
NAME = ".object-storage"
COPY = ".replica"
HALF = "half-"
INDEX = ".replica.db"
SECONDS_OF_A_LEASE = 30.0
SECONDS_OF_A_LOOK = 0.5
# a cached file that was asked for since then may still be read
SECONDS_IN_USE = 3600.0
Write = Callable[[Path], object]


def address_of(home: Path) -> tuple[str, str] | None:
    """Take the address of a home in object storage apart, which a path has with one slash.

    >>> address_of(Path("s3://lake/team/home")), address_of(Path("/srv/home"))
    (('s3://lake', 'team/home'), None)
    """
    found = ADDRESS.fullmatch(str(home))
    return (f"{found['root']}/{found['bucket']}", found["path"] or "") if found else None


class Lease:
    """The right to write, renewed until it is closed; nobody else has it meanwhile.

    Who waits takes it over once it has not changed for `SECONDS_OF_A_LEASE` by their own clock. Its
    owner gives it up after half of that without a renewal, so no clocks need to agree.
    """

    def __init__(self, store: Any, key: str, copy: str) -> None:
        """Take the store, the lease's key and the name of the copy that this process works on.

        Whoever asks has locked that copy, so what else has its name is dead.
        """
        self._store, self._key, self._copy = store, key, copy
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{copy}:{secrets.token_hex(8)}"
        self._mark: str | None = None
        self._n_renewals = 0
        self._renewed_at = 0.0
        self._is_closing = threading.Event()
        self._renewing = threading.Lock()
        self._thread = threading.Thread(target=self._renew_on, daemon=True)

    def acquire(self, waiting: Callable[[str], None]) -> bool:
        """Wait until it is ours; whether it was taken over from an owner that did not return it."""
        seen, since, is_told = "", time.monotonic(), False
        while True:
            holder, mark = self._read()
            if mark is None or holder is None or holder.split(":")[2] == self._copy:
                if self._put(mark):
                    break
                continue
            if mark != seen:
                seen, since = mark, time.monotonic()
            elif time.monotonic() - since > SECONDS_OF_A_LEASE and self._put(mark):
                self._thread.start()
                return True
            if not is_told:
                waiting(holder)
                is_told = True
            time.sleep(SECONDS_OF_A_LOOK)
        self._thread.start()
        return False

    @property
    def is_lost(self) -> bool:
        """Whether it may be another's by now."""
        return time.monotonic() - self._renewed_at > SECONDS_OF_A_LEASE / 2

    def renew(self) -> None:
        """Renew it now, unless it is another's."""
        with self._renewing:
            if self._mark and not self._put(self._mark):
                self._mark, self._renewed_at = None, float("-inf")

    def release(self) -> None:
        """Let others have it."""
        self._is_closing.set()
        self._thread.join()
        with self._renewing:
            if self._mark:
                self._put(self._mark, is_free=True)

    def _renew_on(self) -> None:
        while not self._is_closing.wait(SECONDS_OF_A_LEASE / 6):
            with suppress(Exception):  # tried again; `is_lost` goes by time
                self.renew()

    def _read(self) -> tuple[str | None, str | None]:
        import obstore

        try:
            got = obstore.get(self._store, self._key)
        except FileNotFoundError:
            return None, None
        return json.loads(bytes(got.bytes()))["holder"], got.meta["e_tag"]

    def _put(self, mark: str | None, *, is_free: bool = False) -> bool:
        """Write it in the place of what has a mark, or if there is none; whether that was so."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        self._n_renewals += 1
        asked_at = time.monotonic()
        content = {"holder": None if is_free else self._holder, "renewals": self._n_renewals}
        mode: Any = {"e_tag": mark} if mark else "create"
        try:
            put = obstore.put(self._store, self._key, json.dumps(content).encode(), mode=mode)
        except (AlreadyExistsError, PreconditionError):
            holder, found = self._read()  # a put that is tried again may meet itself
            if holder != self._holder or is_free:
                return False
            self._mark = found
        else:
            self._mark = put["e_tag"]
        self._renewed_at = asked_at
        return True


class Replica:
    """The copy of a home in object storage."""

    def __init__(self, root: Path, uri: str, max_bytes: int) -> None:
        """Take the folder of the copy and the home's address."""
        address = address_of(Path(uri))
        if address is None:
            message = f"{uri}: is no address of a home, e.g. s3://BUCKET/FOLDER"
            raise HomeError(message)
        self.root, self.uri, self.max_bytes = root, uri, max_bytes
        self._bucket, self._prefix = address
        self._store: Any = None
        self._leases: list[Lease] = []
        self.pulled_at = float("-inf")
        (root / "tmp").mkdir(parents=True, exist_ok=True)
        if not (root / COPY).is_file():
            half = self._half()
            half.write_text(half.name.removeprefix(HALF), "utf-8")
            with suppress(FileExistsError):
                os.link(half, root / COPY)
            half.unlink()
        self._name = (root / COPY).read_text("utf-8")
        with self._database() as database:
            database.execute(
                "create table if not exists files "
                "(path text primary key, mark text, size integer, put_at real)"
            )

    @property
    def store(self) -> Any:
        """The store, whose keys begin below the home's address."""
        if self._store is None:
            self._store = open_store(self._bucket, self._prefix or None)
        return self._store

    @property
    def is_leased(self) -> bool:
        """Whether this process writes, so that nobody else does."""
        return bool(self._leases)

    def shares(self, path: Path) -> bool:
        """Whether all machines must see a file of the home."""
        return bool(STATE.fullmatch(self._key(path)) or LOG.fullmatch(self._key(path)))

    # --- from there to here ---

    def pull(self) -> None:
        """Bring logs and state here up to date, and delete what is deleted there."""
        import obstore

        asked_at, before = time.monotonic(), self._files()
        with failing(self._bucket):
            there = {
                meta["path"]: (str(meta["e_tag"]), meta["size"], meta["last_modified"].timestamp())
                for page in obstore.list(self.store)
                for meta in page
            }
        changed = sorted(
            key
            for key, (mark, *_) in there.items()
            if (STATE.fullmatch(key) or LOG.fullmatch(key))
            and (before.get(key, ("", 0))[0] != mark or not (self.root / key).exists())
        )
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for key, got in zip(changed, pool.map(self._get, changed), strict=True):
                if got is not None:  # entries of a log in their order
                    self._write_here(key, *got)
        data = [key for key in there if DATA.fullmatch(key) and key not in before]
        self._index((key, *there[key]) for key in data)
        self._drop(before.keys() - there.keys())
        self._evict()
        self.pulled_at = asked_at

    def fetch(self, files: Iterable[str | Path]) -> None:
        """Have data files of tables here, to be read."""
        missing = []
        for file in files:
            try:
                os.utime(file)
            except FileNotFoundError:
                missing.append(Path(file))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._fetch, missing))

    def data_files(self, folder: Path) -> list[Path]:
        """List the data files of a table, of whatever version, as of the last `pull`."""
        prefix = f"{self._key(folder)}/"
        return sorted(
            self.root / key
            for key in self._files()
            if key.startswith(prefix) and DATA.fullmatch(key)
        )

    def size(self, path: Path) -> int:
        """Return the bytes of a file there."""
        return self._known(self._key(path))[1]

    # --- from here to there ---

    def put(self, path: Path) -> None:
        """Copy a file of the home there."""
        import obstore

        self.check()
        with failing(self._bucket):
            put = obstore.put(self.store, self._key(path), path)
        self._index([(self._key(path), str(put["e_tag"]), path.stat().st_size, time.time())])

    def write(self, path: Path, content: bytes) -> None:
        """Write a file there and here; nothing is done where it is as it was."""
        import obstore

        is_there = bool(self._known(self._key(path))[0])
        if is_there and path.is_file() and path.read_bytes() == content:
            return
        self.check()
        with failing(self._bucket):
            put = obstore.put(self.store, self._key(path), content)
        self._write_here(self._key(path), content, str(put["e_tag"]))

    @contextmanager
    def outline(self, folder: Path) -> Iterator["DeltaTable"]:
        """Open a table as it is there, its data files by name and time only, to look which go."""
        from deltalake import DeltaTable

        with self._database() as database:
            sql = "select path, put_at from files where path like ?"
            found = database.execute(sql, (f"{self._key(folder)}/%",)).fetchall()
        with TemporaryDirectory(prefix=HALF, dir=self.root / "tmp") as scratch:
            (Path(scratch) / "_delta_log").mkdir()
            for path in (folder / "_delta_log").iterdir():
                os.link(path, Path(scratch) / "_delta_log" / path.name)
            for key, put_at in found:
                if DATA.fullmatch(key):
                    data = Path(scratch) / Path(key).name
                    data.touch()
                    os.utime(data, (put_at, put_at))
            yield DeltaTable(scratch)

    def put_folder(self, source: Path, target: Path, last: str) -> None:
        """Copy a folder's files there as those of another one, that of the name `last` at last."""
        import obstore

        self.check()
        for path in sorted(source.iterdir(), key=lambda path: path.name == last):
            key, content = self._key(target / path.name), path.read_bytes()
            with failing(self._bucket):
                put = obstore.put(self.store, key, content)
            self._index([(key, str(put["e_tag"]), len(content), time.time())])

    def remove(self, paths: Sequence[Path]) -> None:
        """Delete files there, then here; state that is not there costs no request."""
        import obstore

        keys = [self._key(path) for path in paths]
        known = self._files()
        keys = [key for key in keys if key in known or DATA.fullmatch(key)]
        if not keys:
            return
        self.check()
        with failing(self._bucket):
            obstore.delete(self.store, keys)
        self._drop(keys)

    def commit(self, folder: Path, version: int, write: Write) -> bool:
        """Commit to a table's `version`; False if others have, whose entries are here then.

        `write` makes the entry, in a copy of the table's log that nobody else sees.
        """
        with TemporaryDirectory(prefix=HALF, dir=self.root / "tmp") as scratch:
            log = Path(scratch, "_delta_log")
            log.mkdir()
            for path in _since_checkpoint(folder / "_delta_log", version):
                os.link(path, log / path.name)
            write(Path(scratch))
            content = (log / f"{version + 1:020d}.json").read_bytes()
        return self._put_entry(folder, version + 1, content)

    def fence(self) -> None:
        """Let commits fail that a former owner of the lease may still have under way.

        Each table gets an entry that changes nothing, so theirs is not the next one any more.
        """
        for folder in sorted({path.parent for path in self.root.glob("*/*/_delta_log")}):
            entries = [int(path.stem) for path in (folder / "_delta_log").glob("*.json")]
            info = {"timestamp": time.time_ns() // 1_000_000, "operation": "FENCE"}
            content = json.dumps({"commitInfo": info}).encode()
            while not self._put_entry(folder, max(entries) + 1, content):
                entries = [int(path.stem) for path in (folder / "_delta_log").glob("*.json")]

    def settle(self, folder: Path) -> None:
        """Let a table's log be there as it is here."""
        prefix = f"{self._key(folder)}/_delta_log/"
        known = {key: mark for key, mark in self._files().items() if key.startswith(prefix)}
        here = {self._key(path): path for path in (folder / "_delta_log").glob("*")}
        for key in sorted(here.keys() - known.keys()):
            self.put(here[key])
        newest = folder / "_delta_log" / "_last_checkpoint"
        if newest.is_file():
            self.put(newest)
        self.remove([self.root / key for key in sorted(known.keys() - here.keys())])

    # --- leases ---

    @contextmanager
    def lease(self, name: str, waiting: Callable[[str], None]) -> Iterator[None]:
        """Have the right to write until the end of the block; what is there is here then."""
        lease = Lease(self.store, f"{name}.lease", self._name)
        with failing(self._bucket):
            is_taken_over = lease.acquire(waiting)
        self._leases.append(lease)
        try:
            self.pull()
            if is_taken_over:
                self.fence()
            yield
        finally:
            self._leases.remove(lease)
            lease.release()

    def check(self) -> None:
        """Raise `HomeError` if a lease of this process may be another's by now."""
        if any(lease.is_lost for lease in self._leases):
            message = (
                f"{self.uri}: this run has lost its lease of the home (it stood still, or the "
                "store could not be reached), so another may go on; it writes nothing more; run "
                "again"
            )
            raise HomeError(message)

    # --- parts of these ---

    def _put_entry(self, folder: Path, version: int, content: bytes) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        key = f"{self._key(folder)}/_delta_log/{version:020d}.json"
        self.check()
        try:
            with failing(self._bucket, (AlreadyExistsError, PreconditionError)):
                mark = str(obstore.put(self.store, key, content, mode="create")["e_tag"])
        except (AlreadyExistsError, PreconditionError):
            there = self._get(key)
            if there is None or there[0] != content:  # a put that is tried again may meet itself
                for lease in self._leases:
                    lease.renew()
                self.pull()
                return False
            mark = there[1]
        self._write_here(key, content, mark)
        return True

    def _get(self, key: str) -> tuple[bytes, str] | None:
        import obstore

        with failing(self._bucket, (FileNotFoundError,)), suppress(FileNotFoundError):
            got = obstore.get(self.store, key)
            return bytes(got.bytes()), str(got.meta["e_tag"])
        return None

    def _fetch(self, path: Path) -> None:
        import obstore

        half = self._half()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with failing(self._bucket, (FileNotFoundError,)), half.open("wb") as file:
                got = obstore.get(self.store, self._key(path))
                for chunk in got.stream(min_chunk_size=CHUNK_BYTES):
                    file.write(chunk)
            half.replace(path)
        except FileNotFoundError:
            return  # whoever reads it says so
        finally:
            half.unlink(missing_ok=True)
        changed = got.meta["last_modified"].timestamp()
        self._index([(self._key(path), str(got.meta["e_tag"]), got.meta["size"], changed)])

    def _write_here(self, key: str, content: bytes, mark: str) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        half = self._half()
        half.write_bytes(content)
        half.replace(path)
        self._index([(key, mark, len(content), time.time())])

    def _drop(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        for key in keys:
            (self.root / key).unlink(missing_ok=True)
            if not LOG.fullmatch(key) and not DATA.fullmatch(key):
                with suppress(OSError):  # of a folder of state, the last file
                    (self.root / key).parent.rmdir()
        with self._database() as database:
            database.executemany("delete from files where path = ?", [(key,) for key in keys])

    def _evict(self) -> None:
        """Delete cached data files, those that were read the longest ago, down to the bound.

        And what killed processes have left half done.
        """
        for half in (self.root / "tmp").glob(f"{HALF}*"):
            with suppress(FileNotFoundError):
                if time.time() - half.stat().st_mtime > SECONDS_IN_USE:
                    shutil.rmtree(half) if half.is_dir() else half.unlink()
        cached = []
        for key in self._files():
            if DATA.fullmatch(key):
                with suppress(FileNotFoundError):
                    stat = (self.root / key).stat()
                    cached.append((stat.st_mtime, stat.st_size, self.root / key))
        n_bytes = sum(size for _, size, _ in cached)
        for used_at, size, path in sorted(cached):
            if n_bytes <= self.max_bytes or time.time() - used_at < SECONDS_IN_USE:
                return
            path.unlink(missing_ok=True)
            n_bytes -= size

    def _half(self) -> Path:
        return self.root / "tmp" / f"{HALF}{secrets.token_hex(8)}"

    def _key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _files(self) -> dict[str, tuple[str, int]]:
        """Return what is there, as far as is known here: marks and sizes by path."""
        with self._database() as database:
            rows = database.execute("select path, mark, size from files").fetchall()
        return {path: (mark, size) for path, mark, size in rows}

    def _known(self, key: str) -> tuple[str, int]:
        with self._database() as database:
            sql = "select mark, size from files where path = ?"
            return database.execute(sql, (key,)).fetchone() or ("", 0)

    def _index(self, rows: Iterable[tuple[str, str, int, float]]) -> None:
        with self._database() as database:
            database.executemany("insert or replace into files values (?, ?, ?, ?)", rows)

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.root / INDEX, timeout=60)) as database, database:
            yield database


_replicas: dict[Path, Replica] = {}


def attach(root: Path, uri: str | None, max_bytes: int) -> Replica | None:
    """Open the replica in a folder, of the address given or of the one that it has been of."""
    name = root / NAME
    if root in _replicas:
        return _replicas[root]
    if uri is None and not name.is_file():
        return None
    if uri is not None:
        root.mkdir(parents=True, exist_ok=True)
        name.write_text(uri, "utf-8")
    _replicas[root] = Replica(root, uri or name.read_text("utf-8"), max_bytes)
    return _replicas[root]


def replica_of(path: Path) -> Replica | None:
    """Find the replica that a path is in; None for a path of a home that is a folder."""
    if not _replicas:
        return None
    return next((_replicas[up] for up in (path, *path.parents) if up in _replicas), None)


def have_here(files: Sequence[str | Path]) -> None:
    """Fetch data files of a home in object storage that are not here yet."""
    if _replicas and files and (replica := replica_of(Path(files[0]))):
        replica.fetch(files)


def _since_checkpoint(log: Path, version: int) -> list[Path]:
    """List what of a log a version is read from: a checkpoint, if there is one, and entries."""
    digits = 20
    marks = [
        int(path.name[:digits])
        for path in log.glob("*.checkpoint.parquet")
        if int(path.name[:digits]) <= version
    ]
    first = max(marks, default=0)
    entries = [log / f"{number:020d}.json" for number in range(first, version + 1)]
    return [*(log / f"{mark:020d}.checkpoint.parquet" for mark in marks if mark == first), *entries]
