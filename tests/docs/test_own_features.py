"""The tutorial is true: every command of the page runs and prints what the page shows."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.docs.shell import HERE, blocks, commands

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "own-features.md"
SECONDS = re.compile(r"\d+\.\d s\b")


def masked(text: str) -> str:
    """A text without what differs from run to run: how long things took."""
    return SECONDS.sub("# s", text).rstrip()


def test_every_command_says_what_the_page_says(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
    environment = {**clean, "PREFECT_HOME": str(tmp_path / "prefect"), "PYTHONPATH": str(ROOT)}
    folder = tmp_path / "tickets"
    folder.mkdir()
    shell = [sys.executable, "-W", "ignore", "-m", "tests.docs.shell", str(PAGE), str(folder)]
    ended = subprocess.run(
        shell, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert ended.returncode == 0, ended.stderr
    said = [
        (command, masked(output.replace(str(folder), HERE)))
        for command, output, _ in json.loads(ended.stdout)
    ]
    consoles = [
        content for language, _, content in blocks(PAGE.read_text("utf-8")) if language == "console"
    ]
    written = [
        (command, masked(output)) for console in consoles for command, output in commands(console)
    ]
    assert said == written, (
        "write the page again: python -m tests.docs.shell docs/own-features.md FOLDER --write"
    )
    failed = [command for command, _, code in json.loads(ended.stdout) if code]
    assert failed == ["millrace features check", "millrace features test"]  # which the page fixes
