"""Each aggregate of spans equals a plain count over spans, and DuckDB's own where it has one."""

import doctest
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.features.engine import intervals
from transforms.features.engine.intervals import (
    distinct,
    greatest,
    greatest_k,
    most_frequent,
    quantile,
    rows_of,
    running_sum,
)

FEW = st.integers(0, 3)  # equal ones are frequent
KEYS = FEW | st.integers(0, 40) | st.integers(0, 2**31 - 1)
QUANTILES = st.sampled_from([0.0, 0.05, 0.1, 1 / 3, 0.5, 0.55, 0.9, 0.99, 1.0]) | st.floats(0, 1)
INT64 = st.integers(-(2**63), 2**63 - 1)


class Spans(NamedTuple):
    """Spans over the rows of some entities, each with a number of its own."""

    starts: intervals.Ints
    ends: intervals.Ints
    n: int
    numbers: intervals.Ints

    def covering(self) -> list[list[int]]:
        """Of each row, the numbers of the spans that cover it."""
        spans = list(
            zip(*(each.tolist() for each in (self.starts, self.ends, self.numbers)), strict=True)
        )
        return [
            [number for start, end, number in spans if start <= row < end] for row in range(self.n)
        ]


@st.composite
def spans(draw: st.DrawFn, numbers: st.SearchStrategy[int] = KEYS) -> Spans:
    """Draw entities of 1 to 40 rows, or none, and spans that stay within the rows of one."""
    sizes = draw(st.lists(st.integers(1, 6) | st.integers(1, 40), max_size=4))
    edges = [sum(sizes[:at]) for at in range(len(sizes) + 1)]
    drawn = []
    for _ in range(draw(st.integers(0, 25)) if sizes else 0):
        entity = draw(st.integers(0, len(sizes) - 1))
        start = draw(st.integers(edges[entity], edges[entity + 1] - 1))
        drawn.append((start, draw(st.integers(start + 1, edges[entity + 1])), draw(numbers)))
    return Spans(
        *np.array(drawn, np.int64).reshape(-1, 3).T[:2],
        edges[-1],
        np.array([number for *_, number in drawn], np.int64),
    )


def padded(numbers: list[int], k: int) -> list[int]:
    return (numbers + [-1] * k)[:k]


@pytest.fixture(scope="module")
def duck() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def in_duckdb(
    duck: duckdb.DuckDBPyConnection, case: Spans, aggregate: str, **parameters: float
) -> list[int]:
    """Answer with an aggregate of the numbers of the spans that cover each row, -1 for null."""
    duck.register(
        "spans", pl.DataFrame({"starts": case.starts, "ends": case.ends, "number": case.numbers})
    )
    sql = f"""
        select coalesce({aggregate}, -1) as answer
        from range($n) as numbered (row_number)
        left join spans on row_number >= starts and row_number < ends
        group by row_number order by row_number
    """
    return [answer for (answer,) in duck.execute(sql, {"n": case.n, **parameters}).fetchall()]


def test_the_examples_in_the_docstrings_run() -> None:
    failed, tried = doctest.testmod(intervals)
    assert failed == 0
    assert tried >= 7


@given(spans(st.integers(-5, 5) | st.integers(-(2**57), 2**57)))
def test_running_sum_adds_up_exactly(case: Spans) -> None:
    assert running_sum(*case).tolist() == [sum(numbers) for numbers in case.covering()]


@pytest.mark.parametrize(
    "weights", [[2**62], [-(2**63)], [2**61, 2**61], [2**59] * 8, [-(2**60)] * 4]
)
def test_running_sum_refuses_a_sum_that_passes_the_range(weights: list[int]) -> None:
    of_each = np.arange(len(weights))
    with pytest.raises(OverflowError, match=r"2\*\*62"):
        running_sum(
            of_each, np.full(len(weights), len(weights)), len(weights), np.array(weights, np.int64)
        )


def test_running_sum_adds_up_apart_what_would_be_too_large_together() -> None:
    weights = np.array([2**61] * 9 + [-(2**61)], np.int64)
    assert running_sum(np.arange(10), np.arange(10) + 1, 10, weights).tolist() == weights.tolist()


def test_running_sum_takes_the_largest_weight_in_range() -> None:
    assert running_sum(np.array([0]), np.array([1]), 2, np.array([2**62 - 2**10])).tolist() == [
        2**62 - 2**10,
        0,
    ]


@given(spans())
def test_greatest_is_the_maximum_of_what_covers_a_row(case: Spans) -> None:
    assert greatest(*case).tolist() == [max(numbers, default=-1) for numbers in case.covering()]


@given(spans(), st.integers(1, 6))
def test_greatest_k_are_the_first_distinct_keys_in_descending_order(case: Spans, k: int) -> None:
    expected = [padded(sorted(set(numbers), reverse=True), k) for numbers in case.covering()]
    assert greatest_k(*case, k).tolist() == expected


@given(spans())
def test_distinct_counts_each_value_once(case: Spans) -> None:
    assert distinct(*case).tolist() == [len(set(numbers)) for numbers in case.covering()]


@given(spans(FEW | KEYS), st.integers(1, 5))
def test_most_frequent_orders_by_count_then_by_value(case: Spans, k: int) -> None:
    expected = [
        padded(sorted(count, key=lambda value: (-count[value], value)), k)
        for count in map(Counter, case.covering())
    ]
    assert most_frequent(*case, k).tolist() == expected


@given(case=spans(), q=QUANTILES)
def test_quantile_and_distinct_equal_duckdb(
    duck: duckdb.DuckDBPyConnection, case: Spans, q: float
) -> None:
    assert quantile(*case, q).tolist() == in_duckdb(
        duck, case, "quantile_disc(number, cast($q as double))", q=q
    )
    assert distinct(*case).tolist() == in_duckdb(duck, case, "count(distinct number)")


@pytest.mark.parametrize(
    "q", [0.0, 0.01, np.nextafter(0.01, 1), 0.29, 1 / 3, 0.5, 0.55, 0.57, 0.9, 0.999, 1.0]
)
def test_quantile_takes_the_place_that_duckdb_takes_among_one_to_400(
    duck: duckdb.DuckDBPyConnection, q: float
) -> None:
    """0.55 of 100 is 55.00000000000001 as a DOUBLE, so that the 56th of 100 is taken."""
    each = np.arange(400)
    case = Spans(each, np.full(400, 400), 400, each)
    assert quantile(*case, q).tolist() == in_duckdb(
        duck, case, "quantile_disc(number, cast($q as double))", q=q
    )


@pytest.mark.parametrize("key", [-1, 2**31])
@pytest.mark.parametrize(
    "aggregate",
    [
        greatest,
        distinct,
        lambda *case: greatest_k(*case, 2),
        lambda *case: most_frequent(*case, 2),
        lambda *case: quantile(*case, 0.5),
    ],
)
def test_keys_that_are_no_ranks_are_refused(
    aggregate: Callable[..., intervals.Ints], key: int
) -> None:
    with pytest.raises(ValueError, match="rank them"):
        aggregate(np.array([0]), np.array([1]), 1, np.array([key]))


@given(
    st.lists(st.tuples(FEW, FEW))
    | st.lists(st.tuples(FEW, INT64))
    | st.lists(st.tuples(INT64, FEW))
    | st.lists(st.tuples(INT64 | FEW, INT64 | FEW)),
)
def test_rows_of_numbers_pairs_in_their_order(pairs: list[tuple[int, int]]) -> None:
    entities, instants = np.array(pairs, np.int64).reshape(-1, 2).T.copy()
    row_of_each, position = rows_of(entities, instants)
    rows = sorted(set(pairs))
    assert [rows[row] for row in row_of_each] == pairs
    assert [pairs[at] for at in position] == rows


@pytest.fixture(scope="module")
def one_entity() -> Spans:
    """A million spans of one entity, of any length, with their order of start as number."""
    m = 1_000_000
    drawn = np.random.default_rng(13)
    starts = np.sort(drawn.integers(0, 10**9, m))
    instants = np.concatenate([starts, starts + drawn.integers(1, 10**9, m)])
    row_of_each, position = rows_of(np.zeros(2 * m, np.int64), instants)
    return Spans(row_of_each[:m], row_of_each[m:], len(position), np.arange(m))


def within(
    mebibytes: int, aggregate: Callable[..., intervals.Ints], *arguments: object
) -> intervals.Ints:
    """Return an aggregate's result; its memory beyond the arguments must stay within a bound."""
    tracemalloc.start()
    try:
        answer = aggregate(*arguments)
        assert tracemalloc.get_traced_memory()[1] < mebibytes * 2**20
    finally:
        tracemalloc.stop()
    return answer


def test_a_million_spans_of_one_entity_stay_within_memory(one_entity: Spans) -> None:
    """Two million rows are 15 MiB a column; keys are distinct, so aggregates check each other."""
    starts, ends, n, numbers = one_entity
    count = within(40, running_sum, starts, ends, n, np.ones_like(numbers))
    last = within(64, greatest, *one_entity)
    last_5 = within(200, greatest_k, *one_entity, 5)
    assert np.array_equal(within(80, distinct, *one_entity), count)
    assert np.array_equal(last_5[:, 0], last)
    assert np.array_equal((last_5 >= 0).sum(axis=1), np.minimum(count, 5))
    assert np.array_equal(last >= 0, count > 0)
