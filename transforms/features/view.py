"""The protocol of feature views: what every kind can do, so that callers need not know the kind."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import polars as pl
import pyarrow as pa

from transforms.features.entity import Entity
from transforms.features.joined import joined
from transforms.features.windows import Window
from transforms.paths import parquet
from transforms.schemas.base import Contract, describe
from transforms.warehouse.tables import Warehouse


@dataclass
class Run:
    """What a view is computed with: open tables, the instant of creation, and views beside it.

    The connection has the versions that were inserted and deleted since the view was computed, as
    `inserted` and `deleted`. Views computed beside each other share what they read of records:
    `spans` has, by the view's name, the table and its columns by their SQL. `tables` names what a
    view has already created for itself. `since` is the version of staging that the views were
    computed from; -1 means none.
    """

    warehouse: Warehouse
    connection: duckdb.DuckDBPyConnection
    now: datetime
    beside: "tuple[View, ...]" = ()
    spans: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)
    since: int = -1

    @property
    def batch_rows(self) -> int:
        """How many rows are passed on at a time."""
        return self.warehouse.settings.batch_rows


class Explained(NamedTuple):
    """An entity's values at an instant by their definition, and the records behind them."""

    values: dict[str, Any]
    records: list[dict[str, Any]]
    n_records: int


class View(ABC):
    """A feature view: one row has an entity's values from an instant on.

    Rows come as batches with the contract's columns and a last one, `is_new`: whether the instant
    is published for the first time.
    """

    contract: type[Contract]
    entity: Entity
    # whether it is online, or the window in which an event must be to be there
    online: bool | Window = True
    # how long ago it may have been brought up to date, at most; None: that does not matter
    fresh_within: timedelta | None = None
    # whether a value depends on one record's content alone, so that it never changes
    is_of_records: bool = False
    # whether it is computed in one pass with others of its kind, from the same batches of records
    is_computed_beside: bool = False
    # whether a request can carry all that it is computed from, so that no record is needed
    is_on_demand: bool = False
    # whether a value may depend on any record, so that all are recomputed where one is deleted
    is_rebuilt_whole: bool = False
    # the windows in which records count
    windows: Sequence[Window] = ()

    @property
    def name(self) -> str:
        """The name of the view, e.g. `author_activity`."""
        return self.relation.removeprefix("features.")

    @property
    def relation(self) -> str:
        """The name of its table, e.g. `features.author_activity`."""
        return self.contract.relation()

    @property
    def description(self) -> str:
        """What one row means."""
        return describe(self.contract)

    @property
    def features(self) -> list[str]:
        """The names of the features that are served."""
        times = {"event_timestamp", "created_timestamp", *self.contract.entity()}
        return [
            str(column.name)
            for column in self.contract.columns()
            if column.is_served and column.name not in times
        ]

    @property
    def online_for(self) -> timedelta | None:
        """How long a row stays online; None for ever."""
        return self.online.length if isinstance(self.online, Window) else None

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of the views that this one is computed from."""
        return ()

    def prepare(
        self,
        warehouse: Warehouse,
        now: datetime,
        done: Mapping[str, int],
        *,
        is_rebuilt: bool = False,
    ) -> dict[str, int]:
        """Publish what the view's own rows need, from nothing if `is_rebuilt`.

        Returns the transactions that the view's commit carries for it.
        """
        del warehouse, now, done, is_rebuilt
        return {}

    @abstractmethod
    def rows(self, run: Run, *, is_whole: bool) -> Iterator[pa.RecordBatch]:
        """Compute the rows that are new or change by inserted and deleted versions.

        With `is_whole`, compute all rows from all that is staged.
        """

    def rows_beside(
        self, run: Run, beside: "Sequence[View]", *, is_whole: bool
    ) -> "Iterator[tuple[View, pa.RecordBatch]]":
        """Compute the rows of views of this kind, this one among them: each batch with its view."""
        for view in beside:
            for batch in view.rows(run, is_whole=is_whole):
                yield view, batch

    @abstractmethod
    def instants(self, run: Run) -> str:
        """SQL of the instants at which values change, `entity_id` and `instant_us`.

        Some may come twice.
        """

    @abstractmethod
    def rebuild(self, run: Run, entities: str) -> Iterator[pa.RecordBatch]:
        """Recompute some entities from all that is staged: the rows that are new or differ.

        `entities` is a relation with `entity_id`.
        """

    def entities_of(self, versions: str) -> str:
        """SQL of the entities, as `entity_id`, that versions of records name.

        `versions` has the columns of staging.
        """
        found = (
            f"select {self.entity.row_sql} as entity_id "
            f"from {joined(versions, self.entity.references)}"
        )
        return f"select distinct entity_id from ({found}) where entity_id is not null"

    def files_of(
        self, connection: duckdb.DuckDBPyConnection, files: list[str], entities: str
    ) -> list[str]:
        """List the view's data files that contain a row of some entities.

        `entities` is a relation with `entity_id`.
        """
        if not files:
            return []
        parquet(connection, files, filename=True).create_view("searched_files")
        is_among = f"{self.entity.id_of_columns} in (select entity_id from {entities})"
        found = connection.sql(f"select distinct filename from searched_files where {is_among}")
        return [file for (file,) in found.fetchall()]

    def rests_on(
        self, connection: duckdb.DuckDBPyConnection, files: list[str], entities: str
    ) -> list[str]:
        """List the view's data files with values that depend on some entities.

        `entities` is a relation with `entity_id`.
        """
        return self.files_of(connection, files, entities)

    @abstractmethod
    def count_resting(
        self, connection: duckdb.DuckDBPyConnection, source_uri: str
    ) -> dict[str, int]:
        """Count the rows that depend on a source file: `n_rows`, and their `n_entities`."""

    @abstractmethod
    def explain(
        self,
        connection: duckdb.DuckDBPyConnection,
        entity: Mapping[str, str],
        at: datetime,
        limit: int,
        feature: str | None = None,
    ) -> Explained:
        """Compute an entity's values at an instant by their definition.

        With them come the newest `limit` of the records behind them, or with `feature`, of those
        behind that feature alone.
        """

    def of_request(self, versions: pl.DataFrame, home: Path | None) -> pl.DataFrame:
        """Compute the features of versions that are not stored, where the view `is_on_demand`.

        `home` is the one that is asked, for views that compare with what it has.
        """
        raise NotImplementedError

    @property
    def columns_read(self) -> tuple[str, ...]:
        """What is read of a record: its columns, and features of other views as `view.feature`."""
        return ("text",)

    @abstractmethod
    def digest(self) -> int:
        """Digest all that decides the values, as a number that a commit carries."""
