"""Whether workers have the code of the driver: what they make must be what it would make."""

import hashlib
import socket
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from transforms.errors import EngineError

ROOT = Path(__file__).parents[1]
LIBRARIES = ("duckdb", "numpy", "pandera", "polars", "pyarrow", "pydantic")


class Origin(NamedTuple):
    """By which code something was made, and where."""

    code: str
    host: str


def origin() -> Origin:
    """Name this process's code: all sources and models of ours, Python and libraries."""
    return Origin(_code(), socket.gethostname())


@cache
def _code() -> str:
    digest = hashlib.sha256(sys.version.encode())
    for library in LIBRARIES:
        digest.update(f"{library} {version(library)}".encode())
    for path in sorted([*ROOT.rglob("*.py"), *ROOT.rglob("*.sql")]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def refuse_other_code(of: Origin, what: str) -> None:
    """Raise `EngineError` if something was made by other code than this process has."""
    if of.code != _code():
        message = (
            f"{what}: {of.host} computes it by other code; its millrace, Python and libraries must "
            "be those of the driver"
        )
        raise EngineError(message)
