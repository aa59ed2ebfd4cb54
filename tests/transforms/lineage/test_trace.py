"""Lineage: what is listed behind a value adds up to it, and a tampered value does not pass."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest

from transforms.errors import MillraceError
from transforms.features.build import featurize
from transforms.features.registry import views
from transforms.home import Settings
from transforms.lineage.trace import parse_reference, trace_feature, trace_file, trace_record
from transforms.sources.ingest import ingest
from transforms.sources.source import load_source
from transforms.staging.prepare import prepare
from transforms.warehouse.tables import Warehouse

BEGIN = datetime(2026, 1, 1, 10, tzinfo=UTC)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
KEYS = {view.name: view.entity.columns[0] for view in views()}
RECORD = (
    "{record_id: id, author_id: author, subject_id: subject, event_timestamp: written, text: "
    "text, label: label}"
)
# versions here may differ in all that they say
CHECKS = "max_collision_ratio: 1"
SOURCE = (
    f"name: notes\nuri: notes\nknown: {{column: known}}\nrecord: {RECORD}\npositive_labels: "
    f"[bad]\ntombstone: gone\n{CHECKS}\n"
)
Note = Callable[..., bytes]


def at(days: float) -> datetime:
    return BEGIN + timedelta(days=days)


def iso(days: float) -> str:
    return at(days).isoformat()


def load(folder: Path, name: str, *rows: bytes) -> Warehouse:
    """Write a file of notes and take it all the way to the features of the folder's home."""
    warehouse = stage(folder, name, *rows)
    # of two rows of an instant the later applies
    featurize(warehouse, NOW + timedelta(minutes=len(list((folder / "notes").iterdir()))))
    return warehouse


def stage(folder: Path, name: str, *rows: bytes) -> Warehouse:
    (folder / "notes").mkdir(exist_ok=True)
    (folder / "notes" / name).write_bytes(b"".join(row + b"\n" for row in rows))
    (folder / "source.yaml").write_text(SOURCE)
    source, warehouse = (
        load_source(folder / "source.yaml"),
        Warehouse(Settings(home=folder / "home")),
    )
    ingest(source, warehouse)
    prepare(source, warehouse)
    return warehouse


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, note: Note) -> Path:
    """Two records of ann, one later corrected to bob, and a row without text. Read only."""
    folder = tmp_path_factory.mktemp("finished")
    first = note("r1", written=iso(0), known=iso(0), gone=False, text="one two", label="bad")
    other = note("r2", written=iso(1), known=iso(1), gone=False, text="three", subject=None)
    load(folder, "first.jsonl", first, other, note("r1", text="", gone=False))
    load(
        folder,
        "second.jsonl",
        note("r1", author="bob", written=iso(0), known=iso(3), gone=False, text="one"),
    )
    return folder


@pytest.fixture
def home(finished: Path) -> Warehouse:
    """The finished home, to read."""
    return Warehouse(Settings(home=finished / "home"))


@pytest.fixture
def own_home(finished: Path, tmp_path: Path) -> Warehouse:
    """A copy of the finished home, to change."""
    shutil.copytree(finished / "home", tmp_path / "home")
    return Warehouse(Settings(home=tmp_path / "home"))


def random_note(random: Random, note: Note) -> bytes:
    """Versions of few records, known in any order, even before written; some are tombstones."""
    written = random.uniform(0, 60)
    return note(
        f"r{random.randrange(25)}",
        author=f"a{random.randrange(3)}",
        subject=random.choice([None, "s0", "s1"]),
        written=iso(written),
        known=iso(written + random.choice([0, -1, 1, 8, 30]) * random.random()),
        text="words " * random.randrange(1, 5),
        label=random.choice([None, "bad"]),
        gone=random.random() < 0.15,
    )


def test_every_feature_adds_up_to_its_records_at_any_instant(tmp_path: Path, note: Note) -> None:
    random = Random(7)  # noqa: S311 - no secret
    for name in ("first.jsonl", "second.jsonl"):
        warehouse = load(tmp_path, name, *(random_note(random, note) for _ in range(60)))
    for view, key in KEYS.items():
        rows = pl.read_delta(str(warehouse.folder(f"features.{view}"))).sort(key, "event_timestamp")
        for entity in rows[key].unique().sort()[:3]:
            change = random.choice(rows.filter(pl.col(key) == entity)["event_timestamp"].to_list())
            for instant in (change, change - timedelta(microseconds=1), at(random.uniform(0, 90))):
                traced = trace_feature(warehouse, view, entity, instant, limit=1000)
                assert traced.mismatches == []
                assert len(traced.records) == traced.n_records
                of_table = {value.feature: value.value for value in traced.values}
                if key != "record_id":
                    for window in ("1d", "7d", "28d", "lifetime"):
                        counted = [record for record in traced.records if window in record.windows]
                        assert len(counted) == of_table[f"n_records_{window}"]
                        assert (
                            sum(record.inputs["record_quality.n_words"] or 0 for record in counted)
                            == of_table[f"n_words_{window}"]
                        )


def test_one_feature_lists_the_records_of_its_window(home: Warehouse) -> None:
    traced = trace_feature(home, "author_activity", "ann", at(1.5), feature="n_words_1d")
    assert [(value.feature, value.value, value.by_records) for value in traced.values] == [
        ("n_words_1d", 1, 1)
    ]
    (record,) = traced.records
    assert (record.record_id, record.row_number, record.windows) == (
        "r2",
        2,
        ["1d", "7d", "28d", "lifetime"],
    )
    assert record.inputs == {"record_quality.n_words": 1, "record_quality.n_characters": 5}
    whole = trace_feature(home, "author_activity", "ann", at(1.5), limit=1)
    assert ([record.record_id for record in whole.records], whole.n_records) == (["r2"], 2)


def test_record_is_traced_to_its_files_and_to_where_it_counts(home: Warehouse) -> None:
    traced = trace_record(home, "r1")
    first, second = traced.versions
    assert [Path(version.source_uri).name for version in traced.versions] == [
        "first.jsonl",
        "second.jsonl",
    ]
    assert (first.author_id, first.row_number, first.text) == ("ann", 1, None)
    superseded = at(3) + timedelta(microseconds=1)
    assert first.counts_from == at(0) + timedelta(microseconds=1)
    assert first.counts_until == {
        "1d": at(1),
        "7d": superseded,
        "28d": superseded,
        "lifetime": superseded,
    }
    assert (second.author_id, second.counts_from) == ("bob", superseded)
    assert second.counts_until == {
        "7d": at(7),
        "28d": datetime(2026, 1, 30, tzinfo=UTC),
        "lifetime": None,
    }
    assert [row["event_timestamp"] for row in traced.quality_rows] == [at(0), at(3)]
    (rejected,) = traced.quarantined
    assert (
        Path(rejected.source_uri).name,
        rejected.row_number,
        rejected.column,
        rejected.rule,
    ) == ("first.jsonl", 3, "text", "empty")
    assert "text: empty" in traced.rules
    assert [version.text for version in trace_record(home, "r1", with_text=True).versions] == [
        "one two",
        "one",
    ]
    assert "one two" not in traced.model_dump_json()


def test_file_is_traced_to_the_rows_that_rest_on_it(home: Warehouse) -> None:
    traced = trace_file(home, "first.jsonl")
    ((load),) = traced.loads
    assert (load.n_read, load.n_staged, load.n_duplicates, load.n_quarantined) == (3, 2, 0, 1)
    assert (traced.n_records, traced.n_authors, traced.n_subjects) == (2, 1, 1)
    assert trace_file(home, "second.jsonl").n_records == 1
    for view in traced.views:
        assert (view.n_rows, view.n_entities) == rows_with_a_record_of(
            home, view.view, traced.source_uri
        )


def rows_with_a_record_of(warehouse: Warehouse, view: str, uri: str) -> tuple[int, int]:
    """Trace every row of a view, and count those that list a record of a file."""
    rows = (
        pl.read_delta(str(warehouse.folder(f"features.{view}")))
        .select(KEYS[view], "event_timestamp")
        .unique()
    )
    found = [
        entity
        for entity, instant in rows.iter_rows()
        if any(
            record.source_uri == uri
            for record in trace_feature(warehouse, view, entity, instant).records
        )
    ]
    return len(found), len(set(found))


def test_staged_records_that_no_view_has_seen_are_not_counted(tmp_path: Path, note: Note) -> None:
    warehouse = load(tmp_path, "first.jsonl", note("r1", written=iso(0), known=iso(0), gone=False))
    stage(tmp_path, "second.jsonl", note("r2", written=iso(1), known=iso(1), gone=False))
    traced = trace_feature(warehouse, "author_activity", "ann", at(2))
    assert (traced.mismatches, traced.n_records) == ([], 1)
    assert len(trace_record(warehouse, "r2").versions) == 1
    featurize(warehouse, NOW + timedelta(days=1))
    traced = trace_feature(warehouse, "author_activity", "ann", at(2))
    assert (traced.mismatches, traced.n_records) == ([], 2)


@pytest.mark.parametrize(
    ("view", "entity", "tamper", "feature"),
    [
        ("author_activity", "ann", pl.col("n_records_7d") + 1, "n_records_7d"),
        (
            "author_activity",
            "ann",
            pl.col("positive_ratio_lifetime") * 0.5,
            "positive_ratio_lifetime",
        ),
        (
            "author_activity",
            "ann",
            pl.col("event_timestamp") + pl.duration(days=30),
            "n_records_lifetime",
        ),
        ("record_quality", "r1", pl.col("n_characters") + 1, "n_characters"),
        ("record_duplicates", "r1", pl.col("dup_cluster_size") + 1, "dup_cluster_size"),
        ("record_quality", "r1", pl.col("event_timestamp") + pl.duration(days=30), "n_words"),
    ],
)
def test_tampered_values_do_not_add_up(
    own_home: Warehouse, view: str, entity: str, tamper: pl.Expr, feature: str
) -> None:
    assert trace_feature(own_home, view, entity, at(1.5)).mismatches == []
    for file in own_home.files(f"features.{view}"):
        pl.read_parquet(file).with_columns(tamper).write_parquet(file)
    assert feature in {
        line.split()[0] for line in trace_feature(own_home, view, entity, at(1.5)).mismatches
    }


@pytest.mark.parametrize(
    ("trace", "words"),
    [
        (lambda home: trace_record(home, "R1"), "no record has this id"),
        (
            lambda home: trace_feature(home, "author_activity", "Ann", NOW),
            "has no such author_id",
        ),
        (
            lambda home: trace_feature(home, "activity", "ann", NOW),
            "activity: is no feature view; there are record_duplicates, ",
        ),
        (lambda home: trace_file(home, "notes"), "notes: no such file has been staged"),
        (lambda home: trace_file(home, "irst.jsonl"), "no such file"),
        (lambda _home: parse_reference("author_activity"), "names no entity"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(
    home: Warehouse, trace: Callable[[Warehouse], Any], words: str
) -> None:
    with pytest.raises(MillraceError, match=words):
        trace(home)


def test_a_home_without_features_says_so(tmp_path: Path, note: Note) -> None:
    with pytest.raises(MillraceError, match="no features are computed yet"):
        trace_record(stage(tmp_path, "first.jsonl", note(gone=False)), "r1")


def test_a_view_that_is_declared_since_is_refused_and_no_other(
    home: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imports = (
        "from transforms.features import Count, GroupBy, days\nfrom transforms.features.entities "
        "import author\n"
    )
    (tmp_path / "more.py").write_text(
        f'{imports}more = GroupBy("author_more", author, [Count("n_notes")], [days(2)])\n'
    )
    monkeypatch.setenv("MILLRACE_FEATURES", str(tmp_path))
    assert trace_feature(home, "author_activity", "ann", at(1.5)).mismatches == []
    assert "author_more" not in {view.view for view in trace_file(home, "first.jsonl").views}
    with pytest.raises(
        MillraceError, match=r"features\.author_more: is declared but not computed yet"
    ):
        trace_feature(home, "author_more", "ann", at(1.5))


def test_references_are_taken_apart() -> None:
    assert parse_reference("author_activity:ann") == ("author_activity", None, "ann")
    assert parse_reference("author_activity:n_words_7d:ann") == (
        "author_activity",
        "n_words_7d",
        "ann",
    )
    assert parse_reference("author_activity:urn:ann:1") == ("author_activity", None, "urn:ann:1")
    assert parse_reference("author_activity:n_words_7d:urn:ann") == (
        "author_activity",
        "n_words_7d",
        "urn:ann",
    )
