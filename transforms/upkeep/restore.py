"""Restoring: a home from a backup, whole or not at all.

A note in the home says that it is being restored, so nobody takes it for whole. It is deleted last.
"""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from transforms.errors import BackupError
from transforms.home import Settings, remove_files, replace_file
from transforms.layout import has_tables, is_restoring, read_layout, restoring_path
from transforms.replica import DATA
from transforms.upkeep.backup import (
    AT_ONCE,
    CONTENT,
    Backup,
    File,
    digest_of,
    list_backups,
    read_backup,
)
from transforms.upkeep.erasures import write_due
from transforms.upkeep.places import Place, open_place
from transforms.warehouse.scratch import scratch_folder


def choose(place: Place, source: str, name: str | None) -> Backup:
    """Read a backup, by default the newest; raises `BackupError` if it cannot be restored.

    That each file is there, and of its size, is known by a listing.
    """
    names = list_backups(place)
    if not names:
        message = f"{source}: no backup is there; millrace backup {source} makes one"
        raise BackupError(message)
    backup = read_backup(place, name or names[-1])
    there = place.sizes(CONTENT)
    for path, file in backup.files.items():
        if there.get(file.key) != file.n_bytes:
            raise _damaged(path, file)
    return backup


def check(source: str, name: str | None) -> Backup:
    """Read back every file of a backup; raises `BackupError` if one is damaged or missing."""
    place = open_place(source)
    backup = choose(place, source, name)
    with TemporaryDirectory() as folder:
        _each(backup, lambda path, file: _fetch(place, Path(folder), path, file).unlink())
    return backup


def restore(settings: Settings, source: str, name: str | None) -> Backup:
    """Restore a backup into an empty home, which the caller has locked.

    Raises `BackupError` if the home is not empty, or if a file of the backup is damaged or missing;
    then the home is empty again.
    """
    home, place = settings.root, open_place(source)
    if is_restoring(home):
        _empty(home)
    elif read_layout(home) or has_tables(home) or (home / "feast").exists():
        message = f"{home}: is not empty; restore into another --home, or delete this one first"
        raise BackupError(message)
    backup = choose(place, source, name)
    replace_file(restoring_path(home), json.dumps(list(backup.files)).encode())
    try:
        with scratch_folder(home) as scratch:
            _each(
                backup, lambda path, file: _put(settings, path, _fetch(place, scratch, path, file))
            )
    except BackupError:
        _empty(home)
        raise
    newest = read_backup(place, list_backups(place)[-1])
    write_due(home, [done for done in newest.erasures if done not in backup.erasures])
    remove_files([restoring_path(home)])
    return backup


def _each(backup: Backup, function: Callable[[str, File], None]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done in [pool.submit(function, *item) for item in backup.files.items()]:
            done.result()


def _fetch(place: Place, folder: Path, path: str, file: File) -> Path:
    """Fetch a file of a backup into a folder, and compare its digest."""
    fetched = folder / path.replace("/", ".")
    try:
        place.fetch(file.key, fetched)
    except FileNotFoundError:
        raise _damaged(path, file) from None
    if digest_of(fetched) != file.digest:
        raise _damaged(path, file)
    return fetched


def _put(settings: Settings, path: str, fetched: Path) -> None:
    """Move a file into a home; one that is shared by machines goes there first."""
    target, there = settings.root / path, settings.replica
    if not DATA.fullmatch(path):
        replace_file(target, fetched.read_bytes())
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    fetched.replace(target)
    if there:
        there.put(target)


def _empty(home: Path) -> None:
    """Delete what a restore that did not end has put into a home."""
    paths = json.loads(restoring_path(home).read_text("utf-8"))
    remove_files([home / path for path in paths])
    for folder in {path.partition("/")[0] for path in paths if "/" in path}:
        shutil.rmtree(home / folder, ignore_errors=True)
    remove_files([restoring_path(home)])


def _damaged(path: str, file: File) -> BackupError:
    message = (
        f"{file.key}: is damaged or missing, so {path} cannot be restored; take another backup "
        "(--backup NAME)"
    )
    return BackupError(message)
