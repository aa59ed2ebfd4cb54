"""Whose data was erased from a home, by digest, so that a restored backup does not bring it back.

`erasures.json` has what was done, and what is due: what a backup still had that was erased after.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from transforms.home import replace_file
from transforms.schemas.raw import RawRecord
from transforms.schemas.staging import StagedRecord
from transforms.upkeep.erase import Wanted
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

PLACES = {
    "author": (StagedRecord.relation(), "author_id"),
    "record": (StagedRecord.relation(), "record_id"),
    "source_file": (RawRecord.relation(), "source_uri"),
}


class Done(NamedTuple):
    """An erasure: of an author, a record or a file, the SHA-256 of its id, and when it ended."""

    of: str
    digest: str
    ended_at: str


def read_done(home: Path) -> list[Done]:
    """List the erasures of a home."""
    return [Done(*item) for item in _read(home)["done"]]


def read_due(home: Path) -> list[Done]:
    """List the erasures that are still to be repeated in a restored home."""
    return [Done(*item) for item in _read(home)["due"]]


def note_done(home: Path, wanted: Wanted, ended_at: str) -> None:
    """Note that an erasure has ended.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as home:
    ...     note_done(Path(home), Wanted(author="ann"), "2026-11-27T10:00:00+00:00")
    ...     [(done.of, done.digest[:6]) for done in read_done(Path(home))]
    [('author', '49915e')]
    """
    ((of, name),) = wanted.model_dump(exclude_none=True).items()
    done = Done(of, hashlib.sha256(name.encode()).hexdigest(), ended_at)
    _write(home, {**_read(home), "done": [*read_done(home), done]})


def write_due(home: Path, due: Iterable[Done]) -> None:
    """Note which erasures are to be repeated."""
    _write(home, {**_read(home), "due": list(due)})


def find_due(warehouse: Warehouse) -> list[Wanted]:
    """List whose data is to be erased again, as far as it is in the home."""
    due, found = read_due(warehouse.settings.root), []
    for of, (relation, column) in PLACES.items():
        digests = [done.digest for done in due if done.of == of]
        if digests and warehouse.table(relation):
            with connect(warehouse, of=(relation,)) as connection:
                sql = f"select distinct {column} from {relation} where sha256({column}) in $digests"
                names = connection.execute(sql, {"digests": digests}).fetchall()
            found += [Wanted(**{of: name}) for (name,) in names]
    return found


def _read(home: Path) -> dict[str, list[Any]]:
    path = home / "erasures.json"
    found = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return {"done": [], "due": [], **found}


def _write(home: Path, content: dict[str, list[Any]]) -> None:
    replace_file(home / "erasures.json", json.dumps(content, indent=2).encode())
