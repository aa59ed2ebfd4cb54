"""Fixtures shared by all tests: an empty home, the sample, and the larger data sets if present."""

import gc
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, settings
from playwright.sync_api import Browser, sync_playwright

from benchmarks.servers import (
    REDIS_DATABASES,
    Address,
    MissingProgram,
    postgres_server,
    redis_server,
    s3_server,
)
from transforms.home import Settings
from transforms.sources.source import Source, load_source
from transforms.warehouse.tables import Warehouse

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "sources" / "cve_events.yaml"
CHROMIUM_OPTIONS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

# tests of half a minute and more, then the folders whose tests start most processes
LONGEST_FIRST = [
    ROOT / "tests" / path
    for path in (
        "flows/test_production.py",
        "transforms/features/engine/test_clusters.py",
        "flows/test_deployment.py",
        "flows/test_object_home.py",
        "flows/test_consume_kill.py",
        "flows",
        "feature_repo",
    )
]

# no features of the checkout's own, in this process and those that it starts
os.environ["MILLRACE_FEATURES"] = ""
# and no events of tests in somebody's catalog
os.environ["OPENLINEAGE_DISABLED"] = "true"

# a loaded machine may take long over an example; no test here is about time
for name, max_examples in (("millrace", 50), ("soak", 500)):  # unless a test says how many
    settings.register_profile(
        name,
        deadline=None,
        max_examples=max_examples,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
settings.load_profile("millrace")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `make soak` do more of what a normal run does some of."""
    parser.addoption(
        "--kills", type=int, default=6, help="random moments at which a run is killed (6)"
    )
    parser.addoption("--rounds", type=int, default=4, help="rounds of two runs at once (4)")
    parser.addoption(
        "--orders",
        type=int,
        default=1,
        help="shuffled orders in which the sample's files are loaded (1)",
    )


@pytest.hookimpl(trylast=True)  # what pytest-randomly shuffled stays so within a folder
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that take longest.

    A worker takes neighbours, so few workers make what a folder's tests share. One that has
    nothing left takes from the end of another's tests: the short ones.
    """

    def place(item: pytest.Item) -> int:
        found = (n for n, path in enumerate(LONGEST_FIRST) if item.path.is_relative_to(path))
        return next(found, len(LONGEST_FIRST))

    items.sort(key=place)


def pytest_unconfigure() -> None:
    """Take Hypothesis's callback off the garbage collector.

    It outlives the interpreter's last collection, with all tests that Hypothesis remembers and
    whatever their annotations name: DuckDB then prints a page of leaked objects.
    """
    gc.callbacks[:] = [
        callback for callback in gc.callbacks if not callback.__module__.startswith("hypothesis.")
    ]


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """An empty home of its own."""
    return Warehouse(Settings(home=tmp_path / "home"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The larger data sets and the data generator: MILLRACE_SHARED, or beside the project."""
    folder = Path(os.environ.get("MILLRACE_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        lacks(f"needs the shared data sets, not found at {folder}")
    return folder


@pytest.fixture(scope="session")
def redis_address() -> Iterator[Address]:
    """A real Redis for this test run; each test takes a database of `redis_databases`."""
    yield from _started(redis_server())


@pytest.fixture(scope="session")
def redis_databases() -> Iterator[int]:
    """Numbers of the Redis's databases, each for who takes it with `next` and nobody else."""
    return iter(range(1, REDIS_DATABASES))


@pytest.fixture(scope="session")
def postgres_address() -> Iterator[Address]:
    """A real PostgreSQL for this run (database, user `postgres`); one schema or project a test."""
    yield from _started(postgres_server())


@pytest.fixture(scope="session")
def s3_address() -> Iterator[Address]:
    """A real S3 endpoint of this test run, without a bucket."""
    yield from _started(s3_server())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium without a network; one a module, since its event loop disturbs others."""
    program = shutil.which("chromium")
    if program is None:
        lacks("chromium is not installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=program, args=CHROMIUM_OPTIONS)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny sentence-transformers model, made in a separate process: its libraries emit warnings.

    The extra takes more than 1 GB, so CI skips these tests too.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        pytest.skip("needs the extra `embeddings` (sentence-transformers), which is not installed")
    folder = tmp_path_factory.mktemp("model") / "tiny"
    subprocess.run(
        [sys.executable, "-m", "tests.tiny_model", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return folder


def _started(server: AbstractContextManager[Address]) -> Iterator[Address]:
    try:
        with server as address:
            yield address
    except MissingProgram as missing:
        lacks(str(missing))


def lacks(reason: str) -> None:
    """Skip what this machine cannot run; in CI nothing may be missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def make_source(tmp_path: Path) -> Callable[..., Source]:
    """Write and load a source file; a test passes the fields that matter to it."""

    def make(uri: str | Path | list[str], **changes: object) -> Source:
        document: dict[str, object] = {
            "name": "notes",
            "uri": uri if isinstance(uri, list) else str(uri),
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
