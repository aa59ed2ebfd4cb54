"""Any sign in a path is literal: each file is read once, and no column comes from a folder."""

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transforms.errors import FileRefusedError, HomeError
from transforms.home import Settings
from transforms.paths import parquet_sql
from transforms.schemas.raw import RawRecord
from transforms.sources.ingest import ingest
from transforms.sources.reading import read_payloads
from transforms.sources.source import Source, describe, list_files
from transforms.staging.prepare import Account, prepare
from transforms.warehouse.publishing import publish
from transforms.warehouse.rewrite import files_holding
from transforms.warehouse.snapshot import connect, create_arrivals
from transforms.warehouse.tables import Warehouse

MakeSource = Callable[..., Source]
SIGNS = "[]*?=%#'\"\\^|{}!~&;:,$@+- \n\t.aé名"
NAMES = st.text(st.sampled_from(SIGNS), min_size=1, max_size=10).filter(
    lambda name: name not in {".", ".."}
)
# what a reader would take for another file, a partition, an escape or a URL
TELLING = [
    "export[1]",
    "export1",
    "day=2026-01-05",
    "pct%20x",
    "**",
    "a?b",
    "#1",
    "~",
    "s3:",
    "it's",
    "new\nline",
    "back\\[1]",
    "[!a]",
    "{a,b}",
]
FORMATS = ["jsonl", "csv", "parquet"]


def write(path: Path, format_: str, numbers: list[int]) -> None:
    """Write rows with the column `day`, which is also what a folder may be named as."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"id": f"r{number}", "day": "own"} for number in numbers]
    if format_ == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif format_ == "csv":
        path.write_text(
            "id,day\n" + "".join(f"{row['id']},{row['day']}\n" for row in rows), "utf-8"
        )
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture
def of_days(make_source: MakeSource) -> Callable[[Path], Source]:
    """A source of such rows in a folder."""
    record = {
        "record_id": "id",
        "author_id": "day",
        "event_timestamp": "'2026-01-01'",
        "text": "day",
    }
    return lambda folder: make_source(folder, record=record, known="at_event")


@given(
    names=st.lists(
        st.tuples(NAMES, NAMES, st.sampled_from(FORMATS)), min_size=1, max_size=4, unique=True
    )
)
@example(
    names=[(name, other, "parquet") for name in ("data", "day=2026-01-05") for other in TELLING]
)
@example(names=[(name, name, format_) for name in TELLING for format_ in FORMATS])
@settings(max_examples=30)
def test_every_file_of_a_source_is_read_once_whatever_its_name(
    of_days: Callable[[Path], Source], names: list[tuple[str, str, str]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "in=[1]")
        written = {
            root / f"x{above}" / f"{name}.{format_}": format_ for above, name, format_ in names
        }
        written[root / "plain.jsonl"] = (
            "jsonl"  # of files with a leading dot alone there would be nothing to load
        )
        for number, (path, format_) in enumerate(written.items()):
            write(path, format_, [number])
        source = of_days(root)
        found = list_files(source).files
        shown = {path for path in written if not path.name.startswith(".")}
        assert {file.path for file in found} == shown
        for number, (path, format_) in enumerate(written.items()):
            if path in shown and format_ == "parquet" and "\\" in str(path):
                with pytest.raises(
                    FileRefusedError,
                    match=r"refused, its path has a backslash beside one of \*\?\[; rename it",
                ):
                    _contents(source, path, format_)
            elif path in shown:
                assert _contents(source, path, format_) == (f"r{number}", "own")


def _contents(source: Source, path: Path, format_: str) -> tuple[str, str]:
    file = describe(path, None)
    assert file is not None
    ((header, payloads),) = read_payloads(file, source, 100)
    (payload,) = payloads.to_pylist()
    row = (
        dict(zip(header.split(","), payload.decode().split(","), strict=True))
        if header
        else json.loads(payload)
    )
    assert row.keys() == {"id", "day"}, f"{format_}: a folder's name became a column"
    return row["id"], row["day"]


@given(name=NAMES)
@example(name="br[1]")
@example(name="pct%20x")
@example(name="new\nline")
@example(name="source=x")
@example(name="100%")
@settings(max_examples=25)
def test_a_home_of_any_name_works_or_is_refused_before_anything_is_written(
    name: str,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / name / "home"
        is_refused = any(sign in name for sign in "\\\n\t") or re.search("%[0-9a-fA-F]{2}", name)
        if is_refused:
            with pytest.raises(
                HomeError,
                match=(
                    r"^['\"][^\n]*: no table can be kept under a path with [^\n]*; choose "
                    r"another folder"
                ),
            ):
                Warehouse(Settings(home=root))
            assert not root.parent.exists()
            return
        warehouse = Warehouse(Settings(home=root))
        rows = pa.Table.from_pylist(
            [_raw(number) for number in (1, 2, 3)], RawRecord.arrow_schema()
        )
        for part in rows.slice(0, 2), rows.slice(2):
            publish(warehouse, RawRecord, part.to_batches(), {})
        with connect(warehouse) as connection:
            found = connection.sql(
                "select source, load_id from raw.records order by row_number"
            ).fetchall()
            connection.register("wanted", rows.slice(2))
            (holding,) = files_holding(connection, warehouse.files(RawRecord.relation()), "wanted")
            create_arrivals(connection, warehouse, RawRecord, since=1)
            assert connection.sql("select row_number from inserted").fetchall() == [(3,)]
        assert found == [("own", "l1")] * 3
        assert warehouse.n_rows(RawRecord.relation()) == 3
        assert (
            pl.read_parquet(holding, glob=False)["row_number"].to_list(),
            Path(holding).is_relative_to(root),
        ) == ([3], True)


def _raw(number: int) -> dict[str, object]:
    at = {"loaded_timestamp": 1_767_225_600_000_000, "header": None, "payload": b"{}"}
    return {"load_id": "l1", "source": "own", "source_uri": "file:///a", "row_number": number, **at}


def test_a_run_in_a_home_that_looks_like_a_partition_stages_its_own_rows(
    of_days: Callable[[Path], Source], tmp_path: Path
) -> None:
    """Raw has columns `source` and `load_id`, which a folder of that name would have replaced."""
    for format_ in FORMATS:
        write(tmp_path / "day=2026-01-05" / f"export[1].{format_}", format_, [1, 2])
        write(tmp_path / "day=2026-01-05" / f"export1.{format_}", format_, [3])
    warehouse = Warehouse(
        Settings(home=tmp_path / "source=x" / "load_id=y" / "a 'b' #1?*é {c} [1]^|" / ".home")
    )
    source = of_days(tmp_path / "day=2026-01-05")
    assert ingest(source, warehouse).rows_loaded == 9
    account = prepare(source, warehouse)
    assert (account.read, account.quarantined) == (9, 0)
    assert prepare(source, warehouse) == Account()
    with connect(warehouse) as connection:
        assert connection.sql(
            "select distinct author_id, source from staging.records"
        ).fetchall() == [("own", "notes")]
        assert connection.sql(
            "select count(distinct record_id) from staging.records"
        ).fetchall() == [(3,)]


def test_a_name_that_is_no_text_is_refused_in_one_line(
    of_days: Callable[[Path], Source], tmp_path: Path
) -> None:
    path = tmp_path / "caf\udce9.jsonl"
    write(path, "jsonl", [1])
    file = describe(path, None)
    assert file is not None
    with pytest.raises(
        FileRefusedError, match=r"caf.udce9\.jsonl': refused, its name is not UTF-8; rename it$"
    ) as caught:
        list(read_payloads(file, of_days(tmp_path), 10))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("names", [["x", "X"], ["Ticket", "x", "ticket"], ["é", "É"]])
@pytest.mark.parametrize("format_", ["csv", "parquet"])
def test_columns_that_differ_by_case_only_are_refused_by_name(
    of_days: Callable[[Path], Source], tmp_path: Path, names: list[str], format_: str
) -> None:
    path = tmp_path / f"a.{format_}"
    if format_ == "parquet":
        pq.write_table(pa.table([["1"]] * (len(names) + 2), ["id", "day", *names]), path)
    else:
        path.write_text(
            ",".join(["id", "day", *names]) + "\n" + ",".join(["1"] * (len(names) + 2)), "utf-8"
        )
    with pytest.raises(
        FileRefusedError,
        match=f"'{names[0]}' and '{names[-1]}' differ by case only or not at all; rename one$",
    ):
        _contents(of_days(tmp_path), path, format_)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            [pa.field("s", pa.struct([("x", pa.int64()), ("X", pa.int64())]))],
            "'x' and 'X' differ by case only",
        ),
        (
            [pa.field("l", pa.list_(pa.struct([("a", pa.int64()), ("a", pa.int64())])))],
            "'a' and 'a' differ by case only or not at all",
        ),
        ([pa.field("", pa.string())], "one of its columns has no name"),
    ],
)
def test_parquet_names_that_raw_could_not_keep_are_refused(
    of_days: Callable[[Path], Source], tmp_path: Path, columns: list[pa.Field], said: str
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.schema(columns).empty_table(), path)
    with pytest.raises(FileRefusedError, match=said):
        _contents(of_days(tmp_path), path, "parquet")


def test_the_text_of_a_query_names_files_and_nothing_else(tmp_path: Path) -> None:
    assert parquet_sql([tmp_path / "it's[1]?.parquet"]).endswith(
        "it''s[[]1][?].parquet'], union_by_name = true, hive_partitioning = false)"
    )


def test_nothing_else_opens_parquet_or_writes_a_name_into_sql() -> None:
    """Only `transforms.paths` and the store's sources call DuckDB's and Polars' readers."""
    root = Path(__file__).parents[2]
    modules = [
        path
        for folder in ("transforms", "feature_repo", "flows")
        for path in (root / folder).rglob("*.py")
    ]
    calls = ("read_parquet(", "parquet_scan(", "pl.scan_parquet(", 'replace("\'"', "replace('\"'")
    openers = {"paths.py", "expressions.py", "sources.py"}
    lines = [
        (path.name, line.strip())
        for path in modules
        for line in path.read_text("utf-8").splitlines()
    ]
    found = [
        (name, line)
        for name, line in lines
        if name not in openers and any(call in line for call in calls)
    ]
    assert found == []
