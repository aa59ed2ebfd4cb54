"""Times as text: docs/sources.md lists every form that is read; others are refused by a rule."""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.sources.times import time_rule_sql, time_sql

PAGE = (
    (Path(__file__).parents[3] / "docs" / "sources.md").read_text("utf-8").partition("## Times")[2]
)
# | `2026-01-15T10:00:00Z` | 2026-01-15 10:00:00 | ...
ACCEPTED_ROW = re.compile(
    r"^\| `(?P<text>[^`]+)` \| (?P<instant>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) \|",
    re.MULTILINE,
)
REFUSED_ROW = re.compile(r"^\| `(?P<text>[^`]+)` \| `(?P<rule>[a-z_]+)` \|", re.MULTILINE)
OFFSETS = st.integers(-12 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
INSTANTS = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=OFFSETS)  # noqa: DTZ001 - the zone is drawn
DAYS = st.sampled_from(["%Y-%m-%d", "%Y%m%d", "%Y-%j", "%Y%j", "%G-W%V-%u", "%GW%V%u", "%Y/%m/%d"])
CLOCKS = st.sampled_from(["T%H:%M:%S.%f", " %H:%M:%S,%f", "t%H%M%S.%f", "T%H%M%S,%f"])
RULES = {"epoch_without_unit", "not_a_time", "ambiguous_time_zone", "impossible_offset"}
AMBIGUOUS = ["IST", "CST", "EST", "cet", "BST", "PST8PDT", "Japan", "GMT+5", "UTC-02:00"]
IMPOSSIBLE = [
    "+25:00",
    "+14:01",
    "-12:30",
    "+02:60",
    "+99",
    "+5:30",
    "+02:00:30",
    "-13:00[Pacific/Apia]",
]
NO_CLOCKS = [
    "10:00 PM",
    "10:00 a.m.",
    "25:00",
    "10:60",
    "100",
    "10:00:60",
    "24:00:01",
    "10.5",
    "10:00 Mars/Phobos",
]
NO_DAYS = [
    "2026-02-30",
    "2026-366",
    "2025-W53-1",
    "2026-W00-1",
    "2026-W01-8",
    "20261315",
    "2026015",
    "26-01-15",
    "300000-01-01",
    "9999-12-31",
]
NO_TIMES = [
    "",
    " ",
    "epoch",
    "infinity",
    "-infinity",
    "now",
    "2000-01-01 (BC)",
    "2026-01-15T",
    "2026-01-15Z",
]


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        opened.execute("set timezone = 'UTC'")
        yield opened


def read(connection: duckdb.DuckDBPyConnection, texts: Sequence[str]) -> list[datetime | str]:
    """Read texts: of each the instant, or the rule it breaks."""
    sql = (
        f"select {time_sql('given')}, {time_rule_sql('given')} "
        "from (select unnest($texts::varchar[]) as given)"
    )
    rows = connection.execute(sql, {"texts": list(texts)}).fetchall()
    return [rule if instant is None else instant.astimezone(UTC) for instant, rule in rows]


ACCEPTED = ACCEPTED_ROW.findall(PAGE)
REFUSED = REFUSED_ROW.findall(PAGE)


def test_the_page_lists_forms() -> None:
    assert len(ACCEPTED) > 20
    assert {rule for _, rule in REFUSED} == RULES


def test_a_listed_form_is_read_as_the_page_says(connection: duckdb.DuckDBPyConnection) -> None:
    found = dict(zip(ACCEPTED, read(connection, [text for text, _ in ACCEPTED]), strict=True))
    assert found == {row: datetime.fromisoformat(row[1]).replace(tzinfo=UTC) for row in ACCEPTED}


def test_a_listed_text_is_refused_under_its_rule(connection: duckdb.DuckDBPyConnection) -> None:
    assert (
        list(
            zip(
                (text for text, _ in REFUSED),
                read(connection, [text for text, _ in REFUSED]),
                strict=True,
            )
        )
        == REFUSED
    )


@pytest.mark.parametrize(
    ("rule", "texts"),
    [
        ("ambiguous_time_zone", [f"2026-01-15 10:00:00 {zone}" for zone in AMBIGUOUS]),
        ("impossible_offset", [f"2026-01-15T10:00{zone}" for zone in IMPOSSIBLE]),
        ("not_a_time", [f"2026-01-15 {clock}" for clock in NO_CLOCKS]),
        ("not_a_time", NO_DAYS),
        ("not_a_time", NO_TIMES),
        (
            "epoch_without_unit",
            [
                "1767261600",
                "1767261600.5",
                " 1767261600000",
                "1767261600000000",
                "1767261600000000000",
                "-100000000",
            ],
        ),
    ],
)
def test_what_is_no_time_is_refused_under_its_rule(
    connection: duckdb.DuckDBPyConnection, rule: str, texts: list[str]
) -> None:
    assert dict(zip(texts, read(connection, texts), strict=True)) == dict.fromkeys(texts, rule)


@settings(max_examples=40)
@given(st.lists(st.tuples(INSTANTS, DAYS, CLOCKS, st.sampled_from(["%z", " %z"])), max_size=20))
def test_an_instant_comes_back_whatever_its_form(
    connection: duckdb.DuckDBPyConnection, written: list[tuple[datetime, str, str, str]]
) -> None:
    texts = []
    for instant, day, clock, zone in written:  # strftime leaves out the zeros of years before 1000
        years = day.replace("%Y", f"{instant.year:04}").replace(
            "%G", f"{instant.isocalendar().year:04}"
        )
        texts.append(instant.strftime(years + clock + zone))
    assert read(connection, texts) == [instant for instant, _, _, _ in written]


@settings(max_examples=40)
@given(st.lists(st.text(st.sampled_from("0123456789-/:.,TtZzWw +[]ab"), max_size=32), max_size=20))
def test_any_text_is_an_instant_or_breaks_a_rule(
    connection: duckdb.DuckDBPyConnection, texts: list[str]
) -> None:
    for found in read(connection, texts):
        assert found in RULES if isinstance(found, str) else 1 <= found.year < 9999


def test_an_offset_beyond_all_clocks_is_no_time(connection: duckdb.DuckDBPyConnection) -> None:
    offsets = [
        (sign, hours, minutes)
        for sign in "+-"
        for hours in range(100)
        for minutes in range(0, 100, 5)
    ]
    texts = [
        f"2026-01-15T10:00:00{sign}{hours:02}:{minutes:02}" for sign, hours, minutes in offsets
    ]
    possible = [
        minutes < 60 and hours * 60 + minutes <= {"+": 14, "-": 12}[sign] * 60
        for sign, hours, minutes in offsets
    ]
    assert [found != "impossible_offset" for found in read(connection, texts)] == possible
