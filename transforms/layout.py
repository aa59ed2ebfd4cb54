"""The layout of a home: a number in it that says how its tables and files are named and written.

A change of names, columns or files that the code before could not read, or that this code cannot
read, raises `LAYOUT` and adds a migration (`flows.migrations`) that brings older homes up to it.
"""

from pathlib import Path

from transforms.errors import HomeError
from transforms.home import replace_file

LAYOUT = 4


def read_layout(home: Path) -> int:
    """Return the number that is in a home; 0 if there is none.

    Homes have it since 27 November 2026, with their first table.
    """
    path = _path(home)
    return int(path.read_text("utf-8")) if path.is_file() else 0


def write_layout(home: Path, layout: int) -> None:
    """Write the number into a home.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as home:
    ...     write_layout(Path(home), 3)
    ...     read_layout(Path(home))
    3
    """
    replace_file(_path(home), str(layout).encode())


def has_tables(home: Path) -> bool:
    """Whether a home has records, as far as is known on this machine; no home has tables before."""
    return any((home / layer / "records" / "_delta_log").is_dir() for layer in ("raw", "staging"))


def refuse_newer(home: Path) -> None:
    """Raise `HomeError` for a home that newer code has written to, or that is half restored."""
    if is_restoring(home):
        message = (
            f"{home}: a restore into it has not ended; run millrace restore again, from the same "
            "backup"
        )
        raise HomeError(message)
    layout = read_layout(home)
    if layout > LAYOUT:
        message = (
            f"{home}: has layout {layout}, and this millrace knows up to {LAYOUT}; upgrade millrace"
        )
        raise HomeError(message)


def refuse_other(home: Path) -> None:
    """Raise `HomeError` for a home that this code cannot read."""
    refuse_newer(home)
    layout = read_layout(home)
    if layout < LAYOUT and has_tables(home):
        message = (
            f"{home}: has layout {layout}, and this millrace reads {LAYOUT}; millrace migrate "
            f"--home {home}"
        )
        raise HomeError(message)


def restoring_path(home: Path) -> Path:
    """Return where a restore that has begun and not ended keeps what it restores."""
    return home / "restoring"


def is_restoring(home: Path) -> bool:
    """Whether a restore has begun and not ended."""
    return restoring_path(home).is_file()


def _path(home: Path) -> Path:
    return home / "layout"
