"""Processes that name languages: pycld2 does not release the GIL, so threads would only wait.

Each runs `transforms.text.identify` as a program on pipes. Unlike a `multiprocessing` pool, none
imports the main module again: a script needs no guard, and a Prefect engine is not loaded twice.
Each ends by itself when its input does, which is when this process ends, even by `kill -9`. They
start at first use and stay for the next batch.
"""

import atexit
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import chain
from queue import SimpleQueue
from typing import IO, cast

from transforms.errors import MillraceError
from transforms.text import identify
from transforms.text.identify import Answers

N_TEXTS_A_MESSAGE = 5_000


class WorkerEndedError(MillraceError):
    """A process that names languages ended before it answered: killed, or out of memory."""


class Worker:
    """One process, which answers one list of texts at a time."""

    def __init__(self) -> None:
        # -P keeps the program's folder, which has modules of many names, off its path
        self._process = subprocess.Popen(  # noqa: S603 - this program
            [sys.executable, "-P", identify.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.process_id = self._process.pid
        self._input, self._output = (
            cast("IO[bytes]", self._process.stdin),
            cast("IO[bytes]", self._process.stdout),
        )

    def ask(self, texts: list[str]) -> Answers:
        """Name each text's language; raises `OSError` or `EOFError` if the process has ended."""
        pickle.dump(texts, self._input, pickle.HIGHEST_PROTOCOL)
        self._input.flush()
        return Answers(*pickle.load(self._output))  # noqa: S301 - our own pipe

    def end(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.communicate()


class Pool:
    """Workers, each with a thread that waits for it; any thread may ask."""

    def __init__(self, n_workers: int) -> None:
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        self.workers = [Worker() for _ in range(n_workers)]
        for worker in self.workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(n_workers, thread_name_prefix="language")

    def begin(self, texts: list[str]) -> Iterator[Answers]:
        """Begin to name each text's language; the iterator waits for answers, some at a time."""
        return self._threads.map(
            self._ask,
            (
                texts[start : start + N_TEXTS_A_MESSAGE]
                for start in range(0, len(texts), N_TEXTS_A_MESSAGE)
            ),
        )

    def _ask(self, texts: list[str]) -> Answers:
        worker = self._idle.get()
        try:
            return worker.ask(texts)
        finally:
            self._idle.put(worker)

    def end(self) -> None:
        """End all workers."""
        for worker in self.workers:
            worker.end()


def begin_in_pool(texts: list[str], n_workers: int) -> Callable[[], Answers]:
    """Begin to name each text's language in workers, and return what waits for the answers.

    It raises `WorkerEndedError` if a worker ended; the next call starts new workers.
    """
    pool = _pool(os.getpid(), n_workers)
    begun = pool.begin(texts)

    def wait() -> Answers:
        try:
            columns = zip(Answers([], [], []), *begun, strict=True)
            return Answers(*(list(chain.from_iterable(parts)) for parts in columns))
        except (OSError, EOFError, pickle.UnpicklingError):
            _pool.cache_clear()
            pool.end()
            message = (
                "a process that names languages ended early; is there enough memory? Run again."
            )
            raise WorkerEndedError(message) from None

    return wait


@cache
def _pool(_process_id: int, n_workers: int) -> Pool:
    """Start the pool of this process, once; a forked child has another id and starts its own."""
    pool = Pool(n_workers)
    atexit.register(pool.end)
    return pool
