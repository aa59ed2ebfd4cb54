"""A Kafka broker for tests: librdkafka's own mock, in this process, spoken to by real clients.

A topic has four partitions, of which each keeps about 5 MB.
"""

from collections.abc import Iterable
from typing import Self

from confluent_kafka import Producer

N_PARTITIONS = 4
QUIET = {"log_level": 0}


class Broker:
    """A mock broker, and a producer that writes to it."""

    def __enter__(self) -> Self:
        self._cluster = Producer(
            {"bootstrap.servers": "none:1", "test.mock.num.brokers": 1, **QUIET}
        )
        (broker,) = self._cluster.list_topics(timeout=10).brokers.values()
        self.address = f"{broker.host}:{broker.port}"
        self._producer = Producer({"bootstrap.servers": self.address, **QUIET})
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.close()
        self._cluster.close()

    def uri(self, topic: str) -> str:
        return f"kafka://{self.address}/{topic}"

    def make(self, topic: str) -> None:
        """Make a topic without a message."""
        self._producer.list_topics(topic, 10)

    def send(
        self, topic: str, values: Iterable[bytes | None], partition: int = 0, key: str | None = None
    ) -> None:
        """Append messages to a partition; they are there when this returns."""
        for value in values:
            self._producer.produce(topic, value, key, partition)
            self._producer.poll(0)
        assert self._producer.flush(30) == 0
