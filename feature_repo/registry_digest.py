"""Which registry a home trusts: the digest of the file, recorded beside it by whoever writes it.

A registry contains code that its readers run. Importing this loads no Feast.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from transforms.errors import MillraceError
from transforms.home import replace_file

NAME, LOCK = "registry.sha256", "registry.lock"
TRIES = 100  # of a reader that writers overtake


class ForeignRegistryError(MillraceError):
    """The registry is not the one that the home names, so nothing of it is loaded."""

    def __init__(self, path: Path) -> None:
        """Name the file and the mend."""
        super().__init__(
            f"{path}: its SHA-256 is not in {NAME} beside it, so something other than the pipeline "
            "wrote it and its code is not run; millrace run writes it again from the definitions"
        )


def read(path: Path) -> bytes:
    """Read a registry that the home names.

    Raises `ForeignRegistryError` for any other, and FileNotFoundError for none.
    """
    before = None
    for _ in range(TRIES):
        content = path.read_bytes()
        if sha256(content).hexdigest() in _named(path):
            return content
        if content == before:
            break
        before = content
    raise ForeignRegistryError(path)


def is_named(path: Path) -> bool:
    """Whether there is a registry, and the home names it."""
    try:
        read(path)
    except (ForeignRegistryError, FileNotFoundError):
        return False
    return True


def write(path: Path, content: bytes) -> None:
    """Replace a registry whole, and name it first: a kill leaves one that is named.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder, "registry.db"), b"views")
    ...     read(Path(folder, "registry.db"))
    b'views'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _writing(path.parent):
        before = [sha256(path.read_bytes()).hexdigest()] if is_named(path) else []
        named = dict.fromkeys([sha256(content).hexdigest(), *before])
        replace_file(path.with_name(NAME), "\n".join([*named, ""]).encode())
        replace_file(path, content)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Let one process at a time write, so that none forgets the name that another wrote."""
    with (folder / LOCK).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _named(path: Path) -> set[str]:
    try:
        return set(path.with_name(NAME).read_text("utf-8").split())
    except FileNotFoundError:
        return set()
