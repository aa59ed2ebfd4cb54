"""`millrace consistency` and its flow, and who is late: in status, events and refused reads."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from click.testing import CliRunner, Result

import flows.consistency as flow
from feature_repo import online_features
from feature_repo.watching.consistency import n_wrong
from feature_repo.watching.freshness import late_views, mark_fresh
from flows.cli import main
from flows.stages import (
    ConsistencyParameters,
    PipelineParameters,
    run_consistency,
    run_plain,
)
from tests.feature_repo.test_consistency import forget_definitions
from transforms.errors import ConsistencyError, StaleError
from transforms.features.registry import view_of
from transforms.home import Settings
from transforms.warehouse.tables import Warehouse

Emitted = list[tuple[str, dict[str, Any]]]
DECLARED = """
from transforms.features import Count, GroupBy, hours, lifetime
from transforms.features.entities import author

author_notes = GroupBy(
    "author_notes", author, [Count("n_notes"), Count("n_good", where={where!r})], [lifetime],
    fresh_within=hours(2),
)
"""
FEATURES = ["author_notes:n_good_lifetime", "author_notes:n_notes_lifetime"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of one view that promises to be fresh, after a run, with all that is served logged."""
    forget_definitions(monkeypatch)
    for name, value in {"FEATURES": tmp_path, "VIEWS": "author_notes", "LOG_SERVED": 1}.items():
        monkeypatch.setenv(f"MILLRACE_{name}", str(value))
    written = {"author": "ann", "written": "2026-01-01T10:00:00Z", "text": "a note"}
    rows = [{"id": str(n), "label": label, **written} for n, label in enumerate(["good", "bad"])]
    (tmp_path / "notes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fields = {"record_id": "id", "author_id": "author", "event_timestamp": "written"}
    record = {**fields, "text": "text", "label": "label"}
    document = {"name": "notes", "uri": "notes.jsonl", "known": "at_event", "record": record}
    (tmp_path / "notes.yaml").write_text(yaml.safe_dump(document))
    declare(tmp_path)
    run(tmp_path)
    return tmp_path / "home"


def declare(folder: Path, where: str = "label = 'good'") -> None:
    (folder / "author_notes.py").write_text(DECLARED.format(where=where))


def run(folder: Path) -> None:
    run_plain(PipelineParameters(source=str(folder / "notes.yaml"), home=str(folder / "home")))


def millrace(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def watched(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Emitted]:
    """Run the flow without Prefect; its artifact and events, in order."""
    emitted: Emitted = []
    monkeypatch.setattr(
        flow, "create_table_artifact", lambda key, table, **_: emitted.append((key, table))
    )
    monkeypatch.setattr(
        flow,
        "emit_event",
        lambda event, resource, payload: emitted.append((event, {**resource, **payload})),
    )

    def ran() -> Emitted:
        emitted.clear()
        flow.consistency.fn(ConsistencyParameters(home=str(home)))
        return emitted

    return ran


def ask(home: Path, **options: bool) -> list[int]:
    (row,) = online_features(FEATURES, [{"author_id": "ann"}], home, **options).to_dicts()
    return [row[name.replace(":", "__")] for name in FEATURES]


def test_the_command_says_what_differs_and_why_by_exit_code(home: Path) -> None:
    nothing = millrace("consistency", "--home", str(home))
    assert (nothing.exit_code, "nothing was logged" in nothing.output) == (0, True)
    assert ask(home) == [1, 2]
    same = millrace("consistency", "--home", str(home))
    assert (same.exit_code, same.output) == (
        0,
        "2 served values of 2 features: all as in training\n",
    )
    declare(home.parent, where="label = 'none'")
    run(home.parent)
    other = millrace("consistency", "--home", str(home))
    assert other.exit_code == 1
    assert "1 of 2 served values differ from what training says now" in other.output
    (line,) = (line for line in other.output.splitlines() if "n_good_lifetime" in line)
    assert line.endswith("code changed 1")
    assert "n_notes_lifetime" not in other.output
    assert "n_notes_lifetime" in millrace("consistency", "--home", str(home), "--all").output


def test_the_flow_leaves_an_artifact_and_events(
    home: Path, watched: Callable[[], Emitted], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(home)
    (key, table), (event, payload) = watched()
    assert (key, [row["matched"] for row in table]) == ("consistency", [1, 1])
    assert (event, payload["n_compared"], payload["n_wrong"]) == (
        "millrace.consistency.matched",
        2,
        0,
    )
    mark_fresh(home, datetime.now(UTC) - timedelta(hours=3))
    *_, (event, payload) = watched()
    assert event == "millrace.freshness.late"
    assert payload["prefect.resource.id"] == "millrace.view.author_notes"
    assert payload["within_seconds"] == 7200
    declare(home.parent, where="label = 'none'")
    run(home.parent)
    emitted: Emitted = []
    monkeypatch.setattr(
        flow, "emit_event", lambda event, payload, **_: emitted.append((event, payload))
    )
    with pytest.raises(ConsistencyError, match="1 of 2 served values"):
        flow.consistency.fn(ConsistencyParameters(home=str(home)))
    ((event, payload),) = emitted
    assert event == "millrace.consistency.differing"
    (feature,) = payload["features"]
    assert (feature["feature"], feature["causes"]) == (FEATURES[0], "code changed 1")


def test_who_is_late_is_reported_by_status_and_refused_where_a_read_asks(home: Path) -> None:
    assert view_of("author_notes").fresh_within == timedelta(hours=2)
    status = millrace("status", "--home", str(home))
    assert status.exit_code == 0
    assert "fresh  author_notes: brought up to date 0:00:" in status.output
    assert ask(home, refuse_stale=True) == [1, 2]
    mark_fresh(home, datetime.now(UTC) - timedelta(hours=3))
    status = millrace("status", "--home", str(home))
    assert (status.exit_code, "late: author_notes" in status.output) == (1, True)
    assert ask(home) == [1, 2]
    with pytest.raises(StaleError, match="author_notes: brought up to date 3:00:0"):
        ask(home, refuse_stale=True)


def test_a_run_with_nothing_new_finds_views_fresh(home: Path) -> None:
    mark_fresh(home, datetime.now(UTC) - timedelta(hours=3))
    assert len(late_views(home, datetime.now(UTC))) == 1
    source = str(home.parent / "notes.yaml")
    assert "nothing new" in millrace("run", "--source", source, "--home", str(home)).output
    assert late_views(home, datetime.now(UTC)) == []


def test_a_changed_promise_computes_nothing_again(home: Path) -> None:
    path, version = home.parent / "author_notes.py", view_of("author_notes").digest()
    path.write_text(path.read_text().replace("hours(2)", "hours(3)"))
    assert view_of("author_notes").fresh_within == timedelta(hours=3)
    assert view_of("author_notes").digest() == version
    tables = Warehouse(Settings(home=home))
    before = tables.version("features.author_notes")
    run(home.parent)
    assert tables.version("features.author_notes") == before


def test_the_report_shows_what_differs_and_who_is_late(home: Path) -> None:
    def page() -> str:
        assert millrace("report", "--home", str(home)).exit_code == 0
        return (home / "report.html").read_text("utf-8")

    assert "Nothing that was served has been compared yet" in page()
    ask(home)
    declare(home.parent, where="label = 'none'")
    run(home.parent)
    assert millrace("consistency", "--home", str(home)).exit_code == 1
    mark_fresh(home, datetime.now(UTC) - timedelta(hours=3))
    shown = page()
    assert "1 differ: see serving" in shown
    assert "<td>code changed 1</td>" in shown
    assert '<span class="verdict stop">late</span> author_notes: brought up to date 3:00:0' in shown


def test_what_is_served_of_the_sample_is_what_training_says(
    small_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_LOG_SERVED", "1")
    monkeypatch.setenv("MILLRACE_ONLINE", "record_text,record_quality,record_duplicates")
    home = tmp_path / "home"
    run_plain(PipelineParameters(source=str(small_source), home=str(home)))
    staged = pl.read_delta(str(home / "staging" / "records"))
    rows = staged.select("record_id", "author_id", "subject_id").unique(maintain_order=True)
    views = ("record_text", "record_quality", "record_duplicates")
    features = [f"{name}:{feature}" for name in views for feature in view_of(name).features]
    for asked in ("activity_v1", features):
        online_features(asked, rows.to_dicts(), home)
    checked = run_consistency(ConsistencyParameters(home=str(home))).consistency
    assert set(checked["view"]) == {"author_activity", "subject_activity", "author_tenure", *views}
    assert set(checked["n_compared"]) == {rows.height}
    assert n_wrong(checked) == 0
