"""Small files that are replaced whole: who reads one sees the content before or after, never a half."""

import os
import threading
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Write a file beside, then put it in the place of the one before. Threads and processes may do so at once: the last one stays.

    Raises OSError where the disk is full or may not be written; the file stays what it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.half")
    try:
        half.write_bytes(content)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def sweep_halves(home: Path) -> None:
    """Remove what killed processes had begun to write, in a home and beside its online store."""
    for half in [*home.glob("*.half"), *(home / "feast").rglob("*.half")]:
        process = half.name.split(".")[-2].partition("-")[0]
        with suppress(PermissionError):  # the process is there, and another user's
            try:
                os.kill(int(process), 0)
            except ProcessLookupError:
                half.unlink(missing_ok=True)
