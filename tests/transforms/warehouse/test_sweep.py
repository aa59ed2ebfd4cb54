"""What a killed process left is swept; what a living one uses is not."""

import signal
import subprocess
import sys

from transforms.schemas.staging import StagedRecord
from transforms.warehouse.publishing import publish
from transforms.warehouse.scratch import sweep
from transforms.warehouse.tables import Warehouse

HALF = """
import os, signal, sys
from pathlib import Path
from transforms.schemas.staging import AccountedFile
from transforms.home import Settings
from transforms.warehouse.tables import Warehouse
from transforms.warehouse.publishing import publish
import pyarrow as pa

def batches():
    zeros = dict.fromkeys(("n_read", "n_staged", "n_duplicates", "n_quarantined"), 0)
    row = {"load_id": "l", "source": "s", "source_uri": "f", **zeros}
    yield from pa.Table.from_pylist([row], AccountedFile.arrow_schema()).to_batches()
    while not list(warehouse.folder("accounting.files").glob("*.parquet")):
        pass
    if sys.argv[2] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    print("half", flush=True)
    sys.stdin.readline()

warehouse = Warehouse(Settings(home=Path(sys.argv[1])))
publish(warehouse, AccountedFile, batches(), {})
"""


def writer(warehouse: Warehouse, fate: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HALF, str(warehouse.settings.root), fate]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def parts(warehouse: Warehouse) -> int:
    return len(list(warehouse.folder("accounting.files").glob("*.parquet")))


def test_half_a_file_and_the_scratch_of_a_killed_writer_are_swept(warehouse: Warehouse) -> None:
    process = writer(warehouse, "die")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert parts(warehouse) == 1
    sweep(warehouse)
    assert parts(warehouse) == 0
    assert list((warehouse.settings.root / "tmp").iterdir()) == []


def test_living_writer_keeps_its_half_file_and_ends_well(warehouse: Warehouse) -> None:
    process = writer(warehouse, "live")
    assert process.stdout
    assert process.stdout.readline() == "half\n"
    sweep(warehouse)
    assert parts(warehouse) == 1
    process.communicate("go on\n")
    assert process.returncode == 0
    assert warehouse.n_rows("accounting.files") == 1


def test_committed_file_of_a_writer_that_was_killed_after_its_commit_stays(
    warehouse: Warehouse,
) -> None:
    publish(warehouse, StagedRecord, [], {})
    writer(warehouse, "live").communicate("go on\n")
    (file,) = warehouse.files("accounting.files")
    recorded = warehouse.settings.root / "tmp" / "0" / "parts"
    recorded.parent.mkdir(parents=True)
    recorded.write_text(f"accounting.files {file.rsplit('/', 1)[1]}\n")
    recorded.parent.with_suffix(".alive").touch()
    sweep(warehouse)
    assert warehouse.n_rows("accounting.files") == 1
    assert list((warehouse.settings.root / "tmp").iterdir()) == []
