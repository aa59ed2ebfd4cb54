"""The notebooks: `python -m tests.docs.notebooks` runs them and writes their pages.

A notebook in `docs/notebooks/` is the source. It is kept with its outputs, and its page beside it
is made of it, because the site shows Markdown only.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
SECONDS = re.compile(r"^.*\d\.\d s\b.*\n?", re.MULTILINE)  # a line that says how long it took
QUIET = {"MILLRACE_FEATURES": "", "PREFECT_LOGGING_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore"}


def read(name: str) -> NotebookNode:
    """A notebook as it is kept."""
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def executed(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run a copy of it, from its first cell to its last, in an empty folder beside the sample."""
    (folder / "sources").symlink_to(ROOT / "sources")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
    environment = {
        **clean,
        **QUIET,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(folder / "prefect"),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    copy = nbformat.from_dict({**notebook, "metadata": dict(notebook.metadata)})
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(copy, timeout=240, coalesce_streams=True, resources=where).execute(
        env=environment
    )
    for cell in copy.cells:
        cell.metadata.pop("execution", None)  # when it ran
        for output in cell.get("outputs", ()):
            if "text/html" in output.get("data", {}):
                output.data.pop("text/plain", None)  # says the same, and where the home is
            if output.output_type == "stream":
                output.text = SECONDS.sub("", output.text)
    return copy


def page(name: str) -> str:
    """The page of a notebook: what it says, its code, and what that showed."""
    parts = [part for cell in read(name).cells for part in _parts(cell)]
    kept = f"This page is a notebook with its outputs: [{name}.ipynb]({name}.ipynb)."
    return "\n\n".join([parts[0], kept, *parts[1:]]) + "\n"


def _parts(cell: NotebookNode) -> list[str]:
    if cell.cell_type == "markdown":
        return [cell.source.replace(".ipynb)", ".md)")]
    shell = re.match(r"%%(?:ba)?sh\n", cell.source)
    code = cell.source[shell.end() :] if shell else cell.source
    return [f"```{'sh' if shell else 'python'}\n{code}\n```", *map(_shown, cell.outputs)]


def _shown(output: NotebookNode) -> str:
    data = output.get("data", {})
    if "text/html" in data:
        return data["text/html"].strip()
    text = output.text if output.output_type == "stream" else data["text/plain"]
    return f"```text\n{text.rstrip()}\n```"


def shown(notebook: NotebookNode) -> list[tuple[str, list[str]]]:
    """Each cell, and what it showed but for decimals and digests of code.

    The last digits of a model differ from machine to machine.
    """
    varies = re.compile(r"\d+\.\d+|\b[0-9a-f]{12,}\b")
    return [
        (cell.source, [varies.sub("#", _shown(output)) for output in cell.get("outputs", ())])
        for cell in notebook.cells
    ]


def write(name: str) -> None:
    """Run a notebook, then write it with its outputs, and its page."""
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(executed(read(name), Path(folder)), FOLDER / f"{name}.ipynb")
    (FOLDER / f"{name}.md").write_text(page(name), "utf-8")


if __name__ == "__main__":
    for each in sys.argv[1:] or NOTEBOOKS:
        write(each)
