"""Where backups are: a folder, or object storage; each file is whole or not there."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from transforms.buckets import failing, open_store
from transforms.replica import address_of

CHUNK_BYTES = 8 << 20


class Place(Protocol):
    """Files by key."""

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

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of each file below a folder, by key; those half written are deleted."""
        found = {}
        for path in sorted((self.root / folder).rglob("*")):
            if path.suffix == ".half":
                path.unlink()
            elif path.is_file():
                found[path.relative_to(self.root).as_posix()] = path.stat().st_size
        return found

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
