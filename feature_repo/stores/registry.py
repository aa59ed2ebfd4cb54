"""Feast's registry in a file that is replaced whole: a reader never sees half a write."""

import uuid
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry

from transforms.home import replace_file


class AtomicFileRegistryStore(FileRegistryStore):
    """A file registry, replaced whole.

    `registry: {registry_store_type: feature_repo.stores.registry.AtomicFileRegistryStore}`.

    Feast's own empties the file before it writes, and every materialization writes: a reader beside
    it finds no views. On a disk that is full it keeps what found room, and says nothing.
    """

    def _write_registry(self, registry_proto: Registry) -> None:
        for view in registry_proto.feature_views:
            _join(view.meta.materialization_intervals)
        registry_proto.version_id = str(uuid.uuid4())
        registry_proto.last_updated.FromDatetime(datetime.now(UTC))
        replace_file(self._filepath, registry_proto.SerializeToString())


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
