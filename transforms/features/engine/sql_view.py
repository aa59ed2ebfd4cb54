"""Views of a user's own SQL.

Nothing says what a new record changes in them, so each run computes all rows and publishes those
that differ.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa

from transforms.errors import DeclarationError, GateError
from transforms.expressions import Query, dotted_references, quoted, read_query, sealed
from transforms.features.aggregates import DTYPES, Input
from transforms.features.contracts import ANNOTATIONS, entity_contract, value_field
from transforms.features.declare import SqlView
from transforms.features.engine.leakage import known_relations, refuse_leakage
from transforms.features.engine.queries import differs, query_rows, read_relations, served_columns
from transforms.features.engine.record import record_behind
from transforms.features.fingerprint import digest
from transforms.features.inputs import Inputs, kind_of_type, versions_schema
from transforms.features.joined import EFFECTIVE, joined
from transforms.features.rows import view_batches
from transforms.features.view import Explained, Run, View
from transforms.schemas.base import Contract
from transforms.schemas.staging import StagedRecord
from transforms.sql import model

COMPUTED_IN = ("transforms.features.engine.queries",)
INSTANT = "TIMESTAMP WITH TIME ZONE"


class QueryView(View):
    """A declared SQL view as a view.

    Its values may depend on any record, so all are recomputed where one is deleted.
    """

    is_rebuilt_whole = True

    def __init__(
        self, declaration: SqlView, record_views: Mapping[str, View], folder: Path
    ) -> None:
        """Read and bind the query, which may be in a file of the folder.

        Raises `DeclarationError` where it is wrong.
        """
        self.entity, self.online = declaration.entity, declaration.online
        self._record_views = dict(record_views)
        self._query = _read(declaration.sql, folder, frozenset({"versions", *record_views}))
        self._keys = _key_references(declaration, record_views)
        self._features = self._bind()
        if unknown := sorted(set(declaration.descriptions) - set(self._features)):
            message = (
                f"descriptions has {', '.join(unknown)}, which the SQL does not give; "
                f"it gives {', '.join(self._features)}"
            )
            raise DeclarationError(message)
        columns = {
            name: value_field(
                _dtype(name, of),
                declaration.descriptions.get(name, f"{name}, as the view's SQL gives it."),
                of,
            )
            for name, of in self._features.items()
        }
        self.contract = entity_contract(
            declaration.name, declaration.description, declaration.entity, columns
        )
        self._rows = partial(
            query_rows, self._query.sql, entity=self.entity, features=self._features
        )
        self._table = f"computed_{declaration.name}"

    @property
    def _read_views(self) -> dict[str, type[Contract]]:
        return {
            name: self._record_views[name].contract
            for name in sorted(self._query.reads - {"versions"})
        }

    @property
    def reads(self) -> tuple[str, ...]:
        """The record views that the query or the entity's key reads."""
        return tuple(sorted({*self._read_views, *(view for view, *rest in self._keys if rest)}))

    def _bind(self) -> dict[str, Input]:
        """Find the features that the query returns, by name.

        Raises `DeclarationError` where it lacks a column or has one too many.
        """
        found = _described(
            self._query.sql,
            {
                "versions": versions_schema(),
                **{name: _schema(it) for name, it in self._read_views.items()},
            },
        )
        for name, typed in [
            *((key, "VARCHAR") for key in self.entity.columns),
            ("event_timestamp", INSTANT),
        ]:
            if found.pop(name, None) != typed:
                wanted = "an instant with time zone" if typed == INSTANT else "text"
                message = f"the SQL must give {name} as {wanted}; it gives {found}"
                raise DeclarationError(message)
        if not found:
            keys = ", ".join(self.entity.columns)
            message = f"the SQL gives no feature, only {keys} and event_timestamp"
            raise DeclarationError(message)
        return {name: _input(name, typed) for name, typed in found.items()}

    def digest(self) -> int:
        """Digest the query as it is parsed, the engine, and the record views that are read."""
        return digest(
            self.contract,
            COMPUTED_IN,
            self._query.tree,
            (self._record_views[name].digest() for name in self._read_views),
        )

    def rows(self, run: Run, *, is_whole: bool) -> Iterator[pa.RecordBatch]:
        """Compute all rows; return those that are new or differ from what is published."""
        self._compute(run, is_tested=True)
        return self._batches(
            run,
            f"select *, true as is_new from {self._table}"
            if is_whole
            else self._changed(run, "true"),
        )

    def rebuild(self, run: Run, entities: str) -> Iterator[pa.RecordBatch]:
        """Compute all rows; return those of the entities that are new or differ."""
        self._compute(run, is_tested=True)
        return self._batches(
            run,
            self._changed(
                run, f"{self.entity.id_of_columns} in (select entity_id from {entities})"
            ),
        )

    def instants(self, run: Run) -> str:
        """SQL of the instants of the rows that the query returns."""
        self._compute(run, is_tested=False)
        return (
            f"select {self.entity.id_of_columns} as entity_id, "
            f"epoch_us(event_timestamp) as instant_us from {self._table}"
        )

    def _compute(self, run: Run, *, is_tested: bool) -> None:
        """Create a table of all that the query returns, and test the query, once in a run."""
        relations = read_relations(self._read_views)
        with self._said_in_one_line():
            if self._table not in run.tables:
                run.connection.execute(
                    f"create or replace table {self._table} as {self._rows(relations)}"
                )
                self._refuse_ambiguous(run.connection)
                run.tables.add(self._table)
            tested = f"{self._table} tested"
            if is_tested and tested not in run.tables:
                seed = run.warehouse.version(StagedRecord.relation())
                refuse_leakage(
                    run.connection, self.contract, self.entity, relations, self._rows, seed
                )
                run.tables.add(tested)

    def _refuse_ambiguous(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Refuse rows without an instant, and several rows of one entity and instant."""
        key = ", ".join(map(quoted, [*self.entity.columns, "event_timestamp"]))
        groups = (
            f"select event_timestamp, count(*) as n from {self._table} "
            f"group by {key} having count(*) > 1 or event_timestamp is null"
        )
        counted = (
            "count(*) filter (event_timestamp is not null), "
            "coalesce(sum(n) filter (event_timestamp is null), 0)"
        )
        ((n_twice, n_never),) = connection.sql(f"select {counted} from ({groups})").fetchall()
        if n_never:
            message = (
                f"{self.relation}: {n_never} rows have no event_timestamp; nothing was committed. "
                "Leave them out, or give them an instant"
            )
            raise GateError(message)
        if n_twice:
            message = (
                f"{self.relation}: {n_twice} times there are several rows of the same {key}; "
                "nothing was committed. "
                "Keep one of them, e.g. with group by, or with qualify row_number() over (...) = 1"
            )
            raise GateError(message)

    def _changed(self, run: Run, of_entities: str) -> str:
        """SQL of the rows that are new or differ.

        A published instant that no longer has a row gets the values of the row before it.
        """
        key = ", ".join(map(quoted, self.entity.columns))
        rows, newest = f"select * from {self._table} where {of_entities}", self._newest(of_entities)
        values = ", ".join(f"rows.{quoted(name)}" for name in self._features)
        on = " and ".join(
            f"removed.{quoted(name)} = rows.{quoted(name)}" for name in self.entity.columns
        )
        del run
        return f"""
            with rows as ({rows}),
            published as ({newest}),
            removed as (
                select {key}, event_timestamp
                from published anti join rows using ({key}, event_timestamp)
            ),
            corrected as (
                select removed.*, {values} from removed
                asof left join rows on {on} and removed.event_timestamp >= rows.event_timestamp
            ),
            wanted as (select * from rows union all by name select * from corrected)
            select wanted.*, published.event_timestamp is null as is_new
            from wanted left join published using ({key}, event_timestamp)
            where
                published.event_timestamp is null
                or {differs(self.contract, "wanted", "published")}
        """

    def _newest(self, of_entities: str) -> str:
        key = ", ".join(map(quoted, [*self.entity.columns, "event_timestamp"]))
        order = f"row_number() over (partition by {key} order by created_timestamp desc) = 1"
        rows = f"select * exclude (created_timestamp) from {self.relation} where {of_entities}"
        return f"{rows} qualify {order}"

    def _batches(self, run: Run, sql: str) -> Iterator[pa.RecordBatch]:
        for batch in run.connection.sql(sql).to_arrow_reader(run.batch_rows):
            created = pa.repeat(pa.scalar(run.now, pa.timestamp("us", "UTC")), batch.num_rows)
            yield from view_batches(
                self.contract, pa.table(batch).append_column("created_timestamp", created)
            )

    @contextmanager
    def _said_in_one_line(self) -> Iterator[None]:
        """Report an error of DuckDB in one line, for its own message on a value shows the value."""
        try:
            yield
        except (duckdb.DataError, duckdb.InvalidInputException) as error:
            message = (
                f"{self.relation}: the SQL fails on some record ({type(error).__name__}); "
                "nothing was committed. "
                "Handle such values, e.g. with try_cast(...), or leave them out with where"
            )
            raise GateError(message) from None

    def rests_on(
        self, connection: duckdb.DuckDBPyConnection, files: list[str], entities: str
    ) -> list[str]:
        """List all files: a value may depend on any record."""
        del connection, entities
        return files

    def count_resting(
        self, connection: duckdb.DuckDBPyConnection, source_uri: str
    ) -> dict[str, int]:
        """Count the rows of the entities that a version of the file names, once it is in effect."""
        named = f"""
            select entity_id, min(effective_timestamp) as first from ({self._named(EFFECTIVE)})
            where source_uri = $source_uri group by entity_id
        """
        rows = (
            f"select distinct {self.entity.id_of_columns} as entity_id, event_timestamp "
            f"from {self.relation}"
        )
        counted = f"""
            select count(*) as n_rows, count(distinct entity_id) as n_entities
            from ({rows}) as rows inner join ({named}) as named using (entity_id)
            where rows.event_timestamp > named.first
        """
        counts: list[dict[str, int]] = (
            connection.sql(counted, params={"source_uri": source_uri}).pl().to_dicts()
        )
        return counts[0]

    def _named(self, versions: str) -> str:
        """SQL of versions with the entities, as `entity_id`, that they name."""
        return (
            f"select records.*, {self.entity.row_sql} as entity_id "
            f"from {joined(versions, self.entity.references)}"
        )

    def explain(
        self,
        connection: duckdb.DuckDBPyConnection,
        entity: Mapping[str, str],
        at: datetime,
        limit: int,
        feature: str | None = None,
    ) -> Explained:
        """Run the query over what was known at the instant, and take the entity's newest row.

        The records behind it are all that name the entity.
        """
        del feature
        known = known_relations(connection, read_relations(self._read_views), at)
        of_entity = " and ".join(f"{quoted(column)} = ${column}" for column in entity)
        newest = f"{of_entity} and event_timestamp <= $at order by event_timestamp desc limit 1"
        with self._said_in_one_line():
            found = (
                connection.sql(
                    f"select * from ({self._rows(known)}) where {newest}",
                    params={**entity, "at": at},
                )
                .pl()
                .to_dicts()
            )
        values = found[0] if found else {}
        behind = self._behind(connection, entity, at).to_dicts()
        return Explained(
            {name: values.get(name) for name in self._features},
            [record_behind(row) for row in behind[:limit]],
            len(behind),
        )

    def _behind(
        self, connection: duckdb.DuckDBPyConnection, entity: Mapping[str, str], at: datetime
    ) -> pl.DataFrame:
        """List the versions in effect at an instant that name the entity, the newest first."""
        connection.execute("set variable instant = $at", {"at": at})
        connection.execute("create or replace view traced_versions as from staging.records")
        ids = (
            ["entity_id"]
            if len(entity) == 1
            else [f"entity_id.{quoted(column)}" for column in entity]
        )
        is_named = " and ".join(f"{of} = ${column}" for of, column in zip(ids, entity, strict=True))
        known = self._named(f"({model('lineage/known_versions')})")
        naming = (
            f"select * from ({known}) where {is_named} order by known_timestamp desc, record_id"
        )
        found: pl.DataFrame = connection.sql(naming, params=dict(entity)).pl()
        return found


def _read(sql: str, folder: Path, relations: frozenset[str]) -> Query:
    text = sql.strip()
    if text.endswith(".sql") and len(text.split()) == 1:
        try:
            text = (folder / text).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            message = (
                f"{text}: cannot be read as text ({type(error).__name__}); "
                "it must be a file beside the declaration"
            )
            raise DeclarationError(message) from None
    try:
        return read_query(text, relations)
    except ValueError as error:
        message = f"the SQL {_first_line(error)}"
        raise DeclarationError(message) from None


def _key_references(declaration: SqlView, record_views: Mapping[str, View]) -> set[tuple[str, ...]]:
    """List what the entity's key reads of a record; it finds the records a value depends on."""
    inputs = Inputs(record_views, is_whole=True)
    for key in declaration.entity.keys.values():
        inputs.bind(key)
    return {
        reference
        for key in declaration.entity.keys.values()
        for reference in dotted_references(key)
    }


def _described(query: str, relations: Mapping[str, pa.Schema]) -> dict[str, str]:
    """Find the types of what a query returns, by column."""
    with sealed() as connection:
        for name, schema in relations.items():
            connection.register(name, schema.empty_table())
        try:
            found = connection.execute(f"describe select * from ({query}\n)").fetchall()
        except duckdb.Error as error:
            message = f"the SQL cannot be bound: {_first_line(error)}"
            raise DeclarationError(message) from None
    return {name: typed for name, typed, *_ in found}


def _schema(contract: type[Contract]) -> pa.Schema:
    features = [contract.arrow_schema().field(name) for name in served_columns(contract)]
    return pa.schema(
        [
            pa.field("record_id", pa.string()),
            pa.field("effective_from", pa.timestamp("us", "UTC")),
            *features,
        ]
    )


def _input(name: str, typed: str) -> Input:
    try:
        kind, is_list = kind_of_type(typed)
    except ValueError as error:
        message = f"{name} {error}"
        raise DeclarationError(message) from None
    if not name.isidentifier() or name in {"created_timestamp", "is_new"}:
        message = f"{name!r} cannot be the name of a feature; say ... as another_name"
        raise DeclarationError(message)
    return Input("", f"list of {kind}" if is_list else kind)


def _dtype(name: str, of: Input) -> pl.DataType:
    kind = of.kind.removeprefix("list of ")
    dtype = DTYPES[kind] if kind == of.kind else pl.List(DTYPES[kind])
    if dtype not in ANNOTATIONS:
        message = (
            f"{name} is a {of.kind}, which cannot be a feature; cast its items, e.g. to varchar[]"
        )
        raise DeclarationError(message)
    return dtype


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
