"""The commonest mistakes: each ends in a line with the place, the mend and where to read on."""

import gzip
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

import feature_repo
import flows
import transforms
from flows.cli import main
from transforms.errors import MillraceError

HERE = "~/mail"
ROOT = Path(__file__).parent.parent
SOURCE = """name: mail
uri: mail.csv
known: at_event
record: {record_id: id, author_id: who, event_timestamp: sent, text: body}
"""
RUN = "run --plain --source mail.yaml"
ROWS = "1,ann,2026-01-01T10:00:00Z,The printer is on fire\n2,bob,2026-01-02,It is out again\n"
TABLE = SOURCE.replace("mail.csv", "postgresql://127.0.0.1:1/mail\ntable: mails\nkey: [id]")
DECLARED = """
from transforms.features import Count, Entity, GroupBy, Share, days

who = Entity("who", key="author_id", description="Who wrote it.")
moods = GroupBy("moods", who, [Share("lable = 'x'", "share")], [days(7)], description="Moods.")
"""


def mails(body: str = "Some text, {n}", sent: str = "2026-01-01", key: str = "{n}") -> str:
    """Rows of a CSV file that are all made in the same way."""
    row = f"{key},ann,{sent},{body}\n".replace(", {n}", " {n}")
    return "id,who,sent,body\n" + "".join(row.format(n=n) for n in range(10, 30))


class Mistake(NamedTuple):
    """A mistake in words, what is typed, what is there instead of what is right, what is said."""

    words: str
    kind: str
    said: str
    command: str = RUN
    source: str = SOURCE
    rows: str | bytes | None = f"id,who,sent,body\n{ROWS}"
    others: Mapping[str, bytes] = {}
    environment: Mapping[str, str] = {}
    lacks: str | None = None


MISTAKES = (
    Mistake(
        "The source file is not there",
        "source",
        "nope.yaml: cannot be read (No such file or directory)",
        command="run --source nope.yaml",
    ),
    Mistake("It is not YAML", "source", "mail.yaml, line 2: is not YAML", source="name: [mail\n"),
    Mistake(
        "It is empty",
        "source",
        "mail.yaml: has no keys; a source needs name, uri, known and record",
        source="",
    ),
    Mistake(
        "A key is missing",
        "source",
        "mail.yaml: uri: is missing; add it",
        source=SOURCE.replace("uri: mail.csv\n", ""),
    ),
    Mistake(
        "A key is misspelled",
        "source",
        "mail.yaml: recrod: is not a key of a source; did you mean 'record'?",
        source=SOURCE.replace("record:", "recrod:"),
    ),
    Mistake(
        "It is not said when a row could be known",
        "source",
        "mail.yaml: known: give when a row could be known: at_load, at_event or {column: NAME}",
        source=SOURCE.replace("at_event", "now"),
    ),
    Mistake(
        "An expression is not SQL",
        "source",
        "mail.yaml: record.text: 'lower(body' is not an SQL expression over the row",
        source=SOURCE.replace("body", "lower(body"),
    ),
    Mistake(
        "An expression reads a file",
        "source",
        "mail.yaml: record.text: \"read_text('x')\" is not an SQL expression over the row",
        source=SOURCE.replace("body", "\"read_text('x')\""),
    ),
    Mistake(
        "A password is in the source file",
        "source",
        "mail.yaml: uri: has a password or a key in it; put that into a variable "
        "of the environment, and its name here: ${NAME}",
        source=SOURCE.replace("mail.csv", "postgresql://ann:secret@127.0.0.1/mail"),
    ),
    Mistake(
        "No file is there",
        "no-files",
        f"{HERE}/mail.csv: no file to load there; check `uri`",
        rows=None,
    ),
    Mistake(
        "A file is of another kind",
        "no-files",
        f"{HERE}/mail.xlsx: no file to load there; {HERE}/mail.xlsx: "
        "is not a JSONL, CSV or Parquet file by its name",
        source=SOURCE.replace("mail.csv", "mail.xlsx"),
        others={"mail.xlsx": b"PK"},
    ),
    Mistake(
        "A column is not in the file",
        "files-refused",
        f"{HERE}/mail.csv: refused, its header has no column 'bdy': it has 'body', alike",
        source=SOURCE.replace("body", "bdy"),
    ),
    Mistake(
        "The columns are separated by something else",
        "files-refused",
        "refused, its header has no column 'body': its columns are separated by ';'; set "
        "`delimiter: ';'`",
        rows=f"id,who,sent,body\n{ROWS}".replace(",", ";"),
    ),
    Mistake(
        "The file is in another encoding",
        "files-refused",
        "refused, is utf-16-le by its first bytes, not utf-8; set `encoding: utf-16-le`",
        rows=f"id,who,sent,body\n{ROWS}".encode("utf-16"),
    ),
    Mistake(
        "A compressed file is cut short",
        "files-refused",
        f"{HERE}/mail.csv.gz: refused, cannot be read to its end",
        source=SOURCE.replace("mail.csv", "mail.csv.gz"),
        others={"mail.csv.gz": gzip.compress(mails().encode())[:-12]},
    ),
    Mistake(
        "Dates are of another form",
        "checks",
        "is stopped, nothing was staged: 20 of 20 rows (100.0%) are rejected "
        "(max_quarantined_ratio 50%): event_timestamp: not_a_time (20 rows; give its format, e.g. "
        "strptime(created, '%d.%m.%Y %H:%M'))",
        rows=mails(sent="soon"),
    ),
    Mistake(
        "A time is a number without a unit",
        "checks",
        "event_timestamp: epoch_without_unit (20 rows; give the unit: {column: NAME, "
        "unit: milliseconds}",
        rows=mails(sent="1767225600"),
    ),
    Mistake(
        "The text is in another column",
        "checks",
        "text: empty (20 rows; map `text` to a column that is filled)",
        rows=mails(body=""),
    ),
    Mistake(
        "A spreadsheet has cut the ids",
        "checks",
        "record_id: exponent_form (20 rows; a spreadsheet has cut the ids; export them "
        "as text, or map another column as the key)",
        rows=mails(key="5.7E+17"),
    ),
    Mistake(
        "The ids are not those of records",
        "checks",
        "record_id is no key in 20 of 20 rows (100.0%)",
        source=SOURCE.replace("author_id: who", "author_id: body"),
        rows=mails(key="1"),
    ),
    Mistake(
        "The driver of a database is not installed",
        "source",
        "postgresql://127.0.0.1:1/mail: to read it, install its driver: "
        "pip install 'millrace[postgres-source]'",
        source=TABLE.replace("at_event", "at_load"),
        lacks="adbc_driver_postgresql",
    ),
    Mistake(
        "A database does not answer",
        "source",
        "check its address, and whether it runs and lets you in",
        source=TABLE.replace("at_event", "at_load"),
    ),
    Mistake(
        "The client of Kafka is not installed",
        "source",
        "kafka://127.0.0.1:1/mail: to read topics, install the extra: "
        "pip install 'millrace[kafka]'",
        source=SOURCE.replace("mail.csv", "kafka://127.0.0.1:1/mail"),
        lacks="confluent_kafka",
    ),
    Mistake(
        "Nothing has run yet",
        "home",
        f"{HERE}/.millrace: nothing is there yet; run millrace run --source FILE first",
        command="status",
    ),
    Mistake(
        "The home cannot be written",
        "home",
        f"{HERE}/mail.csv: cannot be written (File exists); choose another --home",
        command=f"{RUN} --home mail.csv",
    ),
    Mistake(
        "A newer version has written to the home",
        "home",
        f"{HERE}/.millrace: has layout 99, and this millrace knows up to 4; upgrade millrace",
        others={".millrace/layout": b"99"},
    ),
    Mistake(
        "No backup is where one is to be restored from",
        "backup",
        "backups: no backup is there; millrace backup backups makes one",
        command="restore backups",
    ),
    Mistake(
        "A view is named that is not there",
        "home",
        "MILLRACE_VIEWS: 'nonsense' is no view, derived view or service; there are "
        "record_duplicates, ",
        environment={"MILLRACE_VIEWS": "nonsense"},
    ),
    Mistake(
        "A setting is not a size",
        "settings",
        "MILLRACE_MEMORY_LIMIT: write a number and a unit, e.g. 1GB",
        environment={"MILLRACE_MEMORY_LIMIT": "lots"},
    ),
    Mistake(
        "A setting is not a number",
        "settings",
        "MILLRACE_BATCH_ROWS: input should be a valid integer",
        environment={"MILLRACE_BATCH_ROWS": "many"},
    ),
    Mistake(
        "Prefect's server does not run",
        "orchestrator",
        "Prefect's API at 127.0.0.1:9 does not answer (ConnectError); start it with "
        "prefect server start, unset PREFECT_API_URL, or run with --plain",
        command="run --source mail.yaml",
        environment={"PREFECT_API_URL": "http://127.0.0.1:9/api"},
    ),
    Mistake(
        "A declaration reads a column that is not there",
        "declaration",
        "features/moods.py: moods: share: \"lable = 'x'\" reads lable, which is no column of a "
        "record; did you mean label?",
        others={"features/moods.py": DECLARED.encode()},
        environment={"MILLRACE_FEATURES": "features"},
    ),
    Mistake(
        "Dates could begin with the day or with the month",
        "order",
        "sent: its dates could begin with the day or with the month, and nothing "
        "here decides; say --dates day-first or --dates month-first",
        command="init mail.csv --output new.yaml",
        rows=mails(sent="03/04/2026", body="a text of words {n}"),
    ),
)


def kinds(base: type[MillraceError] = MillraceError) -> list[type[MillraceError]]:
    """Every kind of error of the project, in order of its place."""
    if base is MillraceError:
        for package in (transforms, feature_repo, flows):
            for path in Path(package.__path__[0]).rglob("*.py"):
                if re.search(r"^class \w+Error\(", path.read_text("utf-8"), re.MULTILINE):
                    parts = path.relative_to(ROOT).with_suffix("").parts
                    import_module(".".join(parts).removesuffix(".__init__"))
    found = [kind for each in base.__subclasses__() for kind in (each, *kinds(each))]
    ours = ("transforms", "feature_repo", "flows")
    return sorted((k for k in found if k.__module__.startswith(ours)), key=lambda k: k.anchor())


def make(mistake: Mistake, folder: Path, patch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Make a mistake in a folder; return the exit code and what was said of it."""
    patch.chdir(folder)
    Path("mail.yaml").write_text(mistake.source, "utf-8")
    rows = mistake.rows.encode() if isinstance(mistake.rows, str) else mistake.rows
    for name, content in {**({} if rows is None else {"mail.csv": rows}), **mistake.others}.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(content)
    patch.setenv("MILLRACE_HOME", str(folder / ".millrace"))
    patch.setenv("MILLRACE_VIEWS", "record_quality")
    for name, value in mistake.environment.items():
        patch.setenv(name, value)
    if lacks := mistake.lacks:
        for module in [*sys.modules, lacks]:
            if module == lacks or module.startswith(f"{lacks}."):
                patch.setitem(sys.modules, module, None)
    if "PREFECT_API_URL" in mistake.environment:  # which Prefect reads once, when it is imported
        command = [sys.executable, "-W", "ignore", "-m", "flows.cli", *mistake.command.split()]
        path = {**os.environ, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(command, env=path, capture_output=True, text=True, check=False)
        return ended.returncode, ended.stderr
    result = CliRunner().invoke(main, mistake.command.split())
    return result.exit_code, result.stderr


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.words.replace(" ", "_"))
def test_mistake_ends_in_one_line_with_the_mend_and_where_to_read_on(
    mistake: Mistake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, said = make(mistake, tmp_path, monkeypatch)
    assert code in {1, 2}, said
    line = said.splitlines()[-1]
    assert line.startswith("millrace: "), said
    assert line.endswith(f" [errors#{mistake.kind}]")
    assert mistake.said in line.replace(str(tmp_path), HERE)
    assert "Traceback" not in said


def test_every_kind_of_error_has_its_own_place() -> None:
    anchors = [kind.anchor() for kind in kinds()]
    assert len(anchors) == len(set(anchors))
    assert {mistake.kind for mistake in MISTAKES} <= set(anchors)
