"""Private servers for benchmarks and tests: real programs on free loopback ports.

Each is a context manager that gives the address; `MissingProgram` says which program is not
installed.
"""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 180
REDIS_DATABASES = 1_024
POSTGRES_PROGRAMS = Path(
    "/usr/lib/postgresql"
)  # Debian keeps initdb and postgres off the search path


class MissingProgram(Exception):  # noqa: N818
    """A server's program is not installed on this machine."""


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int


@contextmanager
def redis_server() -> Iterator[Address]:
    """Start an empty Redis that keeps nothing on disk, with `REDIS_DATABASES` databases."""
    program = program_of("redis-server")
    address = Address("127.0.0.1", free_port())
    with tempfile.TemporaryDirectory() as folder:
        command = [
            program,
            "--port",
            str(address.port),
            "--bind",
            address.host,
            "--databases",
            str(REDIS_DATABASES),
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            folder,
        ]
        with running(command, lambda: _listens(address)):
            yield address


@contextmanager
def postgres_server() -> Iterator[Address]:
    """Start an empty PostgreSQL with the database and superuser `postgres`, without a password."""
    address = Address("127.0.0.1", free_port())
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        data = Path(folder, "data")
        user = postgres_data(data)
        command = [
            program_of("postgres"),
            "-D",
            str(data),
            "-h",
            address.host,
            "-p",
            str(address.port),
            "-k",
            str(data),
            "-c",
            "fsync=off",
        ]
        with running(command, lambda: _listens(address) and _answers(address), user=user):
            yield address


def postgres_data(data: Path, owner: str = "postgres", password: str | None = None) -> str | None:
    """Make an empty PostgreSQL's folder; the user that it has to run as, if not this one.

    Its superuser needs the password, if there is one.
    """
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    data.mkdir()
    secret = data.with_name("password")
    secret.write_text(f"{password or ''}\n", "utf-8")
    if user:
        shutil.chown(data, user)
        shutil.chown(secret, user)
    create = [program_of("initdb"), "--pgdata", str(data), "--username", owner]
    create += (
        ["--auth", "scram-sha-256", "--pwfile", str(secret)] if password else ["--auth", "trust"]
    )
    create += ["--encoding", "UTF8", "--no-sync"]
    subprocess.run(create, check=True, stdout=subprocess.DEVNULL, user=user, cwd=data.parent)
    secret.unlink()
    return user


@contextmanager
def s3_server() -> Iterator[Address]:
    """Start an S3 endpoint (moto's server) with no bucket."""
    address = Address("127.0.0.1", free_port())
    command = [sys.executable, "-m", "moto.server", "-H", address.host, "-p", str(address.port)]
    with running(command, lambda: _listens(address)):
        yield address


class Cluster(NamedTuple):
    """A scheduler and its workers: the address, what clients have in their environment, and more.

    `executors` lists the ids of the processes that run tasks now.
    """

    address: str
    environment: dict[str, str]
    executors: Callable[[], list[int]]


@contextmanager
def spark_cluster(n_workers: int = 2) -> Iterator[Cluster]:
    """Start a standalone Spark master and workers of one core each."""
    found = importlib.util.find_spec("pyspark")
    if found is None or found.origin is None or not shutil.which("java"):
        message = "Spark is missing: pip install 'millrace[spark]', and Java 17"
        raise MissingProgram(message)
    home, address, pages = Path(found.origin).parent, Address("127.0.0.1", free_port()), free_port()
    url, deploy = f"spark://{address.host}:{address.port}", "org.apache.spark.deploy"
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        settings = {
            "spark.ui.enabled": "false",
            "spark.driver.host": address.host,
            "spark.executor.memory": "512m",
        }
        lines = "".join(f"{name} {value}\n" for name, value in settings.items())
        Path(folder, "spark-defaults.conf").write_text(lines, "utf-8")
        environment = {
            "SPARK_HOME": str(home),
            "SPARK_CONF_DIR": folder,
            "SPARK_LOCAL_IP": address.host,
            "PYTHONPATH": str(ROOT),
        }

        def start(*arguments: str, until: Callable[[], bool]) -> int:
            command = [home / "bin" / "spark-class", *arguments]
            return stack.enter_context(running(command, until, env=environment))

        ports = ("-p", str(address.port), "--webui-port", str(pages))
        start(
            f"{deploy}.master.Master", "-h", address.host, *ports, until=lambda: _listens(address)
        )
        workers = []
        for number in range(n_workers):
            own = Address(address.host, free_port())
            places = (
                "-p",
                str(own.port),
                "--webui-port",
                str(free_port()),
                "-d",
                f"{folder}/{number}",
            )
            size = ("-h", own.host, "-c", "1", "-m", "1g")
            workers.append(
                start(
                    f"{deploy}.worker.Worker",
                    *size,
                    *places,
                    url,
                    until=lambda own=own: _listens(own),
                )
            )
        yield Cluster(url, environment, lambda: _children(workers))


@contextmanager
def dask_cluster(n_workers: int = 2) -> Iterator[Cluster]:
    """Start a Dask scheduler and workers of one thread each."""
    try:
        from distributed import Client
    except ModuleNotFoundError:
        message = "Dask is not installed: pip install distributed"
        raise MissingProgram(message) from None
    address = Address("127.0.0.1", free_port())
    url = f"tcp://{address.host}:{address.port}"
    environment = {"PYTHONPATH": str(ROOT), "POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:

        def start(program: str, *arguments: str, until: Callable[[], bool]) -> int:
            command = [sys.executable, "-m", f"distributed.cli.dask_{program}", *arguments]
            return stack.enter_context(
                running([*command, "--no-dashboard"], until, env=environment)
            )

        place = ("--host", address.host, "--port", str(address.port))
        start("scheduler", *place, until=lambda: _listens(address))
        size = ("--nthreads", "1", "--nworkers", "1", "--local-directory", folder)
        workers = [start("worker", url, *size, until=lambda: True) for _ in range(n_workers)]
        with Client(url, set_as_default=False) as client:
            client.wait_for_workers(n_workers, timeout=START_SECONDS)
        yield Cluster(url, {}, lambda: _children(workers))


def _children(processes: Sequence[int]) -> list[int]:
    """List the programs that some processes have started and that run.

    What the scripts that start Spark leave behind stays a zombie until the worker ends.
    """
    found = subprocess.run(
        ["ps", "-o", "pid=,stat=,args=", "--ppid", ",".join(map(str, processes))],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (line.split(maxsplit=2) for line in found.stdout.splitlines())
    return [
        int(number)
        for number, state, program in lines
        if not state.startswith("Z") and "resource_tracker" not in program
    ]


@contextmanager
def running(
    command: Sequence[str | Path],
    is_ready: Callable[[], bool] = lambda: True,
    user: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """Run a program until the end of the block, once it is ready; give its process id."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        user=user,
        cwd="/",
        env={**os.environ, **(env or {})},
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                message = f"{command[0]} did not start (exit code {process.poll()})"
                raise RuntimeError(message)
            time.sleep(0.05)
        yield process.pid
    finally:
        process.send_signal(signal.SIGINT)  # PostgreSQL would wait for its clients at SIGTERM
        process.wait(timeout=START_SECONDS)


def program_of(name: str) -> str:
    """Find a server's program; raises `MissingProgram` if it is not installed."""
    found = shutil.which(name) or next(
        map(str, sorted(POSTGRES_PROGRAMS.glob(f"*/bin/{name}"), reverse=True)), None
    )
    if not found:
        message = f"{name} is not installed: apt-get install redis-server postgresql"
        raise MissingProgram(message)
    return found


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _listens(address: Address) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(address) == 0


def _answers(address: Address) -> bool:
    import psycopg

    try:
        psycopg.connect(
            host=address.host,
            port=address.port,
            user="postgres",
            dbname="postgres",
            connect_timeout=1,
        ).close()
    except psycopg.OperationalError:
        return False
    return True
