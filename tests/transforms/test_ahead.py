"""Items worked on side by side."""

import threading
from collections.abc import Iterator

import pytest

from transforms.ahead import ahead


def test_items_are_worked_on_side_by_side_and_come_in_order() -> None:
    both = threading.Barrier(2, timeout=10)

    def work(item: int) -> int:
        both.wait()  # breaks where another item is not worked on meanwhile
        return item * 2

    assert list(ahead(work, range(6))) == [0, 2, 4, 6, 8, 10]


def test_no_more_items_are_taken_than_are_worked_on() -> None:
    n_taken = n_used = 0

    def items() -> Iterator[int]:
        nonlocal n_taken
        for item in range(9):
            n_taken += 1
            yield item

    for _ in ahead(str, items()):
        assert n_taken - n_used <= 3
        n_used += 1
    assert n_used == 9


def test_an_error_is_raised_where_its_item_would_have_come() -> None:
    found = ahead(lambda item: 1 // item, [1, 1, 0, 1])
    assert [next(found), next(found)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(found)
