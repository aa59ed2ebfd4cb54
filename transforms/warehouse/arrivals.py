"""The lock of raw: posts are committed at any time, except while raw itself is rewritten."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from transforms.replica import replica_of


@contextmanager
def lock_arrivals(home: Path) -> Iterator[None]:
    """Let nobody else add posts to raw, or compact, vacuum or erase it, until the end.

    A run holds the lock of the home, which may be for minutes. Posts do not wait for that one,
    only for this. The operating system releases it if the process dies.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as home, lock_arrivals(Path(home)):
    ...     [path.name for path in Path(home, "raw").iterdir()]
    ['.lock']
    """
    folder = home / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        there = replica_of(home)
        with there.lease("raw", lambda _: None) if there else nullcontext():
            yield


def erasure_folder(home: Path) -> Path:
    """Return where an erasure that has begun keeps what it is to erase, until it has ended."""
    return home / "erasing"


def is_erasing(home: Path) -> bool:
    """Whether an erasure has begun; if it was killed, the next run finishes it."""
    return (erasure_folder(home) / "note.json").is_file()
