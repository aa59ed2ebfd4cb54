"""Run a page's commands in a folder: `python -m tests.docs.shell PAGE FOLDER` prints JSON.

With `--write` their output is written into the page.

A block with a title is written to the file of that name. A command runs in a child of this
process, which has imported the slow modules but has read no declarations and opened no table.
"""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = "~/tickets"
BLOCK = re.compile(r'^```(\w+)(?: title="(\S+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


class Said(NamedTuple):
    """What a command said, all of it, and how it ended."""

    command: str
    output: str
    code: int


def blocks(page: str) -> list[tuple[str, str, str]]:
    """The blocks of a page: language, file or nothing, content."""
    return [(found[1], found[2] or "", found[3]) for found in BLOCK.finditer(page)]


def commands(console: str) -> list[tuple[str, str]]:
    """The commands of a console block with the output below each."""
    parts = re.split(r"^\$ (.*)\n", console, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def filled(page: str, said: list[Said], folder: Path) -> str:
    """The page with what its commands said."""
    outputs = iter(said)

    def fill(found: re.Match[str]) -> str:
        if found[1] != "console":
            return found[0]
        shown = (
            f"$ {command}\n{next(outputs).output.replace(str(folder), HERE)}"
            for command, _ in commands(found[3])
        )
        return f"```console\n{''.join(shown)}```"

    return BLOCK.sub(fill, page)


def run_page(page: str) -> list[Said]:
    """Do here what a reader does."""
    said = []
    for language, file, content in blocks(page):
        if file:
            Path(file).parent.mkdir(exist_ok=True)
            Path(file).write_text(content, "utf-8")
        elif language == "console":
            said += [run(command) for command, _ in commands(content)]
    return said


def run(command: str) -> Said:
    """Run a command in a child, or set a variable here."""
    program, *words = shlex.split(command)
    if program == "export":
        name, _, value = words[0].partition("=")
        os.environ[name] = value
        return Said(command, "", 0)
    if program not in {"millrace", "python"}:
        done = subprocess.run(command, shell=True, check=False, capture_output=True, text=True)  # noqa: S602 - the page's own
        return Said(command, done.stdout + done.stderr, done.returncode)
    with tempfile.TemporaryFile("w+") as file:
        pid = os.fork()
        if not pid:
            child(program, words, file.fileno())
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        file.seek(0)
        return Said(command, file.read(), code)


def child(program: str, words: list[str], output: int) -> None:
    """Run the command line or a script, then leave without the parent's farewells."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    code = 0
    try:
        if program == "millrace":
            from flows.cli import main

            main(words, standalone_mode=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:  # noqa: BLE001 - whatever it is, the test reads it
        import traceback

        traceback.print_exc()
        code = 3
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def import_what_takes_long() -> None:
    """Import what commands need, so that each need not."""
    import transforms.features.testing
    import transforms.sources.ingest
    import transforms.staging.prepare  # noqa: F401


if __name__ == "__main__":
    path, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    import_what_takes_long()
    os.chdir(folder)
    found = run_page(path.read_text("utf-8"))
    if sys.argv[3:] == ["--write"]:
        path.write_text(filled(path.read_text("utf-8"), found, folder), "utf-8")
    else:
        json.dump(found, sys.stdout)
