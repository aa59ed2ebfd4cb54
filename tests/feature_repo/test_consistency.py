"""What was served is what training says; planted skews are found, each with its cause."""

import asyncio
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import yaml
from feast import FeatureStore

import feature_repo
from feature_repo import online_features, store
from feature_repo.stores import served_log
from feature_repo.stores.served import service_name
from feature_repo.stores.watched_server import logged
from feature_repo.watching.consistency import check, last_check, n_wrong
from feature_repo.watching.freshness import mark_fresh
from flows.stages import PipelineParameters, featurize, ingest, prepare, run_erasure, run_plain
from tests.feature_repo.conftest import store_at
from transforms.errors import StaleError
from transforms.home import Settings
from transforms.schemas.serving import CAUSES
from transforms.sources.source import load_source
from transforms.upkeep.erase import Wanted
from transforms.warehouse.tables import Warehouse

# no window ends within hours
AGES = (timedelta(hours=20), timedelta(days=3), timedelta(days=10))
ROWS = [{"author_id": author} for author in ("u0", "u1", "nobody")]
FEATURES = [
    "author_activity:n_records_7d",
    "author_activity:mean_characters_28d",
    "author_activity:first_event_timestamp",
    "author_tenure:days_since_first_record",
    "author_notes:n_notes_lifetime",
    "author_notes:last_label_lifetime",
]
DECLARED = """
from transforms.features import Count, Entity, GroupBy, Last, Service, hours, lifetime
from transforms.features.entities import author

author_notes = GroupBy(
    "author_notes", author, [Count("n_notes"{where}), Last("label", "last_label")], [lifetime]
)
notes_v1 = Service("notes_v1", [author_notes])
topic = Entity("topic", key="label")
word = Entity("word", key="string_split(text, ' ')", many=True)
topic_notes = GroupBy(
    "topic_notes", topic, [Count("n_of_topic")], [lifetime], fresh_within=hours(1)
)
word_notes = GroupBy("word_notes", word, [Count("n_of_word")], [lifetime])
"""


def forget_definitions(environment: pytest.MonkeyPatch) -> None:
    """Have them made again of the folder of features, which a process reads once."""
    environment.delitem(sys.modules, "feature_repo.definitions", raising=False)
    environment.delattr(feature_repo, "definitions", raising=False)


def line(record: int, age: timedelta, **changes: object) -> dict[str, object]:
    """A record of u0 or u1, with a text that must never be logged."""
    at = (datetime.now(UTC) - age).isoformat()
    row = {"id": f"r{record}", "author": f"u{record % 2}", "written": at, "text": f"secret {at}"}
    return {**row, "label": f"label {record}", **changes}


def write(source: Path, name: str, *rows: Mapping[str, object]) -> None:
    (source.parent / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def declare(folder: Path, where: str = "") -> None:
    (folder / "author_notes.py").write_text(DECLARED.format(where=where))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source of six records, known as they were written, and a home after a run."""
    folder = tmp_path_factory.mktemp("watched")
    source = folder / "notes.yaml"
    (folder / "features").mkdir()
    declare(folder / "features")
    write(source, "notes", *(line(n, AGES[n // 2]) for n in range(6)))
    fields = {"record_id": "id", "author_id": "author", "event_timestamp": "written"}
    record = {**fields, "text": "text", "label": "label"}
    document = {"name": "notes", "uri": "*.jsonl", "known": "at_event", "record": record}
    source.write_text(yaml.safe_dump(document))
    with pytest.MonkeyPatch.context() as environment:
        forget_definitions(environment)
        environment.setenv("MILLRACE_FEATURES", str(folder / "features"))
        environment.setenv(
            "MILLRACE_VIEWS",
            "author_activity, author_tenure, author_notes, topic_notes, word_notes",
        )
        run_plain(PipelineParameters(source=str(source), home=str(folder / "home")))
    return folder


@pytest.fixture
def source(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder, whose home logs all that is served."""
    forget_definitions(monkeypatch)
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    for name, value in {"FEATURES": tmp_path / "features", "LOG_SERVED": 1}.items():
        monkeypatch.setenv(f"MILLRACE_{name}", str(value))
    return tmp_path / "notes.yaml"


def home(source: Path) -> Path:
    return source.parent / "home"


def run(source: Path) -> None:
    run_plain(PipelineParameters(source=str(source), home=str(home(source))))


def warehouse(source: Path) -> Warehouse:
    return Warehouse(Settings(home=home(source)))


def checked(source: Path) -> pl.DataFrame:
    return check(warehouse(source), datetime.now(UTC))


def found(rows: pl.DataFrame) -> dict[str, dict[str, int]]:
    """The causes of each feature's differences that there are any of."""
    return {
        f"{row['view']}:{row['feature']}": causes
        for row in rows.to_dicts()
        if (causes := {cause: row[f"n_{cause}"] for cause in CAUSES if row[f"n_{cause}"]})
    }


def each(cause: str, *features: str) -> dict[str, dict[str, int]]:
    return {feature: {cause: 1} for feature in features}


# --- none ---


def test_what_was_served_after_a_run_is_what_training_says(source: Path) -> None:
    served = online_features(FEATURES, ROWS, home(source))
    assert served["author_notes__n_notes_lifetime"].to_list() == [3, 3, 0]
    rows = checked(source)
    assert (rows.height, set(rows["n_compared"]), n_wrong(rows)) == (len(FEATURES), {3}, 0)
    assert last_check(warehouse(source)).equals(rows)


def test_the_log_has_numbers_and_digests_but_no_text(source: Path) -> None:
    online_features(FEATURES, ROWS, home(source))
    served_log.flush(home(source))
    ((file,),) = served_log.files_of(home(source)).values()
    logged = pl.read_parquet(file)
    assert logged["author_activity__n_records_7d"].to_list() == [2, 2, 0]
    (label,) = served_log.masked(pa.array(["label 0"])).to_pylist()
    assert logged["author_notes__last_label_lifetime"][0] == label
    content = file.read_bytes() + str(logged.to_dicts()).encode()
    assert b"secret" not in content
    assert b"label 0" not in content


def test_nothing_is_logged_unless_a_setting_says_so(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MILLRACE_LOG_SERVED")
    online_features(FEATURES, ROWS, home(source))
    assert not (home(source) / "serving").exists()
    assert checked(source).is_empty()


# --- planted skews ---


def test_a_value_that_was_altered_online_is_named(source: Path) -> None:
    table = pl.read_delta(str(warehouse(source).folder("features.author_notes")))
    newest = table.filter(author_id="u0").sort("event_timestamp").tail(1)
    now = datetime.now(UTC)
    altered = newest.with_columns(
        n_notes_lifetime=pl.lit(8), event_timestamp=now, created_timestamp=now
    )
    store(home(source)).write_to_online_store("author_notes", altered.to_pandas())
    online_features(FEATURES, ROWS, home(source))
    rows = checked(source)
    assert found(rows) == {"author_notes:n_notes_lifetime": {"altered_online": 1}}
    (row,) = rows.filter(feature="n_notes_lifetime").to_dicts()
    assert (row["n_differing"], row["n_missing"], row["n_extra"]) == (1, 0, 0)
    assert (row["largest_difference"], row["n_matched"]) == (5.0, 2)
    assert row["smape"] == pytest.approx((2 * 5 / 11) / 3)


def test_a_record_that_came_later_is_named(source: Path) -> None:
    online_features(FEATURES, ROWS, home(source))
    write(source, "late", line(20, timedelta(days=20), text="secret " * 9))
    run(source)
    differences = found(checked(source))
    assert differences == each(
        "record_known_later",
        "author_activity:mean_characters_28d",
        "author_activity:first_event_timestamp",
        "author_tenure:days_since_first_record",
        "author_notes:n_notes_lifetime",
    )


def test_a_record_that_was_corrected_is_named(source: Path) -> None:
    online_features(FEATURES, ROWS, home(source))
    write(source, "new", line(1, AGES[0] - timedelta(minutes=1), label="another"))
    run(source)
    assert found(checked(source))["author_notes:last_label_lifetime"] == {"record_corrected": 1}


def test_changed_code_is_named(source: Path) -> None:
    online_features(FEATURES, ROWS, home(source))
    declare(source.parent / "features", where=", where=\"label <> 'label 0'\"")
    run(source)
    assert found(checked(source)) == {"author_notes:n_notes_lifetime": {"code_changed": 1}}


def test_a_store_that_is_behind_is_named(source: Path) -> None:
    write(source, "late", line(20, timedelta(minutes=1), text="secret " * 9))
    tables, notes = warehouse(source), load_source(source)
    ingest(notes, tables)
    prepare(notes, tables, False, False, False)  # noqa: FBT003
    featurize(tables, datetime.now(UTC))
    online_features(FEATURES, ROWS, home(source))
    differences = found(checked(source))
    assert differences == each(
        "store_older",
        "author_activity:n_records_7d",
        "author_activity:mean_characters_28d",
        "author_notes:n_notes_lifetime",
        "author_notes:last_label_lifetime",
    )
    run(source)
    shutil.rmtree(home(source) / served_log.LOG)
    online_features(FEATURES, ROWS, home(source))
    assert n_wrong(checked(source)) == 0


# --- the log ---


def test_a_share_of_the_rows_is_logged(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_LOG_SERVED", "0.25")
    online_features(FEATURES, ROWS * 400, home(source))
    (row,) = checked(source).filter(feature="n_notes_lifetime").to_dicts()
    assert 200 < row["n_compared"] < 400
    assert row["n_matched"] == row["n_compared"]


def test_the_oldest_leave_a_log_that_is_full(source: Path) -> None:
    for _ in range(3):
        online_features(FEATURES, ROWS, home(source))
        served_log.flush(home(source))
    ((_, *others),) = served_log.files_of(home(source)).values()
    served_log.keep_within(home(source) / served_log.LOG, sum(f.stat().st_size for f in others))
    assert [*served_log.files_of(home(source)).values()] == [others]


def test_what_was_read_before_the_log_was_cleared_is_not_logged(source: Path) -> None:
    online_features(FEATURES, ROWS, home(source))
    served_log.clear(home(source))
    assert checked(source).is_empty()


def test_a_service_is_logged_by_its_name_and_a_list_by_one_of_its_own(source: Path) -> None:
    online_features("notes_v1", ROWS, home(source))
    online_features(FEATURES[:1], ROWS, home(source))
    rows = checked(source)
    assert set(rows.filter(view="author_notes")["service"]) == {"notes_v1"}
    assert set(rows.filter(view="author_activity")["service"]) == {service_name(FEATURES[:1])}
    assert n_wrong(rows) == 0


def test_an_erasure_takes_the_log_with_it(source: Path) -> None:
    online_features(FEATURES, ROWS, home(source))
    served_log.flush(home(source))
    online_features(FEATURES, ROWS, home(source))  # waits to be logged
    run_erasure(home(source), Wanted(author="u0"), is_dry=False)
    served_log.flush(home(source))
    assert [file for files in served_log.files_of(home(source)).values() for file in files] == []


def test_answers_of_feasts_own_are_logged_whether_awaited_or_not(source: Path) -> None:
    asked = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    asked["event_timestamp"] = [datetime.now(UTC).isoformat()] * len(ROWS)
    feast_store = store(home(source))
    logged(FeatureStore.get_online_features)(feast_store, FEATURES, asked)
    logged(FeatureStore.get_online_features)(
        feast_store, feast_store.get_feature_service("notes_v1"), [*map(dict, ROWS)]
    )
    answer = logged(FeatureStore.get_online_features_async)(
        feast_store, features=FEATURES, entity_rows=asked, full_feature_names=True
    )
    asyncio.run(answer)
    rows = checked(source)
    n_compared = dict(
        rows.filter(feature="n_notes_lifetime").select("service", "n_compared").rows()
    )
    assert n_compared == {"notes_v1": 3, service_name(FEATURES): 6}
    assert (rows["n_compared"].sum(), n_wrong(rows)) == (6 * len(FEATURES) + 3 * 2, 0)


def test_what_a_text_names_is_logged_with_its_key_and_lists_are_not(source: Path) -> None:
    row = {"text": "secret words", "label": "label 1"}
    names = ["topic_notes:n_of_topic_lifetime", "word_notes:n_of_word_lifetime"]
    served = online_features(names, [row], home(source))
    assert served.row(0)[2:] == (["secret", "words"], 1, [6, 0])
    asked = {name: [value] for name, value in row.items()}
    logged(FeatureStore.get_online_features)(store(home(source)), names[:1], asked)
    rows = checked(source)
    assert rows.select("feature", "n_compared").rows() == [("n_of_topic_lifetime", 1)] * 2
    assert n_wrong(rows) == 0


def test_a_read_refuses_what_is_late_where_it_is_asked_to(source: Path) -> None:
    names, row = ["topic_notes:n_of_topic_lifetime"], {"topic": "label 1"}
    run(source)
    assert online_features(names, [row], home(source), refuse_stale=True).item(0, 1) == 1
    mark_fresh(home(source), datetime.now(UTC) - timedelta(hours=2))
    assert online_features(names, [row], home(source)).item(0, 1) == 1
    with pytest.raises(StaleError, match="topic_notes: brought up to date 2:00:0"):
        online_features(names, [row], home(source), refuse_stale=True)


@pytest.fixture
def elsewhere(source: Path, place: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same home with its online store at a place, after a run."""
    store_at(place, monkeypatch)
    shutil.rmtree(home(source) / "feast")
    run(source)
    return source


IN_BOTH = (
    test_what_was_served_after_a_run_is_what_training_says,
    test_a_value_that_was_altered_online_is_named,
    test_a_store_that_is_behind_is_named,
)


# what does not go by how a store keeps its values is asked of one of them
@pytest.mark.parametrize(
    ("place", "check"),
    [
        *product(("redis", "postgres"), IN_BOTH),
        ("redis", test_a_record_that_came_later_is_named),
        ("redis", test_answers_of_feasts_own_are_logged_whether_awaited_or_not),
        ("postgres", test_what_a_text_names_is_logged_with_its_key_and_lists_are_not),
        ("postgres", test_a_read_refuses_what_is_late_where_it_is_asked_to),
    ],
    indirect=["place"],
)
def test_a_store_of_another_kind_is_watched_as_sqlite_is(
    elsewhere: Path, check: Callable[[Path], None]
) -> None:
    check(elsewhere)
