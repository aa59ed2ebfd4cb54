"""What was materialized: one small file a view, in the warehouse's folder. Loads nothing heavy."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from transforms.home import replace_file


@dataclass(frozen=True)
class Done:
    """What the online store has of a view: the entities with a row from `start` to `until`.

    The rows are those in the files of `identities`.

    `of` digests what is served and where; `witness` is the key of an entity that must be there.
    `is_marked` says that the store was made to say itself that it has the view (`stores.written`),
    which millrace did not do before 28 November 2026.
    `rows` counts those written by a run that has not finished (None: it has), which reads the Delta
    `version` from `since` on.
    """

    of: str
    start: str
    until: str
    identities: list[str]
    witness: str = ""
    is_marked: bool = False
    version: int | None = None
    rows: int | None = None
    since: "Done | None" = None


def done_path(warehouse: Path, project: str, view: str) -> Path:
    """Where a view's file is."""
    return warehouse / "feast" / "materialized" / project / f"{view}.json"


def read_done(path: Path) -> Done | None:
    """Read what was done; None if nothing was."""
    if not path.is_file():
        return None
    saved = json.loads(path.read_text("utf-8"))
    return Done(**{**saved, "since": Done(**saved["since"]) if saved["since"] else None})


def write_done(path: Path, done: Done) -> None:
    """Record what is done, afterwards: a run killed before does it again, which changes nothing."""
    replace_file(path, json.dumps(asdict(done)).encode())
