"""Backups beside runs that go on: a restored home goes on as the one that was copied."""

import re
import shutil
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flows.cli import main
from flows.stages import recover, run_backup, run_erasure, run_restore
from tests.flows.conftest import Lives, Notes, Warm, contents
from transforms.errors import BackupError
from transforms.features.registry import views
from transforms.home import Settings
from transforms.sources.ingest import ingest
from transforms.sources.source import load_source
from transforms.staging.prepare import prepare
from transforms.upkeep.backup import list_backups, read_backup, take
from transforms.upkeep.erase import Wanted
from transforms.upkeep.erasures import Done, read_done, read_due, write_due
from transforms.upkeep.places import open_place
from transforms.upkeep.restore import restore
from transforms.warehouse.publishing import publish
from transforms.warehouse.tables import Warehouse


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def move(lives: Lives, home: Path) -> None:
    """Let the growing source go on with a restored home."""
    shutil.rmtree(lives.home)
    home.rename(lives.home)


def test_a_backup_in_the_midst_of_a_run_ends_as_an_undisturbed_home(
    lives: Lives, warm: Warm, tmp_path: Path
) -> None:
    lives.go_back(1)
    place, home = tmp_path / "backups", tmp_path / "restored"
    assert invoke("backup", place, "--home", lives.home).exit_code == 0
    # what has been committed until here is what a copy has that is taken here
    warm.die("run_until", "after:accounting.files", lives.source, lives.home)
    said = invoke("backup", place, "--home", lives.home).output
    n_files, n_copied = (int(n) for n in re.findall(r"(\d+) (?:files|of them)", said))
    assert n_copied < n_files / 2  # the others are there
    first, last = list_backups(open_place(str(place)))
    before, after = (read_backup(open_place(str(place)), name) for name in (first, last))
    assert before.versions != after.versions
    assert invoke("restore", place, "--home", home).output.endswith(f"; {home} is whole\n")
    assert Warehouse(Settings(home=home)).versions() == after.versions
    move(lives, home)
    lives.assert_ends_as_undisturbed(1, "restored")


def test_backups_beside_a_run_are_each_of_one_instant(
    lives: Lives, warm: Warm, tmp_path: Path
) -> None:
    lives.go_back(1)
    place, home = tmp_path / "backups", tmp_path / "restored"
    pid, has_ended = warm.start("run", lives.source, lives.home), threading.Event()
    waiting = threading.Thread(target=lambda: (warm.wait(pid), has_ended.set()))
    waiting.start()
    while not has_ended.is_set():
        run_backup(lives.home, str(place), None)
    waiting.join()
    taken = {
        str(read_backup(open_place(str(place)), name).versions): name
        for name in list_backups(open_place(str(place)))
    }
    assert len(taken) > 2  # before the run, and at two moments of it or after
    name = sorted(taken.values())[len(taken) // 2]
    assert run_restore(home, str(place), name)[1] == 0
    move(lives, home)
    lives.assert_ends_as_undisturbed(1, name)


def test_who_was_erased_after_a_backup_is_erased_again_when_it_is_restored(
    lives: Lives, tmp_path: Path
) -> None:
    lives.go_back(2)
    place, home = str(tmp_path / "backups"), tmp_path / "restored"
    before, _ = run_backup(lives.home, place, None)
    run_erasure(lives.home, Wanted(author="u1"), is_dry=False)
    erased = contents(lives.home)
    run_backup(lives.home, place, None)
    assert run_restore(home, place, before.backup.name)[1] == 0
    found = contents(home)
    # an erasure that is repeated computes again, which is a publication to profile
    assert [name for name in erased if found[name] != erased[name]] in ([], ["profiles.columns"])
    assert "u1" in str(lives.contents[1])
    assert "u1" not in str(found["features.author_activity"])
    assert [done.of for done in read_done(home)] == ["author"]
    assert read_due(home) == []
    assert b"u1" not in (home / "erasures.json").read_bytes()


def test_an_erasure_that_is_due_waits_until_all_loads_are_staged(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    notes, home = Notes(tmp_path / "source"), warehouse.settings.root
    notes.add()
    source = load_source(notes.source)
    ingest(source, warehouse)
    write_due(home, [Done("author", "0" * 64, "2026-01-01T00:00:00+00:00")])
    recover(warehouse, datetime.now(UTC))
    assert len(read_due(home)) == 1
    prepare(source, warehouse)
    recover(warehouse, datetime.now(UTC))
    assert read_due(home) == []


@pytest.fixture
def small(warehouse: Warehouse) -> Warehouse:
    """A home with some tables, empty ones."""
    for view in views()[:2]:
        warehouse.create(view.contract)
        publish(warehouse, view.contract, [], {"featurize": 1})
    return warehouse


def take_small(small: Warehouse, place: Path) -> str:
    return take(small, str(place), list).backup.name


def test_a_killed_backup_leaves_the_earlier_ones_whole(
    small: Warehouse, warm: Warm, tmp_path: Path
) -> None:
    place, home = tmp_path / "backups", small.settings.root
    first = take_small(small, place)
    publish(small, views()[0].contract, [], {"featurize": 2})
    for point in ("before:data", "before:fsync", "after:data", "before:backups"):
        warm.die("backup_until", point, home, place)
        assert list_backups(open_place(str(place))) == [first]
        assert "all as they were written" in invoke("restore", place, "--check").output
    second = take_small(small, place)
    assert list_backups(open_place(str(place))) == [first, second]
    assert f"  {first}: deleted" in invoke("backup", place, "--home", home, "--keep", 2).output
    assert "all as they were written" in invoke("restore", place, "--check").output
    assert list(place.rglob("*.half")) == []


def test_a_second_backup_to_a_place_waits_and_says_so(
    small: Warehouse, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, home = str(tmp_path / "backups"), small.settings.root
    place = open_place(name)
    second = threading.Thread(target=run_backup, args=(home, name, 1))
    with place.alone(lambda _: None):
        second.start()
        while "waiting for another backup (process" not in caplog.text:
            assert second.is_alive()
        place.write("data/00/copied", b"by the first, and not listed yet")
        take_small(small, tmp_path / "backups")
        half = tmp_path / "backups" / "data" / "00" / "more.half"
        half.touch()
        assert [*list_backups(place), *place.sizes("data/00")][1:] == ["data/00/copied"]
        assert half.is_file()  # who only reads deletes nothing
    second.join()
    assert len(list_backups(place)) == 1
    assert place.sizes("data/00").keys() == set()


def test_a_killed_restore_is_refused_by_all_until_it_is_repeated(
    small: Warehouse, warm: Warm, tmp_path: Path, digest_of_tree: Callable[[Path], str]
) -> None:
    place, home = tmp_path / "backups", tmp_path / "restored"
    take_small(small, place)
    for point in ("before:features", "after:features", "before:due"):
        warm.die("restore_until", point, home, place)
        assert "a restore into it has not ended" in invoke("status", "--home", home).output
        assert "a restore into it has not ended" in invoke("refresh", "--home", home).output
    restore(Settings(home=home), str(place), None)
    assert Warehouse(Settings(home=home)).versions() == small.versions()
    assert digest_of_tree(home / "features") == digest_of_tree(small.settings.root / "features")


@pytest.mark.parametrize("is_missing", [True, False])
def test_a_damaged_backup_is_named_and_restores_nothing(
    small: Warehouse, tmp_path: Path, *, is_missing: bool
) -> None:
    place, home = tmp_path / "backups", tmp_path / "restored"
    name = take_small(small, place)
    files = read_backup(open_place(str(place)), name).files
    path, file = next(item for item in files.items() if "_delta_log" in item[0])
    damaged = place / file.key
    if is_missing:
        damaged.unlink()
    else:
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    said = f"{file.key}: is damaged or missing, so {path} cannot be restored"
    assert said in invoke("restore", place, "--check").output
    assert said in invoke("restore", place, "--home", home).output
    assert not (home / "features").exists()
    assert not (home / "restoring").exists()


def test_a_damaged_list_is_named(small: Warehouse, tmp_path: Path) -> None:
    name = take_small(small, tmp_path)
    path = tmp_path / "backups" / f"{name}.json"
    path.write_bytes(path.read_bytes().replace(b"record", b"rekord"))
    assert f"backups/{name}.json: is damaged" in invoke("restore", tmp_path, "--check").output


def test_what_is_there_is_not_overwritten(small: Warehouse, tmp_path: Path) -> None:
    take_small(small, tmp_path / "backups")
    with pytest.raises(BackupError, match="is not empty; restore into another --home"):
        restore(small.settings, str(tmp_path / "backups"), None)
    with pytest.raises(BackupError, match="no backup is there"):
        restore(Settings(home=tmp_path / "x"), str(tmp_path / "none"), None)


def test_a_home_that_is_being_erased_or_never_rests_is_not_copied(
    small: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small.settings.root / "erasing").mkdir()
    (small.settings.root / "erasing" / "note.json").touch()
    with pytest.raises(BackupError, match="an erasure is under way"):
        take_small(small, tmp_path / "backups")
    (small.settings.root / "erasing" / "note.json").unlink()
    moving = iter(range(1_000))
    monkeypatch.setattr(
        "transforms.upkeep.backup._seen", lambda _: ({"raw.records": next(moving)}, {})
    )
    monkeypatch.setattr("transforms.upkeep.backup._log", lambda *_: [])
    with pytest.raises(BackupError, match="changes all the time"):
        take_small(small, tmp_path / "backups")
    assert list(tmp_path.glob("backups/*")) == []
