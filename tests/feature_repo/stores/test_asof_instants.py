"""A spine's instants in any form give the same features as the same instants in UTC."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore, FeatureView
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.errors import InstantError

WriteView = Callable[..., FeatureView]
MakeStore = Callable[..., FeatureStore]

EVENT = "event_timestamp"
QUARTER = timedelta(minutes=15)
# two days, with the night on which Berlin's clocks go back
START, N_ROWS = (
    datetime(2026, 10, 24, tzinfo=UTC),
    192,
)
OFFSETS = st.integers(-14 * 4, 14 * 4).map(lambda quarters: timezone(quarters * QUARTER))
ZONES = st.one_of(
    OFFSETS,
    st.sampled_from(
        [UTC, *map(ZoneInfo, ("Europe/Berlin", "Asia/Kolkata", "America/St_Johns", "Pacific/Apia"))]
    ),
)
MOMENTS = st.integers(-3600, N_ROWS * 900 + 3600).map(
    lambda seconds: START + timedelta(seconds=seconds)
)


def quarters(zone: str = "UTC") -> pa.Table:
    """A row every quarter of an hour, numbered."""
    times = pa.array(
        [START + number * QUARTER for number in range(N_ROWS)], pa.timestamp("us", "UTC")
    ).cast(pa.timestamp("us", zone))
    return pa.table({"user": [1] * N_ROWS, EVENT: times, "number": range(N_ROWS)})


def number_at(instant: datetime) -> int | None:
    return min((instant - START) // QUARTER, N_ROWS - 1) if instant >= START else None


def asked(store: FeatureStore, spine: Any) -> list[int | None]:
    job = store.get_historical_features(entity_df=spine, features=["quarters:number"])
    numbers: list[int | None] = job.to_polars()["number"].to_list()
    assert job.to_arrow()["number"].to_pylist() == numbers
    return numbers


@pytest.fixture(params=["", "1"])
def store(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    write_view: WriteView,
    make_store: MakeStore,
) -> FeatureStore:
    """The rows in a store, in a process where Arrow keeps offsets or drops them."""
    made = make_store(write_view("quarters", quarters()))
    monkeypatch.setenv("PYARROW_IGNORE_TIMEZONE", request.param)
    return made


# --- forms ---
def zone_of(zone: tzinfo) -> str:
    """A zone as Arrow names it."""
    if isinstance(zone, ZoneInfo):
        return zone.key
    sign = datetime.now(zone).strftime("%z")
    return f"{sign[:3]}:{sign[3:]}"


def of_arrow(times: Sequence[datetime], zone: tzinfo, unit: str) -> pa.Table:
    in_utc = pa.array([time.astimezone(UTC) for time in times], pa.timestamp("us", "UTC"))
    return pa.table(
        {"user": [1] * len(times), EVENT: in_utc.cast(pa.timestamp(unit, zone_of(zone)))}
    )


def of_text(times: Sequence[datetime]) -> pa.Table:
    return pa.table({"user": [1] * len(times), EVENT: [time.isoformat() for time in times]})


def of_objects(times: Sequence[Any]) -> pd.DataFrame:
    return pd.DataFrame({"user": 1, EVENT: pd.Series(times, dtype=object)})


def of_path(spine: pa.Table, path: Path) -> Path:
    pq.write_table(spine, path)
    return path


def of_sql(times: Sequence[datetime], cast: str) -> str:
    written = ", ".join(f"('{time.isoformat()}')" for time in times)
    return (
        f"select 1 as user, moment{cast} as event_timestamp "
        f"from (values {written}) as written(moment)"
    )


FORMS: dict[str, Callable[[list[datetime], tzinfo, str, Path], Any]] = {
    "arrow": lambda times, zone, unit, _: of_arrow(times, zone, unit),
    "arrow text": lambda times, _zone, _unit, _: of_text(times),
    "arrow, naive": lambda times, _zone, unit, _: of_arrow(times, UTC, unit).cast(
        pa.schema([("user", pa.int64()), (EVENT, pa.timestamp(unit))])
    ),
    "pandas": lambda times, zone, unit, _: of_arrow(times, zone, unit).to_pandas(),
    "pandas objects": lambda times, _zone, _unit, _: of_objects(times),
    "pandas objects, mixed": lambda times, _zone, _unit, _: of_objects(
        [*times[:-1], times[-1].isoformat()]
    ),
    "pandas text": lambda times, _zone, _unit, _: of_text(times).to_pandas(),
    "polars": lambda times, _zone, unit, _: pl.DataFrame(of_arrow(times, UTC, unit)).with_columns(
        pl.col(EVENT).dt.convert_time_zone("Asia/Tokyo")
    ),
    "polars, lazy": lambda times, _zone, unit, _: pl.LazyFrame(of_arrow(times, UTC, unit)),
    "polars text": lambda times, _zone, _unit, _: pl.DataFrame(of_text(times)),
    "parquet": lambda times, zone, unit, path: of_path(of_arrow(times, zone, unit), path),
    "parquet text": lambda times, _zone, _unit, path: of_path(of_text(times), path),
    "sql": lambda times, _zone, _unit, _: of_sql(times, "::timestamptz"),
    "sql text": lambda times, _zone, _unit, _: of_sql(times, ""),
}


@settings(max_examples=50)
@given(
    moments=st.lists(MOMENTS, min_size=1, max_size=8),
    zone=ZONES,
    unit=st.sampled_from(["s", "ms", "us", "ns"]),
    form=st.sampled_from(sorted(FORMS)),
)
def test_any_spine_of_any_zone_gets_what_it_gets_in_utc(
    store: FeatureStore, tmp_path: Path, moments: list[datetime], zone: tzinfo, unit: str, form: str
) -> None:
    times = [moment.astimezone(zone) for moment in moments]
    assert asked(store, FORMS[form](times, zone, unit, tmp_path / "spine.parquet")) == [
        number_at(moment) for moment in moments
    ]


@pytest.mark.parametrize("wall", [datetime(2026, 10, 25, 2, 30), datetime(2026, 3, 29, 2, 30)])  # noqa: DTZ001
def test_hours_that_are_there_twice_or_not_at_all_are_as_python_has_them(
    store: FeatureStore, wall: datetime
) -> None:
    times = [wall.replace(tzinfo=ZoneInfo("Europe/Berlin"), fold=fold) for fold in (0, 1)]
    expected = [number_at(time.astimezone(UTC)) for time in times]
    assert asked(store, of_objects(times)) == expected
    assert (
        asked(
            store,
            of_text([time.astimezone(timezone(time.utcoffset() or timedelta())) for time in times]),
        )
        == expected
    )


@pytest.mark.parametrize(
    "spine",
    [of_objects([date(2026, 10, 25)]), "select 1 as user, date '2026-10-25' as event_timestamp"],
)
def test_a_date_is_its_midnight_in_utc(store: FeatureStore, spine: Any) -> None:
    assert asked(store, spine) == [96]


NUMBERS = pa.table({"user": [1], EVENT: [1768125600]})


@pytest.mark.parametrize(
    "spine",
    [
        NUMBERS,
        NUMBERS.to_pandas(),
        pl.DataFrame(NUMBERS),
        pl.LazyFrame(NUMBERS),
        "select 1 as user, 1768125600 as event_timestamp",
    ],
)
def test_a_number_is_no_instant(store: FeatureStore, spine: Any) -> None:
    with pytest.raises(
        InstantError,
        match=(
            r"^column 'event_timestamp' is int\d+: a number, which does not say its unit; "
            r"give a time"
        ),
    ):
        asked(store, spine)


@pytest.mark.parametrize(
    "text", ["01/02/2026", "1768125600", "2026-10-25T10:00 IST", "2026-10-25T10:00+25:00"]
)
def test_text_that_can_be_read_in_two_ways_is_refused_before_anything_is_joined(
    store: FeatureStore, tmp_path: Path, text: str
) -> None:
    spine = pa.table({"user": [1, 1], EVENT: ["2026-10-25", text]})
    for form in (
        spine,
        spine.to_pandas(),
        pl.DataFrame(spine),
        of_path(spine, tmp_path / "spine.parquet"),
    ):
        with pytest.raises(
            InstantError,
            match=(
                r"^column 'event_timestamp', row 2: no instant in ISO 8601; write "
                r"2026-01-02T10:00:00Z"
            ),
        ):
            store.get_historical_features(entity_df=form, features=["quarters:number"])


@pytest.mark.parametrize("layout", ["file", "folder"])
def test_a_source_whose_times_have_an_offset_for_a_zone_is_read(
    write_view: WriteView, make_store: MakeStore, layout: str
) -> None:
    """Polars knows no zone `+05:30`."""
    store = make_store(write_view("quarters", quarters("+05:30"), layout=layout))
    moments = [START + timedelta(minutes=minutes) for minutes in (-1, 0, 14, 15, 1000)]
    assert asked(store, of_text(moments)) == [number_at(moment) for moment in moments]


def test_other_times_of_a_spine_keep_their_instants(store: FeatureStore) -> None:
    at = START.astimezone(timezone(timedelta(hours=5, minutes=30)))
    spine = of_objects([at]).assign(seen=pd.Series([at], dtype=object), all_seen=[[at, None]])
    job = store.get_historical_features(entity_df=spine, features=["quarters:number"])
    seen = job.to_arrow().select(["seen"]).cast(pa.schema([("seen", pa.timestamp("us", "UTC"))]))
    assert seen.to_pylist() == [{"seen": at}]
    assert job.to_polars()["all_seen"].cast(pl.List(pl.Datetime("us", "UTC"))).to_list() == [
        [at, None]
    ]


def test_a_span_without_a_spine_is_of_instants(
    write_view: WriteView, make_store: MakeStore
) -> None:
    store = make_store(write_view("quarters", quarters()))
    start, end = (
        moment.astimezone(ZoneInfo("Asia/Kolkata"))
        for moment in (START, START + timedelta(hours=1))
    )
    found = store.get_historical_features(
        features=["quarters:number"], start_date=start, end_date=end
    ).to_polars()
    assert found["number"].to_list() == [4]
