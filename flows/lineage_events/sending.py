"""Sends events beside a run, by OpenLineage's own client and configuration.

A thread of its own sends them in order. A run never waits for it but at its end, and no longer
than `SECONDS_AT_THE_END`: what could not be sent by then is lost, which a warning says.
"""

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Any

SECONDS_AT_THE_END = 5.0
FILES = (Path("openlineage.yml"), Path("~/.openlineage/openlineage.yml"))
THREAD = "millrace-openlineage"
logger = logging.getLogger(__name__)


def is_configured() -> bool:
    """Whether OpenLineage's client is configured: by a variable or a file, and not disabled.

    `OPENLINEAGE_URL`, `OPENLINEAGE_CONFIG`, variables that begin with `OPENLINEAGE__TRANSPORT`, or
    an `openlineage.yml` in this folder or in `~/.openlineage`.
    """
    if os.environ.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true":
        return False
    named = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG")
    return (
        any(map(os.environ.get, named))
        or any(name.startswith("OPENLINEAGE__TRANSPORT") for name in os.environ)
        or any(path.expanduser().is_file() for path in FILES)
    )


def open_sender() -> "Sender | None":
    """Start to send; None if nothing is configured, or with a warning if the client cannot be made.

    No run fails for its events.
    """
    if not is_configured():
        return None
    if find_spec("openlineage") is None:
        reason = "its client is not installed: pip install 'millrace[openlineage]'"
    else:
        try:
            return Sender(_client())
        except Exception as error:  # noqa: BLE001 - whatever the configuration leads to
            reason = f"its configuration cannot be used ({type(error).__name__}: {error})"
    logger.warning("OpenLineage is configured, but %s; no events are sent", reason)
    return None


def _client() -> Any:
    """Make the client, without the variables that it adds to this process's environment."""
    from openlineage.client import OpenLineageClient

    before = set(os.environ)
    try:
        return OpenLineageClient()
    finally:
        for name in set(os.environ) - before:
            del os.environ[name]


class Sender:
    """Sends events in a thread, in order; what fails is counted, and never raised."""

    def __init__(self, client: Any) -> None:
        """Take OpenLineage's client."""
        self._client = client
        self._events: SimpleQueue[Any] = SimpleQueue()
        self._is_late = threading.Event()
        self._n_put = self._n_sent = 0
        self._trouble = "no answer yet"
        self._thread = threading.Thread(target=self._send_on, name=THREAD, daemon=True)
        _hush_retries()
        self._thread.start()

    def put(self, make: Callable[[], Any]) -> None:
        """Let an event be made here, now, and sent later."""
        self._n_put += 1
        try:
            event = make()
        except Exception as error:  # noqa: BLE001 - no event is worth a run
            self._trouble = type(error).__name__
        else:
            self._events.put(event)

    def close(self) -> None:
        """Wait until all is sent, but not for long; warn of what is lost."""
        self._events.put(None)
        self._thread.join(SECONDS_AT_THE_END)
        self._is_late.set()
        if lost := self._n_put - self._n_sent:
            logger.warning(
                "OpenLineage: %s of %s events were not sent (%s); the run itself is not affected",
                lost,
                self._n_put,
                self._trouble,
            )

    def _send_on(self) -> None:
        while (event := self._events.get()) is not None and not self._is_late.is_set():
            try:
                self._client.emit(event)
                self._n_sent += 1
            except Exception as error:  # noqa: BLE001 - each transport has errors of its own
                self._trouble = type(error).__name__
        with suppress(Exception):
            self._client.close(SECONDS_AT_THE_END)


def _hush_retries() -> None:
    """Keep the client's retries out of the log, each of which would be a line of its own."""
    connections = logging.getLogger("urllib3.connectionpool")
    if _is_no_retry not in connections.filters:
        connections.addFilter(_is_no_retry)


def _is_no_retry(record: logging.LogRecord) -> bool:
    return record.threadName != THREAD
