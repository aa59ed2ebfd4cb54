"""Locks: a training set is rebuilt equal to the byte, or what is missing or changed is named."""

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from feature_repo import TrainingSet, training_set
from feature_repo.locks import LockError, find, register, registered, remove
from tests.feature_repo.conftest import NOW, ready
from transforms.features.build import featurize
from transforms.home import Settings
from transforms.warehouse.tables import Warehouse

FEATURES = [
    "record_quality:n_words",
    "author_activity:n_records_7d",
    "author_activity:mean_characters_28d",
]


@pytest.fixture(scope="module")
def ready_home(
    staged: pl.DataFrame,
    stage: Callable[..., Warehouse],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A home of some staged records, featurized and registered, and a `copy` beside it."""
    home = tmp_path_factory.mktemp("locks") / "home"
    ready(stage(Warehouse(Settings(home=home)), staged.head(20)))
    shutil.copytree(home, home.with_name("copy"))
    return home


@pytest.fixture
def home(ready_home: Path) -> Warehouse:
    """That home, as it was."""
    shutil.rmtree(ready_home)
    shutil.copytree(ready_home.with_name("copy"), ready_home)
    return Warehouse(Settings(home=ready_home))


@pytest.fixture
def made(home: Warehouse, spine: pl.DataFrame) -> TrainingSet:
    return training_set(spine, FEATURES, home.settings.root)


def test_training_set_is_rebuilt_equal_to_the_byte_after_more_runs(
    home: Warehouse,
    made: TrainingSet,
    staged: pl.DataFrame,
    spine: pl.DataFrame,
    stage: Callable[..., Warehouse],
    tmp_path: Path,
) -> None:
    made.save_lock(tmp_path / "training.lock")
    made.register("first")
    featurize(stage(home, staged[20:40]), NOW + timedelta(days=1))
    root = home.settings.root
    assert training_set(spine, FEATURES, root).lock["result"] != made.lock["result"]
    again = [
        training_set.rebuild(made.lock, spine, root),
        training_set.rebuild(tmp_path / "training.lock", spine, root),
        # the registered spine is of the same digest
        training_set.rebuild(str(tmp_path / "training.lock"), home=root),
        training_set.rebuild("first", home=root),
    ]
    for other in again:
        assert other.lock == made.lock
        assert other.frame.equals(made.frame)


def test_lock_without_a_spine_asks_for_it(home: Warehouse, made: TrainingSet) -> None:
    with pytest.raises(LockError, match=r"say spine="):
        training_set.rebuild(made.lock, home=home.settings.root)


def test_other_spine_is_named(home: Warehouse, made: TrainingSet, spine: pl.DataFrame) -> None:
    with pytest.raises(
        LockError, match=r"differs:\n  spine: \w+ then, \w+ now\n  result: \w+ then, \w+ now$"
    ):
        training_set.rebuild(made.lock, spine.reverse(), home.settings.root)


def test_missing_data_files_are_named(
    home: Warehouse, made: TrainingSet, spine: pl.DataFrame
) -> None:
    file, *_ = home.files("features.author_activity")
    Path(file).unlink()
    with pytest.raises(
        LockError,
        match=(
            r"features.author_activity: version \d+ is missing: 1 of \d+ data files, first "
            rf"{Path(file).name}"
        ),
    ):
        training_set.rebuild(made.lock, spine, home.settings.root)


def test_missing_version_is_named(home: Warehouse, made: TrainingSet, spine: pl.DataFrame) -> None:
    lock = {**made.lock, "tables": {**made.lock["tables"], "record_quality": 99}}
    with pytest.raises(LockError, match=r"features\.record_quality: version 99 is missing$"):
        training_set.rebuild(lock, spine, home.settings.root)


def test_every_other_change_is_named(
    home: Warehouse, made: TrainingSet, spine: pl.DataFrame
) -> None:
    then = {"result": "0", "registry": "1", "code": {**made.lock["code"], "record_quality": "2"}}
    packages = {**made.lock["packages"], "polars": "0.1"}
    with pytest.raises(LockError) as raised:
        training_set.rebuild({**made.lock, **then, "packages": packages}, spine, home.settings.root)
    _, *lines = str(raised.value).splitlines()
    assert [line.strip().split(":")[0] for line in lines] == [
        "result",
        "registry",
        "code, record_quality",
        "packages, polars",
    ]


def test_other_package_is_no_failure_where_the_result_is_equal(
    home: Warehouse, made: TrainingSet, spine: pl.DataFrame
) -> None:
    lock = {**made.lock, "packages": {**made.lock["packages"], "polars": "0.1"}}
    assert training_set.rebuild(lock, spine, home.settings.root).frame.equals(made.frame)


def test_registry_digest_does_not_change_by_materializing(
    home: Warehouse, made: TrainingSet, spine: pl.DataFrame
) -> None:
    from feature_repo.online import materialize

    assert materialize(home, NOW, lambda *_: None)["record_quality"] > 0
    assert training_set(spine, FEATURES, home.settings.root).lock == made.lock


def test_locks_are_listed_found_and_removed(home: Warehouse, made: TrainingSet) -> None:
    root = home.settings.root
    assert registered(root) == []
    made.register("b")
    register(root, "a", made.lock, made.spine)
    assert [lock.name for lock in registered(root)] == ["a", "b"]
    assert find(root, "a").tables == made.lock["tables"]
    with pytest.raises(LockError, match="registered already"):
        made.register("a")
    remove(root, "a")
    assert [lock.name for lock in registered(root)] == ["b"]
    with pytest.raises(LockError, match="there are: b"):
        remove(root, "a")


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".a", "a" * 101, "a\n"])
def test_name_that_would_leave_the_folder_is_refused(
    home: Warehouse, made: TrainingSet, name: str
) -> None:
    with pytest.raises(LockError, match="no name for a lock"):
        made.register(name)
    assert registered(home.settings.root) == []
