"""`redact`, `mask`, `score_pii`: found kinds, kept text, idempotence, any text, in time."""

import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.pii_cases import BARE, Case, found, labelled, negatives
from transforms.features.views.record_pii import RecordPii
from transforms.text.pii import EMAIL_ADDRESS, KINDS, RULES, mask, redact, score_pii

TIME = pl.Datetime("us", "UTC")
N_EACH = 25
FLOOR = 0.95
CARD, IBAN, NINO = "4111 1111 1111 1111", "GB29 NWBK 6016 1331 9268 19", "AB 12 34 56 C"
# pieces of identifiers: whole ones, parts, and what may come between; denser than in any text
PIECES = (
    *(
        "ann@example.com",
        "@",
        "b.co",
        "+1 212 555 1234",
        "(212) 555-1234",
        "212",
        "555-1234",
        "+49",
        "0171 2345678",
        "tel ",
        "call",
    ),
    *(
        CARD,
        "4111111111111111",
        IBAN,
        "DE89370400440532013000",
        "DE89",
        "8.8.8.200",
        "8.8",
        ".200",
        "version ",
        "IP ",
        "2a00:1450:4001::200e",
    ),
    *(
        "::1",
        "078-05-1120",
        "SSN ",
        NINO,
        "NHS ",
        "943 476 5919",
        "AKIAIOSFODNN7EXAMPLE",
        "password=",
        "Bearer ",
        "a1B2c3D4e5F6g7H8i9J0",
    ),
    *(
        "sk-",
        "eyJhbGciOiJIUzI1NiJ9",
        ".",
        "-----BEGIN PRIVATE KEY-----",
        "-----END PRIVATE KEY-----",
        "<",
        ">",
        "<EMAIL_ADDRESS>",
    ),
    *("<IP_ADDRESS>", " ", "-", ":", "/", "\n", "1", "2026", "é", "x", "_"),
)
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
    st.text(max_size=80),
    st.text("0123456789 .-+:()", max_size=60),
)


def masked(text: str) -> str:
    (one,) = mask([text])
    return one


def redacted(*texts: str | None) -> list[str | None]:
    return (
        pl.DataFrame({"text": texts}, schema={"text": pl.String})
        .select(redact(pl.col("text")))["text"]
        .to_list()
    )


def ungated(text: str) -> str:
    """Redact by the exact patterns alone, every rule on every text."""
    (after,) = pl.Series([text]).str.replace_all(EMAIL_ADDRESS, "<EMAIL_ADDRESS>")
    before = None
    while before != after:
        before = after
        for rule in RULES:
            after = rule.redact(after)
    return str(after)


def score(*texts: str | None) -> pl.DataFrame:
    records = pl.LazyFrame(
        {"record_id": [f"r{row}" for row in range(len(texts))], "text": texts},
        schema={"record_id": pl.String, "text": pl.String},
    )
    instant = pl.lit(datetime(2026, 1, 1, tzinfo=UTC), TIME)
    return score_pii(
        records.with_columns(event_timestamp=instant, created_timestamp=instant)
    ).collect()


def counted(*texts: str | None) -> dict[str, int]:
    """Counts other than 0, added up over texts."""
    scored = score(*texts).select(pl.col("^pii_.*_count$").sum()).row(0, named=True)
    return {
        name.removeprefix("pii_").removesuffix("_count").upper(): n
        for name, n in scored.items()
        if n
    }


@pytest.fixture(scope="module")
def cases() -> list[tuple[Case, list[tuple[str, int, int]]]]:
    """Labelled cases, and what is found in each."""
    made = labelled(N_EACH)
    texts = redacted(*(case.text for case in made))
    return [
        (case, found(case.text, str(text), KINDS)) for case, text in zip(made, texts, strict=True)
    ]


def test_each_kind_is_recalled_and_precise(
    cases: list[tuple[Case, list[tuple[str, int, int]]]],
) -> None:
    wanted, recalled, given, right = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for case, spans in cases:
        if case.sort != BARE:
            wanted[case.kind] += 1
            recalled[case.kind] += any(
                kind == case.kind and start <= case.start and end >= case.end
                for kind, start, end in spans
            )
        for kind, start, end in spans:
            given[kind] += 1
            right[kind] += kind == case.kind and start < case.end and end > case.start
    given.update(
        kind for sort, text in negatives(N_EACH) for kind, _, _ in found(text, masked(text), KINDS)
    )
    assert set(wanted) == set(KINDS)
    assert {
        kind: recalled[kind] / wanted[kind]
        for kind in KINDS
        if recalled[kind] / wanted[kind] < FLOOR
    } == {}
    assert {
        kind: right[kind] / given[kind] for kind in KINDS if right[kind] / given[kind] < FLOOR
    } == {}


def test_what_only_looks_like_an_identifier_stays() -> None:
    lookalikes = negatives(N_EACH)
    texts = redacted(*(text for _, text in lookalikes))
    assert [
        (sort, text) for (sort, text), after in zip(lookalikes, texts, strict=True) if text != after
    ] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ann <ann.b+c@mail.example.co.uk>,", "Ann <<EMAIL_ADDRESS>>,"),
        ("(212) 555-1234 or +44 20 7946 0958.", "<PHONE_NUMBER> or <PHONE_NUMBER>."),
        ("call me at 2125551234; order 2125551234", "call me at <PHONE_NUMBER>; order 2125551234"),
        (f"{CARD} 12/27 123", "<CREDIT_CARD> 12/27 123"),
        (f"pay {CARD} or {IBAN} AND", "pay <CREDIT_CARD> or <IBAN_CODE> AND"),
        ("8.8.8.200 but 10.0.0.200, v8.8.8.200", "<IP_ADDRESS> but 10.0.0.200, v8.8.8.200"),
        (
            "IP 8.8.8.8 and http://9.9.9.9/ and 9.9.9.9:80; release 9.9.9.9",
            "IP <IP_ADDRESS> and http://<IP_ADDRESS>/ and <IP_ADDRESS>:80; release 9.9.9.9",
        ),
        ("[2a00:1450:4001:81b::200e]:443", "[<IP_ADDRESS>]:443"),
        ("SSN 078-05-1120, 078 05 1120", "SSN <US_SSN>, <US_SSN>"),
        (f"{NINO} NHS no. 943 476 5919", "<UK_NINO> NHS no. <UK_NHS>"),
        ("key=AKIAIOSFODNN7EXAMPLE;", "key=<API_KEY>;"),
        ("password = 'hunter2Horse9', n=1", "password = '<API_KEY>', n=1"),
        ("a -----BEGIN RSA PRIVATE KEY-----\nMIIE and no end", "a <API_KEY>"),
        ("https://ann:s3cret@example.com/x", "https://ann:<EMAIL_ADDRESS>/x"),
    ],
)
def test_a_placeholder_replaces_the_identifier(text: str, expected: str) -> None:
    assert masked(text) == expected


def test_what_is_known_to_be_got_wrong() -> None:
    # a version of four numbers, one of them 100 or more, without a word that says so; a git remote
    assert (
        masked("Policy Authority 8.1.2.200 and git@example.com:a.git")
        == "Policy Authority <IP_ADDRESS> and <EMAIL_ADDRESS>:a.git"
    )
    # an address all below 100, and digits alone, with nothing before them that says so
    assert masked("8.8.8.8 and 2125551234") == "8.8.8.8 and 2125551234"


@given(st.lists(st.one_of(st.none(), TEXTS), max_size=5))
def test_redacting_again_changes_nothing(texts: list[str | None]) -> None:
    once = redacted(*texts)
    assert redacted(*once) == once
    assert [text is None for text in once] == [text is None for text in texts]


@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_no_gate_hides_a_text_from_its_rule(texts: list[str]) -> None:
    assert redacted(*texts) == [ungated(text) for text in texts]


def test_no_gate_hides_a_labelled_case_or_a_commit(shared: Path) -> None:
    path = shared / "data" / "commits" / "arrived=2015.jsonl.zst"
    commits = pl.read_ndjson(path, schema={"message": pl.String})["message"]
    texts = [case.text for case in labelled(N_EACH)] + commits.drop_nulls().to_list()
    assert redacted(*texts) == [ungated(text) for text in texts]


@given(TEXTS)
def test_all_else_stays_byte_for_byte(text: str) -> None:
    found(text, masked(text), KINDS)


@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_a_text_is_redacted_the_same_alone_and_among_others(texts: list[str]) -> None:
    assert [masked(text) for text in texts] == redacted(*texts)


@given(st.lists(st.one_of(st.none(), TEXTS), max_size=5))
def test_any_text_meets_the_contract_and_counts_the_same_redacted(texts: list[str | None]) -> None:
    scored = score(*texts)
    assert RecordPii.gate(scored).height == len(texts)
    assert scored.equals(score(*redacted(*texts)))


def test_counts_by_kind() -> None:
    assert counted("a@b.co, c@d.ef", f"{CARD} 8.8.8.200", None, "nothing") == {
        "EMAIL_ADDRESS": 2,
        "CREDIT_CARD": 1,
        "IP_ADDRESS": 1,
    }
    assert score("a@b.co", "nothing", None)["pii_any"].to_list() == [1, 0, None]


def test_columns_are_those_of_the_kinds() -> None:
    assert [column.name for column in RecordPii.columns()][3:] == [
        *(f"pii_{kind.lower()}_count" for kind in KINDS),
        "pii_any",
    ]


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "1",
            "1 ",
            "+1",
            "1.",
            "1:",
            "a@",
            "eyJa",
            "eyJaaaaaaaa.",
            "DE89 ",
            "tel ",
            "password=",
            "-----BEGIN PRIVATE KEY-----",
            "4111-",
            "0171 ",
        ),
        # each would be found only once the one before it is redacted, if that made room
        *(
            "8.8.8.200 ",
            "000+100000000",
            "AKIAIOSFODNN7EXAMPLE",
            "(212) 555-1234 ",
            "8.8.8.200-4111111111111111-",
            "943 476 5919 ",
            IBAN + " ",
        ),
    ],
)
def test_a_huge_text_takes_time_in_proportion(unit: str) -> None:
    def seconds(n_bytes: int) -> float:
        text = unit * (n_bytes // len(unit))
        start = time.process_time()
        masked(text)
        return time.process_time() - start

    seconds(1_000)
    # ten times the text: a hundred times the work if it were quadratic
    assert seconds(600_000) < 30 * seconds(60_000) + 0.5


def test_ten_megabytes_of_digits() -> None:
    start = time.process_time()
    assert masked("7" * 10_000_000) == "7" * 10_000_000
    assert time.process_time() - start < 20


def test_commits_keep_their_text_and_lose_their_addresses(shared: Path) -> None:
    path = shared / "data" / "commits" / "arrived=2015.jsonl.zst"
    texts = pl.read_ndjson(path, schema={"message": pl.String})["message"]
    known = texts.str.count_matches(r"u[0-9a-f]+@example\.invalid").sum()
    after = pl.Series(redacted(*texts))
    assert known > 1_000
    assert after.str.count_matches(r"@example\.invalid").sum() == 0
    assert after.str.count_matches("<EMAIL_ADDRESS>", literal=True).sum() >= known
