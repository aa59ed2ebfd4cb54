"""`millrace consume`: take posted records, and keep features fresh on them."""

import ctypes
import json
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from flows.commands import cert_option, check_server, home_option, key_option, source_option

M_ARENA_MAX = -8  # of glibc's malloc.h
FEW_ARENAS = 2


@click.command()
@source_option
@home_option
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=6567, show_default=True)
@click.option(
    "--max-waiting",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    metavar="MB",
    help="Posted megabytes that may wait for their commit; then 429 with Retry-After.",
)
@cert_option
@key_option
def consume(
    source: str,
    home: str | None,
    host: str,
    port: int,
    max_waiting: int,
    cert: str | None,
    key: str | None,
) -> None:
    """Take records as they happen, and serve their features a moment later.

    \b
    Post records over HTTP, one JSON object a line, as a file of the source has them:
      curl -X POST http://127.0.0.1:6567/records -H 'Idempotency-Key: order-17' \\
           --data-binary @records.jsonl

    The answer comes once the rows are in raw and staged, and says what became of them: staged,
    duplicate, or quarantined with the rule that each rejected row breaks. With ?wait=raw it comes
    once they are safe in raw (202), with ?wait=online once their features are online.

    Send the same post with the same key as often as you like: it is loaded once. Without an answer,
    or after 429 or 503, do just that. New files in the source's folder are loaded too, once they
    have stopped changing: move files there whole.

    A source that is a Kafka topic (uri: kafka://HOST:PORT/TOPIC) or a Delta table (format: delta)
    is followed as well. Passwords are in the environment, e.g. MILLRACE_KAFKA_SASL_PASSWORD.

    Records go the way of `millrace run`, which may run beside it and finds them staged once.
    GET /records/KEY says what became of a post, GET /health how far raw is staged and served.

    With MILLRACE_SERVER_TOKEN, or _TOKEN_FILE, every request but /health brings the token, as it
    does for the feature server: -H "Authorization: Bearer $MILLRACE_SERVER_TOKEN"; so does OIDC.
    """
    keep_few_arenas()
    import logging

    import uvicorn

    from feature_repo.guard import tokens_of
    from feature_repo.importing import feast  # noqa: F401 - before any thread begins
    from flows.consumer.app import Consumer, create_app
    from flows.stages import PipelineParameters
    from transforms.sources.source import load_source

    check_server(host, cert, key)
    path = Path(source).resolve()
    consumer = Consumer(
        load_source(path), PipelineParameters(source=str(path), home=home), max_waiting << 20
    )
    logging.basicConfig(format="millrace: %(message)s", level=logging.WARNING, force=True)
    scheme = "https" if cert else "http"
    click.echo(f"{consumer.source.name}: POST {scheme}://{host}:{port}/records")
    uvicorn.run(
        create_app(consumer, tokens_of(consumer.settings.root)),
        host=host,
        port=port,
        ssl_certfile=cert,
        ssl_keyfile=key,
        log_level="warning",
        timeout_graceful_shutdown=60,
    )


def keep_few_arenas() -> None:
    """Have glibc share two arenas of memory among all threads, where it has eight a core.

    What is free in an arena stays with the process: over 25 passes with about a hundred threads
    that grew from 53 to 134 MB, though no more was in use. Other systems have no such setting.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, FEW_ARENAS)


@contextmanager
def consuming(
    source: str,
    home: str | None,
    host: str,
    port: int,
    cert: str | None = None,
    key: str | None = None,
) -> Iterator[None]:
    """Run `millrace consume` beside, in a process of its own, until the end.

    Begins once the first pass is over; if that cannot be, ends the command with its exit code.
    """
    at_home = ["--home", home] if home else []
    tls = ["--cert", cert, "--key", key] if cert and key else []
    options = ["--source", source, *at_home, "--host", host, "--port", str(port), *tls]
    scheme = "https" if cert else "http"
    process = subprocess.Popen([sys.executable, "-m", "flows.cli", "consume", *options])  # noqa: S603
    try:
        while not _is_ready(f"{scheme}://{host}:{port}/health"):
            if process.poll() is not None:
                click.get_current_context().exit(process.returncode)
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait()


def _is_ready(url: str) -> bool:
    """Whether a consumer has run a pass, or is stopped and says so."""
    try:
        # our own address and process, whatever name its certificate has
        unverified = ssl._create_unverified_context()  # noqa: S323, SLF001
        with urllib.request.urlopen(url, timeout=5, context=unverified) as answer:  # noqa: S310
            return bool(json.load(answer)["passes"])
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
