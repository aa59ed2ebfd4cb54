"""Expressions over features: row by row, in order, exactly, in any thread."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.errors import DerivedError
from transforms.features.engine.derived import derive, digest

RATIO = {"burst": "n_records_1d / nullif(n_records_28d / 28.0, 0)", "twice": "2 * n_records_1d"}
COUNT = st.none() | st.integers(0, 2**40)


@given(st.lists(st.tuples(COUNT, COUNT), max_size=20))
@settings(max_examples=40)
def test_each_row_is_computed_from_its_own_values(
    rows: list[tuple[int | None, int | None]],
) -> None:
    inputs = pl.DataFrame(rows, {"n_records_1d": pl.Int64, "n_records_28d": pl.Int64}, orient="row")
    found = derive(inputs, RATIO)
    assert found["burst"].to_list() == [
        None if day is None or not month else day / (month / 28.0) for day, month in rows
    ]
    assert found["twice"].to_list() == [None if day is None else 2 * day for day, _ in rows]


@pytest.mark.parametrize("n_rows", [0, 1, 10_000, 300_000])
def test_rows_keep_their_order_from_polars_and_from_arrow(n_rows: int) -> None:
    inputs = pl.DataFrame({"n": pl.int_range(n_rows, eager=True)})
    assert derive(inputs, {"next": "n + 1"})["next"].equals(inputs["n"] + 1)
    chunked = pa.concat_tables([inputs[: n_rows // 3].to_arrow(), inputs[n_rows // 3 :].to_arrow()])
    assert derive(chunked, {"next": "n + 1"})["next"].equals(inputs["n"] + 1)


def test_one_expression_is_computed_over_columns_of_other_types() -> None:
    whole, text = pl.DataFrame({"x": [1, None]}), pl.DataFrame({"x": ["a"], "y": [0]})
    for _ in range(2):
        assert derive(whole, {"said": "x || '!'"})["said"].to_list() == ["1!", None]
        assert derive(text, {"said": "x || '!'"})["said"].to_list() == ["a!"]


def test_an_instant_is_what_it_is_in_utc() -> None:
    at = datetime(2026, 3, 29, 2, 30, tzinfo=UTC)
    inputs = pl.DataFrame(
        {"event_timestamp": [at], "first": [at - timedelta(days=1, microseconds=1)]}
    )
    features = {"hour": "hour(event_timestamp)", "passed": "epoch_us(event_timestamp - first)"}
    assert derive(inputs, features).row(0) == (2, 86_400_000_001)


def test_threads_compute_at_once() -> None:
    def ask(number: int) -> Any:
        return (
            derive(pl.DataFrame({"n": [number] * 50}), {"next": "n + 1"})["next"].unique().to_list()
        )

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(200))) == [[number + 1] for number in range(200)]


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("m + 1", 'feature bad: Binder Error: Referenced column "m" not found in FROM clause!'),
        ("n +", "feature bad: syntax error"),
        ("(select 1)", "feature bad: may not contain a subquery"),
        ("read_text('/etc/passwd')", r"feature bad: may not call read_text\(\)"),
        ("text::int", "feature bad: its expression cannot be computed over these values"),
    ],
)
def test_the_expression_that_fails_is_named_and_no_value(expression: str, reason: str) -> None:
    with pytest.raises(DerivedError, match=f"^{reason}") as refused:
        derive(
            pl.DataFrame({"n": [1], "text": ["secret"]}),
            {"good": "n", "bad": expression, "fine": "n"},
        )
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_another_expression_has_another_digest() -> None:
    assert digest(RATIO) == digest(dict(RATIO))
    assert digest(RATIO) != digest({**RATIO, "twice": "3 * n_records_1d"})


def test_a_process_ends_without_a_word_about_what_is_open() -> None:
    code = (
        "import polars as pl, threading; from transforms.features.engine.derived import derive\n"
        "ask = lambda: derive(pl.DataFrame({'n': [1]}), {'next': 'n + 1'})\n"
        "ask(); thread = threading.Thread(target=ask); thread.start(); thread.join()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
