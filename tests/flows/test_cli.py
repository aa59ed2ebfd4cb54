"""The command line, as a new user meets it."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from feature_repo import training_set
from flows.cli import main
from flows.commands.plan import plan
from flows.planning import plan_run
from flows.report.data import read_shown
from flows.stages import PipelineParameters, lock_home, pending_work, run_plain
from tests.flows.conftest import Warm, environment_of
from transforms.engines import engine as choice
from transforms.errors import EngineError
from transforms.features.registry import view_of, views
from transforms.home import Settings
from transforms.sources.source import load_source
from transforms.upkeep.sizes import table_bytes
from transforms.warehouse.publishing import publish
from transforms.warehouse.tables import Warehouse

Run = Callable[..., subprocess.CompletedProcess[str]]
VIEWS = [view.name for view in views()]


@pytest.fixture(scope="module")
def finished_home(small_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home after one run on the small source."""
    home = tmp_path_factory.mktemp("finished") / "home"
    run_plain(PipelineParameters(source=str(small_source), home=str(home)))
    return home


def the_one_line(result: subprocess.CompletedProcess[str]) -> str:
    """The only line on standard error: no traceback, no chatter."""
    (line,) = result.stderr.strip().splitlines()
    return line


def test_run_then_run_again_changes_nothing(
    new_millrace: Run, millrace: Run, small_source: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    first = new_millrace(
        "run", "--source", str(small_source), "--home", str(home), "--plain", "--json"
    )
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""  # progress is for terminals
    summary = json.loads(first.stdout.splitlines()[-1])
    assert summary["files_loaded"] == 3
    assert (
        summary["read"]
        == summary["staged"] + summary["duplicates"] + summary["quarantined"]
        == 2859
    )
    assert list(summary["features"]) == VIEWS
    assert list(summary["materialized"]) == ["author_activity", "subject_activity"]
    assert min(summary["features"].values()) > 0
    assert min(summary["materialized"].values()) > 0
    assert list(summary["seconds"]) == ["ingest", "prepare", "featurize", "apply", "materialize"]

    versions = Warehouse(Settings(home=home)).versions()
    second = millrace("run", "--source", str(small_source), "--home", str(home), "--json")
    assert second.returncode == 0, second.stderr
    assert "nothing new" in second.stdout
    assert json.loads(second.stdout.splitlines()[-1])["read"] == 0
    assert Warehouse(Settings(home=home)).versions() == versions


def test_default_home_is_in_the_current_folder(
    millrace: Run, small_source: Path, tmp_path: Path
) -> None:
    result = millrace("run", "--source", str(small_source), "--plain")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / ".millrace" / "raw" / "records").is_dir()


def test_home_from_the_environment(new_millrace: Run, finished_home: Path) -> None:
    result = new_millrace("status", MILLRACE_HOME=str(finished_home))
    assert result.returncode == 0, result.stderr
    assert "Everything adds up" in result.stdout


def test_views_that_are_off_are_named(
    finished_home: Path, small_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = shutil.copytree(finished_home, tmp_path / "home")
    source, warehouse = load_source(small_source), Warehouse(Settings(home=home))
    assert pending_work(source, warehouse).nothing
    monkeypatch.setenv("MILLRACE_VIEWS", "activity_v1")
    assert not pending_work(source, warehouse).nothing
    summary = run_plain(PipelineParameters(source=str(small_source), home=str(home)))
    assert list(summary.materialized) == ["author_activity", "subject_activity"]
    monkeypatch.delenv("MILLRACE_VIEWS")
    assert pending_work(source, warehouse).nothing
    off = [view for view in VIEWS if view not in summary.features]
    shown = CliRunner().invoke(main, ["status", "--home", str(home)])
    assert f"Off, so not computed: {', '.join(off)}; a run with MILLRACE_VIEWS=all" in shown.output
    shown = CliRunner().invoke(main, ["features", "--home", str(home)])
    marked = [line.split()[0] for line in shown.output.splitlines() if "off in this home" in line]
    assert marked == [*off, "triage_v2", "triage_v3"]
    shown = CliRunner().invoke(main, ["plan", "--source", str(small_source), "--home", str(home)])
    assert f"features.{off[0]}: is off in this home" in shown.output
    cards = read_shown(warehouse, datetime.now(UTC)).cards
    assert [card.name for card in cards if card.is_off] == off


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run", "--source", "nowhere.yaml"), 2, "nowhere.yaml: cannot be read"),
        (
            ("run", "--source", "typo.yaml"),
            2,
            "typo.yaml: record.txt: is not a key of a source; did you mean 'text'?",
        ),
        (("run", "--source", "empty.yaml"), 2, "no file to load there"),
        (("run", "--source", "broken.yaml"), 2, "broken.yaml, line 2: is not YAML"),
        (("status", "--home", "nothing"), 1, "run millrace run --source FILE first"),
    ],
)
def test_a_mistake_costs_one_line(
    millrace: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    (tmp_path / "folder").mkdir()
    record = "record: {record_id: a, author_id: b, event_timestamp: c, text: d"
    (tmp_path / "typo.yaml").write_text(
        f"name: x\nuri: folder\nknown: at_load\n{record}, txt: e}}\n"
    )
    (tmp_path / "empty.yaml").write_text(f"name: x\nuri: folder\nknown: at_load\n{record}}}\n")
    (tmp_path / "broken.yaml").write_text("name: [x\nuri: y\n")
    result = millrace(*arguments)
    assert result.returncode == code
    assert words in the_one_line(result)


def test_debug_shows_the_traceback(new_millrace: Run) -> None:
    result = new_millrace("--debug", "run", "--source", "nowhere.yaml")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_a_home_that_cannot_be_written_costs_one_line(
    millrace: Run, small_source: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    result = millrace(
        "run", "--source", str(small_source), "--home", str(tmp_path / "file" / "home")
    )
    assert result.returncode == 1
    assert "cannot be written" in the_one_line(result)


@pytest.mark.skipif(
    not Path("/proc/locks").is_file(),
    reason="Linux lists who waits for a lock; nothing else tells it for sure",
)
def test_a_second_run_at_the_same_time_waits_says_so_and_does_what_is_left(
    tmp_path: Path, small_source: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "run",
        "--plain",
        "--source",
        str(small_source),
        "--home",
        str(tmp_path / "home"),
    ]
    with lock_home(tmp_path / "home"):
        second = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert second.stderr is not None
        said = second.stderr.readline()
        while not waits_for_a_lock(second.pid):
            assert second.poll() is None, "it continued while the home was locked"
    out, _ = second.communicate(timeout=280)
    assert f"waiting for another run (process {os.getpid()})" in said
    assert second.returncode == 0
    assert "3 files, 2,859 rows read" in out


def waits_for_a_lock(process_id: int) -> bool:
    """Whether the kernel lists a process as waiting for a file lock (`->` in /proc/locks)."""
    waiting = [
        line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" in line
    ]
    return any(str(process_id) in fields for fields in waiting)


def test_two_runs_at_once_load_every_row_once(
    warm: Warm, tmp_path: Path, small_source: Path
) -> None:
    home = tmp_path / "home"
    command = ("run", "--plain", "--json", "--source", str(small_source), "--home", str(home))
    runs = [
        warm.begin(command, tmp_path, environment_of(tmp_path), tmp_path / name)
        for name in ("one", "other")
    ]
    ended = [wait() for wait in runs]
    assert [run.returncode for run in ended] == [0, 0]
    assert sorted(json.loads(run.stdout.splitlines()[-1])["read"] for run in ended) == [0, 2859]
    assert Warehouse(Settings(home=home)).n_rows("raw.records") == 2859


def test_home_may_have_a_blank_and_other_letters_in_its_path(
    millrace: Run, small_source: Path, tmp_path: Path
) -> None:
    home = str(tmp_path / "my häuser home")
    for expected in ("features.author_activity", "nothing new"):
        result = millrace("run", "--source", str(small_source), "--home", home, "--plain")
        assert result.returncode == 0, result.stderr
        assert expected in result.stdout
    spine = (
        "select record_id, author_id, known_timestamp as event_timestamp from staging.records "
        "order by all limit 5"
    )
    assert training_set(spine, ["record_quality:n_words"], home).frame.height == 5


def test_plan_shows_what_a_run_would_do_and_writes_nothing(
    millrace: Run, small_source: Path, finished_home: Path, tmp_path: Path
) -> None:
    plan = ("plan", "--source", str(small_source), "--home")
    before = millrace(*plan, "nowhere")
    assert before.returncode == 0, before.stderr
    assert "3 files" in before.stdout
    assert not (tmp_path / "nowhere").exists()
    versions = Warehouse(Settings(home=finished_home)).versions()
    assert "nothing to load, stage or compute" in millrace(*plan, str(finished_home)).stdout
    assert Warehouse(Settings(home=finished_home)).versions() == versions


def test_run_names_the_engine_that_works_whatever_the_setting(
    monkeypatch: pytest.MonkeyPatch, small_source: Path, tmp_path: Path
) -> None:
    def engine_of(settings: Settings) -> None:
        message = f"{settings.engine} is asked"
        raise EngineError(message)

    monkeypatch.setattr(choice, "engine_of", engine_of)
    monkeypatch.setattr(choice, "FEW_ROWS", 0)
    words = ["--source", str(small_source), "--home", str(tmp_path / "home"), "--engine", "dask"]
    ended = CliRunner().invoke(main, ["run", "--plain", *words], env={"MILLRACE_ENGINE": "spark"})
    assert "dask is asked" in ended.output


def test_plan_prices_new_files_by_the_content_of_the_home(
    millrace: Run, small_source: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_source.parent, tmp_path / "source")
    run_plain(
        PipelineParameters(
            source=str(tmp_path / "source" / "cve_events.yaml"), home=str(tmp_path / "home")
        )
    )
    day, *_ = sorted((tmp_path / "source" / "data" / "cve_events").iterdir())
    shutil.copy(day, day.with_name("2024-05-12.jsonl.zst"))
    planned = millrace("plan", "--source", "source/cve_events.yaml", "--home", "home").stdout
    rows = {
        words[0]: words[1:3]
        for line in planned.splitlines()
        if "." in (words := line.split() or [""])[0] and len(words) > 4
    }
    assert list(rows) == ["raw.records", "staging.records", *(f"features.{view}" for view in VIEWS)]
    assert all(
        count.replace(",", "").isdigit() and float(seconds) >= 0 for count, seconds in rows.values()
    ), planned


def test_plan_prices_the_disk_that_a_run_then_takes(small_source: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small_source.parent, tmp_path / "source")
    parameters = PipelineParameters(
        source=str(folder / "cve_events.yaml"), home=str(tmp_path / "home")
    )
    last = max((folder / "data" / "cve_events").iterdir())
    later = last.rename(tmp_path / last.name)
    run_plain(parameters)
    later.rename(last)
    warehouse = Warehouse(parameters.settings())

    def taken(relation: str) -> np.ndarray:
        return np.array([table_bytes(warehouse, relation), warehouse.n_rows(relation)])

    before = {relation: taken(relation) for relation in warehouse.versions()}
    planned = plan_run(load_source(folder / "cve_events.yaml"), warehouse).steps
    run_plain(parameters)
    assert {step.relation for step in planned} >= {"raw.records", "online author_activity"}
    assert None not in [step.n_bytes for step in planned]
    for step in planned:
        if step.relation in before:
            n_bytes, n_rows = before[step.relation]
            assert step.n_bytes == pytest.approx(step.rows * n_bytes / n_rows)
    added, _ = taken("raw.records") - before["raw.records"]
    assert 0.8 * added < (planned[0].n_bytes or 0) < 1.25 * added


def test_plan_warns_where_the_disk_is_too_small(
    monkeypatch: pytest.MonkeyPatch, small_source: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(small_source.parent, tmp_path / "source")
    source, home = str(folder / "cve_events.yaml"), str(tmp_path / "home")
    run_plain(PipelineParameters(source=source, home=home))
    first = min((folder / "data" / "cve_events").iterdir())
    shutil.copy(first, first.with_name("2024-05-12.jsonl.zst"))
    arguments = ["--source", source, "--home", home]
    assert "that are free" not in CliRunner().invoke(plan, arguments).stdout
    monkeypatch.setattr("transforms.upkeep.sizes.free_bytes", lambda _: 999)
    assert "are more than the 999 B that are free" in CliRunner().invoke(plan, arguments).stdout


def test_a_refused_file_fails_the_run_after_the_others_are_loaded(
    millrace: Run, tmp_path: Path
) -> None:
    row = {"id": "a", "author": "u", "written": "2026-01-01", "text": "fine"}
    (tmp_path / "good.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "half.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00half")
    record = "record: {record_id: id, author_id: author, event_timestamp: written, text: text}"
    (tmp_path / "source.yaml").write_text(f"name: x\nuri: '*.jsonl*'\nknown: at_event\n{record}\n")
    result = millrace("run", "--source", "source.yaml", "--home", "home", "--plain")
    assert result.returncode == 1
    assert "half.jsonl.gz: refused" in the_one_line(result)
    assert result.stdout.startswith(
        "x: 1 files, 1 rows read\n  staged 1, duplicates 0, quarantined 0\n"
    )
    assert Warehouse(Settings(home=tmp_path / "home")).n_rows("staging.records") == 1


def test_a_prefect_server_that_is_not_running_is_one_line(
    new_millrace: Run, small_source: Path, tmp_path: Path
) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers there
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        result = new_millrace(
            "run",
            "--source",
            str(small_source),
            "--home",
            "home",
            PREFECT_API_URL=f"http://ann:secret@{host}/api",
        )
    assert result.returncode == 1
    assert the_one_line(result).startswith(
        f"millrace: Prefect's API at {host} does not answer (ConnectError); start it with"
    )
    assert Warehouse(Settings(home=tmp_path / "home")).versions() == {}


def test_help_is_light_and_teaches(new_millrace: Run) -> None:
    script = (
        "import sys, flows.cli; print(*[name for name in ('prefect', 'feast', 'pandera', "
        "'polars', 'duckdb') if name in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == ""
    for command in (
        "run",
        "plan",
        "trace",
        "status",
        "quarantine",
        "features",
        "train-demo",
        "ask",
        "serve",
    ):
        result = new_millrace(command, "--help")
        assert result.returncode == 0
        assert len(result.stdout.splitlines()) > 5


def test_features_names_a_source_that_is_known_in_retrospect(millrace: Run, tmp_path: Path) -> None:
    record = (
        "{record_id: id, author_id: author, subject_id: about, event_timestamp: written, "
        "text: text}"
    )
    (tmp_path / "notes.yaml").write_text(
        f"name: notes\nuri: notes.jsonl\nknown: at_event\nrecord: {record}\n"
    )
    row = {
        "id": "r1",
        "author": "ann",
        "about": "tea",
        "written": "2024-05-01T00:00:00Z",
        "text": "hi",
    }
    (tmp_path / "notes.jsonl").write_text(json.dumps(row) + "\n")
    ran = millrace("run", "--source", "notes.yaml", "--home", "home", "--plain")
    assert ran.returncode == 0, ran.stderr
    (line,) = [
        line
        for line in millrace("features", "--home", "home").stdout.splitlines()
        if line.startswith("  notes ")
    ]
    assert "known at_event, in retrospect" in line


def test_features_lists_every_feature(millrace: Run) -> None:
    result = millrace("features")
    assert result.returncode == 0
    assert "positive_ratio_28d" in result.stdout
    assert "unique_word_ratio" in result.stdout


def test_quarantine_round(millrace: Run, tmp_path: Path) -> None:
    row = {"author": "u", "text": "words of secret@example.org"}
    rows = [
        {**row, "id": str(n), "written": written}
        for n, written in enumerate(["2026-01-01", "01.02.2026"])
    ]
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = "record: {record_id: id, author_id: author, text: text, event_timestamp: "
    source = tmp_path / "source.yaml"
    source.write_text(f"name: notes\nuri: notes.jsonl\nknown: at_load\n{record} written}}\n")
    run = ("run", "--source", "source.yaml", "--home", "home", "--plain")
    assert millrace(*run).returncode == 0
    listed = millrace("quarantine", "list", "--home", "home").stdout
    assert "notes: 1 of 2 rows read wait in quarantine (50.00%)" in listed
    assert re.search(r"1 +50.00%  event_timestamp +not_a_time +1  █  1", listed), listed
    shown = millrace("quarantine", "show", "--home", "home").stdout
    assert "notes.jsonl, row 2: event_timestamp: not_a_time" in shown
    assert "words of <EMAIL_ADDRESS>" in shown
    assert "secret" not in listed + shown
    assert (
        "secret@example.org" in millrace("quarantine", "show", "--home", "home", "--reveal").stdout
    )
    mended = "\"coalesce(try_cast(written as timestamp), try_strptime(written, '%d.%m.%Y'))\""
    source.write_text(f"name: notes\nuri: notes.jsonl\nknown: at_load\n{record} {mended}}}\n")
    replayed = millrace("quarantine", "replay", "--source", "source.yaml", "--home", "home")
    assert "1 tried: 1 staged" in replayed.stdout, replayed.stderr
    rows = {
        line.split()[0]: line.split()[1:4]
        for line in millrace(*run).stdout.splitlines()
        if "." in line
    }
    assert rows["features.record_quality"] == ["1", "0", "1"]  # new, recomputed, untouched
    assert "Everything adds up" in millrace("status", "--home", "home").stdout


def test_corrections_round(millrace: Run, tmp_path: Path) -> None:
    rows = [
        {"id": f"r{number}", "author": "u", "written": written, "text": "=words of ann@example.org"}
        for number, written in enumerate(["2026-01-01", "01.02.2026", "soon"])
    ]
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = "record: {record_id: id, author_id: author, text: text, event_timestamp: written}"
    (tmp_path / "source.yaml").write_text(
        f"name: notes\nuri: notes.jsonl\nknown: at_load\n{record}\n"
    )
    run = ("run", "--source", "source.yaml", "--home", "home", "--plain")
    assert millrace(*run).returncode == 0
    assert "2 of 3 rows read wait" in millrace("quarantine", "list", "--home", "home").stdout
    exported = millrace(
        "quarantine",
        "export",
        "--csv",
        "rows.csv",
        "--rule",
        "not_a_time",
        "--reveal",
        "--home",
        "home",
    )
    assert "rows.csv: 2 rows\n" in exported.stdout, exported.stderr
    frame = pl.read_csv(tmp_path / "rows.csv").sort("row_number")
    corrections = [
        frame["payload"][0].replace("01.02.2026", "2026-02-01"),
        frame["payload"][1].replace("soon", "later"),
    ]
    frame.with_columns(correction=pl.Series(corrections)).write_csv(tmp_path / "rows.csv")
    taking = ("quarantine", "import", "--source", "source.yaml", "rows.csv", "--home", "home")
    dry = millrace(*taking, "--dry-run")
    assert dry.stdout.splitlines() == [
        "2 corrections: 2 would be taken",
        "  1 pass the rules",
        "  1 will still break event_timestamp: not_a_time (row 3)",
    ]
    assert "2 corrections: 2 taken" in millrace(*taking).stdout
    replayed = millrace("quarantine", "replay", "--source", "source.yaml", "--home", "home")
    assert "2 tried: 1 staged, 0 duplicates, 1 stay in quarantine" in replayed.stdout, (
        replayed.stderr
    )
    rows_of = {
        line.split()[0]: line.split()[1:4]
        for line in millrace(*run).stdout.splitlines()
        if "." in line
    }
    assert rows_of["features.record_quality"] == ["1", "0", "1"]  # new, recomputed, untouched
    assert "Everything adds up" in millrace("status", "--home", "home").stdout
    traced = millrace("trace", "--record", "r1", "--home", "home").stdout
    assert "notes.jsonl, row 2" in traced
    assert re.search(
        r"corrected   20\d\d-.* UTC; read in its place: sha256 [0-9a-f]{64}", traced
    ), traced
    assert "no such row of notes is in quarantine" in the_one_line(millrace(*taking))


def test_frozen_source_is_planned_stopped_and_accepted(millrace: Run, tmp_path: Path) -> None:
    row = {"id": "r1", "author": "u", "written": "2026-01-01", "text": "fine"}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text(json.dumps(row) + "\n")
    record = "record: {record_id: id, author_id: author, text: text, event_timestamp: written}"
    (tmp_path / "source.yaml").write_text(
        f"name: notes\nuri: data\nknown: at_load\nschema: freeze\n{record}\n"
    )
    run = ("run", "--source", "source.yaml", "--home", "home", "--plain")
    assert millrace(*run).returncode == 0
    (tmp_path / "data" / "b.jsonl").write_text(json.dumps({**row, "id": "r2", "score": 1}) + "\n")
    planned = millrace("plan", "--source", "source.yaml", "--home", "home")
    assert (
        'fields: "score" is new (integer); in the first rows of 1 files, 1 rows looked at'
        in planned.stdout
    ), planned.stderr
    assert "`schema: freeze` stops the run" in planned.stdout
    stopped = millrace(*run)
    assert stopped.returncode == 1
    assert '"score" is new (integer)' in stopped.stderr
    assert "Traceback" not in stopped.stderr
    accepted = millrace(*run, "--accept-schema")
    assert accepted.returncode == 0, accepted.stderr
    assert "note: notes, load " in accepted.stderr
    assert 'field "score" is new (integer), in 1 rows' in accepted.stderr
    assert "nothing new" in millrace(*run).stdout


def test_help_keeps_the_lines_of_its_examples(millrace: Run) -> None:
    lines = [line.strip() for line in millrace("--help").stdout.splitlines()]
    assert (
        "millrace plan --source sources/cve_events.yaml  show what the next run would do" in lines
    )
    assert (
        "millrace quarantine list                        list what was rejected, and why" in lines
    )


def test_locks_round(millrace: Run, small_source: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    run_plain(PipelineParameters(source=str(small_source), home=str(home)))
    spine = (
        "select record_id, author_id, known_timestamp as event_timestamp from staging.records "
        "order by all limit 50"
    )
    made = training_set(spine, ["author_activity:n_records_7d"], home)
    made.save_lock(tmp_path / "a.lock")
    pl.DataFrame(made.spine).write_parquet(tmp_path / "spine.parquet")
    assert "No lock is registered" in millrace("locks", "--home", str(home)).stdout
    added = millrace(
        "locks", "add", "a", "--lock", "a.lock", "--spine", "spine.parquet", "--home", str(home)
    )
    assert "a: registered, 50 rows" in added.stdout, added.stderr
    listed = millrace("locks", "--home", str(home)).stdout
    assert "author_activity:n_records_7d" in listed
    assert "all there" in listed
    assert "a: equal, 50 rows" in millrace("locks", "check", "a", "--home", str(home)).stdout
    assert millrace("locks", "remove", "a", "--home", str(home)).stdout == "a: removed\n"
    assert "no lock of that name" in the_one_line(
        millrace("locks", "check", "a", "--home", str(home))
    )


def test_backfill_lists_prices_and_fills_what_is_missing(
    millrace: Run, small_source: Path, tmp_path: Path
) -> None:
    home = str(tmp_path / "home")
    assert millrace("run", "--source", str(small_source), "--home", home, "--plain").returncode == 0
    assert "nothing is missing" in millrace("backfill", "--home", home).stdout
    warehouse = Warehouse(Settings(home=Path(home)))
    view = view_of("author_activity")
    publish(warehouse, view.contract, [], {}, without=warehouse.files(view.relation))
    span = ("--from", "2024-05-01", "--to", "2024-06-01", "--home", home)
    version = warehouse.versions()
    listed = millrace("backfill", *span, "--dry-run").stdout
    assert re.search(r"features.author_activity +[1-9]\d+ +\d+  2024-05-.*, missing", listed), (
        listed
    )
    assert re.search(r"rows: about \d+\.\d s", listed)
    assert warehouse.versions() == version
    filled = millrace("backfill", *span)
    assert filled.returncode == 0, filled.stderr
    assert "nothing is missing" in millrace("backfill", *span).stdout
    # July's are still missing
    assert "features.author_activity" in millrace("backfill", "--home", home).stdout


def test_help_answers_at_once() -> None:
    """Compare the child's CPU seconds for `--help` with Python's own start, with a wide margin."""
    import resource

    def cost(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert cost("-m", "flows.cli", "--help") - cost("-c", "pass") < 0.3
