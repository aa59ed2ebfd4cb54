"""Nothing is downloaded at run time: the pipeline runs where the system refuses all networks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# a new network namespace has no interface that is up, so no code can reach anything from it
REFUSED = ("unshare", "--map-root-user", "--net")
REACH = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)"


def without_network(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "MILLRACE_HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "HOME": str(home),
    }
    return subprocess.run(
        [*REFUSED, sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture
def _name_spaces(tmp_path: Path) -> None:
    if (
        shutil.which("unshare") is None
        or subprocess.run([*REFUSED, "true"], capture_output=True, check=False).returncode
    ):
        reason = "needs unshare and the right to make a network name space"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    assert "unreachable" in without_network(tmp_path, "-c", REACH).stderr


@pytest.mark.usefixtures("_name_spaces")
def test_the_pipeline_and_its_report_need_no_network(small_source: Path, tmp_path: Path) -> None:
    run = without_network(
        tmp_path, "-m", "flows.cli", "run", "--plain", "--source", str(small_source)
    )
    assert run.returncode == 0, run.stderr
    assert "features.record_text" in run.stdout
    report = without_network(tmp_path, "-m", "flows.cli", "report")
    assert report.returncode == 0, report.stderr
