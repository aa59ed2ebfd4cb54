"""A source file is proposed from a file: files of five kinds, and what is never guessed."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.errors import SourceError
from transforms.home import Settings
from transforms.sources.source import Source, list_files, load_source
from transforms.staging.preview import Preview, stage_heads
from transforms.staging.proposing import OrderError, propose, read_head, source_yaml
from transforms.warehouse.tables import Warehouse

N = 60


def write_csv(
    path: Path, rows: Sequence[Mapping[str, object]], delimiter: str = ",", encoding: str = "utf-8"
) -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def complaints(folder: Path) -> Path:
    rows = [
        {
            "Date received": f"2024-03-{n % 27 + 1:02d}",
            "Product": ["Credit card", "Mortgage"][n % 2],
            "Consumer complaint narrative": f"I was charged {n} dollars twice, nobody answered.",
            "Company": f"Bank {n % 5}",
            "State": ["CA", "NY", "TX"][n % 3],
            "Date sent to company": f"2024-03-{n % 27 + 2:02d}",
            "Company response to consumer": ["Closed", "In progress"][n % 2],
            "Complaint ID": 8_000_000 + n,
        }
        for n in range(N)
    ]
    return write_csv(folder / "complaints.csv", rows)


def tweets(folder: Path) -> Path:
    rows = [
        {
            "tweet_id": f"5.7{n:02d}E+17",
            "airline_sentiment": ["neutral", "negative"][n % 2],
            "name": f"user{n % 7}",
            "text": f"@united my flight {n} is late again, why?",
            "tweet_created": f"2015-02-{n % 27 + 1:02d} 11:35:36 -0800",
            "user_timezone": "Eastern Time",
        }
        for n in range(N)
    ]
    return write_csv(folder / "tweets.csv", rows)


def mails(folder: Path) -> Path:
    rows = [
        {
            "Message-ID": f"<{n}.java@thyme>",
            "Date": f"Mon, {n % 27 + 1:02d} May 2001 16:39:00 -0700",
            "From": f"p{n % 7}@example.com",
            "Subject": "Re: the forecast of this week",
            "Body": f"Here is our forecast number {n}.\nPlease look at it before noon.",
        }
        for n in range(N)
    ]
    return write_csv(folder / "mails.csv", rows)


def chat(folder: Path) -> Path:
    rows = [
        {
            "ts": f"{1_700_000_000 + 977 * n}.{n:06d}",
            "channel": ["general", "random"][n % 2],
            "user": {"id": f"U{n % 9}", "name": f"Ann {n % 9}"},
            "text": f"did you see number {n} of the builds fail",
            "client_msg_id": f"aa-{n}",
        }
        for n in range(N)
    ]
    path = folder / "chat.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


def tickets(folder: Path) -> Path:
    rows = [
        {
            "ticket": f"T{n}",
            "customer": f"K{n % 9}",
            "created": f"{n % 28 + 1:02d}.{n % 12 + 1:02d}.2025 10:{n:02d}",
            "description": "Der Drucker läuft nicht mehr, seit gestern früh",
            "priority": ["hoch", "normal"][n % 2],
        }
        for n in range(N)
    ]
    return write_csv(folder / "tickets.csv", rows, ";", "windows-1252")


EXPECTED: dict[Any, dict[str, Any]] = {
    complaints: {
        "record_id": '"Complaint ID"',
        "author_id": "Company",
        "subject_id": "Product",
        "event_timestamp": '"Date received"',
        "known": {"column": '"Date sent to company"'},
        "text": '"Consumer complaint narrative"',
    },
    tweets: {
        "record_id": "md5(concat_ws('|', tweet_created, text))",
        "author_id": "name",
        "event_timestamp": "tweet_created",
        "known": "at_event",
        "text": "text",
        "label": "airline_sentiment",
    },
    mails: {
        "record_id": '"Message-ID"',
        "author_id": '"From"',
        "event_timestamp": "strptime(Date, '%a, %d %b %Y %H:%M:%S %z')",
        "text": "Body",
    },
    chat: {
        "record_id": "client_msg_id",
        "author_id": "user->>'id'",
        "subject_id": "channel",
        "event_timestamp": {"column": "ts", "unit": "seconds"},
        "text": "text",
    },
    tickets: {
        "record_id": "ticket",
        "author_id": "customer",
        "event_timestamp": "strptime(created, '%d.%m.%Y %H:%M')",
        "text": "description",
        "label": "priority",
    },
}


def written(path: Path, order: str | None = None) -> Source:
    """The source that is proposed for a file, read back from what is written."""
    head = read_head(path)
    target = path.with_name("source.yaml")
    target.write_text(source_yaml(head, propose(head, order), "proposed", path.name), "utf-8")
    return load_source(target)


def staged(source: Source, folder: Path) -> Preview:
    home = Warehouse(Settings(home=folder / "home"))
    return stage_heads(source, home, list_files(source).files)


@pytest.mark.parametrize("kind", EXPECTED, ids=lambda kind: str(kind.__name__))
def test_every_row_of_a_file_is_staged_by_what_is_proposed(kind: Any, tmp_path: Path) -> None:
    path = kind(tmp_path)
    choices = propose(read_head(path)).choices
    assert {key: choices[key].value for key in EXPECTED[kind]} == EXPECTED[kind]
    found = staged(written(path), tmp_path)
    assert (found.n_rows, found.n_staged, found.rejections) == (N, N, [])


@pytest.mark.parametrize("kind", EXPECTED, ids=lambda kind: str(kind.__name__))
def test_a_last_line_that_nothing_ends_is_staged_too(kind: Any, tmp_path: Path) -> None:
    path = kind(tmp_path)
    path.write_bytes(path.read_bytes().rstrip(b"\r\n"))
    assert staged(written(path), tmp_path).n_staged == N


def test_who_may_have_written_is_asked_where_no_name_says_so(tmp_path: Path) -> None:
    rows = [
        {
            "id": n,
            "Kunde": f"k{n % 60}",
            "created": f"2026-01-0{n % 9 + 1}",
            "text": "ein Text, lang",
        }
        for n in range(130)
    ]
    author = propose(read_head(write_csv(tmp_path / "a.csv", rows))).choices["author_id"]
    assert (author.value, author.doubt) == ("'unknown'", True)
    assert author.why.endswith("; is it Kunde (60 different)?")


def test_a_cut_number_is_no_key_and_is_named_with_the_reason(tmp_path: Path) -> None:
    proposal = propose(read_head(tweets(tmp_path)))
    (refused,) = proposal.refused
    assert refused.startswith("tweet_id: like 5.7E+17")
    assert proposal.choices["record_id"].doubt


@settings(max_examples=25)  # each writes and reads a file
@given(
    days=st.lists(st.integers(1, 28), min_size=5, max_size=30),
    months=st.lists(st.integers(1, 12), min_size=30, max_size=30),
    separator=st.sampled_from("./-"),
    order=st.sampled_from(["day-first", "month-first"]),
)
def test_an_order_of_dates_is_only_taken_if_a_date_shows_it(
    tmp_path_factory: pytest.TempPathFactory,
    days: list[int],
    months: list[int],
    separator: str,
    order: str,
) -> None:
    pairs = list(zip(days, months, strict=False))
    dates = [
        separator.join([*(str(n) for n in (pair if order == "day-first" else pair[::-1])), "2026"])
        for pair in pairs
    ]
    rows = [
        {"id": n, "created": date, "text": f"a text of {n} words"} for n, date in enumerate(dates)
    ]
    head = read_head(write_csv(tmp_path_factory.mktemp("dates") / "a.csv", rows))
    form = {"day-first": "%d{0}%m{0}%Y", "month-first": "%m{0}%d{0}%Y"}[order].format(separator)
    expected = f"strptime(created, '{form}')"
    assert propose(head, order).choices["event_timestamp"].value == expected
    if max(days[: len(pairs)]) > 12:
        assert propose(head).choices["event_timestamp"].value == expected
    else:
        with pytest.raises(OrderError, match=r"created: .*--dates day-first or --dates month"):
            propose(head)


def test_what_a_person_says_is_taken_and_a_wrong_column_is_refused(tmp_path: Path) -> None:
    head = read_head(mails(tmp_path))
    chosen = propose(head, given={"text": "Subject", "author_id": 'lower("From")'}).choices
    assert (chosen["text"].value, chosen["author_id"].value) == ("Subject", 'lower("From")')
    with pytest.raises(SourceError, match=r"--label: .*mails.csv has no column mood; it has Mess"):
        propose(head, given={"label": "mood"})


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.xlsx", "PK", r"a\.xlsx: is not JSONL, CSV or Parquet by its name"),
        ("a.csv", "", r"a\.csv: has no rows"),
        ("a.csv", "id,text\n1,a text of words\n", r"a\.csv: no column is a time"),
        ("a.csv", "id,created\n1,2026-01-01\n", r"a\.csv: no column has texts"),
    ],
)
def test_a_file_that_cannot_be_a_source_is_refused(
    tmp_path: Path, name: str, content: str, reason: str
) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(SourceError, match=reason):
        propose(read_head(tmp_path / name))
