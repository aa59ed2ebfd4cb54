"""Probes measure what they say: AUC by ranks, drift between splits, nulls."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.training.probes import auc, measure


@given(st.lists(st.tuples(st.none() | st.integers(-3, 3), st.booleans()), min_size=2, max_size=40))
def test_auc_is_that_of_scikit_learn(rows: list[tuple[int | None, bool]]) -> None:
    from sklearn.metrics import roc_auc_score

    values, label = (pl.Series(column) for column in zip(*rows, strict=True))
    found = auc(values.cast(pl.Int64), label)
    if label.n_unique() == 1:
        assert found is None
        return
    expected = roc_auc_score(label.to_numpy(), values.cast(pl.Float64).fill_null(-9).to_numpy())
    assert found == pytest.approx(max(expected, 1 - expected))


def test_text_has_no_auc_and_a_flag_has() -> None:
    label = pl.Series([True, False, True])
    assert auc(pl.Series(["a", "b", "c"]), label) is None
    assert auc(label, label) == 1.0


def test_drift_and_nulls_are_between_splits() -> None:
    numbers = np.random.default_rng(0).normal(size=2000)
    first = pl.DataFrame(
        {
            "author_id": "ann",
            "label": numbers > 0,
            "a__same": numbers,
            "a__moved": numbers,
            "a__kind": ["x", "y"] * 1000,
            "a__list": [[1.0]] * 2000,
        }
    )
    second = first.with_columns(
        pl.col("a__moved") + 2, a__kind=pl.lit("z"), a__same=pl.col("a__same").shuffle(seed=1)
    ).with_columns(a__same=pl.when(pl.int_range(2000) < 500).then(None).otherwise("a__same"))
    found = {one.feature: one for one in measure({"train": first, "valid": second}, ["author_id"])}
    assert list(found) == ["a__same", "a__moved", "a__kind", "a__list"]
    drift = {name: one.psi[1] for name, one in found.items()}
    assert drift["a__moved"] > 1  # type: ignore[operator]
    assert drift["a__kind"] > 1  # type: ignore[operator]
    assert drift["a__list"] is None
    assert found["a__same"].null_ratios == [0, 0.25]
    whole = measure({"train": first, "valid": first})[1]
    assert whole.psi == [None, pytest.approx(0, abs=0.01)]
    assert [sum(counts) for counts in whole.bins] == [1960, 1960]
