"""The production profile as real processes, each killed in the midst of a run: nothing is lost.

The commands, variables and Feast's settings are those of `deploy/`, on loopback and without
containers. What a container's end takes with it, all processes in it, a kill of their group takes
here. moto keeps objects in memory, so the S3 endpoint does not die: a gate before it does.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import boto3
import httpx
import polars as pl
import psutil
import psycopg
import pytest
import yaml

from benchmarks.servers import Address, MissingProgram, free_port, postgres_data, program_of
from feature_repo import training_set
from flows.stages import PipelineParameters, run_plain
from tests.conftest import lacks
from tests.flows.conftest import ROOT, Notes
from tests.flows.test_object_home import content
from transforms import replica

pytestmark = [pytest.mark.service, pytest.mark.timeout(1800)]

DEPLOY = ROOT / "deploy"
BUCKET, FOLDER = "lake", "team/home"
LOOPBACK = "127.0.0.1"
TOKEN, PASSWORD = "token-of-this-test", "password-of-this-test"
FEATURES = ["author_activity:n_records_lifetime", "author_activity:n_records_7d"]
AUTHORS = [*(f"u{number}" for number in range(5)), "nobody"]
COMMITS = [
    rf"PUT /{BUCKET}/{FOLDER}/{table}/_delta_log/"
    for table in ("raw/records", "staging/records", "features/record_quality")
]
COMMITS += [rf"PUT /{BUCKET}/{FOLDER}/features/{name}_activity/" for name in ("author", "subject")]
PATIENCE = 240.0  # seconds, on a loaded machine


def wait_for(what: str, is_so: Callable[[], Any]) -> Any:
    """Ask until it is so; what is refused or broken off meanwhile is no answer."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if found := is_so():
                return found
        except (OSError, httpx.HTTPError, psycopg.OperationalError):
            pass
        time.sleep(0.1)
    pytest.fail(f"waited in vain until {what}")


class Stop:
    """One request that is stopped at the gate until somebody decides about it."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.passes = re.compile(pattern), True
        self.is_reached, self.is_decided = threading.Event(), threading.Event()

    @contextmanager
    def reached(self, *, passes: bool = True) -> Iterator[None]:
        """Enter the block once it is asked for; let it pass after the block, or break it off."""
        wait_for(f"{self.pattern.pattern} is asked for", self.is_reached.is_set)
        self.passes = passes
        try:
            yield
        finally:
            self.is_decided.set()


class Gate:
    """A proxy before the S3 endpoint that stops requests, each once, or breaks off all."""

    def __init__(self, behind: Address) -> None:
        self.is_down, self.n_refused = False, 0
        self._stops: list[Stop] = []
        gate = self

        class Passing(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if not gate._lets_pass(f"{self.command} {self.path}"):
                    self.close_connection = True
                    return
                there = HTTPConnection(*behind, timeout=60)
                there.request(self.command, self.path, body, dict(self.headers))
                answer = there.getresponse()
                found = answer.read()
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else None
                self.send_header("Content-Length", length or str(len(found)))
                self.end_headers()
                self.wfile.write(found)
                there.close()

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """Say nothing of clients that were killed."""

        self._server = Server((LOOPBACK, 0), Passing)
        self.url = f"http://{LOOPBACK}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self, pattern: str) -> Stop:
        """Have the next request of a kind stopped."""
        self._stops.append(Stop(pattern))
        return self._stops[-1]

    def close(self) -> None:
        for stop in self._stops:
            stop.is_decided.set()
        self._server.shutdown()
        self._server.server_close()

    def _lets_pass(self, request: str) -> bool:
        for stop in self._stops:
            if stop.pattern.search(request) and not stop.is_reached.is_set():
                stop.is_reached.set()
                stop.is_decided.wait()
                return stop.passes
        self.n_refused += self.is_down
        return not self.is_down


class Program:
    """A process with all that it starts, killed together and started again as it was."""

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: Mapping[str, str],
        is_ready: Callable[[], Any],
        user: str | None = None,
    ) -> None:
        self.name, self.command, self.environment = name, command, environment
        self.is_ready, self.user = is_ready, user
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, log: Path) -> None:
        self.log = log
        with log.open("a") as output:
            self._process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                user=self.user,
            )

    def wait(self) -> None:
        def is_up() -> Any:
            if self._process and self._process.poll() is not None:
                pytest.fail(f"{self.name} has ended:\n{self.log.read_text()[-3000:]}")
            return self.is_ready()

        wait_for(f"{self.name} is ready", is_up)

    def kill(self) -> None:
        if self._process:
            started = psutil.Process(self._process.pid)
            for process in [*started.children(recursive=True), started]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.kill()
        self.start(self.log)
        self.wait()


def listens(port: int) -> bool:
    try:
        HTTPConnection(LOOPBACK, port, timeout=5).connect()
    except OSError:
        return False
    return True


class Profile:
    """The services of compose.yaml as processes of this machine."""

    def __init__(self, folder: Path, gate: Gate) -> None:
        self.folder = folder
        self.services = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
        self.ports = {name: free_port() for name in ("postgres", "redis", "prefect", "features")}
        self.health = free_port()
        self.secrets = {
            "POSTGRES_PASSWORD": PASSWORD,
            "REDIS_PASSWORD": PASSWORD,
            "PREFECT_AUTH": f"operator:{PASSWORD}",
            "MILLRACE_SERVER_TOKEN": TOKEN,
            "MILLRACE_HOME": f"s3://{BUCKET}/{FOLDER}",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": gate.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }
        self.api = httpx.Client(
            base_url=f"http://{LOOPBACK}:{self.ports['prefect']}/api",
            auth=("operator", PASSWORD),
            timeout=30,
        )
        self.programs = {name: self._program(name) for name in (*self.ports, "worker")}

    def _program(self, name: str) -> Program:
        words, user = [self._here(word) for word in self.services[name].get("command", [])], None
        if name == "postgres":
            data = self.folder / "postgres"
            user = postgres_data(data, "prefect", self.secrets["POSTGRES_PASSWORD"])
            port = str(self.ports["postgres"])
            words = [program_of("postgres"), "-D", str(data), "-p", port, "-h", LOOPBACK, "-k", ""]
            words += ["-c", "fsync=off"]
        elif name == "redis":
            data = self.folder / "redis"
            words[-1] = words[-1].replace("/tmp/", f"{self.folder}/")  # noqa: S108 - the container's own
            words[-1] += f" --port {self.ports['redis']} --bind {LOOPBACK} --dir {data}"
            data.mkdir()
            program_of("redis-server")
        else:
            words[0] = str(Path(sys.executable).with_name(words[0]))
        return Program(name, words, self.environment(name), lambda: self._is_ready(name), user)

    def environment(self, name: str) -> dict[str, str]:
        """What a service has, and nothing of this process that is a setting."""
        own = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("MILLRACE_", "PREFECT_", "AWS_", "PG"))
        }
        given = {
            key: self._here(str(value))
            for key, value in self.services[name].get("environment", {}).items()
        }
        image = {
            "PREFECT_HOME": str(self.folder / f"prefect-{name}"),
            "MILLRACE_CACHE": str(self.folder / f"cache-{name}"),
            "MILLRACE_FEATURES": "",
            "MILLRACE_FEATURE_STORE": str(DEPLOY / "feature_store.yaml"),
            # what only makes the test quicker
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_WORKER_WEBSERVER_PORT": str(self.health),
            "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
        }
        return {**own, **given, **image}

    def _here(self, text: str) -> str:
        """Put secrets and this machine's addresses into a word of compose.yaml."""
        text = re.sub(r"(?<!\$)\$\{(\w+):\?\}", lambda found: self.secrets[found[1]], text)
        for name, port in (("postgres", 5432), ("redis", 6379), ("prefect", 4200)):
            text = text.replace(f"{name}:{port}", f"{LOOPBACK}:{self.ports[name]}")
        places = {"0.0.0.0": LOOPBACK, "postgres": LOOPBACK, "5432": str(self.ports["postgres"])}  # noqa: S104
        places |= {"4200": str(self.ports["prefect"]), "6566": str(self.ports["features"])}
        return places.get(text, text).replace("$$", "$")

    def _is_ready(self, name: str) -> bool:
        if name in {"postgres", "redis"}:
            return listens(self.ports[name])
        paths = {
            "prefect": f"{self.ports['prefect']}/api/health",
            "worker": f"{self.health}/health",
            "features": f"{self.ports['features']}/health",
        }
        return httpx.get(f"http://{LOOPBACK}:{paths[name]}").status_code == 200

    def create_database(self) -> None:
        """Do what the image of PostgreSQL does with POSTGRES_DB."""
        at = f"host={LOOPBACK} port={self.ports['postgres']} user=prefect password={PASSWORD}"

        def is_created() -> bool:
            with psycopg.connect(f"{at} dbname=postgres", autocommit=True) as connection:
                connection.execute("create database prefect")
            return True

        wait_for("PostgreSQL answers", is_created)

    def start(self, *names: str) -> None:
        for name in names:
            self.programs[name].start(self.folder / f"{name}.log")

    def wait(self, *names: str) -> None:
        for name in names:
            self.programs[name].wait()

    def restart(self, name: str) -> None:
        self.programs[name].restart()

    def deploy(self) -> None:
        """Do what the service `deploy` does, for the deployment of the sample alone."""
        line = self.services["deploy"]["command"][2].replace("--all", "--name cve-events")
        done = subprocess.run(
            ["sh", "-c", line.replace("prefect ", f"{Path(sys.executable).with_name('prefect')} ")],
            cwd=ROOT,
            env=self.environment("deploy"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self.deployment = self.api.get("/deployments/name/pipeline/cve-events").json()["id"]
        self.api.patch(f"/deployments/{self.deployment}", json={"paused": True})  # its schedule

    def request(self, source: Path) -> str:
        """Ask for a run of the deployment; its id."""
        asked = {"parameters": {"parameters": {"source": str(source)}}}
        made = self.api.post(f"/deployments/{self.deployment}/create_flow_run", json=asked)
        return str(made.json()["id"])

    def state(self, run: str) -> str:
        return str(self.api.get(f"/flow_runs/{run}").json()["state"]["name"])

    def ends(self, run: str) -> None:
        """Wait until a run has ended well."""
        ended = {"Completed", "Failed", "Crashed", "Cancelled"}
        wait_for("the run has ended", lambda: self.state(run) in ended)
        assert self.state(run) == "Completed", (self.folder / "worker.log").read_text()[-6000:]

    def crash(self, run: str) -> None:
        """Say that a run's process is no more, as the automation does."""
        state = {"state": {"type": "CRASHED"}}
        assert self.api.post(f"/flow_runs/{run}/set_state", json=state).is_success

    def is_retried(self, task: str) -> bool:
        """Whether a task has failed and is to be tried again."""
        log = (self.folder / "worker.log").read_text()
        return bool(re.search(rf"Task run '{task}[^\n]*Retry 1/2", log))

    def served(self, at: datetime) -> list[dict[str, Any]]:
        """What the feature server says of the authors at an instant."""
        entities = {"author_id": AUTHORS, "event_timestamp": [at.isoformat()] * len(AUTHORS)}
        answer = httpx.post(
            f"http://{LOOPBACK}:{self.ports['features']}/features",
            json={"features": FEATURES, "entities": entities},
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        columns = answer.json()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def trained(home: Path, at: datetime) -> list[dict[str, Any]]:
    """What a training set says of the authors at an instant."""
    spine = pl.DataFrame({"author_id": AUTHORS, "event_timestamp": [at] * len(AUTHORS)})
    return training_set(spine, FEATURES, home).frame.drop("author_id", "event_timestamp").to_dicts()


@pytest.fixture(scope="module")
def gate() -> Iterator[Gate]:
    address = Address(LOOPBACK, free_port())
    command = [sys.executable, "-m", "moto.server", "-H", address.host, "-p", str(address.port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as moto:
        opened = Gate(address)
        try:
            wait_for("moto listens", lambda: listens(address.port))
            keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
            client = boto3.client("s3", endpoint_url=opened.url, region_name="us-east-1", **keys)
            client.create_bucket(Bucket=BUCKET)
            yield opened
        finally:
            opened.close()
            moto.kill()


@pytest.fixture(scope="module")
def profile(gate: Gate) -> Iterator[Profile]:
    with TemporaryDirectory() as folder, ExitStack() as stack:
        Path(folder).chmod(0o755)  # PostgreSQL's user gets into no folder of pytest's
        try:
            made = Profile(Path(folder), gate)
        except MissingProgram as missing:
            lacks(str(missing))
        for each in made.programs.values():
            stack.callback(each.kill)
        made.start("postgres", "redis")
        made.wait("postgres", "redis")
        made.create_database()
        made.start("prefect")
        yield made


def run_while_all_die(profile: Profile, gate: Gate, source: Path) -> None:
    """Ask for two runs at once, and kill a process in the midst of each stage."""
    raw, staging, quality, author, subject = (gate.stop(pattern) for pattern in COMMITS)
    runs = [profile.request(source) for _ in range(2)]
    with raw.reached(passes=False):
        (killed,) = (run for run in runs if profile.state(run) == "Running")
        profile.restart("worker")
        profile.crash(killed)
    (run,) = {*runs} - {killed}
    with staging.reached():
        profile.restart("prefect")
    with quality.reached():
        profile.restart("postgres")
    with author.reached():
        gate.is_down = True
    wait_for("the endpoint has been asked in vain", lambda: gate.n_refused >= 3)
    gate.is_down = False
    with subject.reached():
        profile.programs["redis"].kill()
    wait_for("values are not written", lambda: profile.is_retried("materialize"))
    profile.start("redis")
    profile.ends(run)


def test_whatever_dies_in_mid_run_nothing_is_lost_and_what_is_served_is_what_is_trained(
    profile: Profile, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, disk = Notes(tmp_path / "source"), tmp_path / "home"
    notes.add()
    run_plain(PipelineParameters(source=str(notes.source), home=str(disk)))
    undisturbed = content(disk)
    profile.wait("prefect")
    profile.deploy()
    profile.start("worker")

    run_while_all_die(profile, gate, notes.source)

    home = profile.secrets["MILLRACE_HOME"]
    for name, value in profile.environment("features").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MILLRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(replica, "_replicas", {})
    assert content(home) == undisturbed
    profile.start("features")
    profile.wait("features")
    monkeypatch.delenv("MILLRACE_FEATURE_STORE")  # of the home on disk
    now = datetime.now(UTC)
    assert profile.served(now) == trained(disk, now)

    notes.add()
    run_plain(PipelineParameters(source=str(notes.source), home=str(disk)))
    staging = gate.stop(COMMITS[1])
    run = profile.request(notes.source)
    with staging.reached():
        before = profile.served(now)
        profile.restart("features")
        assert profile.served(now) == before
        profile.programs["redis"].kill()
        shutil.rmtree(profile.folder / "redis")
        (profile.folder / "redis").mkdir()
        profile.start("redis")
    profile.ends(run)
    assert content(home) == content(disk)
    now = datetime.now(UTC)
    assert profile.served(now) == trained(disk, now)
