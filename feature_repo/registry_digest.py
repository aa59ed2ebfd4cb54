"""Which registry a home trusts: the digest of the file, recorded beside it by whoever writes it.

A registry contains code that its readers run. One that is not such a file, in a database for
example, has no digest, so it is refused unless a setting allows it. Importing this loads no Feast.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from transforms.errors import MillraceError
from transforms.home import replace_file

NAME, LOCK = "registry.sha256", "registry.lock"
TRIES = 100  # of a reader that writers overtake
OURS = "feature_repo.stores.registry.AtomicFileRegistryStore"
ALLOWED = "MILLRACE_UNCHECKED_REGISTRY"


class ForeignRegistryError(MillraceError):
    """The registry is not the one that the home names, so nothing of it is loaded."""

    def __init__(self, path: Path) -> None:
        """Name the file and the mend."""
        super().__init__(
            f"{path}: its SHA-256 is not in {NAME} beside it, so something other than the pipeline "
            "wrote it and its code is not run; millrace run writes it again from the definitions"
        )


class UncheckedRegistryError(MillraceError):
    """A registry is of a kind that has no digest."""

    def __init__(self, where: str, kind: str) -> None:
        """Name the place and the ways out."""
        super().__init__(
            f"{where}: a registry of the kind {kind} has no digest, so whoever can write it could "
            f"have its readers run code; say `registry_store_type: {OURS}`, or set {ALLOWED}=1 if "
            "nobody but the pipeline can write it"
        )


def has_digest(registry: Mapping[str, Any] | str, where: str) -> bool:
    """Whether a registry, as `feature_store.yaml` describes it, is one that has a digest.

    Raises `UncheckedRegistryError` for another, unless `MILLRACE_UNCHECKED_REGISTRY=1` allows it.

    >>> has_digest({"registry_store_type": OURS, "path": "registry.db"}, "feature_store.yaml")
    True
    """
    settings = {} if isinstance(registry, str) else registry
    kind = settings.get("registry_store_type") or settings.get("registry_type") or "file"
    if kind != OURS and os.environ.get(ALLOWED) != "1":
        raise UncheckedRegistryError(where, kind)
    return bool(kind == OURS)


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
