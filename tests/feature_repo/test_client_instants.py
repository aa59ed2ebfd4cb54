"""No time zone and no import lets a future value into training or serving."""

import json
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from feature_repo import online_features, store, training_set
from feature_repo.online import materialize
from flows.cli import main
from flows.stages import BackfillParameters
from transforms.errors import InstantError
from transforms.warehouse.tables import Warehouse, silent

COUNT, TENURE = "author_activity:n_records_7d", "author_tenure:days_since_first_record"
FIRST, SECOND = (datetime(2026, 1, day, 10, tzinfo=UTC) for day in (1, 2))  # of ann's records
DAY = timedelta(days=1)
LATER = datetime(2026, 2, 11, 10, tzinfo=UTC)  # after the run that filled the online store
OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
ZONES = st.one_of(
    OFFSETS,
    st.sampled_from([UTC, *map(ZoneInfo, ("Europe/Berlin", "Asia/Kolkata", "America/St_Johns"))]),
)


@pytest.fixture(scope="module")
def served(ann: Warehouse) -> Warehouse:
    """Ann's home with its online store filled."""
    materialize(ann, datetime(2026, 2, 1, tzinfo=UTC), silent)
    return ann


@pytest.fixture(params=["", "1"])
def _ignoring(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the user's process makes Arrow drop offsets, as importing Pandera does."""
    monkeypatch.setenv("PYARROW_IGNORE_TIMEZONE", request.param)


def tenures(warehouse: Warehouse, *instants: Any) -> list[float | None]:
    """Days since ann's first record, as served at instants."""
    rows = [{"author_id": "ann", "event_timestamp": instant} for instant in instants]
    answered = online_features([TENURE], rows, warehouse.settings.root)
    assert answered.height == len(rows)
    return answered["author_tenure__days_since_first_record"].to_list()


TWICE = """
import json, sys
from datetime import datetime, timedelta, timezone
import pyarrow as pa
from feature_repo import online_features, training_set

home, zone = sys.argv[1], timezone(timedelta(hours=5))
at = datetime(2026, 1, 2, 14, 30, tzinfo=zone)
spine = lambda: pa.table({"author_id": ["ann"], "event_timestamp": [at]})
names = ["author_activity:n_records_7d"]
counts = [training_set(spine(), names, home).frame.item(0, 2) for _ in range(2)]
row = {"author_id": "ann", "event_timestamp": datetime(2026, 2, 11, 10, tzinfo=zone)}
served = online_features(["author_tenure:days_since_first_record"], [row], home).item(0, 2)
print("\\n" + json.dumps([*counts, served]))
"""


def test_a_spine_made_after_the_first_call_sees_no_more_than_one_made_before(
    served: Warehouse,
) -> None:
    """Half an hour before the second record was known; five hours after it by the wall clock."""
    command = [sys.executable, "-W", "ignore", "-c", TWICE, str(served.settings.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [1, 1, pytest.approx(40 + 19 / 24)]


@pytest.mark.usefixtures("_ignoring")
@settings(max_examples=50)
@given(
    seconds=st.lists(st.integers(-5 * 86_400, 30 * 86_400), min_size=1, max_size=5),
    zone=ZONES,
    form=st.sampled_from(["python", "naive", "pandas", "numpy", "text"]),
)
def test_what_is_served_at_an_instant_is_the_same_in_any_zone(
    served: Warehouse, seconds: list[int], zone: tzinfo, form: str
) -> None:
    moments = [LATER + timedelta(seconds=number) for number in seconds]
    forms = {
        "python": [moment.astimezone(zone) for moment in moments],
        "naive": [moment.replace(tzinfo=None) for moment in moments],
        "pandas": [pd.Timestamp(moment).tz_convert(zone) for moment in moments],
        "numpy": [pd.Timestamp(moment).tz_localize(None).to_datetime64() for moment in moments],
        "text": [moment.astimezone(zone).isoformat() for moment in moments],
    }
    assert tenures(served, *forms[form]) == [(moment - FIRST) / DAY for moment in moments]


@pytest.mark.usefixtures("_ignoring")
def test_hours_that_are_there_twice_or_not_at_all_are_served_as_python_has_them(
    served: Warehouse,
) -> None:
    walls = [datetime(2026, 10, 25, 2, 30), datetime(2026, 3, 29, 2, 30)]  # noqa: DTZ001
    times = [
        wall.replace(tzinfo=ZoneInfo("Europe/Berlin"), fold=fold)
        for wall in walls
        for fold in (0, 1)
    ]
    assert tenures(served, *times) == [(time.astimezone(UTC) - FIRST) / DAY for time in times]


def test_a_date_is_served_at_its_midnight_and_nothing_where_there_is_no_instant(
    served: Warehouse,
) -> None:
    assert tenures(served, date(2026, 2, 11), None) == [40 + 14 / 24, None]


@pytest.mark.parametrize(
    "instant", [1768125600, 1768125600.0, "1768125600", "01/11/2026", "2026-01-11T10:00 IST"]
)
def test_what_is_no_instant_is_not_served(served: Warehouse, instant: Any) -> None:
    with pytest.raises(
        InstantError, match=r"^column 'event_timestamp', row 2: .*2026-01-02T10:00:00Z"
    ) as refused:
        tenures(served, None, instant)
    assert "\n" not in str(refused.value)


def test_plain_feast_serves_the_instant_that_is_named(served: Warehouse) -> None:
    def ask(instant: Any) -> Any:
        rows = [{"author_id": "ann", "event_timestamp": instant}]
        return (
            store(served.settings.root)
            .get_online_features([TENURE], rows)
            .to_dict()["days_since_first_record"]
        )

    at = datetime(2026, 2, 11, 15, tzinfo=timezone(timedelta(hours=5)))
    assert [ask(at), ask(at.isoformat()), ask(datetime(2026, 2, 11, 10))] == [[41.0]] * 3  # noqa: DTZ001
    with pytest.raises(ValueError, match=r"^column 'event_timestamp', row 1: a number"):
        ask(1768125600)


# --- training ---
# half an hour before the second record
AT = datetime(2026, 1, 2, 14, 30, tzinfo=timezone(timedelta(hours=5)))
IN_INDIA = AT.astimezone(timezone(timedelta(hours=5, minutes=30)))
ARROW = pa.table(
    {
        "author_id": ["ann"],
        "event_timestamp": pa.array([AT.astimezone(UTC)], pa.timestamp("us", "UTC")),
    }
)
SPINES: dict[str, Any] = {
    "arrow": ARROW.set_column(1, "event_timestamp", ARROW[1].cast(pa.timestamp("us", "+05:30"))),
    "arrow text": pa.table({"author_id": ["ann"], "event_timestamp": [AT.isoformat()]}),
    "pandas": pd.DataFrame({"author_id": ["ann"], "event_timestamp": [IN_INDIA]}),
    "pandas objects": pd.DataFrame(
        {"author_id": ["ann", "bob"], "event_timestamp": pd.Series([AT, IN_INDIA], dtype=object)}
    ),
    "polars": pl.DataFrame({"author_id": ["ann"], "event_timestamp": [IN_INDIA]}),
    "polars, lazy": pl.LazyFrame(ARROW),
    "sql": f"select 'ann' as author_id, '{AT.isoformat()}'::timestamptz as event_timestamp",
    "sql, nanoseconds": (
        "select 'ann' as author_id, '2026-01-02 09:59:59.999999999'::timestamp_ns as "
        "event_timestamp"
    ),
    "sql text": f"select 'ann' as author_id, '{IN_INDIA.isoformat()}' as event_timestamp",
}


@pytest.mark.usefixtures("_ignoring")
@pytest.mark.parametrize("form", SPINES)
def test_no_training_set_sees_a_record_before_it_was_known(served: Warehouse, form: str) -> None:
    made = training_set(SPINES[form], [COUNT, TENURE], served.settings.root).frame
    assert made["author_activity__n_records_7d"][0] == 1
    days = 23.99 / 24 if form == "sql, nanoseconds" else 23.5 / 24
    assert made["author_tenure__days_since_first_record"][0] == pytest.approx(days, abs=1e-3)


# --- the command line, and the parameters of a deployment ---
@pytest.mark.parametrize("start", [AT, AT.isoformat(), "2026-01-02T09:30"])
def test_a_backfill_begins_at_the_instant_that_is_named(start: Any) -> None:
    assert BackfillParameters(start=start).span().start == AT.astimezone(UTC)


@pytest.mark.parametrize("start", [1768125600, "1768125600", "01/02/2026"])
def test_a_backfill_refuses_what_can_be_read_in_two_ways(start: Any) -> None:
    with pytest.raises(ValidationError, match="2026-01-02T10:00:00Z"):
        BackfillParameters(start=start)


@pytest.mark.parametrize(
    "at",
    ["2026-01-02T14:30:00+05:00", "2026-01-02T09:30:00Z", "2026-01-02 09:30", "20260102T093000Z"],
)
def test_trace_takes_the_instant_that_is_named(ann: Warehouse, at: str) -> None:
    command = ["trace", "--home", str(ann.settings.root), "--feature", f"{COUNT}:ann", "--at", at]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert "ann at 2026-01-02 09:30" in done.output


@pytest.mark.parametrize(
    "option",
    [
        ["trace", "--feature", f"{COUNT}:ann", "--at"],
        ["backfill", "--dry-run", "--from"],
        ["backfill", "--dry-run", "--to"],
    ],
)
@pytest.mark.parametrize(
    "instant", ["1768125600", "1768125600123", "01/02/2026", "2026-01-02T10:00+25:00"]
)
def test_commands_refuse_what_can_be_read_in_two_ways(
    ann: Warehouse, option: list[str], instant: str
) -> None:
    done = CliRunner().invoke(main, [*option, instant, "--home", str(ann.settings.root)])
    assert done.exit_code == 2
    assert "2026-01-02T10:00:00Z" in done.output.splitlines()[-1]
