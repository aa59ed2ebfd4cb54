"""The wheel, as who installs it without a checkout meets it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGED = ("transforms", "feature_repo", "flows", "pyproject.toml", "README.md", "LICENSE")
SOURCE = """
name: tickets
uri: tickets.csv
known: at_load
record: {record_id: id, author_id: customer, event_timestamp: created, text: body}
"""
TICKETS = """id,customer,created,body
1,ann,2026-01-01T10:00:00Z,The printer is on fire again.
2,bob,2026-01-02T10:00:00Z,It is out now.
3,ann,2026-01-03T10:00:00Z,Thank you.
"""
CLIENT = """
import flows, feature_repo, transforms
from feature_repo import online_features, warehouse

print(flows.__file__)
features = ["author_activity:n_records_lifetime", "record_quality:n_words"]
print(online_features(features, [{"author_id": "ann", "text": "On fire!"}]).rows())
print(warehouse().sql("select count(*) from staging.records").fetchall())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel brings, and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    checkout, target = folder / "checkout", folder / "target"
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--", *PACKAGED],
        capture_output=True,
        check=True,
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", folder, checkout]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("millrace-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    return target


def test_an_installed_wheel_runs_a_source_serves_and_answers(
    installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "tickets.yaml").write_text(SOURCE, "utf-8")
    (tmp_path / "tickets.csv").write_text(TICKETS, "utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", *arguments],
            cwd=tmp_path,
            env={**kept, "HOME": str(tmp_path), "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    millrace = ("-m", "flows.cli")
    assert "new_mood.py" in run(*millrace, "features", "new", "new_mood")
    assert (tmp_path / "features" / "new_mood.py").is_file()
    assert "staged 3" in run(*millrace, "run", "--plain", "--source", "tickets.yaml")
    assert "features.new_mood" in run(*millrace, "status")
    assert "report.html" in run(*millrace, "report")
    where, served, counted = run("-c", CLIENT).splitlines()
    assert where == str(installed / "flows" / "__init__.py")
    assert (served, counted) == ("[('ann', 'On fire!', 2, 2)]", "[(3,)]")
    assert len(list(installed.rglob("py.typed"))) == 3
