"""The protocol of feature views: what each kind can be asked. Nobody who asks needs to know which kind it is."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from transforms.features.entity import Entity
from transforms.features.joined import joined
from transforms.features.windows import Window
from transforms.paths import parquet
from transforms.schemas.base import Contract
from transforms.warehouse.tables import Warehouse


@dataclass
class Run:
    """What a view is computed with: the open tables, the instant that rows are created at, and the views computed beside it.

    The connection has the versions that staging got and lost since the view was made as `inserted` and `deleted`. Views computed
    beside each other share what they read of a record: `spans` has by the view's name the table, and its columns by their SQL.
    `tables` names what a view has made for itself and needs no second time.
    """

    warehouse: Warehouse
    connection: duckdb.DuckDBPyConnection
    now: datetime
    beside: "tuple[View, ...]" = ()
    spans: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)

    @property
    def batch_rows(self) -> int:
        """How many rows are handed on at a time."""
        return self.warehouse.settings.batch_rows


class Explained(NamedTuple):
    """The values of an entity at an instant by their definition, the records behind them, and how many there are."""

    values: dict[str, Any]
    records: list[dict[str, Any]]
    n_records: int


class View(ABC):
    """A feature view: one row is an entity's values from an instant on.

    Rows come as batches in the contract's columns, with `is_new` behind: whether the instant was published before.
    """

    contract: type[Contract]
    entity: Entity
    online: bool = True
    # whether a value rests on one record's content alone, so that it is right once it is there
    is_of_records: bool = False
    # whether a value may rest on any record, so that all are made again where one goes
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
        """What one row says."""
        return self.contract.__doc__ or ""

    @property
    def features(self) -> list[str]:
        """The names of what is served."""
        times = {"event_timestamp", "created_timestamp", *self.contract.entity()}
        return [
            str(column.name)
            for column in self.contract.columns()
            if column.is_served and column.name not in times
        ]

    @property
    def reads(self) -> tuple[str, ...]:
        """The views that this one is computed from, by name."""
        return ()

    def prepare(
        self, warehouse: Warehouse, now: datetime, done: Mapping[str, int], *, is_anew: bool = False
    ) -> dict[str, int]:
        """Publish what must be there before the view's own rows, all of it `is_anew`; the transactions that its commit carries for it."""
        del warehouse, now, done, is_anew
        return {}

    @abstractmethod
    def rows(self, run: Run, *, is_whole: bool) -> Iterator[pa.RecordBatch]:
        """Compute the rows that inserted and deleted versions make new or different; with `is_whole` all rows, of all that is staged."""

    @abstractmethod
    def instants(self, run: Run) -> str:
        """SQL for the instants at which values change, `entity_id` and `instant_us`, some of them maybe twice."""

    @abstractmethod
    def rebuild(self, run: Run, entities: str) -> Iterator[pa.RecordBatch]:
        """Compute the entities in a relation of `entity_id` again from all that is staged: the rows that are new or differ."""

    def entities_of(self, versions: str) -> str:
        """SQL of the entities, as `entity_id`, that versions of records name; `versions` has the columns of staging."""
        found = f"select {self.entity.row_sql} as entity_id from {joined(versions, self.entity.references)}"
        return f"select distinct entity_id from ({found}) where entity_id is not null"

    def files_of(
        self, connection: duckdb.DuckDBPyConnection, files: list[str], entities: str
    ) -> list[str]:
        """List those of the view's data files that hold a row of an entity in a relation of `entity_id`."""
        if not files:
            return []
        parquet(connection, files, filename=True).create_view("searched_files")
        is_among = f"{self.entity.id_of_columns} in (select entity_id from {entities})"
        return [
            file
            for (file,) in connection.sql(
                f"select distinct filename from searched_files where {is_among}"
            ).fetchall()
        ]

    def rests_on(
        self, connection: duckdb.DuckDBPyConnection, files: list[str], entities: str
    ) -> list[str]:
        """List those of the view's data files with values that rest on an entity in a relation of `entity_id`."""
        return self.files_of(connection, files, entities)

    @abstractmethod
    def count_resting(
        self, connection: duckdb.DuckDBPyConnection, source_uri: str
    ) -> dict[str, int]:
        """Count the rows that rest on a record of a source file, `n_rows`, and their entities, `n_entities`."""

    @abstractmethod
    def explain(
        self,
        connection: duckdb.DuckDBPyConnection,
        entity: Mapping[str, str],
        at: datetime,
        limit: int,
        feature: str | None = None,
    ) -> Explained:
        """Compute an entity's values at an instant by their definition, with the newest `limit` of the records behind them.

        With `feature`, the records are those behind this one alone.
        """

    @abstractmethod
    def digest(self) -> int:
        """Digest all that decides the values, as a number that a commit carries."""
