"""Databases, read by ADBC: the rows of a table or a query, as Arrow streams.

What one kind of database has of its own is a class here: how it is connected to, compares, and
tells the time. Rows become JSON objects, as those of a Parquet file do; docs/databases.md lists
what each type becomes. Where raw is with a database is `transforms.sources.pages`.
"""

import functools
import json
import os
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from transforms.errors import SourceError
from transforms.expressions import literal, quoted, unlike
from transforms.sources.numbers import finite_sql
from transforms.sources.source import DELETED_AT, DRIVERS, VARIABLE, Source

Value = str | int | float
Batches = Generator[Any, None, None]
COMMA = " || ',' || "
# the rows of a source are a subquery of this name
ROWS = "rows__"
# Arrow has an equal of these types of PostgreSQL; a value of any other one comes as its JSON
NATIVE = frozenset(
    "bool int2 int4 int8 float4 float8 numeric text varchar bpchar name json jsonb uuid "  # noqa: SIM905
    "bytea date time timestamp timestamptz".split()
)
INSTANTS = frozenset({"date", "timestamp", "timestamptz"})
# Arrow counts microseconds in 64 bits, which end in this year
BEYOND_ARROW = "294247-01-01"
SQLITE_BATCH_ROWS = 1 << 14
# classes of errors whose message is about names, the connection or the server, never about a value
TELLING = ("08", "28", "3D", "3F", "42", "53", "57")
CLOCK = """
select cast(least(
    clock_timestamp() - make_interval(secs => $1),
    (
        select min(xact_start) from pg_stat_activity
        where datname = current_database() and application_name <> 'millrace'
            and backend_type not in ('autovacuum worker', 'parallel worker', 'walsender')
    ),
    (
        select min(prepared) - make_interval(secs => $1) from pg_prepared_xacts
        where database = current_database()
    )
) as timestamptz) as before,
pg_has_role('pg_read_all_stats', 'usage') and not pg_is_in_recovery() as sees_all
"""


class Condition(NamedTuple):
    """A condition in SQL, and the values of its parameters."""

    sql: str
    values: Sequence[Any] = ()


class Before(NamedTuple):
    """Up to when rows are read: later ones may still have company to come; and what to know."""

    value: Any
    notice: str | None = None


class Standard:
    """What ADBC and SQL say of any database; not tried here with a server."""

    def __init__(self, driver: str) -> None:
        """Take the name of an ADBC driver."""
        self.driver = driver

    def connect(self, uri: str) -> Any:
        """Connect by the driver's package, or by what is installed for ADBC's driver manager."""
        if self.driver == "mysql":  # it has no package; `dbc install mysql`
            manager = import_module("adbc_driver_manager.dbapi")
            return manager.connect(driver="mysql", db_kwargs={"uri": uri})
        arguments = connection_of(self.driver, uri)
        return import_module(f"adbc_driver_{self.driver}.dbapi").connect(**arguments)

    def begin(self, cursor: Any) -> None:
        """Begin to read."""

    def quoted(self, name: str) -> str:
        """Quote a column's name."""
        return f"`{name}`" if self.driver in {"mysql", "bigquery"} else quoted(name)

    def selected(self, field: pa.Field) -> str:
        """Write what is read of a column."""
        return self.quoted(field.name)

    def before(self, _cursor: Any, lag: float) -> Before:
        """Find up to when rows are read, by the clock of this machine."""
        return Before(datetime.now(UTC) - timedelta(seconds=lag))

    def is_ripe(self, field: pa.Field, before: Any) -> Condition:
        """Compare a row's time with what `before` found; a column that is no time always passes."""
        if not (pa.types.is_timestamp(field.type) or pa.types.is_date(field.type)):
            return Condition("1 = 1")
        at = before if getattr(field.type, "tz", None) else before.replace(tzinfo=None)
        value = at.date() if pa.types.is_date(field.type) else at
        return Condition(f"{self.quoted(field.name)} < ?", [value])

    def has_no_place(self, field: pa.Field) -> str:
        """Write the condition under which no page would ever have a row."""
        return f"{self.quoted(field.name)} is null"

    def value(self, field: pa.Field, last: Value) -> Any:
        """Return a value of the cursor as its column has it.

        >>> Standard("mysql").value(pa.field("day", pa.date32()), "2026-01-15")
        datetime.date(2026, 1, 15)
        """
        return pa.array([last]).cast(field.type)[0].as_py()

    def is_after(self, fields: Sequence[pa.Field], last: Sequence[Value]) -> Condition:
        """Compare a row with the last one that was read, column by column."""
        name, value = self.quoted(fields[0].name), self.value(fields[0], last[0])
        if not fields[1:]:
            return Condition(f"{name} > ?", [value])
        rest = self.is_after(fields[1:], last[1:])
        return Condition(
            f"{name} >= ? and ({name} > ? or ({rest.sql}))", [value, value, *rest.values]
        )

    def run(self, cursor: Any, sql: str, values: Sequence[Any]) -> pa.RecordBatchReader:
        """Run a query; its rows come as a stream."""
        cursor.execute(sql, list(values) or None)
        return cursor.fetch_record_batch()


class Sqlite(Standard):
    """SQLite, which has one writer at a time and no type for times."""

    def begin(self, cursor: Any) -> None:
        """Let more rows decide the types of columns, which have none of their own."""
        cursor.adbc_statement.set_options(
            **{"adbc.sqlite.query.batch_rows": str(SQLITE_BATCH_ROWS)}
        )

    def value(self, _field: pa.Field, last: Value) -> Any:
        """Return a value of the cursor as it is: a column of an empty result has no type."""
        return last

    def before(self, _cursor: Any, lag: float) -> Before:
        """Find up to when rows are read, in seconds since 1970."""
        return Before(int(datetime.now(UTC).timestamp() - lag))

    def is_ripe(self, field: pa.Field, before: Any) -> Condition:
        """Compare times as SQLite reads them, of a text or of seconds; what is none passes."""
        return Condition(
            f"coalesce(unixepoch({self.quoted(field.name)}, 'auto') < ?, true)", [before]
        )


class Postgres(Standard):
    """PostgreSQL: rows come by COPY, which streams, and waits for transactions that are open."""

    def connect(self, uri: str) -> Any:
        """Connect under a name by which other readers know that this one writes nothing."""
        connection = super().connect(uri)
        with connection.cursor() as cursor:
            cursor.execute("select set_config('application_name', 'millrace', false)")
            cursor.fetchall()
        connection.commit()
        return connection

    def begin(self, cursor: Any) -> None:
        """Read only, with texts that do not depend on the server's settings."""
        cursor.execute("set transaction read only")
        cursor.execute(
            "select set_config('timezone', 'UTC', true), "
            "set_config('intervalstyle', 'postgres', true)"
        )
        cursor.fetchall()

    def selected(self, field: pa.Field) -> str:
        """Write what is read of a column, so that Arrow has an equal of it."""
        name, kind = quoted(field.name), _type_of(field)
        if kind in INSTANTS:
            is_within = f"{name} > '-infinity' and {name} < '{BEYOND_ARROW}'"
            return f"case when {is_within} then {name} end as {name}"
        return name if kind in NATIVE else f"to_jsonb({name}) as {name}"

    def before(self, cursor: Any, lag: float) -> Before:
        """Find up to when rows are read: older than the lag and than every open transaction."""
        cursor.execute(CLOCK, [lag])
        ((at, sees_all),) = cursor.fetchall()
        waits = datetime.now(UTC) - at - timedelta(seconds=lag)
        if not sees_all:
            return Before(
                at,
                "transactions of others cannot be seen, so rows of one that is open for longer "
                f"than {lag:g} s would be lost; grant pg_read_all_stats to the role, and read "
                "from the primary",
            )
        if waits > timedelta(minutes=5):
            return Before(
                at,
                f"a transaction is open since {at:%Y-%m-%d %H:%M:%S} UTC, and rows from then on "
                "wait for its end; pg_stat_activity shows whose it is",
            )
        return Before(at)

    def is_ripe(self, field: pa.Field, before: Any) -> Condition:
        """Compare times as the column's type has them: of a date, only days that are over."""
        if _type_of(field) not in INSTANTS:
            return Condition("true")
        return Condition(
            f"{quoted(field.name)} < {_setting('before', field)}", [("before", before)]
        )

    def has_no_place(self, field: pa.Field) -> str:
        """Write the condition; `infinity` is after all times."""
        name = quoted(field.name)
        is_endless = f" or {name} = '-infinity'" if _type_of(field) in INSTANTS else ""
        return f"{name} is null{is_endless}"

    def is_after(self, fields: Sequence[pa.Field], last: Sequence[Value]) -> Condition:
        """Compare a row with the last one that was read, as an index does."""
        if other := [field.name for field in fields if _type_of(field) not in NATIVE]:
            message = f"cursor: {other[0]!r} has a type that pages cannot go by; cast it to text"
            raise SourceError(message)
        names = ", ".join(quoted(field.name) for field in fields)
        settings = {f"after_{number}": field for number, field in enumerate(fields)}
        values = ", ".join(_setting(name, field) for name, field in settings.items())
        return Condition(f"({names}) > ({values})", list(zip(settings, last, strict=True)))

    def run(self, cursor: Any, sql: str, values: Sequence[Any]) -> pa.RecordBatchReader:
        """Run a query by COPY, which takes no parameters but reads settings."""
        for name, value in values:
            cursor.execute("select set_config($1, $2, true)", [f"millrace.{name}", str(value)])
            cursor.fetchall()
        cursor.execute(sql)
        return cursor.fetch_record_batch()


def _type_of(field: pa.Field) -> str:
    """Return the name of a column's type in PostgreSQL."""
    return bytes((field.metadata or {}).get(b"POSTGRESQL:type", b"")).decode()


def _setting(name: str, field: pa.Field) -> str:
    return f"cast(current_setting('millrace.{name}') as {_type_of(field)})"


def database_of(driver: str) -> Standard:
    """Choose what knows a driver's database.

    >>> database_of("sqlite").driver
    'sqlite'
    """
    known: dict[str, type[Standard]] = {"postgresql": Postgres, "sqlite": Sqlite}
    return known.get(driver, Standard)(driver)


def connection_of(driver: str, uri: str) -> dict[str, Any]:
    """Return what a driver's `connect` is called with.

    >>> connection_of("sqlite", "sqlite:///srv/notes.db")
    {'uri': 'file:/srv/notes.db?mode=ro'}
    >>> connection_of("snowflake", "snowflake://ann:pw@account/shop")
    {'uri': 'ann:pw@account/shop'}
    """
    parts = urlsplit(uri)
    if driver == "sqlite":
        return {"uri": f"file:{quote(parts.path)}?mode=ro"}
    if driver == "snowflake":
        return {"uri": uri.removeprefix("snowflake://")}
    if driver == "bigquery":
        prefix = "adbc.bigquery.sql."
        names = {f"{prefix}project_id": parts.netloc, f"{prefix}dataset_id": parts.path.strip("/")}
        return {"db_kwargs": {name: value for name, value in names.items() if value}}
    if driver == "flightsql" and parts.username:
        host = parts.netloc.rpartition("@")[2]
        login = {"username": parts.username, "password": parts.password or ""}
        return {"uri": f"{parts.scheme}://{host}{parts.path}", "db_kwargs": login}
    return {"uri": uri}


class Database:
    """The rows of one source, while it is connected."""

    def __init__(self, source: Source, kind: Standard, connection: Any, place: str) -> None:
        """Look at the columns of the source's rows; raises `SourceError` if one is missing."""
        self.source, self.place = source, place
        self._kind, self._connection = kind, connection
        self._rows = (
            f"({source.query.strip().rstrip(';')}\n)" if source.query else source.table or ""
        )
        with self._reading() as cursor:
            sql = f"select * from {self._rows} as {ROWS} where 1 = 0"
            self.schema = kind.run(cursor, sql, []).schema
        names = _by_name(self.schema, source)
        self._cursor = [names[name] for name in source.cursor]
        self._key = [names[name] for name in source.compared_by]

    def before(self) -> Before:
        """Find up to when rows are read; raises `SourceError` where that cannot be said."""
        if not self._cursor:
            return Before(None)
        first = self._cursor[0]
        if isinstance(self._kind, Postgres) and _type_of(first) not in INSTANTS and self.source.lag:
            message = (
                f"cursor: {first.name!r} is no time, so rows of a transaction that is still open "
                "would be passed over; name a time first, or say `lag: 0` if rows appear in order"
            )
            raise SourceError(message)
        with self._reading() as cursor:
            return self._kind.before(cursor, self.source.lag)

    def count(self, before: Any, after: Sequence[Value] | None, up_to: int) -> int:
        """Count the rows that are there to read."""
        where = self._where(before, after)
        sql = f"select 1 as one from {self._rows} as {ROWS} where {where.sql} limit {up_to:d}"
        sql = f"select count(*) as n_rows from ({sql}) as counted"
        return self._number(sql, where.values)

    def refuse_without_place(self) -> None:
        """Raise `SourceError` if there are rows that no page would have."""
        condition = " or ".join(map(self._kind.has_no_place, self._cursor))
        sql = f"select 1 as one from {self._rows} as {ROWS} where {condition} limit 1"
        if self._number(f"select count(*) as n_rows from ({sql}) as counted", []):
            names = ", ".join(field.name for field in self._cursor)
            message = (
                f"cursor: there are rows without {names}, which no page would have; give them a "
                "value, or write a `query` that does, e.g. with coalesce(updated_at, created_at)"
            )
            raise SourceError(message)

    def page(self, before: Any, after: Sequence[Value] | None, n_rows: int) -> "Page":
        """Read the next rows by the cursor: all that are ripe, `n_rows` at most."""
        where = self._where(before, after)
        # of the rows, not of what is selected of them: only the former is in an index
        order = ", ".join(f"{ROWS}.{self._kind.quoted(field.name)}" for field in self._cursor)
        sql = (
            f"select {self._columns(self.schema)} from {self._rows} as {ROWS} "
            f"where {where.sql} order by {order} limit {n_rows:d}"
        )
        return Page(lambda: self._stream(sql, where.values), self._cursor)

    def whole(self, *, only_key: bool) -> "Page":
        """Read all rows, in no order, or only the columns that identify them."""
        fields = self._key if only_key else self.schema
        return Page(
            lambda: self._stream(f"select {self._columns(fields)} from {self._rows} as {ROWS}", [])
        )

    def _columns(self, fields: Sequence[pa.Field] | pa.Schema) -> str:
        return ", ".join(map(self._kind.selected, fields))

    def _where(self, before: Any, after: Sequence[Value] | None) -> Condition:
        if not self._cursor:
            return Condition("1 = 1")
        ripe = self._kind.is_ripe(self._cursor[0], before)
        if after is None:
            return ripe
        later = self._kind.is_after(self._cursor, after)
        return Condition(f"{ripe.sql} and {later.sql}", [*ripe.values, *later.values])

    def _number(self, sql: str, values: Sequence[Any]) -> int:
        (column,) = pa.Table.from_batches(self._stream(sql, values)).columns
        return int(column[0].as_py())

    def _stream(self, sql: str, values: Sequence[Any]) -> Batches:
        with self._reading() as cursor:
            batches = self._kind.run(cursor, sql, values)
            try:
                yield from batches
            except (OSError, pa.ArrowException) as error:
                # what a driver quotes of a row comes after such a character
                reason = re.split(r"[\"'(=]|: ", str(error).partition("ERROR:")[2] or str(error))[0]
                message = (
                    f"reading stopped ({reason.strip()}); run the query there to see at which row, "
                    "and cast the column in a `query`"
                )
                raise SourceError(message) from None

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        """Open a transaction, and end it."""
        with self._connection.cursor() as cursor:
            try:
                self._kind.begin(cursor)
                yield cursor
            finally:
                cursor.close()  # before its transaction: a stream may not be at its end
                self._connection.rollback()


class Page:
    """Rows on their way to raw, as JSON objects; `n_rows` and `last` are known at its end."""

    def __init__(self, stream: Callable[[], Batches], cursor: Sequence[pa.Field] = ()) -> None:
        """Take what reads it, and the columns by which it is in order."""
        self.n_rows = 0
        self.last: list[Value] | None = None
        self._stream, self._cursor = stream, [field.name for field in cursor]

    def payloads(self, nulls: Sequence[str] = ()) -> Batches:
        """Yield its rows as JSON objects, with more fields that are null at their end.

        Raises `SourceError` if rows share the columns of the cursor.
        """
        with duckdb.connect() as connection:
            connection.execute("set timezone = 'UTC'")
            with closing(self._stream()) as batches:
                for batch in batches:
                    if batch.num_rows:
                        self._note(batch)
                        yield payloads_of(connection, batch, nulls)

    def _note(self, batch: pa.RecordBatch) -> None:
        self.n_rows += batch.num_rows
        if not self._cursor:
            return
        columns = [_plain(batch.column(name)) for name in self._cursor]
        same = [pc.equal(column[1:], column[:-1]) for column in columns]
        is_repeated = pc.any(functools.reduce(pc.and_, same)).as_py()
        if is_repeated or _values(columns, 0) == self.last:
            message = (
                f"cursor: rows share {', '.join(self._cursor)}, so a page that ends between them "
                "would lose some; name the primary key last, e.g. [updated_at, id]"
            )
            raise SourceError(message)
        self.last = _values(columns, -1)


@contextmanager
def connected(source: Source) -> Iterator[Database]:
    """Connect to the database of a source, until the end of the block.

    Raises `SourceError`, which never has a value of the environment or of a row.
    """
    uri, secrets = expanded(source.uri)
    driver = DRIVERS.get(uri.partition("://")[0])
    if driver is None:
        message = f"{source.uri}: is no database; it begins with {', '.join(DRIVERS)}"
        raise SourceError(message)
    kind = database_of(driver)
    try:
        connection = kind.connect(uri)
    except ImportError:
        message = f"{source.uri}: to read it, install its driver: {_package_of(driver)}"
        raise SourceError(message) from None
    except Exception as error:  # noqa: BLE001 - each driver has errors of its own
        raise _refusal(source, error, secrets) from None
    try:
        yield Database(source, kind, connection, place_of(source, uri))
    except SourceError as error:
        message = f"{source.name}: {error}"
        raise SourceError(message) from None
    except Exception as error:
        if not hasattr(error, "status_code"):
            raise
        raise _refusal(source, error, secrets) from None
    finally:
        connection.close()


def expanded(uri: str) -> tuple[str, list[str]]:
    """Put variables of the environment into a `uri`; return their values too.

    Where a URI has rules for what it may contain, a value is escaped.

    >>> os.environ["SHOP_PASSWORD"] = "p@ss"
    >>> expanded("postgresql://ann:${SHOP_PASSWORD}@host/shop")
    ('postgresql://ann:p%40ss@host/shop', ['p@ss', 'p%40ss'])
    """
    values: list[str] = []

    def value(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            message = f"{uri}: {found[0]} is not set in the environment"
            raise SourceError(message)
        is_login = "@" in uri[found.end() :] or "?" in uri[: found.start()]
        plain = os.environ[found[1]]
        escaped = quote(plain, safe="") if is_login else plain
        values.extend(dict.fromkeys([plain, escaped]))
        return escaped

    return VARIABLE.sub(value, uri), values


def place_of(source: Source, uri: str) -> str:
    """Say where rows come from, without who asks, as raw does.

    >>> table = Source.model_construct(table="tickets")
    >>> place_of(table, "postgresql://ann:secret@host:5432/shop?sslmode=require")
    'postgresql://host:5432/shop/tickets'
    """
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}/{source.table or source.name}"


def payloads_of(
    connection: duckdb.DuckDBPyConnection, batch: pa.RecordBatch, nulls: Sequence[str] = ()
) -> pa.Array:
    """Write rows as JSON objects, with more fields that are null at their end.

    >>> batch = pa.record_batch({"id": [1], "text": ['say "no"'], "ratio": [float("nan")]})
    >>> payloads_of(duckdb.connect(), batch, ["more"])[0].as_py().decode()
    '{"id":1,"text":"say \\\\"no\\\\"","ratio":null,"more":null}'
    """
    rows = pa.RecordBatch.from_arrays(list(map(_stored, batch.columns)), names=batch.schema.names)
    written = [_written(field.name) for field in batch.schema if _is_json(field.type)]
    plain = [field for field in batch.schema if not _is_json(field.type)]
    values = {field.name: quoted(field.name) for field in plain} | dict.fromkeys(nulls, "null")
    struct = ", ".join(f"{quoted(name)}: {value}" for name, value in values.items())
    rest = unlike(batch.schema.names)
    others = connection.from_arrow(rows).select(f"*, to_json({{{struct}}})::varchar as {rest}")
    is_finite = all(_is_finite(field.type) for field in plain)
    payload = f"encode({rest if is_finite else finite_sql(rest)})"
    if written:
        begun = f"{literal('{')} || {COMMA.join(written)}"
        payload = (
            f"encode({begun} || ',') || {payload}[2:]" if values else f"encode({begun} || '}}')"
        )
    payloads = others.select(f"{payload} as payload").to_arrow_table()
    return payloads.column("payload").cast(pa.binary()).combine_chunks()


def _written(name: str) -> str:
    """Compose SQL for a field whose value is the text of a JSON value, or of no finite number."""
    is_finite = f"{quoted(name)} not in ('nan', 'inf', '-inf')"
    value = f"coalesce(case when {is_finite} then {quoted(name)} end, 'null')"
    return f"{literal(json.dumps(name, ensure_ascii=False) + ':')} || {value}"


def _stored(column: pa.Array) -> pa.Array:
    """Return a column as Arrow stores it, where it has the text of a JSON value."""
    return column.storage if _is_json(column.type) else column


def _is_json(kind: pa.DataType) -> bool:
    """Whether Arrow has the text of a JSON value: a JSON document, or PostgreSQL's NUMERIC."""
    return isinstance(kind, pa.BaseExtensionType) and not isinstance(kind, pa.UuidType)


def _is_finite(kind: pa.DataType) -> bool:
    """Whether a type has neither NaN nor infinities."""
    tests = (pa.types.is_integer, pa.types.is_string, pa.types.is_temporal, pa.types.is_boolean)
    is_document = isinstance(kind, pa.UuidType | pa.JsonType)
    return is_document or any(test(kind) for test in tests)


def _plain(column: pa.Array) -> pa.Array:
    """Return a column of a cursor in a type that compares and has a text."""
    if isinstance(column.type, pa.UuidType):
        return pa.array([str(value) for value in column.to_pylist()], pa.string())
    return _stored(column)


def _values(columns: Sequence[pa.Array], row: int) -> list[Value]:
    """Write a row of a cursor's columns: numbers as they are, all else as text."""
    return [
        column[row].as_py()
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        else column[row].cast(pa.string()).as_py()
        for column in columns
    ]


def _by_name(schema: pa.Schema, source: Source) -> dict[str, pa.Field]:
    """Look fields up by name; raises `SourceError` if one is missing, or cannot be told apart."""
    lower = [name.lower() for name in schema.names]
    if len(set(lower)) < len(lower) or "" in lower:
        message = (
            "columns without a name, or whose names differ by case only; rename them in a `query`"
        )
        raise SourceError(message)
    for name in (*source.cursor, *source.compared_by):
        if name not in schema.names:
            message = f"cursor: there is no column {name!r}; there are {', '.join(schema.names)}"
            raise SourceError(message)
    if DELETED_AT in lower:
        message = f"a column is called {DELETED_AT}, as millrace calls its own; rename it"
        raise SourceError(message)
    return {field.name: field for field in schema}


def _refusal(source: Source, error: Exception, secrets: Sequence[str]) -> SourceError:
    """Say why a database does not answer, without what a driver might quote of rows or secrets."""
    state = str(getattr(error, "sqlstate", None) or "")
    reason = str(error).partition("ERROR:")[2] if state else str(error)
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    if state and not state.startswith(TELLING):
        reason = f"SQLSTATE {state}, while rows are read; run the query there to see the value"
    for secret in (*secrets, os.environ.get("PGPASSWORD", "")):
        reason = reason.replace(secret, "***") if secret else reason
    fix = "" if state else "; check its address, and whether it runs and lets you in"
    return SourceError(f"{source.name}: {source.uri}: cannot be read ({reason}){fix}")


def _package_of(driver: str) -> str:
    if driver == "mysql":
        return "pip install adbc-driver-manager, and `dbc install mysql`"
    extra = {"postgresql": "postgres-source", "sqlite": "sqlite-source"}.get(driver)
    return f"pip install 'millrace[{extra}]'" if extra else f"pip install adbc-driver-{driver}"
