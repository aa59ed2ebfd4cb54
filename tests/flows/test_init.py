"""`millrace init` as a newcomer meets it."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from flows.cli import main
from tests.transforms.staging.test_proposing import chat, complaints

TICKETS = "ticket,customer,written,body\n" + "".join(
    f"T{n},c{n % 3},0{n % 9 + 1}/0{n % 8 + 1}/2026,The printer of room {n} is on fire\n"
    for n in range(20)
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tickets.csv").write_text(TICKETS, "utf-8")
    return tmp_path


def test_what_is_written_runs_and_stages_what_was_shown(folder: Path) -> None:
    chat(folder)
    shown = CliRunner().invoke(main, ["init", "chat.jsonl"])
    assert shown.exit_code == 0, shown.output
    assert "  stage 60\n  quarantine 0\n" in shown.output
    assert "? known            at_event" in shown.output
    ran = CliRunner().invoke(
        main,
        ["run", "--plain", "--json", "--source", "chat.yaml"],
        env={"MILLRACE_VIEWS": "record_quality"},
    )
    assert json.loads(ran.output.splitlines()[-1])["staged"] == 60, ran.output


def test_rows_that_would_be_quarantined_are_counted_with_the_mend(folder: Path) -> None:
    path = complaints(folder)
    text = path.read_text("utf-8")
    path.write_text(text.replace("I was charged 7 dollars twice, nobody answered.", ""), "utf-8")
    shown = CliRunner().invoke(main, ["init", "complaints.csv"])
    assert shown.exit_code == 0, shown.output
    assert "  stage 59\n  quarantine 1\n    1 x text: empty, first in row 8" in shown.output


def test_dates_that_nothing_decides_are_asked_for_and_never_guessed(folder: Path) -> None:
    refused = CliRunner().invoke(main, ["init", "tickets.csv"])
    assert refused.exit_code == 2
    assert "written: its dates could begin with the day or with the month" in refused.output
    assert not (folder / "tickets.yaml").exists()
    taken = CliRunner().invoke(main, ["init", "tickets.csv", "--dates", "month-first"])
    assert taken.exit_code == 0, taken.output
    record = yaml.safe_load((folder / "tickets.yaml").read_text("utf-8"))["record"]
    assert record["event_timestamp"] == "strptime(written, '%m/%d/%Y')"


def test_in_a_terminal_it_asks(folder: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-W", "ignore", "-m", "flows.cli", "init", "tickets.csv"]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, text=True) as asked:
        os.write(ours, b"day-first\nat_load\nticket\n")
        output, _ = asked.communicate(timeout=120)
    os.close(theirs)
    os.close(ours)
    assert asked.returncode == 0, output
    content = yaml.safe_load((folder / "tickets.yaml").read_text("utf-8"))
    assert content["known"] == "at_load"
    assert content["record"]["event_timestamp"] == "strptime(written, '%d/%m/%Y')"


def test_a_deployment_is_added_beside_those_that_are_there(folder: Path) -> None:
    chat(folder)
    command = ["init", "chat.jsonl", "--deploy", "7 * * * *"]
    for name in ("chat", "chat_again"):
        done = CliRunner().invoke(main, [*command, "--name", name])
        assert done.exit_code == 0, done.output
    first, second = yaml.safe_load((folder / "prefect.yaml").read_text("utf-8"))["deployments"]
    assert (first["name"], second["name"]) == ("chat", "chat_again")
    assert second["parameters"] == {"parameters": {"source": "chat_again.yaml"}}
    assert second["schedules"][0]["cron"] == "7 * * * *"
    wrong = CliRunner().invoke(main, ["init", "chat.jsonl", "--name", "other", "--deploy", "soon"])
    assert wrong.exit_code == 2
    assert "is not a cron expression" in wrong.output
    again = CliRunner().invoke(main, [*command, "--name", "chat", "--force"])
    assert "prefect.yaml: has a deployment chat already" in again.output
    with (folder / "prefect.yaml").open("a", encoding="utf-8") as file:
        file.write("build: null\n")
    last = CliRunner().invoke(main, [*command, "--name", "third"])
    assert "`deployments` has to be its last key" in last.output


def test_a_source_file_is_not_written_over(folder: Path) -> None:
    (folder / "tickets.yaml").write_text("mine", "utf-8")
    refused = CliRunner().invoke(main, ["init", "tickets.csv", "--dates", "day-first"])
    assert refused.exit_code == 2
    assert (folder / "tickets.yaml").read_text("utf-8") == "mine"
