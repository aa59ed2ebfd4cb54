"""The fast path of aggregates keeps a heavy entity within the memory of one bucket."""

import subprocess
import sys
from datetime import datetime

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.features.engine import group_by
from transforms.features.engine.timelines import _ranks

# the peak of a separate process: in this one, earlier tests would count too
MEASURE = """
import resource
import numpy as np
import polars as pl
from transforms.features import days, lifetime
from transforms.features.aggregates import Part
from transforms.features.engine.timelines import NEVER, Wanted, timelines

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

n = 1_000_000
draw = np.random.default_rng(1)
event = np.sort(draw.integers(1_700_000_000_000_000, 1_703_000_000_000_000, n))
spans = pl.DataFrame({
    "entity_id": ["heavy"] * n,
    "sign": np.ones(n, np.int64),
    "is_retracted": [False] * n,
    "record_id": [f"r{i}" for i in range(n)],
    "event_us": event,
    "known_us": event,
    "starts_us": event + 1,
    "superseded_us": np.full(n, NEVER),
    "number": draw.integers(0, 1000, n),
    "text": [f"value {i}" for i in draw.integers(0, 50_000, n)],
})
published = pl.DataFrame(schema={"entity_id": pl.String, "instant_us": pl.Int64})
parts = [Part("least", "number"), Part("last_k", "text", k=5), Part("distinct", "text")]
wanted = [
    Wanted(f"{part.kind}_{window.name}", part, window, part.input, None)
    for part in parts
    for window in (days(1), days(7), lifetime)
]
before = peak()
n_rows, newest = 0, None
for rows in timelines(spans, wanted, published).slices():
    n_rows, newest = n_rows + rows.height, rows.tail(1).to_dicts()[0]
assert newest["distinct_lifetime"] == spans["text"].n_unique()
assert newest["last_k_lifetime"] == spans["text"].tail(5).reverse().to_list()
assert newest["least_lifetime"] == spans["number"].min()
print(n_rows, (peak() - before) // 1024)
"""


def test_a_million_records_of_one_entity_stay_within_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True
    )
    n_rows, megabytes = map(int, done.stdout.split())
    assert n_rows > 1_000_000
    assert megabytes < 700


@settings(max_examples=30)
@given(st.lists(st.integers(0, 60), max_size=8))
def test_large_entities_have_buckets_of_their_own_and_each_span_is_in_one(sizes: list[int]) -> None:
    spans = [f"entity {n}" for n, size in enumerate(sizes) for _ in range(size)]
    with pytest.MonkeyPatch.context() as patch, duckdb.connect() as connection:
        patch.setattr(group_by, "SPANS_OF_A_BUCKET", 20)
        connection.register("spans", pl.DataFrame({"entity_id": spans}, {"entity_id": pl.String}))
        connection.execute("create table published as from spans limit 0")
        _, n_buckets, bucket = group_by._buckets(connection, "from spans")
        placed = connection.sql(f"select {bucket}, entity_id from spans").fetchall()
    assert len(placed) == len(spans)
    assert {number for number, _ in placed} <= set(range(n_buckets))
    buckets = {entity: {number for number, of in placed if of == entity} for entity in spans}
    assert all(len(of_entity) == 1 for of_entity in buckets.values())
    for n, size in enumerate(sizes):
        if size >= 10 and len(spans) >= 20:  # half a bucket, and more than one bucket
            (own,) = buckets[f"entity {n}"]
            assert {entity for number, entity in placed if number == own} == {f"entity {n}"}


@given(st.lists(st.none() | st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)), max_size=9))  # noqa: DTZ001 - bounds of hypothesis have no zone
def test_ranks_of_instants_are_those_of_their_texts(instants: list[datetime | None]) -> None:
    values = pl.Series(instants, dtype=pl.Datetime("us", "UTC"))
    ordered, ranks = _ranks(values)
    assert ordered.to_list() == values.drop_nulls().unique().sort().to_list()
    assert [None if rank < 0 else ordered[int(rank)] for rank in ranks] == values.to_list()
    assert ranks.tolist() == _ranks(values.dt.strftime("%Y-%m-%dT%H:%M:%S.%6f"))[1].tolist()
