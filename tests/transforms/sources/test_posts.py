"""Posts -> raw: each key exactly once, whoever takes it and whatever is killed or lost."""

import shutil
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors import HomeError, PostError, SourceError
from transforms.home import Settings
from transforms.sources import posts
from transforms.sources.ingest import Pending, ingest, pending_files
from transforms.sources.posts import Intake, find_post, read_post
from transforms.sources.reading import read_payloads
from transforms.sources.source import Source, SourceFile
from transforms.warehouse.arrivals import erasure_folder
from transforms.warehouse.tables import Warehouse

MakeSource = Callable[..., Source]
Query = Callable[..., list[tuple[Any, ...]]]
ROWS = "select source_uri, row_number, payload from raw.records order by all"


@pytest.fixture
def notes(make_source: MakeSource, tmp_path: Path) -> Source:
    """A source whose folder is empty."""
    (tmp_path / "data").mkdir()
    return make_source(tmp_path / "data")


def again(warehouse: Warehouse) -> Warehouse:
    """The same home, as another process opens it."""
    return Warehouse(Settings(home=warehouse.settings.root))


def test_posts_that_wait_are_one_load_and_each_key_is_taken_once(
    notes: Source, warehouse: Warehouse, query: Query
) -> None:
    intake = Intake(notes, warehouse)
    a, b = read_post("a", b'{"id": 1}\n{"id": 2}'), read_post("b", b"{\r\n\n")
    first = intake.take([a, b, a])
    assert first[0] == first[2]
    assert first[0].load_id == first[1].load_id
    assert [taken.n_rows for taken in first] == [2, 2, 2]
    assert intake.take([b, a]) == [first[1], first[0]]
    assert warehouse.version("raw.records") == first[0].version == 1
    assert query(ROWS) == [
        ("post:a", 1, b'{"id": 1}'),
        ("post:a", 2, b'{"id": 2}'),
        ("post:b", 1, b"{\r"),
        ("post:b", 2, b""),
    ]


def test_another_process_and_one_without_its_keys_take_nothing_again(
    notes: Source, warehouse: Warehouse, query: Query
) -> None:
    post = read_post("a", b'{"id": 1}')
    (taken,) = Intake(notes, warehouse).take([post])
    assert Intake(notes, again(warehouse)).take([post]) == [taken]
    shutil.rmtree(warehouse.settings.root / "posts")
    assert find_post(notes, warehouse, "a") is None
    assert Intake(notes, again(warehouse)).take([post]) == [taken]
    assert find_post(notes, warehouse, "a") == taken
    assert len(query(ROWS)) == 1


def test_killed_after_the_commit_a_post_is_known_again(
    notes: Source, warehouse: Warehouse, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    post = read_post("a", b'{"id": 1}')
    killed = Intake(notes, warehouse)
    killed.take([read_post("before", b"{}")])
    monkeypatch.setattr(posts._Keys, "add", kill)
    with pytest.raises(Killed):
        killed.take([post])
    monkeypatch.undo()
    (taken,) = Intake(notes, again(warehouse)).take([post])
    assert taken.version == 2
    assert [uri for uri, *_ in query(ROWS)] == ["post:a", "post:before"]


def test_two_that_take_at_once_commit_each_key_once_even_without_a_lock(
    notes: Source, warehouse: Warehouse, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posts, "lock_arrivals", lambda _: nullcontext())
    warehouse.create(posts.RawRecord)
    given_posts = [read_post(f"k{number}", b'{"id": 1}') for number in range(12)]
    found: list[list[posts.Taken]] = []

    def take_all() -> None:
        intake = Intake(notes, again(warehouse))
        found.append([intake.take([post])[0] for post in given_posts])

    threads = [threading.Thread(target=take_all) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [taken.load_id for taken in found[0]] == [taken.load_id for taken in found[1]]
    assert len(query(ROWS)) == len(given_posts)


def test_key_with_other_rows_than_before_shows_in_the_digest(
    notes: Source, warehouse: Warehouse
) -> None:
    intake = Intake(notes, warehouse)
    intake.take([read_post("a", b'{"id": 1}')])
    other = read_post("a", b'{"id": 2}')
    assert intake.take([other])[0].digest != other.digest


def test_sources_have_keys_of_their_own(notes: Source, warehouse: Warehouse, query: Query) -> None:
    mails = notes.model_copy(update={"name": "mails"})
    post = read_post("a", b'{"id": 1}')
    for source in (notes, mails):
        Intake(source, again(warehouse)).take([post])
    assert len(query(ROWS)) == 2


def test_files_loaded_between_posts_hide_no_key(
    notes: Source, warehouse: Warehouse, query: Query
) -> None:
    intake = Intake(notes, warehouse)
    post = read_post("a", b'{"id": 1}')
    intake.take([post])
    Path(notes.uri, "a.jsonl").write_bytes(b'{"id": 2}')
    ingest(notes, again(warehouse))
    assert intake.take([post, read_post("b", b"{}")])[1].version == 3
    assert len(query(ROWS)) == 3


def test_version_of_a_post_is_that_of_its_commit_whoever_commits_between(
    notes: Source, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = posts.publish

    def publish(*arguments: Any) -> None:
        Path(notes.uri, "a.jsonl").write_bytes(b'{"id": 2}')
        ingest(notes, again(warehouse))
        real(*arguments)

    monkeypatch.setattr(posts, "publish", publish)
    (taken,) = Intake(notes, warehouse).take([read_post("a", b"{}")])
    assert taken.version == warehouse.version("raw.records") == 2


def test_run_of_a_source_that_has_posts_only_finds_no_file_to_load(
    notes: Source, warehouse: Warehouse
) -> None:
    Intake(notes, warehouse).take([read_post("a", b'{"id": 1}')])
    assert pending_files(notes, warehouse) == Pending([], [], [])


def test_nothing_is_taken_until_a_killed_erasure_is_finished(
    notes: Source, warehouse: Warehouse
) -> None:
    folder = erasure_folder(warehouse.settings.root)
    folder.mkdir(parents=True)
    (folder / "note.json").touch()
    with pytest.raises(HomeError, match="the next run finishes it"):
        Intake(notes, warehouse).take([read_post("a", b"{}")])
    assert warehouse.version("raw.records") == -1


def test_source_in_another_encoding_is_refused(notes: Source, warehouse: Warehouse) -> None:
    with pytest.raises(SourceError, match="JSON lines in UTF-8"):
        Intake(notes.model_copy(update={"encoding": "windows-1252"}), warehouse)


@pytest.mark.parametrize(("key", "body"), [("a b", b"{}"), ("", b"{}"), ("é", b"{}"), ("a", b"")])
def test_post_without_a_key_or_a_record_is_refused(key: str, body: bytes) -> None:
    with pytest.raises(PostError):
        read_post(key, body)


@given(st.binary(min_size=1))
def test_post_has_the_rows_of_a_file_with_its_bytes(tmp_path: Path, body: bytes) -> None:
    file = tmp_path / "same.jsonl"
    file.write_bytes(body)
    same = read_payloads(SourceFile(file, "jsonl", None), Source.model_construct(), 100)
    rows = [row for _, array in same for row in array.to_pylist()]
    assert read_post("a", body).payloads.to_pylist() == rows
