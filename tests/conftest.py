"""Fixtures shared by all tests: a home of one's own, the sample, and the larger data sets where they are at hand."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, settings

from transforms.settings import Settings
from transforms.source import Source, load_source
from transforms.warehouse import Warehouse

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "sources" / "cve_events.yaml"

# a loaded machine may take long over an example; no test here is about time
settings.register_profile("millrace", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("millrace")


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """An empty home of its own."""
    return Warehouse(Settings(home=tmp_path / "home"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the larger data sets and the data generator, beside the project or where MILLRACE_SHARED says."""
    folder = Path(os.environ.get("MILLRACE_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        reason = f"needs the shared data sets, not found at {folder}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture
def make_source(tmp_path: Path) -> Callable[..., Source]:
    """Write a source file and load it; the fields that matter to a test are given, the rest has defaults."""

    def make(uri: str | Path, **changes: object) -> Source:
        document: dict[str, object] = {
            "name": "notes",
            "uri": str(uri),
            "known": {"column": "known"},
            "record": {
                "record_id": "id",
                "author_id": "author",
                "subject_id": "subject",
                "event_timestamp": "written",
                "text": "text",
                "label": "label",
            },
            "positive_labels": ["bad"],
        }
        path = tmp_path / "source.yaml"
        path.write_text(yaml.safe_dump({**document, **changes}), "utf-8")
        return load_source(path)

    return make
