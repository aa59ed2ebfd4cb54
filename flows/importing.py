"""Imports Prefect without changing the process's loggers; import this before Prefect.

Prefect hangs its console on the root logger as it is imported. `show_runs` does so where a run of
ours is to be shown.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy

SECONDS_TO_END = 10


@contextmanager
def _loggers_kept() -> Iterator[None]:
    known = [
        logging.root,
        *(
            logger
            for logger in logging.root.manager.loggerDict.values()
            if isinstance(logger, logging.Logger)
        ),
    ]
    names = ("handlers", "filters", "propagate", "disabled")
    before = [
        (logger, logger.level, {name: copy(getattr(logger, name)) for name in names})
        for logger in known
    ]
    try:
        yield
    finally:
        for logger, level, attributes in before:
            logger.setLevel(level)
            vars(logger).update(attributes)


with _loggers_kept():
    import prefect.main  # noqa: F401
    from prefect._internal.concurrency.threads import get_global_loop, get_run_sync_loop
    from prefect.events.worker import EventsWorker
    from prefect.logging.configuration import setup_logging


def show_runs() -> None:
    """Have Prefect show on the console what a run logs."""
    setup_logging(incremental=False)


def end_threads() -> None:
    """End the threads that Prefect leaves running after a flow, once they have sent their events.

    They would outlive the interpreter, and with them whatever the flow refers to: DuckDB then
    prints a page of leaked objects.
    """
    EventsWorker.drain_all(at_exit=False)
    for loop in (get_run_sync_loop(), get_global_loop()):
        loop.shutdown()
        loop.thread.join(SECONDS_TO_END)
