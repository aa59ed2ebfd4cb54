"""A user's own model from setting to search: the view exists while the setting does."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SEARCH = """
import json, sys
import numpy as np
from feature_repo import similar_records, training_set
from transforms.text.embedding import embedder_of
home, feature = sys.argv[1], "record_embedding:embedding"
spine = '''
    select record_id, max(known_timestamp) as event_timestamp, any_value(text) as text
    from staging.records
    group by record_id having count(*) = 1 and not any_value(is_tombstone)
'''
made = training_set(spine, [feature], home).frame.sort("record_id")
stored = np.array(made["record_embedding__embedding"].to_list())
fresh = embedder_of("record_embedding").embed(made["text"].to_list())
text = made["text"][0]
nearest = similar_records(text, 3, feature, home)
print(json.dumps({
    "length": stored.shape[1],
    "error": float(np.abs(stored - fresh).max()),
    "text_of_nearest": dict(zip(made["record_id"], made["text"]))[nearest["record_id"][0]] == text,
    "distances": nearest["distance"].to_list(),
}))
"""


def python(*arguments: str, model: Path | None) -> subprocess.CompletedProcess[str]:
    """Run a program with the setting, or without."""
    environment = {name: value for name, value in os.environ.items() if name != "MILLRACE_EMBEDDER"}
    if model:
        environment["MILLRACE_EMBEDDER"] = str(model)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def millrace(*arguments: str, model: Path | None) -> subprocess.CompletedProcess[str]:
    return python("-m", "flows.cli", *arguments, model=model)


def test_a_model_makes_a_view_that_is_searched_and_goes_with_the_setting(
    tiny_model: Path, small_source: Path, tmp_path: Path
) -> None:
    home, run = (
        str(tmp_path / "home"),
        ("run", "--plain", "--source", str(small_source), "--home", str(tmp_path / "home")),
    )
    first = millrace(*run, model=tiny_model)
    assert first.returncode == 0, first.stderr
    assert "features.record_embedding" in first.stdout
    searched = python("-c", SEARCH, home, model=tiny_model)
    assert searched.returncode == 0, searched.stderr
    found = json.loads(searched.stdout)
    assert (found["length"], found["text_of_nearest"]) == (32, True)
    assert found["error"] < 1e-5  # padding beside other texts changes the last digits
    assert abs(found["distances"][0]) < 1e-5
    assert found["distances"] == sorted(found["distances"])

    other = tmp_path / "other"
    subprocess.run(
        [sys.executable, "-m", "tests.tiny_model", str(other), "1"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    assert (
        "features.record_embedding"
        in millrace("plan", "--source", str(small_source), "--home", home, model=other).stdout
    )
    assert millrace(*run, model=other).returncode == 0
    assert json.loads(python("-c", SEARCH, home, model=other).stdout)["error"] < 1e-5

    without = millrace(*run, model=None)
    assert without.returncode == 0, without.stderr
    assert "record_embedding" not in without.stdout
    refused = millrace("erase", "--author", "mitre", "--home", home, "--yes", model=None)
    assert refused.returncode != 0
    assert "set MILLRACE_EMBEDDER to its folder" in refused.stderr


def test_a_folder_without_a_model_stops_a_run_in_one_line(
    small_source: Path, tmp_path: Path
) -> None:
    stopped = millrace(
        "run",
        "--plain",
        "--source",
        str(small_source),
        "--home",
        str(tmp_path / "home"),
        model=tmp_path,
    )
    assert stopped.returncode != 0
    assert "no sentence-transformers model there" in stopped.stderr
    assert "Traceback" not in stopped.stderr
