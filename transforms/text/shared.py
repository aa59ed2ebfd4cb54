"""What several views take from the same texts, computed once a batch."""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import polars as pl

Made = TypeVar("Made")


def shared(function: Callable[[pl.Series], Made]) -> Callable[[pl.Series], Made]:
    """Keep what a function made of the last texts, for the next view that is given the same ones.

    Texts are compared by what they say, so a result is never another's. Whoever gets it must not
    change it.

    >>> @shared
    ... def count(text: pl.Series) -> int:
    ...     print("counting")
    ...     return len(text)
    >>> count(pl.Series(["a", "b"])), count(pl.Series(["a", "b"]))
    counting
    (2, 2)
    """
    kept: list[tuple[pl.Series, Made]] = []

    @wraps(function)
    def made_once(text: pl.Series) -> Made:
        last = kept[:]  # another thread may replace it meanwhile
        if last and last[0][0].equals(text):
            return last[0][1]
        made = function(text)
        kept[:] = [(text, made)]
        return made

    return made_once
