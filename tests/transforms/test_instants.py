"""Instants as people write them: read in one way, or refused."""

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors import InstantError
from transforms.instants import in_utc, instants_in, instants_of, parse_instant

BERLIN, KATHMANDU, LORD_HOWE = map(
    ZoneInfo, ("Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe")
)
OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
ZONES = st.one_of(
    OFFSETS, st.sampled_from([UTC, BERLIN, KATHMANDU, LORD_HOWE, ZoneInfo("America/St_Johns")])
)
WALLS = st.datetimes(datetime(1900, 1, 2), datetime(2261, 12, 30))  # noqa: DTZ001 - the range of nanoseconds
# the hours that exist twice, or not at all
CHANGES = st.sampled_from(
    [datetime(2026, 10, 25, 2, 30), datetime(2026, 3, 29, 2, 30), datetime(2026, 4, 5, 1, 45)]  # noqa: DTZ001
)
FOLDS = st.integers(0, 1)


@pytest.fixture(params=[None, "1"])
def _ignoring(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the user's process makes Arrow drop offsets, as importing Pandera does."""
    if request.param:
        monkeypatch.setenv("PYARROW_IGNORE_TIMEZONE", request.param)


def zoned(wall: datetime, zone: tzinfo, fold: int) -> datetime:
    return wall.replace(tzinfo=zone, fold=fold)


@pytest.mark.usefixtures("_ignoring")
@given(wall=WALLS | CHANGES, zone=ZONES, fold=FOLDS)
def test_a_time_with_a_zone_is_the_instant_that_it_names(
    wall: datetime, zone: tzinfo, fold: int
) -> None:
    given_time = zoned(wall, zone, fold)
    instant = given_time.astimezone(UTC)
    same = [
        given_time,
        instant,
        wall_of(instant),
        instant.isoformat(),
        in_utc(given_time),
        np.datetime64(wall_of(instant)),
    ]
    assert instants_of(same, "at").to_pylist() == [instant] * len(same)
    assert instants_of([pd.Timestamp(instant).tz_convert(zone)], "at").to_pylist() == [instant]


def wall_of(instant: datetime) -> datetime:
    return instant.replace(tzinfo=None)


@given(
    wall=WALLS,
    zone=OFFSETS,
    separator=st.sampled_from("Tt "),
    ends=st.sampled_from(["{0}:{1}", "{0}{1}"]),
    digits=st.integers(1, 9),
)
def test_text_in_iso_8601_is_the_instant_that_it_names(
    wall: datetime, zone: tzinfo, separator: str, ends: str, digits: int
) -> None:
    sign = wall.replace(tzinfo=zone).strftime("%z")
    offset = sign[0] + ends.format(sign[1:3], sign[3:5])
    fraction = f"{wall.microsecond:06}000"[:digits]
    text = f"{wall:%Y-%m-%d}{separator}{wall:%H:%M:%S}.{fraction}{offset}"
    assert parse_instant(text) == wall.replace(
        tzinfo=zone, microsecond=int(fraction[:6].ljust(6, "0"))
    )
    assert parse_instant(f"{wall:%Y%m%dT%H%M%S}{offset}") == wall.replace(
        tzinfo=zone, microsecond=0
    )


@given(wall=WALLS, zone=ZONES, unit=st.sampled_from(["s", "ms", "us", "ns"]))
def test_an_arrow_column_is_the_same_instants_in_utc(
    wall: datetime, zone: tzinfo, unit: str
) -> None:
    instant = wall.replace(tzinfo=UTC, microsecond=0)
    name = zone.key if isinstance(zone, ZoneInfo) else datetime.now(zone).strftime("%z")
    name = name if isinstance(zone, ZoneInfo) else f"{name[:3]}:{name[3:5]}"
    column = pa.chunked_array([pa.array([wall.replace(microsecond=0), None])]).cast(
        pa.timestamp(unit, name)
    )
    found = instants_in(column, "at")
    assert found.type == pa.timestamp(unit, "UTC")
    assert found.cast(pa.timestamp("us", "UTC")).to_pylist() == [instant, None]


def test_a_time_without_a_zone_is_utc_and_a_date_its_midnight() -> None:
    midnight, wall = datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 2)  # noqa: DTZ001
    assert (
        instants_of(
            [wall.date(), wall, "2026-01-02", np.datetime64("2026-01-02")], "at"
        ).to_pylist()
        == [midnight] * 4
    )
    for kind in (pa.date32(), pa.date64()):
        assert instants_in(pa.chunked_array([pa.array([wall.date()], kind)]), "at").to_pylist() == [
            midnight
        ]


def test_what_is_missing_stays_so() -> None:
    missing = [None, float("nan"), pd.NaT, pd.NA, np.datetime64("NaT")]
    assert instants_of(missing, "at").null_count == len(missing)
    assert instants_in(pa.chunked_array([pa.nulls(2)]), "at").null_count == 2


def test_nanoseconds_are_rounded_down() -> None:
    below = datetime(2026, 1, 2, 10, 0, 0, 123456, tzinfo=UTC)
    for value in (
        "2026-01-02T10:00:00.123456999Z",
        pd.Timestamp("2026-01-02T10:00:00.123456999Z"),
        np.datetime64("2026-01-02T10:00:00.123456999"),
    ):
        assert instants_of([value], "at").to_pylist() == [below]


REFUSED = [
    1768125600,
    1768125600.5,
    np.int64(5),
    Decimal(5),
    True,
    "1768125600",
    "1768125600123",
    "20260102",
    "2026-01",
    "01/02/2026",
    "2026/01/02",
    "noon",
]
REFUSED += [
    "2026-02-30",
    "2026-01-02T24:00:00Z",
    "2026-01-02T10:00:60Z",
    "2026-01-02T10:00+25:00",
    "2026-01-02T10:00 IST",
    "",
    b"2026-01-02",
    [1],
]


@pytest.mark.parametrize("value", REFUSED)
def test_what_can_be_read_in_more_than_one_way_is_refused(value: Any) -> None:
    with pytest.raises(
        InstantError, match=r"^column 'at', row 2: .*2026-01-02T10:00:00Z"
    ) as refused:
        instants_of([None, value], "at")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "kind", [pa.int64(), pa.float64(), pa.decimal128(5), pa.binary(), pa.bool_(), pa.time64("us")]
)
def test_a_column_of_another_type_is_refused(kind: pa.DataType) -> None:
    with pytest.raises(InstantError, match=r"^column 'at' is .*2026-01-02T10:00:00Z"):
        instants_in(pa.chunked_array([pa.array([None], kind)]), "at")


@pytest.mark.usefixtures("_ignoring")
def test_times_in_lists_and_dictionaries_are_given_in_utc() -> None:
    at = datetime(2026, 1, 2, 15, tzinfo=timezone(timedelta(hours=5)))
    found = in_utc({"key": "k", "times": [at, (at, None)]})
    assert pa.array([found["times"][0]]).cast(pa.timestamp("us", "UTC")).to_pylist() == [at]
    assert found == {"key": "k", "times": [at, [at, None]]}
