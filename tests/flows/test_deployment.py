"""A real deployment: Prefect server and worker on loopback, `prefect deploy --all`, a full run."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.feature_repo.test_feast_cli import free_port

ROOT = Path(__file__).parent.parent.parent
PREFECT = str(Path(sys.executable).parent / "prefect")


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    """Run a program beside the test, then terminate it, so that it can end its own children."""
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.mark.service
@pytest.mark.timeout(600)
def test_a_deployed_run_completes_and_leaves_its_artifacts(tmp_path: Path) -> None:
    api = f"http://127.0.0.1:{free_port()}/api"
    environment = os.environ | {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        "MILLRACE_HOME": str(tmp_path / "home"),
    }

    def prefect(*arguments: str) -> str:
        result = subprocess.run(
            [PREFECT, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    port = api.rsplit(":", 1)[1].removesuffix("/api")
    with ExitStack() as programs:
        server = [PREFECT, "server", "start", "--host", "127.0.0.1", "--port", port]
        programs.enter_context(running(server, environment, tmp_path / "server.log"))
        prefect("server", "status", "--wait", "--timeout", "180")
        prefect("work-pool", "create", "local", "--type", "process", "--overwrite")
        prefect("deploy", "--all")
        worker = [
            PREFECT,
            "worker",
            "start",
            "--pool",
            "local",
            "--type",
            "process",
            "--limit",
            "2",
        ]
        programs.enter_context(running(worker, environment, tmp_path / "worker.log"))
        prefect("deployment", "run", "pipeline/cve-events", "--watch", "--watch-timeout", "300")

        deployment = httpx.get(f"{api}/deployments/name/pipeline/cve-events").json()
        assert deployment["schedules"][0]["slug"] == "hourly"
        waiting = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
        due = httpx.post(f"{api}/flow_runs/filter", json=waiting).json()
        assert deployment["id"] in {run["deployment_id"] for run in due}, "its schedule made none"
        assert deployment["global_concurrency_limit"]["limit"] == 1
        assert "parameters" in deployment["parameter_openapi_schema"]["properties"]
        artifacts = {
            row["key"]: row for row in httpx.post(f"{api}/artifacts/latest/filter", json={}).json()
        }
        accounting = {
            row["outcome"]: row["rows"]
            for row in json.loads(artifacts["accounting-cve-events"]["data"])
        }
        assert accounting["read"] == 37_336
        assert (
            accounting["read"]
            == accounting["staged"] + accounting["duplicates"] + accounting["quarantined"]
        )
        assert (tmp_path / "home" / "last_run.json").as_uri() in artifacts["summary-cve-events"][
            "data"
        ]
    summary = json.loads((tmp_path / "home" / "last_run.json").read_text())
    assert summary["read"] == 37_336
