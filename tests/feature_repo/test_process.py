"""Importing and calling this package leaves the caller's process as it was."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from feature_repo import store
from transforms.warehouse.tables import Warehouse

ROOT = Path(__file__).parent.parent.parent
SOURCES = [
    path
    for package in ("transforms", "feature_repo", "flows")
    for path in sorted((ROOT / package).rglob("*.py"))
]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def watched(home: Path, *modules: str) -> dict[str, list[str]]:
    """What changed in a process that imported modules and called the client."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.watch", str(home), *modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_no_import_and_no_call_changes_the_process(small: Warehouse) -> None:
    lacking = set() if find_spec("pyspark") else {"transforms.engines.spark"}
    # `feast apply` imports the definitions first
    modules = [
        "feature_repo.definitions",
        *(module for module in map(module_of, SOURCES) if module not in lacking),
    ]
    assert len(modules) > 80
    assert watched(small.settings.root, *modules) == {"imports": [], "calls": []}


class Import(NamedTuple):
    line: int
    of: str


def imports(path: Path) -> Iterator[Import]:
    """Every import of a module, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield Import(node.lineno, node.module or "")


# the package on the left is imported after the module on the right, which restores the process
KEEPERS = {
    "pandera": "transforms.schemas",
    "feast": "feature_repo.importing",
    "prefect": "flows.importing",
}


@pytest.mark.parametrize("package", KEEPERS)
def test_what_changes_a_process_is_imported_after_what_keeps_it(package: str) -> None:
    keeper = KEEPERS[package]
    wrong = []
    for path in SOURCES:
        found = sorted(imports(path))
        kept = [line for line, of in found if of == keeper] + [0] * module_of(path).startswith(
            ("transforms.schemas", "feature_repo.stores")
        )
        wanted = [line for line, of in found if of.split(".")[0] == package]
        if wanted and module_of(path) != keeper and not (kept and min(kept) < min(wanted)):
            wrong.append(f"{module_of(path)}, line {min(wanted)}")
    # the feature server owns its process, and no interpreter evaluates the client's types
    assert [
        place
        for place in wrong
        if not place.startswith(("flows.commands.serve,", "feature_repo.client,"))
    ] == []


def test_views_are_served_while_they_are_materialized_and_nothing_is_said_of_it(
    small: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    assert store(small.settings.root).registry.serve_features_while_materializing
    assert "serve_features_while_materializing" not in caplog.text
