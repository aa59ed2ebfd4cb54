"""The history of runs: rates by stage, whatever a kill left of the last line."""

from pathlib import Path

from flows.history import Rate, history_path, note_run, price, read_rates


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
