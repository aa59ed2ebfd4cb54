"""`author_tenure` is an expression: its values, and that a registry with another one is stale."""

from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo import store
from feature_repo.definitions import author_activity, author_tenure
from feature_repo.derived import on_demand_view
from transforms.warehouse.tables import Warehouse

INSTANTS = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
COLUMNS = ("author_activity__first_event_timestamp", "event_timestamp")


def by_pandas(frame: pd.DataFrame) -> "pd.Series[float]":
    """The days between two instants as the view computed them before it was an expression."""
    first, instant = (pd.to_datetime(frame[column], utc=True) for column in COLUMNS)
    return (instant - first) / pd.Timedelta(days=1)


def computed(frame: pd.DataFrame) -> "pd.Series[Any]":
    found = author_tenure.feature_transformation.udf(frame)
    assert list(found.columns) == ["days_since_first_record"]
    return found["days_since_first_record"]


@given(st.lists(st.tuples(st.none() | INSTANTS, st.none() | INSTANTS), min_size=1, max_size=50))
@settings(max_examples=40)
def test_tenure_is_to_the_bit_what_pandas_made_of_it(
    rows: list[tuple[datetime | None, datetime | None]],
) -> None:
    frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype("datetime64[us, UTC]")
    pd.testing.assert_series_equal(
        computed(frame), by_pandas(frame), check_exact=True, check_names=False
    )


@pytest.mark.parametrize("n_rows", [0, 10_000])
def test_tenure_of_no_rows_and_of_many(n_rows: int) -> None:
    instants = pd.Series(pd.date_range("2020-01-01T00:00:01", periods=n_rows, freq="7s", tz="UTC"))
    frame = pd.DataFrame(dict.fromkeys(COLUMNS, instants)).assign(
        event_timestamp=pd.Timestamp("2026-01-01", tz="Europe/Berlin")
    )
    pd.testing.assert_series_equal(
        computed(frame), by_pandas(frame), check_exact=True, check_names=False
    )


def test_another_expression_is_another_view_to_the_registry(ann: Warehouse) -> None:
    registered = store(ann.settings.root).get_on_demand_feature_view("author_tenure")
    assert (registered.features, registered.tags) == (author_tenure.features, author_tenure.tags)
    (field,) = author_tenure.features
    source = author_activity[["first_event_timestamp"]]
    features = {field.name: "(epoch_us(event_timestamp) - epoch_us(first_event_timestamp)) / 1e6"}
    other = on_demand_view(
        "author_tenure", [source], features, {field.name: field.dtype}, author_tenure.description
    )
    assert registered.tags["code"] != other.tags["code"]
