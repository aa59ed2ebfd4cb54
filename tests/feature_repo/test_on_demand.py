"""A text in a request has the features, to the bit, that the same text has in a batch's tables."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import httpx
import polars as pl
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from feature_repo import online_features, store
from tests.feature_repo.test_feast_cli import ROOT, free_port, serving
from transforms.errors import DerivedError, RefusedTextError
from transforms.features.engine.kernels import score
from transforms.features.on_demand import compute, on_demand_views
from transforms.home import Settings
from transforms.staging.mapping import WHITE_SPACE
from transforms.staging.treatment import note_treatment, refusal, treatments
from transforms.warehouse.tables import Warehouse

SHIPPED = ("record_quality", "record_text", "record_pii", "record_vector")
OWN = '''
"""Features of a record's text, label, attributes and time, and of another view."""
import polars as pl
from transforms.features import Field, RecordSql, RecordView, Service

class RecordShape(RecordView, reads=("text", "text_redacted", "label", "attributes",
                                     "event_timestamp", "record_quality.n_words")):
    "What a record looks like."
    n_letters: int = Field.count("Letters of text, label, attributes.")
    hour: int = Field.count("Hour at which it was written.")
    n_redacted: int = Field.count("Characters without identifiers.")
    twice: int = Field.count("Words, twice.")

    @staticmethod
    def compute(records: pl.LazyFrame) -> pl.LazyFrame:
        said = pl.concat_str("text", "label", "attributes", ignore_nulls=True)
        return records.with_columns(
            n_letters=said.str.count_matches("[A-Za-z]").cast(pl.Int64),
            hour=pl.col("written_timestamp").dt.hour().cast(pl.Int64),
            n_redacted=pl.col("text_redacted").str.len_chars().cast(pl.Int64),
            twice=2 * pl.col("record_quality__n_words"),
        )

commas = RecordSql("record_commas", {
    "n_commas": "length(text) - length(replace(text, ',', ''))",
    "language_known": "(record_text.language <> 'und')::integer",
})
of_id = RecordSql("record_of_id", {"id_length": "length(record_id)"})
of_author = RecordSql("record_of_author", {"author_length": "length(author_id)"})
own_v1 = Service("own_v1", [RecordShape, commas, "record_pii:pii_any"])
'''
ODD = [
    "The weather is lovely today, isn't it? See https://example.org or write to ann@example.org!",
    "Das ist nicht gut.\n\nDas ist nicht gut.\n- ein Punkt\n> zitiert…",
    "привет, как дела?\r\n😀😀 ```code``` {x} <b>bold</b> \u00a0",
    "日本語のテキスト 한국어 العربية",
    "a\x01b\x7f \ufeff\u200b\u2028c\ufffe e\u0301 ﬁ 𝔘",
    "tab\tcolumn\x0b\x0c \x1c \x85",
    "call +44 20 7946 0958, key AKIAABCDEFGHIJKLMNOP, 4111 1111 1111 1111",
    "no no no no no no NO GREAT good but BAD!!! ha ha ha ha ha ha ha ha ha ha ha ha",
    "x" * 5_000,
    "7",
    "<EMAIL_ADDRESS> <US_SSN>",
]


class Home(NamedTuple):
    """A real home, its records, and the requests that say the same; None is a tombstone's text."""

    root: Path
    requests: list[dict[str, Any]]
    environment: dict[str, str]

    def table(self, view: str) -> pl.DataFrame:
        """The features in a view's table, in the order of the requests."""
        rows = pl.read_delta(str(self.root / "features" / view))
        rows = rows.sort(pl.col("record_id").cast(pl.Int64))
        return rows.drop("record_id", "event_timestamp", "created_timestamp")

    def answered(self, view: str, requests: list[dict[str, Any]] | None = None) -> pl.DataFrame:
        """The features of a view as they are served for requests."""
        rows = self.requests if requests is None else requests
        names = self.table(view).columns
        found = online_features([f"{view}:{name}" for name in names], rows, self.root)
        return found.select(pl.col(f"{view}__{name}").alias(name) for name in names)


def texts() -> list[str | None]:
    """Odd texts, random ones of all planes of Unicode, one of a megabyte, and none."""
    drawn = random.Random(0)
    letters = [*range(1, 0xD800), *range(0xE000, 0x110000, 97)]
    found = [
        "x" + "".join(map(chr, drawn.choices(letters, k=drawn.randint(1, 80)))) for _ in range(80)
    ]
    words = "the cat sat on a mat but it was not good ".split() * 40
    found += [" ".join(drawn.choices(words, k=drawn.randint(1, 60))) for _ in range(80)]
    large = "".join(drawn.choices("abc, de.\nf😀é", k=700_000))
    return [*ODD, *found, large, None]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home of two runs with views of the user's own."""
    folder = tmp_path_factory.mktemp("on_demand")
    (folder / "features").mkdir()
    (folder / "features" / "own.py").write_text(OWN)
    requests = [
        {
            "text": text,
            "label": None if row % 3 else "bad",
            "attributes": None
            if text is None
            else json.dumps({"lang": f"l{row}"}, separators=(",", ":")),
            "event_timestamp": f"2026-01-0{1 + row % 9}T{row % 24:02}:00:{row % 60:02}Z",
        }
        for row, text in enumerate(texts())
    ]
    rows = [
        {
            "id": str(row),
            "author": "ann",
            "written": request["event_timestamp"],
            "text": request["text"],
            "label": request["label"],
            "lang": None if request["attributes"] is None else f"l{row}",
            "gone": request["text"] is None,
        }
        for row, request in enumerate(requests)
    ]
    (folder / "notes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    document = {
        "name": "notes",
        "uri": "notes.jsonl",
        "known": "at_event",
        "record": {
            "record_id": "id",
            "author_id": "author",
            "event_timestamp": "written",
            "text": "text",
            "label": "label",
        },
        "attributes": ["lang"],
        "tombstone": "gone",
    }
    (folder / "notes.yaml").write_text(yaml.safe_dump(document))
    environment = {**os.environ, "MILLRACE_FEATURES": str(folder / "features")}
    command = [sys.executable, "-m", "flows.cli", "run", "--plain", "--source"]
    command += [str(folder / "notes.yaml"), "--home", str(folder / "home")]
    subprocess.run(command, cwd=ROOT, check=True, env=environment, capture_output=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_FEATURES", environment["MILLRACE_FEATURES"])
        yield Home(folder / "home", requests, environment)


VIEWS = (*SHIPPED, "record_shape", "record_commas")


def test_every_view_that_reads_what_a_request_carries_is_served_on_demand(home: Home) -> None:
    assert set(on_demand_views()) == set(VIEWS)
    assert home.root.is_dir()


@pytest.mark.parametrize("view", VIEWS)
def test_many_texts_and_each_alone_are_answered_as_the_batch_computed_them(
    home: Home, view: str
) -> None:
    table = home.table(view)
    assert table.height == len(home.requests)
    assert_frame_equal(home.answered(view), table, check_exact=True)
    for row in [*range(0, len(home.requests), 7), len(home.requests) - 2, len(home.requests) - 1]:
        alone = home.answered(view, [home.requests[row]])
        assert_frame_equal(alone, table[row], check_exact=True)
