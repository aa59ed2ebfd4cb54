"""The examples in docstrings print what they show, and the README's declarations are right."""

import doctest
import os
import re
from importlib import import_module
from pathlib import Path

import pytest

from transforms.features.registry import read_registry

ROOT = Path(__file__).parent.parent
PACKAGES = ("transforms", "feature_repo", "flows")
# run by `tests/feature_repo/test_client_examples.py`
NEED_A_HOME = {"client.py"}
SHOWN = [
    path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if ">>> " in path.read_text("utf-8") and path.name not in NEED_A_HOME
]


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_examples_of_a_module_give_what_they_say(path: Path) -> None:
    module = import_module(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    )
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_declarations_in_the_readme_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    (shown,) = (block for block in blocks if "GroupBy(" in block)
    (tmp_path / "shown.py").write_text(shown, "utf-8")
    monkeypatch.setenv("MILLRACE_FEATURES", os.fspath(tmp_path))
    found = read_registry()
    assert found.errors == ()
    assert {"channel_mood"} <= set(found.views)
    assert {"channel_burst"} <= set(found.derived)
