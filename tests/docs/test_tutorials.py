"""Tutorials are true: every command of a page runs and prints what the page shows."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.shell import HERE, blocks, commands

ROOT = Path(__file__).parents[2]
# what each page's commands say wrong, which the page mends
PAGES = {
    "own-features.md": ["millrace features check", "millrace features test"],
    "several-sources.md": ["millrace run --source chats.yaml --plain"],
    "dlt.md": [],
}
SECONDS = re.compile(r"\d+\.\d s\b|load \w+-\w+")


def masked(text: str) -> str:
    """A text without what differs from run to run: how long things took."""
    return SECONDS.sub("# s", text).rstrip()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_says_what_the_page_says(page: str, tmp_path: Path) -> None:
    path = ROOT / "docs" / page
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
    state = {name: str(tmp_path / name) for name in ("PREFECT_HOME", "DLT_DATA_DIR")}
    environment = {**clean, **state, "PYTHONPATH": str(ROOT)}
    folder = tmp_path / "tickets"
    folder.mkdir()
    shell = [sys.executable, "-W", "ignore", "-m", "tests.docs.shell", str(path), str(folder)]
    ended = subprocess.run(
        shell, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert ended.returncode == 0, ended.stderr
    said = [
        (command, masked(output.replace(str(folder), HERE)))
        for command, output, _ in json.loads(ended.stdout)
    ]
    consoles = [
        content for language, _, content in blocks(path.read_text("utf-8")) if language == "console"
    ]
    written = [
        (command, masked(output)) for console in consoles for command, output in commands(console)
    ]
    assert said == written, (
        f"write the page again: python -m tests.docs.shell docs/{page} FOLDER --write"
    )
    failed = [command for command, _, code in json.loads(ended.stdout) if code]
    assert failed == PAGES[page]
