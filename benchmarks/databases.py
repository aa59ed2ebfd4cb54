"""Rows of a database to raw, beside the same rows by plain ADBC to Parquet, in one run."""

import argparse
import os
import shlex
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from harness import Goal, Measured, clock, goal_table, in_fresh_process, machine, say, table, write
from pipeline import LIBRARIES, positive
from servers import Address, postgres_server

CHANGED = 1_000
ABOUT = """measure how quickly rows of PostgreSQL and SQLite come to raw

A PostgreSQL of its own is started, with a table of records of 320 characters. The data lie in a
temp folder (TMPDIR says where; 2 GB for a million rows) that is removed at the end.
"""
EXAMPLES = """examples:
  benchmarks/databases.py                             a million rows, a few minutes
  benchmarks/databases.py --write docs/benchmarks.md  on a quiet machine

CPU seconds are those of the reading process: the server's are not among them.
"""
TABLE = (
    "create table records as select n as id, 'u' || n % 1000 as author, '2026-01-01'::timestamptz "
    "+ n * interval '1 s' as updated_at, repeat(md5(n::text), 10) as text "
    "from generate_series(1, {rows}) n"
)
SQLITE_TABLE = (
    "insert into records with recursive n(id) as (select 1 union all select id + 1 from n where "
    "id < {rows}) select id, 'u' || id % 1000, datetime(1767225600 + id, 'unixepoch'), "
    "hex(randomblob(160)) from n"
)
SOURCE = """
name: records
uri: {uri}
table: records
cursor: [updated_at, id]
known: {{column: updated_at}}
record: {{record_id: id, author_id: author, event_timestamp: updated_at, text: text}}
"""
CHANGE = (
    "update records set text = 'changed', updated_at = now() - interval '2 min' "
    f"where id <= {CHANGED}"
)


def main() -> int:
    arguments = parse_arguments()
    load = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(prefix="millrace-bench-") as folder,
        postgres_server() as address,
    ):
        report = measure(Path(folder), address, arguments.rows, load)
    print(report)
    if arguments.write:
        write(arguments.write, "databases", report)
    return 0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=ABOUT, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=positive, default=1_000_000, metavar="N", help="(1,000,000)")
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="put the table into this Markdown page, e.g. docs/benchmarks.md",
    )
    return parser.parse_args()


def measure(folder: Path, address: Address, n_rows: int, load: float) -> str:
    """Make the tables, read them both ways, and tell what was measured as Markdown."""
    uri = f"postgresql://postgres@{address.host}:{address.port}/postgres"
    file = f"sqlite://{folder / 'records.db'}"
    say("making the tables")
    run_sql(uri, TABLE.format(rows=n_rows))
    run_sql(uri, "create index on records (updated_at, id); analyze records")
    make_sqlite(folder / "records.db", n_rows)
    found: dict[str, Measured] = {}
    for name, place in (("postgres", uri), ("sqlite", file)):
        home = folder / name
        home.mkdir()
        (home / "source.yaml").write_text(SOURCE.format(uri=place), "utf-8")
        for case in (plain, to_raw, nothing):
            say(f"{name}: {case.__name__}")
            found[f"{name} {case.__name__}"] = in_fresh_process(case, home, place)
    run_sql(uri, CHANGE)
    found["postgres changed"] = in_fresh_process(changed, folder / "postgres", uri)
    return describe(found, n_rows, load)


def run_sql(uri: str, sql: str) -> None:
    import psycopg

    with psycopg.connect(uri, autocommit=True) as connection:
        for statement in sql.split(";"):
            connection.execute(statement)


def make_sqlite(path: Path, n_rows: int) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "create table records (id integer primary key, author text, updated_at text, text text)"
        )
        connection.execute(SQLITE_TABLE.format(rows=n_rows))
        connection.execute("create index at on records (updated_at, id)")


def timed(work: Callable[[], int]) -> Measured:
    """Clock work; `made` is its rows and the seconds of processor time."""
    start = time.process_time()
    measured = clock(work)
    return measured._replace(made=(measured.made, time.process_time() - start))


def plain(home: Path, uri: str) -> Measured:
    """Read all rows in order by ADBC alone, into a zstd Parquet file."""
    import adbc_driver_postgresql.dbapi
    import adbc_driver_sqlite.dbapi
    import pyarrow.parquet as pq

    def work() -> int:
        is_file = uri.startswith("sqlite")
        connection = (
            adbc_driver_sqlite.dbapi.connect(uri.removeprefix("sqlite://"))
            if is_file
            else adbc_driver_postgresql.dbapi.connect(uri)
        )
        with closing(connection), connection.cursor() as cursor:
            if is_file:
                cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": "16384"})
            cursor.execute("select * from records order by updated_at, id")
            batches = cursor.fetch_record_batch()
            path = home / "plain.parquet"
            with pq.ParquetWriter(path, batches.schema, compression="zstd") as writer:
                for batch in batches:
                    writer.write_batch(batch)
        return int(pq.read_metadata(path).num_rows)

    return timed(work)


def to_raw(home: Path, _uri: str) -> Measured:
    """Load all rows to raw."""
    return _ingested(home)


def changed(home: Path, _uri: str) -> Measured:
    """Load the rows that were changed."""
    return _ingested(home)


def nothing(home: Path, _uri: str) -> Measured:
    """Look for rows where there are none, in a process that has looked before."""
    from transforms.home import Settings
    from transforms.sources.ingest import pending_files
    from transforms.sources.source import load_source
    from transforms.warehouse.tables import Warehouse

    source = load_source(home / "source.yaml")
    warehouse = Warehouse(Settings(home=home / "home"))

    def work() -> int:
        return pending_files(source, warehouse).n_rows

    work()
    return timed(work)


def _ingested(home: Path) -> Measured:
    from transforms.home import Settings
    from transforms.sources.ingest import ingest
    from transforms.sources.source import load_source
    from transforms.warehouse.tables import Warehouse

    source = load_source(home / "source.yaml")
    warehouse = Warehouse(Settings(home=home / "home"))
    return timed(lambda: ingest(source, warehouse).rows_loaded)


def describe(found: dict[str, Measured], n_rows: int, load: float) -> str:
    """Tell what was measured, on what, as Markdown."""
    command = shlex.join([".venv/bin/python", "benchmarks/databases.py", *sys.argv[1:]])
    names = {
        "plain": "plain ADBC to Parquet",
        "to_raw": "to raw",
        "nothing": "a look, nothing new",
        "changed": f"{CHANGED:,} changed rows to raw",
    }
    rows = []
    for name, measured in found.items():
        kind, _, case = name.partition(" ")
        read, processor = measured.made
        rate = f"{read / measured.seconds:,.0f}" if read > CHANGED else ""
        rows.append(
            [
                f"{'PostgreSQL' if kind == 'postgres' else 'SQLite'}, {names[case]}",
                f"{read:,}",
                f"{measured.seconds:.2f}",
                f"{processor:.2f}",
                rate,
                f"{measured.peak_mb:,.0f}",
            ]
        )
    loaded, look = found["postgres to_raw"], found["postgres nothing"]
    rate = n_rows / loaded.seconds
    goals = [
        Goal("PostgreSQL to raw, rows/s", f"{rate:,.0f}", ">= 150,000", rate >= 150_000),
        Goal("nothing new, s", f"{look.seconds:.2f}", "< 0.3", look.seconds < 0.3),
    ]
    bare = found["postgres plain"]
    cpu, bare_cpu = loaded.made[1], bare.made[1]
    busy = (
        "The cores were shared with other programs (see the load): CPU seconds say more than "
        f"seconds. To raw, PostgreSQL's rows take {cpu / n_rows * 1e6:.1f} CPU s a million, "
        f"{cpu / bare_cpu:.1f} times those of plain ADBC to Parquet in the same run, and "
        f"{loaded.seconds / bare.seconds:.1f} times its seconds."
    )
    head = ["rows of a database", "rows", "s", "CPU s", "rows/s", "peak MB"]
    parts = ["## Databases", f"`{command}`", machine(load, (*LIBRARIES, "adbc-driver-manager"))]
    return "\n\n".join([*parts, busy, table(head, rows), goal_table("databases", goals)])


if __name__ == "__main__":
    sys.exit(main())
