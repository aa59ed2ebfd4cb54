"""Splits are disjoint in time with the embargo between them, or refused where they would leak."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from transforms.errors import QuestionError
from transforms.features import days
from transforms.training.splits import split

START = datetime(2026, 1, 1, tzinfo=UTC)


def rows(hours: list[int], n_entities: int = 5) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "author_id": [f"a{hour % n_entities}" for hour in hours],
            "row": range(len(hours)),
            "event_timestamp": [START + timedelta(hours=hour) for hour in hours],
        },
        {"author_id": pl.String, "row": pl.Int64, "event_timestamp": pl.Datetime("us", "UTC")},
    )


@given(
    st.lists(st.integers(0, 500), min_size=4, max_size=60),
    st.sampled_from([{"train": 0.6, "valid": 0.4}, {"train": 0.5, "valid": 0.2, "test": 0.3}]),
    st.integers(0, 60),
    st.integers(0, 30),
    st.booleans(),
)
def test_splits_are_disjoint_with_the_embargo_between_them(
    hours: list[int], parts: dict[str, float], horizon: int, more: int, is_grouped: Any
) -> None:
    frame, reach = rows(hours), timedelta(hours=horizon)
    embargo = reach + timedelta(hours=more)
    try:
        found = split(
            frame, parts, horizon=reach, embargo=embargo, by="author_id" if is_grouped else None
        )
    except QuestionError:
        assume(False)  # noqa: FBT003 - too few rows for so long an embargo
    times = [found[name]["event_timestamp"] for name in parts]
    for before, after in pairwise(times):
        # every label of the earlier is known before the first instant of the later
        assert before.max() + embargo < after.min() + timedelta(microseconds=1)
        assert before.max() + reach <= after.min()
    taken = [row for part in found.values() for row in part["row"]]
    assert len(set(taken)) == len(taken)
    assert len(taken) + found.n_embargo + found.n_other == len(hours)
    if is_grouped:
        authors = [set(part["author_id"]) for part in found.values()]
        assert len(set.union(*authors)) == sum(map(len, authors))
    else:
        assert found.n_other == 0


def test_shares_are_shares_of_the_rows_and_instants_are_ends() -> None:
    frame = rows(list(range(100)))
    assert [p.height for p in split(frame, {"train": 0.7, "valid": 0.3}).values()] == [70, 30]
    ends = {"train": "2026-01-02", "valid": START + timedelta(days=3), "test": None}
    found = split(frame, ends, embargo=timedelta(hours=4))
    assert {name: part.height for name, part in found.items()} == {
        "train": 24,
        "valid": 44,
        "test": 24,
    }
    assert found.n_embargo == 8
    assert found.spans["valid"] == (START + timedelta(hours=28), START + timedelta(hours=72))


def test_rows_of_an_instant_stay_together() -> None:
    frame = rows([0, 1, 1, 1, 1, 2])
    found = split(frame, {"train": 0.5, "valid": 0.5})
    assert [part["row"].to_list() for part in found.values()] == [[0], [1, 2, 3, 4, 5]]


def test_an_entity_is_in_the_same_split_whatever_the_order_of_rows() -> None:
    frame = rows(list(range(200)), 20)
    first = split(frame, {"train": 0.5, "valid": 0.5}, by=["author_id"])
    again = split(frame.reverse(), {"train": 0.5, "valid": 0.5}, by="author_id")
    for name, part in first.items():
        assert set(part["row"]) == set(again[name]["row"])
        assert 20 < part.height < 80


WRONG = [
    ({"train": 0.5, "valid": 0.5}, {"embargo": days(1)}, "labels reach 2 days"),
    ({"train": 0.8, "valid": 0.3}, {}, "add up to at most 1"),
    ({"train": 0.5, "valid": "2026-01-03"}, {}, "add up to at most 1"),
    ({"train": "2026-01-03", "valid": "2026-01-02"}, {}, "in order of time"),
    ({"train": 0.9, "valid": 0.1}, {}, "valid: has no rows"),
    ({"train": 0.5, "valid": 0.5}, {"by": "autor"}, "by='autor': is no column"),
    ({}, {}, "say train=0.7"),
]


@pytest.mark.parametrize(("parts", "further", "said"), WRONG, ids=[said for *_, said in WRONG])
def test_a_split_that_would_leak_or_be_empty_is_refused(
    parts: dict[str, Any], further: dict[str, Any], said: str
) -> None:
    with pytest.raises(QuestionError) as found:
        split(rows(list(range(100))), parts, horizon=timedelta(days=2), **further)
    assert said in str(found.value)
    assert "\n" not in str(found.value)
