"""Locks of training sets: what one was made from, so it can be rebuilt. Loads nothing heavy."""

import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transforms.errors import MillraceError
from transforms.home import remove_files, replace_file
from transforms.replica import have_here, replica_of

if TYPE_CHECKING:
    import pyarrow as pa

    from transforms.warehouse.tables import Warehouse

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class LockError(MillraceError):
    """A lock that cannot be used, or whose inputs are missing or changed.

    One line for each problem.
    """


@dataclass(frozen=True)
class Lock:
    """A lock in a home, with its spine: maintenance keeps the table versions that it names."""

    name: str
    folder: Path
    content: Mapping[str, Any]

    @property
    def tables(self) -> dict[str, int]:
        """The Delta version of every view it reads, by the view's name."""
        return dict(self.content["tables"])

    @property
    def spine_path(self) -> Path:
        """Its spine, as Arrow IPC: a spine that is read again must be the same to the byte."""
        return self.folder / "spine.arrow"

    @property
    def registered(self) -> datetime:
        """When it was registered."""
        return datetime.fromtimestamp((self.folder / "lock.json").stat().st_mtime, UTC)

    def spine(self) -> "pa.Table":
        """Read the spine."""
        import pyarrow as pa

        with pa.ipc.open_stream(self.spine_path) as stream:
            return stream.read_all()


def registered(home: Path) -> list[Lock]:
    """List the locks of a home, by name."""
    contents = sorted((home / "locks").glob("*/lock.json"))
    return [
        Lock(path.parent.name, path.parent, json.loads(path.read_text("utf-8")))
        for path in contents
    ]


def register(home: Path, name: str, content: Mapping[str, Any], spine: "pa.Table") -> Lock:
    """Keep a lock and its spine in a home; `LockError` for a name that is taken or invalid."""
    folder = _folder(home, name)
    if folder.exists():
        message = f"{name}: a lock of that name is registered already; millrace locks remove {name}"
        raise LockError(message)
    half = home / "locks" / f".{name}"
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    replace_spine(Lock(name, half, content), spine)
    write_lock(half / "lock.json", content)
    if there := replica_of(home):
        there.put_folder(half, folder, last="lock.json")
    half.replace(folder)
    return Lock(name, folder, content)


def remove(home: Path, name: str) -> None:
    """Forget a lock; maintenance may then drop what only it needed."""
    lock = find(home, name)
    remove_files([lock.folder / "lock.json", lock.spine_path])
    shutil.rmtree(lock.folder, ignore_errors=True)


def find(home: Path, name: str) -> Lock:
    """Find a lock by its name. Raises `LockError` if there is none."""
    path = _folder(home, name) / "lock.json"
    if not path.is_file():
        known = ", ".join(lock.name for lock in registered(home)) or "none"
        message = f"{name}: no lock of that name in {home}; there are: {known}"
        raise LockError(message)
    return Lock(name, path.parent, json.loads(path.read_text("utf-8")))


def replace_spine(lock: Lock, spine: "pa.Table") -> None:
    """Put another spine in the place of a lock's."""
    import pyarrow as pa

    content = pa.BufferOutputStream()
    with pa.ipc.new_stream(content, spine.schema) as stream:
        stream.write_table(spine)
    replace_file(lock.spine_path, content.getvalue().to_pybytes())


def write_lock(path: Path, content: Mapping[str, Any]) -> None:
    """Write a lock as JSON that a person can read."""
    replace_file(path, (json.dumps(content, indent=2) + "\n").encode())


def missing_versions(content: Mapping[str, Any], warehouse: "Warehouse") -> list[str]:
    """List the table versions of a lock that can no longer be read, a line each."""
    from deltalake.exceptions import DeltaError

    from transforms.warehouse.tables import data_files

    lines = []
    for view, version in content["tables"].items():
        try:
            files = data_files(warehouse.table_at(f"features.{view}", version))
        except DeltaError:
            lines.append(f"features.{view}: version {version} is missing")
            continue
        with suppress(MillraceError):
            have_here(files)
        missing = [file for file in files if not Path(file).is_file()]
        if missing:
            first = Path(missing[0]).name
            lines.append(
                f"features.{view}: version {version} is missing: "
                f"{len(missing)} of {len(files)} data files, first {first}"
            )
    return lines


def changes(locked: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """List what differs between two locks, a line each; packages one by one.

    >>> changes({"result": "a", "packages": {"polars": "1"}}, {"result": "b", "packages": {}})
    ['result: a then, b now', 'packages, polars: 1 then, None now']
    """
    lines = []
    for name, value in locked.items():
        if isinstance(value, Mapping):
            lines += [
                f"{name}, {key}: {item} then, {now[name].get(key)} now"
                for key, item in value.items()
                if now[name].get(key) != item
            ]
        elif now[name] != value:
            lines.append(f"{name}: {value} then, {now[name]} now")
    return lines


def _folder(home: Path, name: str) -> Path:
    if not NAME.fullmatch(name):
        message = (
            f"{name!r}: no name for a lock; letters, digits, '.', '_' and '-', beginning with a "
            "letter or digit"
        )
        raise LockError(message)
    return home / "locks" / name
