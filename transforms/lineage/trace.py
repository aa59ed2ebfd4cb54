"""Lineage: from a feature value to its records and their raw rows, and from a file to its features.

A trace counts by the definition in docs/time.md, not by the models that made the table, and reports
where the two differ. It only reads.
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

from transforms import pages
from transforms.errors import MillraceError
from transforms.features.build import consistent_versions
from transforms.features.chosen import refuse_off
from transforms.features.entity import Entity
from transforms.features.joined import EFFECTIVE
from transforms.features.registry import view_of, views
from transforms.features.view import View
from transforms.features.windows import Window
from transforms.pages.notebook import fragment
from transforms.schemas.base import Contract
from transforms.schemas.staging import StagedRecord
from transforms.sql import model
from transforms.warehouse.checkpoint import FEATURIZE
from transforms.warehouse.publishing import CODE
from transforms.warehouse.snapshot import connect, create_view
from transforms.warehouse.tables import Warehouse, data_files

Row = dict[str, Any]
Feature = int | float | datetime | str | list[float] | list[str] | None


class Table(BaseModel):
    """A table that was read, and its version.

    For a view also the version of staging it was made from, and whether by the current code.
    """

    relation: str
    version: int
    made_from: int | None = None
    is_current_code: bool | None = None


class Version(BaseModel):
    """One version of a record: its raw row, its last correction, and when it counts by window.

    An end of None means that it still counts.
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
    """Every version of a record, and the instants of its own features.

    `rules` are those that each version has passed; `quarantined` are rejected rows that name it.
    """

    record_id: str
    versions: list[Version]
    rules: list[str]
    quarantined: list[NamingRow]
    quality_rows: list[dict[str, datetime]]
    tables: list[Table]

    def _repr_html_(self) -> str:
        columns = ["known", "written", "author", "subject", "row", "of", "counts from"]
        rows = [
            (
                *(row.known_timestamp, row.event_timestamp, row.author_id, row.subject_id),
                *(row.row_number, Path(row.source_uri).name, row.counts_from or "never"),
            )
            for row in self.versions
        ]
        facts = [("record", self.record_id), ("rejected rows", len(self.quarantined))]
        return fragment("Versions", facts, [pages.Table("Versions", columns, rows)])


class CountedRecord(BaseModel):
    """A version of a record behind a feature value, the numbers read from it, and its windows."""

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
    """A feature's value in the table, and as computed from its records.

    >>> Value(feature="n_words_7d", value=3, by_records=2).adds_up
    False
    """

    feature: str
    value: Feature
    by_records: Feature

    @property
    def adds_up(self) -> bool:
        """Whether the two are equal."""
        return self.value == self.by_records


class FeatureTrace(BaseModel):
    """An entity's row in effect at an instant, and the records behind it.

    `event_timestamp` is None if there is no row yet. `records` has the newest of `n_records`.
    """

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
        """A line for each feature that differs from what its records make it."""
        return [
            f"{item.feature} is {item.value}, its records make it {item.by_records}"
            for item in self.values
            if not item.adds_up
        ]

    def _repr_html_(self) -> str:
        at = [("of", self.entity), ("at", self.at), ("row of", self.event_timestamp or "none yet")]
        values = [
            (item.feature, item.value, item.by_records, "" if item.adds_up else "differs")
            for item in self.values
        ]
        records = [
            (row.record_id, row.known_timestamp, row.event_timestamp, " ".join(row.windows))
            for row in self.records
        ]
        more = self.n_records - len(records)
        made = pages.Table("Values", ["feature", "in the table", "by its records", ""], values)
        behind = ["record", "known", "written", "windows"]
        caption = f"Records behind it: {self.n_records:,}, the newest known first"
        return fragment(f"{self.view}", at, [made, pages.Table(caption, behind, records, more)])


class Load(BaseModel):
    """What became of a file's rows in one load."""

    load_id: str
    source: str
    n_read: int
    n_staged: int
    n_duplicates: int
    n_quarantined: int


class Touched(BaseModel):
    """How many rows and entities of a view depend on a file's records."""

    view: str
    n_rows: int
    n_entities: int


class FileTrace(BaseModel):
    """What came from a file: loads, records, authors, subjects, and dependent feature rows."""

    source_uri: str
    loads: list[Load]
    n_records: int
    n_authors: int
    n_subjects: int
    views: list[Touched]
    tables: list[Table]

    def _repr_html_(self) -> str:
        counts = ["n_read", "n_staged", "n_duplicates", "n_quarantined"]
        loads = [(load.load_id, *(getattr(load, name) for name in counts)) for load in self.loads]
        views = [(view.view, view.n_rows, view.n_entities) for view in self.views]
        facts = [("file", Path(self.source_uri).name), ("records", self.n_records)]
        read = ["load", "read", "staged", "duplicates", "quarantined"]
        tables = [
            pages.Table("Loads", read, loads),
            pages.Table("Feature rows that depend on it", ["view", "rows", "entities"], views),
        ]
        return fragment("Source file", facts, tables)


def trace_record(warehouse: Warehouse, record_id: str, *, with_text: bool = False) -> RecordTrace:
    """Trace a record to its files and to its features.

    Raises `MillraceError` if no record has the id.
    """
    with _connect(warehouse) as (connection, tables):
        versions = _rows(connection, model("lineage/record_versions"), record_id=record_id)
        naming = _rows(connection, model("lineage/naming_rows"), name=record_id)
        if not versions and not naming:
            message = f"{warehouse.settings.root}: no record has this id; ids are case-sensitive"
            raise MillraceError(message)
        spans = {
            row["known_timestamp"]: row
            for row in _rows(connection, model("lineage/counting_versions"), record_id=record_id)
        }
        quality = _rows(
            connection,
            """
            select event_timestamp, created_timestamp from features.record_quality
            where record_id = $record_id order by all
            """,
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
    """Split `view:entity` or `view:feature:entity` into view, feature and entity.

    The entity may contain colons.

    >>> parse_reference("author_activity:urn:ann")
    ('author_activity', None, 'urn:ann')
    >>> parse_reference("author_activity:n_words_7d:urn:ann")
    ('author_activity', 'n_words_7d', 'urn:ann')
    """
    view, _, rest = reference.partition(":")
    features = view_of(view).features
    first, _, entity = rest.partition(":")
    if first in features and entity:
        return view, first, entity
    if not rest:
        message = f"{reference}: names no entity; write {view}:ENTITY or {view}:FEATURE:ENTITY"
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
    """Trace an entity's row in effect at an instant, or one feature of it, to its records.

    At most the newest `limit` records are returned. Raises `MillraceError` if there is no such
    view, or if it never had such an entity.
    """
    traced = view_of(view)
    key = _key(traced.entity, entity)
    with _connect(warehouse, as_of_views=True) as (connection, tables):
        if traced.relation not in {table.relation for table in tables}:
            refuse_off(warehouse.settings.root, view)
            message = (
                f"{traced.relation}: is declared but not computed yet; "
                "millrace run --source FILE computes it"
            )
            raise MillraceError(message)
        of_entity = " and ".join(f"{column} = ${column}" for column in key)
        newest = f"""
            from {traced.relation} where {of_entity} and event_timestamp <= $at
            order by event_timestamp desc, created_timestamp desc limit 1
        """
        stored = _rows(connection, newest, **key, at=at)
        if not stored and not _is_known(connection, traced, key):
            message = f"{traced.relation}: has no such {', '.join(key)}; ids are case-sensitive"
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
    """Return an entity's key columns from a reference; several keys are written as a JSON list."""
    if len(entity.columns) == 1:
        return {entity.columns[0]: value}
    try:
        return dict(zip(entity.columns, map(str, json.loads(value)), strict=True))
    except (ValueError, TypeError):
        example = json.dumps([f"{column.upper()}" for column in entity.columns])
        message = (
            f"{value}: {entity.name} has the keys {', '.join(entity.columns)}; "
            f"write them as a list, e.g. '{example}'"
        )
        raise MillraceError(message) from None


def _is_known(connection: duckdb.DuckDBPyConnection, view: View, key: dict[str, str]) -> bool:
    """Return whether a view has any row of an entity, or a staged record names it."""
    of_entity = " and ".join(f"{column} = ${column}" for column in key)
    if _rows(connection, f"select 1 from {view.relation} where {of_entity} limit 1", **key):
        return True
    named = f"select {view.entity.columns_of_id} from ({view.entities_of(EFFECTIVE)})"
    return bool(_rows(connection, f"select 1 from ({named}) where {of_entity} limit 1", **key))


def trace_file(warehouse: Warehouse, path: str) -> FileTrace:
    """Trace a source file, by its URI, its path or the end of its path, to what came from it.

    Raises `MillraceError` if it was never staged.
    """
    with _connect(warehouse, as_of_views=True) as (connection, tables):
        uri = _uri(connection, path)
        loads = _rows(connection, model("lineage/file_loads"), source_uri=uri)
        (counts,) = _rows(
            connection,
            """
            select
                count(distinct record_id) as n_records,
                count(distinct author_id) as n_authors,
                count(distinct subject_id) as n_subjects
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
    """Find the URI of a staged file by its URI, its path or the end of its path.

    Raises `MillraceError` if none is found, or several.
    """
    with connect(warehouse, of=("accounting.files",)) as connection:
        return _uri(connection, path)


@contextmanager
def _connect(
    warehouse: Warehouse, *, as_of_views: bool = False
) -> Iterator[tuple[duckdb.DuckDBPyConnection, list[Table]]]:
    """Open the views at versions made from the same version of staging.

    With `as_of_views`, staging is opened at that version, otherwise at its newest.
    """
    versions = consistent_versions(warehouse)
    computed = [view for view in views() if view.name in versions]
    tables = [_table(view, warehouse, versions[view.name]) for view in computed]
    if not tables or any(table.made_from is None for table in tables):
        message = (
            f"{warehouse.settings.root}: no features are computed yet; "
            "millrace run --source FILE computes them"
        )
        raise MillraceError(message)
    newest = warehouse.version(StagedRecord.relation())
    staging = tables[0].made_from if as_of_views and tables[0].made_from is not None else newest
    tables.insert(0, Table(relation=StagedRecord.relation(), version=staging))
    with connect(warehouse) as connection:
        read: list[type[Contract]] = [StagedRecord, *(view.contract for view in computed)]
        for contract, item in zip(read, tables, strict=True):
            files = data_files(warehouse.table_at(item.relation, item.version))
            create_view(connection, item.relation, files, contract.arrow_schema())
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
    """Return the windows of all views by name, the shortest first and the lifetime last.

    >>> list(windows())[-1]
    'lifetime'
    """
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
    # a version that left a window before it was known, or that never counted, has no span in it
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
        several = f"is the end of {len(found)} staged files' paths; write more of the path"
        message = f"{path}: {several if found else 'no such file has been staged'}"
        raise MillraceError(message)
    return found[0]
