"""The engine of one machine: a process a core.

Each is a program on pipes, which runs one task after the other. It ends when its input does, which
is when this process ends, even by `kill -9`.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import IO, cast

from transforms.engines.engine import (
    ONE_CORE,
    TRIES,
    Answer,
    Engine,
    Made,
    Task,
    attempt_given,
    given,
)
from transforms.errors import EngineError

SERVE = "from transforms.engines.processes import serve; serve()"
ENDED = (OSError, EOFError, pickle.UnpicklingError)


def serve() -> None:
    """Run the tasks that come in, until no more can come."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    with answers, suppress(EOFError):
        while True:
            pickled = pickle.load(sys.stdin.buffer)  # noqa: S301 - our own pipe
            pickle.dump(attempt_given(pickled), answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()


class Worker:
    """A process, which is started again if it ends."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, function: Callable[[Task], Made], task: Task) -> Answer[Made]:
        """Run a task there; raises one of `ENDED` if the process ends before it answers."""
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(  # noqa: S603 - this program
                [sys.executable, "-P", "-c", SERVE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={
                    **os.environ,
                    **ONE_CORE,
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                },
            )
        tasks, answers = cast(
            "tuple[IO[bytes], IO[bytes]]", (self.process.stdin, self.process.stdout)
        )
        try:
            pickle.dump(given(function, task), tasks, pickle.HIGHEST_PROTOCOL)
            tasks.flush()
            answer: Answer[Made] = pickle.load(answers)  # noqa: S301 - our own pipe
        except ENDED:
            self.end()
            raise
        return answer

    def end(self) -> None:
        """End the process, whatever it is doing."""
        if self.process:
            self.process.kill()
            self.process.communicate()


class ProcessesEngine(Engine):
    """Processes that start at the first task and stay for the next."""

    def __init__(self, n_workers: int | None = None) -> None:
        """Take the number of processes, by default one a core that this process may use."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.workers = [Worker() for _ in range(n_workers or cores or 1)]
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in self.workers:
            self._idle.put(worker)

    @property
    def n_workers(self) -> int:
        """How many processes there are."""
        return len(self.workers)

    def map(self, function: Callable[[Task], Made], tasks: Sequence[Task]) -> Iterator[Made]:
        """Yield what each task makes, in order.

        >>> engine = ProcessesEngine(2)
        >>> list(engine.map(abs, [-1, 2, -3]))
        [1, 2, 3]
        >>> engine.close()
        """
        with ThreadPoolExecutor(self.n_workers, thread_name_prefix="worker") as threads:
            begun = [threads.submit(self._ask, function, task) for task in tasks]
            try:
                yield from (future.result().get() for future in begun)
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def _ask(self, function: Callable[[Task], Made], task: Task) -> Answer[Made]:
        for _ in range(TRIES):
            worker = self._idle.get()
            try:
                return worker.ask(function, task)
            except ENDED:
                continue
            finally:
                self._idle.put(worker)
        message = (
            f"{TRIES} processes ended before they answered; is there enough memory? "
            "MILLRACE_MEMORY_LIMIT is for each of them"
        )
        raise EngineError(message)

    def close(self) -> None:
        """End all processes."""
        for worker in self.workers:
            worker.end()
