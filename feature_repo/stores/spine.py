"""Spines: the rows that features are asked for, whatever they come as."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from feature_repo.stores import sources
from transforms.instants import INSTANT, in_utc, instants_in, instants_of, is_text
from transforms.paths import parquet_sql

Spine: TypeAlias = pd.DataFrame | pl.DataFrame | pl.LazyFrame | pa.Table | Path | str
EVENT_TIMESTAMP = "event_timestamp"


@dataclass(frozen=True)
class SpineRows:
    """A spine's rows, in memory or as Parquet files, and what names them in SQL."""

    rows: pa.Table | pads.FileSystemDataset
    event_timestamp: str
    sql: str

    @property
    def schema(self) -> pa.Schema:
        """The spine's columns."""
        return self.rows.schema

    def batches(self, rows: int) -> Iterator[pa.Table]:
        """Yield the rows in order, by batches; at least one, maybe empty."""
        if isinstance(self.rows, pa.Table):
            yield from (
                self.rows.slice(start, rows) for start in range(0, max(1, self.rows.num_rows), rows)
            )
            return
        parts = (
            part for file in self.rows.get_fragments() for part in file.split_by_row_group()
        )  # Arrow reads whole files ahead
        batches = (
            batch
            for part in parts
            for batch in part.to_batches(schema=self.schema, batch_size=rows)
        )
        yield from _gathered(batches, self.schema, rows)

    def span(self) -> tuple[datetime | None, datetime | None]:
        """Find the first and the last instant; of files it is not known without reading them."""
        if not isinstance(self.rows, pa.Table):
            return None, None
        ends = pc.min_max(
            instants_in(self.rows[self.event_timestamp], self.event_timestamp).cast(
                INSTANT, safe=False
            )
        ).as_py()
        return ends["min"], ends["max"]

    def check(self, keys: Mapping[str, Iterable[str]], features: Mapping[str, str]) -> None:
        """Raise `ValueError` for a missing key, invalid time, or column with a feature's name."""
        names = self.schema.names
        for view, columns in keys.items():
            missing = [column for column in columns if column not in names]
            if missing:
                message = (
                    f"the spine has no column {missing[0]!r}, which view {view} needs; it has "
                    f"{', '.join(names)}"
                )
                raise ValueError(message)
        kind = self.schema.field(self.event_timestamp).type
        rows = (
            self.rows
            if isinstance(self.rows, pa.Table) or not is_text(kind)
            else self.rows.to_table([self.event_timestamp])
        )
        instants_in(
            (rows if isinstance(rows, pa.Table) else self.schema.empty_table())[
                self.event_timestamp
            ],
            self.event_timestamp,
        )
        for feature, view in features.items():
            if feature in names:
                message = (
                    f"the spine has a column {feature!r}, as has view {view}; ask with "
                    "full_feature_names=True, or rename the spine's"
                )
                raise ValueError(message)


def read_spine(
    spine: Spine, connection: duckdb.DuckDBPyConnection, storage_options: Mapping[str, str]
) -> SpineRows:
    """Open a spine; SQL runs now, over the connection's views, and a path stays on disk.

    A text that ends in `.parquet` or names something that exists is a path, any other text is SQL.
    """
    if isinstance(spine, Path) or (isinstance(spine, str) and _is_path(spine)):
        dataset = sources.parquet(str(spine), storage_options)
        if dataset is None:
            message = f"the spine {spine}: no Parquet there"
            raise FileNotFoundError(message)
        rows = parquet_sql(dataset.files, is_partitioned=not Path(spine).is_file())
        return SpineRows(dataset, _event_timestamp(dataset.schema), rows)
    table = to_arrow(connection, spine)
    return SpineRows(
        table, _event_timestamp(table.schema), f"({spine}\n)" if isinstance(spine, str) else "spine"
    )


def to_arrow(connection: duckdb.DuckDBPyConnection, spine: Spine) -> pa.Table:
    """Make a spine an Arrow table, whatever it came as; SQL runs over the connection's views."""
    if isinstance(spine, str) and not _is_path(spine):
        return connection.sql(spine).to_arrow_table()
    if isinstance(spine, str | Path):
        return pads.dataset(spine, format="parquet").to_table()
    if isinstance(spine, pd.DataFrame):
        objects = {
            str(name): _objects(spine[name])
            for name, kind in spine.dtypes.items()
            if pd.api.types.is_object_dtype(kind)
        }
        return pa.Table.from_pandas(spine.assign(**objects), preserve_index=False)
    if isinstance(spine, pl.LazyFrame):
        spine = spine.collect()
    return spine.to_arrow() if isinstance(spine, pl.DataFrame) else spine


def _objects(column: pd.Series) -> pd.Series:
    """Convert Python datetimes in pandas columns to UTC.

    A spine's instants also where kinds are mixed.
    """
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind == "string":
        return column
    if column.name == EVENT_TIMESTAMP and kind not in {"date", "datetime"}:
        return pd.Series(instants_of(column.tolist(), EVENT_TIMESTAMP).to_pandas(), column.index)
    return column.map(in_utc)


def _is_path(text: str) -> bool:
    one_line = not any(character.isspace() for character in text.strip())
    return one_line and (
        text.endswith(".parquet") or sources.is_remote(text) or Path(text).exists()
    )


def _event_timestamp(schema: pa.Schema) -> str:
    """Find the spine's time: `event_timestamp`, else the only timestamp there is, as Feast does."""
    times = [field.name for field in schema if pa.types.is_timestamp(field.type)]
    if EVENT_TIMESTAMP in schema.names or len(times) != 1:
        if EVENT_TIMESTAMP not in schema.names:
            message = (
                f"the spine has no column {EVENT_TIMESTAMP!r}, which every view needs; it has "
                f"{', '.join(schema.names)}"
            )
            raise ValueError(message)
        return EVENT_TIMESTAMP
    return str(times[0])


def _gathered(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, rows: int
) -> Iterator[pa.Table]:
    """Put small batches together, so that each result is worth its join."""
    waiting: list[pa.RecordBatch] = []
    n_given = 0
    for batch in batches:
        waiting.append(batch)
        if sum(part.num_rows for part in waiting) >= rows:
            yield pa.Table.from_batches(waiting)
            n_given, waiting = n_given + 1, []
    if waiting or not n_given:
        yield pa.Table.from_batches(waiting, schema)
