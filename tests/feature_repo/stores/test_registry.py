"""The registry's file is replaced whole."""

from pathlib import Path

import pytest
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.repo_config import RegistryConfig

from feature_repo.stores.registry import AtomicFileRegistryStore


def test_reader_sees_the_registry_before_until_the_new_one_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = AtomicFileRegistryStore(RegistryConfig(path=str(tmp_path / "registry.db")), tmp_path)
    store.update_registry_proto(Registry(registry_schema_version="1"))
    seen = []
    replace = Path.replace

    def look(half: Path, target: Path) -> Path:
        assert half.stat().st_size
        seen.append(store.get_registry_proto().registry_schema_version)
        return replace(half, target)

    monkeypatch.setattr(Path, "replace", look)
    store.update_registry_proto(Registry(registry_schema_version="2"))
    assert seen == ["1"]
    assert store.get_registry_proto().registry_schema_version == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["registry.db"]
