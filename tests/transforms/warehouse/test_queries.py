"""Questions in SQL: one snapshot, sealed from everything else, persons masked."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from transforms.errors import QueryError
from transforms.sources.source import Source
from transforms.warehouse.queries import check_query, open_queries, write_catalog
from transforms.warehouse.tables import Warehouse, data_files

ANN, TEXT = "ann@example.com", "Write to ann@example.com, or call +44 20 7946 0958."


@pytest.fixture
def source(
    make_source: Callable[..., Source], write: Callable[..., Path], note: Callable[..., bytes]
) -> Source:
    """Three records: two of an author whose id is an address, one of an author with a name."""
    rows = note("r1", author=ANN, text=TEXT), note("r2", author=ANN), note("r3", mail=ANN)
    return make_source(write("in/notes.jsonl", *rows), attributes=["mail"])


@pytest.fixture
def opened(
    warehouse: Warehouse, source: Source, stage: Callable[[Source], object], tmp_path: Path
) -> Iterator[Callable[..., duckdb.DuckDBPyConnection]]:
    """Stage the records; open queries on them, which are closed at the end."""
    connections: list[duckdb.DuckDBPyConnection] = []

    def run(at: datetime | None = None, *, reveal: bool = False) -> duckdb.DuckDBPyConnection:
        connections.append(open_queries(warehouse, tmp_path / "spill", at, reveal=reveal))
        return connections[-1]

    stage(source)
    yield run
    for connection in connections:
        connection.close()


def test_no_relation_shows_a_person_unless_revealed(
    opened: Callable[..., duckdb.DuckDBPyConnection], warehouse: Warehouse
) -> None:
    masked, revealed = opened(), opened(reveal=True)
    shown, said = (
        [str(connection.sql(f"from {name}").fetchall()) for name in warehouse.versions()]
        for connection in (masked, revealed)
    )
    assert not [rows for rows in shown if "example.com" in rows or "7946" in rows]
    assert any(TEXT in rows for rows in said)
    assert any(f"'{ANN}'" in rows for rows in said)
    ((n_authors, text, mail),) = masked.sql(
        "select count(distinct author_id), min_by(text, record_id), max_by(attributes, record_id) "
        "from staging.records"
    ).fetchall()
    assert (n_authors, mail) == (2, '{"mail":"<EMAIL_ADDRESS>"}')
    assert text == "Write to <EMAIL_ADDRESS>, or call <PHONE_NUMBER>."


@pytest.mark.parametrize("reveal", [False, True])
def test_nothing_but_the_snapshot_can_be_reached_or_written(
    opened: Callable[..., duckdb.DuckDBPyConnection], tmp_path: Path, *, reveal: bool
) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    connection = opened(reveal=reveal)
    for statement in (
        f"from read_csv('{tmp_path}/secret.csv')",
        f"from '{tmp_path}/secret.csv'",
        f"from glob('{tmp_path}/*')",
        f"copy (select 1) to '{tmp_path}/out.csv'",
        f"attach '{tmp_path}/other.db'",
        "set memory_limit = '20GB'",
        "set enable_external_access = true",
        "install httpfs",
    ):
        with pytest.raises(duckdb.Error):
            connection.execute(statement)
    assert not (tmp_path / "out.csv").exists()


def test_queries_see_the_version_that_was_there_when_they_were_opened(
    opened: Callable[..., duckdb.DuckDBPyConnection],
    warehouse: Warehouse,
    make_source: Callable[..., Source],
    write: Callable[..., Path],
    note: Callable[..., bytes],
    stage: Callable[[Source], object],
) -> None:
    count = "select count(*) from staging.records"
    before, instant = opened(), datetime.now(UTC)
    # Delta's commits know milliseconds
    while datetime.now(UTC).timestamp() - instant.timestamp() < 0.002:
        time.sleep(0.001)
    stage(make_source(write("in/notes_2.jsonl", note("r4")).parent / "*.jsonl"))
    counts = [
        connection.sql(count).fetchall() for connection in (before, opened(), opened(instant))
    ]
    assert counts == [[(3,)], [(4,)], [(3,)]]
    with pytest.raises(QueryError, match="nothing was there at 2020-01-01T00:00:00Z"):
        opened(datetime(2020, 1, 1, tzinfo=UTC))
    for file in data_files(warehouse.table_at("staging.records", 1)):
        Path(file).unlink()
    with pytest.raises(QueryError, match=r"staging.records at .*deleted by maintenance"):
        opened(instant)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("select 1; select 2", "one query at a time; this is 2"),
        ("drop view staging.records", "only queries run here"),
        ("copy (select 1) to 'x'", "only queries run here"),
        ("explain analyze copy (select 1) to 'x'", "only queries run here"),
        ("selec 1", 'syntax error at or near "selec"'),
        ("from read_parquet('staging/records/*.parquet')", "read_parquet is no relation"),
        ("from '/home/staging/records/part-1.parquet'", "part-1.parquet is no relation"),
        ('summarize "part-1.parquet"', "part-1.parquet is no relation"),
        ("with a as (from query('select 1')) from a", "query is no relation"),
        ("select (select max(a) from Read_Text('x'))", "read_text is no relation"),
    ],
)
def test_what_is_no_query_of_relations_is_refused(query: str, reason: str) -> None:
    with duckdb.connect() as connection, pytest.raises(QueryError, match=reason):
        check_query(connection, query)


@pytest.mark.parametrize(
    "query",
    [
        "with recent as (from staging.records) select count(*) over () from recent qualify true",
        "describe staging.records",
        "summarize staging.records",
        "show all tables",
        "from range(3)",
        "select unnest([1, 2])",
    ],
)
def test_queries_of_relations_are_taken(query: str) -> None:
    with duckdb.connect() as connection:
        check_query(connection, query)


@pytest.mark.usefixtures("opened")
def test_a_catalog_file_has_each_relation_masked_without_rows_of_its_own(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    path = tmp_path / "notes.duckdb"
    names = write_catalog(warehouse, path)
    assert set(names) == set(warehouse.versions())
    with duckdb.connect(path, read_only=True) as connection:
        rows = {name: connection.sql(f"from {name}").fetchall() for name in names}
    assert len(rows["staging.records"]) == 3
    assert rows["staging.duplicate_rows"] == []
    assert "example.com" not in str(rows)
    assert path.stat().st_size < 1 << 20
    write_catalog(warehouse, path, reveal=True)
    with duckdb.connect(path, read_only=True) as connection:
        assert TEXT in str(connection.sql("from staging.records").fetchall())


@pytest.mark.usefixtures("opened")
def test_a_catalog_that_cannot_be_written_is_refused(warehouse: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(QueryError, match=r"nowhere/a\.duckdb: cannot be written"):
        write_catalog(warehouse, tmp_path / "nowhere" / "a.duckdb")
