"""Every feature as in the catalogue, with the distribution of its values."""

from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import polars as pl

from feature_repo.catalogue import catalogue, kind
from transforms.features.registry import views
from transforms.pages import short
from transforms.paths import scan_parquet
from transforms.profiles.profile import SHOWN_LABEL
from transforms.schemas.base import Column
from transforms.warehouse.tables import Warehouse

SAMPLE_ROWS = 50_000
N_BINS = 20
SKEWED = 20  # times the median: from there on a histogram says more on a logarithmic scale


class Feature(NamedTuple):
    """A feature as in the catalogue, with the distribution of its values.

    That is the 5, 50 and 95 % quantiles with a histogram, or the most common values. `read_by`
    names what reads the feature, but not all of its view.
    """

    view: str
    column: Column
    kind: str
    null_ratio: float | None = None
    quantiles: tuple[str, ...] = ()
    bins: tuple[int, ...] = ()
    is_log: bool = False
    common: tuple[tuple[str, float], ...] = ()
    read_by: tuple[str, ...] = ()


def scan(warehouse: Warehouse, relation: str) -> pl.LazyFrame:
    """Scan a relation; a frame without columns where it was never written."""
    files = warehouse.files(relation)
    return scan_parquet(files) if files else pl.LazyFrame()


def features(warehouse: Warehouse) -> list[Feature]:
    """Describe the features of all views, as their tables are."""
    described = []
    for view in views():
        rows = scan(warehouse, view.relation)
        named = [column for column in catalogue()[view.name] if column.name in view.features]
        names = [column.name for column in named if column.name in rows.collect_schema()]
        n_rows = warehouse.n_rows(view.relation)
        sample = (
            rows.select(names)
            .gather_every(max(1, n_rows // SAMPLE_ROWS))
            .collect(engine="streaming")
            if names
            else pl.DataFrame()
        )
        described += [describe(view.name, column, sample) for column in named]
    return described


def describe(view: str, column: Column, sample: pl.DataFrame) -> Feature:
    """Describe how a feature's values lie in a sample of its view's rows."""
    feature = Feature(view, column, kind(column))
    if column.name not in sample.columns or sample.is_empty():
        return feature
    values = sample[column.name]
    feature = feature._replace(null_ratio=values.null_count() / len(values))
    values = values.drop_nulls()
    if values.is_empty() or values.dtype.is_nested():
        return feature
    if values.dtype == pl.String:
        return feature._replace(common=_common(values))
    return _with_histogram(feature, values)


def _common(values: pl.Series) -> tuple[tuple[str, float], ...]:
    """The most common values that read as names or small numbers, with their shares."""
    common = values.filter(values.str.contains(SHOWN_LABEL)).value_counts(sort=True).head(5)
    return tuple((str(value), n / len(values)) for value, n in common.iter_rows())


def _with_histogram(feature: Feature, values: pl.Series) -> Feature:
    is_time = values.dtype.is_temporal()
    numbers = (values.dt.epoch("s") if is_time else values).cast(pl.Float64).to_numpy()
    low, p5, median, p95, high = np.quantile(numbers, [0.01, 0.05, 0.5, 0.95, 0.99])
    is_log = bool(not is_time and low >= 0 and high > SKEWED * max(median, 1))
    clipped = np.clip(numbers, low, high)
    shown, low, high = (
        (np.log1p(clipped), np.log1p(low), np.log1p(high)) if is_log else (clipped, low, high)
    )
    # values that differ in their last digits only are one value: no bins lie between them
    bins, _ = np.histogram(
        shown, N_BINS, (low, low + 1 if np.isclose(low, high, rtol=1e-9, atol=0) else high)
    )
    write = _day if is_time else short
    return feature._replace(
        bins=tuple(bins.tolist()),
        is_log=is_log,
        quantiles=tuple(write(float(value)) for value in (p5, median, p95)),
    )


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
