"""A user's SQL is one expression over one row: no files, settings, other tables, names as SQL."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms import expressions
from transforms.expressions import (
    bound,
    column_name,
    column_references,
    query_refusal,
    quoted,
    read_query,
    refusal,
    sealed,
)
from transforms.sources.source import Source, load_source
from transforms.staging.prepare import Account

MakeSource = Callable[..., Source]
Stage = Callable[[Source], Account]
Query = Callable[..., list[tuple[object, ...]]]
# column names as people write them, SQL keywords, names that this program uses, and quotes
NAMES = [
    *(
        'height "cm"',
        "from",
        "created-at",
        "Ticket ID",
        "at",
        "select",
        "order",
        "a.b",
        "user",
        "current_user",
        "it's",
        "$x",
        "?",
        "*",
        "#1",
    ),
    *(
        "rows",
        "row",
        "line",
        "filename",
        "file_row_number",
        "document",
        "documents",
        "payload",
        "header",
        "load_id",
        "parsed",
        "mapped",
    ),
    *(
        "origin__",
        "origin",
        "_",
        "record_id_",
        "text_",
        "structure",
        "rejection",
        "known_text",
        "source",
        "held",
        "value",
        "名前",
    ),
    *(
        "x\" from read_text('/etc/passwd') --",
        '"); drop table documents; --',
        "a/b",
        "~",
        "~1",
        "\\",
        'back\\"slash',
        "{}",
        "%s",
    ),
]
FIELDS = {"record_id": "r1", "author_id": "ann", "event_timestamp": "2026-01-01T10:00:00Z"}


def write_jsonl(path: Path, row: dict[str, str]) -> None:
    path.write_text(json.dumps(row) + "\n", "utf-8")


def write_csv(path: Path, row: dict[str, str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([list(row), list(row.values())])


def write_parquet(path: Path, row: dict[str, str]) -> None:
    pq.write_table(pa.table({name: [value] for name, value in row.items()}), path)


WRITERS = {"jsonl": write_jsonl, "csv": write_csv, "parquet": write_parquet}


@pytest.mark.parametrize("format_", WRITERS)
def test_columns_of_any_name_are_read_in_every_format(
    make_source: MakeSource, stage: Stage, query: Query, tmp_path: Path, format_: str
) -> None:
    row = {name: f"value of {number}" for number, name in enumerate(NAMES)}
    WRITERS[format_](tmp_path / f"a.{format_}", FIELDS | row)
    both = " || ' ' || ".join(quoted(name) for name in NAMES)
    record = {name: quoted(name) for name in FIELDS} | {
        "text": both,
        "label": quoted(NAMES[0]),
        "subject_id": quoted("rows"),
    }
    source = make_source(
        tmp_path / f"a.{format_}",
        record=record,
        known="at_event",
        attributes=[name for name in NAMES if name != "*"],
        positive_labels=[],
    )
    assert stage(source) == Account(read=1, staged=1)
    ((text, label, subject, attributes, payload),) = query(
        "select text, label, subject_id, attributes, payload from staging.records "
        "join raw.records using (load_id, source_uri, row_number)"
    )
    assert (text, label, subject) == (" ".join(row.values()), row[NAMES[0]], row["rows"])
    assert json.loads(str(attributes)) == {
        name: value for name, value in row.items() if name != "*"
    }
    if format_ != "csv":
        assert isinstance(payload, bytes)
        assert json.loads(payload) == FIELDS | row, "raw keeps the whole row"


@given(name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=12))
@settings(max_examples=30)
def test_a_quoted_name_is_that_column_and_nothing_else(name: str) -> None:
    assert column_name(quoted(name)) == name
    assert column_references(f"lower({quoted(name)}) || {quoted(name)}") == {name}


@pytest.mark.parametrize(
    "expression", ["meta->'$.user.name'", "(meta::json)->'user'->>'name'", "meta->>'$.user.name'"]
)
def test_json_arrows_reach_into_a_field(
    make_source: MakeSource,
    stage: Stage,
    query: Query,
    tmp_path: Path,
    note: Callable[..., bytes],
    expression: str,
) -> None:
    (tmp_path / "a.jsonl").write_bytes(note(meta={"user": {"name": "ann"}}) + b"\n")
    record = {**make_source(tmp_path).record.model_dump(), "text": expression}
    assert stage(make_source(tmp_path / "a.jsonl", record=record)).staged == 1
    assert query("select trim(text, '\"') from staging.records") == [("ann",)]


def test_a_crafted_name_neither_reads_nor_writes_a_file(tmp_path: Path) -> None:
    """The attacker's file has a column of this name, so that the unescaped query would bind."""
    secret, stolen, header = (tmp_path / name for name in ("secret", "stolen", "header.csv"))
    secret.write_text("password", "utf-8")
    row = f"* from read_csv('{header}', header = true, delim = chr(9), all_varchar = true)"
    theft = f"copy (select content from read_text('{secret}')) to '{stolen}' (format csv)"
    name = f'x", {row}) limit 0; {theft}; select * from (select null as "y'
    with header.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([[name], ["1"]])
    record = {"record_id": quoted(name), "author_id": "a", "event_timestamp": "t", "text": "text"}
    (tmp_path / "s.yaml").write_text(
        yaml.safe_dump({"name": "s", "uri": "x", "known": "at_load", "record": record}), "utf-8"
    )
    source = load_source(tmp_path / "s.yaml")
    assert not stolen.exists()
    assert source.fields() == sorted(["a", "t", "text", name])


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "read_text('/etc/passwd')",
            "READ_TEXT('/etc/passwd')",
            "\"read_text\"('/etc/passwd')",
            "read_csv('x')",
            "glob('/*')",
        ),
        *(
            "getenv('HOME')",
            "GetEnv('HOME')",
            "main.getenv('HOME')",
            "current_setting('threads')",
            "query('select 1')",
        ),
        *(
            "system.main.\"current_setting\"('threads')",
            "query_table('raw.records')",
            "json_serialize_plan('select 1')",
            "nextval('s')",
        ),
        *(
            "list_transform([1], lambda x: getenv('HOME'))",
            "coalesce(null, try(read_blob('x')))",
            "a in (from raw.records)",
        ),
        *(
            "{'a': version()}",
            "a[getvariable('source')]",
            "case when pg_sleep(1) then 1 end",
            "a.lower()",
            "a::enum(select 'x')",
        ),
        *(
            "write_log('x')",
            "a; select 1",
            "a) from (select 1",
            "1) + (2",
            "a order by b",
            "a union select 1",
            "#1",
            "?",
        ),
    ],
)
def test_what_reaches_beyond_the_row_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"may not|syntax error|is not a single"):
        bound(expression)


@pytest.mark.parametrize(
    "sql",
    [
        *(
            "from read_text('/etc/passwd')",
            "from glob('/*')",
            "copy (select 1) to 'x.csv'",
            "attach 'x.db'",
            "load httpfs",
        ),
        *(
            "from own_rows",
            "set enable_external_access = true",
            "set threads = 1",
            "reset lock_configuration",
            "export database 'x'",
        ),
        "install spatial",
    ],
)
def test_a_sealed_connection_reaches_nothing(sql: str) -> None:
    own_rows = pa.table({"x": [1]})
    assert own_rows.num_rows == 1
    with (
        sealed() as connection,
        pytest.raises(duckdb.Error, match=r"disabled|locked|does not exist"),
    ):
        connection.execute(sql)


def test_a_sealed_engine_that_is_lent_again_has_nothing_of_the_loan_before() -> None:
    with sealed(threads=1) as connection:
        connection.register("given", pa.table({"x": [1]}))
        connection.execute("create temp table kept as from given")
        connection.execute("set variable said = 1")
    with sealed(threads=1) as connection:
        found = connection.execute("select current_setting('timezone'), getvariable('said')")
        assert found.fetchall() == [("UTC", None)]
        for name in ("given", "kept"):
            with pytest.raises(duckdb.CatalogException, match="does not exist"):
                connection.execute(f"from {name}")


def test_a_sealed_engine_that_failed_is_not_lent_again() -> None:
    engines = expressions._idle
    with sealed(threads=1):
        pass
    (kept,) = (key for key, idle in engines.items() if idle and "'threads', 1" in key[1])
    with pytest.raises(ZeroDivisionError), sealed(threads=1):
        raise ZeroDivisionError
    assert not engines[kept]


def test_a_sealed_engine_ends_after_some_loans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "LOANS_OF_AN_ENGINE", 3)
    monkeypatch.setattr(expressions, "_idle", type(expressions._idle)(list))
    starts: list[object] = []

    def start(config: object) -> duckdb.DuckDBPyConnection:
        starts.append(config)
        return duckdb.connect()

    monkeypatch.setattr(expressions, "_start", start)
    for _ in range(9):
        with sealed() as connection:
            assert connection.execute("select 42").fetchall() == [(42,)]
    assert len(starts) == 3


def test_every_function_of_this_duckdb_is_allowed_or_refused_with_a_reason() -> None:
    with sealed() as connection:
        kinds = dict(
            connection.execute(
                "select function_name, list(distinct function_type) from duckdb_functions() "
                "group by all"
            ).fetchall()
        )
    of_values = {name for name, kind in kinds.items() if {"scalar", "macro"} & set(kind)}
    undecided = [
        name for name in of_values if (refusal(name) or "").startswith("it is not a function")
    ]
    assert undecided == [], (
        "put each into transforms/functions.yaml: does it rest on its arguments alone?"
    )
    assert [name for name in kinds.keys() - of_values if refusal(name) is None] == []
    assert len(of_values) > 900


RELATIONS = frozenset({"versions", "record_text"})


@pytest.mark.parametrize(
    "sql",
    [
        *(
            "select * from versions",
            "from versions -- a remark\n;",
            "select author_id, count(*) filter (where x) from versions group by all",
        ),
        (
            "with own as (from versions), more as materialized (from own) select * from more "
            "join Record_Text using (record_id)"
        ),
        (
            "select *, sum(x) over w from versions window w as (partition by a "
            "order by b rows between 3 preceding and current row)"
        ),
        (
            "select unnest([1]) from versions, unnest([1]) as t(x), range(3), (values (1)) v(x) "
            "union all by name from versions"
        ),
        (
            "select distinct on (a) list(x order by y), first(x order by y) from versions asof "
            "join record_text on true order by a limit 3"
        ),
        (
            "from versions where exists (from record_text r "
            "where r.record_id = versions.record_id) qualify rank() over (order by x) = 1"
        ),
    ],
)
def test_a_query_is_one_select_statement_over_what_it_may_read(sql: str) -> None:
    assert read_query(sql, RELATIONS).reads <= RELATIONS


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        *(
            (f"from {relation}", "may not read")
            for relation in (
                "staging.records",
                "records",
                "'f.csv'",
                "main.versions",
                "duckdb_tables",
            )
        ),
        *(
            (f"from {call}", r"may not (call|read) \w+\(\)")
            for call in ("read_csv('x')", "glob('/*')", "query('from t')", "repeat(1, 2)")
        ),
        # a macro over any table, and an aggregate too
        (
            "from histogram('staging.records', text)",
            r"may not read histogram\(\)",
        ),
        ("from versions where x in (from read_text('/etc/passwd'))", r"may not read read_text\(\)"),
        ("with a as (from staging.records) from a", "may not read staging.records"),
        (
            "with Versions as (from record_text) from versions",
            "names a relation of its own versions",
        ),
        *(
            (f"select {name} from versions", "may not read")
            for name in ("current_date", "CURRENT_TIMESTAMP", "user", '"localtime"')
        ),
        *(
            (f"select {name}() from versions", r"may not call")
            for name in ("now", "random", "uuid", "system.main.now", "version")
        ),
        (
            "select list(x) from versions",
            r"may not call list\(\): what it gives depends on the order of rows",
        ),
        (
            "select row_number() over (partition by x) from versions",
            r"may not call row_number\(\): what it gives depends",
        ),
        (
            "select row_number(x) from versions",
            r"may not call row_number\(\): there is no such function",
        ),
        ("select upper(x) over (order by y) from versions", r"may not call upper\(\)"),
        ("select mode(x) from versions", r"may not call mode\(\): it depends on the order"),
        ("from versions limit 3", "in no order"),
        ("from (select distinct on (a) * from versions)", "in no order"),
        *(
            (f"from versions {sample}", "may neither take a sample")
            for sample in ("tablesample 10%", "using sample 5")
        ),
        ("from versions positional join record_text", "nor join by position"),
        *(
            (sql, "may not contain show ref")
            for sql in ("describe versions", "summarize versions", "from (show tables)")
        ),
        ("select $x from versions", "may not contain a parameter"),
        ("from versions at (version => 1)", "may not read"),
        (
            "with recursive t as (from versions union all from t) from t",
            "may not contain recursive",
        ),
        *(
            (sql, "Only SELECT")
            for sql in (
                "insert into x select 1",
                "copy versions to 'x'",
                "pivot versions on a using sum(b)",
                "set x = 1",
            )
        ),
        *(
            (sql, "is not a single|syntax error")
            for sql in ("from versions; from versions", "from versions) union (from versions", "")
        ),
    ],
)
def test_a_query_that_reaches_further_is_refused(sql: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_query(sql, RELATIONS)


def test_comments_blanks_and_keywords_leave_no_trace_in_the_tree_of_a_query() -> None:
    one, other = (
        read_query(sql, RELATIONS).tree
        for sql in ("select x from versions", "-- a\nSELECT  x /* b */ FROM versions;\n")
    )
    assert one == other
    assert (
        read_query("select 'X' from versions", RELATIONS).tree
        != read_query("select 'x' from versions", RELATIONS).tree
    )


def test_every_aggregate_and_window_function_is_allowed_or_refused_with_a_reason() -> None:
    with sealed() as connection:
        sql = (
            "select function_type, list(distinct function_name) from duckdb_functions() "
            "group by all"
        )
        names = {kind: set(found) for kind, found in connection.execute(sql).fetchall()}
    ordered = {
        name: query_refusal(name, is_window=name in names["window"], is_ordered=True)
        for name in names["aggregate"] | names["window"]
    }
    assert [
        name for name, reason in ordered.items() if (reason or "").startswith("there is no")
    ] == []
    assert len([name for name, reason in ordered.items() if reason is None]) > 70
    of_rows = names["table"] - names["scalar"] - {"unnest"}
    assert [name for name in of_rows if query_refusal(name) is None] == []
