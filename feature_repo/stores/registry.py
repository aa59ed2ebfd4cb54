"""Feast's registry in a file, replaced whole: who reads while it is written sees the one before, not a half."""

import uuid
from datetime import UTC, datetime

from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry

from transforms.home import replace_file


class AtomicFileRegistryStore(FileRegistryStore):
    """A file registry: `registry: {registry_store_type: feature_repo.stores.registry.AtomicFileRegistryStore}`.

    Feast's own empties the file before it writes, and every materialization writes: a reader beside
    it finds no views. On a disk that is full it keeps what found room, and says nothing.
    """

    def _write_registry(self, registry_proto: Registry) -> None:
        registry_proto.version_id = str(uuid.uuid4())
        registry_proto.last_updated.FromDatetime(datetime.now(UTC))
        replace_file(self._filepath, registry_proto.SerializeToString())
