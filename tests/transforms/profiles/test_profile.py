"""Profiles add up, give quantiles to 1 %, survive a kill, and never contain a text."""

import itertools
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.transforms.conftest import KilledError
from transforms.features.build import featurize
from transforms.features.views.record_quality import RecordQuality
from transforms.home import Settings
from transforms.profiles import profile
from transforms.profiles.profile import (
    as_profiles,
    count,
    merge,
    quantiles,
    sketch_values,
    sketched,
    store,
)
from transforms.schemas.profiles import ColumnProfile
from transforms.sources.ingest import ingest
from transforms.sources.source import Source
from transforms.staging.prepare import Account, prepare
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

NUMBERS = st.lists(
    st.floats(-1e12, 1e12, allow_nan=False).filter(
        lambda number: number == 0 or abs(number) > 1e-6
    ),
    min_size=1,
)
PLANTED = "kingfisher"
CREATED = pl.Datetime("us", "UTC")


def counted(numbers: Sequence[float | None]) -> pl.DataFrame:
    frame = pl.DataFrame(
        {"load_id": ["l"] * len(numbers), "number": numbers},
        schema={"load_id": pl.String, "number": pl.Float64},
    )
    return count(frame.lazy(), ["load_id"], [sketched("number", pl.col("number"))])


@given(NUMBERS, st.floats(0, 1))
@example([-3.0, 0.0, 5.0], 0.5)
def test_quantiles_are_within_one_percent(numbers: list[float], share: float) -> None:
    counts = counted(numbers)
    (estimate,) = quantiles(counts["key"].to_list(), counts["n"].to_list(), [share])
    exact = sorted(numbers)[int(np.floor(share * (len(numbers) - 1)))]
    assert estimate == pytest.approx(exact, rel=0.01 + 1e-9)


@given(NUMBERS, st.data())
def test_profiles_of_parts_in_any_order_add_up_to_that_of_the_whole(
    numbers: list[float], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(numbers)), max_size=4)))
    parts = [numbers[first:last] for first, last in itertools.pairwise([0, *cuts, len(numbers)])]
    merged = merge([counted(part) for part in data.draw(st.permutations(parts))])
    order = ["column", "key"]
    assert merged.sort(order).equals(counted(numbers).sort(order), null_equal=True)


def test_what_is_no_number_is_counted_as_none() -> None:
    counts = counted([None, float("nan"), float("inf"), 0.0, -1e-12, 2.0])
    assert dict(counts.select("key", "n").rows()) == {None: 3, "0": 2, "p35": 1}
    assert sketch_values(["n35", "0", "p35"]) == pytest.approx([-2, 0, 2], rel=0.01)


@pytest.fixture
def profiles(warehouse: Warehouse) -> Callable[[], dict[str, dict[str, Any]]]:
    """The newest load's profile, by column."""

    def read() -> dict[str, dict[str, Any]]:
        rows = pl.read_delta(str(warehouse.folder("profiles.columns"))).filter(
            relation="staging.records"
        )
        newest = rows.filter(pl.col("loaded_timestamp") == pl.col("loaded_timestamp").max())
        return {
            row["column"]: {
                **row,
                **dict(zip(row["bucket_keys"], row["bucket_counts"], strict=True)),
            }
            for row in newest.to_dicts()
        }

    return read


Profiles = Callable[[], dict[str, dict[str, Any]]]
Stage = Callable[[Source], Account]
Note = Callable[..., bytes]
Write = Callable[..., Path]
MakeSource = Callable[..., Source]


def test_load_is_profiled_by_what_became_of_its_rows_and_what_is_in_them(
    make_source: MakeSource, write: Write, note: Note, stage: Stage, profiles: Profiles
) -> None:
    rows = [
        note("r1", text="The cat sat on the mat and looked at the garden", label="good"),
        note("r1", text="The cat sat on the mat and looked at the garden", label="good"),
        note(
            "r2",
            text="Write to ann@example.com about the garden today",
            label="bad",
            written="2026-01-01T09:59:00Z",
        ),
        note("r3", text="Die Katze saß auf der Matte und sah in den Garten", subject=None),
        note("r4", written="never"),
    ]
    stage(make_source(write("notes.jsonl", *rows)))
    found = profiles()
    outcome = found["outcome"]
    assert {key: outcome[key] for key in outcome["bucket_keys"]} == {
        "staged": 3,
        "duplicate": 1,
        "quarantined:not_a_time": 1,
    }
    assert (outcome["n_rows"], found["n_bytes"]["n_rows"], found["n_words"]["n_rows"]) == (5, 4, 4)
    assert (found["label"]["good"], found["label"]["bad"], found["label"]["n_null"]) == (2, 1, 1)
    assert (found["subject_id"]["present"], found["subject_id"]["n_null"]) == (3, 1)
    assert (found["is_repeated_nearby"]["true"], found["is_repeated_nearby"]["false"]) == (1, 3)
    assert (found["language"]["en"], found["language"]["de"], found["script"]["Latn"]) == (3, 1, 4)
    assert (found["pii"]["EMAIL_ADDRESS"], found["pii"]["none"]) == (1, 3)
    late = found["lateness_seconds"]
    assert quantiles(late["bucket_keys"], late["bucket_counts"], [0, 1]) == pytest.approx(
        [0, 60], rel=0.01
    )
    assert "vocabulary" not in found  # of so few texts it would say much about each


def test_rows_rejected_for_a_new_field_count_in_outcomes_alone(
    make_source: MakeSource, write: Write, note: Note, stage: Stage, profiles: Profiles
) -> None:
    source = make_source(write("a.jsonl", note("r1", text="tea")).parent / "*.jsonl")
    stage(source.model_copy(update={"schema_policy": "quarantine"}))
    write("b.jsonl", note("r2", text="tea"), note("r3", text="tea", extra="x"))
    stage(source.model_copy(update={"schema_policy": "quarantine"}))
    rows = {name: column["n_rows"] for name, column in profiles().items()}
    assert rows.pop("outcome") == 2
    assert set(rows.values()) == {1}


def test_vocabulary_counts_the_texts_with_a_word_of_a_bucket(
    make_source: MakeSource, write: Write, note: Note, stage: Stage, profiles: Profiles
) -> None:
    rows = [
        note(f"r{n}", text=f"Garden garden {'heron' if n % 2 else 'stork'}") for n in range(30)
    ] + [note("none", text="123")]
    stage(make_source(write("notes.jsonl", *rows)))
    vocabulary = profiles()["vocabulary"]
    assert sorted(vocabulary["bucket_counts"]) == [15, 15, 30]
    assert (vocabulary["n_rows"], vocabulary["n_null"]) == (31, 0)


def test_expensive_statistics_come_from_a_sample_that_is_the_same_every_time(
    make_source: MakeSource,
    write: Write,
    note: Note,
    stage: Stage,
    profiles: Profiles,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profile, "SAMPLED_ROWS", 40)
    rows = [note(f"r{n}", text="word " * (1 + n % 9)) for n in range(200)]
    stage(make_source(write("notes.jsonl", *rows)))
    first = profiles()
    stage(make_source(write("other.jsonl", *rows), name="others", ids="own"))
    second = profiles()
    assert (first["n_words"]["n_rows"], first["n_bytes"]["n_rows"]) == (40, 200)
    assert first["n_words"]["bucket_counts"] == second["n_words"]["bucket_counts"]


def test_batches_of_any_size_give_the_same_profiles(
    make_source: MakeSource,
    write: Write,
    note: Note,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profile, "SAMPLED_ROWS", 40)

    def profiled(batch_rows: int) -> pl.DataFrame:
        warehouse = Warehouse(Settings(home=tmp_path / str(batch_rows), batch_rows=batch_rows))
        for load in range(2):
            rows = [note(f"r{load}-{n}", text="word " * (1 + n % 9)) for n in range(90 - load)]
            file = write(f"{batch_rows}/{load}.jsonl", *rows)
            source = make_source(file.parent / "*.jsonl")
            ingest(source, warehouse)
        prepare(source, warehouse)
        found = pl.read_delta(str(warehouse.folder("profiles.columns")))
        return found.sort("loaded_timestamp", "column").drop("load_id", "loaded_timestamp")

    several = profiled(7)
    assert several.equals(profiled(1_000))
    assert several.filter(column="n_words")["n_rows"].to_list() == [40, 40]


def test_labels_that_are_no_names_and_the_rare_ones_of_many_are_hashed(
    make_source: MakeSource, write: Write, note: Note, stage: Stage, profiles: Profiles
) -> None:
    labels = [
        "call 020 7946 0018",
        "ann@example.com",
        "a label so long that it rather is a sentence about somebody",
        "not bad",
        "4.5",
    ]
    many = [f"label {chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(300)]
    rows = [note(f"r{n}", label=label) for n, label in enumerate([*labels, *many, *many[:250]])]
    stage(make_source(write("notes.jsonl", *rows)))
    label = profiles()["label"]
    shown = [key for key in label["bucket_keys"] if not key.startswith("#")]
    assert set(many[:250]) <= set(shown) <= {"not bad", "4.5", *many}
    assert len(shown) <= profile.LABEL_BUCKETS
    assert sum(label["bucket_counts"]) == len(rows)


def test_no_profile_contains_a_text(
    warehouse: Warehouse, make_source: MakeSource, write: Write, note: Note, stage: Stage
) -> None:
    rows = [
        note(
            f"r{n}",
            text=f"{PLANTED} {n}",
            label=f"{PLANTED}@example.com",
            subject=PLANTED,
            author=PLANTED,
        )
        for n in range(30)
    ]
    stage(make_source(write("notes.jsonl", *rows, note("x", written=PLANTED), PLANTED.encode())))
    featurize(warehouse, datetime.now(UTC))
    for relation in ("profiles.columns", "profiles.drift"):
        assert PLANTED not in str(pl.read_delta(str(warehouse.folder(relation))).to_dicts())


def test_a_publication_of_a_view_is_profiled_once_even_if_its_run_was_killed(
    warehouse: Warehouse,
    make_source: MakeSource,
    write: Write,
    note: Note,
    stage: Stage,
    killed_before: Callable[..., Any],
) -> None:
    source = make_source(
        write("notes.jsonl", *(note(f"r{n}", text="word " * (n + 1)) for n in range(20)))
    )
    stage(source)
    with killed_before(ColumnProfile):
        featurize(warehouse, datetime(2026, 2, 1, tzinfo=UTC))
    for day in (2, 3):
        featurize(warehouse, datetime(2026, 2, day, tzinfo=UTC))
    write("notes.jsonl", note("r20", text="one more"))
    stage(source)
    featurize(warehouse, datetime(2026, 2, 4, tzinfo=UTC))
    rows = pl.read_delta(str(warehouse.folder("profiles.columns"))).filter(
        relation=RecordQuality.relation(), column="n_words"
    )
    assert rows.sort("load_id").select("load_id", "n_rows").rows() == [
        ("2026-02-01T00:00:00.000000Z", 20),
        ("2026-02-04T00:00:00.000000Z", 1),
    ]
    words = rows.sort("load_id").row(0, named=True)
    assert quantiles(words["bucket_keys"], words["bucket_counts"], [0, 1]) == pytest.approx(
        [1, 20], rel=0.01
    )


def test_a_large_publication_is_counted_in_parts_that_add_up(
    warehouse: Warehouse,
    make_source: MakeSource,
    write: Write,
    note: Note,
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes = (note(f"r{n}", text="word " * (n + 1)) for n in range(20))
    stage(make_source(write("notes.jsonl", *notes)))
    featurize(warehouse, datetime(2026, 2, 1, tzinfo=UTC), with_profiles=False)
    sizes: list[int] = []

    def counting(rows: pl.LazyFrame, *rest: Any, **options: Any) -> pl.DataFrame:
        sizes.append(rows.select(pl.len()).collect().item())
        return count(rows, *rest, **options)

    def counted_in_parts_of(n_rows: int) -> pl.DataFrame:
        monkeypatch.setattr(profile, "ROWS_OF_A_PART", n_rows)
        files, known = warehouse.files(RecordQuality.relation()), pl.Series(dtype=CREATED)
        found = profile._count_publications(RecordQuality, files, known)
        return found.sort("column", "kind", "key", "n")

    monkeypatch.setattr(profile, "count", counting)
    assert counted_in_parts_of(7).equals(counted_in_parts_of(20))
    assert sizes == [7, 7, 6, 20]


def test_rows_of_a_load_replace_its_earlier_ones(warehouse: Warehouse) -> None:
    def profiled(load: str, *numbers: float) -> pl.DataFrame:
        loaded = pl.lit(datetime(2026, 1, 1, tzinfo=UTC), pl.Datetime("us", "UTC"))
        counts = counted(numbers).with_columns(
            source=pl.lit("notes"),
            load_id=pl.lit(load),
            loaded_timestamp=loaded,
            relation=pl.lit("staging.records"),
        )
        return as_profiles(counts)

    warehouse.create(ColumnProfile)
    for load, numbers in (("a", [1.0]), ("b", [1.0]), ("a", [1.0, 2.0]), ("a", [1.0, 2.0])):
        store(warehouse, ColumnProfile, profiled(load, *numbers))
    rows = pl.read_delta(str(warehouse.folder("profiles.columns")))
    assert sorted(rows.select("load_id", "n_rows").rows()) == [("a", 2), ("b", 1)]
    assert warehouse.versions()["profiles.columns"] == 3  # the last changed nothing


def test_a_killed_run_leaves_one_profile_of_a_load(
    warehouse: Warehouse,
    make_source: MakeSource,
    write: Write,
    note: Note,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = make_source(write("notes.jsonl", note("r1")))
    ingest(source, warehouse)

    def die(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("transforms.staging.prepare.publish_once", die)
        with pytest.raises(KilledError):
            prepare(source, warehouse)
    before = pl.read_delta(str(warehouse.folder("profiles.columns")))
    prepare(source, warehouse)
    assert pl.read_delta(str(warehouse.folder("profiles.columns"))).equals(before)


def test_rows_quarantined_for_their_fields_are_profiled_only_as_quarantined(
    write: Callable[..., Path],
    note: Callable[..., bytes],
    make_source: Callable[..., Source],
    warehouse: Warehouse,
) -> None:
    source = make_source(write("data/1.jsonl", note("r1")).parent / "*.jsonl", schema="quarantine")
    ingest(source, warehouse)
    prepare(source, warehouse)
    write(
        "data/2.jsonl",
        note("r2", extra=1),
        note("r3", text="three words here"),
        note("r4", extra=1),
    )
    ingest(source, warehouse)
    assert prepare(source, warehouse)._asdict() == {
        "read": 3,
        "staged": 1,
        "duplicates": 0,
        "quarantined": 2,
    }
    newest = ColumnProfile.relation()
    with connect(warehouse) as connection:
        rows = connection.sql(
            f"select * from {newest} where load_id = (select max(load_id) from {newest})"
        ).pl()
    found = {
        row["column"]: dict(zip(row["bucket_keys"], row["bucket_counts"], strict=True))
        for row in rows.to_dicts()
    }
    assert found["outcome"] == {"staged": 1, "quarantined:unknown_field": 2}
    assert sum(found["n_words"].values()) == 1


def test_a_view_of_vectors_has_no_profile(
    write: Callable[..., Path],
    note: Callable[..., bytes],
    make_source: Callable[..., Source],
    warehouse: Warehouse,
) -> None:
    source = make_source(write("1.jsonl", note("r1")))
    ingest(source, warehouse)
    prepare(source, warehouse)
    featurize(warehouse, datetime(2026, 1, 2, tzinfo=UTC))
    with connect(warehouse) as connection:
        profiled = {
            relation
            for (relation,) in connection.sql(
                f"select distinct relation from {ColumnProfile.relation()}"
            ).fetchall()
        }
    assert "features.record_text" in profiled
    assert "features.record_vector" not in profiled
