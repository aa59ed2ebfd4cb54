"""What is appended to the source's topic or table: taken in small commits, or by the passes."""

import logging
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial

from flows.consumer.intake import BYTES_OF_A_COMMIT, SECONDS_OF_A_COMMIT
from transforms.errors import MillraceError
from transforms.sources.ingest import Ingested, ingest
from transforms.sources.posts import Intake
from transforms.sources.source import Source
from transforms.sources.streams import Following, look
from transforms.warehouse.tables import Warehouse

SECONDS_UNTIL_RETRY = 5.0
logger = logging.getLogger(__name__)


class Appended:
    """The table that a source points to; what was appended to it, the next pass loads."""

    def __init__(self, source: Source, warehouse: Warehouse) -> None:
        """Take the table's source, and the home to look in how far it is read."""
        self._source, self._warehouse = source, warehouse

    def is_due(self) -> bool:
        """Whether there are rows that raw does not have, or a pass will say why nobody knows."""
        try:
            behind = look(self._source, self._warehouse)
        except MillraceError:
            return True
        return bool(behind.n_rows or behind.gaps)

    def load(self, source: Source, warehouse: Warehouse) -> Ingested:
        """Load what was appended, as a run does."""
        return ingest(source, warehouse)


class Follower(threading.Thread):
    """Reads a topic on and on, and commits what has come with its positions."""

    def __init__(
        self, source: Source, warehouse: Warehouse, intake: Intake, arrived: Callable[[], None]
    ) -> None:
        """Take the topic's source, what else commits to raw, and what to call after a commit."""
        super().__init__(name="millrace-follower")
        self.trouble: str | None = None
        self._source, self._warehouse = source, warehouse
        self._intake, self._arrived = intake, arrived
        self._is_closed = threading.Event()

    def close(self) -> None:
        """Let the commit under way be the last."""
        self._is_closed.set()

    def run(self) -> None:
        """Read until closed; what fails is tried again from where raw is."""
        while not self._is_closed.is_set():
            try:
                with closing(Following(self._source, self._warehouse)) as followed:
                    self._follow(followed)
            except Exception as error:  # noqa: BLE001 - the next try may succeed; nothing is lost
                known = isinstance(error, MillraceError)
                self.trouble = str(error) if known else type(error).__name__
                logger.error("the topic is not read: %s", self.trouble)  # noqa: TRY400 - no text
                self._is_closed.wait(SECONDS_UNTIL_RETRY)

    def _follow(self, followed: Following) -> None:
        while not self._is_closed.is_set():
            chunks = list(followed.read(SECONDS_OF_A_COMMIT, BYTES_OF_A_COMMIT))
            self.trouble = None
            if chunks and self._intake.let(partial(followed.commit, chunks)):
                self._arrived()
