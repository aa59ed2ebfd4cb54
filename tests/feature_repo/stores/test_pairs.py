"""A view of author and subject pairs, with lists, a stored column, and counts that default to 0."""

import asyncio
import itertools
import math
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import duckdb
import httpx
import pandera.polars as pa
import polars as pl
import pytest
from deltalake import write_deltalake
from feast import Entity, FeatureStore, FeatureView, RepoConfig, ValueType
from feast.feature_server import get_app
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.types import Array, Bool, Float64, Int64, String, UnixTimestamp
from hypothesis import example, given, settings
from hypothesis import strategies as st

from feature_repo.derived import on_demand_view
from feature_repo.fields import feature_view
from feature_repo.stores import clock
from feature_repo.stores.columnar import reporting
from feature_repo.stores.deletion import delete_entities
from feature_repo.stores.serving import OpenStore
from tests.feature_repo.stores.test_online_stores import LEAN
from transforms.errors import DerivedError
from transforms.profiles.profile import _columns_of
from transforms.schemas.base import Contract

Instant = Annotated[pl.Datetime, "us", "UTC"]
START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = START + timedelta(days=10)
TTL = timedelta(days=1)


class PairActivity(Contract):
    """What an author has written about a subject."""

    subject_id: str = pa.Field(description="The subject.")
    author_id: str = pa.Field(description="The author.")
    event_timestamp: Instant = pa.Field(description="From when on the values hold.")
    created_timestamp: Instant = pa.Field(description="When the row was computed.")
    n_records: int = pa.Field(nullable=True, description="Records.", metadata={"empty": 0})
    total: float = pa.Field(nullable=True, description="Sum of scores.", metadata={"empty": 0})
    mean: float = pa.Field(nullable=True, description="Mean score.")
    is_loud: bool = pa.Field(nullable=True, description="Whether any is loud.")
    last_words: pl.List(pl.String) = pa.Field(nullable=True, description="The last words.")  # type: ignore[valid-type]
    last_sizes: pl.List(pl.Int64) = pa.Field(nullable=True, description="The last sizes.")  # type: ignore[valid-type]
    last_scores: pl.List(pl.Float64) = pa.Field(nullable=True, description="The last scores.")  # type: ignore[valid-type]
    place: pl.List(pl.Float32) = pa.Field(  # type: ignore[valid-type]
        nullable=True, description="A vector.", metadata={"vector_length": 2}
    )
    sum_micros: int = pa.Field(
        description="Sum of scores in millionths, from which an increment goes on.",
        metadata={"served": False},
    )

    class Config(Contract.Config):
        """Relation and key."""

        name = "features.pair_activity"
        metadata = {  # noqa: RUF012
            "key": ["subject_id", "author_id", "event_timestamp", "created_timestamp"],
            "version": 1,
        }


ENTITIES = [
    Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.STRING)
    for name in ("author", "subject")
]
FEATURES = [column.name for column in PairActivity.served()][2:]
NOTHING = dict.fromkeys(FEATURES) | {"n_records": 0, "total": 0.0}
KEYS = [
    {"subject_id": subject, "author_id": author}
    for subject, author in itertools.product(["", "a", "ab", "ä"], ["b", "bc", "c", ""])
]
SEEN, LATER = KEYS[:-2], (3, 7)


def rows() -> list[dict[str, Any]]:
    """Change points of all but two pairs, from START on; of two others the first is after NOW."""
    draw = random.Random(13)  # noqa: S311 - no secret
    return [
        {
            **key,
            "event_timestamp": START
            + timedelta(minutes=draw.randrange(14_400) + (14_401 if place in LATER else 0)),
            "created_timestamp": START,
            "n_records": draw.randrange(5),
            "total": draw.choice([0.0, 0.1, 2.5]),
            "mean": draw.choice([None, 0.1, -0.0]),
            "is_loud": draw.choice([None, True, False]),
            "last_words": draw.choice([None, ["x"], ["", "ä", "x"]]),
            "last_sizes": draw.choice([None, [2**60 + 1], [1, -1]]),
            "last_scores": draw.choice([None, [0.1], [1.5, -0.0]]),
            "place": draw.choice([[0.5, number], [1.0, -2.0]]),
            "sum_micros": number,
        }
        for place, key in enumerate(SEEN)
        for number in range(4)
    ]


ROWS = rows()


def truth(key: dict[str, Any], at: datetime, ttl: timedelta = timedelta.max) -> dict[str, Any]:
    """The features of a pair at an instant, by definition."""
    if None in key.values():
        return dict.fromkeys(FEATURES)
    known = [row for row in ROWS if row.items() >= key.items() and row["event_timestamp"] <= at]
    newest = max(known, key=lambda row: row["event_timestamp"], default=NOTHING)
    is_old = newest is not NOTHING and at - newest["event_timestamp"] > ttl
    return {name: None if is_old else newest[name] for name in FEATURES}


DERIVED = {
    "share": "total / nullif(pair_activity__n_records, 0)",
    "n_both": "pair_activity__n_records + pair_twin__n_records",
    "word": "last_words[1] || '!'",
    "is_one": "last_sizes[1] = 1",
    "hour": "date_trunc('hour', event_timestamp)",
    "difference": "total - mean",
}
TYPES = {
    "share": Float64,
    "n_both": Int64,
    "word": String,
    "is_one": Bool,
    "hour": UnixTimestamp,
    "difference": Float64,
}


def derived_truth(key: dict[str, Any], at: datetime) -> dict[str, Any]:
    found = truth(key, at)
    n_records, total, mean, words, sizes = (
        found[name] for name in ("n_records", "total", "mean", "last_words", "last_sizes")
    )
    return {
        "share": total / n_records if n_records else None,
        "n_both": None if n_records is None else 2 * n_records,
        "word": words[0] + "!" if words else None,
        "is_one": sizes[0] == 1 if sizes else None,
        "hour": at.replace(minute=0, second=0, microsecond=0),
        "difference": None if mean is None else total - mean,
    }


class Home(NamedTuple):
    """A store over the table of pairs: before anything is online, and what it is."""

    kind: str
    store: FeatureStore

    def trained(
        self, spine: list[tuple[dict[str, Any], datetime]], view: str = "pair_activity"
    ) -> Any:
        """The retrieval for keys at instants."""
        schema = {
            "subject_id": pl.String,
            "author_id": pl.String,
            "event_timestamp": pl.Datetime("us", "UTC"),
        }
        frame = pl.DataFrame([{**key, "event_timestamp": at} for key, at in spine], schema)
        return self.store.get_historical_features(frame, [f"{view}:{name}" for name in FEATURES])

    def served(
        self, keys: list[dict[str, Any]], view: str = "pair_activity"
    ) -> list[dict[str, Any]]:
        frame = OpenStore(self.store).read([f"{view}:{name}" for name in FEATURES], keys)
        return frame.rename(lambda name: name.removeprefix(f"{view}__")).select(FEATURES).to_dicts()

    def asked(
        self, keys: list[dict[str, Any]], view: str = "pair_activity"
    ) -> list[dict[str, Any]]:
        """What plain Feast answers."""
        found = self.store.get_online_features(
            [f"{view}:{name}" for name in FEATURES], keys
        ).to_dict()
        return [{name: found[name][place] for name in FEATURES} for place in range(len(keys))]


@pytest.fixture(scope="module", params=list(LEAN))
def home(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Home]:
    kind, folder = request.param, tmp_path_factory.mktemp("pairs")
    where: dict[str, Any] = {"path": str(folder / "online.db")}
    if kind == "redis":
        address = request.getfixturevalue("redis_address")
        database = next(request.getfixturevalue("redis_databases"))
        where = {"connection_string": f"{address.host}:{address.port},db={database}"}
    elif kind == "postgres":
        address = request.getfixturevalue("postgres_address")
        login = {
            "user": "postgres",
            "password": "",
            "database": "postgres",
            "db_schema": "pairs",
            "sslmode": "disable",
        }
        where = {"host": address.host, "port": address.port, **login}
    store = pair_store(folder, {"type": LEAN[kind], **where})
    yield Home(kind, store)
    if kind == "postgres":
        store.provider.online_store._conn.close()


def pair_store(folder: Path, online_store: dict[str, Any]) -> FeatureStore:
    """Write the table of pairs and register their views."""
    write_deltalake(
        folder / "features" / "pair_activity",
        pl.DataFrame(ROWS, _schema()).to_arrow().cast(PairActivity.arrow_schema()),
    )
    store = FeatureStore(config=_config(folder, online_store))
    view = pair_view("pair_activity")
    brief, twin = pair_view("pair_brief"), pair_view("pair_twin")
    brief.ttl = TTL
    read = ["n_records", "total", "last_words", "last_sizes"]
    derived = on_demand_view(
        "pair_derived",
        [view[read], twin[["n_records", "mean"]]],
        DERIVED,
        TYPES,
        "Derived of pairs.",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        store.apply([*ENTITIES, view, brief, twin, derived, view.batch_source])
    return store


def pair_view(name: str) -> FeatureView:
    view = feature_view(PairActivity, ENTITIES)
    view.name = view.projection.name = name
    view.online = True
    return view


def _schema() -> dict[str, Any]:
    return {column.name: column.dtype for column in PairActivity.columns()}


def _config(folder: Path, online_store: dict[str, Any]) -> RepoConfig:
    return RepoConfig(
        project="pairs",
        provider="local",
        registry=str(folder / "registry.db"),
        offline_store={
            "type": "feature_repo.stores.asof.AsofOfflineStore",
            "warehouse": str(folder),
        },
        batch_engine={"type": "feature_repo.stores.columnar.ColumnarComputeEngine"},
        online_store=online_store,
        repo_path=folder,
        entity_key_serialization_version=3,
    )


@pytest.fixture(scope="module")
def filled(home: Home) -> Home:
    """The same, materialized as of NOW; before that, every feature is null."""
    for ask in (home.served, home.asked):
        assert ask(KEYS) == [dict.fromkeys(FEATURES)] * len(KEYS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        home.store.materialize(START - timedelta(days=1), NOW)
    return home


@contextmanager
def clock_at(at: datetime) -> Iterator[None]:
    """Let reads go by an instant, of which what they find is right, as training of it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "now", lambda: at)
        yield


MINUTES = st.integers(-2_000, 20_000).map(lambda minutes: START + timedelta(minutes=minutes))
CHANGES = st.sampled_from(ROWS).flatmap(
    lambda row: st.integers(-1, 1).map(
        lambda us: row["event_timestamp"] + timedelta(microseconds=us)
    )
)
# from the instant of materialization to past the last row: what a read may go by
READ = (MINUTES | CHANGES).map(lambda at: max(at, NOW))
LAST = NOW + timedelta(minutes=14_401)
ASKED = st.sampled_from(
    [*KEYS, {"subject_id": None, "author_id": "b"}, {"subject_id": "a", "author_id": None}]
)


@pytest.mark.parametrize("home", ["sqlite"], indirect=True)
@given(st.lists(st.tuples(ASKED, MINUTES | CHANGES), max_size=30))
@settings(max_examples=40)
def test_a_pair_is_trained_on_what_it_was_and_on_nothing_where_it_was_not(
    home: Home, spine: list[tuple[dict[str, Any], datetime]]
) -> None:
    assert home.trained(spine).to_polars().select(FEATURES).to_dicts() == [
        truth(key, at) for key, at in spine
    ]


@pytest.mark.parametrize("home", ["sqlite"], indirect=True)
def test_what_is_past_its_time_to_live_is_null_and_what_never_was_is_nothing(filled: Home) -> None:
    spine = [(key, START + timedelta(hours=hours)) for key in KEYS for hours in range(0, 240, 7)]
    expected = [truth(key, at, TTL) for key, at in spine]
    job = filled.trained(spine, "pair_brief")
    assert job.to_polars().select(FEATURES).to_dicts() == expected
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.register(
            "spine",
            filled.trained(spine).to_arrow().select(["subject_id", "author_id", "event_timestamp"]),
        )
        assert connection.sql(job.to_sql()).pl().select(FEATURES).to_dicts() == expected
    for at in (NOW + timedelta(hours=hours) for hours in range(0, 270, 7)):
        with clock_at(at):
            expected = [truth(key, at, TTL) for key in KEYS]
            assert filled.served(KEYS, "pair_brief") == expected
            assert filled.asked(KEYS, "pair_brief") == expected


@given(st.lists(ASKED, min_size=1, max_size=20), READ)
@example(KEYS, NOW)
@example(KEYS, LAST)
@settings(max_examples=20)
def test_a_pair_is_served_what_it_is_trained_on(
    filled: Home, keys: list[dict[str, Any]], at: datetime
) -> None:
    expected = [truth(key, at) for key in keys]
    with clock_at(at):
        assert filled.served(keys) == expected
        assert filled.asked(keys) == expected


def test_plain_feast_reads_now_what_training_says_of_now(filled: Home) -> None:
    now = datetime.now(UTC)
    trained = filled.trained([(key, now) for key in KEYS]).to_polars().select(FEATURES).to_dicts()
    assert filled.asked(KEYS) == trained
    assert trained != [truth(key, NOW) for key in KEYS]  # of two, the rows have come since


def test_a_pair_that_nobody_has_seen_is_served_present_counts(filled: Home) -> None:
    unseen, before = KEYS[-1], next(key for key in SEEN if truth(key, NOW) == NOTHING)
    with clock_at(NOW):
        found = filled.store.get_online_features(
            ["pair_activity:n_records", "pair_activity:total"], [unseen, before]
        ).proto
    answered = dict(zip(found.metadata.feature_names.val, found.results, strict=True))
    kinds = {"n_records": "int64_val", "total": "double_val"}
    assert {
        name: [value.WhichOneof("val") for value in answered[name].values] for name in kinds
    } == {name: [kind] * 2 for name, kind in kinds.items()}
    assert {status for name in kinds for status in answered[name].statuses} == {FieldStatus.PRESENT}


def test_the_server_answers_pairs(filled: Home) -> None:
    body = {
        "features": [f"pair_activity:{name}" for name in FEATURES],
        "entities": {name: [key[name] for key in KEYS] for name in ("subject_id", "author_id")},
    }

    async def post(instants: list[datetime]) -> list[httpx.Response]:
        transport, answers = httpx.ASGITransport(get_app(filled.store)), []
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            for at in instants:
                with clock_at(at):
                    answers.append(await client.post("/get-online-features", json=body))
        return answers

    for at, response in zip((NOW, LAST), asyncio.run(post([NOW, LAST])), strict=True):
        answer = response.json()
        found = dict(zip(answer["metadata"]["feature_names"], answer["results"], strict=True))
        assert [
            {name: found[name]["values"][place] for name in FEATURES} for place in range(len(KEYS))
        ] == [truth(key, at) for key in KEYS]


@given(st.lists(ASKED, max_size=12))
@settings(max_examples=12)
def test_what_is_derived_is_trained_on_as_it_is_served(
    filled: Home, keys: list[dict[str, Any]]
) -> None:
    at, expected = (
        NOW + timedelta(minutes=7),
        [derived_truth(key, NOW + timedelta(minutes=7)) for key in keys],
    )
    features = [f"pair_derived:{name}" for name in DERIVED]
    rows = [{**key, "event_timestamp": at} for key in keys]
    spine = pl.DataFrame(
        rows,
        {
            "subject_id": pl.String,
            "author_id": pl.String,
            "event_timestamp": pl.Datetime("us", "UTC"),
        },
    )
    trained = filled.store.get_historical_features(
        spine, features, full_feature_names=True
    ).to_polars()
    columns = [f"pair_derived__{name}" for name in DERIVED]
    assert (
        trained.select(columns).rename(lambda name: name.removeprefix("pair_derived__")).to_dicts()
        == expected
    )
    served = OpenStore(filled.store).read(features, rows)
    assert served.select(columns).equals(trained.select(columns))
    assert served.select(columns).schema == trained.select(columns).schema
    asked = (
        filled.store.get_online_features(features, rows, full_feature_names=True).to_dict()
        if rows
        else {name: [] for name in columns}
    )
    assert [
        dict(zip(DERIVED, row, strict=True))
        for row in zip(*(asked[name] for name in columns), strict=True)
    ] == expected


@pytest.mark.parametrize("home", ["sqlite"], indirect=True)
def test_many_rows_are_derived_in_their_order(filled: Home) -> None:
    rows = [{**KEYS[number % len(KEYS)], "event_timestamp": NOW} for number in range(10_000)]
    served = OpenStore(filled.store).read(["pair_derived:n_both", "pair_activity:n_records"], rows)
    assert served["pair_derived__n_both"].equals(2 * served["pair_activity__n_records"])
    trained = filled.store.get_historical_features(
        pl.DataFrame(rows), ["pair_derived:n_both"], full_feature_names=True
    ).to_polars()
    assert trained["pair_derived__n_both"].equals(served["pair_derived__n_both"])
    with pytest.raises(
        ValueError, match="both have a feature 'n_records'; ask with full_feature_names=True"
    ):
        filled.store.get_historical_features(pl.DataFrame(rows), ["pair_derived:n_both"])


@pytest.mark.parametrize(
    ("expression", "kind", "reason"),
    [
        (
            "n_records + 1",
            Int64,
            (
                "view bad, feature x: there is no 'n_records' to read; there are event_timestamp, "
                "mean, pair_a__mean"
            ),
        ),
        ("mean +", Float64, "view bad, feature x: syntax error"),
        ("mean || 'a' || total", Float64, "view bad, feature x: there is no 'total' to read"),
        ("list_sum(mean)", Float64, "view bad: feature x: Binder Error: No function matches"),
        ("pair_a__n_records", Array(Int64), "view bad: Unsupported cast from int64 to list"),
    ],
)
def test_an_expression_that_cannot_be_is_refused_where_it_is_declared(
    expression: str, kind: Any, reason: str
) -> None:
    views = [pair_view("pair_a"), pair_view("pair_b")]
    with pytest.raises(DerivedError, match=f"^{reason}"):
        on_demand_view(
            "bad",
            [views[0][["n_records", "mean"]], views[1][["n_records"]]],
            {"x": expression},
            {"x": kind},
            "Bad.",
        )


def test_what_is_only_stored_is_served_nowhere(filled: Home) -> None:
    assert "sum_micros" not in {
        field.name for field in filled.store.get_feature_view("pair_activity").schema
    }
    assert "sum_micros" not in {column.name for column in _columns_of(PairActivity)}
    with pytest.raises(Exception, match="sum_micros"):
        filled.store.get_online_features(["pair_activity:sum_micros"], KEYS[:1])


@pytest.mark.parametrize("home", ["sqlite"], indirect=True)
@pytest.mark.parametrize("at", [NOW, LAST])
def test_the_nearest_pairs_are_found(filled: Home, at: datetime) -> None:
    view, asked = filled.store.get_feature_view("pair_activity"), [0.5, 1.0]
    config, online_store = filled.store.config, filled.store.provider.online_store
    known = [truth(key, at) for key in SEEN if truth(key, at) != NOTHING]
    top_k = len(known) - 1
    with clock_at(at):
        found = online_store.retrieve_online_documents_v2(
            config, view, ["n_records", "place"], asked, top_k, "L2"
        )
    nearest = sorted(math.dist(row["place"], asked) for row in known)[:top_k]
    assert sorted(values["distance"].float_val for _, _, values in found) == pytest.approx(nearest)
    for _, entity, values in found:
        row = truth(
            {
                name: value.string_val
                for name, value in zip(entity.join_keys, entity.entity_values, strict=True)
            },
            at,
        )
        assert (list(values["place"].float_list_val.val), values["n_records"].int64_val) == (
            row["place"],
            row["n_records"],
        )


def test_an_increment_writes_the_pairs_that_changed_and_all_if_the_store_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, counts = (
        Home(
            "sqlite",
            pair_store(tmp_path, {"type": LEAN["sqlite"], "path": str(tmp_path / "online.db")}),
        ),
        [],
    )
    ends = [START + timedelta(days=3), START + timedelta(days=6), NOW, NOW + timedelta(seconds=1)]
    for end in ends:
        if end > NOW:
            view = home.store.get_feature_view("pair_activity")
            delete_entities(home.store.config, home.store.provider.online_store, view, SEEN)
        with (
            warnings.catch_warnings(),
            reporting(lambda _view, written, _total: counts.append(written)),
        ):
            warnings.simplefilter("ignore", RuntimeWarning)
            home.store.materialize_incremental(end, ["pair_activity"])
        monkeypatch.setattr(clock, "now", lambda end=end: end)
        assert home.served(KEYS) == [truth(key, end) for key in KEYS]
    assert counts == [
        len(SEEN),  # also those of which all rows are to come, as of the last
        n_changed(ends[0], ends[1]),
        n_changed(ends[1], NOW),
        len(SEEN),
    ]


def n_changed(after: datetime, until: datetime) -> int:
    """The number of pairs with a change point of a span."""
    return len(
        {
            (row["subject_id"], row["author_id"])
            for row in ROWS
            if after < row["event_timestamp"] <= until
        }
    )


def test_a_pair_is_deleted_alone(filled: Home) -> None:
    deleted, *others = [key for key in SEEN if truth(key, NOW) != NOTHING]
    view = filled.store.get_feature_view("pair_activity")
    delete_entities(filled.store.config, filled.store.provider.online_store, view, [deleted])
    assert filled.served([deleted, *others]) == [NOTHING, *(truth(key, NOW) for key in others)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        filled.store.materialize(START - timedelta(days=1), NOW)
    assert filled.served([deleted]) == [truth(deleted, NOW)]
