"""Erasing leaves nothing of a person in any file; the home is as if the rows had never come."""

import json
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from feature_repo import online_features, training_set
from feature_repo.locks import LockError
from feature_repo.online_views import keep
from flows.stages import PipelineParameters, pending_work, run_erasure, run_plain
from tests.flows.conftest import Notes, Warm, contents
from transforms.errors import ErasureError
from transforms.features.build import featurize
from transforms.features.chosen import off_views
from transforms.features.registry import views
from transforms.home import Settings
from transforms.sources.source import load_source
from transforms.upkeep.erase import Wanted, begun_erasure
from transforms.warehouse.tables import RELATIONS, Warehouse

PERSON = "quentin-4711"
# the person's id, a word of every text, the beginning of every record's id
NEEDLES = (
    PERSON,
    "zanzibar",
    "case-q",
)
SPINE = (
    "select record_id, author_id, subject_id, known_timestamp as event_timestamp "
    "from staging.records order by all"
)
FEATURES = [
    "author_activity:n_records_lifetime",
    "record_quality:n_words",
    "subject_activity:n_words_28d",
]
# views of a record's text alone share one code path: one is enough; profiles count loads and stay
LIKE_QUALITY = {
    "features.record_text",
    "features.record_pii",
    "features.record_vector",
    "features.record_embedding",
}
COMMITTED = [
    relation
    for relation in (*RELATIONS, *(view.relation for view in views()))
    if not relation.startswith(("profiles.", "serving.")) and relation not in LIKE_QUALITY
]
Run = Callable[..., subprocess.CompletedProcess[str]]


def row(record: str, author: str, known: str, text: str | None, **changes: object) -> str:
    given = {
        "id": record,
        "author": author,
        "about": "tea",
        "written": known,
        "known": known,
        "text": text,
        "label": "good",
    }
    return json.dumps({**given, "gone": text is None, **changes})


PERSONS = (
    [
        row("case-q1", PERSON, "2024-01-01T10:00:00Z", "zanzibar one"),
        # a duplicate row
        row(
            "case-q1",
            PERSON,
            "2024-01-02T10:00:00Z",
            "zanzibar one",
            written="2024-01-01T10:00:00Z",
        ),
        row("case-q2", PERSON, "2024-01-03T10:00:00Z", "zanzibar two", about="zanzibar-only"),
        # for quarantine
        row("case-q3", PERSON, "2024-01-03T10:00:00Z", "zanzibar three", written="not a time"),
    ],
    [
        row("case-q1", PERSON, "2024-02-01T10:00:00Z", "zanzibar corrected"),
        row("r7", PERSON, "2024-02-02T10:00:00Z", "zanzibar, written on another's record"),
        row("case-q2", PERSON, "2024-02-03T10:00:00Z", None),  # a tombstone
        row("r8", PERSON, "2024-01-08T12:00:00Z", "zanzibar, between two that say the same"),
        f'{{ "zanzibar" "{PERSON}"',  # cannot be read
    ],
)


class Person(Notes):
    """The growing source, with a person's rows among the others', or blank lines in their place."""

    def __init__(self, folder: Path, *, is_there: bool) -> None:
        super().__init__(folder)
        self.is_there = is_there

    def add(self) -> None:
        super().add()
        lines = PERSONS[self.n_added - 1] if self.is_there else []
        file = self.folder / "data" / f"{self.n_added}.jsonl"
        file.write_text(file.read_text() + "".join(f"{line}\n" for line in [*lines, *self.more()]))

    def more(self) -> list[str]:
        """Another's record: a row is a duplicate only without the person's version between them."""
        known = ("2024-01-08T11:00:00Z", "2024-01-08T13:00:00Z")[self.n_added - 1]
        return [row("r8", "u3", known, "the same", written="2024-01-08T11:00:00Z")]


def grow(folder: Path, warm: Warm, *, is_there: bool) -> Path:
    notes = Person(folder / "source", is_there=is_there)
    # a person's records are to leave the online store too
    keep(folder / "home", ["record_quality"])
    for _ in PERSONS:
        notes.add()
        warm.run("run", notes.source, folder / "home")
    return folder


@pytest.fixture(scope="module")
def grown(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source with the person's rows and its home, with a locked training set."""
    folder = grow(tmp_path_factory.mktemp("person"), warm, is_there=True)
    training_set(SPINE, FEATURES, folder / "home").register("march")
    return folder


@pytest.fixture(scope="module")
def without(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The content of a home of the same source without the person's rows."""
    return comparable(grow(tmp_path_factory.mktemp("without"), warm, is_there=False) / "home")


@pytest.fixture
def own(grown: Path, tmp_path: Path) -> Path:
    """A copy of the home to change, put at its path, which locks and store settings contain."""
    shutil.copytree(grown, tmp_path / "kept")
    yield grown
    for name in ("home", "source"):
        shutil.rmtree(grown / name)
        shutil.copytree(tmp_path / "kept" / name, grown / name)


def comparable(home: Path) -> dict[str, Any]:
    """A home's content without row positions; of entities, the values without their times."""
    found = {
        name: rows for name, rows in contents(home).items() if not name.startswith("profiles.")
    }
    for relation in COMMITTED:
        frame = pl.read_delta(str(home.joinpath(*relation.split("."))))
        if relation in {"accounting.files", "staging.duplicate_rows"}:
            found[relation] = (
                frame.select(name for name in frame.columns if name.startswith(("n_", "record_")))
                .sum()
                .rows()
            )
            if relation == "staging.duplicate_rows":
                found[relation] = frame.height
        elif relation == "profiles.fields":  # counts of rows as they came
            found[relation] = sorted(frame.select("field", "type", "change").rows())
        elif relation.startswith("features.") or relation == "duplicates.documents":
            key = next(
                name for name in frame.columns if name in {"record_id", "author_id", "subject_id"}
            )
            newest = (
                frame.sort("created_timestamp")
                .unique([key, "event_timestamp"], keep="last")
                .sort(key, "event_timestamp")
            )
            values = pl.struct(pl.exclude(key, "event_timestamp", "created_timestamp"))
            said = newest.filter(
                values.ne_missing(values.shift(1)).over(key)
                | (pl.int_range(pl.len()).over(key) == 0)
            )
            found[relation] = said.drop("created_timestamp").rows()
        else:
            place = {"load_id", "loaded_timestamp", "source_uri", "row_number"}
            kept = frame.select(name for name in frame.columns if name not in place)
            found[relation] = sorted(map(repr, kept.rows()))
    return found


def places_of(home: Path, needles: tuple[str, ...]) -> list[str]:
    """Every file of a home with a needle: Parquet and Arrow decoded, the rest as bytes."""
    found = []
    for path in sorted(path for path in home.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content = repr(pl.read_parquet(path).rows()).encode()
        elif path.suffix == ".arrow":
            content = repr(pl.read_ipc_stream(path).rows()).encode()
        found += [
            f"{path.relative_to(home)}: {needle}"
            for needle in needles
            if needle.encode() in content
        ]
    return found


def test_search_finds_the_person_everywhere_before(grown: Path) -> None:
    found = {place.split("/")[0] for place in places_of(grown / "home", NEEDLES)}
    assert found == {"raw", "staging", "quarantine", "duplicates", "features", "feast", "locks"}


def test_nothing_of_an_erased_person_is_left_and_the_others_are_as_if_alone(
    own: Path, without: dict[str, Any]
) -> None:
    home = own / "home"
    erased, (lock,) = run_erasure(home, Wanted(author=PERSON), is_dry=False)
    assert (lock.name, lock.is_lost, lock.n_spine_rows) == ("march", True, 6)
    assert erased.rows == {
        "raw.records": 9,
        "staging.records": 6,
        "staging.duplicate_rows": 1,
        "quarantine.records": 2,
        "quarantine.corrections": 0,
    }
    assert places_of(home, NEEDLES) == []
    found = comparable(home)
    assert {name for name in found if found[name] != without[name]} == set()
    with pytest.raises(LockError, match="cannot be rebuilt"):
        training_set.rebuild("march", home=home)
    served = online_features(
        ["author_activity:n_records_lifetime"], [{"author_id": PERSON}, {"author_id": "u1"}], home
    )
    assert served["author_activity__n_records_lifetime"].sign().to_list() == [0, 1]
    again = training_set(SPINE, FEATURES, home).frame
    assert again.height == pl.read_delta(str(home / "staging" / "records")).height


def test_run_after_an_erasure_has_nothing_to_do_and_brings_nothing_back(own: Path) -> None:
    home, source = own / "home", own / "source" / "notes.yaml"
    run_erasure(home, Wanted(author=PERSON), is_dry=False)
    assert pending_work(load_source(source), Warehouse(Settings(home=home))).nothing
    summary = run_plain(PipelineParameters(source=str(source), home=str(home)))
    assert summary.is_empty
    assert places_of(home, NEEDLES) == []


def test_erasure_reaches_the_tables_of_views_that_are_off(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = own / "home"
    monkeypatch.setenv("MILLRACE_VIEWS", "subject_activity")
    for record in ("case-q2", "case-q1"):  # after the first the others are up to date again
        featurize(Warehouse(Settings(home=home)), datetime.now(UTC))
        assert "author_activity" in off_views(home)
        run_erasure(home, Wanted(record=record), is_dry=False)
    assert places_of(home, ("case-q1", "zanzibar one", "zanzibar corrected")) == []


def test_erased_record_leaves_the_author(own: Path) -> None:
    home = own / "home"
    run_erasure(home, Wanted(record="case-q1"), is_dry=False)
    assert places_of(home, ("case-q1", "zanzibar one", "zanzibar corrected")) == []
    rows = pl.read_delta(str(home / "features" / "author_activity")).filter(
        pl.col("author_id") == PERSON
    )
    # case-q2 is the first now
    assert rows.sort("event_timestamp", "created_timestamp")["n_records_lifetime"][0] == 1


def test_dry_run_counts_the_same_and_changes_nothing(
    own: Path, digest_of_tree: Callable[[Path], str]
) -> None:
    before = digest_of_tree(own / "home")
    found = run_erasure(own / "home", Wanted(author=PERSON), is_dry=True)
    assert digest_of_tree(own / "home") == before
    assert found == run_erasure(own / "home", Wanted(author=PERSON), is_dry=False)


def test_data_files_of_older_versions_go_and_other_views_versions_stay(own: Path) -> None:
    home = own / "home"
    run_erasure(
        home, Wanted(source_file=(own / "source" / "data" / "2.jsonl").as_uri()), is_dry=False
    )
    for relation in ("raw.records", "staging.records", "quarantine.records"):
        warehouse = Warehouse(Settings(home=home))
        on_disk = {str(path) for path in warehouse.folder(relation).glob("*.parquet")}
        assert on_disk == set(warehouse.files(relation))
    assert (
        not pl.read_delta(str(home / "raw" / "records"))["source_uri"]
        .str.ends_with("/2.jsonl")
        .any()
    )


def test_unknown_id_is_said_to_be_unknown(grown: Path) -> None:
    with pytest.raises(ErasureError, match="has nothing of that"):
        run_erasure(grown / "home", Wanted(author="nobody"), is_dry=True)


def test_rows_that_nobody_has_read_yet_are_refused(own: Path) -> None:
    (own / "source" / "data" / "3.jsonl").write_text(
        row("r99", PERSON, "2024-03-01T10:00:00Z", "zanzibar") + "\n"
    )
    from transforms.sources.ingest import ingest

    ingest(load_source(own / "source" / "notes.yaml"), Warehouse(Settings(home=own / "home")))
    with pytest.raises(ErasureError, match="loads of notes do not add up"):
        run_erasure(own / "home", Wanted(author=PERSON), is_dry=False)


STEPS = [*COMMITTED, "delete_entities", "erase_online", "replace_spine", "delete_files", "end"]
KILLS = [
    ("after:begin", "before:raw.records"),
    *((f"before:{step}", f"after:{step}") for step in STEPS),
]


@pytest.mark.parametrize("kills", KILLS, ids=", ".join)
def test_erasure_that_is_killed_is_finished_by_the_next_run(
    warm: Warm, own: Path, without: dict[str, Any], kills: tuple[str, str]
) -> None:
    """Killed twice: the erasure itself, then the run that was to finish it."""
    home, source = own / "home", own / "source" / "notes.yaml"
    for command in (("erase_until", kills[0], PERSON), ("run_until", kills[1], source)):
        warm.die(*command, home)
    warm.run("run", source, home)
    assert begun_erasure(Warehouse(Settings(home=home))) is None
    assert places_of(home, NEEDLES) == []
    found = comparable(home)
    assert {name for name in found if found[name] != without[name]} == set()


def test_erase_round_on_the_command_line(own: Path, millrace: Run) -> None:
    home = str(own / "home")
    shown = millrace("erase", "--author", PERSON, "--home", home, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "raw.records                           9 rows erased" in shown.stdout
    assert "lock march: can no longer be rebuilt; 6 rows of its spine erased" in shown.stdout
    assert "Nothing was changed." in shown.stdout
    assert places_of(own / "home", NEEDLES)
    refused = millrace("erase", "--author", PERSON, "--home", home)
    assert refused.returncode == 1
    assert "Erase this permanently?" in refused.stdout
    done = millrace("erase", "--author", PERSON, "--home", home, "--yes")
    assert done.returncode == 0, done.stderr
    assert "none contains any of it" in done.stdout
    assert places_of(own / "home", NEEDLES) == []
    assert millrace("status", "--home", home).returncode == 0
    assert millrace("erase", "--author", "a", "--record", "b", "--home", home).returncode == 2
