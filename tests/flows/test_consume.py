"""Posted records over HTTP: what the answers say, what is served, what may run beside."""

import ctypes
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import polars as pl
import pytest
import uvicorn

from feature_repo import online_features, training_set
from flows import stages
from flows.commands.consume import FEW_ARENAS
from flows.consumer import passes
from flows.consumer.app import Consumer, create_app
from flows.consumer.passes import _Folder
from flows.stages import MaintainParameters, PipelineParameters, run_erasure, run_maintenance
from tests.feature_repo.test_feast_cli import ROOT, free_port, serving
from tests.feature_repo.test_guard import certificate
from tests.flows.conftest import INCREMENTS, Notes, contents, note
from tests.flows.consumers import differing, served, until
from transforms.errors import ErasureError
from transforms.home import Settings
from transforms.sources.posts import Intake, read_post
from transforms.sources.source import load_source
from transforms.staging.accounting import recount
from transforms.staging.prepare import prepare
from transforms.upkeep import maintain
from transforms.upkeep.erase import Wanted
from transforms.warehouse.arrivals import lock_arrivals
from transforms.warehouse.tables import Warehouse

ROOM = 20_000


pytestmark = pytest.mark.service


class Running:
    """A consumer on a home of its own, in a thread of this process."""

    def __init__(self, folder: Path) -> None:
        self.notes, self.home = Notes(folder / "source"), folder / "home"
        self.source = load_source(self.notes.source)
        parameters = PipelineParameters(source=str(self.notes.source), home=str(self.home))
        self.consumer = Consumer(self.source, parameters, max_bytes=ROOM)
        port = free_port()
        config = uvicorn.Config(create_app(self.consumer), port=port, log_level="warning")
        self.server = uvicorn.Server(config)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=150)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()
        while not self.server.started:
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.server.should_exit = True
        self._thread.join()

    def post(self, key: str | None, *lines: str, **parameters: Any) -> httpx.Response:
        headers = {"Idempotency-Key": key} if key else {}
        body = "\n".join(lines).encode()
        return self.client.post(
            "/records", content=body, headers=headers, params={"timeout": 120, **parameters}
        )

    @property
    def warehouse(self) -> Warehouse:
        return Warehouse(Settings(home=self.home))


@pytest.fixture(scope="module", autouse=True)
def few_views() -> Iterator[None]:
    """Have homes with the views that are read here: each pass takes half as long as with all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_VIEWS", "author_activity, record_quality")
        yield


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(tmp_path_factory.mktemp("consumed")) as made:
        # whichever test is the first, it finds tables
        assert made.post("before", note(99, "2024-01-01T10:00:00Z")).json()["staged"] == 1
        yield made


def test_answer_says_what_became_of_each_row_as_the_tables_do(running: Running) -> None:
    answer = running.post(
        "said-1", note(100, "2024-01-01T10:00:00Z"), "{ broken", note(101, "soon")
    )
    assert answer.status_code == 200
    found = answer.json()
    assert (found["read"], found["staged"], found["duplicates"], found["quarantined"]) == (
        3,
        1,
        0,
        2,
    )
    assert found["rejected"] == [
        {"row": 2, "column": "payload", "rule": "not_json"},
        {"row": 3, "column": "event_timestamp", "rule": "not_a_time"},
    ]
    again = running.post(
        "said-2", note(100, "2024-01-02T10:00:00Z", written="2024-01-01T10:00:00Z")
    )
    assert again.json()["duplicates"] == 1
    quarantine = pl.read_delta(str(running.home / "quarantine" / "records"))
    assert quarantine.filter(source_uri="post:said-1").sort("row_number")["rule"].to_list() == [
        "not_json",
        "not_a_time",
    ]
    assert running.client.get("/records/said-1").json()["rejected"] == found["rejected"]
    assert recount(running.warehouse)["adds_up"].all()


def test_same_key_is_taken_once_and_with_other_rows_refused(running: Running) -> None:
    line = note(110, "2024-01-01T10:00:00Z")
    first = running.post("once", line, wait="raw")
    assert first.status_code == 202
    again = running.post("once", line, wait="staged")
    assert (again.status_code, again.json()["load_id"]) == (200, first.json()["load_id"])
    other = running.post("once", note(111, "2024-01-01T10:00:00Z"))
    assert other.status_code == 422
    assert "was used for other records" in other.json()["detail"]
    raw = pl.read_delta(str(running.home / "raw" / "records")).filter(source_uri="post:once")
    assert raw["payload"].to_list() == [line.encode()]


def test_what_is_online_is_what_a_training_set_says(running: Running) -> None:
    lines = [note(n, "2024-02-01T10:00:00Z", author=f"fresh{n % 2}") for n in range(120, 126)]
    assert running.post("online", *lines, wait="online").json()["reached"] == "online"
    features = ["author_activity:n_records_lifetime", "author_activity:mean_characters_lifetime"]
    authors = [{"author_id": "fresh0"}, {"author_id": "fresh1"}]
    served = online_features(features, authors, running.home)
    at = "2026-01-01T00:00:00Z"
    spine = pl.DataFrame({"author_id": ["fresh0", "fresh1"], "event_timestamp": [at, at]})
    spine = spine.with_columns(pl.col("event_timestamp").str.to_datetime(time_zone="UTC"))
    trained = training_set(spine, features, running.home).frame.sort("author_id")
    assert served["author_activity__n_records_lifetime"].to_list() == [3, 3]
    for name in ("n_records_lifetime", "mean_characters_lifetime"):
        column = f"author_activity__{name}"
        assert served[column].to_list() == trained[column].to_list()


@pytest.mark.parametrize(
    ("key", "lines", "status", "said"),
    [
        ("empty", (), 400, "no record"),
        ("a key", ("{}",), 400, "printable ASCII"),
        ("long", ("x" * (ROOM + 1),), 413, "at most 20,000 bytes"),
    ],
)
def test_post_that_cannot_be_taken_is_refused_with_the_reason(
    running: Running, key: str, lines: tuple[str, ...], status: int, said: str
) -> None:
    answer = running.post(key, *lines)
    assert (answer.status_code, said in answer.json()["detail"]) == (status, True), answer.text


def test_unknown_key_is_not_found_and_a_post_without_a_key_gets_one(running: Running) -> None:
    assert running.client.get("/records/never").status_code == 404
    answer = running.post(None, note(130, "2024-01-01T10:00:00Z"), wait="raw")
    assert running.client.get(f"/records/{answer.json()['key']}").status_code in {200, 202}


def test_full_queue_is_answered_429_and_what_was_acknowledged_is_there(running: Running) -> None:
    answers: dict[str, httpx.Response] = {}

    def send(key: str) -> None:
        line = note(140, "2024-01-01T10:00:00Z", text=key + "x" * 6_000)
        answers[key] = running.post(key, line, wait="raw")

    with lock_arrivals(running.home):  # nothing can be committed
        senders = [threading.Thread(target=send, args=(f"full-{n}",)) for n in range(5)]
        for sender in senders:
            sender.start()
        until(lambda: len(answers) >= 2)
        assert {answer.status_code for answer in answers.values()} == {429}
        assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers.values())
    for sender in senders:
        sender.join()
    taken = {key for key, answer in answers.items() if answer.status_code == 202}
    assert len(taken) == 3
    raw = pl.read_delta(str(running.home / "raw" / "records"))["source_uri"].to_list()
    assert {uri for uri in raw if uri.startswith("post:full")} == {f"post:{key}" for key in taken}


def test_mostly_rejected_posts_stop_nobody(running: Running) -> None:
    assert running.post("bad", *["{ broken"] * 9).json()["quarantined"] == 9
    assert running.client.get("/health").json()["stopped"] is None
    checks = pl.read_delta(str(running.home / "profiles" / "checks"))
    found = checks.filter(pl.col("n_broken") == 9, check="quarantined")
    assert found["verdict"].to_list() == ["warn"]


def test_files_that_are_moved_into_the_folder_are_loaded_and_served(running: Running) -> None:
    path = running.notes.folder / "data" / "moved.jsonl"
    path.write_text(note(150, "2024-01-01T10:00:00Z") + "\n")

    def is_staged() -> bool:
        staged = pl.read_delta(str(running.home / "staging" / "records"))
        return bool(staged["source_uri"].str.ends_with("moved.jsonl").any())

    until(is_staged)


def test_growing_file_is_due_once_it_has_stopped_changing(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    folder = _Folder(load_source(notes.source))
    assert not folder.is_due()
    path = notes.folder / "data" / "grows.jsonl"
    for n_rows in (1, 2):
        path.write_text("{}\n" * n_rows)
        assert not folder.is_due()
    assert folder.is_due()
    warehouse = Warehouse(Settings(home=tmp_path / "home"))
    assert folder.load(load_source(notes.source), warehouse).rows_loaded == 2
    assert not folder.is_due()


def test_stopped_stages_keep_what_is_acknowledged_until_they_go_on(tmp_path: Path) -> None:
    running = Running(tmp_path)
    source = running.notes.source
    source.write_text(source.read_text() + "schema: freeze\n")
    line = json.loads(note(1, "2024-01-01T10:00:00Z"))
    with running:
        assert running.post("first", json.dumps(line)).json()["staged"] == 1
        answer = running.post("changed", json.dumps({**line, "id": "r2", "new": 1}))
        assert answer.status_code == 202
        assert "--accept-schema" in answer.json()["stopped"]
        assert running.client.get("/health").status_code == 503
        stages.run_plain(
            PipelineParameters(source=str(source), home=str(running.home), accept_schema=True)
        )
        until(lambda: running.client.get("/health").status_code == 200)
        assert running.client.get("/records/changed").json()["staged"] == 1
        assert running.client.get("/health").json()["stopped"] is None


def test_server_with_ingest_serves_what_is_posted_and_ends_with_it(tmp_path: Path) -> None:
    notes, home = Notes(tmp_path / "source"), tmp_path / "home"
    port, posts = free_port(), free_port()
    options = ["--home", str(home), "--port", str(port)]
    options += ["--ingest", str(notes.source), "--ingest-port", str(posts)]
    command = [sys.executable, "-m", "flows.cli", "serve", *options]
    with serving(command, port, "/health") as address:
        posted = httpx.post(
            f"http://127.0.0.1:{posts}/records",
            content=note(1, "2024-01-01T10:00:00Z"),
            headers={"Idempotency-Key": "one"},
            params={"wait": "online", "timeout": 100},
            timeout=120,
        )
        assert posted.json()["reached"] == "online", posted.text
        asked = {
            "features": ["author_activity:n_records_lifetime"],
            "entities": {"author_id": ["u1"]},
        }
        served = httpx.post(f"{address}/get-online-features", json=asked, timeout=60).json()
        assert served["results"][-1]["values"] == [1]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{posts}/health")


def test_the_consumer_asks_for_the_token_and_speaks_tls(tmp_path: Path) -> None:
    notes, home, port, token = Notes(tmp_path / "source"), tmp_path / "home", free_port(), "x" * 20
    cert, key = certificate(tmp_path)
    command = [sys.executable, "-m", "flows.cli", "consume", "--source", str(notes.source)]
    command += ["--home", str(home), "--port", str(port), "--cert", str(cert), "--key", str(key)]
    environment = os.environ | {"MILLRACE_SERVER_TOKEN": token}
    process = subprocess.Popen(command, env=environment, cwd=ROOT)
    trust = ssl.create_default_context(cafile=str(cert))
    address, content = f"https://127.0.0.1:{port}", note(1, "2024-01-01T10:00:00Z")
    try:
        with httpx.Client(base_url=address, verify=trust, timeout=100) as client:
            until(lambda: is_up(client))
            assert client.get("/health").status_code == 200
            for headers in ({}, {"Authorization": f"Bearer {token[1:]}"}):
                assert client.post("/records", content=content, headers=headers).status_code == 401
                assert client.get("/records/one", headers=headers).status_code == 401
            known = {"Authorization": f"Bearer {token}", "Idempotency-Key": "one"}
            posted = client.post("/records", content=content, headers=known, params={"wait": "raw"})
            assert posted.json()["read"] == 1
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{port}/health")
    finally:
        process.terminate()
        process.wait(100)


def is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.HTTPError:
        return False


def test_small_commits_are_compacted_while_posts_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "PASSES_UNTIL_MAINTENANCE", 6)
    monkeypatch.setattr(maintain, "FEW_FILES", 1)

    def n_profiled() -> int:
        """Count the rows of a view that are profiled."""
        of_view = {"relation": "features.record_quality", "column": "n_words"}
        profiles = pl.read_delta(str(running.warehouse.folder("profiles.columns")))
        return int(profiles.filter(**of_view)["n_rows"].sum())

    with Running(tmp_path) as running:
        for number in range(8):
            if number == 1:
                assert not n_profiled()  # nobody waits for that
            answer = running.post(f"k{number}", note(number, "2024-01-01T10:00:00Z"), wait="online")
            assert answer.json()["staged"] == 1
        files = running.warehouse.files("raw.records")
        assert len(files) < 8
        assert running.post("k0", note(0, "2024-01-01T10:00:00Z")).json()["staged"] == 1
        assert running.warehouse.files("raw.records") == files
    assert recount(running.warehouse)["adds_up"].all()
    assert running.warehouse.n_rows("staging.records") == 8
    assert n_profiled() > 0  # before its rows were moved
    assert len(running.warehouse.files("features.record_quality")) < 8
    stages.run_plain(PipelineParameters(source=str(running.notes.source), home=str(running.home)))
    assert n_profiled() == 8


def test_tables_are_compacted_before_their_turn_where_small_files_make_them_dear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "PASSES_UNTIL_MAINTENANCE", 1_000)
    monkeypatch.setattr(passes, "CROWDED_OF_A_PASS", 100)
    with Running(tmp_path) as running:
        for number in range(9):
            line = note(number, f"2024-01-01T10:{number:02}:00Z")
            running.post(f"k{number}", line, wait="online")
    warehouse = running.warehouse
    n_files = {name: len(warehouse.files(name)) for name in warehouse.relations()}
    views = [name for name in n_files if name.startswith("features.")]
    assert max(n_files[name] for name in views) <= maintain.FEW_FILES + 1
    assert all(warehouse.n_rows(name) >= 9 for name in ("features.record_quality", *views[:1]))


def test_logs_stay_short_while_posts_are_taken_and_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "PASSES_UNTIL_MAINTENANCE", 3)
    monkeypatch.setattr("transforms.upkeep.log.KEPT_ENTRIES", 6)
    # an open table needs the entries since the checkpoint by which it was opened
    monkeypatch.setattr("transforms.warehouse.tables.REOPENED_AFTER", 2)
    monkeypatch.setattr("transforms.warehouse.publishing.COMMITS_UNTIL_CHECKPOINT", 2)
    monkeypatch.setenv("MILLRACE_VIEWS", "all")
    with Running(tmp_path) as running:
        for number in range(14):
            line = note(number, f"2024-01-01T10:{number:02}:00Z")
            answer = running.post(f"k{number}", line, wait="online").json()
            assert (answer["reached"], answer["staged"]) == ("online", 1)
        assert running.post("k0", note(0, "2024-01-01T10:00:00Z")).json()["staged"] == 1
    warehouse = running.warehouse
    for relation in ("raw.records", "staging.records", "features.author_activity"):
        entries = list((warehouse.folder(relation) / "_delta_log").glob("*.json"))
        assert warehouse.version(relation) > len(entries), relation
        assert len(entries) <= 2 * 6 + 6
    assert recount(warehouse)["adds_up"].all()
    batch = Notes(tmp_path / "files")
    lines = [note(number, f"2024-01-01T10:{number:02}:00Z") for number in range(14)]
    (batch.folder / "data" / "all.jsonl").write_text("\n".join(lines))
    stages.run_plain(PipelineParameters(source=str(batch.source), home=str(tmp_path / "batch")))
    batch = served(contents(tmp_path / "batch"))
    assert differing(served(contents(running.home)), batch) == set()


def test_replaced_files_of_a_consumer_stay_for_hours_or_as_long_as_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "PASSES_UNTIL_MAINTENANCE", 1)
    asked: list[float | None] = []

    def maintain(parameters: MaintainParameters, **_: object) -> None:
        asked.append(parameters.keep_days)

    monkeypatch.setattr(passes, "run_maintenance", maintain)
    with Running(tmp_path / "a") as running:
        running.post("a", note(1, "2024-01-01T10:00:00Z"), wait="online")
    assert {*asked} == {passes.DAYS_KEPT}
    asked.clear()
    monkeypatch.setenv("MILLRACE_KEEP_DAYS", "2")
    with Running(tmp_path / "b") as running:
        running.post("a", note(1, "2024-01-01T10:00:00Z"), wait="online")
    assert {*asked} == {None}


# --- beside maintenance and erasure ---
@pytest.fixture
def posted(tmp_path: Path) -> Running:
    """A home with some posts, each a file of raw, staged and served."""
    running = Running(tmp_path)
    intake = Intake(running.source, running.warehouse)
    for number, line in enumerate(INCREMENTS[0][:8]):
        intake.take([read_post(f"k{number}", line.encode())])
    stages.run_plain(PipelineParameters(source=str(running.notes.source), home=str(running.home)))
    return running


def test_posts_that_come_while_raw_is_compacted_are_staged_once(
    posted: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = maintain._compact
    intake = Intake(posted.source, posted.warehouse)

    def compact(contract: Any, *arguments: Any) -> Any:
        done = real(contract, *arguments)
        if contract.relation() == "raw.records":
            intake.take([read_post("between", note(90, "2024-01-01T10:00:00Z").encode())])
        return done

    monkeypatch.setattr(maintain, "_compact", compact)
    done = run_maintenance(MaintainParameters(home=str(posted.home)))
    assert {"raw.records"} <= {item["relation"] for item in done["compacted"]}
    assert prepare(posted.source, posted.warehouse).staged == 1
    assert recount(posted.warehouse)["adds_up"].all()
    again = posted.warehouse
    (taken,) = Intake(posted.source, again).take([read_post("k0", INCREMENTS[0][0].encode())])
    assert taken.version < again.version("raw.records")
    assert again.version("raw.records") == posted.warehouse.version("raw.records")


def test_posts_wait_while_somebody_is_erased(
    posted: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stages.finish_erasure
    intake = Intake(posted.source, posted.warehouse)
    post = read_post("meanwhile", note(91, "2024-01-01T10:00:00Z").encode())
    sender = threading.Thread(target=intake.take, args=([post],))

    def finish(*arguments: Any) -> None:
        sender.start()
        sender.join(0.5)
        assert sender.is_alive()
        real(*arguments)

    monkeypatch.setattr(stages, "finish_erasure", finish)
    run_erasure(posted.home, Wanted(author="u1"), is_dry=False)
    sender.join()
    assert prepare(posted.source, posted.warehouse).staged == 1


def test_erasure_is_refused_while_posts_are_not_staged(posted: Running) -> None:
    intake = Intake(posted.source, posted.warehouse)
    intake.take([read_post("unstaged", note(92, "2024-01-01T10:00:00Z").encode())])
    with pytest.raises(ErasureError, match="stages what is loaded"):
        run_erasure(posted.home, Wanted(author="u1"), is_dry=False)


ARENAS = """
import ctypes, sys, threading
from flows.commands.consume import keep_few_arenas
if sys.argv[1] == "few":
    keep_few_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.fopen.restype = ctypes.c_void_p, ctypes.c_void_p
libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, ctypes.c_void_p], [ctypes.c_void_p]
waiting = threading.Barrier(9)
def allocate():
    libc.malloc(1000)
    waiting.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
waiting.wait()
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="not glibc")
def test_threads_of_a_consumer_share_few_arenas_of_memory(tmp_path: Path) -> None:
    def n_arenas(asked: str) -> int:
        file = tmp_path / asked
        command = [sys.executable, "-c", ARENAS, asked, str(file)]
        subprocess.run(command, cwd=ROOT, check=True)
        return file.read_text().count("<heap nr=")

    assert n_arenas("few") == FEW_ARENAS < n_arenas("many")
