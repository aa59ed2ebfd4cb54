"""`millrace sql`: ask a home questions, by a query, a file or a prompt."""

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from flows.commands import Instant, home_option, open_warehouse

if TYPE_CHECKING:
    import duckdb

ROWS_SHOWN = 40
ROWS_AT_ONCE = 10_000
HISTORY = Path("~/.millrace_sql_history")
# where a word ends that Tab completes; not at the dot of `staging.records`
WORD_ENDS = " \t\n,;()=<>'\"+-*/|"
AS_TEXT = {
    "blob": "coalesce(try(decode({0})), {0}::varchar)",
    **dict.fromkeys(("list", "array", "struct", "map", "union"), "to_json({0})"),
}
PROMPT_HELP = """\
  .tables             the relations, and how many rows they have
  .schema RELATION    its columns and their types
  .explain QUERY      how DuckDB would run a query
  .quit               leave; so does Ctrl-D
A query ends with a semicolon and may take several lines. Tab completes relations and columns."""


@click.command("sql")
@click.argument("query", required=False)
@click.option("--file", "path", type=click.Path(exists=True, dir_okay=False), help="Read a query.")
@click.option(
    "--format",
    "layout",
    type=click.Choice(["table", "csv", "json", "markdown", "parquet"]),
    default="table",
    show_default=True,
    help="How rows are written. A table shows the first and the last; all else has every row.",
)
@click.option(
    "--output", type=click.File("wb", lazy=True), metavar="FILE", help="Write to a file, not here."
)
@click.option("--at", type=Instant(), metavar="INSTANT", help="The tables as they were then.")
@click.option("--reveal", is_flag=True, help="Show texts, raw rows and addresses as they are.")
@home_option
def sql(
    query: str | None,
    path: str | None,
    layout: str,
    output: IO[bytes] | None,
    at: datetime | None,
    home: str | None,
    *,
    reveal: bool,
) -> None:
    """Run an SQL query on the tables of a home. Without a query, open a prompt.

    Every relation that `millrace status` lists is a table: staging.records, features.NAME,
    accounting.files and so on, each at one version until the end. The SQL is DuckDB's. Nothing
    can be written, and no other file can be read.

    \b
      millrace sql "select label, count(*) from staging.records group by all"
      millrace sql --file weekly.sql --format csv > weekly.csv
      millrace sql "from staging.records" --format parquet --output records.parquet
      millrace sql "select count(*) from staging.records" --at 2026-11-01
      millrace sql

    Texts are shown as redacted, raw rows by their length, and e-mail addresses in ids by a digest,
    unless you say --reveal.
    """
    from transforms.warehouse.queries import open_queries
    from transforms.warehouse.scratch import scratch_folder

    if query and path:
        message = "give a query or --file, not both"
        raise click.UsageError(message)
    if path:
        query = Path(path).read_text("utf-8")
    elif query is None and not sys.stdin.isatty():
        query = sys.stdin.read()
    warehouse = open_warehouse(home)
    with (
        scratch_folder(warehouse.settings.root) as scratch,
        open_queries(warehouse, scratch, at, reveal=reveal) as connection,
    ):
        if query is None:
            _prompt(connection)
        elif layout == "table" and output is None:
            _show(connection, query)
        else:
            _write(connection, query, layout, output or sys.stdout.buffer)


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Raise what DuckDB finds wrong with a query as an error for people."""
    import duckdb

    from transforms.errors import QueryError

    try:
        yield
    except duckdb.Error as error:
        raise QueryError(str(error)) from error


def _show(connection: "duckdb.DuckDBPyConnection", query: str) -> None:
    from transforms.warehouse.queries import check_query

    check_query(connection, query)
    width = shutil.get_terminal_size((120, 40)).columns
    with _in_one_line():
        connection.sql(query).show(max_rows=ROWS_SHOWN, max_width=width)


def _write(
    connection: "duckdb.DuckDBPyConnection", query: str, layout: str, file: IO[bytes]
) -> None:
    """Write all rows of a query, a batch in memory at a time."""
    from transforms.errors import QueryError
    from transforms.warehouse.queries import check_query

    if layout in {"table", "parquet"} and file.isatty():
        message = f"--format {layout} needs --output FILE, or a pipe"
        raise QueryError(message)
    check_query(connection, query)
    with _in_one_line():
        WRITERS[layout](connection.sql(query), file)


def _table(rows: "duckdb.DuckDBPyRelation", file: IO[bytes]) -> None:
    file.write(f"{rows}\n".encode())


def _csv(rows: "duckdb.DuckDBPyRelation", file: IO[bytes]) -> None:
    """Write nested columns as JSON; bytes as the text they are, else as DuckDB shows them."""
    import polars as pl

    from transforms.expressions import quoted

    columns = zip(map(quoted, rows.columns), rows.types, strict=True)
    texts = [
        f"{AS_TEXT[kind.id].format(name)} as {name}" for name, kind in columns if kind.id in AS_TEXT
    ]
    flat = rows.project(f"* replace ({', '.join(texts)})") if texts else rows
    reader = flat.to_arrow_reader(ROWS_AT_ONCE)
    pl.DataFrame(reader.schema.empty_table()).write_csv(file)
    for batch in reader:
        pl.DataFrame(batch).write_csv(file, include_header=False)


def _json(rows: "duckdb.DuckDBPyRelation", file: IO[bytes]) -> None:
    """Write a JSON array, a row a line."""
    from transforms.expressions import quoted

    names = ", ".join(f"{name} := {name}" for name in map(quoted, rows.columns))
    documents = rows.project(f"to_json(struct_pack({names})) as document")
    before = "["
    for batch in documents.to_arrow_reader(ROWS_AT_ONCE):
        for document in batch["document"].to_pylist():
            file.write(f"{before}\n{document}".encode())
            before = ","
    file.write(b"\n]\n" if before == "," else b"[]\n")


def _markdown(rows: "duckdb.DuckDBPyRelation", file: IO[bytes]) -> None:
    def line(values: "Iterable[str | None]") -> bytes:
        texts = ((value or "").replace("|", r"\|").replace("\n", " ") for value in values)
        return f"| {' | '.join(texts)} |\n".encode()

    file.write(line(rows.columns) + line(["---"] * len(rows.columns)))
    for batch in rows.project("columns(*)::varchar").to_arrow_reader(ROWS_AT_ONCE):
        file.writelines(map(line, zip(*(column.to_pylist() for column in batch), strict=True)))


def _parquet(rows: "duckdb.DuckDBPyRelation", file: IO[bytes]) -> None:
    import pyarrow.parquet as pq

    reader = rows.to_arrow_reader(ROWS_AT_ONCE)
    with pq.ParquetWriter(file, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)


WRITERS: "Mapping[str, Callable[[duckdb.DuckDBPyRelation, IO[bytes]], None]]" = {
    "table": _table,
    "csv": _csv,
    "json": _json,
    "markdown": _markdown,
    "parquet": _parquet,
}


def _prompt(connection: "duckdb.DuckDBPyConnection") -> None:
    """Read queries until the end of input; a failed one is reported and the prompt goes on."""
    from transforms.errors import MillraceError

    click.echo("DuckDB's SQL on a snapshot of the home, read only. .help lists the commands.")
    with _completed(connection):
        waiting = ""
        while True:
            try:
                line = input("   ...> " if waiting else "millrace> ")
            except EOFError:
                click.echo()
                return
            except KeyboardInterrupt:
                click.echo()
                waiting = ""
                continue
            if not waiting and line.strip() in {".quit", ".exit"}:
                return
            waiting = f"{waiting}{line}\n".lstrip()
            if not (waiting.startswith(".") or waiting.rstrip().endswith(";")):
                continue
            asked, waiting = waiting.strip(), ""
            try:
                _answer(connection, asked)
            except MillraceError as error:
                click.echo(f"millrace: {error}", err=True)
            except KeyboardInterrupt:
                click.echo("interrupted", err=True)


def _answer(connection: "duckdb.DuckDBPyConnection", asked: str) -> None:
    """Run a query, or a command of the prompt."""
    from transforms.warehouse.queries import check_query

    command, _, rest = asked.partition(" ")
    rest = rest.strip().rstrip(";")
    match command:
        case ".help":
            click.echo(PROMPT_HELP)
        case ".tables":
            counts = " union all ".join(
                f"select '{name}' as relation, count(*) as n_rows from {name}"
                for name in _relations(connection)
            )
            _show(connection, counts)
        case ".schema":
            _show(connection, f"describe {rest}" if rest else "show all tables")
        case ".explain":
            check_query(connection, rest)
            with _in_one_line():
                click.echo(connection.sql(rest).explain())
        case _ if command.startswith("."):
            click.echo(f"{command}: no such command\n{PROMPT_HELP}")
        case _:
            _show(connection, asked)


def _relations(connection: "duckdb.DuckDBPyConnection") -> list[str]:
    found = connection.execute(
        "select schema_name || '.' || view_name from duckdb_views() where not internal order by 1"
    ).fetchall()
    return [name for (name,) in found]


@contextmanager
def _completed(connection: "duckdb.DuckDBPyConnection") -> Iterator[None]:
    """Let Tab complete the names of the snapshot, and keep a history, where there is readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    columns = connection.execute("select distinct column_name from duckdb_columns()").fetchall()
    commands = [".tables", ".schema", ".explain", ".help", ".quit"]
    names = [*_relations(connection), *sorted(name for (name,) in columns), *commands]

    def complete(word: str, state: int) -> str | None:
        found = [name for name in names if name.startswith(word)]
        return found[state] if state < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(WORD_ENDS)
    readline.parse_and_bind("tab: complete")
    history = HISTORY.expanduser()
    with suppress(OSError):
        readline.read_history_file(history)
    try:
        yield
    finally:
        with suppress(OSError):
            readline.write_history_file(history)
