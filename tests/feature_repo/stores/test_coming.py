"""Rows to come, beside an entity's row: what is read of them at any instant, and what leaves."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.data_format import DeltaFormat
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import String
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from feature_repo.stores import clock, columnar, compact
from feature_repo.stores.clock import mark
from feature_repo.stores.coming import Coming
from feature_repo.stores.deletion import delete_entities
from feature_repo.stores.online import PastError
from tests.feature_repo.stores.test_expiry import KilledError, dying_after

START, HOUR = datetime(2026, 1, 1, tzinfo=UTC), timedelta(hours=1)
EVENT = "event_timestamp"
OUR = "feature_repo.stores"
NOT_KNOWN = np.array(["NaT"], "datetime64[us]")

# --- the bytes ---


class Rows(NamedTuple):
    """An entity's rows by their instants, and whether the first is in effect."""

    rows: dict[int, list[bytes]]
    has_current: bool

    def at(self, instant: int) -> list[bytes] | None:
        """The features at an instant."""
        first = min(self.rows)
        passed = [at for at in self.rows if at <= instant]
        if passed:
            return self.rows[max(passed)]
        return self.rows[first] if self.has_current else None


def entities(n_features: int) -> st.SearchStrategy[list[Rows]]:
    value = st.sampled_from([b"", b"a", b"b", b"long" * 80])
    row = st.lists(value, min_size=n_features, max_size=n_features)
    rows = st.dictionaries(st.integers(-5, 20), row, min_size=1, max_size=6)
    return st.lists(st.builds(Rows, rows, st.booleans()), min_size=1, max_size=4)


def arrays(rows: Sequence[Sequence[bytes]], names: Sequence[str]) -> dict[str, pa.Array]:
    return {
        name: pa.array([row[place] for row in rows], pa.large_binary())
        for place, name in enumerate(names)
    }


def packed(found: Sequence[Rows], names: Sequence[str]) -> list[bytes]:
    current = [min(item.rows) if item.has_current else None for item in found]
    later = [sorted(item.rows.keys() - {at}) for item, at in zip(found, current, strict=True)]
    nothing = [b""] * len(names)
    coming = Coming(
        np.array(list(map(len, later))),
        np.array([at for instants in later for at in instants], "datetime64[us]"),
        arrays(
            [item.rows[at] for item, instants in zip(found, later, strict=True) for at in instants],
            names,
        ),
    )
    return compact.pack(
        np.array([np.datetime64("NaT") if at is None else at for at in current], "datetime64[us]"),
        np.repeat(NOT_KNOWN, len(found)),
        arrays(
            [
                nothing if at is None else item.rows[at]
                for item, at in zip(found, current, strict=True)
            ],
            names,
        ),
        coming,
    )


def unpacked(values: Sequence[bytes], names: Sequence[str], at: int) -> list[list[bytes] | None]:
    columns = compact.unpack(values, names, [mark(at)] * len(values))
    rows = [list(row) for row in zip(*(column for column, _ in columns), strict=True)]
    return [None if None in row else row for row in rows]


NAMED = st.integers(1, 17).flatmap(
    lambda n: st.tuples(st.just([f"f{place}" for place in range(n)]), entities(n))
)


@given(NAMED, st.integers(-6, 21))
def test_the_newest_row_by_an_instant_is_read(drawn: tuple[list[str], list[Rows]], at: int) -> None:
    names, found = drawn
    assert unpacked(packed(found, names), sorted(names), at) == [
        row and [row[names.index(name)] for name in sorted(names)]
        for row in (item.at(at) for item in found)
    ]


@given(NAMED, st.integers(-6, 21), st.integers(-6, 21))
def test_a_row_that_is_written_alone_holds_until_the_next_that_was_to_come(
    drawn: tuple[list[str], list[Rows]], pushed: int, at: int
) -> None:
    names, (found, *_) = drawn
    assume(not found.has_current or pushed >= min(found.rows))  # else the store leaves it out
    row = [b"pushed"] * len(names)
    event = np.array([pushed], "datetime64[us]")
    (given_value,) = compact.pack(event, NOT_KNOWN, arrays([row], names))
    (stored,) = packed([found], names)
    after = Rows({at: of for at, of in found.rows.items() if at > pushed} | {pushed: row}, True)  # noqa: FBT003
    expected = after.at(at)
    value = compact.merged(stored, given_value)
    assert unpacked([value], sorted(names), at) == [
        expected and [expected[names.index(name)] for name in sorted(names)]
    ]


@given(NAMED, st.integers(-6, 21))
def test_the_last_instant_of_a_value_is_known_and_of_the_second_version_all_rows_are_read(
    drawn: tuple[list[str], list[Rows]], at: int
) -> None:
    names, found = drawn
    values = packed(found, names)
    assert [compact.last_us(value) for value in values] == [max(item.rows) for item in found]
    second = [
        value if value[0] == 2 else b"\x02" + value[1 : -compact.CHECKSUM - 8] for value in values
    ]
    earlier = [
        value if value[0] == before[0] else before + crc32(before).to_bytes(compact.CHECKSUM)
        for value, before in zip(values, second, strict=True)
    ]
    assert unpacked(earlier, names, at) == unpacked(values, names, at)


def test_a_value_of_the_first_version_is_read() -> None:
    (value,) = packed([Rows({5: [b"a", b"b"]}, True)], ["f0", "f1"])  # noqa: FBT003
    of_first = b"\x01" + value[1 : -compact.CHECKSUM]
    earlier = of_first + crc32(of_first).to_bytes(compact.CHECKSUM)
    assert unpacked([value, earlier], ["f1", "f0"], 9) == [[b"b", b"a"]] * 2


# --- a view with a time to live ---

TTL = timedelta(hours=2)
HOURS = st.integers(0, 8)
FEASTS_OWN = {
    "offline_store": {"type": "dask"},
    "batch_engine": {"type": "local"},
}
user = Entity(name="user", join_keys=["user"], value_type=ValueType.STRING)


class Home:
    """A view over a growing source, and an SQLite store."""

    def __init__(
        self,
        folder: Path,
        rows: Sequence[tuple[str, int]] = (),
        ttl: timedelta | None = TTL,
        **changes: Any,
    ) -> None:
        """Register the view."""
        self.folder = folder
        self.append(rows)
        source = FileSource(
            name="notes",
            path=str(folder / "source"),
            file_format=DeltaFormat(),
            timestamp_field=EVENT,
        )
        schema = [Field(name="user", dtype=String), Field(name="text", dtype=String)]
        options = {
            "offline_store": {
                "type": f"{OUR}.asof.AsofOfflineStore",
                "warehouse": str(folder / "home"),
            },
            "online_store": {
                "type": f"{OUR}.online.SqliteOnlineStore",
                "path": str(folder / "online.db"),
            },
            "batch_engine": {"type": f"{OUR}.columnar.ColumnarComputeEngine", "chunk_rows": 2},
            **changes,
        }
        config = RepoConfig(
            project="coming",
            provider="local",
            registry={"path": str(folder / "registry.db"), "cache_ttl_seconds": 0},
            entity_key_serialization_version=3,
            repo_path=folder,
            **options,
        )
        self.store = FeatureStore(config=config)
        view = FeatureView(name="notes", entities=[user], ttl=ttl, schema=schema, source=source)
        self.store.apply([user, view])

    def append(self, rows: Sequence[tuple[str, int]]) -> None:
        """Let rows arrive: of whom, and the hour of each."""
        columns = {
            "user": pa.array([name for name, _ in rows], pa.string()),
            "text": pa.array([text(*row) for row in rows], pa.string()),
            EVENT: pa.array([START + hour * HOUR for _, hour in rows], pa.timestamp("us", "UTC")),
        }
        write_deltalake(str(self.folder / "source"), pa.table(columns), mode="append")

    def materialize(self, hour: int) -> int:
        """Bring the store up to date; entities written."""
        written: list[int] = []
        with columnar.reporting(lambda _view, entities, _total: written.append(entities)):
            if self.store.get_feature_view("notes").most_recent_end_time:
                self.store.materialize_incremental(START + hour * HOUR)
            else:
                self.store.materialize(clock.EPOCH, START + hour * HOUR)
        return sum(written)

    def trained(self, at: datetime) -> list[str | None]:
        """The texts of ann and bob at an instant, as in training."""
        spine = pd.DataFrame({"user": ["ann", "bob"], EVENT: [at] * 2})
        found = self.store.get_historical_features(spine, ["notes:text"]).to_df()
        return [None if pd.isna(value) else value for value in found["text"]]

    def served(self, **asked: Any) -> list[str | None]:
        """The texts of ann and bob, now or as asked."""
        rows = {"user": ["ann", "bob"], **asked}
        found: list[str | None] = self.store.get_online_features(["notes:text"], rows).to_dict()[
            "text"
        ]
        return found

    def served_at(self, at: datetime) -> list[str | None]:
        """The same, as the clock says an instant."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(clock, "now", lambda: at)
            return self.served()

    def content(self) -> bytes:
        """All bytes that the store has."""
        return b"".join(path.read_bytes() for path in sorted(self.folder.glob("online.db*")))


def text(name: str, hour: int) -> str:
    return f"<{name} of {hour}>"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A row of ann in effect at 1 o'clock, and rows of ann and bob to come."""
    home = Home(tmp_path)
    home.append([("ann", 0), ("ann", 5), ("ann", 6), ("bob", 4)])
    home.materialize(1)
    return home


@pytest.mark.parametrize("beside", [timedelta(0), timedelta(microseconds=1)])
def test_time_to_live_goes_by_the_instant_of_the_read(home: Home, beside: timedelta) -> None:
    instants = [START + hour * HOUR + beside for hour in range(10)]
    trained = [home.trained(at) for at in instants]
    assert trained[3] == trained[9] == [None, None]  # between two rows, and after the last
    assert trained[6] == [text("ann", 6), text("bob", 4) if not beside else None]
    assert [home.served_at(at) for at in instants] == trained
    assert [home.served(event_timestamp=[at, at]) for at in instants] == trained


def test_instants_differ_by_row_and_a_row_without_one_gets_nulls(home: Home) -> None:
    assert home.served(event_timestamp=["2026-01-01T05:00Z", None]) == [text("ann", 5), None]


def test_an_instant_before_the_row_is_refused_with_what_to_do(home: Home) -> None:
    home.materialize(5)
    with pytest.raises(PastError) as refusal:
        home.served(event_timestamp=["2026-01-01T04:59:59Z"] * 2)
    assert str(refusal.value) == (
        "notes: event_timestamp 2026-01-01T04:59:59+00:00 is too early for the online store, which "
        "has a row since 2026-01-01T05:00:00+00:00; leave event_timestamp out for now, or ask "
        "training_set, which knows the past"
    )
    assert home.served(event_timestamp=["2026-01-01T05:00Z"] * 2) == [
        text("ann", 5),
        text("bob", 4),
    ]


def test_an_increment_writes_an_entity_of_which_only_rows_to_come_are_new(home: Home) -> None:
    home.append([("ann", 7)])
    assert home.materialize(2) == 1
    assert home.served_at(START + 7 * HOUR) == [text("ann", 7), None]
    assert home.materialize(3) == 0


@pytest.mark.parametrize("chunks", [0, 1, 2])
def test_a_killed_run_goes_on_with_all_rows_of_an_entity(home: Home, chunks: int) -> None:
    home.append([("ann", 7), ("ann", 8), ("bob", 5), ("cid", 9), ("cid", 10)])
    with pytest.MonkeyPatch.context() as patch, suppress(KilledError):
        patch.setattr(columnar, "bulk_writer", dying_after(chunks))
        home.materialize(2)
        pytest.fail("the run was not killed")
    assert home.materialize(2) == 3 - chunks
    instants = [START + hour * HOUR for hour in range(12)]
    assert [home.served_at(at) for at in instants] == [home.trained(at) for at in instants]
    assert home.materialize(2) == 0


def test_a_pushed_row_holds_until_the_next_that_is_to_come(home: Home) -> None:
    key = EntityKey(join_keys=["user"], entity_values=[Value(string_val="ann")])
    row = (key, {"text": Value(string_val="<pushed>")}, START + 4 * HOUR, None)
    store, view = home.store.provider.online_store, home.store.get_feature_view("notes")
    store.online_write_batch(home.store.config, view, [row], None)
    found = [home.served_at(START + hour * HOUR)[0] for hour in (4, 5, 6)]
    assert found == ["<pushed>", text("ann", 5), text("ann", 6)]


@settings(max_examples=12)
@given(
    rows=st.sets(st.tuples(st.sampled_from(["ann", "bob"]), HOURS), min_size=1),
    span=st.tuples(HOURS, HOURS).map(sorted),
    later=HOURS,
)
def test_a_span_is_what_feast_writes_and_the_rows_after_it(
    tmp_path_factory: pytest.TempPathFactory,
    rows: set[tuple[str, int]],
    span: list[int],
    later: int,
) -> None:
    first, last = span
    folder = tmp_path_factory.mktemp("span")
    online = {"type": "sqlite", "path": str(folder / "feasts.db")}
    ours = Home(folder / "ours", sorted(rows), None)
    feasts = Home(folder / "feasts", sorted(rows), None, **{**FEASTS_OWN, "online_store": online})
    for home in (ours, feasts):
        home.store.materialize(START + first * HOUR, START + last * HOUR)
    assert ours.served_at(START + last * HOUR) == feasts.served()
    by_then = [
        [hour for of, hour in rows if of == name and first <= hour <= last + later]
        for name in ("ann", "bob")
    ]
    assert ours.served_at(START + (last + later) * HOUR) == [
        text(name, max(hours)) if hours else None
        for name, hours in zip(("ann", "bob"), by_then, strict=True)
    ]


def test_rows_to_come_are_deleted_with_their_entity(home: Home) -> None:
    store, view = home.store.provider.online_store, home.store.get_feature_view("notes")
    assert text("ann", 6).encode() in home.content()
    delete_entities(home.store.config, store, view, [{"user": "ann"}])
    assert b"ann" not in home.content()
    assert text("bob", 4).encode() in home.content()
    assert home.served_at(START + 6 * HOUR) == [None, text("bob", 4)]
