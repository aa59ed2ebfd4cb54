"""Tests of declarations take every record's way, report only differences, and refuse mistakes."""

import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.errors import DeclarationError
from transforms.features.registry import registry
from transforms.features.testing import Case, read_cases, run_case, stage
from transforms.schemas.staging import StagedRecord

START = datetime(2024, 5, 1, tzinfo=UTC)
HOURS = st.integers(0, 24 * 12).map(lambda hour: START + timedelta(hours=hour))
GIVEN = {"author_id": "ada", "event_timestamp": "2024-05-01 10:00:00", "text": "Two words"}
EXPECTED = {
    "view": "author_activity",
    "entity": {"author_id": "ada"},
    "at": "2024-05-02",
    "values": {"n_records_7d": 1},
}


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Versions of a few records of two authors: late ones, corrections and tombstones."""
    versions = []
    for record in range(draw(st.integers(1, 4))):
        event = draw(HOURS)
        knowns = sorted(draw(st.lists(HOURS, min_size=1, max_size=3, unique=True)))
        for known in knowns:
            row = {
                "record_id": f"r{record}",
                "author_id": draw(st.sampled_from(["ada", "ben"])),
                "event_timestamp": event,
            }
            versions.append(
                row
                | {
                    "known_timestamp": known,
                    "is_tombstone": draw(st.sampled_from([False, False, True])),
                }
            )
    return versions


def counted(versions: list[dict[str, Any]], author: str, at: datetime) -> int:
    """An author's records in the week before an instant, as docs/time.md defines; hop one hour."""
    newest: dict[str, dict[str, Any]] = {}
    for version in sorted(
        (row for row in versions if row["known_timestamp"] < at),
        key=lambda row: row["known_timestamp"],
    ):
        newest[version["record_id"]] = version
    is_inside = [
        row["event_timestamp"] < at < row["event_timestamp"] + timedelta(days=7)
        for row in newest.values()
    ]
    return sum(
        inside and not row["is_tombstone"] and row["author_id"] == author
        for row, inside in zip(newest.values(), is_inside, strict=True)
    )


@settings(max_examples=10)
@given(
    histories(),
    st.lists(HOURS, min_size=1, max_size=2),
    st.integers(0, 5),
    st.sampled_from([-1, 0, 1]),
)
def test_what_is_right_passes_and_what_is_wrong_fails_alone(
    versions: list[dict[str, Any]], instants: list[datetime], place: int, off: int
) -> None:
    asked = [(author, at) for at in instants for author in ("ada", "ben", "never seen")]
    right = [counted(versions, author, at) for author, at in asked]
    said = [value + off * (number == place % len(asked)) for number, value in enumerate(right)]
    expect = [
        EXPECTED | {"entity": {"author_id": author}, "at": at, "values": {"n_records_7d": value}}
        for (author, at), value in zip(asked, said, strict=True)
    ]
    differences = run_case(Case.model_validate({"given": versions, "expect": expect}), registry())
    found = [
        (difference.feature, difference.expected, difference.got) for difference in differences
    ]
    assert found == [
        ("n_records_7d", value, true)
        for value, true in zip(said, right, strict=True)
        if value != true
    ]


def test_features_of_records_and_derived_ones_are_computed_for_real() -> None:
    late = {
        "author_id": "ada",
        "event_timestamp": START,
        "known_timestamp": START + timedelta(days=2),
        "text": "Write to a@b.org now",
    }
    expect = [
        {
            "view": "record_quality",
            "entity": {"record_id": "r1"},
            "at": "2024-05-03",
            "values": {"n_words": 4},
        },
        {
            "view": "record_quality",
            "entity": {"record_id": "r1"},
            "at": "2024-05-02",
            "values": {"n_words": None},
        },
        {
            "view": "record_pii",
            "entity": {"record_id": "r1"},
            "at": "2024-05-04",
            "values": {"pii_email_address_count": 1},
        },
        {
            "view": "author_activity",
            "entity": {"author_id": "ada"},
            "at": "2024-05-04",
            "values": {"mean_characters_7d": 20},
        },
        {
            "view": "author_activity",
            "entity": {"author_id": "ada"},
            "at": "2024-05-04",
            "values": {"first_event_timestamp": START},
        },
        {
            "view": "author_tenure",
            "entity": {"author_id": "ada"},
            "at": "2024-05-05",
            "values": {"days_since_first_record": 4},
        },
        {
            "view": "author_tenure",
            "entity": {"author_id": "ada"},
            "at": "2024-05-02",
            "values": {"days_since_first_record": None},
        },
    ]
    assert run_case(Case.model_validate({"given": [late], "expect": expect}), registry()) == []


def test_no_text_is_said_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "home"))
    expect = [
        {
            "view": "record_quality",
            "entity": {"record_id": "r1"},
            "at": "2024-05-03",
            "values": {"n_words": 3},
        }
    ]
    case = Case.model_validate({"given": [GIVEN | {"text": "A secret"}], "expect": expect})
    assert [str(found) for found in run_case(case, registry())] == [
        "record_quality of record_id=r1 at 2024-05-03 00:00:00: n_words: expected 3, got 2"
    ]
    assert list(tmp_path.iterdir()) == []


def test_staged_records_keep_the_contract_and_what_is_left_out_is_filled_in() -> None:
    staged = stage(
        [
            {
                "event_timestamp": "2024-05-01",
                "attributes": {"channel": "mail"},
                "text": "Write to a@b.org",
            },
            GIVEN,
        ]
    )
    assert StagedRecord.gate(staged).height == 2
    assert staged["record_id"].to_list() == ["r1", "r2"]
    assert staged["known_timestamp"].equals(staged["event_timestamp"].rename("known_timestamp"))
    assert staged["attributes"].to_list() == ['{"channel": "mail"}', None]
    assert staged["text_redacted"][0] == "Write to <EMAIL_ADDRESS>"
    assert staged.schema == pl.Schema(
        {column.name: column.dtype for column in StagedRecord.columns()}
    )


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"a test": {"given": [GIVEN]}}, ("a test: expect: is missing",)),
        (
            {"a test": {"given": [GIVEN], "expects": [EXPECTED], "expect": [EXPECTED]}},
            ("expects: is no key", "did you mean expect?"),
        ),
        ({"a test": {"given": [], "expect": [EXPECTED]}}, ("given: is empty",)),
        (
            {"a test": {"given": [GIVEN], "expect": [EXPECTED | {"values": {}}]}},
            ("expect.0.values: is empty",),
        ),
        (
            {"a test": {"given": [GIVEN], "expect": [EXPECTED | {"entity": {"author_id": 5}}]}},
            ("put quotes around it: '5'",),
        ),
        (
            {"a test": {"given": [GIVEN], "expect": [EXPECTED | {"at": "yesterday"}]}},
            ("expect.0.at: ", "no instant in ISO 8601"),
        ),
        (
            {"a test": {"given": [GIVEN], "expect": [EXPECTED | {"view": "autor_activity"}]}},
            ("did you mean author_activity?",),
        ),
        (
            {"a test": {"given": [GIVEN], "expect": [EXPECTED | {"entity": {"author": "ada"}}]}},
            ("entity has author; it needs author_id",),
        ),
        (
            {"a test": {"given": [GIVEN], "expect": [EXPECTED | {"values": {"n_record_7d": 1}}]}},
            ("did you mean n_records_7d?",),
        ),
        (
            {"a test": {"given": [GIVEN | {"lable": "x"}], "expect": [EXPECTED]}},
            ("given, record 1: lable", "did you mean label?"),
        ),
        (
            {"a test": {"given": [GIVEN, {"text": "x"}], "expect": [EXPECTED]}},
            ("given, record 2: event_timestamp is missing",),
        ),
        (
            {"a test": {"given": [GIVEN | {"text": ""}], "expect": [EXPECTED]}},
            ("given, record 1: text breaks the rule",),
        ),
        (
            {"a test": {"given": [GIVEN | {"event_timestamp": 5}], "expect": [EXPECTED]}},
            ("a test: ", "does not say its unit"),
        ),
        (
            {"a test": {"given": [GIVEN | {"record_id": "a"}] * 2, "expect": [EXPECTED]}},
            ("two versions of one record",),
        ),
        ({"a test": ["given"]}, ("has keys of its own: given, expect",)),
        ({}, ("has no test",)),
    ],
)
def test_what_is_no_test_is_refused_in_one_line(
    tmp_path: Path, document: dict[str, Any], words: tuple[str, ...]
) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(DeclarationError) as refused:
        read_cases(path, registry())
    line = str(refused.value)
    assert line.startswith(f"{path}: ")
    assert os.linesep not in line
    assert [word for word in words if word not in line] == [], line


def test_a_test_that_a_second_of_its_name_would_hide_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ours.yaml"
    one = yaml.safe_dump({"a test": {"given": [GIVEN], "expect": [EXPECTED]}})
    path.write_text(one + one)
    with pytest.raises(DeclarationError, match=r"ours\.yaml, line \d+: 'a test' is there twice"):
        read_cases(path, registry())
    path.write_text("a test: [")
    with pytest.raises(DeclarationError, match=r"ours\.yaml, line 1: "):
        read_cases(path, registry())
