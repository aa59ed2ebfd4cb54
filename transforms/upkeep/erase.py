"""Erasing: delete the rows of an author, a record or a file from all tables and all their versions.

The result is what a rebuild from the remaining rows would give. What to erase is written to the
home before anything is deleted, so that the next run finishes an erasure that was killed. That note
is deleted last.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import duckdb
import polars as pl
import pyarrow as pa
from pydantic import BaseModel, model_validator

from transforms.errors import ErasureError
from transforms.features.build import recompute, undeclared
from transforms.features.chosen import computed_views
from transforms.features.engine.duplicate_index import INDEX
from transforms.features.view import View
from transforms.home import remove_files, replace_file
from transforms.paths import parquet, scan_parquet
from transforms.schemas.base import Contract
from transforms.schemas.raw import RawRecord
from transforms.schemas.staging import (
    AccountedFile,
    Correction,
    DuplicateRow,
    QuarantinedRecord,
    StagedRecord,
)
from transforms.sources.pages import forget_cursors
from transforms.sql import model
from transforms.staging.accounting import recount
from transforms.staging.judging import ACCEPTED
from transforms.warehouse.arrivals import erasure_folder, is_erasing
from transforms.warehouse.checkpoint import ERASE, preparing, publish_once
from transforms.warehouse.rewrite import PLACE, files_holding, rows_staying
from transforms.warehouse.scratch import scratch_folder
from transforms.warehouse.snapshot import connect, create_view
from transforms.warehouse.tables import Warehouse

ROW_TABLES: tuple[type[Contract], ...] = (
    RawRecord,
    StagedRecord,
    DuplicateRow,
    QuarantinedRecord,
    Correction,
)


class Wanted(BaseModel):
    """Whose data to erase: an author's, a record's, or all of a file, by its URI. One of the three.

    >>> Wanted(author="ann").parameters["author"]
    'ann'
    """

    author: str | None = None
    record: str | None = None
    source_file: str | None = None

    @model_validator(mode="after")
    def _is_one(self) -> "Wanted":
        if sum(item is not None for item in (self.author, self.record, self.source_file)) != 1:
            message = "name one of author, record and source file"
            raise ValueError(message)
        return self

    @property
    def pattern(self) -> str | None:
        """An RE2 pattern that finds the author's or the record's id as a whole word.

        It finds the id as it is, and as JSON escapes it to ASCII.

        >>> Wanted(author="ann").pattern, Wanted(source_file="file:///a.csv").pattern
        ('(?:^|\\\\W)(?:ann)(?:\\\\W|$)', None)
        """
        name = self.author or self.record
        if name is None:
            return None
        forms = {name, json.dumps(name)[1:-1]}
        escaped = (
            "".join(char if char.isalnum() else f"\\x{{{ord(char):x}}}" for char in form)
            for form in sorted(forms)
        )
        return rf"(?:^|\W)(?:{'|'.join(escaped)})(?:\W|$)"

    @property
    def parameters(self) -> dict[str, str | None]:
        """The parameters of the model `erase/erased_rows`."""
        return {
            "author": self.author,
            "record": self.record,
            "source_file": self.source_file,
            "name": self.pattern,
        }


class Erased(NamedTuple):
    """What an erasure deletes, or would delete: rows by table, and records.

    `entities` and `feature_rows` count by view what is recomputed.
    """

    rows: dict[str, int]
    n_records: int
    entities: dict[str, int]
    feature_rows: dict[str, int]
    n_mentions: int
    source_files: list[str]


class Erasure(NamedTuple):
    """An erasure that has begun: whose data, its number, and the Parquet files of what it touches.

    `rows` has the rows to erase, and `entities` by view the entities that lose a row.
    """

    wanted: Wanted
    number: int
    rows: Path
    entities: dict[str, Path]


def find(connection: duckdb.DuckDBPyConnection, warehouse: Warehouse, wanted: Wanted) -> Erased:
    """Create the table `erased_rows` and each view's `touched_<view>`, and count what is affected.

    `touched_<view>` has the entities that lose a row. Raises `ErasureError` if nothing is found, if
    some loaded rows are not staged yet, so that their authors are unknown, or if a table of
    features is no longer declared, so that it could not be recomputed.
    """
    _refuse_unaccounted(warehouse)
    _refuse_undeclared(warehouse)
    _find(connection, warehouse, wanted)
    outcomes = dict(
        connection.sql("select outcome, count(*) from erased_rows group by outcome").fetchall()
    )
    if not outcomes:
        message = f"{warehouse.settings.root}: has nothing of that; ids are case-sensitive"
        raise ErasureError(message)
    entities, feature_rows = {}, {}
    for view in computed_views(warehouse):
        entity = view.entity.id_of_columns
        is_touched = (
            "true"
            if view.is_rebuilt_whole
            else f"{entity} in (select entity_id from {touched_by(view)})"
        )
        counts = (
            f"from {view.relation} select count(distinct {entity}), count(*) where {is_touched}"
        )
        ((entities[view.name], feature_rows[view.name]),) = connection.sql(counts).fetchall()
    ((n_records,),) = connection.sql("select count(distinct record_id) from erased_rows").fetchall()
    erased_corrections = (
        f"from {Correction.relation()} semi join erased_rows using ({', '.join(PLACE)})"
    )
    ((n_corrections,),) = connection.sql(f"{erased_corrections} select count(*)").fetchall()
    mentions = f"""
        from staging.records anti join erased_rows using ({", ".join(PLACE)})
        select count(*) where regexp_matches(text, $name::varchar)
    """
    ((n_mentions,),) = connection.sql(mentions, params={"name": wanted.pattern}).fetchall()
    uris = connection.sql("select distinct source_uri from erased_rows order by all").fetchall()
    rows = {
        RawRecord.relation(): sum(outcomes.values()),
        StagedRecord.relation(): outcomes.get("staged", 0),
        DuplicateRow.relation(): outcomes.get("duplicate", 0),
        QuarantinedRecord.relation(): outcomes.get("quarantined", 0),
        Correction.relation(): n_corrections,
    }
    return Erased(rows, n_records, entities, feature_rows, n_mentions, [uri for (uri,) in uris])


def begin(warehouse: Warehouse, wanted: Wanted) -> None:
    """Write down what to erase: from here on it will be erased, whatever happens.

    Every view must be up to date.
    """
    with scratch_folder(warehouse.settings.root) as scratch, connect(warehouse) as connection:
        _find(connection, warehouse, wanted)
        half = scratch / "note"
        half.mkdir()
        for table in ("erased_rows", *map(touched_by, computed_views(warehouse))):
            connection.table(table).write_parquet(str(half / f"{table}.parquet"))
        content = {
            "wanted": wanted.model_dump(),
            "number": warehouse.versions()[RawRecord.relation()],
        }
        replace_file(half / "note.json", json.dumps(content).encode())
        if there := warehouse.settings.replica:
            shutil.rmtree(_folder(warehouse), ignore_errors=True)
            there.put_folder(half, _folder(warehouse), last="note.json")
        half.replace(_folder(warehouse))


def begun_erasure(warehouse: Warehouse) -> Erasure | None:
    """Return the erasure that has begun and not ended, if there is one."""
    folder = _folder(warehouse)
    if not is_erasing(warehouse.settings.root):
        return None
    content = json.loads((folder / "note.json").read_text("utf-8"))
    entities = {
        path.stem.removeprefix("touched_"): path for path in folder.glob("touched_*.parquet")
    }
    return Erasure(
        Wanted(**content["wanted"]), content["number"], folder / "erased_rows.parquet", entities
    )


def erase_rows(warehouse: Warehouse, erasure: Erasure) -> None:
    """Delete the rows from quarantine, corrections, duplicate rows, staging, raw and accounts.

    For each record that loses a row, decide again which of the remaining rows are versions.
    """
    done = ERASE.at(erasure.number)
    with connect(warehouse) as connection:
        create_erasure(connection, erasure)
        _decide_again(connection)
        accounts: pl.DataFrame = connection.sql(
            f"({model('erase/erased_accounts')}) union all ({model('staging/moved_accounts')})"
        ).pl()
        publish_once(warehouse, AccountedFile, accounts.to_arrow().to_batches(), done)
        _replace(connection, warehouse, QuarantinedRecord, done)
        _replace(connection, warehouse, Correction, done)
        _replace(connection, warehouse, DuplicateRow, done, arriving="staging/superseded_versions")
        _replace(
            connection,
            warehouse,
            StagedRecord,
            done,
            leaving="leaving",
            arriving="staging/returned_versions",
        )
        _replace(connection, warehouse, RawRecord, done)
        sources = connection.sql(
            f"select distinct source from {AccountedFile.relation()}"
        ).fetchall()
    raw = warehouse.versions()[RawRecord.relation()]
    publish_once(
        warehouse,
        StagedRecord,
        [],
        {name: at for (source,) in sources for name, at in preparing(source).at(raw).items()},
    )  # nothing is left to stage


def delete_files(warehouse: Warehouse, erasure: Erasure) -> int:
    """Delete older data files with what was erased or derived from it; return how many.

    In raw, staging, duplicate rows, quarantine, corrections and the index of duplicates these are
    all older files, because all their readers are up to date. In a view these are the files with
    values that depend on a touched entity, so that its other versions can still be read. Of the
    cursors of databases in raw's log only those stay from which a source is read on.
    """
    forget_cursors(warehouse)
    n_deleted = 0
    with connect(warehouse) as connection:
        create_erasure(connection, erasure)
        of_views = [
            view.rests_on(connection, old_files(warehouse, view.contract), touched_by(view))
            for view in computed_views(warehouse)
        ]
        for files in (
            *(old_files(warehouse, contract) for contract in (*ROW_TABLES, *INDEX)),
            *of_views,
        ):
            remove_files([Path(file) for file in files])
            n_deleted += len(files)
    return n_deleted


def every_file(warehouse: Warehouse, contract: type[Contract]) -> list[str]:
    """List all data files in a table's folder, of whatever version."""
    folder = warehouse.folder(contract.relation())
    there = warehouse.settings.replica
    files = there.data_files(folder) if there else sorted(folder.glob("*.parquet"))
    return [str(path) for path in files]


def old_files(warehouse: Warehouse, contract: type[Contract]) -> list[str]:
    """List the data files in a table's folder that its newest version does not have."""
    current = set(warehouse.files(contract.relation()))
    return [file for file in every_file(warehouse, contract) if file not in current]


def refuse_what_is_left(warehouse: Warehouse, erasure: Erasure) -> None:
    """Read back the data files of all versions.

    Raises `ErasureError` if one still has an erased row, or an entity that no longer exists.
    """
    left: list[str] = []
    with connect(warehouse) as connection:
        create_erasure(connection, erasure)
        for contract in ROW_TABLES:
            left += files_holding(connection, every_file(warehouse, contract), "erased_rows")
        for view in computed_views(warehouse):
            still = f"select {view.entity.id_of_columns} from {view.relation}"
            vanished = f"select entity_id from {touched_by(view)} where entity_id not in ({still})"
            connection.execute(f"create or replace temp table vanished as {vanished}")
            left += view.files_of(connection, every_file(warehouse, view.contract), "vanished")
        # these were rebuilt whole, so that no row names or counts what was erased
        for whole in (
            *INDEX,
            *(view.contract for view in computed_views(warehouse) if view.is_rebuilt_whole),
        ):
            left += old_files(warehouse, whole)
        found = connection.sql(
            "select distinct source_uri || ' row ' || row_number "
            f"from ({model('erase/erased_rows')}) limit 5",
            params=erasure.wanted.parameters,
        )
        left += [row for (row,) in found.fetchall()]
    if left:
        message = "\n  ".join(["what was to be erased is still there; please report it:", *left])
        raise ErasureError(message)


def end(warehouse: Warehouse) -> None:
    """Delete what `begin` wrote down."""
    with scratch_folder(
        warehouse.settings.root
    ) as scratch:  # it is removed whole, even if the run is killed here
        _folder(warehouse).rename(scratch / "ended")
        if there := warehouse.settings.replica:
            names = sorted((scratch / "ended").iterdir(), key=lambda path: path.name != "note.json")
            for name in names:  # the note first: without it nothing has begun
                there.remove([_folder(warehouse) / name.name])


def recompute_views(warehouse: Warehouse, erasure: Erasure, now: datetime) -> None:
    """Recompute the touched entities of every view and replace what was published of them."""
    recompute(warehouse, erasure.entities, now)


def touched(erasure: Erasure, view: View) -> pl.DataFrame:
    """Return the key columns of the touched entities of a view."""
    ids = scan_parquet([erasure.entities[view.name]]).collect()["entity_id"]
    return (
        ids.struct.unnest()
        if isinstance(ids.dtype, pl.Struct)
        else ids.alias(view.entity.columns[0]).to_frame()
    )


def touched_by(view: View) -> str:
    """Return the name of the table of a view's entities that an erasure touches."""
    return f"touched_{view.name}"


def create_erasure(connection: duckdb.DuckDBPyConnection, erasure: Erasure) -> None:
    """Create the tables `erased_rows` and `touched_<view>` of an erasure that has begun."""
    parquet(connection, [erasure.rows]).create("erased_rows")
    for name, path in erasure.entities.items():
        parquet(connection, [path]).create(f"touched_{name}")


def _folder(warehouse: Warehouse) -> Path:
    return erasure_folder(warehouse.settings.root)


def _refuse_unaccounted(warehouse: Warehouse) -> None:
    counted = recount(warehouse)
    unsure = counted.filter(~pl.col("adds_up"))["source"].unique().sort().to_list()
    if unsure:
        message = (
            f"{warehouse.settings.root}: loads of {', '.join(unsure)} do not add up, so it is "
            "unknown whose rows they are; millrace status lists them, millrace run --source FILE "
            "stages what is loaded"
        )
        raise ErasureError(message)


def _refuse_undeclared(warehouse: Warehouse) -> None:
    for relation in undeclared(warehouse):
        message = (
            f"{warehouse.folder(relation)}: features that nothing declares cannot be recomputed "
            "without what is erased; declare them again (MILLRACE_FEATURES, MILLRACE_EMBEDDER), or "
            "delete this folder if they are no longer wanted"
        )
        raise ErasureError(message)


def _find(connection: duckdb.DuckDBPyConnection, warehouse: Warehouse, wanted: Wanted) -> None:
    for contract in (*ROW_TABLES, *(view.contract for view in computed_views(warehouse))):
        if warehouse.table(contract.relation()) is None:
            create_view(connection, contract.relation(), [], contract.arrow_schema())
    connection.execute(
        f"create table erased_rows as {model('erase/erased_rows')}", wanted.parameters
    )
    connection.execute(f"create table touched_versions as {model('erase/touched_versions')}")
    for view in computed_views(warehouse):
        connection.execute(
            f"create table {touched_by(view)} as {view.entities_of('touched_versions')}"
        )


def _decide_again(connection: duckdb.DuckDBPyConnection) -> None:
    """Decide which of the remaining rows are versions.

    `moved_rows` become versions or stop being ones; `leaving` are the rows that leave staging.
    """
    places = ", ".join(PLACE)
    connection.from_arrow(ACCEPTED.empty_table()).create("accepted")
    # accepted rows are not read as earlier rows, and the erased rows must not be read
    connection.execute(f"insert into accepted by name select {places}, record_id from erased_rows")
    connection.execute(f"create table earlier_rows as {model('staging/earlier_rows')}")
    connection.execute("delete from accepted")
    for name in ("repeated_records", "versions", "moved_rows"):
        connection.execute(f"create table {name} as {model(f'staging/{name}')}")
    connection.from_arrow(StagedRecord.arrow_schema().empty_table()).create_view("buffered")
    connection.execute(f"""
        create view leaving as
        select {places} from erased_rows
        union all
        select {places} from moved_rows where is_staged
    """)


def _replace(
    connection: duckdb.DuckDBPyConnection,
    warehouse: Warehouse,
    contract: type[Contract],
    done: dict[str, int],
    leaving: str = "erased_rows",
    arriving: str | None = None,
) -> None:
    """Rewrite the data files with rows of `leaving` without them, and add the rows of a model."""
    files = files_holding(connection, warehouse.files(contract.relation()), leaving)
    staying = rows_staying(connection, warehouse, contract, files, leaving)
    publish_once(
        warehouse, contract, chain(staying, _rows(connection, warehouse, arriving)), done, files
    )


def _rows(
    connection: duckdb.DuckDBPyConnection, warehouse: Warehouse, name: str | None
) -> Iterator[pa.RecordBatch]:
    batches: Iterable[pa.RecordBatch] = (
        connection.sql(model(name)).to_arrow_reader(warehouse.settings.batch_rows) if name else ()
    )
    yield from batches
