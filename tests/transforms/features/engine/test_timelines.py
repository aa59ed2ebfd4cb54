"""The fast path of aggregates keeps a heavy entity within the memory of one bucket."""

import subprocess
import sys

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
