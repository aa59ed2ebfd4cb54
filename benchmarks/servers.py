"""Private servers for benchmarks and tests: real programs on free loopback ports.

Each is a context manager that gives the address; `MissingProgram` says which program is not
installed.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

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
    program = _program("redis-server")
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
    initdb, postgres = _program("initdb"), _program("postgres")
    address = Address("127.0.0.1", free_port())
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        data = Path(folder, "data")
        data.mkdir()
        if user:
            shutil.chown(data, user)
        create = [
            initdb,
            "--pgdata",
            str(data),
            "--username",
            "postgres",
            "--auth",
            "trust",
            "--encoding",
            "UTF8",
            "--no-sync",
        ]
        subprocess.run(create, check=True, stdout=subprocess.DEVNULL, user=user, cwd=folder)
        command = [
            postgres,
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


@contextmanager
def s3_server() -> Iterator[Address]:
    """Start an S3 endpoint (moto's server) with no bucket."""
    address = Address("127.0.0.1", free_port())
    command = [sys.executable, "-m", "moto.server", "-H", address.host, "-p", str(address.port)]
    with running(command, lambda: _listens(address)):
        yield address


@contextmanager
def running(
    command: Sequence[str | Path], is_ready: Callable[[], bool], user: str | None = None
) -> Iterator[None]:
    """Run a program until the end of the block, once it is ready."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=user, cwd="/"
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                message = f"{command[0]} did not start (exit code {process.poll()})"
                raise RuntimeError(message)
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(signal.SIGINT)  # PostgreSQL would wait for its clients at SIGTERM
        process.wait(timeout=START_SECONDS)


def _program(name: str) -> str:
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
