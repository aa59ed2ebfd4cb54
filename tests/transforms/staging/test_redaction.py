"""What staging keeps of a text: as it came and redacted, or redacted only; counts are equal."""

from collections.abc import Callable
from pathlib import Path

import pytest

from transforms.errors import SourceError
from transforms.sources.source import Source

Query = Callable[..., list[tuple[object, ...]]]
Write, Note, MakeSource = Callable[..., Path], Callable[..., bytes], Callable[..., Source]
Stage = Callable[[Source], object]
TEXT = "write to jane.doe@mail-provider.com, or call"
REDACTED = "write to <EMAIL_ADDRESS>, or call"


def test_keep_stores_the_text_and_a_redacted_one(
    write: Write, note: Note, make_source: MakeSource, stage: Stage, query: Query
) -> None:
    stage(make_source(write("a.jsonl", note("r1", text=TEXT), note("r2", text="nothing to hide"))))
    rows = query("select record_id, text, text_redacted from staging.records order by record_id")
    assert rows == [("r1", TEXT, REDACTED), ("r2", "nothing to hide", "nothing to hide")]


def test_redact_stores_no_other_text(
    write: Write, note: Note, make_source: MakeSource, stage: Stage, query: Query
) -> None:
    stage(
        make_source(
            write("a.jsonl", note("r1", text=TEXT), note("r2", text=None, gone=True)),
            text="redact",
            tombstone="gone",
        )
    )
    assert query("select text, text_redacted from staging.records order by record_id") == [
        (REDACTED, REDACTED),
        (None, None),
    ]


def test_what_is_redacted_alike_is_still_another_version(
    write: Write, note: Note, make_source: MakeSource, stage: Stage, query: Query
) -> None:
    later = note("r1", known="2026-01-02T10:00:00Z", text=TEXT.replace("jane", "june"))
    stage(make_source(write("a.jsonl", note("r1", text=TEXT), later), text="redact"))
    assert query(
        "select count(*), count(distinct text), count(distinct content_digest) from staging.records"
    ) == [(2, 1, 2)]


def test_any_other_word_is_refused(write: Write, note: Note, make_source: MakeSource) -> None:
    with pytest.raises(SourceError, match=r"text: .*keep.*redact"):
        make_source(write("a.jsonl", note()), text="hide")
