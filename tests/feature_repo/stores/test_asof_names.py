"""Any column name works, whatever the engines make of it; `x` is not `X`, offline or online."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore, FeatureView
from feast.infra.common.materialization_job import MaterializationTask
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from feature_repo.stores.asof import AsofOfflineStore
from feature_repo.stores.columnar import Materialization

MakeStore = Callable[..., FeatureStore]
WriteView = Callable[..., FeatureView]

EVENT = "event_timestamp"
START = datetime(2024, 1, 1, tzinfo=UTC)
END = START + timedelta(days=1)
PAIRS = ["x", "X", "user", "User", "EVENT_TIMESTAMP", "straße", "STRASSE", "é", "É", "x_1", "X_1"]
AWKWARD = [
    'height "cm"',
    "it's",
    "a.b",
    "a b",
    "",
    "select",
    "from",
    "*",
    "$1",
    "$start",
    "?",
    "%s",
    "{x}",
    "--",
    "/*",
    ";",
    "\n",
    "x" * 300,
]
OURS = [
    "key_0",
    "feature_0",
    "value_0",
    "spine_0",
    "column_0",
    "place",
    "rank",
    "number",
    "seen",
    "newest",
    "instant",
    "visible",
    "has_arrived",
    "filename",
]
OURS += [
    "__instant",
    "__created",
    "__row",
    "__spine_row",
    "__visible",
    "half",
    "Rank",
    "PLACE",
    "asked",
    "rows",
    "index",
]
names = st.sampled_from([*PAIRS, *AWKWARD[:4], *AWKWARD[5:], *OURS]) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0:@"), min_size=1, max_size=8
)
MANY = ["k", "K", "x", "X", "rank", "Rank", "number"]


def serve(store: FeatureStore, view: FeatureView) -> None:
    task = MaterializationTask(
        store.project, view, START, END, lambda total: tqdm(total=total, disable=True)
    )
    Materialization(store.config, store._get_provider().online_store, view).run(task)


@given(
    drawn=st.lists(names, min_size=3, max_size=6, unique=True).filter(
        lambda drawn: EVENT not in drawn
    )
)
@example(drawn=MANY)
@example(drawn=["X", "x", "user", "User"])
@settings(max_examples=25, phases=[Phase.explicit, Phase.generate])
def test_any_name_is_trained_on_pulled_and_served(
    write_view: WriteView, make_store: MakeStore, drawn: list[str]
) -> None:
    key, *features = drawn
    columns = {name: [10 * number, 10 * number + 1] for number, name in enumerate(features, 1)}
    rows = pa.table({key: [1, 2], EVENT: [START] * 2, **columns})
    view = write_view("named", rows, [key], layout="file")
    store = make_store(view)
    refs = [f"named:{name}" for name in features]
    spine = pa.table({key: [2, 1, 3], EVENT: [END] * 3})
    job = store.get_historical_features(spine, refs)
    trained = job.to_arrow()
    assert trained.column_names == [key, EVENT, *features]
    assert {name: trained[name].to_pylist() for name in features} == {
        name: [*values[::-1], None] for name, values in columns.items()
    }
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.register("spine", spine)
        assert connection.sql(job.to_sql()).fetchall() == [
            tuple(row.values()) for row in trained.to_pylist()
        ]
    source = view.batch_source
    pulled = AsofOfflineStore.pull_latest_from_table_or_query(
        store.config, source, [key], features, EVENT, None, START, END
    ).to_arrow()
    assert pulled.select([key, *features]).to_pydict() == {key: [1, 2], **columns}
    serve(store, view)
    served = store.get_online_features(
        refs, [{key: 1}, {key: 2}], full_feature_names=True
    ).to_dict()
    assert {name: served[f"named__{name}"] for name in features} == columns


@pytest.mark.parametrize("features", [["x"], ["X"], ["x", "X"]])
@pytest.mark.parametrize("layout", ["file", "folder"])
def test_a_view_over_one_of_two_names_reads_that_one(
    define_view: Callable[..., FeatureView],
    make_store: MakeStore,
    tmp_path: Path,
    features: list[str],
    layout: str,
) -> None:
    rows = pa.table({"user": [1], EVENT: [START], "x": [1], "X": [10]})
    path = tmp_path / "source"
    path.mkdir()
    pq.write_table(rows, path / "0.parquet")
    if layout == "folder":  # a later file that has only one of them, and in another order
        pq.write_table(rows.select(["X", EVENT, "user"]).slice(0, 0), path / "1.parquet")
    view = define_view("cased", str(path), rows.select(["user", EVENT, *features]).schema)
    store = make_store(view)
    expected = {name: [{"x": 1, "X": 10}[name]] for name in features}
    refs = [f"cased:{name}" for name in features]
    trained = store.get_historical_features(pa.table({"user": [1], EVENT: [END]}), refs).to_arrow()
    assert trained.select(features).to_pydict() == expected
    serve(store, view)
    assert {
        name: store.get_online_features(refs, [{"user": 1}]).to_dict()[name] for name in features
    } == expected


def test_names_of_two_views_and_their_times_may_differ_in_case_only(
    write_view: WriteView, make_store: MakeStore
) -> None:
    first = pa.table({"k": [1], EVENT: [START], "value": [1]})
    second = pa.table({"K": [2], EVENT: [START], "Value": [2], "Created_timestamp": [3]})
    store = make_store(write_view("first", first, ["k"]), write_view("second", second, ["K"]))
    spine = pa.table({"k": [1], "K": [2], EVENT: [END], "VALUE": ["own"]})
    result = store.get_historical_features(
        spine, ["first:value", "second:Value", "second:Created_timestamp"]
    ).to_arrow()
    assert result.drop_columns(EVENT).to_pylist() == [
        {"k": 1, "K": 2, "VALUE": "own", "value": 1, "Value": 2, "Created_timestamp": 3}
    ]
    everybody: Any = store.get_historical_features(
        None, ["first:value", "second:Value"], start_date=START, end_date=END
    ).to_arrow()
    rows = sorted(everybody.drop_columns(EVENT).to_pylist(), key=str)
    assert rows == [
        {"k": 1, "K": None, "value": 1, "Value": None},
        {"k": None, "K": 2, "value": None, "Value": 2},
    ]


@pytest.mark.parametrize("folder", ["source=x", "part[1]", "what?", "star*"])
@pytest.mark.parametrize("layout", ["file", "folder"])
def test_a_folder_above_the_source_says_nothing(
    define_view: Callable[..., FeatureView],
    make_store: MakeStore,
    tmp_path: Path,
    folder: str,
    layout: str,
) -> None:
    rows = pa.table({"user": [1], EVENT: [START], "source": ["own"]})
    place = tmp_path / folder
    place.mkdir()
    pq.write_table(rows, place / "rows.parquet")
    path = place / "rows.parquet" if layout == "file" else place
    store = make_store(define_view("placed", str(path), rows.schema))
    result = store.get_historical_features(
        pa.table({"user": [1], EVENT: [END]}), ["placed:source"]
    ).to_arrow()
    assert result["source"].to_pylist() == ["own"]


@pytest.mark.parametrize("name", ["__filename", "__fragment_index"])
def test_a_name_that_arrow_keeps_for_itself_is_refused_in_one_line(
    write_view: WriteView, make_store: MakeStore, name: str
) -> None:
    store = make_store(
        write_view("named", pa.table({"user": [1], EVENT: [START], name: [1], "value": [1]}))
    )
    with pytest.raises(ValueError, match=rf"'{name}', a name that Arrow keeps"):
        store.get_historical_features(pa.table({"user": [1], EVENT: [END]}), ["named:value"])
