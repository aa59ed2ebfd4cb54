"""What is posted and not in raw yet: a bounded queue, and the thread that commits what waits."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from transforms.errors import MillraceError
from transforms.sources.posts import Intake, Post, Taken

# commits a second are bounded, since each leaves a file and a log entry in raw
SECONDS_OF_A_COMMIT = 0.2
BYTES_OF_A_COMMIT = 32 << 20
logger = logging.getLogger(__name__)


class BusyError(MillraceError):
    """No more may wait now; try again in `seconds`."""

    def __init__(self, seconds: int) -> None:
        """Take the seconds after which there may be room."""
        super().__init__(f"too much is waiting already; post again in {seconds} s, same key")
        self.seconds = seconds


class _Waiting(NamedTuple):
    post: Post
    taken: Future[Taken]


class Queue:
    """Posts that wait for the next commit, up to a number of bytes in all.

    >>> from transforms.sources.posts import read_post
    >>> queue = Queue(max_bytes=20)
    >>> _ = queue.offer(read_post("a", b'{"id": 1}'))
    >>> queue.offer(read_post("b", b'{"id": "much longer"}'))
    Traceback (most recent call last):
    flows.consumer.intake.BusyError: too much is waiting already; post again in 1 s, same key
    >>> [waiting.post.key for waiting in queue.take()]
    ['a']
    """

    def __init__(self, max_bytes: int) -> None:
        """Take the bytes that may wait; one post alone may always, if nothing else waits."""
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self.seconds_of_the_last = 0.0

    def offer(self, post: Post) -> Future[Taken]:
        """Let a post wait; raises `BusyError` if there is no room, or no more is taken."""
        n_bytes = post.payloads.nbytes
        with self._changed:
            if self._is_closed or (self._n_bytes and self._n_bytes + n_bytes > self._max_bytes):
                raise BusyError(1 + int(self.seconds_of_the_last))
            self._n_bytes += n_bytes
            waiting = _Waiting(post, Future())
            self._waiting.append(waiting)
            self._changed.notify()
            return waiting.taken

    def take(self) -> list[_Waiting]:
        """Wait for posts and take what one commit may have of them; none once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            group: list[_Waiting] = []
            n_bytes = 0
            while self._waiting and (not group or n_bytes < BYTES_OF_A_COMMIT):
                group.append(self._waiting.popleft())
                n_bytes += group[-1].post.payloads.nbytes
            return group

    def done(self, group: list[_Waiting]) -> None:
        """Make room: these posts are committed, or have failed."""
        with self._changed:
            self._n_bytes -= sum(waiting.post.payloads.nbytes for waiting in group)

    def close(self) -> None:
        """Take no more; what waits is still committed."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()


class Committer(threading.Thread):
    """Commits what waits, in one commit for all of it, and tells each who waits."""

    def __init__(self, queue: Queue, intake: Intake, arrived: Callable[[], None]) -> None:
        """Take the queue, what commits, and what to call after each try."""
        super().__init__(name="millrace-intake")
        self._queue, self._intake, self._arrived = queue, intake, arrived

    def run(self) -> None:
        """Commit until the queue is closed and empty."""
        while group := self._queue.take():
            start = time.monotonic()
            self._commit(group)
            self._arrived()  # after a failure too: a run finishes what a killed one left
            self._queue.done(group)
            self._queue.seconds_of_the_last = time.monotonic() - start
            time.sleep(max(0.0, SECONDS_OF_A_COMMIT - self._queue.seconds_of_the_last))
        self._intake.close()

    def _commit(self, group: list[_Waiting]) -> None:
        try:
            all_taken = self._intake.take([waiting.post for waiting in group])
        except Exception as error:  # noqa: BLE001 - each sender is told, and sends again
            logger.error("posts were not taken: %s", _in_a_line(error))  # noqa: TRY400 - no text
            for waiting in group:
                waiting.taken.set_exception(error)
            return
        for waiting, taken in zip(group, all_taken, strict=True):
            waiting.taken.set_result(taken)


def _in_a_line(error: Exception) -> str:
    """Describe an error; a library's own message may contain a value, so only its type is named."""
    return str(error) if isinstance(error, MillraceError) else type(error).__name__
