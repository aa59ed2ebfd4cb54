"""Feast's registry in a file that is replaced whole: a reader never sees half a write."""

import uuid
from datetime import UTC, datetime

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
        registry_proto.version_id = str(uuid.uuid4())
        registry_proto.last_updated.FromDatetime(datetime.now(UTC))
        replace_file(self._filepath, registry_proto.SerializeToString())
