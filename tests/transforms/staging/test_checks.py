"""Checks of a whole load: bad keys, date order, rejected rows, foreign ids, failing expressions."""

import csv
import gzip
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.errors import ChecksError
from transforms.schemas.base import digest_of
from transforms.schemas.staging import AccountedFile
from transforms.sources.ingest import ingest
from transforms.sources.source import Source
from transforms.sql import model
from transforms.staging.accounting import recount
from transforms.staging.checks import (
    FIXES,
    MIN_ROWS,
    day_order,
    kind_of,
    notices,
    waiting,
    without_values,
)
from transforms.staging.prepare import Account, mapping_digest, prepare
from transforms.staging.quarantine import replay
from transforms.warehouse.tables import Warehouse

MakeSource = Callable[..., Source]
Note = Callable[..., bytes]
Query = Callable[..., list[tuple[Any, ...]]]
Write = Callable[..., Path]
RECORD = {"record_id": "id", "author_id": "author", "event_timestamp": "written", "text": "text"}
N_TWEETS = 1_500


def load(source: Source, warehouse: Warehouse, **options: bool) -> Account:
    ingest(source, warehouse)
    account = prepare(source, warehouse, **options)
    assert recount(warehouse)["adds_up"].all()
    return account


def stopped(source: Source, warehouse: Warehouse) -> str:
    """Load a source that is stopped; return its one line. Nothing is staged or quarantined."""
    ingest(source, warehouse)
    with pytest.raises(ChecksError) as caught:
        prepare(source, warehouse)
    assert {
        relation: warehouse.n_rows(relation)
        for relation in ("staging.records", "quarantine.records", "accounting.files")
    } == {
        "staging.records": 0,
        "quarantine.records": 0,
        "accounting.files": 0,
    }
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def plain() -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB without tables, for the source `notes`."""
    with duckdb.connect() as connection:
        connection.execute("set variable source = 'notes'")
        yield connection


@pytest.fixture(scope="module")
def tweets(shared: Path) -> list[dict[str, str]]:
    """The first tweets of a real file: 18-digit ids, several a second, most authors once."""
    text = gzip.decompress(
        (shared / "data" / "tweets_csv" / "mayweather-mcgregor_tweets.csv.gz").read_bytes()
    ).decode()
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))[:N_TWEETS]


@pytest.fixture
def tweets_with(
    tweets: list[dict[str, str]], tmp_path: Path, make_source: MakeSource
) -> Callable[..., Source]:
    """A source of the tweets, their ids written by `cut`."""

    def make(cut: Callable[[int], str], record_id: str = "id") -> Source:
        with (tmp_path / "tweets.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, tweets[0])
            writer.writeheader()
            writer.writerows({**tweet, "id": cut(int(tweet["id"]))} for tweet in tweets)
        record = {
            "record_id": record_id,
            "author_id": "screen_name",
            "event_timestamp": "created_at",
            "text": "text",
        }
        return make_source(tmp_path / "tweets.csv", known="at_event", record=record)

    return make


def test_ids_that_a_spreadsheet_cut_stop_the_load_until_another_key_is_mapped(
    tweets_with: Callable[..., Source], warehouse: Warehouse
) -> None:
    said = stopped(tweets_with("{:.5E}".format), warehouse)
    assert "1,500 of 1,500 rows (100.0%) are rejected" in said
    assert (
        f"record_id: exponent_form (1,500 rows; {FIXES['exponent_form']}) (first row 1 of "
        "tweets.csv)" in said
    )
    # the file is unchanged: only the mapping is fixed, and what is already loaded is staged
    assert load(tweets_with("{:.5E}".format, record_id="link"), warehouse) == Account(
        read=N_TWEETS, staged=N_TWEETS
    )


def test_ids_that_strangers_share_stop_the_load_until_it_is_accepted(
    tweets_with: Callable[..., Source], warehouse: Warehouse, query: Query
) -> None:
    source = tweets_with(lambda number: str(number // 10**12 * 10**12))
    said = stopped(source, warehouse)
    assert re.search(r"record_id is no key in 1,\d+ of 1,500 rows \((9\d\.\d|100\.0)%\)", said)
    assert waiting(warehouse)[0].startswith(
        f"notes: load {query('select load_id from profiles.checks')[0][0]} waits"
    )
    assert load(source, warehouse, accept_load=True).read == N_TWEETS
    assert waiting(warehouse) == []
    assert (
        "record_id is no key"
        in notices(warehouse, "notes", {query("select load_id from accounting.files")[0][0]})[0]
    )


def test_numbers_that_begin_again_with_every_file_are_no_key(
    make_source: MakeSource, warehouse: Warehouse, write: Write, note: Note
) -> None:
    def month(number: int) -> list[bytes]:
        at = f"2026-0{number}-01T10:00:00Z"
        return [
            note(f"ticket {n}", author=f"a{number}{n}", text=f"t{number}{n}", written=at, known=at)
            for n in range(20)
        ]

    source = make_source(write("data/1.jsonl", *month(1)).parent)
    assert load(source, warehouse).staged == 20
    write("data/2.jsonl", *month(2))
    ingest(source, warehouse)
    with pytest.raises(
        ChecksError, match=r"record_id is no key in 20 of 20 rows \(100\.0%\): 20 ids"
    ):
        prepare(source, warehouse)
    assert warehouse.n_rows("staging.records") == 20


def test_updates_of_one_author_and_redeliveries_are_no_collisions(
    make_source: MakeSource, warehouse: Warehouse, write: Write, note: Note, query: Query
) -> None:
    days = [f"2026-01-{day:02}T10:00:00Z" for day in range(1, 21)]
    updates = [note("r1", text=f"text {day}", written=day, known=day) for day in days]
    other_editor = [
        note("r2", author=f"a{day}", text="same", written=day, known=day) for day in days
    ]
    assert (
        load(make_source(write("a.jsonl", *updates, *updates, *other_editor)), warehouse).staged
        == 40
    )
    assert query(
        "select n_broken, verdict from profiles.checks where \"check\" = 'collisions'"
    ) == [(0, "still")]


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 3), st.integers(0, 2)),
        min_size=1,
        max_size=12,
        unique=True,
    ),
    st.randoms(use_true_random=False),
)
def test_collisions_do_not_depend_on_the_order_of_rows(
    plain: duckdb.DuckDBPyConnection, rows: list[tuple[int, int, int, int]], random: Any
) -> None:
    def count(ordered: list[tuple[int, int, int, int]]) -> list[Any]:
        frame = pl.DataFrame(
            ordered,
            ["author_hash", "text_hash", "event_timestamp", "known_timestamp"],
            orient="row",
        )
        frame = frame.with_columns(
            content_digest=pl.concat_str("author_hash", "text_hash", separator=" "),
            known_timestamp=pl.col("event_timestamp") + pl.col("known_timestamp"),
            **{name: pl.lit("a") for name in ("load_id", "source_uri", "record_id", "source")},
            **{name: pl.lit(1) for name in ("accepted_id", "row_number")},
            is_staged=True,
        )
        plain.register("accepted", frame)
        plain.register("earlier_rows", frame.clear())
        repeated = model("staging/repeated_records")
        plain.execute(f"create or replace temp view repeated_records as {repeated}")
        return plain.sql(model("checks/collisions")).fetchall()

    assert count(rows) == count(random.sample(rows, len(rows)))


ORDERS = {
    "days first, read as months": ("%d/%m/%Y", "%m/%d/%Y", "first"),
    "months first, read as days": ("%m-%d-%y", "%d-%m-%y", "second"),
    "years, then days, read as months": ("%Y.%d.%m", "%Y.%m.%d", "first"),
    "days first, with a time": ("%d.%m.%Y %H:%M", "%m.%d.%Y %H:%M", "first"),
}
YEAR = [date(2024, 1, 1) + timedelta(days=number) for number in range(0, 364, 3)]


@pytest.mark.parametrize(
    ("case", "reader"),
    [*((case, "strptime") for case in ORDERS), ("days first, read as months", "try_strptime")],
)
def test_dates_read_in_the_wrong_order_stop_the_load_and_in_the_right_one_pass(
    make_source: MakeSource,
    new_home: Callable[[], Warehouse],
    write: Write,
    note: Note,
    case: str,
    reader: str,
) -> None:
    written, read, number = ORDERS[case]
    file = write(
        "a.jsonl",
        *(
            note(f"r{n}", written=day.strftime(written), known="2026-01-01")
            for n, day in enumerate(YEAR)
        ),
    )

    def source(order: str) -> Source:
        return make_source(
            file,
            record={**RECORD, "event_timestamp": f"{reader}(written, '{order}')"},
            max_quarantined_ratio=1,
        )

    n_low = sum(day.day <= 12 for day in YEAR)
    home = new_home()
    said = stopped(source(read), home)
    assert (
        f"event_timestamp: day and month are read in the wrong order: {len(YEAR) - n_low} "
        "dates fail" in said
    )
    assert f"all with a {number} number above 12, and {n_low} that pass may be wrong" in said
    assert load(source(written), home) == Account(read=len(YEAR), staged=len(YEAR))


def test_known_times_in_the_wrong_order_stop_the_load_too(
    make_source: MakeSource, warehouse: Warehouse, write: Write, note: Note
) -> None:
    lines = [
        note(f"r{n}", written="2024-01-01", known=day.strftime("%d/%m/%Y"))
        for n, day in enumerate(YEAR)
    ]
    source = make_source(
        write("a.jsonl", *lines),
        known={"column": "strptime(known, '%m/%d/%Y')"},
        max_quarantined_ratio=1,
    )
    assert "known_timestamp: day and month are read in the wrong order" in stopped(
        source, warehouse
    )


@pytest.mark.parametrize(
    "dates",
    [
        ["13/02/2024"] * (MIN_ROWS - 1)
        + ["02/13/2024"] * 50
        + ["02/03/2024"] * 50,  # a few typing errors
        ["13/02/2024", "99/99/2024", "00/00/2024"] * 5
        + ["02/03/2024"] * 50,  # more that is no date at all
        ["13/02/2024", "2024-02-03", "soon"] * 5 + ["02/13/2024"] * 50,  # none that may be wrong
    ],
)
def test_other_dates_that_fail_are_quarantined_and_stop_nothing(
    make_source: MakeSource, warehouse: Warehouse, write: Write, note: Note, dates: list[str]
) -> None:
    record = {**RECORD, "event_timestamp": "strptime(written, '%m/%d/%Y')"}
    lines = [note(f"r{n}", written=day, known="2026-01-01") for n, day in enumerate(dates)]
    assert load(make_source(write("a.jsonl", *lines), record=record), warehouse).quarantined > 0


@settings(max_examples=200)
@given(
    st.dates(date(1971, 1, 1)),
    st.sampled_from("-/. "),
    st.sampled_from(["", " 10:30", "T23:59:01Z"]),
)
def test_a_day_is_distinguished_from_a_month_only_above_12(
    day: date, separator: str, time: str
) -> None:
    forms = {"first": "%d_%m_%Y", "second": "%m_%d_%Y"}
    for number, form in forms.items():
        written = day.strftime(form).replace("_", separator) + time
        expected = number if day.day > 12 else "neither"
        assert pl.select(day_order(pl.lit(written))).item() == expected


def test_a_load_that_is_nearly_all_rejected_is_staged_once_the_source_file_is_mended(
    make_source: MakeSource, warehouse: Warehouse, write: Write, note: Note, query: Query
) -> None:
    file = write(
        "a.jsonl", *(note(f"r{n}", author=None, writer="ann") for n in range(20)), note("good")
    )
    said = stopped(make_source(file), warehouse)
    assert (
        "20 of 21 rows (95.2%) are rejected (max_quarantined_ratio 50%): author_id: "
        "not_nullable (20 rows; map a" in said
    )
    assert "waits, nothing of it is staged" in waiting(warehouse)[0]
    mended = make_source(file, record={**RECORD, "author_id": "coalesce(writer, author)"})
    assert load(mended, warehouse) == Account(read=21, staged=21)
    assert waiting(warehouse) == []
    assert query("select verdict from profiles.checks where \"check\" = 'quarantined'") == [
        ("still",)
    ]
    assert prepare(mended, warehouse) == Account()


def test_a_load_that_is_accepted_is_quarantined_and_replayed_as_ever(
    make_source: MakeSource, warehouse: Warehouse, write: Write, note: Note, query: Query
) -> None:
    file = write("a.jsonl", *(note(f"r{n}", author=None, writer="ann") for n in range(20)))
    source = make_source(file)
    assert load(source, warehouse, accept_load=True) == Account(read=20, quarantined=20)
    assert query("select verdict from profiles.checks where \"check\" = 'quarantined'") == [
        ("stop",)
    ]
    assert replay(
        make_source(file, record={**RECORD, "author_id": "writer"}), warehouse
    ) == Account(read=20, staged=20)


@pytest.mark.parametrize(
    ("n_bad", "n_good", "changes", "verdict"),
    [
        (MIN_ROWS - 1, 0, {}, "warn"),  # a few rows prove nothing
        (MIN_ROWS, 0, {}, "stop"),
        (10, 10, {}, "warn"),  # not more than half
        (11, 10, {}, "stop"),
        (1, 20, {}, "still"),
        (11, 10, {"max_quarantined_ratio": 0.6}, "warn"),
        (20, 0, {"max_quarantined_ratio": 1, "warn_quarantined_ratio": 1}, "still"),
        (5, 95, {"max_quarantined_ratio": 0.01}, "stop"),
    ],
)
def test_shares_of_rejected_rows_warn_and_stop_as_the_source_file_says(
    make_source: MakeSource,
    warehouse: Warehouse,
    write: Write,
    note: Note,
    query: Query,
    n_bad: int,
    n_good: int,
    changes: dict[str, float],
    verdict: str,
) -> None:
    file = write(
        "a.jsonl",
        *(note(f"b{n}", text=None) for n in range(n_bad)),
        *(note(f"g{n}") for n in range(n_good)),
    )
    source = make_source(file, **changes)
    if verdict == "stop":
        assert "text: empty" in stopped(source, warehouse)
    else:
        assert load(source, warehouse) == Account(
            read=n_bad + n_good, staged=n_good, quarantined=n_bad
        )
    assert query(
        "select verdict, n_broken, n_rows from profiles.checks where \"check\" = 'quarantined'"
    ) == [(verdict, n_bad, n_bad + n_good)]


def test_a_stopped_load_that_was_accepted_and_killed_is_finished_without_asking_again(
    make_source: MakeSource,
    warehouse: Warehouse,
    write: Write,
    note: Note,
    killed_before: Callable[..., Any],
) -> None:
    source = make_source(write("a.jsonl", *(note(f"r{n}", text=None) for n in range(20))))
    ingest(source, warehouse)
    with killed_before(AccountedFile):
        prepare(source, warehouse, accept_load=True)
    assert prepare(source, warehouse) == Account(read=20, quarantined=20)
    assert recount(warehouse)["adds_up"].all()


def test_rows_that_are_quarantined_by_choice_stop_nothing(
    make_source: MakeSource, warehouse: Warehouse, write: Write, note: Note
) -> None:
    source = make_source(write("data/1.jsonl", note("r1")).parent, schema="quarantine")
    load(source, warehouse)
    write("data/2.jsonl", *(note(f"n{n}", extra=1) for n in range(20)))
    assert load(source, warehouse) == Account(read=20, quarantined=20)


def test_a_replay_that_would_make_one_record_of_many_is_stopped(
    make_source: MakeSource, warehouse: Warehouse, write: Write, note: Note
) -> None:
    lines = [
        note(None, author=f"a{n}", text=f"t{n}", written=f"2026-01-01T10:00:{n:02}Z")
        for n in range(20)
    ]
    file = write("a.jsonl", *lines)
    load(make_source(file), warehouse, accept_load=True)
    merged = make_source(file, record={**RECORD, "record_id": "'one'"})
    with pytest.raises(
        ChecksError,
        match=(
            r"record_id is no key in 20 of 20 rows .* millrace quarantine replay --source FILE "
            r"--accept-load"
        ),
    ):
        replay(merged, warehouse)
    assert warehouse.n_rows("quarantine.records") == 20
    assert replay(merged, warehouse, accept_load=True).read == 20


def two_sources(
    make_source: MakeSource, write: Write, note: Note, ids: str | None
) -> Iterator[Source]:
    """Two sources, each with a record 1 of its own."""
    for name in ("tickets", "calls"):
        changes = {} if ids is None else {"ids": ids}
        yield make_source(
            write(f"{name}.jsonl", note(1, author=name, text=name), note(name)),
            name=name,
            **changes,
        )


def test_ids_of_another_source_stop_the_load_until_the_source_file_says_whose_they_are(
    make_source: MakeSource, warehouse: Warehouse, write: Write, note: Note, query: Query
) -> None:
    first, second = two_sources(make_source, write, note, None)
    assert load(first, warehouse).staged == 2
    ingest(second, warehouse)
    said = (
        r"1 of 2 rows \(50\.0%\) have the record_id of a record of source tickets: set `ids: own` "
        r".* \(first row 1 of calls\.jsonl\)"
    )
    with pytest.raises(ChecksError, match=said):
        prepare(second, warehouse)
    _, second = two_sources(make_source, write, note, "own")
    assert load(second, warehouse) == Account(read=2, staged=2)
    assert query("select record_id from staging.records order by all") == [
        ("1",),
        ("calls:1",),
        ("calls:calls",),
        ("tickets",),
    ]


def test_shared_ids_are_about_the_same_records(
    make_source: MakeSource, warehouse: Warehouse, write: Write, note: Note, query: Query
) -> None:
    for source in two_sources(make_source, write, note, "shared"):
        load(source, warehouse)
    assert query("select count(distinct record_id) from staging.records") == [(3,)]


def test_an_empty_id_is_none_in_a_source_with_ids_of_its_own(
    make_source: MakeSource, warehouse: Warehouse, write: Write, note: Note
) -> None:
    assert load(make_source(write("a.jsonl", note("")), ids="own"), warehouse) == Account(
        read=1, quarantined=1
    )


FAILING = {
    "strptime(written, '%d.%m.%Y')": "Month out of range",
    "(written::int)::varchar": "Could not convert string",
    "strptime(upper(written), '%Y')": "Could not parse string",
    "date_trunc('day', written::timestamp)": "Conversion Error",
    "(written || text)::double": "Could not convert string",
}


@pytest.mark.parametrize("expression", FAILING)
def test_an_expression_that_fails_says_on_what_and_why_and_never_the_value(
    make_source: MakeSource,
    warehouse: Warehouse,
    write: Write,
    note: Note,
    query: Query,
    expression: str,
) -> None:
    lines = [note("r1", written="31.99.SECRET", text="secret two"), note("r2", written=None)]
    source = make_source(write("a.jsonl", *lines), record={**RECORD, "event_timestamp": expression})
    assert load(source, warehouse) == Account(read=2, quarantined=2)
    rules = query("select row_number, rule, digest is null from quarantine.records order by all")
    assert rules == [(1, "expression_failed", True), (2, "not_nullable", True)]
    (reason,) = [
        row[0] for row in query("select reason from profiles.checks where \"check\" = 'expression'")
    ]
    assert reason.startswith("event_timestamp: the expression fails in 1 of 2 rows (50.0%): ")
    assert "written is text of 12 characters like '99.99.aaaaaa'" in reason
    assert not re.search(r"secret|two\b|\b31\b", reason, re.IGNORECASE)
    assert FAILING[expression] in reason or "out of range" in reason or "Could not" in reason


def test_an_expression_that_finds_nothing_has_not_failed(
    make_source: MakeSource, warehouse: Warehouse, write: Write, note: Note, query: Query
) -> None:
    record = {**RECORD, "author_id": "nullif(author, 'nobody')"}
    assert (
        load(
            make_source(write("a.jsonl", note("r1"), note("r2", author="nobody")), record=record),
            warehouse,
        ).quarantined
        == 1
    )
    assert query('select "column", rule from quarantine.records') == [("author_id", "not_nullable")]


@settings(max_examples=200)
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30),
        min_size=1,
        max_size=2,
    )
)
def test_no_message_contains_a_word_of_a_value(
    plain: duckdb.DuckDBPyConnection, values: list[str]
) -> None:
    row = ", ".join(f"$v{number} as c{number}" for number in range(len(values)))
    given_values = {f"v{number}": value for number, value in enumerate(values)}
    for expression in (
        "c0::int",
        "strptime(c0, '%Y')",
        "reverse(c0)::int",
        "upper(c0)::timestamp",
        "c0::json->'a'",
    ):
        try:
            plain.execute(f"select {expression} from (select {row})", given_values).fetchall()
        except (duckdb.Error, UnicodeDecodeError) as error:
            said = without_values(error, expression, values)
            words = {word.lower() for word in re.findall(r"\w+", said)}
            known = {
                word.lower()
                for word in re.findall(r"\w+", f"{expression} {str(error).partition(':')[0]}")
            }
            assert not words & (
                {word.lower() for value in values for word in re.findall(r"\w+", value)} - known
            ), said
    assert not re.search(r"[^aA9 -~]", kind_of(values[0]))


EPOCHS = {
    "seconds": ("1767261600", "1767261600.250", "2026-01-01 10:00:00.25+00"),
    "milliseconds": ("1767261600000", "1767261600250", "2026-01-01 10:00:00.25+00"),
    "microseconds": ("1767261600000000", "1767261600250000", "2026-01-01 10:00:00.25+00"),
    "nanoseconds": ("1767261600000000000", "1767261600250000000", "2026-01-01 10:00:00.25+00"),
}


@pytest.mark.parametrize("unit", EPOCHS)
def test_numbers_since_1970_are_read_in_the_unit_that_is_said(
    make_source: MakeSource, warehouse: Warehouse, write: Write, note: Note, query: Query, unit: str
) -> None:
    whole, part, instant = EPOCHS[unit]
    other = next(
        EPOCHS[name][0]
        for name in EPOCHS
        if abs(list(EPOCHS).index(name) - list(EPOCHS).index(unit)) == 1
    )
    lines = [
        note("r1", written=int(whole), known=whole),
        note("r2", written=whole, known=part),
        note("r3", written=other, known=whole),
    ]
    lines += [
        note("r4", written="2026-01-01", known=whole),
        note("r5", written="NaN", known=whole),
        note("r6", written=whole, known="9" * 30),
    ]
    record = {**RECORD, "event_timestamp": {"column": "written", "unit": unit}}
    source = make_source(
        write("a.jsonl", *lines), record=record, known={"column": "known", "unit": unit}
    )
    assert load(source, warehouse) == Account(read=6, staged=2, quarantined=4)
    times = query(
        "select event_timestamp::varchar, known_timestamp::varchar from staging.records "
        "order by record_id"
    )
    assert times == [
        ("2026-01-01 10:00:00+00", "2026-01-01 10:00:00+00"),
        ("2026-01-01 10:00:00+00", instant),
    ]
    rules = dict(query("select row_number, rule from quarantine.records"))
    assert rules.pop(3) in {"not_in_unit", "beyond_tomorrow", "not_a_time"}
    assert rules == {4: "not_a_time", 5: "not_a_time", 6: "not_a_time"}


def test_numbers_since_1970_without_a_unit_stop_the_load_with_the_mend(
    make_source: MakeSource, warehouse: Warehouse, write: Write, note: Note
) -> None:
    lines = [
        json.dumps({**json.loads(note(f"r{n}")), "written": 1767261600000 + n}).encode()
        for n in range(10)
    ]
    said = stopped(make_source(write("a.jsonl", *lines)), warehouse)
    assert (
        "event_timestamp: epoch_without_unit (10 rows; give the unit: {column: NAME, unit: "
        "milliseconds}" in said
    )


def test_keys_that_decide_nothing_about_a_row_leave_the_mapping_as_it_was(
    make_source: MakeSource,
) -> None:
    """A run that was killed under a version without these keys is finished by this one."""
    before = """{
        "name": "notes", "format": null, "encoding": "utf-8", "delimiter": ",",
        "known": {"column": "known"},
        "record": {"record_id": "id", "author_id": "author", "subject_id": "subject",
                   "event_timestamp": "written", "text": "text", "label": "label"},
        "text": "keep", "tombstone": "false", "positive_labels": ["bad"], "attributes": [],
        "schema_policy": "evolve"
    }"""
    digest = digest_of(json.dumps(json.loads(before), separators=(",", ":")))
    assert mapping_digest(make_source("a.jsonl")) == digest
    assert (
        mapping_digest(
            make_source("a.jsonl", ids="shared", max_collision_ratio=1, max_quarantined_ratio=0)
        )
        == digest
    )
    assert mapping_digest(make_source("a.jsonl", ids="own")) != digest


def test_a_home_of_before_there_were_checks_goes_on(
    make_source: MakeSource, warehouse: Warehouse, write: Write, note: Note
) -> None:
    source = make_source(write("data/1.jsonl", note("r1")).parent)
    load(source, warehouse)
    shutil.rmtree(warehouse.folder("profiles.checks"))
    assert waiting(warehouse) == []
    write("data/2.jsonl", note("r2"))
    assert load(source, warehouse) == Account(read=1, staged=1)
