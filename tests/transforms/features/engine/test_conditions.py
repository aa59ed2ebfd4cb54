"""Groups with a condition: if no version meets it, no more is read, and the values are the same."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.features import Count, GroupBy, Last, Max, days, lifetime
from transforms.features.build import compute_views
from transforms.features.engine import group_by
from transforms.features.engine.group_by import GroupView
from transforms.features.entities import author
from transforms.features.testing import stage
from transforms.home import Settings
from transforms.schemas.staging import StagedRecord
from transforms.warehouse.publishing import publish
from transforms.warehouse.tables import Warehouse

START = datetime(2024, 5, 1, tzinfo=UTC)
AGGREGATES = [Count("n_records"), Last("label")]
VERSIONS = st.fixed_dictionaries(
    {
        "record_id": st.sampled_from(["a", "b"]),
        "author_id": st.sampled_from(["ada", "ben"]),
        "source": st.sampled_from(["tickets", "reviews", "chats"]),
        "is_tombstone": st.sampled_from([False, False, True]),
    }
)


def groups() -> list[GroupView]:
    """A group of all records, and groups of one source's records."""
    of = {
        None: "all_records",
        "source = 'tickets'": "of_tickets",
        "source = 'reviews'": "of_reviews",
    }
    return [
        GroupView(GroupBy(name, author, AGGREGATES, [days(1), lifetime], where=where), {})
        for where, name in of.items()
    ]


def arrive(warehouse: Warehouse, given: list[Mapping[str, Any]]) -> None:
    """Stage versions."""
    frame = stage(given).to_arrow().cast(StagedRecord.arrow_schema())
    publish(warehouse, StagedRecord, frame.to_batches(), {})


def rows(loads: list[list[Mapping[str, Any]]], home: Path) -> dict[str, list[Any]]:
    """The rows of the groups' tables after loads, one run each."""
    warehouse = Warehouse(Settings(home=home))
    for number, load in enumerate(loads):
        arrive(warehouse, load)
        compute_views(groups(), warehouse, START + timedelta(days=30, hours=number))
    tables = {
        group.name: pl.read_delta(str(warehouse.folder(group.relation))) for group in groups()
    }
    return {
        name: table.sort("author_id", "event_timestamp", "created_timestamp").rows()
        for name, table in tables.items()
    }


@settings(max_examples=8)
@given(loads=st.lists(st.lists(VERSIONS, min_size=1, max_size=2), min_size=1, max_size=3))
def test_a_group_whose_condition_none_fulfils_has_the_rows_of_one_that_reads_all(
    loads: list[list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    hour = iter(range(99))
    dated = [
        [row | {"event_timestamp": START + timedelta(hours=next(hour))} for row in load]
        for load in loads
    ]
    quick = rows(dated, tmp_path_factory.mktemp("quick"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group_by, "counts_any", lambda *_: True)
        assert rows(dated, tmp_path_factory.mktemp("whole")) == quick


def test_nothing_is_computed_of_records_that_cannot_count(warehouse: Warehouse) -> None:
    number = Max("text::bigint", "number")  # which no text of the other source is
    view = GroupView(
        GroupBy("numbers", author, [number], [lifetime], where="source = 'meters'"), {}
    )
    arrive(warehouse, [{"event_timestamp": START, "text": "no number", "source": "tickets"}])
    assert compute_views([view], warehouse, START)["numbers"].new == 0
    arrive(
        warehouse, [{"event_timestamp": START, "record_id": "m", "text": "5", "source": "meters"}]
    )
    assert compute_views([view], warehouse, START)["numbers"].new == 1
    assert pl.read_delta(str(warehouse.folder(view.relation)))["number_lifetime"].to_list() == [5]


def test_a_condition_that_another_group_has_of_an_aggregate_is_asked_of_every_record(
    warehouse: Warehouse,
) -> None:
    of_tickets = [Count("n_records"), Count("n_positive", where="is_positive")]
    groups = [
        GroupBy("of_tickets", author, of_tickets, [lifetime], where="source = 'tickets'"),
        GroupBy("of_positive", author, [Count("n_records")], [lifetime], where="is_positive"),
    ]
    of = [("tickets", "ada", False), ("reviews", "ben", True)]
    arrive(
        warehouse,
        [
            {
                "record_id": source,
                "author_id": author_id,
                "source": source,
                "is_positive": is_positive,
                "event_timestamp": START,
            }
            for source, author_id, is_positive in of
        ],
    )
    views = [GroupView(group, {}) for group in groups]
    compute_views(views, warehouse, START)
    read = [pl.read_delta(str(warehouse.folder(view.relation))) for view in views]
    assert [frame["author_id"].to_list() for frame in read] == [["ada"], ["ben"]]
