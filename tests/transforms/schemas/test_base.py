"""A contract's gate: it asks Pandera's checks in one query, and says what Pandera says."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, ClassVar

import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandera.errors import SchemaErrors
from pandera.polars import PolarsData

from transforms.errors import GateError
from transforms.schemas.base import FAILURES, Contract
from transforms.schemas.staging import StagedRecord

NOW = datetime(2026, 1, 1, tzinfo=UTC)

TIMES = st.none() | st.sampled_from(
    [NOW, datetime(1969, 7, 20, tzinfo=UTC), NOW + timedelta(days=99)]
)
TEXTS = st.none() | st.sampled_from(["", "a"])
ROWS = st.fixed_dictionaries(
    {
        **dict.fromkeys(("record_id", "author_id", "subject_id", "text", "text_redacted"), TEXTS),
        **dict.fromkeys(("event_timestamp", "known_timestamp"), TIMES),
        "label": TEXTS,
        "is_positive": st.none() | st.booleans(),
        "is_tombstone": st.none() | st.booleans(),
        "row_number": st.none() | st.integers(-1, 2),
    }
)


class Reading(Contract):
    """One row a sensor and instant, with a rule of every kind."""

    sensor: str = pa.Field(unique=True, str_length={"min_value": 1})
    read_timestamp: Annotated[pl.Datetime, "us", "UTC"]
    level: float = pa.Field(ge=0, le=1)
    kind: str = pa.Field(isin=["low", "high"], nullable=True)
    weight: float
    n_repeats: int = pa.Field(ge=0, nullable=True)

    class Config(Contract.Config):
        """Relation and key."""

        name = "features.reading"
        metadata = {"key": ["sensor"], "version": 1}  # noqa: RUF012

    @pa.dataframe_check(name="kind:low_above_half")
    def _is_low(cls, data: PolarsData) -> pl.LazyFrame:  # noqa: N805
        return data.lazyframe.select((pl.col("kind") != "low") | (pl.col("level") < 0.5))

    @pa.dataframe_check(name="n_repeats:some_are_known", ignore_na=False)
    def _is_known(cls, data: PolarsData) -> pl.LazyFrame:  # noqa: N805
        return data.lazyframe.select(pl.col("n_repeats").max().over(pl.lit(1)) >= 0)


class Share(Contract):
    """A share, which may be no number."""

    share: float = pa.Field(ge=0, le=1)
    size: float = pa.Field(nullable=True, gt=0)

    class Config(Contract.Config):
        """Relation and key."""

        name = "tests.shares"
        metadata: ClassVar = {"key": ["share"]}

    @pa.dataframe_check(name="size:less_than_its_share")
    def _size_is_not_less(cls, data: PolarsData) -> pl.LazyFrame:  # noqa: N805
        return data.lazyframe.select(pl.col("size") >= pl.col("share"))


def readings() -> pl.DataFrame:
    rows = {
        "sensor": ["a", "b", "c"],
        "read_timestamp": [NOW, NOW, NOW - timedelta(days=1)],
        "level": [0.1, 0.9, 0.4],
        "kind": ["low", "high", None],
        "weight": [0.1, -5.0, 2e9],
        "n_repeats": [0, None, 3],
    }
    return pl.DataFrame(rows, schema=pl.DataFrame(Reading.arrow_schema().empty_table()).schema)


def pandera_says(frame: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    with monkeypatch.context() as patched:
        patched.setattr(Reading, "_is_met", lambda _: False)
        return Reading.failures(frame).rows()


def test_rows_that_meet_the_contract_are_not_looked_at_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Reading, "validate", lambda *_, **__: pytest.fail("Pandera was asked"))
    assert Reading.failures(readings()).schema == FAILURES
    assert Reading.gate(readings()).equals(readings())
    assert Reading.failures(readings().clear()).is_empty()


@pytest.mark.parametrize(
    ("column", "values", "rule"),
    [
        ("sensor", ["a", "a", "c"], "field_uniqueness"),
        ("sensor", ["a", "", "c"], "str_length(1, None)"),
        ("sensor", ["a", None, "c"], "not_nullable"),
        ("read_timestamp", [NOW, None, NOW], "not_nullable"),
        ("weight", [0.1, float("nan"), 0.4], "not_nullable"),
        ("level", [0.1, None, 0.4], "not_nullable"),
        ("level", [0.1, 1.5, 0.4], "less_than_or_equal_to(1)"),
        ("level", [0.6, 0.9, 0.4], "low_above_half"),
        ("n_repeats", [None, None, None], "some_are_known"),
        ("kind", ["low", "middle", None], "isin(['low', 'high'])"),
        ("n_repeats", [0, None, -1], "greater_than_or_equal_to(0)"),
    ],
)
def test_a_broken_rule_is_found_as_pandera_finds_it(
    column: str, values: list[object], rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = readings()
    frame = rows.with_columns(pl.Series(column, values, dtype=rows.schema[column]))
    found = Reading.failures(frame).rows()
    assert rule in {row[2] for row in found}
    assert found == pandera_says(frame, monkeypatch)


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.drop("kind"),
        lambda rows: rows.with_columns(extra=1),
        lambda rows: rows.with_columns(pl.col("n_repeats").cast(pl.Int32)),
    ],
)
def test_columns_that_differ_are_a_mistake_in_code(
    change: Callable[[pl.DataFrame], pl.DataFrame],
) -> None:
    with pytest.raises(GateError, match="does not have the contract's shape"):
        Reading.failures(change(readings()))


def test_a_check_that_cannot_run_is_told_by_pandera(monkeypatch: pytest.MonkeyPatch) -> None:
    check, _ = Reading._compiled().checks

    def fail(_: PolarsData) -> pl.LazyFrame:
        message = "no such thing"
        raise ValueError(message)

    monkeypatch.setattr(check, "_check_fn", fail)
    assert not Reading._is_met(readings())


def reported(contract: type[Contract], rows: pl.DataFrame) -> list[tuple[int, str, str]]:
    """What Pandera's own validation reports first of each row."""
    try:
        contract.validate(rows, lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases.unique("index", keep="first", maintain_order=True)
    else:
        return []
    found = []
    for case in cases.iter_rows(named=True):
        is_of_frame = case["schema_context"] == "DataFrameSchema"
        column, _, rule = case["check"].partition(":")
        place = (column, rule) if is_of_frame else (case["column"], case["check"])
        found.append((case["index"], *place))
    return found


@given(st.lists(ROWS, max_size=6))
def test_broken_rules_of_records_are_those_pandera_reports(rows: list[dict[str, object]]) -> None:
    empty = pl.DataFrame(StagedRecord.arrow_schema().empty_table())
    frame = pl.concat([empty, pl.DataFrame(rows, empty.schema)]) if rows else empty
    assert StagedRecord.failures(frame).rows() == reported(StagedRecord, frame)


@given(
    st.lists(
        st.tuples(*[st.sampled_from([None, float("nan"), float("inf"), -1.0, 0.0, 0.5, 1.0])] * 2),
        max_size=6,
    )
)
def test_broken_rules_of_numbers_are_those_pandera_reports(
    rows: list[tuple[float | None, float | None]],
) -> None:
    frame = pl.DataFrame(rows, {"share": pl.Float64, "size": pl.Float64}, orient="row")
    assert Share.failures(frame).rows() == reported(Share, frame)


@pytest.mark.parametrize(
    ("frame", "broken"),
    [
        (pl.DataFrame({"share": [0.5]}), "'size' breaks column_in_dataframe"),
        (pl.DataFrame({"share": [1], "size": [0.5]}), r"'share' breaks dtype\('Float64'\)"),
        (
            pl.DataFrame({"share": [0.5], "size": [0.5], "other": [1]}),
            "'other' breaks column_in_schema",
        ),
    ],
)
def test_a_frame_of_another_shape_is_refused(frame: pl.DataFrame, broken: str) -> None:
    with pytest.raises(GateError, match=rf"tests.shares: column {broken}; the frame does not"):
        Share.failures(frame)
