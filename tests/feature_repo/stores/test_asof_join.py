"""The point-in-time join equals nested loops and Feast's own store: keys, ties, TTL, no spine."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureService, FeatureStore, FeatureView, Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64
from hypothesis import given, settings
from hypothesis import strategies as st

MakeStore = Callable[..., FeatureStore]
WriteView = Callable[..., FeatureView]
Rows = list[dict[str, Any]]

EVENT, CREATED = "event_timestamp", "created_timestamp"
START = datetime(2024, 1, 1, tzinfo=UTC)
SECOND, MICROSECOND = timedelta(seconds=1), timedelta(microseconds=1)
INSTANT = pa.timestamp("us", "UTC")


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def newest(
    spine: Rows,
    rows: Rows,
    keys: dict[str, str],
    ttl: timedelta | None = None,
    *,
    known: bool = False,
) -> list[dict[str, Any] | None]:
    """Find each spine row's feature row by nested loops; `keys` maps feature keys to spine keys."""
    found: list[dict[str, Any] | None] = []
    for point in spine:
        best, best_order = None, (START, START)
        for row in rows:
            instant, event, created = point[EVENT], row[EVENT], row.get(CREATED)
            if any(
                row[key] is None or row[key] != point[spine_key] for key, spine_key in keys.items()
            ):
                continue
            if (
                instant is None
                or event is None
                or event > instant
                or (ttl and instant - event > ttl)
            ):
                continue
            if known and CREATED in row and (created is None or created > instant):
                continue
            # a row of unknown creation counts as the oldest
            order = (
                event,
                created or datetime.min.replace(tzinfo=UTC),
            )
            if best is None or order > best_order:
                best, best_order = row, order
        found.append(best)
    return found


def values(found: Sequence[dict[str, Any] | None], feature: str) -> list[Any]:
    return [row[feature] if row else None for row in found]


# --- against nested loops ---

instants = st.integers(0, 5).map(at)
ttls = st.sampled_from([None, timedelta(0), SECOND, 2 * SECOND])
users, items = st.sampled_from([1, 2, 11, 12, None]), st.sampled_from(["a", "b", None])
sources = st.sampled_from(
    [
        ("delta", "us", "UTC"),
        ("delta", "us", None),
        ("file", "ns", None),
        ("folder", "ms", "Asia/Kolkata"),
        ("hive", "us", "UTC"),
    ]
)
stamps = {EVENT: st.one_of(instants, st.none()), CREATED: st.one_of(instants, st.none())}


def rows_of(**columns: st.SearchStrategy[Any]) -> st.SearchStrategy[Rows]:
    """Draw distinct feature rows and number them as `value`, so that there is one answer."""
    rows = st.lists(
        st.fixed_dictionaries(columns),
        max_size=12,
        unique_by=lambda row: tuple(str(row[name]) for name in sorted(row)),
    )
    return rows.map(lambda rows: [{**row, "value": number} for number, row in enumerate(rows)])


def table(
    rows: Rows, schema: dict[str, Any], unit: str = "us", zone: str | None = "UTC"
) -> pa.Table:
    """Make rows a table, with the stamps of a unit and a zone; naive ones count as UTC."""
    stamped = {name: INSTANT if name in (EVENT, CREATED) else kind for name, kind in schema.items()}
    frame = pa.Table.from_pylist(rows, pa.schema(stamped))
    return frame.cast(
        pa.schema(
            {
                name: pa.timestamp(unit, zone) if kind == INSTANT else kind
                for name, kind in stamped.items()
            }
        )
    )


ABOUT_USER = {"user": pa.int64(), EVENT: INSTANT, CREATED: INSTANT, "value": pa.int64()}
ABOUT_PAIR = {"user": pa.int64(), "item": pa.string(), EVENT: INSTANT, "value": pa.int32()}
ABOUT_ALL = {EVENT: INSTANT, CREATED: INSTANT, "value": pa.int64()}
SPINE = {
    "friend": pa.int64(),
    "user": pa.int64(),
    "item": pa.string(),
    EVENT: INSTANT,
    "order": pa.int16(),
}


@given(
    spine=st.lists(
        st.fixed_dictionaries(
            {
                "friend": users,
                "user": users,
                "item": items,
                EVENT: stamps[EVENT],
                "order": st.just(7),
            }
        ),
        max_size=12,
    ),
    about_user=rows_of(user=users, **stamps),
    about_pair=rows_of(user=users, item=items, **{EVENT: stamps[EVENT]}),
    about_all=rows_of(**stamps),
    layouts=st.tuples(sources, sources, sources),
    stamp=st.sampled_from([("us", "UTC"), ("ns", None), ("ms", "America/New_York")]),
    ttl=st.tuples(ttls, ttls, ttls),
    known=st.booleans(),
    batch_rows=st.sampled_from([3, 1_000_000]),
    parts=st.sampled_from([1, 3]),
)
@settings(max_examples=60)
def test_joins_as_nested_loops_do(
    write_view: WriteView,
    make_store: MakeStore,
    spine: Rows,
    about_user: Rows,
    about_pair: Rows,
    about_all: Rows,
    layouts: tuple[Any, ...],
    stamp: tuple[str, str | None],
    ttl: tuple[timedelta | None, ...],
    known: bool,  # noqa: FBT001
    batch_rows: int,
    parts: int,
) -> None:
    (user_layout, *user_stamp), (pair_layout, *pair_stamp), (all_layout, *all_stamp) = layouts
    visits = write_view(
        "visits",
        table(about_user, ABOUT_USER, *user_stamp),
        ["user"],
        ttl=ttl[0],
        layout=user_layout,
    )
    orders = write_view(
        "orders",
        table(about_pair, ABOUT_PAIR, *pair_stamp),
        ["user", "item"],
        ttl=ttl[1],
        layout=pair_layout,
    )
    weather = write_view(
        "weather", table(about_all, ABOUT_ALL, *all_stamp), [], ttl=ttl[2], layout=all_layout
    )
    own, friends = (
        visits.with_name("own"),
        visits.with_name("friends").with_join_key_map({"user": "friend"}),
    )
    service = FeatureService(
        name="all", features=[view[["value"]] for view in (orders, friends, own, weather)]
    )
    store = make_store(visits, orders, weather, service, batch_rows=batch_rows)
    points = table(spine, SPINE, *stamp)
    job = store.get_historical_features(
        points, service, full_feature_names=True, filter_by_created_timestamp=known
    )
    with pytest.MonkeyPatch.context() as patch:
        # as if a third of a view fitted in memory
        patch.setattr("feature_repo.stores.asof.n_partitions", lambda *_: parts)
        result = job.to_arrow()
    assert result.column_names == [
        *SPINE,
        "orders__value",
        "friends__value",
        "own__value",
        "weather__value",
    ]
    assert result.select(points.column_names).equals(points)
    expected = {
        "orders__value": newest(
            spine, about_pair, {"user": "user", "item": "item"}, ttl[1], known=known
        ),
        "friends__value": newest(spine, about_user, {"user": "friend"}, ttl[0], known=known),
        "own__value": newest(spine, about_user, {"user": "user"}, ttl[0], known=known),
        "weather__value": newest(spine, about_all, {}, ttl[2], known=known),
    }
    for column, found in expected.items():
        assert result[column].to_pylist() == values(found, "value"), column
    assert [result.schema.field(column).type for column in expected] == [
        pa.int32(),
        pa.int64(),
        pa.int64(),
        pa.int64(),
    ]


# --- against Feast's own store, which drops rows and answers the rest ---


@given(
    spine=st.lists(
        st.fixed_dictionaries(
            {"user": st.integers(1, 3), "item": st.sampled_from(["a", "b"]), EVENT: instants}
        ),
        min_size=1,
        max_size=8,
        unique_by=lambda row: (row["user"], row["item"], row[EVENT]),
    ),
    rows=rows_of(
        user=st.integers(1, 3),
        item=st.sampled_from(["a", "b"]),
        **{EVENT: instants, CREATED: instants},
    ).filter(bool),
    ttl=ttls,
    known=st.booleans(),
)
@settings(max_examples=15)
def test_agrees_with_stock_feast(
    write_view: WriteView,
    make_store: MakeStore,
    spine: Rows,
    rows: Rows,
    ttl: timedelta | None,
    known: bool,  # noqa: FBT001
) -> None:
    schema = {**ABOUT_PAIR, CREATED: INSTANT, "value": pa.int64()}
    orders = write_view("orders", table(rows, schema), ["user", "item"], ttl=ttl, layout="file")

    def answers(store: FeatureStore) -> dict[tuple[Any, ...], float]:
        job = store.get_historical_features(
            pd.DataFrame(spine), ["orders:value"], filter_by_created_timestamp=known
        )
        return {
            (row.user, row.item, row.event_timestamp): row.value
            for row in job.to_df().itertuples()
            if not pd.isna(row.value)
        }

    assert answers(make_store(orders)) == answers(make_store(orders, type="dask"))


# --- named cases ---


def test_keeps_two_part_keys_apart(write_view: WriteView, make_store: MakeStore) -> None:
    rows = pa.table(
        {"first": [1, 11], "second": [12, 2], EVENT: [at(0)] * 2, "value": ["1 and 12", "11 and 2"]}
    )
    store = make_store(write_view("pairs", rows, ["first", "second"]))
    spine = pa.table({"first": [11, 1, 1, 112], "second": [2, 12, 2, 112], EVENT: [at(1)] * 4})
    result = store.get_historical_features(spine, ["pairs:value"]).to_arrow()
    assert result["value"].to_pylist() == ["11 and 2", "1 and 12", None, None]


@pytest.mark.parametrize("layout", ["delta", "file", "folder", "hive"])
@pytest.mark.parametrize("known", [False, True])
def test_answers_null_for_a_view_without_rows(
    write_view: WriteView, make_store: MakeStore, layout: str, *, known: bool
) -> None:
    store = make_store(write_view("visits", table([], ABOUT_USER), layout=layout))
    spine = pa.table({"user": [1, 1], EVENT: [at(1)] * 2})
    job = store.get_historical_features(spine, ["visits:value"], filter_by_created_timestamp=known)
    assert job.to_arrow()["value"].equals(pa.chunked_array([[None, None]], pa.int64()))


def test_answers_nothing_for_a_spine_without_rows(
    write_view: WriteView, make_store: MakeStore
) -> None:
    rows = [{"user": 1, EVENT: at(0), CREATED: at(0), "value": 1}]
    store = make_store(write_view("visits", table(rows, ABOUT_USER)))
    spine = pa.table({"user": pa.array([], pa.int64()), EVENT: pa.array([], INSTANT)})
    result = store.get_historical_features(spine, ["visits:value"]).to_arrow()
    assert result.schema == pa.schema([*spine.schema, ("value", pa.int64())])
    assert result.num_rows == 0


@pytest.mark.parametrize("stamp", [INSTANT, pa.timestamp("us"), pa.timestamp("ns", "UTC")])
def test_keeps_a_row_as_old_as_the_ttl_and_none_a_microsecond_older(
    write_view: WriteView, make_store: MakeStore, stamp: pa.DataType
) -> None:
    rows = pa.table({"user": [1], EVENT: pa.array([at(0)], INSTANT).cast(stamp), "value": [5]})
    store = make_store(write_view("visits", rows, ttl=timedelta(days=1)))
    edge = at(0) + timedelta(days=1)
    spine = pa.table(
        {"user": [1] * 4, EVENT: [at(0) - MICROSECOND, at(0), edge, edge + MICROSECOND]}
    )
    result = store.get_historical_features(spine, ["visits:value"]).to_arrow()
    assert result["value"].to_pylist() == [None, 5, 5, None]


def test_compares_nanoseconds_where_there_are_any(
    write_view: WriteView, make_store: MakeStore
) -> None:
    start = pd.Timestamp(at(0)).value
    fine = pa.table(
        {"user": [1], EVENT: pa.array([start + 1], pa.timestamp("ns", "UTC")), "value": [5]}
    )
    coarse = pa.table({"user": [1], EVENT: [at(0)], "value": [6]})
    store = make_store(
        write_view("fine", fine, ttl=SECOND, layout="file"),
        write_view("coarse", coarse, ttl=SECOND),
    )
    ticks = [-1, 0, 1, 10**9, 10**9 + 1, 10**9 + 2]
    spine = pa.table(
        {
            "user": [1] * len(ticks),
            EVENT: pa.array([start + tick for tick in ticks], pa.timestamp("ns", "UTC")),
        }
    )
    result = store.get_historical_features(
        spine, ["fine:value", "coarse:value"], full_feature_names=True
    ).to_arrow()
    assert result["fine__value"].to_pylist() == [None, None, 5, 5, 5, None]
    assert result["coarse__value"].to_pylist() == [None, 6, 6, 6, None, None]
    in_microseconds = pa.table({"user": [1, 1], EVENT: [at(0), at(0) + MICROSECOND]})
    result = store.get_historical_features(in_microseconds, ["fine:value"]).to_arrow()
    assert result["value"].to_pylist() == [None, 5]


def test_an_older_row_does_not_stand_in_for_an_expired_one(
    write_view: WriteView, make_store: MakeStore
) -> None:
    """A row without a value is a row: its null is the answer, not the value before it."""
    rows = pa.table({"user": [1, 1], EVENT: [at(0), at(1)], "value": [5, None]})
    store = make_store(write_view("visits", rows))
    result = store.get_historical_features(
        pa.table({"user": [1], EVENT: [at(2)]}), ["visits:value"]
    ).to_arrow()
    assert result["value"].to_pylist() == [None]


def test_takes_what_was_known_though_newer_was_written_later(
    write_view: WriteView, make_store: MakeStore
) -> None:
    rows = [
        {"user": 1, EVENT: at(1), CREATED: at(1), "value": 1},
        {"user": 1, EVENT: at(1), CREATED: at(4), "value": 2},  # a correction of the same instant
        {"user": 1, EVENT: at(2), CREATED: at(6), "value": 3},  # written four seconds late
    ]
    store = make_store(write_view("visits", table(rows, ABOUT_USER)))
    spine = pa.table({"user": [1] * 6, EVENT: [at(seconds) for seconds in (0, 1, 3, 4, 5, 6)]})
    known = store.get_historical_features(
        spine, ["visits:value"], filter_by_created_timestamp=True
    ).to_arrow()
    assert known["value"].to_pylist() == [None, 1, 1, 2, 2, 3]
    later = store.get_historical_features(spine, ["visits:value"]).to_arrow()
    assert later["value"].to_pylist() == [None, 2, 3, 3, 3, 3]


def test_a_row_of_unknown_creation_counts_as_the_oldest_and_as_never_known(
    write_view: WriteView, make_store: MakeStore
) -> None:
    rows = [
        {"user": 1, EVENT: at(1), CREATED: None, "value": 1},
        {"user": 1, EVENT: at(1), CREATED: at(4), "value": 2},
        {"user": 2, EVENT: at(1), CREATED: None, "value": 3},
    ]
    store = make_store(write_view("visits", table(rows, ABOUT_USER)))
    spine = pa.table({"user": [1, 2], EVENT: [at(5)] * 2})
    for known, expected in ((False, [2, 3]), (True, [2, None])):
        result = store.get_historical_features(
            spine, ["visits:value"], filter_by_created_timestamp=known
        ).to_arrow()
        assert result["value"].to_pylist() == expected


def test_maps_source_columns_to_keys_and_features(
    write_view: WriteView, make_store: MakeStore
) -> None:
    rows = pa.table({"uid": [1, 2], EVENT: [at(0)] * 2, "v": [5, 6]})
    store = make_store(write_view("visits", rows, mapping={"uid": "user", "v": "value"}))
    result = store.get_historical_features(
        pa.table({"user": [2], EVENT: [at(2)]}), ["visits:value"]
    ).to_arrow()
    assert result.to_pylist() == [{"user": 2, EVENT: at(2), "value": 6}]


def test_a_time_of_the_source_may_have_another_name(
    write_view: WriteView, make_store: MakeStore
) -> None:
    rows = pa.table({"user": [1, 1], "seen": [at(1), at(5)], "value": [10, 50]})
    store = make_store(write_view("visits", rows, mapping={"seen": EVENT}))
    spine = pa.table({"user": [1, 1], EVENT: [at(4), at(5)]})
    assert store.get_historical_features(spine, ["visits:value"]).to_arrow()[
        "value"
    ].to_pylist() == [10, 50]


def test_reads_features_named_as_the_spine_or_sql_would_not_like(
    write_view: WriteView, make_store: MakeStore
) -> None:
    rows = pa.table(
        {"user": [1], EVENT: [at(0)], 'a "quoted" name': [5], "select": [6], "spine": [7]}
    )
    store = make_store(write_view("visits", rows))
    refs = [f"visits:{name}" for name in rows.column_names[2:]]
    result = store.get_historical_features(pa.table({"user": [1], EVENT: [at(2)]}), refs).to_arrow()
    assert list(result.to_pylist()[0].values()) == [1, at(2), 5, 6, 7]


def test_reads_a_partition_column_as_a_feature(
    write_view: WriteView, make_store: MakeStore
) -> None:
    rows = pa.table(
        {"user": [1, 2], EVENT: [at(0)] * 2, "half": pa.array([0, 1], pa.int32()), "value": [5, 6]}
    )
    store = make_store(write_view("visits", rows, layout="hive"))
    spine = pa.table({"user": [1, 2, 3], EVENT: [at(2)] * 3})
    result = store.get_historical_features(spine, ["visits:half", "visits:value"]).to_arrow()
    assert result.select(["half", "value"]).to_pylist() == [
        {"half": 0, "value": 5},
        {"half": 1, "value": 6},
        {"half": None, "value": None},
    ]


def test_joins_keys_of_other_widths(write_view: WriteView, make_store: MakeStore) -> None:
    rows = pa.table({"user": [1, 2], "item": ["a", "b"], EVENT: [at(0)] * 2, "value": [5, 6]})
    store = make_store(write_view("orders", rows, ["user", "item"]))
    item = pa.array(["a", "b", "b"]).dictionary_encode()
    for user in (
        pa.array([1, 2, None], pa.int8()),
        pa.array([1, 2, None], pa.uint32()),
        pa.array([1.0, 2.0, None]),
    ):
        spine = pa.table({"user": user, "item": item, EVENT: [at(2)] * 3})
        result = store.get_historical_features(spine, ["orders:value"]).to_arrow()
        assert result.select(spine.column_names).equals(spine)
        assert result["value"].to_pylist() == [5, 6, None]


@pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature")
def test_on_demand_views_compute_on_top(write_view: WriteView, make_store: MakeStore) -> None:
    rows = [{"user": 1, EVENT: at(0), CREATED: at(0), "value": 2}]
    visits = write_view("visits", table(rows, ABOUT_USER))

    @on_demand_feature_view(
        sources=[
            visits,
            RequestSource(name="factor", schema=[Field(name="factor", dtype=Float64)]),
        ],
        schema=[Field(name="product", dtype=Float64)],
        mode="pandas",
    )
    def scaled(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"product": inputs["value"] * inputs["factor"]})

    store = make_store(visits, scaled, batch_rows=3)
    spine = pa.table({"user": [1] * 5, EVENT: [at(1)] * 5, "factor": [0.5, 1.0, 1.5, 2.0, 2.5]})
    job = store.get_historical_features(spine, ["scaled:product", "visits:value"])
    table_of_job = job.to_arrow()
    assert table_of_job["product"].to_pylist() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert job.to_arrow_reader().read_all().equals(table_of_job)
    assert (
        job.to_polars()["product"].to_list()
        == job.to_df()["product"].to_list()
        == [1.0, 2.0, 3.0, 4.0, 5.0]
    )


# --- nothing of the future ---

rows_and_split = st.tuples(
    rows_of(user=st.integers(1, 3), **{EVENT: instants, CREATED: instants}),
    st.integers(0, 5),
    st.randoms(),
)


@given(rows_and_split, ttls, st.booleans())
@settings(max_examples=15)
def test_the_future_does_not_reach_the_past(
    write_view: WriteView,
    make_store: MakeStore,
    drawn: tuple[Rows, int, Any],
    ttl: timedelta | None,
    known: bool,  # noqa: FBT001
) -> None:
    rows, split, random = drawn
    stamp = CREATED if known else EVENT
    past = [row for row in rows if row[stamp] <= at(split)]
    future = [row for row in rows if row[stamp] > at(split)]
    shuffled = random.sample([row["value"] for row in future], len(future))
    altered = [
        {**row, "user": 4 - row["user"], "value": value}
        for row, value in zip(future, shuffled, strict=True)
    ]
    spine = pa.table({"user": [1, 2, 3] * 2, EVENT: [at(split)] * 3 + [at(split - 1)] * 3})

    def answers(changed: Rows) -> list[Any]:
        store = make_store(
            write_view("visits", table(changed, ABOUT_USER), ttl=ttl, layout="folder")
        )
        job = store.get_historical_features(
            spine, ["visits:value"], filter_by_created_timestamp=known
        )
        return job.to_arrow()["value"].to_pylist()

    assert answers(rows) == answers(past + altered) == answers(past)


# --- without an entity frame ---


def without_entities(
    start: datetime, end: datetime, views: Sequence[tuple[Rows, list[str], timedelta | None]]
) -> list[tuple[Any, ...]]:
    """Return every key seen between start and end, at the end, as Feast's Spark store does."""
    names = list(dict.fromkeys(key for _, keys, _ in views for key in keys))
    seen = {
        tuple(row.get(name) if name in keys else None for name in names)
        for rows, keys, _ in views
        for row in rows
        if start <= row[EVENT] <= end
    }
    spine = [{**dict(zip(names, key, strict=True)), EVENT: end} for key in sorted(seen, key=str)]
    columns = [
        values(newest(spine, rows, {key: key for key in keys}, ttl), "value")
        for rows, keys, ttl in views
    ]
    return [
        (*(row[name] for name in names), end, *found)
        for row, *found in zip(spine, *columns, strict=True)
    ]


@given(
    rows_of(user=st.integers(1, 3), **{EVENT: instants, CREATED: instants}),
    rows_of(user=st.integers(1, 3), item=st.sampled_from(["a", "b"]), **{EVENT: instants}),
    st.tuples(st.integers(0, 5), st.integers(0, 5)).map(sorted),
    st.tuples(ttls, ttls),
)
@settings(max_examples=25)
def test_retrieves_without_an_entity_frame(
    write_view: WriteView,
    make_store: MakeStore,
    about_user: Rows,
    about_pair: Rows,
    span: list[int],
    ttl: tuple[timedelta | None, ...],
) -> None:
    visits = write_view("visits", table(about_user, ABOUT_USER), ttl=ttl[0])
    orders = write_view(
        "orders", table(about_pair, ABOUT_PAIR), ["user", "item"], ttl=ttl[1], layout="hive"
    )
    start, end = map(at, span)
    job = make_store(visits, orders).get_historical_features(
        None,
        ["orders:value", "visits:value"],
        full_feature_names=True,
        start_date=start,
        end_date=end,
    )
    result = job.to_arrow()
    assert result.column_names == ["user", "item", EVENT, "orders__value", "visits__value"]
    expected = without_entities(
        start, end, [(about_pair, ["user", "item"], ttl[1]), (about_user, ["user"], ttl[0])]
    )
    assert Counter(tuple(row.values()) for row in result.to_pylist()) == Counter(expected)
    assert (job.metadata.min_event_timestamp, job.metadata.max_event_timestamp) == (start, end)


def test_retrieves_a_view_without_entities_and_without_a_frame(
    write_view: WriteView, make_store: MakeStore
) -> None:
    rows = [{EVENT: at(seconds), CREATED: at(9), "value": seconds} for seconds in (1, 2, 4)]
    store = make_store(write_view("weather", table(rows, ABOUT_ALL), []))
    result = store.get_historical_features(
        None, ["weather:value"], start_date=at(0), end_date=at(3)
    ).to_arrow()
    assert result.to_pylist() == [{EVENT: at(3), "value": 2}]
    result = store.get_historical_features(
        None, ["weather:value"], start_date=at(5), end_date=at(9)
    ).to_arrow()
    assert result.to_pylist() == [{EVENT: at(9), "value": 4}]


def test_a_range_without_a_start_reaches_back_as_far_as_the_ttl(
    write_view: WriteView, make_store: MakeStore
) -> None:
    rows = [
        {"user": user, EVENT: at(seconds), CREATED: at(9), "value": user}
        for user, seconds in ((1, 0), (2, 3), (3, 5))
    ]
    store = make_store(write_view("visits", table(rows, ABOUT_USER), ttl=2 * SECOND))
    result = store.get_historical_features(
        None, ["visits:value"], end_date=at(5).replace(tzinfo=None)
    ).to_arrow()
    assert sorted(result["user"].to_pylist()) == [2, 3]
