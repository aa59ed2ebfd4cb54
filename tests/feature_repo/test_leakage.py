"""Training sets contain nothing of the future or of the row itself, and every spine row."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from feature_repo import training_set
from transforms.features.build import featurize
from transforms.features.registry import views
from transforms.warehouse.tables import Warehouse

SERVICE = "triage_v1"
ACTIVITY = [
    f"{view}:{name}"
    for view in ("author_activity", "subject_activity")
    for name in ("n_records_lifetime", "positive_ratio_lifetime")
]
LATER = datetime(2024, 9, 2, tzinfo=UTC)


def features_of(
    warehouse: Warehouse, spine: Any, features: list[str] | str = SERVICE
) -> pl.DataFrame:
    return training_set(spine, features, warehouse.settings.root).frame


# --- nothing of the future ---


def shuffled(future: pl.DataFrame) -> pl.DataFrame:
    """Texts, labels and authors change places."""
    return future.with_columns(
        pl.col("text", "label", "is_positive", "author_id", "subject_id").shuffle(seed=1)
    )


def altered(future: pl.DataFrame) -> pl.DataFrame:
    return future.with_columns(
        text=pl.lit("altered"), is_positive=~pl.col("is_positive"), is_tombstone=pl.lit(value=False)
    )


def deleted(future: pl.DataFrame) -> pl.DataFrame:
    return future.clear()


@pytest.mark.parametrize("change", [shuffled, altered, deleted])
@pytest.mark.parametrize("quantile", [0.3, 0.7])
def test_future_does_not_reach_the_past(
    small: Warehouse,
    staged: pl.DataFrame,
    spine: pl.DataFrame,
    home_of: Callable[..., Warehouse],
    change: Callable[..., pl.DataFrame],
    quantile: float,
) -> None:
    instant = staged["known_timestamp"].sort()[int(quantile * staged.height)]
    is_future = pl.col("known_timestamp") > instant
    other = home_of(pl.concat([staged.filter(~is_future), change(staged.filter(is_future))]))
    # all rows of the past, and all entities at the very last instant of it
    past = pl.concat(
        [
            spine.filter(pl.col("event_timestamp") <= instant),
            spine.with_columns(event_timestamp=pl.lit(instant)),
        ]
    )
    assert 0 < staged.filter(is_future).height < staged.height
    assert_frame_equal(features_of(small, past), features_of(other, past), check_exact=True)


def test_future_does_reach_the_future(
    small: Warehouse, staged: pl.DataFrame, spine: pl.DataFrame, home_of: Callable[..., Warehouse]
) -> None:
    instant = staged["known_timestamp"].sort()[staged.height // 2]
    other = home_of(staged.filter(pl.col("known_timestamp") <= instant))
    end = spine.with_columns(event_timestamp=pl.lit(LATER))
    assert not features_of(small, end, ACTIVITY).equals(features_of(other, end, ACTIVITY))


# --- nothing of the row itself ---


@pytest.fixture(scope="module")
def planted(staged: pl.DataFrame) -> pl.DataFrame:
    """Staged records whose label follows from the key alone, so that a leak of it shows."""
    return staged.with_columns(
        is_positive=pl.col("record_id").str.slice(-1).is_in(list("13579")) & ~pl.col("is_tombstone")
    )


def without_itself(
    records: list[dict[str, Any]], row: dict[str, Any], key: str
) -> tuple[int, float | None]:
    """An entity's records at a row's instant and their positive share, without the row's record."""
    known = sorted(
        (r for r in records if r["known_timestamp"] < row["event_timestamp"]),
        key=lambda r: r["known_timestamp"],
    )
    newest = {r["record_id"]: r for r in known if r["record_id"] != row["record_id"]}.values()
    mine = [
        r["is_positive"]
        for r in newest
        if r[key] is not None
        and r[key] == row[key]
        and not r["is_tombstone"]
        and r["event_timestamp"] < row["event_timestamp"]
    ]
    return len(mine), sum(mine) / len(mine) if mine else None


@pytest.mark.parametrize("level", ["author", "subject"])
def test_record_does_not_see_itself_nor_its_label(
    planted: pl.DataFrame, spine: pl.DataFrame, home_of: Callable[..., Warehouse], level: str
) -> None:
    view = f"{level}_activity"
    rows = features_of(
        home_of(planted), spine, [f"{view}:n_records_lifetime", f"{view}:positive_ratio_lifetime"]
    ).to_dicts()
    records = planted.to_dicts()
    found = [
        (row[f"{view}__n_records_lifetime"] or 0, row[f"{view}__positive_ratio_lifetime"])
        for row in rows
    ]
    assert found == [without_itself(records, row, f"{level}_id") for row in rows]
    assert len({ratio for _, ratio in found}) > 2


def test_author_with_one_record_has_nothing_at_its_instant_and_one_after(
    small: Warehouse, staged: pl.DataFrame, spine: pl.DataFrame
) -> None:
    single = spine.filter(pl.len().over("author_id") == 1)
    single = single.join(
        staged.group_by("record_id").len().filter(len=1), on="record_id", how="semi"
    )
    assert single.height > 0
    at = features_of(small, single, ACTIVITY)
    after = features_of(
        small,
        single.with_columns(pl.col("event_timestamp") + pl.duration(microseconds=1)),
        ACTIVITY,
    )
    assert set(at["author_activity__n_records_lifetime"]) == {0}
    assert set(at["author_activity__positive_ratio_lifetime"]) == {None}
    assert set(after["author_activity__n_records_lifetime"]) == {1}


def test_record_has_its_own_quality_at_its_instant_and_not_before(
    small: Warehouse, spine: pl.DataFrame
) -> None:
    before = spine.with_columns(pl.col("event_timestamp") - pl.duration(microseconds=1))
    assert (
        features_of(small, spine, ["record_quality:n_words"])[
            "record_quality__n_words"
        ].null_count()
        == 0
    )
    assert (
        features_of(small, before, ["record_quality:n_words"])[
            "record_quality__n_words"
        ].null_count()
        == spine.height
    )


# --- every spine row comes back ---


def test_spine_comes_back_in_order_with_duplicates_and_extra_columns(
    small: Warehouse, spine: pl.DataFrame
) -> None:
    mixed = pl.concat([spine, spine.head(7)]).sample(fraction=1, shuffle=True, seed=3)
    row = pl.int_range(pl.len())
    wide = mixed.with_columns(
        small=row.cast(pl.Int32),
        maybe=pl.when(row % 2 == 0).then(row),
        day=pl.col("event_timestamp").dt.date(),
        parts=pl.concat_list("author_id", "record_id"),
        share=row / 3,
        raw=pl.lit(b"\xff"),
        nothing=pl.lit(None),
    )
    assert_frame_equal(features_of(small, wide).select(wide.columns), wide, check_exact=True)


def test_equal_spine_rows_get_equal_features(small: Warehouse, spine: pl.DataFrame) -> None:
    twice = features_of(small, pl.concat([spine, spine]))
    assert_frame_equal(twice[: spine.height], twice[spine.height :], check_exact=True)


def test_null_keys_give_nulls_and_unknown_ones_no_records(
    small: Warehouse, spine: pl.DataFrame
) -> None:
    row = spine.with_columns(event_timestamp=pl.lit(LATER)).head(1)
    rows = pl.concat(
        [
            row,
            row.with_columns(author_id=pl.lit(None, pl.String)),
            row.with_columns(author_id=pl.lit("nobody")),
        ]
    )
    found = features_of(small, rows, ACTIVITY)
    assert found["author_activity__n_records_lifetime"].to_list()[1:] == [None, 0]
    assert found["author_activity__positive_ratio_lifetime"].is_null().to_list() == [
        False,
        True,
        True,
    ]


def test_column_of_nothing_but_null_keys_gives_nulls(small: Warehouse, spine: pl.DataFrame) -> None:
    found = features_of(small, spine.with_columns(subject_id=pl.lit(None)), ACTIVITY)
    assert found["subject_activity__n_records_lifetime"].null_count() == spine.height
    assert found["subject_activity__n_records_lifetime"].dtype == pl.Int64


def test_null_instant_gives_nulls(small: Warehouse, spine: pl.DataFrame) -> None:
    blank = spine.with_columns(event_timestamp=pl.lit(None, pl.Datetime("us", "UTC")))
    assert (
        features_of(small, blank, ACTIVITY)["author_activity__n_records_lifetime"].null_count()
        == spine.height
    )


def test_empty_spine_gives_an_empty_frame_with_all_columns(
    small: Warehouse, spine: pl.DataFrame
) -> None:
    assert features_of(small, spine.clear()).schema == features_of(small, spine).schema


def test_missing_key_is_named(small: Warehouse, spine: pl.DataFrame) -> None:
    with pytest.raises(ValueError, match="no column 'author_id', which view author_activity needs"):
        features_of(small, spine.drop("author_id"))


def test_instant_that_is_no_timestamp_is_named(small: Warehouse, spine: pl.DataFrame) -> None:
    with pytest.raises(
        ValueError,
        match=r"^column 'event_timestamp' is int64: a number, which does not say its unit",
    ):
        features_of(small, spine.with_columns(pl.col("event_timestamp").dt.epoch("s")), ACTIVITY)


def test_instant_in_text_is_the_instant(small: Warehouse, spine: pl.DataFrame) -> None:
    text = spine.with_columns(pl.col("event_timestamp").dt.to_string("iso:strict"))
    assert (
        features_of(small, text, ACTIVITY)
        .drop("event_timestamp")
        .equals(features_of(small, spine, ACTIVITY).drop("event_timestamp"))
    )


# --- whatever form it has ---

QUERY = """
    select record_id, author_id, subject_id, max(known_timestamp) as event_timestamp
    from staging.records
    group by record_id, author_id, subject_id order by record_id, author_id, subject_id
"""


@pytest.mark.parametrize("form", ["polars", "lazy", "pandas", "arrow", "pandas_ns", "categorical"])
def test_all_forms_of_a_spine_give_the_same_features(small: Warehouse, form: str) -> None:
    reference = features_of(small, QUERY)
    asked = reference.select("record_id", "author_id", "subject_id", "event_timestamp")
    frames: dict[str, Any] = {
        "polars": asked,
        "lazy": asked.lazy(),
        "pandas": asked.to_pandas(),
        "arrow": asked.to_arrow(),
        "pandas_ns": asked.to_pandas().astype({"event_timestamp": "datetime64[ns, UTC]"}),
        "categorical": asked.with_columns(pl.col("author_id").cast(pl.Categorical)),
    }
    features = [name for name in reference.columns if "__" in name]
    assert_frame_equal(
        features_of(small, frames[form]).select(features),
        reference.select(features),
        check_exact=True,
    )


def test_naive_times_count_as_utc_and_zones_as_what_they_say(
    small: Warehouse, spine: pl.DataFrame
) -> None:
    naive = spine.with_columns(pl.col("event_timestamp").dt.replace_time_zone(None))
    tokyo = spine.with_columns(pl.col("event_timestamp").dt.convert_time_zone("Asia/Tokyo"))
    expected = features_of(small, spine, ACTIVITY).drop("event_timestamp")
    for form in (naive, tokyo, naive.to_pandas()):
        assert_frame_equal(
            features_of(small, form, ACTIVITY).drop("event_timestamp"), expected, check_exact=True
        )


# --- time to live ---


# --- the lock ---


def test_lock_is_equal_for_equal_inputs_and_changes_with_the_spine(
    small: Warehouse, spine: pl.DataFrame
) -> None:
    home = small.settings.root
    lock = training_set(spine, SERVICE, home).lock
    assert training_set(spine.clone(), SERVICE, home).lock == lock
    assert training_set(spine.rechunk().head(spine.height), SERVICE, home).lock == lock
    other = spine.with_columns(pl.col("event_timestamp") + pl.duration(microseconds=1))
    changed = {
        name
        for name, value in training_set(other, SERVICE, home).lock.items()
        if value != lock[name]
    }
    assert changed == {"spine", "result"}


def test_lock_does_not_depend_on_chunks(small: Warehouse, spine: pl.DataFrame) -> None:
    halves = pa.concat_tables([spine[:50].to_arrow(), spine[50:].to_arrow()])
    locks = [
        training_set(table, ACTIVITY, small.settings.root).lock
        for table in (halves, halves.combine_chunks())
    ]
    assert locks[0] == locks[1]


def test_lock_changes_with_the_features_and_with_table_versions(
    staged: pl.DataFrame,
    spine: pl.DataFrame,
    home_of: Callable[..., Warehouse],
    stage: Callable[..., Warehouse],
) -> None:
    warehouse = home_of(staged.head(5))
    made = training_set(spine, ACTIVITY, warehouse.settings.root)
    first = made.lock
    fewer = training_set(spine, ACTIVITY[::2], warehouse.settings.root).lock
    assert {name for name in first if first[name] != fewer[name]} == {"features", "result"}
    featurize(stage(warehouse, staged[5:10]), LATER)
    second = training_set(spine, ACTIVITY, warehouse.settings.root).lock
    assert {name for name in first if first[name] != second[name]} == {"tables", "result"}
    again = training_set(spine, ACTIVITY, warehouse.settings.root, as_of_versions=first["tables"])
    assert again.lock == first
    assert_frame_equal(again.frame, made.frame, check_exact=True)


def test_training_set_beside_a_run_reads_views_of_one_staging_version(
    staged: pl.DataFrame,
    spine: pl.DataFrame,
    home_of: Callable[..., Warehouse],
    stage: Callable[..., Warehouse],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warehouse = home_of(staged.head(5))
    before = training_set(spine, SERVICE, warehouse.settings.root)
    stage(warehouse, staged[5:10])
    with monkeypatch.context() as patched:  # a run that has come as far as the first view
        patched.setattr(
            "transforms.features.build.stale_views", lambda _warehouse, _wanted=None: [views()[0]]
        )
        featurize(warehouse, LATER)
    beside = training_set(spine, SERVICE, warehouse.settings.root)
    assert beside.lock == before.lock
    assert_frame_equal(beside.frame, before.frame, check_exact=True)
    featurize(warehouse, LATER)
    assert (
        training_set(spine, SERVICE, warehouse.settings.root).lock["tables"]
        != before.lock["tables"]
    )


def test_pandas_and_polars_frames_do_not_change_under_the_join(
    small: Warehouse, spine: pl.DataFrame
) -> None:
    frame = spine.to_pandas()
    copy = frame.copy()
    features_of(small, frame, ACTIVITY)
    pd.testing.assert_frame_equal(frame, copy)
