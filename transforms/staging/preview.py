"""A preview of rows before they are staged: changed fields, and what the checks would find.

Nothing is written to the home.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import polars as pl
import pyarrow as pa

from transforms.errors import FileRefusedError
from transforms.schemas.fields import SourceField
from transforms.schemas.raw import RawRecord
from transforms.schemas.staging import StagedRecord
from transforms.sources.objects import local_copies
from transforms.sources.reading import read_payloads
from transforms.sources.schema_changes import (
    UNFIT,
    Compared,
    Shapes,
    compare,
    expect,
    in_words,
    known_fields,
)
from transforms.sources.source import Source, SourceFile
from transforms.staging.checks import check_loads, finding
from transforms.staging.judging import create_documents
from transforms.staging.prepare import WRITTEN, loads_of, split
from transforms.warehouse.checkpoint import preparing
from transforms.warehouse.scratch import scratch_folder
from transforms.warehouse.snapshot import connect, create_arrivals
from transforms.warehouse.tables import Warehouse

HEAD_ROWS = 1_000
MAX_FILES = 20
NEXT_LOAD = "~"  # sorts after the id of any load
INCOMING = f"""
create table incoming as
select load_id, source, source_uri, row_number, header, payload, loaded_timestamp from inserted
where source = getvariable('source') and row_number <= {HEAD_ROWS}
union all
select load_id, source, source_uri, row_number, header, payload, loaded_timestamp from heads
"""


class Look(NamedTuple):
    """How many rows and files were read, which fields changed, what would stop a frozen source."""

    n_rows: int
    n_files: int
    changes: list[str]
    stops: list[str]


def look_at_fields(source: Source, warehouse: Warehouse, files: Sequence[SourceFile]) -> Look:
    """Compare the fields in the heads of new and of unstaged files with the known fields."""
    if warehouse.table(SourceField.relation()) is None:
        return Look(0, 0, [], [])  # the first load defines the fields
    with connect(warehouse) as connection:
        connection.execute("set variable source = $name", {"name": source.name})
        create_arrivals(
            connection,
            warehouse,
            RawRecord,
            preparing(source.name).consumed(warehouse, StagedRecord.relation()),
        )
        heads = pa.Table.from_batches(
            _heads(source, files, warehouse.settings.root), RawRecord.arrow_schema()
        )
        connection.register("heads", heads)
        connection.execute(INCOMING)
        known = known_fields(connection, source.name, loads_of(connection))
        shapes = Shapes(expect(connection, source, known))
        create_documents(connection, source, warehouse)
        structure = "case when rejection is null then structure end as structure"
        rows = f"select * replace ({structure}) from documents"
        for batch in connection.sql(rows).to_arrow_reader(warehouse.settings.batch_rows):
            shapes.count(batch)
    n_files = len({shape.source_uri for shape in shapes.ids})
    compared = compare(shapes, known, source)
    return Look(
        shapes.n_rows.total(),
        n_files,
        _changes(compared, {*source.fields(), *source.attributes}),
        compared.stops,
    )


class Rejections(NamedTuple):
    """How many rows break a rule in a column, and the number of the first in its file."""

    column: str
    rule: str
    n_rows: int
    first_row: int


class Preview(NamedTuple):
    """What would become of the first rows of a source, and what its checks would find."""

    n_rows: int
    n_staged: int
    n_duplicates: int
    rejections: list[Rejections]
    checks: list[str]


def stage_heads(source: Source, warehouse: Warehouse, files: Sequence[SourceFile]) -> Preview:
    """Stage the heads of files in a temporary home, and count what becomes of the rows."""
    with TemporaryDirectory() as folder:
        home = Warehouse(warehouse.settings.model_copy(update={"home": Path(folder)}))
        for contract in WRITTEN:
            home.create(contract)
        with scratch_folder(home.settings.root) as scratch, connect(home) as connection:
            connection.execute("set variable source = $name", {"name": source.name})
            heads = pa.Table.from_batches(
                _heads(source, files, warehouse.settings.root), RawRecord.arrow_schema()
            )
            connection.register("heads", heads)
            connection.execute("create table incoming as from heads")
            split(connection, source, home, scratch / "accepted")
            checks = check_loads(connection, source, home)
            (n_staged,), (n_accepted,) = (
                connection.sql(f"select count(*) from {table}").fetchall()[0]
                for table in ("kept", "accepted")
            )
            rejected = connection.sql(
                """select "column", rule, count(*), min(row_number) from rejected
                group by all order by all"""
            ).fetchall()
    found = checks.filter(pl.col("verdict") != "still").sort(
        pl.col("verdict") != "stop", maintain_order=True
    )
    lines = [f"{finding(row)}; in the first {heads.num_rows:,} rows" for row in found.to_dicts()]
    if "stop" in found["verdict"]:
        lines.append(
            "this stops the run before it stages; fix the source file, "
            "or --accept-load stages it as it is"
        )
    rejections = [Rejections(*row) for row in rejected]
    return Preview(heads.num_rows, n_staged, n_accepted - n_staged, rejections, lines)


def _changes(compared: Compared, read: set[str]) -> list[str]:
    """Describe new and retyped fields, and those missing that the source file reads.

    Any other missing field may only be missing from the head of a file.
    """
    changed = [(field, kind, change) for _, _, _, field, kind, _, change in compared.rows]
    wanted = [
        item for item in changed if item[2] in UNFIT or (item[2] == "missing" and item[0] in read)
    ]
    return [in_words(*item) for item in dict.fromkeys(wanted)]


def _heads(source: Source, files: Sequence[SourceFile], home: Path) -> Iterator[pa.RecordBatch]:
    with local_copies(files[:MAX_FILES], home) as local:
        for file in files[:MAX_FILES]:
            with suppress(FileRefusedError):  # the run reports it
                yield from _head(source, file, local(file))


def _head(source: Source, file: SourceFile, local: SourceFile) -> Iterator[pa.RecordBatch]:
    """Yield the first rows of a file: its last line, if nothing ends it, is read by itself."""
    n_rows = 0
    for header, payloads in read_payloads(local, source, HEAD_ROWS):
        yield _batch(source, file, header, payloads.slice(0, HEAD_ROWS - n_rows), n_rows)
        n_rows += len(payloads)
        if n_rows >= HEAD_ROWS:
            return


def _batch(
    source: Source, file: SourceFile, header: str | None, payloads: pa.Array, n_before: int
) -> pa.RecordBatch:
    same = {
        "load_id": NEXT_LOAD,
        "source": source.name,
        "source_uri": file.uri,
        "header": header,
        "loaded_timestamp": datetime.now(UTC),
    }
    schema = RawRecord.arrow_schema()
    columns = {
        name: pa.repeat(pa.scalar(value, schema.field(name).type), len(payloads))
        for name, value in same.items()
    }
    columns |= {
        "row_number": pa.array(range(n_before + 1, n_before + len(payloads) + 1), pa.int64()),
        "payload": payloads,
    }
    return pa.record_batch([columns[name] for name in schema.names], schema=schema)
