"""Record views: features of each record's own content, by a kernel."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa

from transforms.errors import DeclarationError
from transforms.expressions import quoted
from transforms.features.aggregates import DTYPES, Input, served
from transforms.features.contracts import record_contract, value_field
from transforms.features.declare import RecordSql, RecordView
from transforms.features.engine.kernels import Kernel, compute_sql, given_name, record_rows, score
from transforms.features.entities import record
from transforms.features.fingerprint import digest, kernel_digest
from transforms.features.inputs import Inputs
from transforms.features.view import Explained, Run, View
from transforms.sql import model

# what a request can carry of a record
CARRIED = {"text", "text_redacted", "label", "attributes", "event_timestamp"}
COMPUTED_IN = ("transforms.features.engine.kernels",)


class KernelView(View):
    """A declared record view as a view."""

    entity = record
    is_of_records = True
    is_computed_beside = True

    def __init__(
        self,
        declared: type[RecordView],
        record_views: Mapping[str, View],
        sql: str | None = None,
        *,
        reads_id: bool = False,
    ) -> None:
        """Take the class, and of an SQL view the SQL and whether it reads the record's id.

        Raises `DeclarationError` where it reads what does not exist.
        """
        self.contract = self._declared = declared
        self._record_views, self._sql = record_views, sql
        self.online = declared.Config.metadata["online"]
        self.kernel: Kernel = declared.compute
        inputs = Inputs(record_views)
        for name in self.columns_read:
            inputs.references(name)
        of_records = {name for name in self.columns_read if "." not in name}
        self.is_on_demand = (
            not reads_id
            and of_records <= CARRIED
            and all(record_views[name].is_on_demand for name in self.reads)
        )

    @property
    def columns_read(self) -> tuple[str, ...]:
        """What is read: columns of a record, and features as `view.feature`."""
        return tuple(self.contract.Config.metadata["reads"])

    @property
    def reads(self) -> tuple[str, ...]:
        """The record views whose features are read."""
        return tuple(sorted({name.partition(".")[0] for name in self.columns_read if "." in name}))

    def digest(self) -> int:
        """Digest the kernel, all that it uses and reads, and the views that it reads."""
        reads = self.contract.Config.metadata["reads"]
        kernel = self._sql or kernel_digest(self.contract)
        declared = f"{kernel}\x1f{self._declared.fingerprint()}\x1f{reads}"
        return digest(
            self.contract,
            COMPUTED_IN,
            declared,
            (self._record_views[name].digest() for name in self.reads),
        )

    def rows(self, run: Run, *, is_whole: bool) -> Iterator[pa.RecordBatch]:
        """Compute the versions that arrived.

        For records with a deleted version, compute what is in effect at each of their instants.
        """
        return (batch for _, batch in self.rows_beside(run, (self,), is_whole=is_whole))

    def rows_beside(
        self, run: Run, beside: Sequence[View], *, is_whole: bool
    ) -> Iterator[tuple[View, pa.RecordBatch]]:
        """Compute the versions that arrived for several views, from one read of them."""
        views = [view for view in beside if isinstance(view, KernelView)]
        return record_rows(run.connection, views, run.batch_rows, run.now, is_whole=is_whole)

    def instants(self, run: Run) -> str:
        """SQL of the instants from which a version is in effect."""
        del run
        return model("backfill/effective_instants")

    def rebuild(self, run: Run, entities: str) -> Iterator[pa.RecordBatch]:
        """Compute all versions of the records again."""
        of_entities = f"from staging.records where record_id in (select entity_id from {entities})"
        run.connection.execute(f"create or replace view inserted as {of_entities}")
        run.connection.execute("create or replace view deleted as from staging.records limit 0")
        return self.rows(run, is_whole=False)

    def count_resting(
        self, connection: duckdb.DuckDBPyConnection, source_uri: str
    ) -> dict[str, int]:
        """Count the instants at which a version of the file is in effect."""
        return count_in_effect(connection, self.relation, source_uri)

    def of_request(self, versions: pl.DataFrame, home: Path | None) -> pl.DataFrame:
        """Compute versions by the kernel of a run."""
        del home
        return score(self.contract, self.kernel, versions)

    def explain(
        self,
        connection: duckdb.DuckDBPyConnection,
        entity: Mapping[str, str],
        at: datetime,
        limit: int,
        feature: str | None = None,
    ) -> Explained:
        """Compute the version in effect; values are null where there is none, or a tombstone."""
        del limit, feature
        in_effect = connection.sql(
            model("lineage/version_in_effect"), params={**entity, "at": at}
        ).pl()
        text = pl.when(~pl.col("is_tombstone")).then("text")
        written = pl.col("event_timestamp")
        versions = in_effect.with_columns(
            text=text,
            written_timestamp=written,
            event_timestamp=pl.lit(at),
            created_timestamp=pl.lit(at),
        )
        of_views = [name for name in self.contract.Config.metadata["reads"] if "." in name]
        versions = versions.with_columns(
            **{given_name(name): _newest(connection, name, entity, at) for name in of_views}
        )
        values = (
            score(self.contract, self.kernel, versions).select(self.features).to_dicts()
            if in_effect.height
            else []
        )
        return Explained(
            values[0] if values else dict.fromkeys(self.features),
            [record_behind(row) for row in in_effect.to_dicts()],
            in_effect.height,
        )


def count_in_effect(
    connection: duckdb.DuckDBPyConnection, relation: str, source_uri: str
) -> dict[str, int]:
    """Count the instants at which a version of a file is in effect, and the records."""
    connection.execute(f"create or replace view record_rows as from {relation}")
    (counts,) = (
        connection.sql(model("lineage/rows_in_effect"), params={"source_uri": source_uri})
        .pl()
        .to_dicts()
    )
    return dict(counts)


def _newest(
    connection: duckdb.DuckDBPyConnection, read: str, entity: Mapping[str, str], at: datetime
) -> pl.Series:
    view, _, name = read.partition(".")
    at_instant = (
        "where record_id = $record_id and event_timestamp <= $at "
        "order by event_timestamp desc, created_timestamp desc limit 1"
    )
    found: pl.DataFrame = connection.sql(
        f"select {quoted(name)} from features.{view} {at_instant}", params={**entity, "at": at}
    ).pl()
    return found.to_series()


def record_behind(version: Mapping[str, Any]) -> dict[str, Any]:
    """Show a version behind a value: its row and its times, and no text.

    >>> from collections import defaultdict
    >>> "text" in record_behind(defaultdict(str, record_id="a", text="a text"))
    False
    """
    shown = (
        "record_id",
        "event_timestamp",
        "known_timestamp",
        "is_positive",
        "source_uri",
        "row_number",
        "load_id",
    )
    return {**{name: version[name] for name in shown}, "windows": ["lifetime"], "inputs": {}}


def sql_view(declared: RecordSql, record_views: Mapping[str, View]) -> KernelView:
    """Make a view of SQL expressions over a record.

    Raises `DeclarationError` where one is wrong.

    >>> view = sql_view(RecordSql("record_shape", {"n_commas": "length(text) - 1"}), {})
    >>> view.relation, view.features
    ('features.record_shape', ['n_commas'])
    """
    inputs = Inputs(record_views)
    bound_to = {
        name: _bind(name, expression, inputs) for name, expression in declared.features.items()
    }
    references = {
        reference
        for expression in declared.features.values()
        for reference in inputs.references(expression)
    }
    reads = tuple(
        sorted({"text", *(".".join(reference) for reference in references)} - {"record_id"})
    )
    columns = {
        name: value_field(
            DTYPES[of.kind], declared.description or f"{declared.features[name]}.", of
        )
        for name, of in bound_to.items()
    }
    contract = record_contract(
        declared.name, declared.description, columns, reads=reads, online=declared.online
    )
    sql = {name: served(of) for name, of in bound_to.items()}
    contract.compute = staticmethod(partial(compute_sql, sql, reads))  # type: ignore[method-assign]
    reads_id = ("record_id",) in references
    return KernelView(contract, record_views, repr(sorted(sql.items())), reads_id=reads_id)


def _bind(name: str, expression: str, inputs: Inputs) -> Input:
    try:
        of = inputs.bind(expression)
    except DeclarationError as error:
        message = f"{name}: {error}"
        raise DeclarationError(message) from None
    if of.kind not in DTYPES:
        message = (
            f"{name}: {expression!r} is a {of.kind}, and a feature is one value; "
            "cast it, e.g. to_json(...)::varchar"
        )
        raise DeclarationError(message)
    return of
