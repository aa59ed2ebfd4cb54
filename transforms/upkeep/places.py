"""Where backups are: a folder, or object storage; each file is whole or not there.

Who writes there does so alone: what one backup has copied and not listed yet, another would delete.
"""

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from transforms.buckets import failing, open_store
from transforms.errors import BackupError
from transforms.replica import Lease, address_of

CHUNK_BYTES = 8 << 20
LOCK = "lock"
Check = Callable[[], None]
Waiting = Callable[[str], None]


def always() -> None:
    """Check nothing: nobody else can be writing."""


class Place(Protocol):
    """Files by key."""

    def alone(self, waiting: Waiting) -> AbstractContextManager[Check]:
        """Let nobody else write until the end of the block; `waiting` is told for whom it waits.

        Yields a check, which raises `BackupError` if another may be writing nevertheless.
        """

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of each file below a folder, by key."""

    def write(self, key: str, content: bytes | Path) -> None:
        """Write a file, or copy one."""

    def fetch(self, key: str, target: Path) -> None:
        """Copy a file to this machine; raises `FileNotFoundError` if it is not there."""

    def remove(self, keys: Sequence[str]) -> None:
        """Delete files."""


class Folder:
    """A folder of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def alone(self, waiting: Waiting) -> Iterator[Check]:
        """Lock the folder, which the operating system ends with the process, and sweep it."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / LOCK).open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                waiting(f"process {file.read().strip() or 'unknown'}")
                fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            for half in self.root.rglob("*.half"):
                half.unlink()
            yield always

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of each file below a folder, by key, without those half written."""
        return {
            path.relative_to(self.root).as_posix(): path.stat().st_size
            for path in sorted((self.root / folder).rglob("*"))
            if path.is_file() and path.suffix != ".half"
        }

    def write(self, key: str, content: bytes | Path) -> None:
        """Write a file, or copy one, so that it is whole even if the machine stops."""
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_name(f"{path.name}.half")
        with half.open("wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                with content.open("rb") as source:
                    shutil.copyfileobj(source, file, CHUNK_BYTES)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)

    def fetch(self, key: str, target: Path) -> None:
        """Copy a file."""
        shutil.copyfile(self.root / key, target)

    def remove(self, keys: Sequence[str]) -> None:
        """Delete files."""
        for key in keys:
            (self.root / key).unlink(missing_ok=True)


class Bucket:
    """A folder in object storage."""

    def __init__(self, bucket: str, folder: str) -> None:
        self._bucket, self._store = bucket, open_store(bucket, folder or None)

    @contextmanager
    def alone(self, waiting: Waiting) -> Iterator[Check]:
        """Lease the folder, as a home there is leased."""

        def tell(holder: str) -> None:
            machine, process, *_ = holder.split(":")
            waiting(f"process {process} on {machine}")

        def check() -> None:
            if lease.is_lost:
                message = (
                    f"{self._bucket}: this backup has lost its lease of the place (it stopped for "
                    "a while, or the store could not be reached), so another may have begun; run "
                    "it again"
                )
                raise BackupError(message)

        lease = Lease(self._store, LOCK, secrets.token_hex(8))
        with failing(self._bucket):
            lease.acquire(tell)
        try:
            yield check
        finally:
            lease.release()

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of each object below a folder, by key."""
        import obstore

        with failing(self._bucket):
            pages: Any = obstore.list(self._store, folder)
            return {meta["path"]: meta["size"] for page in pages for meta in page}

    def write(self, key: str, content: bytes | Path) -> None:
        """Put an object."""
        import obstore

        with failing(self._bucket):
            obstore.put(self._store, key, content)

    def fetch(self, key: str, target: Path) -> None:
        """Get an object."""
        import obstore

        with failing(self._bucket, (FileNotFoundError,)), target.open("wb") as file:
            for chunk in obstore.get(self._store, key).stream(min_chunk_size=CHUNK_BYTES):
                file.write(chunk)

    def remove(self, keys: Sequence[str]) -> None:
        """Delete objects."""
        import obstore

        if keys:
            with failing(self._bucket):
                obstore.delete(self._store, list(keys))


def open_place(name: str) -> Place:
    """Open a folder, or `s3://BUCKET/FOLDER`, `gs://` or `az://`.

    >>> type(open_place("/srv/backups")).__name__
    'Folder'
    """
    address = address_of(Path(name))
    return Bucket(*address) if address else Folder(Path(name).expanduser().resolve())
