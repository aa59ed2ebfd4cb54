"""A topic -> raw: every message once, whoever reads it; what is lost is said. On a mock broker."""

import os
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.broker import N_PARTITIONS, Broker
from transforms.errors import GapError, SourceError
from transforms.home import Settings
from transforms.sources import kafka
from transforms.sources.ingest import Ingested, ingest, pending_files
from transforms.sources.kafka import Topic, _Span
from transforms.sources.source import Source, load_source
from transforms.sources.streams import Chunk, Following
from transforms.staging.prepare import prepare
from transforms.warehouse.tables import Warehouse

MakeSource = Callable[..., Source]
Query = Callable[..., list[tuple[Any, ...]]]
ROWS = "select parse_filename(source_uri), row_number, payload from raw.records order by all"
ALL = 1 << 30
names = (f"topic{number}" for number in count())


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker() as made:
        yield made


@pytest.fixture
def topic() -> str:
    return next(names)


@pytest.fixture
def source(broker: Broker, topic: str, make_source: MakeSource) -> Source:
    """A source of an empty topic."""
    broker.make(topic)
    return make_source(broker.uri(topic))


def again(warehouse: Warehouse) -> Warehouse:
    """The same home, as another process opens it."""
    return Warehouse(Settings(home=warehouse.settings.root))


def numbered(first: int, end: int) -> list[bytes]:
    return [b"%d" % number for number in range(first, end)]


def test_messages_are_rows_with_partition_and_offset_as_their_place(
    broker: Broker, topic: str, source: Source, warehouse: Warehouse, query: Query
) -> None:
    broker.send(topic, [b'{"id": 1}', b"", b"\xff\x00\n"], partition=0)
    broker.send(topic, [b'{"id": 2}'], partition=3)
    assert pending_files(source, warehouse).n_rows == 4
    assert ingest(source, warehouse) == Ingested(0, 4, [], [])
    assert query(ROWS) == [
        ("partition-0", 1, b'{"id": 1}'),
        ("partition-0", 2, b""),
        ("partition-0", 3, b"\xff\x00\n"),
        ("partition-3", 1, b'{"id": 2}'),
    ]
    version = warehouse.version("raw.records")
    assert ingest(source, again(warehouse)) == Ingested(0, 0, [], [])
    assert pending_files(source, warehouse).n_rows == 0
    broker.send(topic, [b"more"], partition=3)
    assert ingest(source, again(warehouse)).rows_loaded == 1
    assert query(ROWS)[-1] == ("partition-3", 2, b"more")
    assert warehouse.version("raw.records") == version + 1


def test_what_comes_while_a_run_reads_is_for_the_next(
    broker: Broker,
    topic: str,
    source: Source,
    warehouse: Warehouse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker.send(topic, numbered(0, 10))
    real = Topic._spans

    def look(self: Topic, position_of: Any) -> list[_Span]:
        spans = real(self, position_of)
        broker.send(topic, numbered(10, 30))
        return spans

    monkeypatch.setattr(Topic, "_spans", look)
    assert ingest(source, warehouse).rows_loaded == 10
    monkeypatch.setattr(Topic, "_spans", real)
    assert ingest(source, warehouse).rows_loaded == 20


def test_a_long_topic_is_read_in_several_commits(
    broker: Broker,
    topic: str,
    source: Source,
    warehouse: Warehouse,
    query: Query,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kafka, "CHUNK_BYTES", 2_000)
    for partition in range(N_PARTITIONS):
        broker.send(topic, numbered(0, 100), partition)
    small = Warehouse(warehouse.settings.model_copy(update={"load_bytes": 5_000}))
    assert ingest(source, small).rows_loaded == 100 * N_PARTITIONS
    sizes = query("select count(*) from raw.records group by load_id order by load_id")
    assert len(sizes) > 5
    assert max(size for (size,) in sizes) <= 6_000 / kafka.BYTES_OF_A_ROW
    assert query("select count(distinct (source_uri, payload)) from raw.records") == [(400,)]


def test_what_cannot_be_staged_is_quarantined_with_its_place(
    broker: Broker, topic: str, source: Source, warehouse: Warehouse, query: Query, note: Any
) -> None:
    broker.send(topic, [note("a"), b"\xff", None, note("b")], partition=2)
    ingest(source, warehouse)
    prepare(source, warehouse)
    found = query("select source_uri, row_number, rule from quarantine.records order by all")
    place = f"{broker.uri(topic)}/partition-2"
    assert found == [(place, 2, "not_utf8"), (place, 3, "not_nullable")]


def test_message_without_a_value_can_take_out_its_record(
    broker: Broker, topic: str, warehouse: Warehouse, query: Query, note: Any, tmp_path: Path
) -> None:
    broker.send(topic, [note("a"), note("b")])
    file = tmp_path / "source.yaml"
    file.write_text(f"""
        name: notes
        uri: {broker.uri(topic)}
        known: at_load
        record:
          record_id: coalesce(id, _key)
          author_id: coalesce(author, 'nobody')
          event_timestamp: coalesce(written, _timestamp)
          text: text
        tombstone: coalesce(_null = 'true', false)
    """)
    source = load_source(file)
    ingest(source, warehouse)
    broker.send(topic, [None], key="a")
    ingest(source, warehouse)
    prepare(source, warehouse)
    found = query("select record_id, is_tombstone, row_number from staging.records order by 1, 3")
    assert found == [("a", False, 1), ("a", True, 3), ("b", False, 2)]


def test_messages_deleted_unread_stop_until_that_is_accepted(
    broker: Broker, topic: str, source: Source, warehouse: Warehouse, query: Query
) -> None:
    broker.send(topic, [b"first"], partition=1)
    ingest(source, warehouse)
    broker.send(topic, [b"x" * 1000] * 8_000, partition=1)  # the mock keeps 5 MB
    with pytest.raises(GapError, match=r"partition 1: the [\d,]+ messages from offset 1 on were"):
        ingest(source, warehouse)
    assert query(ROWS) == [("partition-1", 1, b"first")]
    assert "deleted before they were read" in pending_files(source, warehouse).refused[0]
    loaded = ingest(source, warehouse, accept_gap=True)
    assert 1_000 < loaded.rows_loaded < 8_000
    assert "deleted before they were read" in loaded.notices[0]
    assert query("select max(row_number) from raw.records") == [(8_001,)]
    assert ingest(source, warehouse) == Ingested(0, 0, [], [])


def test_messages_deleted_while_they_are_read_stop_it_too(
    broker: Broker,
    topic: str,
    source: Source,
    warehouse: Warehouse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker.send(topic, [b"first"])
    ingest(source, warehouse)
    broker.send(topic, [b"x" * 1000] * 8_000)
    # as it was a moment before
    monkeypatch.setattr(Topic, "_spans", lambda *_: [_Span(0, 1, 0, 8_001)])
    with pytest.raises(GapError, match=r"the [\d,]+ messages from offset 1 on were deleted"):
        ingest(source, warehouse)


def test_accepted_gap_without_a_message_behind_it_is_accepted_once(
    broker: Broker,
    topic: str,
    source: Source,
    warehouse: Warehouse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker.send(topic, numbered(0, 5))
    ingest(source, warehouse)

    def emptied(_: Topic, partition: int, position: int) -> _Span:
        return _Span(partition, position, *((9, 9) if partition == 0 else (0, 0)))

    monkeypatch.setattr(Topic, "_span", emptied)
    with pytest.raises(GapError, match="the 4 messages from offset 5 on"):
        ingest(source, warehouse)
    assert ingest(source, warehouse, accept_gap=True).rows_loaded == 0
    assert ingest(source, warehouse) == Ingested(0, 0, [], [])


def test_topic_that_ends_before_what_was_read_is_read_again_under_another_mark(
    broker: Broker,
    topic: str,
    source: Source,
    warehouse: Warehouse,
    query: Query,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker.send(topic, numbered(0, 5))
    ingest(source, warehouse)
    with monkeypatch.context() as shorter:
        shorter.setattr(Topic, "_span", lambda _, *place: _Span(*place, 0, 3))
        for accept_gap in (False, True):
            with pytest.raises(GapError, match=rf"ends at 3: .* `uri`: kafka://.*/{topic}#2"):
                ingest(source, warehouse, accept_gap=accept_gap)
    marked = source.model_copy(update={"uri": f"{source.uri}#2"})
    assert ingest(marked, warehouse).rows_loaded == 5
    assert ingest(marked, warehouse).rows_loaded == ingest(source, warehouse).rows_loaded == 0
    assert query("select count(*), count(distinct source_uri) from raw.records") == [(10, 1)]


def test_of_two_that_read_the_same_one_commits(
    broker: Broker, topic: str, source: Source, warehouse: Warehouse, query: Query
) -> None:
    broker.send(topic, numbered(0, 5))
    first, second = Following(source, warehouse), Following(source, again(warehouse))
    read = list(first.read(None, ALL))
    broker.send(topic, numbered(5, 10))
    more = list(second.read(None, ALL))  # other rows too: by its positions alone it is no repeat
    assert first.commit(read, "load-1") == 5
    assert second.commit(more, "load-2") == 0
    assert second.commit(list(second.read(None, ALL)), "load-3") == 5
    first.close()
    second.close()
    assert query(ROWS) == [("partition-0", 1 + n, b"%d" % n) for n in range(10)]


def test_partition_that_is_added_is_read_from_its_first_message(
    broker: Broker,
    topic: str,
    source: Source,
    warehouse: Warehouse,
    query: Query,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker.send(topic, numbered(0, 3), partition=0)
    broker.send(topic, numbered(3, 6), partition=3)
    real, n_partitions = Topic._partitions, 2
    # the mock cannot add one, so that only the first two are seen at first
    monkeypatch.setattr(Topic, "_partitions", lambda self: real(self)[:n_partitions])
    monkeypatch.setattr(kafka, "SECONDS_BETWEEN_LOOKS", 0.0)
    followed = Following(source, warehouse)

    def take() -> int:
        return followed.commit(list(followed.read(1.0, ALL)), "load")

    assert take() + take() == 3
    n_partitions = N_PARTITIONS
    assert take() + take() + take() == 3
    followed.close()
    assert query("select count(*), count(distinct source_uri) from raw.records") == [(6, 2)]


Step = tuple[str, int, int]
steps = st.tuples(
    st.sampled_from(["send", "read", "commit", "die"]), st.integers(0, 2), st.integers(1, 5)
)


@settings(max_examples=10)
@given(life=st.lists(steps, max_size=25))
def test_whoever_reads_dies_and_commits_each_message_is_in_raw_once(
    broker: Broker,
    make_source: MakeSource,
    tmp_path_factory: pytest.TempPathFactory,
    life: list[Step],
) -> None:
    topic = next(names)
    broker.make(topic)
    source, home = make_source(broker.uri(topic)), tmp_path_factory.mktemp("home")
    readers: dict[int, Following] = {}
    waiting: dict[int, list[Chunk]] = {}
    sent = [0, 0, 0]
    for what, who, n_rows in life:
        reader = readers.get(who) or Following(source, Warehouse(Settings(home=home)))
        readers[who] = reader
        if what == "send":
            broker.send(topic, numbered(sent[who], sent[who] + n_rows), partition=who)
            sent[who] += n_rows
        elif what == "read" and who not in waiting:
            waiting[who] = list(reader.read(0.1, ALL))
        elif what == "commit" and (chunks := waiting.pop(who, None)):
            reader.commit(chunks, f"load-{who}")
        elif what == "die":
            readers.pop(who).close()
            waiting.pop(who, None)
    for reader in readers.values():
        reader.close()
    warehouse = Warehouse(Settings(home=home))
    ingest(source, warehouse)
    rows = [
        (uri[-1], number, int(payload))
        for file in warehouse.files("raw.records")
        for uri, number, payload in _places(file)
    ]
    assert sorted(rows) == [(str(p), n + 1, n) for p in range(3) for n in range(sent[p])]


def _places(file: str) -> Iterator[tuple[str, int, bytes]]:
    import polars as pl

    yield from pl.read_parquet(file).select("source_uri", "row_number", "payload").rows()


def test_what_keeps_it_from_being_read_is_said(
    broker: Broker,
    make_source: MakeSource,
    warehouse: Warehouse,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(SourceError, match="Unknown topic or partition; check the topic's name"):
        ingest(make_source(broker.uri("none")), warehouse)
    monkeypatch.setattr(kafka, "SECONDS_TO_ANSWER", 0.5)
    with pytest.raises(SourceError, match=r"cannot be read \(.*\); check the address"):
        ingest(make_source("kafka://127.0.0.1:1/none"), warehouse)
    for name, value in (("SASL_PASWORD", "hunter2"), ("SECURITY_PROTOCOL", "hunter2")):
        with monkeypatch.context() as set_wrong:
            set_wrong.setenv(f"MILLRACE_KAFKA_{name}", value)
            with pytest.raises(SourceError, match=f"^MILLRACE_KAFKA_{name}: is not a ") as raised:
                ingest(make_source(broker.uri("none")), warehouse)
            assert "hunter2" not in str(raised.value)


def test_extra_that_is_missing_is_named(
    make_source: MakeSource, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(SourceError, match=r"pip install 'millrace\[kafka\]'"):
        ingest(make_source("kafka://broker:9092/mail"), warehouse)


def test_settings_are_in_the_environment_but_for_those_that_count_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MILLRACE_KAFKA_GROUP_ID", "allowed")
    monkeypatch.setenv("MILLRACE_KAFKA_AUTO_OFFSET_RESET", "latest")
    found = kafka.settings_with(os.environ, "broker:9092")
    assert (found["group.id"], found["auto.offset.reset"]) == ("allowed", "error")
    assert found["bootstrap.servers"] == "broker:9092"


@pytest.mark.parametrize(
    "keys",
    ["uri: kafka://ann:hunter2@broker:9092/mail", "uri: kafka://broker:9092", "uri: kafka:mail"],
)
def test_address_that_is_none_is_refused(keys: str, tmp_path: Path) -> None:
    assert_refused(tmp_path, keys, r"uri: is not the address of a topic, kafka://HOST:PORT/TOPIC")


def test_messages_in_another_format_are_refused(tmp_path: Path) -> None:
    for keys in ("format: csv", "encoding: latin-1"):
        assert_refused(
            tmp_path, f"uri: kafka://broker:9092/mail\n{keys}", "are JSON objects in UTF-8"
        )


def assert_refused(folder: Path, keys: str, message: str) -> None:
    file = folder / "source.yaml"
    record = "{record_id: a, author_id: b, event_timestamp: c, text: d}"
    file.write_text(f"name: mail\nknown: at_load\nrecord: {record}\n{keys}\n")
    with pytest.raises(SourceError, match=message) as raised:
        load_source(file)
    assert "hunter2" not in str(raised.value)
