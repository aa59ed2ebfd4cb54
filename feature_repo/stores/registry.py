"""Feast's registry in a file, replaced whole: who reads while it is written sees the one before, not a half."""

from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.repo_config import RegistryConfig


class AtomicFileRegistryStore(FileRegistryStore):
    """A file registry: `registry: {registry_store_type: feature_repo.stores.registry.AtomicFileRegistryStore}`.

    Feast's own empties the file before it writes, and every materialization writes: a reader beside it finds no views.
    """

    def _write_registry(self, registry_proto: Registry) -> None:
        half = self._filepath.with_suffix(".half")
        FileRegistryStore(RegistryConfig(path=str(half)), half.parent)._write_registry(registry_proto)  # noqa: SLF001
        half.replace(self._filepath)
