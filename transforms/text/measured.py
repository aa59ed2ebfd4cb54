"""What a kernel is given and returns: the key of its records beside what it measured of them."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Protocol

import polars as pl
import pyarrow as pa

KEY = ["record_id", "event_timestamp", "created_timestamp"]
# below it a query is quicker without Polars' threads, which are slower to begin than to compute
FEW_TEXTS = 256


class Kernel(Protocol):
    """What makes the features of records."""

    def __call__(self, records: pl.LazyFrame) -> pl.LazyFrame:
        """Make them."""


def of_frame(kernel: Callable[[pl.DataFrame], pl.DataFrame]) -> Kernel:
    """Make a kernel of one that needs its records as a frame.

    Records are collected here, for Polars within a Polars callback may wait for a thread that it
    occupies itself. `__wrapped__` is the kernel for those who have a frame: to make a plan of it
    and to collect that took as long as measuring a text.

    >>> count = of_frame(lambda records: records.with_columns(n=pl.col("text").str.len_chars()))
    >>> count(pl.LazyFrame({"text": ["Hi"]})).collect()["n"].item()
    2
    """

    @wraps(kernel)
    def of_plan(records: pl.LazyFrame) -> pl.LazyFrame:
        return kernel(records.collect()).lazy()

    return of_plan


def beside_key(records: pl.DataFrame, measured: pl.DataFrame) -> pl.DataFrame:
    """Put measures beside the key of their records, null where there is no text.

    >>> records = pl.DataFrame({"record_id": ["a", "b"], "text": ["Hi", None]})
    >>> records = records.with_columns(event_timestamp=0, created_timestamp=0)
    >>> beside_key(records, pl.DataFrame({"n": [2, 0]}))["n"].to_list()
    [2, None]
    """
    if records["text"].null_count():
        is_there = pl.lit(records["text"].is_not_null())
        measured = measured.select(pl.when(is_there).then(pl.all()))
    return records[KEY].hstack(measured)


def columns(arrays: Mapping[str, Any]) -> pl.DataFrame:
    """Make a frame of arrays, by way of Arrow, which takes a third of the time for few rows.

    >>> columns({"n": [1, 2]})["n"].to_list()
    [1, 2]
    """
    found = [pa.array(array) for array in arrays.values()]
    return pl.DataFrame(pa.RecordBatch.from_arrays(found, list(arrays)))


def select(frame: pl.DataFrame, measures: list[pl.Expr]) -> pl.DataFrame:
    """Select measures, side by side unless there are few texts.

    >>> select(pl.DataFrame({"n": [1]}), [pl.col("n") + 1])["n"].item()
    2
    """
    return frame.select_seq(measures) if frame.height < FEW_TEXTS else frame.select(measures)
