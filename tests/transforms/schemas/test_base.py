"""A contract finds what Pandera reports: of each row, the first rule that it breaks."""

from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandera.errors import SchemaErrors
from pandera.polars import PolarsData

from transforms.errors import GateError
from transforms.schemas.base import Contract
from transforms.schemas.staging import StagedRecord

NOW = datetime.now(UTC)
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


def test_a_check_that_fails_itself_is_named() -> None:
    class Wrong(Share):
        @pa.dataframe_check(name="size:misspelt")
        def _reads_no_column(cls, data: PolarsData) -> pl.LazyFrame:  # noqa: N805
            return data.lazyframe.select(pl.col("sise") > 0)

    with pytest.raises(GateError, match=r"the check size:misspelt fails: ColumnNotFoundError"):
        Wrong.failures(pl.DataFrame({"share": [0.5], "size": [0.5]}))
