"""A home in object storage: what one on disk has, from several machines, whatever is killed."""

import hashlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from benchmarks.servers import Address
from feature_repo import training_set
from feature_repo.locks import registered
from flows.stages import MaintainParameters, run_backup, run_maintenance
from tests.flows.conftest import INCREMENTS, OF_A_RUN, Lives, Notes, Warm
from transforms import replica
from transforms.buckets import open_store
from transforms.errors import BackupError, HomeError
from transforms.home import Settings
from transforms.replica import Lease, replica_of
from transforms.schemas.raw import RawRecord
from transforms.sources.posts import Intake, read_post
from transforms.sources.source import load_source
from transforms.staging.accounting import recount
from transforms.upkeep.backup import keep_newest, list_backups, take
from transforms.upkeep.places import open_place
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

SPINE = (
    "select record_id, author_id, subject_id, known_timestamp as event_timestamp "
    "from staging.records order by all"
)
FEATURES = ["author_activity:n_records_lifetime", "record_quality:n_words"]
# of entities, of records, and one with tables beside its own: a home keeps all views alike
FEW_VIEWS = "author_activity, record_duplicates, record_quality"
SECONDS_OF_A_LEASE = 10.0  # on the machines of these tests
numbers = itertools.count()


class Bucket:
    """A bucket on moto's server, in which each test has a home of its own."""

    name = "homes"

    def __init__(self, address: Address) -> None:
        self.client = boto3.client("s3", endpoint_url=f"http://{address.host}:{address.port}")
        self.client.create_bucket(Bucket=self.name)

    def home(self) -> str:
        return f"s3://{self.name}/team/{next(numbers)}"

    def objects(self, home: str) -> dict[str, bytes]:
        prefix = home.removeprefix(f"s3://{self.name}/") + "/"
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=prefix
        )
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {
            key.removeprefix(prefix): self.client.get_object(Bucket=self.name, Key=key)[
                "Body"
            ].read()
            for key in keys
        }


@pytest.fixture(scope="module")
def cloud() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def bucket(s3_address: Address, cloud: pytest.MonkeyPatch) -> Bucket:
    cloud.setenv("AWS_ACCESS_KEY_ID", "test")
    cloud.setenv("AWS_SECRET_ACCESS_KEY", "test")
    cloud.setenv("AWS_REGION", "us-east-1")
    cloud.setenv("AWS_DEFAULT_REGION", "us-east-1")
    cloud.setenv("AWS_ENDPOINT_URL", f"http://{s3_address.host}:{s3_address.port}")
    return Bucket(s3_address)


class Machine:
    """A machine with what it keeps of homes, and processes that run commands there."""

    def __init__(self, folder: Path, warm: Warm) -> None:
        folder.mkdir()
        self.cache = folder / "cache"
        access = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        own = {
            "MILLRACE_CACHE": str(self.cache),
            "MILLRACE_VIEWS": FEW_VIEWS,
            "SECONDS_OF_A_LEASE": str(SECONDS_OF_A_LEASE),
        }
        self.warm = warm.machine(folder / "log.txt", access | own)
        (folder / "log.txt").touch()

    def with_all_views(self) -> Warm:
        """The processes of this machine, for a home of all views."""
        return self.warm.machine(self.warm.log, self.warm.environment | {"MILLRACE_VIEWS": "all"})

    def greps(self, home: str, word: bytes) -> list[Path]:
        """Find what is kept here of a home that has a word."""
        (folder,) = self.cache.glob(f"{home.rpartition('/')[2]}-*")
        files = [path for path in folder.rglob("*") if path.is_file()]
        return [path for path in files if word in path.read_bytes()]


@pytest.fixture(scope="module")
def machines(
    bucket: Bucket,  # noqa: ARG001 - its environment
    warm: Warm,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Machine, Machine]:
    folder = tmp_path_factory.mktemp("machines")
    return Machine(folder / "a", warm), Machine(folder / "b", warm)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process be a machine of its own that has nothing yet."""
    monkeypatch.setenv("MILLRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(replica, "_replicas", {})


def content(home: str | Path) -> dict[str, str]:
    """Digest every table's rows, in order of all their columns."""
    warehouse = Warehouse(Settings(home=Path(home)))
    assert recount(warehouse)["adds_up"].all()
    digests = {}
    with connect(warehouse) as connection:
        for relation in warehouse.versions():
            rows = connection.sql(f"select * from {relation}").pl().drop(OF_A_RUN, strict=False)
            lines = sorted(map(repr, rows.select(sorted(rows.columns)).rows()))
            digests[relation] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return digests


@pytest.fixture(scope="module")
def undisturbed(
    machines: tuple[Machine, Machine], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, str]]:
    """What a home on disk has after each increment."""
    folder = tmp_path_factory.mktemp("undisturbed")
    notes, found = Notes(folder / "source"), []
    for _ in INCREMENTS:
        notes.add()
        machines[0].warm.run("run", notes.source, folder / "home")
        found.append(content(folder / "home"))
    return found


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "source")


@pytest.mark.usefixtures("here")
def test_machines_take_turns_and_have_what_a_home_on_disk_has(
    machines: tuple[Machine, Machine],
    bucket: Bucket,
    notes: Notes,
    lives: Lives,
) -> None:
    home, (a, b) = bucket.home(), [machine.with_all_views() for machine in machines]
    for number, machine in enumerate((a, b, a), 1):
        notes.add()
        machine.run("run", notes.source, home)
        assert content(home) == content(lives.folder / "copies" / str(number) / "home")
    before = bucket.objects(home)
    b.run("run", notes.source, home)
    changed = {key for key, value in bucket.objects(home).items() if before.get(key) != value}
    assert changed <= {"home.lease", "last_run.json", "runs.jsonl"}
    assert not any(key.startswith(("feast", "tmp", "posts")) for key in before)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "step",
    ["after:raw.records", "before:staging.records", "after:features.record_quality", "after:apply"],
)
def test_run_that_is_killed_there_is_finished_by_the_next(
    machines: tuple[Machine, Machine],
    bucket: Bucket,
    notes: Notes,
    undisturbed: list[dict[str, str]],
    step: str,
) -> None:
    home, warm = bucket.home(), machines[0].warm
    notes.add()
    assert warm.wait(warm.start("run_until", step, notes.source, home)) == -signal.SIGKILL
    warm.run("run", notes.source, home)
    assert content(home) == undisturbed[0]
    assert unnamed(bucket, home) == set()


@pytest.mark.usefixtures("here")
def test_home_there_is_backed_up_there_and_restored_as_another_there(
    machines: tuple[Machine, Machine],
    bucket: Bucket,
    notes: Notes,
    undisturbed: list[dict[str, str]],
) -> None:
    home, restored, place, (a, b) = bucket.home(), bucket.home(), bucket.home(), machines
    notes.add()
    a.warm.run("run", notes.source, home)
    b.warm.run("backup_until", "", home, place)
    before = bucket.objects(place)
    b.warm.run("backup_until", "", home, place)
    assert len(bucket.objects(place).keys() - before.keys()) == 1  # the list alone
    a.warm.run("restore_until", "", restored, place)
    there, here = (
        {name: each for name, each in bucket.objects(of).items() if name.count("/") > 1}
        for of in (home, restored)
    )
    assert here.items() <= there.items()
    assert content(restored) == undisturbed[0]
    notes.add()
    b.warm.run("run", notes.source, restored)
    assert content(restored) == undisturbed[1]


@pytest.mark.usefixtures("here")
def test_a_second_backup_there_waits_and_one_that_has_lost_its_lease_lists_nothing(
    bucket: Bucket,
    warehouse: Warehouse,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name, home = bucket.home(), warehouse.settings.root
    warehouse.create(RawRecord)
    place = open_place(name)
    second = threading.Thread(target=run_backup, args=(home, name, 1))
    with place.alone(lambda _: None) as check:
        second.start()
        while "waiting for another backup (process" not in caplog.text:
            assert second.is_alive()
        take(warehouse, name, list, check)
        assert len(list_backups(place)) == 1
    second.join()
    (kept,) = list_backups(place)
    with place.alone(lambda _: None) as check, monkeypatch.context() as patched:
        patched.setattr(replica, "SECONDS_OF_A_LEASE", 0.0)
        with pytest.raises(BackupError, match="has lost its lease of the place"):
            take(warehouse, name, list, check)
        with pytest.raises(BackupError, match="has lost its lease of the place"):
            keep_newest(name, 1, check)
    assert list_backups(place) == [kept]


def unnamed(bucket: Bucket, home: str) -> set[str]:
    """Return the data files there that no version of a table names."""
    warehouse = Warehouse(Settings(home=Path(home)))
    named = set()
    for relation, newest in warehouse.versions().items():
        for version in range(newest + 1):
            files = warehouse.table_at(relation, version).file_uris()
            named |= {str(Path(file).relative_to(warehouse.settings.root)) for file in files}
    data = {key for key in bucket.objects(home) if "/part-" in key}
    return data - named


@pytest.mark.usefixtures("here")
def test_another_machine_goes_on_when_one_has_died_once_its_lease_has_not_changed(
    machines: tuple[Machine, Machine],
    bucket: Bucket,
    notes: Notes,
    undisturbed: list[dict[str, str]],
) -> None:
    home, (a, b) = bucket.home(), machines
    notes.add()
    step = "before:features.author_activity"
    assert a.warm.wait(a.warm.start("run_until", step, notes.source, home)) == -signal.SIGKILL
    began = time.monotonic()
    b.warm.run("run", notes.source, home)
    assert time.monotonic() - began > SECONDS_OF_A_LEASE
    assert content(home) == undisturbed[0]
    assert "waiting for another run" in b.warm.log.read_text()


@pytest.mark.usefixtures("here")
def test_two_machines_at_once_end_as_one(
    machines: tuple[Machine, Machine],
    bucket: Bucket,
    notes: Notes,
    undisturbed: list[dict[str, str]],
) -> None:
    home = bucket.home()
    for expected in undisturbed[:2]:
        notes.add()
        begun = [(machine, machine.warm.start("run", notes.source, home)) for machine in machines]
        assert [machine.warm.wait(pid) for machine, pid in begun] == [0, 0]
        assert content(home) == expected


@pytest.mark.usefixtures("here")
def test_training_set_is_the_same_on_a_machine_that_ran_nothing_and_its_lock_is_everybodys(
    machines: tuple[Machine, Machine], bucket: Bucket, notes: Notes, tmp_path: Path
) -> None:
    home, disk = bucket.home(), tmp_path / "home"
    notes.add()
    for place in (home, disk):
        machines[0].warm.run("run", notes.source, place)
    made = training_set(SPINE, FEATURES, home)
    assert made.frame.equals(training_set(SPINE, FEATURES, disk).frame)
    assert made.frame["record_quality__n_words"].null_count() == 0
    made.register("march")
    notes.add()
    machines[1].warm.run("run", notes.source, home)
    machines[1].warm.run("maintain", home)
    assert training_set.rebuild("march", home=home).frame.equals(made.frame)
    (lock,) = registered(Settings(home=Path(home)).root)
    assert lock.name == "march"


@pytest.mark.usefixtures("here")
def test_what_is_erased_is_in_no_object_and_in_no_cache(
    machines: tuple[Machine, Machine], bucket: Bucket, notes: Notes
) -> None:
    home, (a, b) = bucket.home(), machines
    notes.add()
    file = notes.folder / "data" / "1.jsonl"
    file.write_text(
        file.read_text().replace('"u1"', '"quentin-4711"').replace('"note 1"', '"zanzibar"')
    )
    for machine in machines:
        machine.warm.run("run", notes.source, home)
    training_set(SPINE, FEATURES, home).register("march")
    words = (b"quentin-4711", b"zanzibar")
    for word in words:
        assert any(word in found for found in bucket.objects(home).values())
        assert a.greps(home, word)
    assert b.greps(home, words[0])
    file.unlink()
    a.warm.run("erase", "quentin-4711", Settings(home=Path(home)).home)
    assert [key for key, found in bucket.objects(home).items() if words[0] in found] == []
    before = content(home)
    b.warm.run("run", notes.source, home)
    assert all(content(home)[name] == before[name] for name in before if "profiles" not in name)
    for word in words:
        assert [key for key, found in bucket.objects(home).items() if word in found] == []
        assert a.greps(home, word) == []
        # the other machine's own online store is erased there
        assert [path for path in b.greps(home, word) if "feast" not in path.parts] == []


@pytest.mark.usefixtures("here")
def test_erasure_that_is_killed_is_finished_by_another_machine(
    machines: tuple[Machine, Machine], bucket: Bucket, notes: Notes
) -> None:
    home, (a, b) = bucket.home(), machines
    notes.add()
    a.warm.run("run", notes.source, home)
    step = "before:delete_files"
    assert a.warm.wait(a.warm.start("erase_until", step, "u1", home)) == -signal.SIGKILL
    assert "erasing/note.json" in bucket.objects(home)
    b.warm.run("run", notes.source, home)
    assert not any(key.startswith("erasing") for key in bucket.objects(home))
    with connect(Warehouse(Settings(home=Path(home)))) as connection:
        rows = connection.sql("select count(*) from staging.records where author_id = 'u1'")
        assert rows.fetchall() == [(0,)]
    assert unnamed(bucket, home) == set()


@pytest.mark.usefixtures("here")
def test_maintenance_deletes_there_and_moves_no_row(
    machines: tuple[Machine, Machine], bucket: Bucket, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = bucket.home()
    for _ in INCREMENTS:
        notes.add()
        machines[0].warm.run("run", notes.source, home)
    before, there = content(home), bucket.objects(home)
    monkeypatch.setattr("transforms.upkeep.maintain.FEW_FILES", 1)
    run_maintenance(MaintainParameters(home=home, keep_days=0), n_reads=0)
    after = bucket.objects(home)
    assert content(home)["staging.records"] == before["staging.records"]
    assert len([key for key in after if "/part-" in key]) < len(
        [key for key in there if "/part-" in key]
    )
    machines[1].warm.run("run", notes.source, home)
    assert unnamed(bucket, home) == set()


@pytest.fixture
def store(bucket: Bucket) -> object:
    return open_store(f"s3://{bucket.name}", f"leases/{next(numbers)}")


def never(_: str) -> None:
    pytest.fail("nobody else has it")


def test_lease_is_taken_over_only_when_it_has_not_changed_for_its_time(
    store: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "SECONDS_OF_A_LEASE", 2.0)
    monkeypatch.setattr(replica, "SECONDS_OF_A_LOOK", 0.05)
    first, told = Lease(store, "home.lease", "a"), list[str]()
    assert not first.acquire(never)
    time.sleep(3)
    assert not first.is_lost, "it is renewed"
    first._is_closing.set()  # as a process that stands still
    first._thread.join()
    second = Lease(store, "home.lease", "b")
    began = time.monotonic()
    assert second.acquire(told.append)
    assert time.monotonic() - began > 2
    assert len(told) == 1
    assert first.is_lost
    first.renew()
    assert first.is_lost
    first.release()
    assert not second.is_lost
    second.renew()
    assert not second.is_lost, "the first one's release changed nothing"
    second.release()
    third = Lease(store, "home.lease", "c")
    assert not third.acquire(never)
    third.release()


@pytest.mark.usefixtures("here")
def test_run_that_has_lost_its_lease_writes_nothing_more(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = Warehouse(Settings(home=Path(bucket.home())))
    there = replica_of(warehouse.settings.root)
    assert there
    with there.lease("home", never):
        warehouse.create(RawRecord)
        monkeypatch.setattr(Lease, "is_lost", True)
        with pytest.raises(HomeError, match="has lost its lease of the home"):
            there.fence()
        with pytest.raises(HomeError, match="has lost its lease of the home"):
            there.write(warehouse.settings.root / "views", b"record_text")
        monkeypatch.undo()
    assert warehouse.versions() == {"raw.records": 0}


@pytest.mark.usefixtures("here")
def test_commit_under_way_from_before_a_takeover_is_not_the_next_one_any_more(
    bucket: Bucket,
) -> None:
    warehouse = Warehouse(Settings(home=Path(bucket.home())))
    there, folder = warehouse.settings.replica, warehouse.folder("raw.records")
    assert there
    warehouse.create(RawRecord)
    there.fence()
    assert not there._put_entry(folder, 1, b"{}")
    fence = (folder / "_delta_log" / f"{1:020d}.json").read_bytes()
    assert there._put_entry(folder, 1, fence), "a put that is tried again meets itself"
    assert warehouse.version("raw.records") == 1


@pytest.mark.usefixtures("here")
def test_data_files_here_are_bounded_but_for_those_in_use(
    machines: tuple[Machine, Machine], bucket: Bucket, notes: Notes
) -> None:
    home = bucket.home()
    notes.add()
    machines[0].warm.run("run", notes.source, home)
    expected = content(home)
    there = Settings(home=Path(home)).replica
    assert there
    there.max_bytes = 20_000
    there.pull()
    data = list(there.root.glob("*/*/*.parquet"))
    assert len(data) > 10, "all were read just now"
    for number, path in enumerate(sorted(data)):
        os.utime(path, (number, number))
    there.pull()
    left = sorted(there.root.glob("*/*/*.parquet"))
    assert 0 < sum(path.stat().st_size for path in left) <= 20_000
    assert left == sorted(data)[-len(left) :]
    assert content(home) == expected


def test_posts_to_two_machines_are_taken_once(bucket: Bucket, notes: Notes, tmp_path: Path) -> None:
    home, source = Path(bucket.home()), load_source(notes.source)
    homes = [Warehouse(Settings(home=home, cache=tmp_path / name)) for name in ("a", "b")]
    intakes = [Intake(source, warehouse) for warehouse in homes]
    first = intakes[0].take([read_post("one", b'{"id": 1}'), read_post("two", b'{"id": 2}')])
    again = intakes[1].take([read_post("two", b'{"id": 2}'), read_post("three", b'{"id": 3}')])
    assert again[0] == first[1]
    assert [taken.version for taken in (*first, *again)] == [1, 1, 1, 2]
    with connect(Warehouse(homes[0].settings)) as connection:
        rows = connection.sql("select source_uri from raw.records order by all").fetchall()
    assert rows == [("post:one",), ("post:three",), ("post:two",)]
    for intake in intakes:
        intake.close()
