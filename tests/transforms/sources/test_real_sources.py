"""Real files, bytes untouched: commit messages, and non-UTF-8 tweets with bare carriage returns."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from transforms.sources.source import Source, load_source
from transforms.staging.accounting import recount
from transforms.staging.prepare import Account
from transforms.staging.quarantine import replay
from transforms.warehouse.tables import Warehouse

Load = Callable[..., Source]
Query = Callable[..., list[tuple[Any, ...]]]
Stage = Callable[[Source], Account]

SOURCES = Path(__file__).parents[2] / "sources"
TWEETS = {"tweets_obama": 3_207, "tweets_trump": 3_232, "tweets_mcgregor": 12_118}
NOT_UTF8 = {"tweets_obama": 1_378, "tweets_trump": 492}


@pytest.fixture
def load(shared: Path, tmp_path: Path) -> Load:
    """Load a source file of the tests on the shared data; keys may be changed, None removes one."""

    def run(name: str, **changes: object) -> Source:
        document = {**yaml.safe_load((SOURCES / f"{name}.yaml").read_text("utf-8"))}
        document["uri"] = document["uri"].replace("../../../shared", str(shared))
        kept = {key: value for key, value in {**document, **changes}.items() if value is not None}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(kept), "utf-8")
        return load_source(path)

    return run


def tweets(source: Source) -> list[dict[str, str]]:
    """Read a CSV file as Python's csv module does."""
    text = gzip.decompress(Path(source.uri).read_bytes()).decode(source.encoding)
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


@pytest.mark.parametrize("path", sorted(SOURCES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_source_file_is_named_as_its_source(path: Path) -> None:
    assert load_source(path).name == path.stem


def test_commits_are_staged_at_the_time_they_were_known(
    load: Load, shared: Path, stage: Stage, query: Query
) -> None:
    years = sorted((shared / "data" / "commits").glob("arrived=199[789].jsonl.zst"))
    schema = dict.fromkeys(
        ("commit_id", "authored_at", "committed_at", "reverts_sha", "message", "repo", "top_dir"),
        pl.String,
    )
    commits = pl.concat([pl.read_ndjson(year, schema=schema) for year in years])
    assert stage(
        load("commits", uri=f"{shared}/data/commits/arrived=199[789].jsonl.zst")
    ) == Account(commits.height, commits.height)
    columns = "strftime({}, '%Y-%m-%dT%H:%M:%SZ')"
    times = f"{columns.format('event_timestamp')}, {columns.format('known_timestamp')}"
    staged = query(f"select record_id, {times}, text, is_positive from staging.records")
    rows = commits.with_columns(is_revert=pl.col("reverts_sha").is_not_null())
    assert sorted(staged) == sorted(
        rows.select("commit_id", "authored_at", "committed_at", "message", "is_revert").rows()
    )


@pytest.mark.parametrize("name", TWEETS)
def test_tweets_are_staged_whole(load: Load, stage: Stage, query: Query, name: str) -> None:
    source = load(name)
    assert stage(source) == Account(read=TWEETS[name], staged=TWEETS[name])
    texts = query("select text, attributes from staging.records order by row_number")
    expected = tweets(source)
    assert [text for text, _ in texts] == [
        tweet["text"].replace("\r\n", "\n") for tweet in expected
    ]
    assert [json.loads(attributes) for _, attributes in texts] == [
        {key: tweet[key] for key in source.attributes} for tweet in expected
    ]
    assert any("\r" in text for text, _ in texts)


@pytest.mark.parametrize("name", NOT_UTF8)
def test_tweets_that_are_not_utf8_wait_in_quarantine_until_the_encoding_is_given(
    load: Load, warehouse: Warehouse, stage: Stage, query: Query, name: str
) -> None:
    n_tweets, n_bad = TWEETS[name], NOT_UTF8[name]
    assert stage(load(name, encoding=None)) == Account(n_tweets, n_tweets - n_bad, 0, n_bad)
    assert query("select distinct rule from quarantine.records") == [("not_utf8",)]
    assert replay(load(name), warehouse) == Account(n_bad, n_bad)
    counts = recount(warehouse).select(
        "n_read", "n_staged", "n_duplicates", "n_quarantined", "adds_up"
    )
    assert counts.rows() == [(n_tweets, n_tweets, 0, 0, True)]
    assert query("select count(*) from quarantine.records") == [(0,)]
