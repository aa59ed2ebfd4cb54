"""A small source of the sample's real files, and the command line as a person runs it."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs
import pytest

from feature_repo.online_views import online_views
from feature_repo.stores import compact
from transforms.features.registry import view_of, views
from transforms.home import Settings
from transforms.staging.accounting import recount
from transforms.warehouse.tables import Warehouse

VIEWS = tuple(view.name for view in views())
ROOT = Path(__file__).parent.parent.parent
DAYS = ("2024-05-09", "2024-05-10", "2024-05-11")
Ended = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def small_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three days of the sample, with the sample's own source file."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "data" / "cve_events").mkdir(parents=True)
    for day in DAYS:
        shutil.copy(
            ROOT / "sources" / "data" / "cve_events" / f"{day}.jsonl.zst",
            folder / "data" / "cve_events",
        )
    return Path(shutil.copy(ROOT / "sources" / "cve_events.yaml", folder))


class Warm:
    """A process that forks a child for each command (`tests.flows.warm`); output goes to `log`."""

    def __init__(self, log: Path) -> None:
        self.log, self.environment = log, dict[str, str]()
        program = [sys.executable, "-W", "ignore", "-m", "tests.flows.warm"]
        self._process = subprocess.Popen(
            program, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def machine(self, log: Path, environment: Mapping[str, str]) -> "Warm":
        """The same process, whose commands have more variables and a log of their own."""
        other = copy(self)
        other.log, other.environment = log, dict(environment)
        return other

    def start(self, name: str, *arguments: object) -> int:
        """Begin a command; its process id."""
        words = [str(argument) for argument in arguments]
        return self._ask([name, words, *[str(self.log)] * 2, self.environment])

    def wait(self, pid: int) -> int:
        """Wait for a child: minus the signal that ended it, or its exit code."""
        return self._ask(pid)

    def run(self, name: str, *arguments: object) -> None:
        """Run a command to its end; it must succeed."""
        assert self.wait(self.start(name, *arguments)) == 0, self.log.read_text()

    def end(self, pid: int, by: signal.Signals = signal.SIGTERM) -> None:
        """End a child by a signal, and by nothing else."""
        os.kill(pid, by)
        assert self.wait(pid) == -by, self.log.read_text()

    def die(self, name: str, *arguments: object) -> None:
        """Run a command that is killed at a point."""
        assert self.wait(self.start(name, *arguments)) == -signal.SIGKILL, self.log.read_text()

    def begin(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        said: Path,
    ) -> Callable[[], Ended]:
        """Begin the command line in a folder, with just this environment; call it to wait.

        The output goes to files in the folder `said`.
        """
        said.mkdir(exist_ok=True)
        output, errors = said / "output", said / "errors"
        words = [str(folder), json.dumps(dict(environment)), *arguments]
        pid = self._ask(["millrace", words, str(output), str(errors), {}])
        return lambda: Ended(
            words, self.wait(pid), output.read_text("utf-8"), errors.read_text("utf-8")
        )

    def millrace(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]
    ) -> Ended:
        """Run the command line to its end."""
        with tempfile.TemporaryDirectory() as said:
            return self.begin(arguments, folder, environment, Path(said))()

    def close(self) -> None:
        """End the process; its children have been waited for."""
        self._process.communicate()

    def _ask(self, asked: object) -> int:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """A process that runs commands without the seconds of their imports."""
    process = Warm(tmp_path_factory.mktemp("warm") / "log.txt")
    yield process
    process.close()


def note(record: int, known: str, **changes: object) -> str:
    """A line of the source `notes`."""
    row = {
        "id": f"r{record}",
        "author": f"u{record % 5}",
        "about": f"s{record % 3}",
        "written": known,
        "known": known,
        "text": f"note {record}",
    }
    return json.dumps({**row, "label": "bad" if record % 4 == 0 else "good", **changes})


INCREMENTS = (
    [note(n, f"2024-01-{1 + n % 20:02}T10:00:00Z") for n in range(40)]
    + [note(40, "2024-01-05T10:00:00Z", written="not a time"), "{ broken"]  # two for quarantine
    # duplicate rows
    + [
        note(n, "2024-01-25T10:00:00Z", written=f"2024-01-{1 + n % 20:02}T10:00:00Z")
        for n in range(3)
    ],
    [note(n, "2024-02-01T10:00:00Z", text="corrected") for n in range(0, 40, 4)]
    + [note(n, "2024-02-02T10:00:00Z", text=None, gone=True) for n in range(1, 40, 8)]  # tombstones
    # late by months
    + [note(50 + n, "2024-02-03T10:00:00Z", written="2023-06-01T00:00:00Z") for n in range(10)],
    # out of the order of knowledge
    [note(n, "2024-01-10T00:00:00Z", text="from between") for n in range(0, 40, 3)]
    + [note(60 + n, "2024-01-12T00:00:00Z") for n in range(10)],
)


class Notes:
    """A source that grows: `add` puts the next increment into its folder."""

    def __init__(self, folder: Path) -> None:
        (folder / "data").mkdir(parents=True)
        self.folder, self.n_added = folder, 0
        self.source = folder / "notes.yaml"
        record = (
            "{record_id: id, author_id: author, subject_id: about, event_timestamp: written, "
            "text: text, label: label}"
        )
        options = (
            f"known: {{column: known}}\nrecord: {record}\ntombstone: gone\npositive_labels: [bad]\n"
        )
        self.source.write_text(f"name: notes\nuri: data/*.jsonl\n{options}")

    def add(self) -> None:
        """Let the next increment arrive."""
        lines = INCREMENTS[self.n_added]
        self.n_added += 1
        (self.folder / "data" / f"{self.n_added}.jsonl").write_text(
            "".join(f"{line}\n" for line in lines)
        )


@pytest.fixture(scope="session")
def digest_of_tree() -> Callable[[Path], str]:
    """Digest the names and contents of all files in a folder, except the lock of a command."""

    def run(folder: Path) -> str:
        files = sorted(
            path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
        )
        digests = [
            f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}"
            for path in files
        ]
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    return run


def environment_of(folder: Path, **environment: str) -> dict[str, str]:
    """This process's variables without settings; Prefect keeps its own files in the folder."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MILLRACE_", "PREFECT_"))
    }
    own = {"MILLRACE_FEATURES": "", "PREFECT_HOME": str(folder / "prefect")}
    return {**clean, **own, **environment}


@pytest.fixture
def millrace(warm: Warm, tmp_path: Path) -> Callable[..., Ended]:
    """Run the command line in an empty folder, in a child of a process that has its imports.

    What an interpreter reads and prints when it starts and ends is for `new_millrace`.
    """

    def run(*arguments: str, **environment: str) -> Ended:
        return warm.millrace(arguments, tmp_path, environment_of(tmp_path, **environment))

    return run


@pytest.fixture
def new_millrace(tmp_path: Path) -> Callable[..., Ended]:
    """Run the command line in an empty folder, in an interpreter of its own."""

    def run(*arguments: str, **environment: str) -> Ended:
        ended = subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments],
            cwd=tmp_path,
            env=environment_of(tmp_path, **environment),
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        # DuckDB prints it if one of its objects outlives the interpreter
        assert "leaked" not in ended.stderr
        return ended

    return run


# what differs between homes of the same content: times of runs, names of loads, the source's path
OF_A_RUN = ("load_id", "loaded_timestamp", "created_timestamp", "source_uri")


def contents(home: Path) -> dict[str, Any]:
    """Everything a home contains, whoever ran it: the rows of all tables and the online store's."""
    warehouse = Warehouse(Settings(home=home))
    assert recount(warehouse)["adds_up"].all()
    found: dict[str, Any] = {}
    for relation in warehouse.versions():
        frame = pl.read_delta(str(warehouse.folder(relation)))
        # replaced rows stay until maintenance
        if relation.startswith("features.") or relation == "duplicates.documents":
            entity = next(
                name for name in frame.columns if name in {"record_id", "author_id", "subject_id"}
            )
            frame = frame.sort("created_timestamp").unique([entity, "event_timestamp"], keep="last")
        frame = frame.drop(OF_A_RUN, strict=False)
        found[relation] = frame.sort(cs.exclude(cs.nested())).rows()
    with contextlib.closing(sqlite3.connect(home / "feast" / "online.db")) as connection:
        for view in online_views(home):
            rows = connection.execute(f'select entity_key, value from "millrace_{view}.compact"')
            features = view_of(view).features
            # not the value as it is, which has the time of the run in it
            found[f"online {view}"] = {
                key: [compact.event_us(value), *compact.unpack([value], features, [compact.NEVER])]
                for key, value in rows
            }
    return found


class Lives:
    """After each increment of the growing source: an undisturbed home's content, run time, copy."""

    def __init__(self, folder: Path, warm: Warm) -> None:
        self.folder, self.warm, self.home = folder, warm, folder / "home"
        self.contents: list[dict[str, Any]] = []
        self.seconds: list[float] = []
        notes = Notes(folder / "source")
        self.source = notes.source
        (folder / "copies" / "0" / "home").mkdir(parents=True)
        shutil.copytree(notes.folder, folder / "copies" / "0" / "source")
        for number in range(1, len(INCREMENTS) + 1):
            notes.add()
            start = time.monotonic()
            warm.run("run", self.source, self.home)
            self.seconds.append(time.monotonic() - start)
            self.contents.append(contents(self.home))
            for name in ("home", "source"):
                shutil.copytree(folder / name, folder / "copies" / str(number) / name)

    def go_back(self, number: int) -> None:
        """Restore home and source to the state after `number` increments; deliver the next one."""
        for name in ("home", "source"):
            shutil.rmtree(self.folder / name)
        shutil.copytree(self.folder / "copies" / str(number) / "home", self.home)
        shutil.copytree(self.folder / "copies" / str(number + 1) / "source", self.folder / "source")

    def assert_ends_as_undisturbed(self, number: int, message: str) -> None:
        """Run to the end; the home must equal that increment's, without leftovers of the kill."""
        self.warm.run("run", self.source, self.home)
        found = contents(self.home)
        assert [name for name in found if found[name] != self.contents[number][name]] == [], message
        assert leftovers(self.home) == [], message


def leftovers(home: Path) -> list[str]:
    """Return the files that no table version names, and those in the temporary folder."""
    warehouse = Warehouse(Settings(home=home))
    stray = [str(path.relative_to(home)) for path in (home / "tmp").iterdir()]
    for relation, newest in warehouse.versions().items():
        tables = [warehouse.table_at(relation, version) for version in range(newest + 1)]
        named = {Path(file).name for table in tables for file in table.file_uris()}
        stray += [
            str(path)
            for path in warehouse.folder(relation).glob("*.parquet")
            if path.name not in named
        ]
    return stray


@pytest.fixture(scope="session")
def lives(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Lives:
    """The growing source's homes."""
    return Lives(tmp_path_factory.mktemp("lives"), warm)
