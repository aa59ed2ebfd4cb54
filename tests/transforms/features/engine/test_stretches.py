"""An entity with many records is computed by stretches of time of bounded size."""

from types import SimpleNamespace

import duckdb
import polars as pl
import pytest

from transforms.features import days, lifetime
from transforms.features.aggregates import Part
from transforms.features.engine import stretches
from transforms.features.engine.timelines import NEVER, Timelines, Wanted, timelines

WINDOWS = [days(1), days(7), lifetime]
WANTED = [
    Wanted(f"{part.kind}_{window.name}", part, window, part.input, None)
    for part in (Part("sum", "number"), Part("least", "number"), Part("greatest", "number"))
    for window in WINDOWS
]
# one in ten is superseded, two hours after it began
SPANS = f"""
    select
        'heavy' as entity_id,
        1 as sign,
        written as event_us,
        written + 1 as starts_us,
        case when n % 10 = 0 then written + 7_200_000_000 else {NEVER} end as superseded_us,
        (hash(n) % 1000)::bigint as number
    from (
        select n, 1_700_000_000_000_000 + (hash(n, 1) % 2_600_000_000_000)::bigint as written
        from range(2000) as numbers (n)
    )
"""
NOTHING = "select null::varchar as entity_id, null::bigint as instant_us limit 0"


def test_each_stretch_lays_out_few_records_and_all_have_the_rows_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []

    def measured(spans: pl.DataFrame, *rest: pl.DataFrame) -> Timelines:
        sizes.append(spans.height)
        return timelines(spans, *rest)

    monkeypatch.setattr(stretches, "timelines", measured)
    monkeypatch.setattr(stretches, "POINTS_OF_A_STRETCH", 500)
    with duckdb.connect() as connection:
        spans, nothing = connection.sql(SPANS).pl(), connection.sql(NOTHING).pl()
        group = SimpleNamespace(windows=WINDOWS)
        made = stretches.timelines_by_stretch(connection, group, SPANS, NOTHING, WANTED)
        rows = pl.concat(part for one in made for part in one.slices())
    assert rows.equals(pl.concat(timelines(spans, WANTED, nothing).slices()))
    # 6,200 change points; each record has up to four, in as many stretches
    assert len(sizes) == 13
    assert max(sizes) <= 500
