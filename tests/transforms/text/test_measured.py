"""Kernels measure few texts by a quicker way than many, and give the same."""

from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from transforms.text import measured
from transforms.text.pii import score_pii
from transforms.text.quality import score_quality
from transforms.text.signals import score_text
from transforms.text.vectors import hash_text

KERNELS = pytest.mark.parametrize("kernel", [score_quality, score_text, score_pii, hash_text])
AT = datetime(2026, 1, 1, tzinfo=UTC)


def records(texts: list[str | None]) -> pl.LazyFrame:
    keys = pl.DataFrame({"record_id": list(map(str, range(len(texts))))})
    times = keys.with_columns(event_timestamp=pl.lit(AT), created_timestamp=pl.lit(AT))
    return times.with_columns(pl.Series("text", texts, pl.String)).lazy()


@KERNELS
@given(texts=st.lists(st.none() | st.text(min_size=1)))
def test_few_texts_are_measured_as_many_are(
    kernel: measured.Kernel, texts: list[str | None]
) -> None:
    few = kernel(records(texts)).collect()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measured, "FEW_TEXTS", 0)
        many = kernel(records(texts)).collect()
    assert_frame_equal(few, many, check_exact=True)


@KERNELS
def test_a_frame_gives_what_a_plan_gives(kernel: measured.Kernel) -> None:
    given_records = records(["One of them.", None, "Two, or three?"])
    of_frame = kernel.__wrapped__(given_records.collect())  # type: ignore[attr-defined]
    assert_frame_equal(kernel(given_records).collect(), of_frame, check_exact=True)
