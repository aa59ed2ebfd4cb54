"""The registry's file is replaced whole, and read only if it is the one that was written."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.repo_config import RegistryConfig

from feature_repo import registry_digest
from feature_repo.registry_digest import ForeignRegistryError
from feature_repo.stores.registry import AtomicFileRegistryStore, ReadOnlyRegistryError


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
    assert seen == ["1", "1"]  # as the new one is named, and as it takes the place
    assert store.get_registry_proto().registry_schema_version == "2"
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["registry.db", "registry.lock", "registry.sha256"]


@pytest.fixture
def store(tmp_path: Path) -> AtomicFileRegistryStore:
    return AtomicFileRegistryStore(RegistryConfig(path=str(tmp_path / "registry.db")), tmp_path)


def test_registry_that_the_home_does_not_name_is_not_loaded(
    store: AtomicFileRegistryStore, tmp_path: Path
) -> None:
    store.update_registry_proto(Registry(registry_schema_version="1"))
    other = Registry(registry_schema_version="2").SerializeToString()
    (tmp_path / "registry.db").write_bytes(other)
    with pytest.raises(ForeignRegistryError, match=r"its SHA-256 is not in registry\.sha256"):
        store.get_registry_proto()
    store.update_registry_proto(Registry(registry_schema_version="3"))
    assert store.get_registry_proto().registry_schema_version == "3"
    (tmp_path / "registry.sha256").unlink()
    with pytest.raises(ForeignRegistryError):
        store.get_registry_proto()


def test_registry_of_a_writer_that_was_killed_is_loaded(
    store: AtomicFileRegistryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.update_registry_proto(Registry(registry_schema_version="1"))
    replace_file = registry_digest.replace_file

    def killed(path: Path, content: bytes) -> None:
        if path.name == "registry.db":
            raise KeyboardInterrupt
        replace_file(path, content)

    monkeypatch.setattr(registry_digest, "replace_file", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            store.update_registry_proto(Registry(registry_schema_version="2"))
    assert store.get_registry_proto().registry_schema_version == "1"


def test_writers_at_once_leave_a_registry_that_is_named(tmp_path: Path) -> None:
    path, contents = tmp_path / "registry.db", [str(number).encode() for number in range(200)]
    registry_digest.write(path, b"first")
    with ThreadPoolExecutor(8) as pool:
        writes = [pool.submit(registry_digest.write, path, content) for content in contents]
        while not all(write.done() for write in writes):
            registry_digest.read(path)  # raises for one that is not named
    assert registry_digest.read(path) in contents


def test_server_writes_no_registry_and_goes_on_with_what_it_read(
    store: AtomicFileRegistryStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.update_registry_proto(Registry(registry_schema_version="1"))
    assert store.get_registry_proto().registry_schema_version == "1"
    store.is_read_only = True
    with pytest.raises(ReadOnlyRegistryError, match="does not write the registry"):
        store.update_registry_proto(Registry(registry_schema_version="2"))
    (tmp_path / "registry.db").write_bytes(
        Registry(registry_schema_version="3").SerializeToString()
    )
    assert store.get_registry_proto().registry_schema_version == "1"
    assert "the registry before it is served on" in caplog.text
