"""What a worker writes into a table: files of names that no other attempt has.

No reader sees them before the commit of the driver.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transforms.errors import EngineError
from transforms.schemas.base import Contract
from transforms.warehouse.scratch import PARTS
from transforms.warehouse.tables import Warehouse
from transforms.warehouse.writer import PartWriter


@contextmanager
def writing_part(
    contract: type[Contract], warehouse: Warehouse, run: Path, task: int
) -> Iterator[PartWriter]:
    """Write files of a table in a task of a run, whose folder is given; delete them if it fails."""
    name = f"part-{run.name}-{task}"
    writer = PartWriter(warehouse.folder(contract.relation()), contract, run / PARTS, name)
    try:
        yield writer
        _refuse_ended(run)
    except BaseException:
        writer.discard()
        raise


def _refuse_ended(run: Path) -> None:
    """Raise `EngineError` if the run has ended without this task: nobody would delete its files."""
    if not run.exists():
        message = "the run has ended"
        raise EngineError(message)
