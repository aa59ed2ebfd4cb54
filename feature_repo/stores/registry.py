"""Feast's registry in a file that is replaced whole, and read only if its home names its digest."""

import logging
import uuid
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry

from feature_repo.registry_digest import ForeignRegistryError, read, write
from transforms.errors import MillraceError

logger = logging.getLogger(__name__)


class ReadOnlyRegistryError(MillraceError):
    """The feature server was about to write the registry."""


class AtomicFileRegistryStore(FileRegistryStore):
    """A file registry, replaced whole; its readers load nothing that this class did not write.

    `registry: {registry_store_type: feature_repo.stores.registry.AtomicFileRegistryStore}`.

    Feast's own empties the file before it writes, and every materialization writes: a reader beside
    it finds no views. On a disk that is full it keeps what found room, and says nothing.
    """

    is_read_only: bool = False  # that of a feature server
    _content: bytes | None = None

    def get_registry_proto(self) -> Registry:
        """Read the registry; a server that has read one goes on with it if it was tampered with.

        Raises `ForeignRegistryError` if the home does not name it, FileNotFoundError for none.
        """
        try:
            self._content = read(self._filepath)
        except ForeignRegistryError as error:
            if not (self.is_read_only and self._content):
                raise
            logger.error("%s; the registry before it is served on", error)  # noqa: TRY400 - one line
        registry = Registry()
        registry.ParseFromString(self._content)
        return registry

    def _write_registry(self, registry_proto: Registry) -> None:
        if self.is_read_only:
            message = f"{self._filepath}: the feature server does not write the registry"
            raise ReadOnlyRegistryError(message)
        for view in registry_proto.feature_views:
            _join(view.meta.materialization_intervals)
        registry_proto.version_id = str(uuid.uuid4())
        registry_proto.last_updated.FromDatetime(datetime.now(UTC))
        write(self._filepath, registry_proto.SerializeToString())


def _join(intervals: Any) -> None:
    """Join intervals that follow one another: Feast adds one at each materialization.

    >>> from feast.protos.feast.core.FeatureView_pb2 import FeatureViewMeta
    >>> meta = FeatureViewMeta()
    >>> for start, end in ((0, 5), (5, 6), (6, 9), (12, 13)):
    ...     interval = meta.materialization_intervals.add()
    ...     interval.start_time.seconds, interval.end_time.seconds = start, end
    >>> _join(meta.materialization_intervals)
    >>> [(i.start_time.seconds, i.end_time.seconds) for i in meta.materialization_intervals]
    [(0, 9), (12, 13)]
    """
    for place in reversed([i for i, (a, b) in enumerate(pairwise(intervals)) if _meet(a, b)]):
        intervals[place].end_time.CopyFrom(intervals[place + 1].end_time)
        del intervals[place + 1]


def _meet(first: Any, second: Any) -> bool:
    return bool(first.end_time == second.start_time)
