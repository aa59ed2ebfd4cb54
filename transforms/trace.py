"""Lineage: from a feature value to the records it counts and the rows they came from, from a file to the features it touched.

A trace counts by the definition in docs/time.md, not by the models that made the table, and says where the two differ.
Reads only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
from pydantic import BaseModel

from transforms.code import RECORD_KERNELS, code_digest
from transforms.errors import MillraceError
from transforms.featurize import OF_RECORDS, TRANSACTION, VIEWS, consistent_versions, view_name
from transforms.schemas.base import Contract
from transforms.schemas.features import RecordDuplicates
from transforms.schemas.staging import Correction, StagedRecord
from transforms.sql import model
from transforms.text.duplicates import compare_texts
from transforms.text.quality import score_quality
from transforms.warehouse import CODE, Warehouse, data_files

WINDOWS = ("1d", "7d", "28d", "lifetime")
TIMES = {"event_timestamp", "created_timestamp"}
INSTANT = pl.Datetime("us", "UTC")
READ: tuple[type[Contract], ...] = (StagedRecord, *VIEWS)
Row = dict[str, Any]


class Table(BaseModel):
    """A table that was read: its version, and for a view what it was made from and whether by the code as it is now."""

    relation: str
    version: int
    made_from: int | None = None
    is_current_code: bool | None = None


class Version(BaseModel):
    """One version of a record: the raw row it came from, corrected or not, and from when until when it counts in each window.

    An end of None means to this day.
    """

    author_id: str
    subject_id: str | None
    event_timestamp: datetime
    known_timestamp: datetime
    is_tombstone: bool
    source: str
    source_uri: str
    row_number: int
    load_id: str
    loaded_timestamp: datetime
    content_digest: str
    raw_bytes: int | None
    raw_digest: str | None
    corrected_timestamp: datetime | None = None
    corrected_digest: str | None = None
    text: str | None = None
    counts_from: datetime | None = None
    counts_until: dict[str, datetime | None] = {}


class NamingRow(BaseModel):
    """A rejected row whose bytes contain the record's id."""

    load_id: str
    source_uri: str
    row_number: int
    column: str
    rule: str


class RecordTrace(BaseModel):
    """Every version of a record, the rules each has passed, rejected rows that name it, and the instants of its own features."""

    record_id: str
    versions: list[Version]
    rules: list[str]
    quarantined: list[NamingRow]
    quality_rows: list[dict[str, datetime]]
    tables: list[Table]


class CountedRecord(BaseModel):
    """A version of a record behind a feature value, and the windows it counts in."""

    record_id: str
    event_timestamp: datetime
    known_timestamp: datetime
    n_words: int | None
    n_characters: int | None
    is_positive: bool
    windows: list[str]
    source_uri: str
    row_number: int
    load_id: str


class Value(BaseModel):
    """A feature as the table has it, and as its records make it."""

    feature: str
    value: int | float | datetime | str | list[float] | None
    by_records: int | float | datetime | str | list[float] | None

    @property
    def adds_up(self) -> bool:
        """Whether the two are the same."""
        return self.value == self.by_records


class FeatureTrace(BaseModel):
    """The row of an entity that holds at an instant (None: none yet) and the records behind it: `records` of `n_records`."""

    view: str
    entity: str
    at: datetime
    event_timestamp: datetime | None
    created_timestamp: datetime | None
    values: list[Value]
    records: list[CountedRecord]
    n_records: int
    tables: list[Table]

    @property
    def mismatches(self) -> list[str]:
        """A line for each feature that its records do not add up to."""
        return [f"{item.feature} is {item.value}, its records make it {item.by_records}" for item in self.values if not item.adds_up]


class Load(BaseModel):
    """What became of a file's rows in one load."""

    load_id: str
    source: str
    n_read: int
    n_staged: int
    n_duplicates: int
    n_quarantined: int


class Touched(BaseModel):
    """How many rows and entities of a view rest on a file's records."""

    view: str
    n_rows: int
    n_entities: int


class FileTrace(BaseModel):
    """What a file brought: loads, records, authors, subjects, and the feature rows that rest on them."""

    source_uri: str
    loads: list[Load]
    n_records: int
    n_authors: int
    n_subjects: int
    views: list[Touched]
    tables: list[Table]


def trace_record(warehouse: Warehouse, record_id: str, *, with_text: bool = False) -> RecordTrace:
    """Trace a record to its files and to its features; `MillraceError` if none has the id."""
    with _connect(warehouse) as (connection, tables):
        versions = _rows(connection, model("lineage/record_versions"), record_id=record_id)
        naming = _rows(connection, model("lineage/naming_rows"), name=record_id)
        if not versions and not naming:
            message = f"{warehouse.settings.root}: no record has this id; ids are told apart by capitals too"
            raise MillraceError(message)
        _create_spans(connection, "record_id", record_id)
        spans = {row["known_timestamp"]: row for row in _rows(connection, "from counting_spans")}
        quality = _rows(
            connection,
            "select event_timestamp, created_timestamp from features.record_quality where record_id = $record_id order by all",
            record_id=record_id,
        )
    return RecordTrace(
        record_id=record_id,
        versions=[_version(row, spans.get(row["known_timestamp"]), with_text=with_text) for row in versions],
        rules=StagedRecord.rules(),
        quarantined=[NamingRow(**row) for row in naming],
        quality_rows=quality,
        tables=tables,
    )


def parse_reference(reference: str) -> tuple[str, str | None, str]:
    """Take `view:entity` or `view:feature:entity` apart, as view, feature and entity; an entity may hold colons itself."""
    view, _, rest = reference.partition(":")
    features = _features(_contract(view))
    first, _, entity = rest.partition(":")
    if first in features and entity:
        return view, first, entity
    if not rest:
        message = f"{reference}: names no entity; say {view}:ENTITY or {view}:FEATURE:ENTITY"
        raise MillraceError(message)
    return view, None, rest


def trace_feature(
    warehouse: Warehouse, view: str, entity: str, at: datetime, *, feature: str | None = None, limit: int = 20
) -> FeatureTrace:
    """Trace the row of an entity that holds at an instant, or one feature of it, to the records behind it, the newest `limit` of them.

    `MillraceError` if there is no such view, or if it never had such an entity.
    """
    contract = _contract(view)
    key, features = contract.key()[0], _features(contract)
    with _connect(warehouse, as_of_views=True) as (connection, tables):
        connection.execute("set variable instant = $instant", {"instant": at})
        connection.execute("set variable traced = $entity", {"entity": entity})
        of_entity = f"where {key} = getvariable('traced')"
        if not _rows(connection, f"select 1 from features.{view} {of_entity} union all select 1 from staging.records {of_entity} limit 1"):
            message = f"features.{view}: knows no such {key}; ids are told apart by capitals too"
            raise MillraceError(message)
        at_instant = (
            f"{of_entity} and event_timestamp <= getvariable('instant') order by event_timestamp desc, created_timestamp desc limit 1"
        )
        stored = _rows(connection, f"from features.{view} {at_instant}")
        if contract in RECORD_KERNELS:
            nothing = dict.fromkeys(features)
            computed, records, n_records = _computed_by_record(connection, contract, entity, at)
        elif contract is RecordDuplicates:
            nothing = dict.fromkeys(features)
            computed, records, n_records = _duplicates_by_records(connection, entity, at)
        else:
            nothing = {name: 0 if name.startswith("n_") else None for name in features}
            computed, records, n_records = _activity_by_records(connection, key, entity, _window(feature), limit)
    held = stored[0] if stored else nothing
    return FeatureTrace(
        view=view,
        entity=entity,
        at=at,
        event_timestamp=held.get("event_timestamp"),
        created_timestamp=held.get("created_timestamp"),
        values=[Value(feature=name, value=held[name], by_records=computed[name]) for name in features if feature in {None, name}],
        records=records,
        n_records=n_records,
        tables=tables,
    )


def trace_file(warehouse: Warehouse, path: str) -> FileTrace:
    """Trace a source file, by its URI, its path or the end of its path, to what it brought; `MillraceError` if it was never staged."""
    with _connect(warehouse, as_of_views=True) as (connection, tables):
        uri = _uri(connection, path)
        loads = _rows(connection, model("lineage/file_loads"), source_uri=uri)
        (counts,) = _rows(
            connection,
            """
            select count(distinct record_id) as n_records, count(distinct author_id) as n_authors, count(distinct subject_id) as n_subjects
            from staging.records where source_uri = $uri
            """,
            uri=uri,
        )
        _create_spans(connection, "source_uri", uri)
        views = []
        for contract in VIEWS:
            if contract in OF_RECORDS:
                connection.execute(f"create or replace view record_rows as from {contract.relation()}")
                (touched,) = _rows(connection, model("lineage/standing_rows"), source_uri=uri)
            else:
                key, view = contract.key()[0], contract.relation()
                of_file = f"from counting_spans where source_uri = getvariable('traced') and {key} is not null"
                connection.execute(
                    f"create or replace view entity_spans as select {key} as entity_id, counts_from, until_lifetime {of_file}"
                )
                rows = (
                    f"select distinct {key} as entity_id, event_timestamp from {view} where {key} in (select entity_id from entity_spans)"
                )
                connection.execute(f"create or replace view entity_rows as {rows}")
                (touched,) = _rows(connection, model("lineage/resting_rows"))
            views.append(Touched(view=view_name(contract), **touched))
    return FileTrace(source_uri=uri, loads=[Load(**row) for row in loads], **counts, views=views, tables=tables)


def find_uri(warehouse: Warehouse, path: str) -> str:
    """Find the URI of a staged file by its URI, its path or the end of its path; `MillraceError` if it is none, or of several."""
    with warehouse.connect() as connection:
        return _uri(connection, path)


@contextmanager
def _connect(warehouse: Warehouse, *, as_of_views: bool = False) -> Iterator[tuple[duckdb.DuckDBPyConnection, list[Table]]]:
    """Open the views that agree on what they were made from; `as_of_views` over staging as it was then, else as it is now."""
    versions = consistent_versions(warehouse)
    tables = [_table(contract, warehouse, versions[view_name(contract)]) for contract in VIEWS if view_name(contract) in versions]
    if len(tables) < len(VIEWS) or any(table.made_from is None for table in tables):
        message = f"{warehouse.settings.root}: no features are computed yet; millrace run --source FILE does that"
        raise MillraceError(message)
    newest = warehouse.versions()[StagedRecord.relation()]
    staging = tables[0].made_from if as_of_views and tables[0].made_from is not None else newest
    tables.insert(0, Table(relation=StagedRecord.relation(), version=staging))
    with warehouse.connect() as connection:
        if warehouse.table(Correction.relation()) is None:  # a home made before there was one
            warehouse.create_view(connection, Correction.relation(), [], Correction.arrow_schema())
        for contract, item in zip(READ, tables, strict=True):
            files = data_files(warehouse.table_at(item.relation, item.version))
            warehouse.create_view(connection, item.relation, files, contract.arrow_schema())
        yield connection, tables


def _table(contract: type[Contract], warehouse: Warehouse, version: int) -> Table:
    table = warehouse.table_at(contract.relation(), version)
    return Table(
        relation=contract.relation(),
        version=version,
        made_from=table.transaction_version(TRANSACTION),
        is_current_code=table.transaction_version(CODE) == code_digest(contract),
    )


def _rows(connection: duckdb.DuckDBPyConnection, sql: str, **parameters: object) -> list[Row]:
    frame: pl.DataFrame = connection.sql(sql, params=parameters or None).pl()
    return frame.to_dicts()


def _create_spans(connection: duckdb.DuckDBPyConnection, column: str, value: str) -> None:
    """Make `counting_spans` of all versions of every record of which any version has a value in a column."""
    connection.execute("set variable traced = $value", {"value": value})
    of_value = f"select record_id from staging.records where {column} = getvariable('traced')"
    connection.execute(f"create view traced_versions as select * from staging.records where record_id in ({of_value})")
    connection.execute(f"create table counting_spans as {model('lineage/counting_spans')}")


def _activity_by_records(
    connection: duckdb.DuckDBPyConnection, key: str, entity: str, window: str, limit: int
) -> tuple[Row, list[CountedRecord], int]:
    """Add up an author's or subject's features from its records; list those that count in a window, the newest known first."""
    _create_spans(connection, key, entity)
    connection.execute(f"delete from counting_spans where {key} is distinct from getvariable('traced')")
    connection.execute(f"create view counted_records as {model('lineage/counted_records')}")
    (computed,) = _rows(connection, model("lineage/activity_of_records"))
    in_window = f"from counted_records where is_in_{window}"
    listed = _rows(connection, f"{in_window} order by known_timestamp desc, record_id limit $limit", limit=limit)
    (counted,) = _rows(connection, f"select count(*) as n_records {in_window}")
    records = [CountedRecord(**row, windows=[name for name in WINDOWS if row[f"is_in_{name}"]]) for row in listed]
    return computed, records, counted["n_records"]


def _computed_by_record(
    connection: duckdb.DuckDBPyConnection, contract: type[Contract], record_id: str, at: datetime
) -> tuple[Row, list[CountedRecord], int]:
    """Compute a record view from the text of the version that stands; nothing but nulls where none does, or a tombstone."""
    standing = _rows(connection, model("lineage/standing_version"), record_id=record_id, at=at)
    text = standing[0]["text"] if standing and not standing[0]["is_tombstone"] else None
    schema: dict[str, pl.DataType] = {
        "record_id": pl.String(),
        "event_timestamp": INSTANT,
        "created_timestamp": INSTANT,
        "text": pl.String(),
    }
    texts = pl.LazyFrame([{"record_id": record_id, "text": text}], schema)
    (computed,) = RECORD_KERNELS[contract](texts).collect().to_dicts()
    return computed, _counted_records(standing), len(standing)


def _duplicates_by_records(connection: duckdb.DuckDBPyConnection, record_id: str, at: datetime) -> tuple[Row, list[CountedRecord], int]:
    """Take the original from the index and compare its texts again; of all texts to look for it would be to make the index again.

    `dup_similarity` is that of the original's texts which the index says, if any has it, else the greatest.
    """
    documents = _rows(connection, model("lineage/standing_document"), record_id=record_id, at=at)
    document = documents[0] if documents else {"origin_id": None, "origin_similarity": None, "cluster_size": None}
    origin_id = document["origin_id"] if document["origin_id"] != record_id else None
    standing = _rows(connection, model("lineage/standing_version"), record_id=record_id, at=at)
    origins = _rows(connection, model("lineage/standing_version"), record_id=origin_id, at=at)
    known = _rows(connection, model("lineage/known_texts"), record_id=origin_id, at=at)
    found = compare_texts(standing[0]["text"], [row["text"] for row in known]) if origin_id and standing else []
    computed = {
        "dup_of": origin_id,
        "dup_similarity": document["origin_similarity"] if document["origin_similarity"] in found else max(found, default=None),
        "dup_cluster_size": document["cluster_size"],
        "is_duplicate": None if document["origin_id"] is None else int(origin_id is not None),
    }
    return computed, _counted_records(standing + origins), len(standing + origins)


def _counted_records(versions: list[Row]) -> list[CountedRecord]:
    schema: dict[str, pl.DataType] = {"text": pl.String(), "record_id": pl.String(), **dict.fromkeys(sorted(TIMES), INSTANT)}
    texts = pl.LazyFrame([{"text": None if row["is_tombstone"] else row["text"]} for row in versions], schema)
    counts = score_quality(texts).select("n_words", "n_characters").collect().to_dicts()
    return [CountedRecord(**row, **counted, windows=["lifetime"]) for row, counted in zip(versions, counts, strict=True)]


def _window(feature: str | None) -> str:
    """The window of a feature, by the end of its name; what has none rests on all records."""
    return next((window for window in WINDOWS if feature and feature.endswith(f"_{window}")), "lifetime")


def _contract(view: str) -> type[Contract]:
    contracts = {view_name(contract): contract for contract in VIEWS}
    if view not in contracts:
        message = f"{view}: is no feature view; there are {', '.join(contracts)}"
        raise MillraceError(message)
    return contracts[view]


def _features(contract: type[Contract]) -> list[str]:
    return [column.name for column in contract.served() if column.name not in contract.entity()]


def _version(row: Row, span: Row | None, *, with_text: bool) -> Version:
    until = {window: span[f"until_{window}"] for window in WINDOWS} if span else {}
    # in a window that it has left before it was known, or as a version that never stood, it does not count at all
    until = {window: end for window, end in until.items() if span and (end is None or end > span["counts_from"])}
    shown = row if with_text else {**row, "text": None}
    return Version(**shown, counts_from=span["counts_from"] if span and until else None, counts_until=until)


def _uri(connection: duckdb.DuckDBPyConnection, path: str) -> str:
    known: list[str] = [row["source_uri"] for row in _rows(connection, "select distinct source_uri from accounting.files order by all")]
    exact = {path, Path(path).expanduser().resolve().as_uri()}
    found = [uri for uri in known if uri in exact] or [uri for uri in known if uri.endswith(f"/{path.lstrip('/')}")]
    if len(found) != 1:
        fewer = f"is the end of {len(found)} staged files' paths; give more of it" if found else "no such file has been staged"
        message = f"{path}: {fewer}"
        raise MillraceError(message)
    return found[0]
