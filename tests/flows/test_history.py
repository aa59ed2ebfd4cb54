"""The history of runs: rates by stage, whatever a kill left of the last line."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from flows.history import (
    Rate,
    history_path,
    note_run,
    online_bytes_before,
    price,
    read_rates,
)


def test_rates_are_over_all_runs_that_had_rows(tmp_path: Path) -> None:
    note_run(tmp_path, {"ingest": 100, "featurize": 10}, {"ingest": 1.0, "featurize": 2.0})
    note_run(tmp_path, {"ingest": 300, "featurize": 0}, {"ingest": 1.0, "featurize": 5.0})
    assert read_rates(tmp_path) == {"ingest": Rate(400, 2.0), "featurize": Rate(10, 2.0)}
    assert price(read_rates(tmp_path), "featurize", 15) == "about 3.0 s"
    assert "no run was measured" in price(read_rates(tmp_path), "prepare", 15)


def test_torn_line_spoils_no_other(tmp_path: Path) -> None:
    note_run(tmp_path, {"ingest": 100}, {"ingest": 1.0})
    path = history_path(tmp_path)
    path.write_text(path.read_text() + '\n{"rows": {"ing')
    note_run(tmp_path, {"ingest": 100}, {"ingest": 2.0})
    assert read_rates(tmp_path) == {"ingest": Rate(200, 3.0)}


def test_home_without_a_run_has_no_rates(tmp_path: Path) -> None:
    assert read_rates(tmp_path) == {}


def test_online_bytes_before_the_first_run_are_none(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    assert online_bytes_before(tmp_path, now) is None
    note_run(tmp_path, {}, {}, 700)
    assert online_bytes_before(tmp_path, now) == 0
    assert online_bytes_before(tmp_path, now + timedelta(days=1)) == 700


def test_online_bytes_of_runs_that_did_not_note_them_are_unknown(tmp_path: Path) -> None:
    history_path(tmp_path).write_text('{"rows": {}, "seconds": {}}')
    now = datetime.now(UTC)
    note_run(tmp_path, {}, {}, 700)
    assert online_bytes_before(tmp_path, now) is None
    assert online_bytes_before(tmp_path, now + timedelta(days=1)) == 700
