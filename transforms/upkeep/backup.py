"""Backups: a home as it was at one instant, copied while runs go on.

Data files never change, so what a backup copies is named by its digest and copied once, however
many backups name it. The list of a backup is written last: one that was killed is not there.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from deltalake.exceptions import DeltaError

from transforms.errors import BackupError
from transforms.features.build import consistent_versions
from transforms.replica import DATA, STATE, have_here
from transforms.schemas.raw import RawRecord
from transforms.upkeep.erasures import Done, read_done
from transforms.upkeep.log import DIGITS
from transforms.upkeep.maintain import needed_versions
from transforms.upkeep.places import Check, Place, always, open_place
from transforms.warehouse.arrivals import is_erasing
from transforms.warehouse.tables import Warehouse, data_files, files_of_version

AT_ONCE = 8
LOOKS = 50
TRIES = 5
LISTS, CONTENT = "backups", "data"
# a home's own choice, which each machine has of one in object storage
OWN = ("feast/online_views",)
State = dict[Path, tuple[int, int, int]]


class File(NamedTuple):
    """What a file had in it: its SHA-256, and its bytes."""

    digest: str
    n_bytes: int

    @property
    def key(self) -> str:
        """Where a backup keeps it."""
        return f"{CONTENT}/{self.digest[:2]}/{self.digest}"


class Backup(NamedTuple):
    """The list of a backup: when it was taken, of which home, and its files by path.

    A home is known by the id of its table of raw records; `erasures` had been done in it.
    """

    name: str
    of: str
    versions: dict[str, int]
    erasures: list[Done]
    files: dict[str, File]

    @property
    def n_bytes(self) -> int:
        """How much is restored."""
        return sum(file.n_bytes for file in self.files.values())


class Taken(NamedTuple):
    """A backup, and what it has copied that was not there."""

    backup: Backup
    n_files: int
    n_bytes: int


class Cut(NamedTuple):
    """A home at an instant: its id, versions of tables, state, needed versions, log entries."""

    of: str
    versions: dict[str, int]
    state: State
    needed: dict[str, set[int]]
    logs: list[Path]


def take(
    warehouse: Warehouse,
    name: str,
    locked: Callable[[], Iterable[Mapping[str, int]]],
    check: Check = always,
) -> Taken:
    """Copy a home to a folder or to object storage, as it is at one instant.

    What `locked` training sets read comes along, as far as it is there. Who calls is alone there,
    which `check` raises `BackupError` about before the backup is listed. It is also raised while
    an erasure is under way, while tables change all the time, if a file that a table needs is
    missing, and if the place has backups of another home.
    """
    place, home = open_place(name), warehouse.settings.root
    names = list_backups(place)
    newest = read_backup(place, names[-1]) if names else None
    missing = ""
    for _ in range(TRIES):
        taken_at, cut = datetime.now(UTC), _cut(warehouse)
        if newest and newest.of != cut.of:
            message = f"{name}: has backups of another home; name another place"
            raise BackupError(message)
        copying = _Copying(place, home, newest.files if newest else {})
        try:
            files = copying.copy(_files(warehouse, cut, locked()))
        except (FileNotFoundError, DeltaError) as error:  # maintenance may have deleted it since
            missing = f": {error}"
            continue
        if _state(home) == cut.state:
            backup = Backup(
                f"{taken_at:%Y%m%dT%H%M%S%fZ}", cut.of, cut.versions, read_done(home), files
            )
            check()
            _write_list(place, backup)
            return Taken(backup, copying.n_files, copying.n_bytes)
    message = f"{home}: could not be copied as it was at one instant{missing}; try again"
    raise BackupError(message)


def keep_newest(name: str, n_kept: int, check: Check = always) -> list[str]:
    """Delete all backups of a place but the newest, and what only they have; return their names.

    Who calls is alone there, which `check` raises `BackupError` about before anything is deleted.
    """
    place = open_place(name)
    names = list_backups(place)
    leaving, staying = names[:-n_kept], names[-n_kept:]
    used = {file.key for name in staying for file in read_backup(place, name).files.values()}
    check()
    place.remove([_list_key(name) for name in leaving])
    place.remove([key for key in place.sizes(CONTENT) if key not in used])
    return leaving


def list_backups(place: Place) -> list[str]:
    """Name the backups in a place, the newest last."""
    return sorted(Path(key).stem for key in place.sizes(LISTS))


def read_backup(place: Place, name: str) -> Backup:
    """Read the list of a backup; raises `BackupError` if it is damaged or not there."""
    with TemporaryDirectory() as folder:
        try:
            place.fetch(_list_key(name), Path(folder, "list"))
        except FileNotFoundError:
            message = f"{name}: no backup of that name; there are: {', '.join(list_backups(place))}"
            raise BackupError(message) from None
        digest, _, content = Path(folder, "list").read_bytes().partition(b"\n")
    if hashlib.sha256(content).hexdigest().encode() != digest:
        message = f"{_list_key(name)}: is damaged; restore another backup (--backup NAME)"
        raise BackupError(message)
    found = json.loads(content)
    files = {path: File(*file) for path, file in found["files"].items()}
    erasures = [Done(*done) for done in found["erasures"]]
    return Backup(**{**found, "files": files, "erasures": erasures})


def digest_of(path: Path) -> str:
    """Digest a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Copying:
    """Copies what a place does not have yet, and counts it."""

    def __init__(self, place: Place, home: Path, known: Mapping[str, File]) -> None:
        """Take the files of an earlier backup, to which data files need not be compared again."""
        self.n_files, self.n_bytes = 0, 0
        self._place, self._home, self._known = place, home, known
        self._there = place.sizes(CONTENT)

    def copy(self, paths: Iterable[Path]) -> dict[str, File]:
        """Copy files; raises `FileNotFoundError` if one is not there."""
        keys = [path.relative_to(self._home).as_posix() for path in paths]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return dict(zip(keys, pool.map(self._copy, keys), strict=True))

    def _copy(self, key: str) -> File:
        if DATA.fullmatch(key) and key in self._known and self._has(self._known[key]):
            return self._known[key]
        path = self._home / key
        if DATA.fullmatch(key):
            have_here([path])
            content: Path | bytes = path
            file = File(digest_of(path), path.stat().st_size)
        else:  # it may be replaced meanwhile
            content = path.read_bytes()
            file = File(hashlib.sha256(content).hexdigest(), len(content))
        if not self._has(file):
            self._place.write(file.key, content)
            self.n_files += 1
            self.n_bytes += file.n_bytes
        return file

    def _has(self, file: File) -> bool:
        return self._there.get(file.key) == file.n_bytes


def _cut(warehouse: Warehouse) -> Cut:
    """Look at a home until it does not change meanwhile: so it was at one instant."""
    home = warehouse.settings.root
    for _ in range(LOOKS):
        before = _seen(warehouse)
        if is_erasing(home):
            message = f"{home}: an erasure is under way; back up after it (a run finishes it)"
            raise BackupError(message)
        raw = warehouse.table(RawRecord.relation())
        needed = needed_versions(warehouse, [consistent_versions(warehouse)])
        logs = [log for relation, at in before[0].items() for log in _log(warehouse, relation, at)]
        if _seen(warehouse) == before:
            return Cut(str(raw.metadata().id) if raw else "", *before, needed, logs)
    message = f"{home}: changes all the time; try again"
    raise BackupError(message)


def _seen(warehouse: Warehouse) -> tuple[dict[str, int], State]:
    if there := warehouse.settings.replica:
        there.pull()
    return warehouse.versions(), _state(warehouse.settings.root)


def _state(home: Path) -> State:
    """Tell the files of state of a home, and each content from others."""
    found = {}
    for path in (*home.glob("*"), *home.glob("locks/*/*"), *(home / name for name in OWN)):
        key = path.relative_to(home).as_posix()
        if path.is_file() and (STATE.fullmatch(key) or key in OWN):
            stat = path.stat()
            found[path] = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
    return found


def _log(warehouse: Warehouse, relation: str, version: int) -> list[Path]:
    """List the entries and checkpoints of a table's log up to a version."""
    log = warehouse.folder(relation) / "_delta_log"
    return [
        path
        for path in sorted(log.iterdir())
        if path.name[:DIGITS].isdigit() and int(path.name[:DIGITS]) <= version
    ]


def _files(warehouse: Warehouse, cut: Cut, locked: Iterable[Mapping[str, int]]) -> list[Path]:
    """List what to copy: data files first, what names them last."""
    needed = [(relation, at) for relation, versions in cut.needed.items() for at in versions]
    of_locks = [(f"features.{view}", at) for of_views in locked for view, at in of_views.items()]
    newest = [data_files(warehouse.table_at(*table)) for table in cut.versions.items()]
    data = {*chain(*newest), *(file for table in needed for file in _data(warehouse, *table))}
    wanted = {file for table in of_locks for file in _data(warehouse, *table)}
    have_here(sorted(wanted))
    data |= {file for file in wanted if Path(file).is_file()}  # else the lock is lost already
    return [*map(Path, sorted(data)), *cut.logs, *cut.state]


def _data(warehouse: Warehouse, relation: str, version: int) -> list[str]:
    return files_of_version(warehouse.folder(relation), version) if version >= 0 else []


def _write_list(place: Place, backup: Backup) -> None:
    content = json.dumps(backup._asdict(), indent=1).encode()
    digest = hashlib.sha256(content).hexdigest().encode()
    place.write(_list_key(backup.name), digest + b"\n" + content)


def _list_key(name: str) -> str:
    return f"{LISTS}/{name}.json"
