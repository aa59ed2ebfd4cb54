"""Drift: quiet days pass, a planted shift does not; a stopped load leaves only its profile.

benchmarks/drift.py measures at length what is small here.
"""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors import DriftError, SourceError
from transforms.home import Settings
from transforms.profiles.drift import (
    Measured,
    Spread,
    drifted,
    js_distance,
    judge,
    psi,
    staged_loads,
    student_quantile,
    usual_bound,
    vocabulary_distance,
    wasserstein,
)
from transforms.schemas.staging import QuarantinedRecord, StagedRecord
from transforms.sources.ingest import ingest
from transforms.sources.source import Drift, Source, Thresholds, load_source
from transforms.staging.prepare import Account, prepare
from transforms.warehouse.tables import Warehouse

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "sources" / "data" / "cve_events").glob("*.jsonl.zst"))
N_QUIET = 20
# the one day that is planted into, before it is loaded: a Tuesday of 451 rows, near the end
PLANTED = "2024-06-25"
COUNTS = st.lists(st.integers(0, 1000), min_size=2, max_size=30)


class Days(NamedTuple):
    """A home that received the sample day by day, and a copy of both before `PLANTED`."""

    drift: pl.DataFrame
    loads: list[str]
    before: Path


def home_of(folder: Path) -> tuple[Source, Warehouse]:
    return load_source(folder / "cve_events.yaml"), Warehouse(Settings(home=folder / "home"))


def load(source: Source, warehouse: Warehouse, **options: bool) -> Account:
    ingest(source, warehouse)
    return prepare(source, warehouse, **options)


def statistics(warehouse: Warehouse) -> pl.DataFrame:
    return pl.read_delta(str(warehouse.folder("profiles.drift"))).sort(
        "load_id", "column", "statistic"
    )


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Days:
    folder = tmp_path_factory.mktemp("days")
    live, before = folder / "live", folder / "before"
    (live / "data" / "cve_events").mkdir(parents=True)
    shutil.copy(ROOT / "sources" / "cve_events.yaml", live)
    source, warehouse = home_of(live)
    loads: list[str] = []
    for file in FILES:
        if file.name.startswith(PLANTED):
            shutil.copytree(live, before)
        shutil.copy(file, live / "data" / "cve_events")
        load(source, warehouse)
        loads += staged_loads(warehouse, source.name) - set(loads)
    return Days(statistics(warehouse), loads, before)


@pytest.mark.timeout(1200)
def test_twenty_days_of_the_sample_as_they_were_are_still(days: Days) -> None:
    """The last 20 files, of 19 to 9,086 rows: those with the longest history before them."""
    assert len(days.loads) == len(FILES)
    last = days.drift.filter(pl.col("load_id").is_in(days.loads[-N_QUIET:]))
    assert last["load_id"].n_unique() == N_QUIET
    reported = last.filter(pl.col("verdict") != "still").select(
        "load_id", "column", "statistic", "value", "warn", "verdict"
    )
    # vocabulary has no profile in a load of fewer than 20 rows, so it is not in question there
    assert reported.rows() == []
    assert last["value"].max() > 0.5  # they do differ, by what is usual in this source


def rows_of(day: str) -> pl.DataFrame:
    (file,) = [file for file in FILES if file.name.startswith(day)]
    return pl.read_ndjson(file, infer_schema_length=None)


def in_another_language(rows: pl.DataFrame) -> pl.Series:
    """One text in five is German."""
    verbs = ("speichert", "verliert", "veröffentlicht", "überschreibt")
    german = [
        f"Das Gerät {verbs[n % 4]} die Einstellungen nicht, wenn der Benutzer {n} Fenster "
        "öffnet und die Anwendung danach schließt."
        for n in range(rows.height)
    ]
    return pl.select(
        pl.when(pl.int_range(rows.height) % 5 == 0).then(pl.Series(german)).otherwise(rows["text"])
    ).to_series()


SHIFTS: dict[str, tuple[Callable[[pl.DataFrame], pl.Series], set[tuple[str, str]], set[str]]] = {
    # what is done to the texts, what must fire, and which columns may
    "language": (
        in_another_language,
        {("language", "psi"), ("language", "js_distance")},
        {"language", "vocabulary"},
    ),
    "length": (
        lambda rows: rows["text"] + " " + rows["text"],
        {("n_bytes", "wasserstein")},
        {"n_bytes", "n_words"},
    ),
    "boilerplate": (
        lambda rows: (
            rows["text"]
            + (
                " This advisory was written by an automated service; kindly contact its operator "
                "for further assistance."
            )
        ),
        {("vocabulary", "js_distance")},
        {"vocabulary", "n_bytes", "n_words"},
    ),
}


def plant(folder: Path, text: pl.Series) -> None:
    rows = rows_of(PLANTED).with_columns(text.alias("text"))
    lines = io.BytesIO()
    rows.write_ndjson(lines)
    (folder / "data" / "cve_events" / f"{PLANTED}.jsonl").write_bytes(lines.getvalue())


@pytest.fixture
def before(days: Days, tmp_path: Path) -> Iterator[Path]:
    """The home as it was before the planted day; its source takes the day's file in any form."""
    folder = Path(shutil.copytree(days.before, tmp_path / "planted"))
    # elsewhere they would be files that were never loaded
    for file in (folder / "data" / "cve_events").iterdir():
        file.unlink()
    document = yaml.safe_load((folder / "cve_events.yaml").read_text())
    (folder / "cve_events.yaml").write_text(
        yaml.safe_dump({**document, "uri": "data/cve_events/*.jsonl*"})
    )
    yield folder
    shutil.rmtree(folder)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shift", SHIFTS)
def test_planted_shift_fires_and_names_its_columns(before: Path, shift: str) -> None:
    alter, wanted, allowed = SHIFTS[shift]
    plant(before, alter(rows_of(PLANTED)))
    source, warehouse = home_of(before)
    earlier = staged_loads(warehouse, source.name)
    load(source, warehouse)
    ((name, rows),) = drifted(
        warehouse, source.name, staged_loads(warehouse, source.name) - earlier
    )
    assert (name.files, name.days) == (
        [str(before / "data" / "cve_events" / f"{PLANTED}.jsonl")],
        [PLANTED],
    )
    fired = set(rows.select("column", "statistic").rows())
    assert wanted <= fired
    assert {column for column, _ in fired} <= allowed


@pytest.mark.timeout(1200)
def test_stopped_load_leaves_only_its_profile_until_it_is_accepted(before: Path) -> None:
    alter, _, _ = SHIFTS["boilerplate"]
    plant(before, alter(rows_of(PLANTED)))
    document = yaml.safe_load((before / "cve_events.yaml").read_text())
    (before / "cve_events.yaml").write_text(
        yaml.safe_dump({**document, "drift": {"stop": {"js_distance": 0.5}}})
    )
    source, warehouse = home_of(before)
    committed = (
        "staging.records",
        "staging.duplicate_rows",
        "quarantine.records",
        "accounting.files",
    )
    versions = {relation: warehouse.versions()[relation] for relation in committed}
    earlier = staged_loads(warehouse, source.name)
    messages = []
    for _ in range(2):
        with pytest.raises(
            DriftError,
            match=(
                rf"cve_events: \S+{PLANTED}\.jsonl \({PLANTED}, load \S+\) differs "
                r"from the \d+ loads before it: vocabulary js_dist"
            ),
        ) as stopped:
            load(source, warehouse)
        messages.append(str(stopped.value))
    assert messages[0] == messages[1]
    assert "millrace run --source FILE --accept-drift" in messages[0]
    assert "advisory" not in messages[0]
    assert stopped.value.payload["columns"] == ["vocabulary"]
    assert stopped.value.payload["days"] == [PLANTED]
    assert {relation: warehouse.versions()[relation] for relation in committed} == versions
    assert staged_loads(warehouse, source.name) == earlier
    kept = statistics(warehouse)
    assert kept.filter(verdict="stop").select("column", "statistic").rows() == [
        ("vocabulary", "js_distance")
    ]
    account = load(source, warehouse, accept_drift=True)
    assert account.read == rows_of(PLANTED).height
    assert statistics(warehouse).equals(kept)  # what was judged does not change by being accepted
    assert staged_loads(warehouse, source.name) > earlier


DRIFT = {"min_reference_loads": 1, "min_reference_rows": 1, "false_alarms": None}


class Notes:
    """A source of one tiny file a load; `short` texts and `long` ones."""

    def __init__(
        self,
        folder: Path,
        make_source: Callable[..., Source],
        warehouse: Warehouse,
        **drift: object,
    ) -> None:
        (folder / "data").mkdir()
        self.folder, self.warehouse = folder / "data", warehouse
        self.source = make_source(folder / "data", drift={**DRIFT, **drift}, known="at_event")

    def add(self, n_words: int, n_rows: int = 300) -> None:
        number = len(list(self.folder.iterdir()))
        rows = [
            {
                "id": f"{number}-{n}",
                "author": "ann",
                "subject": "tea",
                "written": "2026-01-01T10:00:00Z",
                "text": "word " * n_words,
                "label": "a",
            }
            for n in range(n_rows)
        ]
        (self.folder / f"{number}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
        )

    def load(self, **options: bool) -> Account:
        return load(self.source, self.warehouse, **options)

    def references(self) -> list[int]:
        rows = statistics(self.warehouse).filter(column="n_words", statistic="psi")
        return rows.sort("loaded_timestamp")["n_reference_loads"].to_list()


@pytest.fixture
def notes(
    tmp_path: Path, make_source: Callable[..., Source], warehouse: Warehouse
) -> Callable[..., Notes]:
    return lambda **drift: Notes(tmp_path, make_source, warehouse, **drift)


def test_first_load_has_no_reference_and_the_window_is_of_the_newest(
    notes: Callable[..., Notes],
) -> None:
    home = notes(reference_loads=2)
    for _ in range(4):
        home.add(5)
        home.load()
    assert home.references() == [0, 1, 2, 2]
    verdicts = (
        statistics(home.warehouse)
        .group_by("load_id", maintain_order=True)
        .agg(pl.col("verdict").unique())["verdict"]
        .to_list()
    )
    assert verdicts == [["no_reference"], ["still"], ["still"], ["still"]]


def test_loads_that_wait_together_are_judged_one_after_the_other(
    notes: Callable[..., Notes],
) -> None:
    home = notes(stop={"psi": 0.5})
    for _ in range(3):
        home.add(5)
        ingest(home.source, home.warehouse)
    prepare(home.source, home.warehouse)
    assert home.references() == [0, 1, 2]


def test_stopped_load_is_no_reference_and_an_accepted_one_is(notes: Callable[..., Notes]) -> None:
    home = notes(stop={"psi": 0.5})
    home.add(5)
    home.load()
    home.add(50)
    with pytest.raises(DriftError, match="n_bytes psi"):
        home.load()
    home.add(5)
    # the stopped one comes before it
    with pytest.raises(DriftError, match="n_bytes psi"):
        home.load()
    assert home.load(accept_drift=True).read == 600
    home.add(5)
    home.load()
    assert home.references() == [0, 1, 2, 3]


def test_accepted_run_that_was_killed_is_finished_without_asking_again(
    notes: Callable[..., Notes], killed_before: Callable[..., Any]
) -> None:
    home = notes(stop={"psi": 0.5})
    home.add(5)
    home.load()
    home.add(50)
    with killed_before(QuarantinedRecord):
        home.load(accept_drift=True)
    with pytest.raises(DriftError):  # nothing was committed yet, so it is asked again
        home.load()
    with killed_before(StagedRecord):
        home.load(accept_drift=True)
    kept = statistics(home.warehouse)
    assert home.load().staged == 300
    assert statistics(home.warehouse).equals(kept)


def test_column_may_have_thresholds_of_its_own() -> None:
    drift = Drift.model_validate(
        {"warn": {"psi": 0.2}, "columns": {"label": {"warn": {"psi": None}, "stop": {"psi": 0.4}}}}
    )
    assert drift.thresholds("n_bytes", "psi", 0.0) == (0.2, None)
    assert drift.thresholds("label", "psi", 0.0) == (None, 0.4)
    assert Drift().thresholds("n_bytes", "psi", 0.3) == (0.3, None)
    assert Drift(stop=Thresholds(psi=0.2)).thresholds("n_bytes", "psi", 0.3) == (0.3, 0.3)
    assert Drift(warn=Thresholds(js_distance=0.3)).thresholds("label", "js_distance", 0.1) == (
        0.3,
        None,
    )


def test_a_key_that_was_replaced_says_by_what(tmp_path: Path) -> None:
    document = yaml.safe_load((ROOT / "sources" / "cve_events.yaml").read_text())
    (tmp_path / "source.yaml").write_text(
        yaml.safe_dump({**document, "drift": {"beyond_usual": 3}})
    )
    with pytest.raises(
        SourceError, match=r"drift\.beyond_usual: is no longer a key; .*false_alarms: 0\.02"
    ):
        load_source(tmp_path / "source.yaml")


def spread(counts: list[int]) -> Spread:
    return Spread(np.array(counts, float), 0, sum(counts))


def measured(one: Spread, rest: Spread) -> dict[str, float]:
    values = np.arange(len(rest.counts)).astype(float)
    of_words = (spread._replace(n_rows=1000) for spread in (one, rest))
    return {
        "psi": psi(one, rest, None),
        "psi of numbers": psi(one, rest, values),
        "js_distance": js_distance(one, rest),
        "vocabulary": vocabulary_distance(*of_words),
        "wasserstein": wasserstein(one, rest, values) or 0.0,
    }


@given(COUNTS, st.integers(1, 5))
def test_spread_is_not_far_from_itself(counts: list[int], times: int) -> None:
    one = spread(counts)
    far = measured(one, one)
    assert max(far.values()) < 0.05, far  # what is smoothed in the one is not in the other
    assert psi(one, spread([count * times + times for count in counts]), None) < 0.6


@given(COUNTS, st.data())
def test_distances_are_finite_and_have_their_bounds(counts: list[int], data: st.DataObject) -> None:
    other = data.draw(st.lists(st.integers(0, 1000), min_size=len(counts), max_size=len(counts)))
    far = measured(spread(counts), spread(other))
    assert all(0 <= value < float("inf") for value in far.values())
    assert far["js_distance"] <= 1
    assert far["vocabulary"] <= 1


def test_distances_are_those_of_the_formulas() -> None:
    """Of so many rows that neither the smoothing nor the rows of the reference weigh anything."""
    one, rest = spread([3_000_000, 7_000_000]), spread([5_000_000, 5_000_000])
    p, q = np.array([0.3, 0.7]), np.array([0.5, 0.5])
    middle = (p + q) / 2
    divergence = (np.sum(p * np.log2(p / middle)) + np.sum(q * np.log2(q / middle))) / 2
    assert psi(one, rest, None) == pytest.approx(np.sum((p - q) * np.log(p / q)), rel=1e-3)
    assert js_distance(one, rest) == pytest.approx(np.sqrt(divergence), rel=1e-3)
    values = np.arange(1000).astype(float)
    shifted = spread([0] * 100 + [100_000] * 900)
    assert wasserstein(shifted, spread([100_000] * 900 + [0] * 100), values) == pytest.approx(
        100 / 450, rel=0.01
    )


@pytest.mark.parametrize("n_rows", [20, 50, 100, 200, 500, 5000])
def test_chance_alone_is_below_what_warns(n_rows: int) -> None:
    warn, chance = Drift().warn, np.random.default_rng(n_rows)
    for _ in range(50):
        rest, one = (
            np.bincount(np.minimum(chance.geometric(0.2, n), 10), minlength=11).astype(float)
            for n in (10_000, n_rows)
        )
        far = measured(Spread(one, 0, n_rows), Spread(rest, 0, 10_000))
        words = (
            chance.binomial(10_000, 0.02, 1024).astype(float),
            chance.binomial(n_rows, 0.02, 1024).astype(float),
        )
        vocabulary = vocabulary_distance(Spread(words[1], 0, n_rows), Spread(words[0], 0, 10_000))
        assert max(far["psi"], far["psi of numbers"]) < (warn.psi or 0)
        assert max(far["js_distance"], vocabulary) < (warn.js_distance or 0)
        assert far["wasserstein"] < (warn.wasserstein or 0)


Draw = Callable[[np.random.Generator, int, int], np.ndarray]
N_LOADS = 60
SIZES = (30, 3000)


def numbers(effect: float) -> Draw:
    """Sizes of texts, a day's mean away from the others' by a heavy-tailed effect."""
    return lambda chance, _, n: np.exp(chance.normal(6 + effect * chance.standard_t(8), 1.0, n))


SOURCES: dict[str, Draw] = {
    "days are alike": numbers(0),
    "days differ": numbers(0.1),
    "days differ much": numbers(0.4),
    "texts grow": lambda chance, day, n: np.exp(chance.normal(6 + 0.01 * day, 1.0, n)),
    "every seventh day is another": lambda chance, day, n: np.exp(
        chance.normal(6 + 0.5 * (day % 7 == 6), 1.0, n)
    ),
}


def profiled(values: np.ndarray, chance: np.random.Generator, day: int) -> pl.DataFrame:
    """Profile a load of numbers, a language, and words."""
    keys, counts = np.unique(
        np.ceil(np.log(values) / np.log(1.01 / 0.99)).astype(int), return_counts=True
    )
    languages = chance.multinomial(len(values), [0.9, 0.08, 0.02])
    words = chance.binomial(len(values), 0.3 / np.arange(1, 200))
    columns = {
        "n_bytes": ("number", [f"p{key}" for key in keys], counts),
        "language": ("category", ["en", "de", "fr"], languages),
        "vocabulary": ("vocabulary", [str(word) for word in range(199)], words),
    }
    load = {
        "relation": "staging.records",
        "source": "drawn",
        "load_id": f"{day:03}",
        "loaded_timestamp": datetime(2026, 1, 1, tzinfo=UTC),
    }
    rows = [
        {
            **load,
            "column": column,
            "kind": kind,
            "n_rows": len(values),
            "n_null": 0,
            "bucket_keys": names,
            "bucket_counts": list(n),
        }
        for column, (kind, names, n) in columns.items()
    ]
    return pl.DataFrame(rows)


def judged(loads: list[pl.DataFrame]) -> pl.DataFrame:
    """Judge loads one after the other, each by those before it."""
    found: list[pl.DataFrame] = []
    sizes = pl.concat(loads).select("load_id", "column", "n_rows")
    for number, load in enumerate(loads):
        earlier = (
            pl.concat(found).drop_nulls("value").join(sizes, on=["load_id", "column"])
            if found
            else EMPTY
        )
        found.append(
            judge(
                load,
                pl.concat([load.clear(), *loads[max(number - 28, 0) : number]]),
                earlier,
                Drift(),
            )
        )
    return pl.concat(found)


EMPTY = pl.DataFrame(
    schema={
        "column": pl.String,
        "statistic": pl.String,
        "value": pl.Float64,
        "warn": pl.Float64,
        "verdict": pl.String,
    }
    | dict.fromkeys(("n_rows", "n_reference_loads"), pl.Int64)
)


@pytest.mark.timeout(1200)
def test_days_of_a_source_seldom_warn_and_a_shift_does() -> None:
    """Of drawn days of 30 to 3,000 rows at most one in fifty warns; a tenfold text length warns."""
    alarms, n_judged = [], 0
    for name, draw in SOURCES.items():
        chance = np.random.default_rng([1, len(name)])
        sizes = np.exp(chance.uniform(*np.log(SIZES), N_LOADS)).astype(int)
        loads = [profiled(draw(chance, day, n), chance, day) for day, n in enumerate(sizes)]
        shifted = profiled(draw(chance, N_LOADS, 300) * 10, chance, N_LOADS)
        found = judged([*loads, shifted])
        last = found.filter(load_id=shifted["load_id"][0])
        assert ("n_bytes", "wasserstein", "warn") in last.select(
            "column", "statistic", "verdict"
        ).rows(), name
        quiet = found.filter(pl.col("load_id") != shifted["load_id"][0])
        alarms += quiet.filter(verdict="warn").select(pl.lit(name), "load_id").unique().rows()
        n_judged += quiet.filter(pl.col("verdict") != "no_reference")["load_id"].n_unique()
    assert n_judged == len(SOURCES) * (N_LOADS - Drift().min_reference_loads)
    assert len(alarms) <= n_judged * (Drift().false_alarms or 0), alarms


@pytest.mark.parametrize("loads_of_one_kind", [1, 30])
def test_what_changed_for_good_warns_a_few_times_only(loads_of_one_kind: int) -> None:
    """Texts are ten times as long from load 30; a lone such load warns and hides no later one."""
    chance = np.random.default_rng(loads_of_one_kind)
    far = set(range(30, 30 + loads_of_one_kind)) | {70}
    loads = [
        profiled(numbers(0.05)(chance, day, 500) * (10 if day in far else 1), chance, day)
        for day in range(71)
    ]
    warned = [
        int(load_id)
        for load_id in judged(loads)
        .filter(column="n_bytes", verdict="warn")["load_id"]
        .unique()
        .sort()
    ]
    since = [load for load in warned if load >= 30]
    assert since[0] == 30
    assert 70 in since or loads_of_one_kind > 1
    assert len(since) <= 5


@pytest.mark.parametrize(
    ("above", "freedom", "t"),
    [(0.02, 6, 2.612), (0.001, 6, 5.208), (0.001, 40, 3.307), (0.0005, 120, 3.373)],
)
def test_quantiles_of_student_are_those_of_the_tables(above: float, freedom: int, t: float) -> None:
    assert student_quantile(above, freedom) == pytest.approx(t, rel=0.015)


@pytest.mark.parametrize(("earlier", "expected"), [([0.0] * 4, 0.0), ([0.0, 0.0, 0.0, 2.0], 3.0)])
def test_column_of_one_value_has_a_usual_distance(earlier: list[float], expected: float) -> None:
    rest, values = Spread(np.array([100.0]), 0, 100), np.array([5.0])
    measured = Measured({"kind": "number", "n_rows": 10}, "wasserstein", 0.0, 4, rest, values)
    loads = pl.DataFrame(
        {
            "value": earlier,
            "n_rows": [10] * 4,
            "n_reference_loads": [1, 2, 3, 4],
            "verdict": ["ok"] * 4,
            "warn": [0.1] * 4,
        }
    )
    assert usual_bound(measured, loads, 0.001) == expected
