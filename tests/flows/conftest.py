"""A small source of the sample's real files, and the command line as a person runs it."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DAYS = ("2024-05-09", "2024-05-10", "2024-05-11")


@pytest.fixture(scope="session")
def small_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three days of the sample, with the sample's own source file."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "data" / "cve_events").mkdir(parents=True)
    for day in DAYS:
        shutil.copy(ROOT / "sources" / "data" / "cve_events" / f"{day}.jsonl.zst", folder / "data" / "cve_events")
    return Path(shutil.copy(ROOT / "sources" / "cve_events.yaml", folder))


@pytest.fixture(scope="session")
def digest_of_tree() -> Callable[[Path], str]:
    """Digest a folder: the names and contents of all its files, but for the lock that a command takes."""

    def run(folder: Path) -> str:
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
        digests = [f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    return run


@pytest.fixture
def millrace(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in an empty folder; Prefect keeps its own files there too."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli", *arguments]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MILLRACE_", "PREFECT_"))}
        settings = {**clean, "PREFECT_HOME": str(tmp_path / "prefect"), **environment}
        return subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=280, check=False)

    return run
