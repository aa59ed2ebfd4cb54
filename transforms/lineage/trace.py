"""Lineage: from a feature value to the records it counts and the rows they came from, from a file to the features it touched.

A trace counts by the definition in docs/time.md, not by the models that made the table, and says where the two differ.
Reads only.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
from pydantic import BaseModel

from transforms.errors import MillraceError
from transforms.features.build import consistent_versions
from transforms.features.entity import Entity
from transforms.features.joined import EFFECTIVE
from transforms.features.registry import view_of, views
from transforms.features.view import View
from transforms.features.windows import Window
from transforms.schemas.base import Contract
from transforms.schemas.staging import Correction, StagedRecord
from transforms.sql import model
from transforms.warehouse.checkpoint import FEATURIZE
from transforms.warehouse.tables import CODE, Warehouse, data_files

Row = dict[str, Any]
Feature = int | float | datetime | str | list[float] | list[str] | None


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
    """A version of a record behind a feature value, the numbers that are read of it, and the windows it counts in."""

    record_id: str
    event_timestamp: datetime
    known_timestamp: datetime
    is_positive: bool
    inputs: dict[str, float | None]
    windows: list[str]
    source_uri: str
    row_number: int
    load_id: str


class Value(BaseModel):
    """A feature as the table has it, and as its records make it."""

    feature: str
    value: Feature
    by_records: Feature

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
        return [
            f"{item.feature} is {item.value}, its records make it {item.by_records}"
            for item in self.values
            if not item.adds_up
        ]


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
        spans = {
            row["known_timestamp"]: row
            for row in _rows(connection, model("lineage/counting_versions"), record_id=record_id)
        }
        quality = _rows(
            connection,
            "select event_timestamp, created_timestamp from features.record_quality where record_id = $record_id order by all",
            record_id=record_id,
        )
    return RecordTrace(
        record_id=record_id,
        versions=[
            _version(row, spans.get(row["known_timestamp"]), with_text=with_text)
            for row in versions
        ],
        rules=StagedRecord.rules(),
        quarantined=[NamingRow(**row) for row in naming],
        quality_rows=quality,
        tables=tables,
    )


def parse_reference(reference: str) -> tuple[str, str | None, str]:
    """Take `view:entity` or `view:feature:entity` apart, as view, feature and entity; an entity may hold colons itself."""
    view, _, rest = reference.partition(":")
    features = view_of(view).features
    first, _, entity = rest.partition(":")
    if first in features and entity:
        return view, first, entity
    if not rest:
        message = f"{reference}: names no entity; say {view}:ENTITY or {view}:FEATURE:ENTITY"
        raise MillraceError(message)
    return view, None, rest


def trace_feature(
    warehouse: Warehouse,
    view: str,
    entity: str,
    at: datetime,
    *,
    feature: str | None = None,
    limit: int = 20,
) -> FeatureTrace:
    """Trace the row of an entity that holds at an instant, or one feature of it, to the records behind it, the newest `limit` of them.

    `MillraceError` if there is no such view, or if it never had such an entity.
    """
    traced = view_of(view)
    key = _key(traced.entity, entity)
    with _connect(warehouse, as_of_views=True) as (connection, tables):
        if traced.relation not in {table.relation for table in tables}:
            message = f"{traced.relation}: is declared and not computed yet; millrace run --source FILE does that"
            raise MillraceError(message)
        of_entity = " and ".join(f"{column} = ${column}" for column in key)
        at_instant = f"where {of_entity} and event_timestamp <= $at order by event_timestamp desc, created_timestamp desc limit 1"
        stored = _rows(connection, f"from {traced.relation} {at_instant}", **key, at=at)
        if not stored and not _is_known(connection, traced, key):
            message = f"{traced.relation}: knows no such {', '.join(key)}; ids are told apart by capitals too"
            raise MillraceError(message)
        explained = traced.explain(connection, key, at, limit, feature)
    empty = {str(column.name): column.empty for column in traced.contract.columns()}
    found = stored[0] if stored else empty
    return FeatureTrace(
        view=view,
        entity=entity,
        at=at,
        event_timestamp=found.get("event_timestamp"),
        created_timestamp=found.get("created_timestamp"),
        values=[
            Value(feature=name, value=found[name], by_records=explained.values[name])
            for name in traced.features
            if feature in {None, name}
        ],
        records=[CountedRecord(**row) for row in explained.records],
        n_records=explained.n_records,
        tables=tables,
    )


def _key(entity: Entity, value: str) -> dict[str, str]:
    """The key columns of an entity, as they are written in a reference: of several keys a JSON list of them."""
    if len(entity.columns) == 1:
        return {entity.columns[0]: value}
    try:
        return dict(zip(entity.columns, map(str, json.loads(value)), strict=True))
    except (ValueError, TypeError):
        example = json.dumps([f"{column.upper()}" for column in entity.columns])
        message = f"{value}: {entity.name} has the keys {', '.join(entity.columns)}; write them as a list, e.g. '{example}'"
        raise MillraceError(message) from None


def _is_known(connection: duckdb.DuckDBPyConnection, view: View, key: dict[str, str]) -> bool:
    """Whether a view has a row of an entity at any instant, or a staged record names it."""
    of_entity = " and ".join(f"{column} = ${column}" for column in key)
    if _rows(connection, f"select 1 from {view.relation} where {of_entity} limit 1", **key):
        return True
    named = f"select {view.entity.columns_of_id} from ({view.entities_of(EFFECTIVE)})"
    return bool(_rows(connection, f"select 1 from ({named}) where {of_entity} limit 1", **key))


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
        computed = [
            view for view in views() if view.relation in {table.relation for table in tables}
        ]
        touched = [
            Touched(view=view.name, **view.count_resting(connection, uri)) for view in computed
        ]
    return FileTrace(
        source_uri=uri, loads=[Load(**row) for row in loads], **counts, views=touched, tables=tables
    )


def find_uri(warehouse: Warehouse, path: str) -> str:
    """Find the URI of a staged file by its URI, its path or the end of its path; `MillraceError` if it is none, or of several."""
    with warehouse.connect() as connection:
        return _uri(connection, path)


@contextmanager
def _connect(
    warehouse: Warehouse, *, as_of_views: bool = False
) -> Iterator[tuple[duckdb.DuckDBPyConnection, list[Table]]]:
    """Open the views that agree on what they were made from; `as_of_views` over staging as it was then, else as it is now."""
    versions = consistent_versions(warehouse)
    computed = [view for view in views() if view.name in versions]
    tables = [_table(view, warehouse, versions[view.name]) for view in computed]
    if not tables or any(table.made_from is None for table in tables):
        message = f"{warehouse.settings.root}: no features are computed yet; millrace run --source FILE does that"
        raise MillraceError(message)
    newest = warehouse.versions()[StagedRecord.relation()]
    staging = tables[0].made_from if as_of_views and tables[0].made_from is not None else newest
    tables.insert(0, Table(relation=StagedRecord.relation(), version=staging))
    with warehouse.connect() as connection:
        if warehouse.table(Correction.relation()) is None:  # a home made before there was one
            warehouse.create_view(connection, Correction.relation(), [], Correction.arrow_schema())
        read: list[type[Contract]] = [StagedRecord, *(view.contract for view in computed)]
        for contract, item in zip(read, tables, strict=True):
            files = data_files(warehouse.table_at(item.relation, item.version))
            warehouse.create_view(connection, item.relation, files, contract.arrow_schema())
        yield connection, tables


def _table(view: View, warehouse: Warehouse, version: int) -> Table:
    table = warehouse.table_at(view.relation, version)
    return Table(
        relation=view.relation,
        version=version,
        made_from=table.transaction_version(FEATURIZE.name),
        is_current_code=table.transaction_version(CODE) == view.digest(),
    )


def _rows(connection: duckdb.DuckDBPyConnection, sql: str, **parameters: object) -> list[Row]:
    frame: pl.DataFrame = connection.sql(sql, params=parameters or None).pl()
    return frame.to_dicts()


def windows() -> dict[str, Window]:
    """The windows of all groups, by their names, the shortest first and the lifetime last."""
    found = {window.name: window for view in views() for window in view.windows}
    return dict(sorted(found.items(), key=lambda item: (item[1].length is None, item[1].length)))


def _version(row: Row, span: Row | None, *, with_text: bool) -> Version:
    shown = row if with_text else {**row, "text": None}
    if span is None:
        return Version(**shown)
    from_, superseded = span["counts_from"], span["superseded_timestamp"]
    ends = {name: window.leaves(row["event_timestamp"]) for name, window in windows().items()}
    until = {
        name: min((end for end in (leaves, superseded) if end), default=None)
        for name, leaves in ends.items()
    }
    # in a window that it has left before it was known, or as a version that never counted, it does not count at all
    until = {name: end for name, end in until.items() if end is None or end > from_}
    return Version(**shown, counts_from=from_ if until else None, counts_until=until)


def _uri(connection: duckdb.DuckDBPyConnection, path: str) -> str:
    known: list[str] = [
        row["source_uri"]
        for row in _rows(
            connection, "select distinct source_uri from accounting.files order by all"
        )
    ]
    exact = {path, Path(path).expanduser().resolve().as_uri()}
    found = [uri for uri in known if uri in exact] or [
        uri for uri in known if uri.endswith(f"/{path.lstrip('/')}")
    ]
    if len(found) != 1:
        fewer = (
            f"is the end of {len(found)} staged files' paths; give more of it"
            if found
            else "no such file has been staged"
        )
        message = f"{path}: {fewer}"
        raise MillraceError(message)
    return found[0]
