"""`record_duplicates` equals its definition in plain Python, in whatever order records come."""

import unicodedata
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.transforms.histories import (
    DAY,
    HOUR,
    LAGS,
    NOW,
    OFFSETS,
    START,
    Version,
    by_entity,
    by_known,
    cut,
    newest,
    row_at,
    rows_of,
    run,
    stage,
    version,
)
from transforms.errors import HomeError
from transforms.features import fingerprint
from transforms.features.backfill import Span, fill, find
from transforms.features.build import featurize, recompute
from transforms.features.on_demand import compute, requested
from transforms.features.registry import view_of
from transforms.features.views.record_duplicates import RecordDuplicates
from transforms.home import Settings
from transforms.lineage.trace import trace_feature
from transforms.schemas.base import Contract
from transforms.schemas.duplicates import KnownContent, KnownDocument
from transforms.schemas.staging import StagedRecord
from transforms.text.duplicates import (
    BANDS,
    HEADS,
    MIN_SIMILARITY,
    digest_contents,
    estimate_similarity,
    sign,
)
from transforms.text.likeness import Parents, Signed
from transforms.text.likeness import _compare as compare_pairs
from transforms.text.measured import FEW_TEXTS
from transforms.upkeep.maintain import compact
from transforms.warehouse.publishing import publish
from transforms.warehouse.tables import Warehouse

NewHome = Callable[[], Warehouse]
NOTHING = {"dup_of": None, "dup_similarity": None, "dup_cluster_size": None, "is_duplicate": None}
FOX = (
    "the quick brown fox jumps over the lazy dog and runs away into the deep green forest behind "
    "the hills"
)
SHIP = (
    "a ship came into the harbour at dawn with her sails torn and nobody on board but a parrot "
    "and a cat"
)
# a chain: each is nearly the same as its neighbours, the ends are not
CHAIN = [FOX[start : start + 70] for start in (0, 8, 16, 24)]
TEXTS = [
    FOX,
    FOX.upper(),
    FOX.replace(" ", "  "),
    f"{FOX}!!",
    f"RT: {FOX}",
    SHIP,
    f"{SHIP} again",
    *CHAIN,
    "a",
    "A ",
    "!!",
    "??",
    None,
]
VERSIONS = st.builds(
    lambda record, event, lag, text: Version(
        record, "u", "s", START + event, START + event + lag, text, positive=False
    ),
    st.sampled_from(["r1", "r2", "r3", "r4", "r5"]),
    OFFSETS | st.integers(0, 9),
    LAGS | st.just(0),
    st.sampled_from(TEXTS),
)
HISTORIES = st.lists(VERSIONS, min_size=1, max_size=12, unique_by=lambda v: (v.record, v.known))


@pytest.fixture(autouse=True)
def _no_other_views(only: Callable[..., None]) -> None:
    """The other views have tests of their own, and take most of the time."""
    only(view_of("record_duplicates"))


# --- the definition, in plain Python ---


def documents(versions: Sequence[Version]) -> list[tuple[int, str, str | None]]:
    """What each record says from an instant on, in the order of instants and ids."""
    places = sorted({(v.effective, v.record) for v in versions})
    return [
        (
            instant,
            record,
            max(
                (v for v in versions if v.record == record and v.effective <= instant),
                key=lambda v: v.known,
            ).text,
        )
        for instant, record in places
    ]


def expected_rows(
    versions: Sequence[Version], n_heads: int = HEADS
) -> dict[str, list[dict[str, Any]]]:
    """Every record's rows. Only the signature of a text is the kernel's."""
    rows: dict[str, list[dict[str, Any]]] = {v.record: [] for v in versions}
    # by normal form: whose it was first, how like it, the root of its cluster
    firsts: dict[str, tuple[str, float, str]] = {}
    signatures: dict[str, list[int]] = {}
    owners: dict[str, str] = {}
    buckets: dict[tuple[int, int], list[str]] = {}
    clusters: dict[str, set[str]] = {}
    said: dict[str, str | None] = {}
    for instant, record, text in documents(versions):
        normal = (
            None if text is None else " ".join(unicodedata.normalize("NFKC", text).lower().split())
        )
        if normal is None:
            values = NOTHING
        elif said.get(record) == normal:
            values = rows[record][-1]
        else:
            if normal not in firsts:
                firsts[normal] = (record, 1.0, normal)
                owners[normal] = record
                (keys,) = sign(pl.Series([normal])).to_list()
                signatures[normal] = keys
                mine = (
                    [buckets.setdefault((band, keys[band]), []) for band in range(BANDS)]
                    if keys
                    else []
                )
                near = {
                    known: likeness(keys, signatures[known])
                    for bucket in mine
                    for known in bucket[:n_heads]
                }
                # in the order they came
                alike = [known for known in owners if near.get(known, 0) >= MIN_SIMILARITY]
                if alike:
                    firsts[normal] = (owners[alike[0]], near[alike[0]], firsts[alike[0]][2])
                for bucket in mine:
                    bucket.append(normal)
            origin, similarity, root = firsts[normal]
            clusters.setdefault(root, set()).add(record)
            is_duplicate = origin != record
            values = {
                "dup_of": origin if is_duplicate else None,
                "dup_similarity": similarity if is_duplicate else None,
                "dup_cluster_size": len(clusters[root]),
                "is_duplicate": int(is_duplicate),
            }
        rows[record].append({**values, "event_timestamp": instant})
        said[record] = normal
    return rows


def likeness(left: list[int], right: list[int]) -> float:
    return float(estimate_similarity(np.array([left]), np.array([right]))[0])


def values_at(rows: Sequence[dict[str, Any]], instant: int) -> dict[str, Any]:
    row = row_at(rows, instant) or NOTHING
    return {name: row[name] for name in NOTHING}


def assert_duplicates_are_as_defined(
    warehouse: Warehouse,
    versions: Sequence[Version],
    also: Sequence[Version] = (),
    n_heads: int = HEADS,
) -> None:
    found, expected = by_entity(warehouse, "record_duplicates"), expected_rows(versions, n_heads)
    for record in {v.record for v in (*versions, *also)}:
        for instant in sorted({v.effective for v in (*versions, *also)}):
            actual = values_at(found.get(record, []), instant)
            assert actual == values_at(expected.get(record, []), instant), (record, instant - START)


# --- any order ---


@settings(max_examples=12)
@given(HISTORIES, st.lists(st.integers(1, 11), max_size=3))
# the original comes last; a text between two of a chain comes last and joins their clusters
@example([version("r1", 5, text=FOX), version("r2", 1, text=FOX)], [1])
@example(
    [
        version("r1", 1, text=CHAIN[0]),
        version("r2", 3, text=CHAIN[2]),
        version("r3", 2, text=CHAIN[1]),
    ],
    [2],
)
def test_duplicates_are_as_defined_in_whatever_order_they_come(
    new_home: NewHome, versions: list[Version], cuts: list[int]
) -> None:
    assert_duplicates_are_as_defined(run(new_home(), *cut(versions, cuts)), versions)


@settings(max_examples=6)
@given(HISTORIES, st.lists(st.integers(1, 11), min_size=1, max_size=3))
def test_increments_in_order_of_knowledge_have_the_rows_of_a_rebuild(
    new_home: NewHome, versions: list[Version], cuts: list[int]
) -> None:
    grown, rebuilt = run(new_home(), *cut(by_known(versions), cuts)), run(new_home(), versions)
    assert newest(grown, "record_duplicates").rows() == newest(rebuilt, "record_duplicates").rows()


@settings(max_examples=6)
@given(HISTORIES, HISTORIES)
@example([version("r1", 0, text=FOX), version("r2", 1, text=FOX)], [version("r2", 1, text=FOX)])
@example(
    [version("r1", 0, text=FOX), version("r2", 1, text=FOX), version("r1", 5, text=FOX)],
    [version("r1", 0, text=FOX)],
)
def test_versions_that_are_replaced_or_removed_leave_what_the_others_say(
    new_home: NewHome, before: list[Version], after: list[Version]
) -> None:
    warehouse = run(new_home(), before)
    stage(warehouse, after, is_all=True)
    featurize(warehouse, NOW + timedelta(hours=1))
    assert_duplicates_are_as_defined(warehouse, after, also=before)


@settings(max_examples=5)
@given(HISTORIES, st.lists(st.integers(1, 11), max_size=2))
def test_full_buckets_are_as_defined_too(
    new_home: NewHome, versions: list[Version], cuts: list[int]
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("transforms.text.likeness.HEADS", 1)
        assert_duplicates_are_as_defined(run(new_home(), *cut(versions, cuts)), versions, n_heads=1)


@settings(max_examples=6)
@given(HISTORIES, st.integers(0, 11), st.sampled_from(TEXTS))
def test_what_is_known_later_changes_nothing_before(
    new_home: NewHome, versions: list[Version], at: int, text: str | None
) -> None:
    instant = sorted(v.effective for v in versions)[at % len(versions)]
    future = [v for v in versions if v.effective >= instant]
    past = [
        v
        for v in versions
        if v.effective < instant
        and not any(v.record == f.record and f.known < v.known for f in future)
    ]
    one, other = (
        run(new_home(), past + future),
        run(new_home(), past + [f._replace(text=text) for f in future[1:]]),
    )
    rows = [
        newest(warehouse, "record_duplicates").filter(pl.col("event_timestamp") < instant).rows()
        for warehouse in (one, other)
    ]
    assert rows[0] == rows[1]


# --- one by one ---


def only(warehouse: Warehouse, record: str) -> dict[str, Any]:
    return by_entity(warehouse, "record_duplicates")[record][-1]


def test_earlier_of_two_records_is_the_original_and_by_id_at_one_instant(new_home: NewHome) -> None:
    warehouse = run(
        new_home(),
        [
            version("r2", 0, text=FOX),
            version("r1", 1, text=FOX.upper()),
            version("r3", 1, text=f"{FOX}  "),
        ],
    )
    found = [
        (only(warehouse, record)["dup_of"], only(warehouse, record)["dup_cluster_size"])
        for record in ("r2", "r1", "r3")
    ]
    assert found == [(None, 1), ("r2", 2), ("r2", 3)]
    assert only(warehouse, "r1")["dup_similarity"] == 1


def test_record_that_says_its_own_text_again_repeats_nobody(new_home: NewHome) -> None:
    versions = [
        version("r1", 0, text=FOX),
        version("r2", 1, text=FOX),
        version("r1", 2, text=SHIP),
        version("r1", 3, text=f"{FOX}!"),
    ]
    row = only(run(new_home(), versions), "r1")
    assert (row["dup_of"], row["is_duplicate"], row["dup_cluster_size"]) == (None, 0, 2)


def test_tombstone_has_nothing_and_counts_as_known_before(new_home: NewHome) -> None:
    warehouse = run(
        new_home(),
        [version("r1", 0, text=FOX), version("r1", 1, text=None), version("r2", 2, text=FOX)],
    )
    assert {name: only(warehouse, "r1")[name] for name in NOTHING} == NOTHING
    assert only(warehouse, "r2")["dup_of"] == "r1"


def test_live_source_only_adds_rows_of_what_arrived(new_home: NewHome) -> None:
    first = [version("r1", 0, text=FOX), version("r2", HOUR, text=FOX)]
    warehouse = run(new_home(), first)
    before = {
        contract: set(warehouse.files(contract.relation()))
        for contract in (KnownContent, KnownDocument, RecordDuplicates)
    }
    stage(warehouse, [version("r3", DAY, text=FOX), version("r4", DAY, text=SHIP)])
    assert featurize(warehouse, NOW + timedelta(days=1))["record_duplicates"] == (2, 0, 2)
    assert all(
        files < set(warehouse.files(contract.relation())) for contract, files in before.items()
    )
    contents = pl.read_delta(str(warehouse.folder(KnownContent.relation())))
    assert sorted(contents["content_id"].unique_counts()) == [1, 1]


def test_late_original_relabels_what_follows_and_nothing_else(new_home: NewHome) -> None:
    warehouse = run(
        new_home(),
        [
            version("r1", DAY, text=FOX),
            version("r2", 2 * DAY, text=SHIP),
            version("r3", 3 * DAY, text=FOX),
        ],
    )
    stage(warehouse, [version("r0", HOUR, text=FOX)])
    again = NOW + timedelta(days=1)
    assert featurize(warehouse, again)["record_duplicates"] == (1, 2, 1)
    added = rows_of(warehouse, "record_duplicates").filter(created_timestamp=again)
    assert sorted(added["record_id"]) == ["r0", "r1", "r3"]


def test_template_of_thousands_attaches_to_the_first_of_its_buckets(
    new_home: NewHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transforms.text.likeness.HEADS", 4)
    n_pairs: list[int] = []
    compare = compare_counting(n_pairs)
    monkeypatch.setattr("transforms.text.likeness._compare", compare)
    versions = [
        version(f"r{number:04}", number, text=f"{FOX} number {number}") for number in range(1000)
    ]
    warehouse = run(new_home(), versions)
    rows = rows_of(warehouse, "record_duplicates").sort("event_timestamp")
    assert rows["dup_of"].n_unique() <= 4
    assert rows["is_duplicate"].mean() > 0.99
    assert sum(n_pairs) <= 1000 * 4 * BANDS


def compare_counting(n_pairs: list[int]) -> Callable[..., None]:
    def compare(texts: Signed, parents: Parents, later: np.ndarray, earlier: np.ndarray) -> None:
        n_pairs.append(len(later))
        compare_pairs(texts, parents, later, earlier)

    return compare


# --- a text that nobody has seen ---

ASKED = [
    *TEXTS,
    f"{SHIP} and a dog",
    f"{FOX} {SHIP}",
    "b",
    "\u0345?",
    "\uff32\uff34: " + FOX,
    "日本語の文章です",
]

FOXES = [
    FOX.replace("quick", "x1").replace("forest", "qq"),
    FOX.replace("lazy", "zebra").replace("runs", "qq").replace("green forest", "zebra yy"),
    FOX.replace("jumps", "qq"),
    FOX.replace("behind", "x1"),
    FOX.replace("fox", "yy"),
]


def ask(warehouse: Warehouse, texts: list[str | None]) -> list[dict[str, Any]]:
    view, home = view_of("record_duplicates"), warehouse.settings.root
    return compute(view, requested({"text": texts}, {}), home).select(*NOTHING).to_dicts()


@pytest.mark.parametrize("n_heads", [1, HEADS])
@settings(max_examples=8)
@given(
    versions=HISTORIES,
    cuts=st.lists(st.integers(1, 11), max_size=2),
    texts=st.lists(st.sampled_from(ASKED), min_size=1, max_size=3),
)
@example(
    versions=[version(f"r{place}", place, text=text) for place, text in enumerate(CHAIN)],
    cuts=[2],
    texts=[CHAIN[3], FOX[4:74], FOX[32:]],
)
# the fourth is alike, and in none of its buckets the first
@example(
    versions=[version(f"r{place}", place, text=text) for place, text in enumerate(FOXES)],
    cuts=[],
    texts=[FOX.replace("dog and", "dog zebra")],
)
# what a record said first is taken out
@example(
    versions=[version("r1", 1, text=FOX), version("r2", 2, text=SHIP), version("r1", 3, text=None)],
    cuts=[],
    texts=[FOX, f"RT: {FOX}"],
)
def test_a_text_has_what_the_table_has_once_a_record_said_it_last(
    new_home: NewHome,
    n_heads: int,
    versions: list[Version],
    cuts: list[int],
    texts: list[str | None],
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        for module in ("transforms.text.likeness", "transforms.features.engine.asked_duplicates"):
            patched.setattr(f"{module}.HEADS", n_heads)
        warehouse = run(new_home(), *cut(versions, cuts))
        assert ask(warehouse, [*texts, None]) == [
            *(ask(warehouse, [text])[0] for text in texts),
            NOTHING,
        ]
        for place, text in enumerate(texts):
            (asked,) = ask(warehouse, [text])
            at = max(v.effective for v in versions) - START + 1 + place
            stage(warehouse, [version(f"new{place}", at, text=text)])
            featurize(warehouse, NOW + timedelta(days=1, hours=place))
            rows = by_entity(warehouse, "record_duplicates")[f"new{place}"]
            assert asked == values_at(rows, START + at)


@given(st.lists(st.none() | st.text()))
def test_few_texts_have_the_numbers_that_many_have(texts: list[str | None]) -> None:
    normal = pl.Series(texts, dtype=pl.String)
    many = digest_contents(pl.concat([normal, pl.Series(["a"] * FEW_TEXTS)]))
    assert digest_contents(normal).to_list() == many.head(len(texts)).to_list()


def test_a_home_without_an_index_says_so(tmp_path: Path) -> None:
    with pytest.raises(HomeError, match=r"no index of texts there.*millrace run"):
        ask(Warehouse(Settings(home=tmp_path)), ["a"])
    with pytest.raises(HomeError, match=r"record_duplicates: compares with the texts of a home"):
        compute(view_of("record_duplicates"), requested({"text": ["a"]}, {}))


# --- lineage, erasing, maintenance, backfill ---


def test_trace_compares_the_texts_again(new_home: NewHome) -> None:
    warehouse = run(
        new_home(),
        [
            version("r1", 0, text=FOX),
            version("r2", HOUR, text=f"RT: {FOX}"),
            version("r3", HOUR, text=SHIP),
        ],
    )
    at = NOW
    traced = trace_feature(warehouse, "record_duplicates", "r2", at)
    assert (traced.mismatches, [record.record_id for record in traced.records]) == (
        [],
        ["r2", "r1"],
    )
    for file in warehouse.files(StagedRecord.relation()):
        pl.read_parquet(file).with_columns(text=pl.lit(SHIP)).write_parquet(file)
    assert [
        line.split()[0]
        for line in trace_feature(warehouse, "record_duplicates", "r2", at).mismatches
    ] == ["dup_similarity"]


def test_compaction_of_the_index_changes_no_value(new_home: NewHome) -> None:
    warehouse = new_home()
    for number in range(6):  # each is earlier than the one before, so that all rows are replaced
        stage(warehouse, [version(f"r{number}", 9 - number, text=FOX)])
        featurize(warehouse, NOW + timedelta(hours=number))
    before, n_rows = (
        newest(warehouse, "record_duplicates"),
        warehouse.n_rows(KnownDocument.relation()),
    )
    compact(warehouse, is_dry=False)
    assert warehouse.n_rows(KnownDocument.relation()) == 6 < n_rows
    assert len(warehouse.files(KnownContent.relation())) == 1
    assert {rows[:2] for rows in featurize(warehouse, NOW + timedelta(days=1)).values()} == {(0, 0)}
    stage(warehouse, [version("r9", 20, text=FOX)])
    assert featurize(warehouse, NOW + timedelta(days=2))["record_duplicates"][:2] == (1, 0)
    assert newest(warehouse, "record_duplicates").filter(pl.col("record_id") != "r9").equals(before)


@pytest.mark.parametrize("contract", [KnownContent, KnownDocument, RecordDuplicates])
def test_run_killed_between_two_commits_is_finished_by_the_next(
    new_home: NewHome,
    killed_before: Callable[..., AbstractContextManager[None]],
    contract: type[Contract],
) -> None:
    versions = [
        version("r1", 0, text=FOX),
        version("r2", HOUR, text=FOX),
        version("r0", 2 * HOUR, event=-HOUR, text=SHIP),
    ]
    warehouse = run(new_home(), versions[:1])
    stage(warehouse, versions[1:])
    with killed_before(contract):
        featurize(warehouse, NOW + timedelta(hours=1))
    featurize(warehouse, NOW + timedelta(hours=2))
    assert newest(warehouse, "record_duplicates").equals(
        newest(run(new_home(), versions), "record_duplicates")
    )
    assert (
        pl.read_delta(str(warehouse.folder(KnownContent.relation())))["content_id"]
        .is_unique()
        .all()
    )


def test_other_code_makes_index_and_view_again(
    new_home: NewHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = run(
        new_home(), [version("r1", 0, text=FOX), version("r2", HOUR, text=f"RT: {FOX}")]
    )
    monkeypatch.setattr(fingerprint, "_code", lambda *_: "other code")
    monkeypatch.setattr("transforms.text.likeness.MIN_SIMILARITY", 1.0)
    assert featurize(warehouse, NOW + timedelta(days=1))["record_duplicates"] == (0, 2, 0)
    assert only(warehouse, "r2")["is_duplicate"] == 0
    assert [
        warehouse.n_rows(contract.relation()) for contract in (KnownContent, KnownDocument)
    ] == [2, 2]


def test_backfill_puts_back_what_the_view_lacks(new_home: NewHome) -> None:
    versions = [
        version("r1", 0, text=FOX),
        version("r2", HOUR, text=FOX),
        version("r3", DAY, text=FOX),
    ]
    warehouse = run(new_home(), versions)
    before = newest(warehouse, "record_duplicates")
    files = warehouse.files(RecordDuplicates.relation())
    left = (
        pl.read_parquet(files)
        .filter(pl.col("record_id") != "r2")
        .to_arrow()
        .cast(RecordDuplicates.arrow_schema())
    )
    publish(warehouse, RecordDuplicates, left.to_batches(), {}, without=files)
    (due,) = find(warehouse, Span())
    assert (due.n_rows, due.n_entities) == (1, 1)
    assert fill(warehouse, Span(), NOW + timedelta(days=1)) == {
        RecordDuplicates.relation(): (1, 0, 2)
    }
    assert newest(warehouse, "record_duplicates").equals(before)


def test_recomputed_records_leave_nothing_of_removed_ones(
    new_home: NewHome, tmp_path: Path
) -> None:
    before = [
        version("r1", 0, text=FOX),
        version("r2", HOUR, text=FOX),
        version("r3", DAY, text=f"RT: {FOX}"),
    ]
    warehouse = run(new_home(), before)
    stage(warehouse, before[1:], is_all=True)
    pl.DataFrame({"entity_id": ["r1"]}).write_parquet(tmp_path / "touched.parquet")
    recompute(
        warehouse, {"record_duplicates": tmp_path / "touched.parquet"}, NOW + timedelta(days=1)
    )
    alone = run(new_home(), before[1:])
    assert newest(warehouse, "record_duplicates").equals(newest(alone, "record_duplicates"))
    tables = [
        pl.read_delta(str(warehouse.folder(contract.relation())))
        for contract in (KnownContent, KnownDocument, RecordDuplicates)
    ]
    assert [table.height for table in tables] == [2, 2, 2]
    assert "r1" not in repr([table.rows() for table in tables])
    assert featurize(warehouse, NOW + timedelta(days=2)) == {"record_duplicates": (0, 0, 2)}
