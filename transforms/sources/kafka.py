"""A Kafka topic as a stream: its parts are partitions, and positions are offsets.

Partitions are assigned from positions in raw, never by a consumer group, and nothing is committed
to the cluster. Settings beyond the address, passwords among them, are in the environment.
"""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from transforms.errors import GapError, SourceError
from transforms.sources.source import Source, topic_of
from transforms.sources.streams import Behind, Chunk, PositionOf, gap_error

if TYPE_CHECKING:
    from confluent_kafka import KafkaException, Message, TopicPartition

PREFIX = "MILLRACE_KAFKA_"
SECONDS_TO_ANSWER = 10.0
SECONDS_OF_SILENCE = 60.0
SECONDS_BETWEEN_LOOKS = 30.0
SECONDS_OF_A_POLL = 0.05
CHUNK_BYTES = 8 << 20
BYTES_OF_A_ROW = 100  # beside its value, in memory
# the client asks for a group's name, but no group is joined; a cluster may allow certain names only
DEFAULTS = {"group.id": "millrace", "queued.max.messages.kbytes": 32_768}
# on these rests that every message is read once
OURS = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",  # else messages that were deleted unread would be passed over
    "enable.partition.eof": True,
    "allow.auto.create.topics": False,
    "isolation.level": "read_committed",
    "max.poll.interval.ms": 86_400_000,  # an erasure may hold up the next poll
    "log_level": 0,  # it would write to the terminal; what matters is raised
}


class _Span(NamedTuple):
    """A partition: where raw is with it (-1: nowhere), and what the broker has of it."""

    partition: int
    position: int
    low: int
    high: int

    @property
    def is_gap(self) -> bool:
        return self.position >= 0 and not self.low <= self.position <= self.high

    @property
    def n_rows(self) -> int:
        return self.high - max(self.position, self.low)


class Topic:
    """A topic, read by librdkafka's consumer."""

    def __init__(self, source: Source) -> None:
        """Connect to the brokers that a source's `uri` names; raises `SourceError`."""
        try:
            import confluent_kafka
        except ImportError:
            message = (
                f"{source.uri}: to read topics, install the extra: pip install 'millrace[kafka]'"
            )
            raise SourceError(message) from None
        self._kafka = confluent_kafka
        self._uri, self._address = source.uri, topic_of(source.uri)
        try:
            self._consumer = confluent_kafka.Consumer(
                settings_with(os.environ, self._address.hosts)
            )
        except confluent_kafka.KafkaException as error:
            raise SourceError(_setting_error(error)) from None
        self._goals: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._passed: list[Chunk] = []
        self._n_partitions, self._cluster = 0, ""
        self._look_at = 0.0

    @property
    def is_read(self) -> bool:
        """Whether all is read that was there at the first `seek`."""
        return not self._ends and not self._passed

    def close(self) -> None:
        """Disconnect."""
        self._consumer.close()

    def behind(self, position_of: PositionOf) -> Behind:
        """Count messages by their offsets; those of a compacted topic are fewer."""
        spans = self._spans(position_of)
        n_rows = sum(max(0, span.n_rows) for span in spans)
        return Behind(n_rows, [self._gap(span) for span in spans if span.is_gap])

    def has_grown(self) -> bool:
        """Look for more partitions now and then, which also tells whether a broker answers."""
        if time.monotonic() < self._look_at:
            return False
        self._look_at = time.monotonic() + SECONDS_BETWEEN_LOOKS
        return len(self._partitions()) != self._n_partitions

    def seek(self, position_of: PositionOf, *, accept_gap: bool) -> list[str]:
        """Assign all partitions, each from where raw is, or from its first message."""
        spans = self._spans(position_of)
        gaps = [span for span in spans if span.is_gap]
        self._refuse_gaps(gaps, accept_gap=accept_gap)
        self._n_partitions = len(spans)
        self._look_at = time.monotonic() + SECONDS_BETWEEN_LOOKS
        self._goals = self._goals or {span.partition: span.high for span in spans}
        self._ends = {
            span.partition: goal
            for span in spans
            if max(span.position, span.low) < (goal := self._goals.get(span.partition, 0))
        }
        # raw gets the new positions even if nothing is left to read
        self._passed = [self._chunk(span.partition, [], [], span.low) for span in gaps]
        beginning = self._kafka.OFFSET_BEGINNING
        self._consumer.assign(
            [
                self._place(
                    span.partition,
                    max(span.position, span.low) if span.position >= 0 else beginning,
                )
                for span in spans
            ]
        )
        return [self._gap(span) for span in gaps]

    def read(self, seconds: float | None, max_bytes: int) -> Iterator[Chunk]:
        """Yield messages for some seconds, or until all of the first `seek` are read."""
        passed, self._passed = self._passed, []
        yield from passed
        until = float("inf") if seconds is None else time.monotonic() + seconds
        heard_at = time.monotonic()
        rows: dict[int, list[tuple[int, bytes]]] = {}
        n_bytes = n_waiting = 0
        while n_bytes + n_waiting < max_bytes and time.monotonic() < until:
            if seconds is None and not self._ends:
                break
            message = self._consumer.poll(SECONDS_OF_A_POLL)
            if message is None:
                if seconds is None and time.monotonic() - heard_at > SECONDS_OF_SILENCE:
                    raise SourceError(self._unreachable("no message comes"))
                continue
            heard_at = time.monotonic()
            if not self._is_row(message):
                continue
            payload = payload_of(message)
            rows.setdefault(_partition(message), []).append((_offset(message), payload))
            n_waiting += len(payload) + BYTES_OF_A_ROW
            if n_waiting >= CHUNK_BYTES:
                yield from self._chunks(rows)
                n_bytes, n_waiting, rows = n_bytes + n_waiting, 0, {}
        yield from self._chunks(rows)

    def _is_row(self, message: "Message") -> bool:
        """Whether it is a message of the topic, not an event of the client."""
        error, partition = message.error(), _partition(message)
        if error is None:
            if _offset(message) + 1 >= self._ends.get(partition, 0):
                self._ends.pop(partition, None)
            return True
        code = error.code()
        if code == self._kafka.KafkaError._PARTITION_EOF:  # noqa: SLF001 - its documented name
            # also where the last offsets have no message: of a transaction, or compacted
            self._ends.pop(partition, None)
        elif code == self._kafka.KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001
            self._refuse_gaps([self._span(partition, _offset(message))], accept_gap=False)
        else:
            raise SourceError(self._unreachable(error.str()))
        return False

    def _chunks(self, rows: dict[int, list[tuple[int, bytes]]]) -> Iterator[Chunk]:
        for partition, of_partition in rows.items():
            offsets, payloads = zip(*of_partition, strict=True)
            yield self._chunk(partition, offsets, payloads, offsets[-1] + 1)

    def _chunk(
        self, partition: int, offsets: Sequence[int], payloads: Sequence[bytes], end: int
    ) -> Chunk:
        return Chunk(
            self._part(partition),
            f"{self._uri.partition('#')[0]}/partition-{partition}",
            pa.array([offset + 1 for offset in offsets], pa.int64()),
            pa.array(payloads, pa.binary()),
            end,
        )

    def _part(self, partition: int) -> str:
        """Name a partition: where brokers move it keeps its name, in another cluster it has not."""
        return f"{self._cluster}/{self._address.topic}{self._address.again}/{partition}"

    def _place(self, partition: int, offset: int = -1) -> "TopicPartition":
        return self._kafka.TopicPartition(self._address.topic, partition, offset)

    def _partitions(self) -> list[int]:
        """List the partitions; raises `SourceError` if no broker answers, or there is no topic."""
        name = self._address.topic
        try:
            found = self._consumer.list_topics(name, SECONDS_TO_ANSWER)
        except self._kafka.KafkaException as error:
            raise SourceError(self._unreachable(error.args[0].str())) from None
        topic = found.topics[name]
        if topic.error is not None:
            message = (
                f"{self._uri}: {topic.error.str()}; check the topic's name, and that "
                f"{PREFIX}SASL_USERNAME may read it"
            )
            raise SourceError(message)
        self._cluster = found.cluster_id or ""
        return sorted(topic.partitions)

    def _spans(self, position_of: PositionOf) -> list[_Span]:
        partitions = self._partitions()
        return [
            self._span(partition, position_of(self._part(partition))) for partition in partitions
        ]

    def _span(self, partition: int, position: int) -> _Span:
        try:
            low, high = self._consumer.get_watermark_offsets(
                self._place(partition), SECONDS_TO_ANSWER
            )
        except self._kafka.KafkaException as error:
            raise SourceError(self._unreachable(error.args[0].str())) from None
        return _Span(partition, position, low, high)

    def _refuse_gaps(self, gaps: list[_Span], *, accept_gap: bool) -> None:
        if beyond := [self._gap(span) for span in gaps if span.position > span.high]:
            raise GapError("\n  ".join(beyond))
        if gaps and not accept_gap:
            raise gap_error(map(self._gap, gaps))

    def _gap(self, span: _Span) -> str:
        """Describe what is lost of a partition."""
        place = f"{self._uri} partition {span.partition}"
        if span.position > span.high:
            return (
                f"{place}: raw has read up to offset {span.position:,}, and it ends at "
                f"{span.high:,}: the topic was made again, or has lost messages; read it from its "
                f"start, once more, by another mark at the end of `uri`: {self._again()}"
            )
        return (
            f"{place}: the {span.low - span.position:,} messages from offset {span.position:,} on "
            f"were deleted before they were read; it begins at {span.low:,} now"
        )

    def _again(self) -> str:
        number = int(self._address.again.removeprefix("#") or 1) + 1
        return f"{self._uri.partition('#')[0]}#{number}"

    def _unreachable(self, reason: str) -> str:
        return (
            f"{self._uri}: cannot be read ({reason}); check the address, that the brokers run, "
            f"and how they let clients in: {PREFIX}SECURITY_PROTOCOL and others (docs/sources.md)"
        )


def settings_with(environment: Mapping[str, str], hosts: str) -> dict[str, Any]:
    """Compose the client's settings from those in the environment, and ours, which win.

    >>> settings = settings_with({"MILLRACE_KAFKA_SASL_USERNAME": "ann"}, "broker:9092")
    >>> settings["sasl.username"], settings["auto.offset.reset"]
    ('ann', 'error')
    """
    theirs = {
        name.removeprefix(PREFIX).lower().replace("_", "."): value
        for name, value in environment.items()
        if name.startswith(PREFIX)
    }
    return {**DEFAULTS, **theirs, **OURS, "bootstrap.servers": hosts, "error_cb": _ignore}


def _ignore(_: object) -> None:
    """Ignore what the client itself tries again."""


def _setting_error(error: "KafkaException") -> str:
    """Name the variable that is wrong, never its value."""
    named = re.search(r"property:? \"?([\w.]+)", str(error))
    name = f"{PREFIX}{named[1].upper().replace('.', '_')}" if named else f"one of {PREFIX}*"
    return (
        f"{name}: is not a setting of librdkafka, or has a value that it does not take; "
        "its CONFIGURATION.md lists them, dots written as underscores"
    )


def payload_of(message: "Message") -> bytes:
    """Return a message's value, unchanged; of one without a value what else it has, as JSON.

    So that a source file can map it: a message with a key and no value usually takes out a record.
    """
    value = message.value()
    if value is not None:
        return value
    key, (kind, milliseconds) = message.key(), message.timestamp()
    at = datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat() if kind else None
    # a key that is not text keeps its bytes, escaped
    text = None if key is None else key.decode("utf-8", "backslashreplace")
    return json.dumps({"_key": text, "_timestamp": at, "_null": True}).encode()


def _partition(message: "Message") -> int:
    partition = message.partition()
    assert partition is not None  # noqa: S101 - of what is polled it is known
    return partition


def _offset(message: "Message") -> int:
    offset = message.offset()
    assert offset is not None  # noqa: S101
    return offset
