"""On the whole sample: loading order does not matter, and an instant sees nothing later."""

import random
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from transforms.features.build import featurize
from transforms.features.registry import views
from transforms.home import Settings
from transforms.schemas.staging import StagedRecord
from transforms.sources.ingest import ingest
from transforms.sources.source import load_source
from transforms.staging.prepare import prepare
from transforms.warehouse.publishing import publish
from transforms.warehouse.tables import Warehouse

ROOT = Path(__file__).parents[3]
OF_A_LOAD = ("load_id", "loaded_timestamp", "source_uri", "row_number")
NEW_HOME = Callable[[], Warehouse]


def load(folder: Path, source: Path, groups: Sequence[Sequence[Path]]) -> Warehouse:
    """Let a source's files arrive group by group, with a run after each."""
    data = folder / "data"
    data.mkdir(parents=True)
    text = (ROOT / source).read_text("utf-8").splitlines()
    (folder / "source.yaml").write_text(
        "\n".join("uri: data/*.jsonl.zst" if line.startswith("uri:") else line for line in text)
    )
    warehouse = Warehouse(Settings(home=folder / "home"))
    for group in groups:
        for file in group:
            shutil.copy(file, data)
        checked = load_source(folder / "source.yaml")
        ingest(checked, warehouse)
        prepare(checked, warehouse)
        featurize(warehouse, datetime.now(UTC))
    shutil.rmtree(data)
    return warehouse


def staged(warehouse: Warehouse) -> pl.DataFrame:
    """What is staged, without what a load adds."""
    return (
        pl.read_delta(str(warehouse.folder("staging.records")))
        .drop(OF_A_LOAD)
        .sort("record_id", "known_timestamp")
    )


def newest(warehouse: Warehouse, view: str) -> pl.DataFrame:
    rows = pl.read_delta(str(warehouse.folder(f"features.{view}"))).sort("created_timestamp")
    entity = next(name for name in rows.columns if name in {"record_id", "author_id", "subject_id"})
    return (
        rows.unique([entity, "event_timestamp"], keep="last")
        .drop("created_timestamp")
        .sort("event_timestamp", entity)
    )


def assert_same_values(
    one: pl.DataFrame, other: pl.DataFrame, before: datetime | None = None
) -> None:
    """Compare two views at every instant of either; a missing row equals counts of zero."""
    entity = next(name for name in one.columns if name in {"record_id", "author_id", "subject_id"})
    instants = (
        pl.concat([one, other])
        .select("event_timestamp", entity)
        .unique()
        .sort("event_timestamp", entity)
    )
    if before:
        instants = instants.filter(pl.col("event_timestamp") <= before)
    assert instants.height > 0
    found = [
        instants.join_asof(
            rows, on="event_timestamp", by=entity, check_sortedness=False
        ).with_columns(pl.col("^n_.*$").fill_null(0) if entity != "record_id" else pl.all())
        for rows in (one, other)
    ]
    differs = found[0].filter(
        ~pl.Series([a == b for a, b in zip(*(frame.iter_rows() for frame in found), strict=True)])
    )
    assert differs.is_empty(), differs


def assert_same(one: Warehouse, other: Warehouse) -> None:
    assert staged(one).equals(staged(other))
    for view in views():
        assert_same_values(newest(one, view.name), newest(other, view.name))


def grouped(files: Sequence[Path], n_groups: int) -> list[list[Path]]:
    return [list(files[start::n_groups]) for start in range(n_groups)]


@pytest.fixture(scope="module")
def sample_files() -> list[Path]:
    return sorted((ROOT / "sources" / "data" / "cve_events").glob("*.zst"))


@pytest.fixture(scope="module")
def sample_home(sample_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """The whole sample, loaded at once."""
    return load(tmp_path_factory.mktemp("sample"), Path("sources/cve_events.yaml"), [sample_files])


def test_days_of_the_sample_may_come_in_any_order(
    sample_home: Warehouse, sample_files: list[Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert len(sample_files) == 48
    chance = random.Random(48)  # noqa: S311 - a seed, so that a failure can be had again
    for number in range(request.config.getoption("--orders")):
        files = chance.sample(sample_files, len(sample_files))
        other = load(
            tmp_path / str(number),
            Path("sources/cve_events.yaml"),
            grouped(files, chance.randint(2, 5)),
        )
        assert_same(sample_home, other)


def test_years_of_commits_may_come_in_any_order(
    shared: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    years = sorted((shared / "data" / "commits").glob("*.zst"))[:4]
    source = Path("tests/sources/commits.yaml")
    in_order = load(tmp_path / "in_order", source, [[year] for year in years])
    chance = random.Random(1996)  # noqa: S311 - a seed
    for number in range(max(1, request.config.getoption("--orders") // 2)):
        assert_same(
            in_order,
            load(tmp_path / str(number), source, grouped(chance.sample(years, len(years)), 3)),
        )


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_nothing_written_or_known_after_an_instant_changes_what_was_true_of_it(
    sample_home: Warehouse, new_home: NEW_HOME, share: float
) -> None:
    rows = pl.read_delta(str(sample_home.folder("staging.records"))).sort(
        "known_timestamp", "record_id"
    )
    instant = rows["known_timestamp"][int(share * rows.height)]
    is_past = (pl.col("known_timestamp") < instant) & (pl.col("event_timestamp") < instant)
    past, future = rows.filter(is_past), rows.filter(~is_past)
    assert min(past.height, future.height) > 1000
    number = pl.int_range(pl.len())
    # a third never comes; the others say something else, by and about somebody else
    altered = future.filter(number % 3 != 0).with_columns(
        text=pl.when(~pl.col("is_tombstone")).then(pl.lit("altered")),
        author_id=pl.col("author_id").reverse(),
        subject_id=pl.col("subject_id").shuffle(seed=1),
        is_positive=~pl.col("is_positive"),
        content_digest=pl.format("altered {}", number),
    )
    warehouse = new_home()
    table = pl.concat([past, altered]).to_arrow().cast(StagedRecord.arrow_schema())
    publish(warehouse, StagedRecord, table.to_batches(), {})
    featurize(warehouse, datetime.now(UTC))
    for view in (view.name for view in views()):
        one, other = newest(sample_home, view), newest(warehouse, view)
        assert not one.equals(other)
        # a record of that very instant has its own features then, and counts a microsecond later
        until = instant - pl.Series([1]).cast(pl.Duration("us"))[0]
        assert_same_values(one, other, before=until)
