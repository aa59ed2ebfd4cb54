"""Record views: what a kernel reads and must return, and its errors; SQL is DuckDB's own."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.transforms.histories import (
    HISTORIES,
    HOUR,
    NOW,
    START,
    Version,
    by_entity,
    cut,
    newest,
    run,
    stage,
    version,
)
from transforms.errors import DeclarationError, GateError
from transforms.features import Count, GroupBy, RecordSql, SqlView, Sum, lifetime
from transforms.features.build import featurize, is_made_by_other_code, stale_views
from transforms.features.engine.group_by import GroupView
from transforms.features.engine.record import KernelView, sql_view
from transforms.features.engine.sql_view import QueryView
from transforms.features.entities import author
from transforms.features.view import View
from transforms.home import Settings
from transforms.schemas.staging import StagedRecord
from transforms.warehouse.publishing import publish
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

NewHome = Callable[[], Warehouse]
Only = Callable[..., None]
Declare = Callable[[str], ModuleType]
TONE = '''
"""How loud records are."""

import polars as pl

from transforms.features import Field, RecordView

LOUD = {"!": 1}


def shouts(text: pl.Expr) -> pl.Expr:
    """Count."""
    return text.str.count_matches("!", literal=True).cast(pl.Int64)


class RecordTone(RecordView, reads=("text", "label", "attributes", "source", "event_timestamp")):
    """How loud a record is."""

    n_shouts: int = Field.count("Exclamation marks.")
    words: str = Field.word("All that is read of it.")

    @staticmethod
    def compute(records: pl.LazyFrame) -> pl.LazyFrame:
        written = pl.col("written_timestamp").dt.timestamp("us").cast(pl.String)
        texts = ("text", "label", "attributes", "source")
        words = pl.concat_str(*texts, written, separator="|", ignore_nulls=True)
        return records.with_columns(n_shouts=shouts(pl.col("text")), words=words)


class RecordEcho(RecordView, reads=("text", "label", "record_tone.n_shouts")):
    """What another view says of it."""

    twice: int = Field.count("Twice the shouts.")

    @staticmethod
    def compute(records: pl.LazyFrame) -> pl.LazyFrame:
        return records.with_columns(twice=pl.col("record_tone__n_shouts") * 2)
'''


def views_of(module: ModuleType) -> tuple[KernelView, KernelView]:
    tone = KernelView(module.RecordTone, {})
    return tone, KernelView(module.RecordEcho, {"record_tone": tone})


def kernel(
    declare: Declare,
    compute: str,
    feature: str = 'n: int = Field.count("N.")',
    text: str = TONE,
) -> KernelView:
    """A view with the body of `compute`, which begins at line 16 of its file."""
    head, _, _ = text.partition("def shouts")
    indented = compute.replace("\n", "\n        ")
    body = f"    {feature}\n\n    @staticmethod\n    def compute(records):\n        {indented}\n"
    return KernelView(declare(f"{head}class RecordOwn(RecordView):\n{body}").RecordOwn, {})


# --- (1) what a kernel reads ---


def values(v: Version) -> dict[str, Any]:
    if v.text is None:
        return {"n_shouts": None, "words": None}
    read = [v.text, "bad" if v.positive else "good", "notes", str(v.event)]
    return {"n_shouts": v.text.count("!"), "words": "|".join(read)}


@settings(max_examples=6)
@given(HISTORIES, st.lists(st.integers(1, 8), max_size=2))
@example(
    [version("r", 0, text="a!!"), version("r", HOUR, text=None), version("q", 0, event=HOUR)], [1]
)
def test_kernels_read_what_they_name_and_increments_equal_a_rebuild(
    new_home: NewHome, only: Only, declare: Declare, versions: list[Version], cuts: list[int]
) -> None:
    only(*views_of(declare(TONE)))
    grown, rebuilt = run(new_home(), *cut(versions, cuts)), run(new_home(), versions)
    for name in ("record_tone", "record_echo"):
        assert newest(grown, name).rows(named=True) == newest(rebuilt, name).rows(named=True)
    echoes = by_entity(rebuilt, "record_echo")
    for record, rows in by_entity(rebuilt, "record_tone").items():
        for row, echo in zip(rows, echoes[record], strict=True):
            known = [
                v for v in versions if v.record == record and v.effective <= row["event_timestamp"]
            ]
            wanted = values(max(known, key=lambda v: v.known))
            assert {name: row[name] for name in wanted} == wanted
            assert echo["twice"] == (None if wanted["n_shouts"] is None else 2 * wanted["n_shouts"])


def test_what_is_explained_is_what_is_published(
    new_home: NewHome, only: Only, declare: Declare
) -> None:
    views = views_of(declare(TONE))
    only(*views)
    warehouse = run(
        new_home(), [version("r", 0, text="a!!"), version("r", 2 * HOUR, event=HOUR, text="b!")]
    )
    with connect(warehouse) as connection:
        for view in views:
            for row in by_entity(warehouse, view.name)["r"]:
                at = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=row["event_timestamp"])
                explained = view.explain(connection, {"record_id": "r"}, at, 9)
                assert explained.values == {name: row[name] for name in view.features}


@pytest.mark.parametrize("reads", ["load_id", "record_tone.words", "texts"])
def test_reading_what_is_not_there_is_refused(declare: Declare, reads: str) -> None:
    module = declare(TONE.replace('"record_tone.n_shouts"', f'"{reads}"'))
    with pytest.raises(DeclarationError, match=f"reads {reads}, which is no column of a record"):
        KernelView(module.RecordEcho, {})


def test_a_declared_kernel_computes_one_batch_at_a_time(
    tmp_path: Path, only: Only, declare: Declare
) -> None:
    compute = """busy = LOUD.setdefault("busy", [])
busy.append(1)
time.sleep(0.02)
n = len(busy)
busy.pop()
return records.with_columns(n=pl.lit(n, pl.Int64))"""
    timed = TONE.replace("import polars as pl", "import time\n\nimport polars as pl")
    only(kernel(declare, compute, text=timed))
    warehouse = Warehouse(Settings(home=tmp_path / "home", batch_rows=1))
    versions = [version(f"r{number}", number * HOUR) for number in range(6)]
    assert newest(run(warehouse, versions), "record_own")["n"].to_list() == [1] * 6


# --- (2) what a kernel must return ---


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (
            "return records.with_columns(n=1).cast({'n': pl.Int64}).head(1)",
            "compute returned 1 rows for 2 records; it must return each",
        ),
        (
            "return pl.concat([records, records]).with_columns(n=pl.lit(1, pl.Int64))",
            "compute returned 4 rows for 2 records",
        ),
        (
            "return records.with_columns(n=pl.lit(1, pl.Int64)).reverse()",
            "compute returned 2 rows for 2 records; .*in order",
        ),
        (
            "return records.with_columns(n=pl.lit('1'))",
            "n: compute gives String, declared is Int64; cast it",
        ),
        (
            "return records.with_columns(n=pl.col('text').str.len_chars())",
            "n: compute gives UInt32, declared is Int64; cast it",
        ),
        (
            "return records",
            r'own\.py: .*record_own: compute fails: ColumnNotFoundError: unable to find column "n"',
        ),
        (
            "return None",
            r"compute fails: AttributeError: 'NoneType' object has no attribute 'select'",
        ),
        (
            "n = words\nreturn records",
            (
                r"own\.py, line 16: features\.record_own: compute fails: NameError: name 'words' "
                r"is not defined"
            ),
        ),
        (
            "return records.with_columns(n=pl.col('text').str.to_integer())",
            "compute fails: ComputeError; nothing was committed",
        ),
        (
            "raise ValueError(records.collect()['text'][0])",
            r"line 16: features\.record_own: compute fails: ValueError; nothing",
        ),
        (
            (
                "return records.with_columns(n=pl.col('text').map_batches(lambda text: "
                "text.cast(pl.Int64)))"
            ),
            r"fails: \w+Error; nothing",
        ),
        (
            "return records.with_columns(n=pl.lit(-1, pl.Int64))",
            "2 rows of a batch of 2 break n: greater_than_or_equal_to",
        ),
    ],
)
def test_a_kernel_that_is_not_as_declared_is_refused_without_a_text(
    new_home: NewHome, only: Only, declare: Declare, compute: str, message: str
) -> None:
    only(view := kernel(declare, compute))
    warehouse = new_home()
    stage(warehouse, [version("r", 0, text="secret"), version("q", HOUR, text="secret")])
    with pytest.raises(GateError, match=message) as caught:
        featurize(warehouse, NOW)
    assert "\n" not in str(caught.value)
    assert not any("secret" in str(error) for error in (caught.value, caught.value.__cause__))
    assert warehouse.n_rows(view.relation) == 0


# --- (3) SQL expressions ---

EXPRESSIONS = {
    "n_commas": "length(text) - length(replace(text, ',', ''))",
    "channel": "attributes->>'channel'",
    "hour": "hour(event_timestamp)",
    "is_late": "known_timestamp > event_timestamp",
    "third": "length(text) / 3",
    "double_length": "2 * record_length.n_characters",
    "half": "try_cast(attributes->>'channel' as integer) / record_length.n_characters",
}
RECORDS = st.lists(
    st.tuples(
        st.text(st.sampled_from("a,é ☃\n'"), min_size=1, max_size=6),
        st.none() | st.fixed_dictionaries({"channel": st.text("1x", max_size=2)}).map(json.dumps),
        st.sampled_from([0, HOUR, -1]),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=6)
@given(RECORDS)
def test_expressions_give_what_duckdb_gives(
    new_home: NewHome, only: Only, records: list[tuple[str, str | None, int]]
) -> None:
    length = sql_view(RecordSql("record_length", {"n_characters": "length(text)"}), {})
    shape = sql_view(RecordSql("record_shape", EXPRESSIONS), {"record_length": length})
    assert shape.reads == ("record_length",)
    only(length, shape)
    warehouse = new_home()
    stage_attributes(warehouse, records)
    featurize(warehouse, NOW)
    with connect(warehouse) as connection:
        of = ", ".join(f"{sql} as {name}" for name, sql in EXPRESSIONS.items())
        staged = "select *, {'n_characters': length(text)} as record_length from staging.records"
        wanted = (
            connection.sql(f"select record_id, {of} from ({staged}) order by record_id")
            .pl()
            .to_dicts()
        )
        found = connection.sql(
            "select * exclude (event_timestamp, created_timestamp) from features.record_shape "
            "order by record_id"
        ).pl()
    assert found.to_dicts() == [{**row, "is_late": int(row["is_late"])} for row in wanted]


def stage_attributes(warehouse: Warehouse, records: Sequence[tuple[str, str | None, int]]) -> None:
    versions = [
        version(f"r{n}", START // 1000 % 7 * HOUR + lag, event=n * HOUR, text=text)
        for n, (text, _, lag) in enumerate(records)
    ]
    stage(warehouse, versions)
    with connect(warehouse) as connection:
        connection.register(
            "attributes",
            pa.table(
                {"row_number": range(1, len(records) + 1), "said": [said for _, said, _ in records]}
            ),
        )
        sql = (
            "select r.* replace (a.said as attributes) from staging.records r "
            "join attributes a using (row_number)"
        )
        batches = (
            connection.sql(sql).to_arrow_table().cast(StagedRecord.arrow_schema()).to_batches()
        )
    publish(warehouse, StagedRecord, batches, {}, without=warehouse.files(StagedRecord.relation()))


def test_an_expression_that_fails_on_a_record_is_said_without_its_text(
    new_home: NewHome, only: Only
) -> None:
    only(sql_view(RecordSql("record_shape", {"n": "text::integer"}), {}))
    warehouse = new_home()
    stage(warehouse, [version("r", 0, text="secret")])
    with pytest.raises(
        GateError, match=r"features\.record_shape: compute fails: ConversionException; .*try_cast"
    ) as caught:
        featurize(warehouse, NOW)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("load_id", "n: 'load_id' reads load_id, which is no column of a record"),
        ("regexp_extract_all(text, 'a')", "n: .* is a list of text, and a feature is one value"),
        ("count(*)", r"n: .*may not call count_star\(\)"),
        ("getenv('HOME')", r"n: .*may not call getenv\(\)"),
    ],
)
def test_a_wrong_expression_is_refused_by_its_name(expression: str, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        sql_view(RecordSql("record_shape", {"n": expression}), {})


# --- (4) what is computed again ---


def declared(source: ModuleType) -> list[View]:
    """Views of records, of a file's, with others that read one of them or none."""
    tone, echo = views_of(source)
    group = GroupView(
        GroupBy("author_shouts", author, [Sum("record_tone.n_shouts", "n_shouts")], [lifetime]),
        {"record_tone": tone},
    )
    plain = GroupView(
        GroupBy("author_plain", author, [Count("n_records")], [lifetime]), {"record_tone": tone}
    )
    joined = "versions join record_tone using (record_id, effective_from)"
    sql = f"select author_id, effective_from as event_timestamp, n_shouts from {joined}"
    return [
        tone,
        echo,
        group,
        plain,
        QueryView(SqlView("own", author, sql), {"record_tone": tone}, Path()),
    ]


def test_a_changed_view_is_computed_again_with_all_that_reads_it_and_nothing_else(
    new_home: NewHome, only: Only, declare: Declare
) -> None:
    only(*declared(declare(TONE)))
    warehouse = run(new_home(), [version("r", 0, text="a!")])
    only(*(views := declared(declare(TONE.replace("=shouts(", "=3 * shouts(")))))
    assert [view.name for view in views if is_made_by_other_code(view, warehouse)] == [
        "record_tone",
        "record_echo",
        "author_shouts",
        "own",
    ]
    featurize(warehouse, NOW + timedelta(days=1))
    assert by_entity(warehouse, "record_echo")["r"][0]["twice"] == 6
    assert by_entity(warehouse, "author_shouts")["u"][0]["n_shouts_lifetime"] == 3
    assert by_entity(warehouse, "own")["u"][0]["n_shouts"] == 3
    assert stale_views(warehouse) == []
    tone, echo, *_ = declared(
        declare(
            TONE.replace("=shouts(", "=3 * shouts(").replace('n_shouts") * 2', 'n_shouts") * 4')
        )
    )
    assert [view.name for view in (tone, echo) if is_made_by_other_code(view, warehouse)] == [
        "record_echo"
    ]
