"""Work on the next items while what was made of the last one is used."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

AT_ONCE = 2


def ahead(work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """Yield what `work` makes of each item, in order, of `AT_ONCE` items side by side.

    Items are taken in the thread that asks, one when one is done, so no more are in memory.

    >>> list(ahead(str.upper, ["a", "b", "c"]))
    ['A', 'B', 'C']
    """
    begun: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for item in items:
            if len(begun) == AT_ONCE:
                yield begun.popleft().result()
            begun.append(threads.submit(work, item))
        while begun:
            yield begun.popleft().result()
