"""Fixtures for the first stages: make rows of a tiny source, load and stage them, read tables."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from transforms.home import Settings
from transforms.schemas.base import Contract
from transforms.sources.ingest import ingest
from transforms.sources.source import Source
from transforms.staging.accounting import recount
from transforms.staging.prepare import Account, prepare
from transforms.warehouse import publishing
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

INSTANT = "2026-01-01T10:00:00Z"
Query = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture(scope="session")
def note() -> Callable[..., bytes]:
    """Make one good JSONL row, as `make_source` maps it; a test passes the fields that matter."""

    def make(record_id: object = "r1", **changes: object) -> bytes:
        row = {
            "id": record_id,
            "author": "ann",
            "subject": "tea",
            "written": INSTANT,
            "known": INSTANT,
            "text": "hi",
            "label": None,
        }
        return json.dumps({**row, **changes}).encode()

    return make


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write rows to a file, a line feed after each."""

    def run(name: str, *rows: bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(row + b"\n" for row in rows))
        return path

    return run


@pytest.fixture
def stage(warehouse: Warehouse) -> Callable[[Source], Account]:
    """Load and stage a source; every load must add up."""

    def run(source: Source) -> Account:
        ingest(source, warehouse)
        account = prepare(source, warehouse)
        assert recount(warehouse)["adds_up"].all()
        return account

    return run


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a module; its `copy` is what the first test of many begins with."""
    return tmp_path_factory.mktemp("once")


@pytest.fixture
def same_path(once: Path) -> Path:
    """An empty folder of the same path for each test, since a home knows the paths of its files."""
    folder = once / "same"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@pytest.fixture
def make_once(once: Path, tmp_path: Path) -> Callable[[Callable[[], object]], None]:
    """Fill the test's folder as a function does, which is called by the module's first test only.

    The module's `tmp_path` must be `same_path`.
    """

    def run(make: Callable[[], object]) -> None:
        copy = once / "copy"
        if copy.exists():
            shutil.copytree(copy, tmp_path, dirs_exist_ok=True)
        else:
            make()
            shutil.copytree(tmp_path, copy)

    return run


@pytest.fixture
def query(warehouse: Warehouse) -> Query:
    """Ask the tables in SQL."""

    def run(sql: str, **parameters: object) -> list[tuple[Any, ...]]:
        with connect(warehouse) as connection:
            return connection.execute(sql, parameters or None).fetchall()

    return run


@pytest.fixture
def rejections(query: Query) -> Callable[[], dict[int, str]]:
    """Return what is in quarantine: `column:rule` by row number."""

    def run() -> dict[int, str]:
        return dict(query("""select row_number, "column" || ':' || rule from quarantine.records"""))

    return run


@pytest.fixture
def new_home(tmp_path: Path) -> Callable[[], Warehouse]:
    """Open one fresh home after another."""
    numbers = itertools.count()
    return lambda: Warehouse(Settings(home=tmp_path / str(next(numbers))))


class KilledError(BaseException):
    """Simulates the end of the process."""


@pytest.fixture
def killed_before() -> Callable[..., AbstractContextManager[None]]:
    """Stop just before rows of a contract are committed; unless `is_certain` is false, it must."""

    @contextmanager
    def run(contract: type[Contract], *, is_certain: bool = True) -> Iterator[None]:
        commit = publishing._commit

        def dying(home: Warehouse, given: type[Contract], *arguments: Any) -> Any:
            if given is contract:
                raise KilledError
            return commit(home, given, *arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(publishing, "_commit", dying)
            with pytest.raises(KilledError) if is_certain else suppress(KilledError):
                yield

    return run
