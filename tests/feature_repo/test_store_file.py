"""Where online values are is said in a file of the user's, secrets by name; a lost store is due."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import redis
import yaml

from feature_repo import client, online_features
from feature_repo.online import SUMMARY, apply, due_views, is_applied, materialize
from feature_repo.register_here import is_ready
from feature_repo.stores import columnar
from tests.feature_repo.conftest import OUR
from transforms.errors import SettingsError
from transforms.home import Settings
from transforms.warehouse.tables import Warehouse, silent

COUNT, ROWS = ["author_activity:n_records_lifetime"], [{"author_id": "ann"}]
SECRET = 'a secret: with ${signs} of "YAML\'s" own'  # noqa: S105 - in no file


def state(folder: Path, **online: Any) -> Path:
    """Write a file of Feast's settings with another online store."""
    settings = yaml.safe_load((client.REPOSITORY / "feature_store.yaml").read_text("utf-8"))
    file = folder / "store.yaml"
    file.write_text(yaml.safe_dump(settings | {"online_store": online}), "utf-8")
    return file


@pytest.fixture
def home(ann: Warehouse, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ann.settings.root, tmp_path / "home"))


def test_online_values_are_where_the_file_says_secrets_stay_out_and_what_is_lost_is_due(
    home: Path, tmp_path: Path, redis_address: Any, redis_databases: Any, monkeypatch: Any
) -> None:
    database = next(redis_databases)
    at = f"{redis_address.host}:{redis_address.port},db=${{REDIS_DATABASE}}"
    file = state(tmp_path, type=f"{OUR}.online_redis.RedisOnlineStore", connection_string=at)
    warehouse = Warehouse(Settings(home=home))
    assert is_applied(warehouse)
    monkeypatch.setenv("MILLRACE_FEATURE_STORE", str(file))
    assert not is_applied(warehouse)
    with pytest.raises(SettingsError, match=r"store.yaml: \$\{REDIS_DATABASE\} is not set"):
        client.repo_config(home)
    monkeypatch.setenv("REDIS_DATABASE", str(database))
    apply(warehouse)
    assert "db=${REDIS_DATABASE}" in (home / "feature_store.yaml").read_text("utf-8")
    materialize(warehouse, datetime.now(UTC), silent)
    assert online_features(COUNT, ROWS, home).item(0, 1) == 2
    assert due_views(warehouse, datetime.now(UTC)) == []

    with redis.Redis(redis_address.host, redis_address.port, database) as emptied:
        emptied.flushdb()
    assert "author_activity" in due_views(warehouse, datetime.now(UTC))
    materialize(warehouse, datetime.now(UTC), silent)
    assert online_features(COUNT, ROWS, home).item(0, 1) == 2
    assert due_views(warehouse, datetime.now(UTC)) == []
    monkeypatch.setattr(columnar, "has_entity", Mock(side_effect=redis.ConnectionError))
    assert "author_activity" in due_views(warehouse, datetime.now(UTC)), "it does not answer"


def test_a_secret_is_taken_as_it_is(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = f"{OUR}.online_redis.RedisOnlineStore"
    file = state(tmp_path, type=kind, connection_string="host:1,password=${PASSWORD}")
    monkeypatch.setenv("MILLRACE_FEATURE_STORE", str(file))
    monkeypatch.setenv("PASSWORD", SECRET)
    assert client.repo_config(home).online_store.connection_string == f"host:1,password={SECRET}"


def test_a_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_FEATURE_STORE", "/no/such/store.yaml")
    with pytest.raises(SettingsError, match=r"MILLRACE_FEATURE_STORE: /no/such/store\.yaml"):
        client.store_file()


def test_a_store_says_itself_of_whom_it_would_know(
    home: Path, tmp_path: Path, redis_address: Any, redis_databases: Any, monkeypatch: Any
) -> None:
    asked = [*ROWS, {"author_id": "nobody"}]
    warehouse, database = Warehouse(Settings(home=home)), next(redis_databases)
    materialize(warehouse, datetime.now(UTC), silent)  # here, so the registry says that it is
    assert online_features(COUNT, asked, home).to_series(1).to_list() == [2, 0]
    at = f"{redis_address.host}:{redis_address.port},db={database}"
    file = state(tmp_path, type=f"{OUR}.online_redis.RedisOnlineStore", connection_string=at)
    monkeypatch.setenv("MILLRACE_FEATURE_STORE", str(file))
    apply(warehouse)
    assert online_features(COUNT, asked, home).to_series(1).to_list() == [None, None]
    with monkeypatch.context() as until:
        until.setattr(columnar, "mark_written", Mock(side_effect=InterruptedError))
        with pytest.raises(InterruptedError):
            materialize(warehouse, datetime.now(UTC), silent, ["author_activity"])
    assert online_features(COUNT, asked, home).to_series(1).to_list() == [2, None]
    materialize(warehouse, datetime.now(UTC), silent)
    assert online_features(COUNT, asked, home).to_series(1).to_list() == [2, 0]
    with redis.Redis(redis_address.host, redis_address.port, database) as emptied:
        emptied.flushdb()
    assert online_features(COUNT, asked, home).to_series(1).to_list() == [None, None]


def test_a_store_whose_rows_expire_says_nothing_of_whom_it_lacks(
    home: Path, tmp_path: Path, redis_address: Any, redis_databases: Any, monkeypatch: Any
) -> None:
    at = f"{redis_address.host}:{redis_address.port},db={next(redis_databases)}"
    kind = f"{OUR}.online_redis.RedisOnlineStore"
    file = state(tmp_path, type=kind, connection_string=at, key_ttl_seconds=3_600)
    monkeypatch.setenv("MILLRACE_FEATURE_STORE", str(file))
    apply(Warehouse(Settings(home=home)))
    materialize(Warehouse(Settings(home=home)), datetime.now(UTC), silent)
    asked = [*ROWS, {"author_id": "nobody"}]
    assert online_features(COUNT, asked, home).to_series(1).to_list() == [2, None]


def test_a_machine_knows_what_another_has_written_to_their_store(
    home: Path, tmp_path: Path, redis_address: Any, redis_databases: Any, monkeypatch: Any
) -> None:
    at = f"{redis_address.host}:{redis_address.port},db={next(redis_databases)}"
    file = state(tmp_path, type=f"{OUR}.online_redis.RedisOnlineStore", connection_string=at)
    monkeypatch.setenv("MILLRACE_FEATURE_STORE", str(file))
    other = Path(shutil.copytree(home, tmp_path / "other"))
    shutil.rmtree(other / "feast")
    apply(Warehouse(Settings(home=home)))
    materialize(Warehouse(Settings(home=home)), datetime.now(UTC), silent)
    assert is_ready(Warehouse(Settings(home=other)))
    apply(Warehouse(Settings(home=other)))
    assert online_features(COUNT, [{"author_id": "nobody"}], other).item(0, 1) == 0


def test_in_feasts_layout_it_knows_once_a_run_is_complete(
    home: Path, tmp_path: Path, redis_address: Any, redis_databases: Any, monkeypatch: Any
) -> None:
    at = f"{redis_address.host}:{redis_address.port},db={next(redis_databases)}"
    kind = f"{OUR}.online_redis.RedisOnlineStore"
    file = state(tmp_path, type=kind, connection_string=at, layout="feast")
    monkeypatch.setenv("MILLRACE_FEATURE_STORE", str(file))
    shutil.rmtree(home / "feast")
    warehouse = Warehouse(Settings(home=home))
    assert not is_ready(warehouse)
    apply(warehouse)
    nobody = [{"author_id": "nobody"}]
    assert online_features(COUNT, nobody, home).item(0, 1) is None
    (home / SUMMARY).write_text('{"materialized": {"author_activity": 1}}', "utf-8")
    assert is_ready(warehouse)
    (home / "feast" / "applied").unlink()
    apply(warehouse)
    assert online_features(COUNT, nobody, home).item(0, 1) == 0
