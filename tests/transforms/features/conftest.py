"""Fixtures of views: a home in which only some views are computed."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from transforms.features.registry import Registry
from transforms.features.view import View


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let runs compute these views and no others."""

    def choose(*views: View) -> None:
        declared = Registry({view.name: view for view in views}, {}, {}, {}, {}, {}, ())
        monkeypatch.setattr("transforms.features.chosen.registry", lambda: declared)
        monkeypatch.setattr("transforms.features.build.views", lambda: views)

    return choose


@pytest.fixture
def declare(tmp_path: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Write a file of declarations, again and again, and import it as the registry does."""
    path = tmp_path / "features" / "own.py"
    path.parent.mkdir()
    name = "millrace_features.own"

    def write(source: str) -> ModuleType:
        path.write_text(source, "utf-8")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        exec(compile(source, path, "exec"), module.__dict__)  # noqa: S102 - no cached bytecode of the source before
        return module

    yield write
    sys.modules.pop(name, None)
