"""A process that used DuckDB beside threads ends in silence: nothing outlives the interpreter."""

import subprocess
import sys
from pathlib import Path
from pkgutil import walk_packages

import transforms

SCRIPT = """
import sys
from importlib import import_module
from pathlib import Path
for name in sys.argv[2:]:
    import_module(name)
from transforms.home import Settings
from transforms.warehouse.tables import Warehouse
from transforms.warehouse.snapshot import connect
with connect(Warehouse(Settings(home=Path(sys.argv[1])))) as connection:
    connection.sql("select i from range(9) as numbers(i)").pl().lazy().collect(engine="streaming")
"""


def test_a_process_that_imported_every_module_leaves_nothing_alive(tmp_path: Path) -> None:
    names = [module.name for module in walk_packages(transforms.__path__, "transforms.")]
    assert "transforms.features.build" in names
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), *names],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
