"""What workers of an engine compute is what one process computes, whatever becomes of a worker."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from polars.testing import assert_frame_equal

from tests.transforms.features import test_backfill
from tests.transforms.histories import HOUR, NOW, Version, rows_of, stage, version
from transforms.engines import engine as choice
from transforms.engines import exchange
from transforms.engines.code import Origin
from transforms.engines.processes import ProcessesEngine
from transforms.errors import EngineError, GateError
from transforms.features.backfill import Span, fill
from transforms.features.build import featurize
from transforms.features.engine import record_parts
from transforms.features.engine.band_parts import find_parents_by
from transforms.features.engine.group_by import GroupView
from transforms.features.engine.near_duplicates import NearDuplicatesView
from transforms.features.engine.parts import Part
from transforms.features.engine.record_parts import Bucket, compute_bucket
from transforms.features.registry import view_of, views
from transforms.features.view import View
from transforms.home import Settings
from transforms.layout import LAYOUT, write_layout
from transforms.sources import file_parts
from transforms.sources import ingest as ingesting
from transforms.sources.file_parts import OfFiles, Refusal, WrittenFiles, write_files
from transforms.sources.ingest import ingest
from transforms.sources.loads import Load
from transforms.sources.source import Source, load_source
from transforms.staging import row_parts
from transforms.staging.prepare import prepare
from transforms.staging.row_parts import OfVersions, WrittenVersions, write_versions
from transforms.text.duplicates import BANDS, ROWS
from transforms.text.likeness import Signed, find_parents
from transforms.warehouse.scratch import sweep
from transforms.warehouse.tables import Rows, Warehouse, files_of_version

N_RECORDS = 40
IN_PARTS = [
    view.name
    for view in views()
    if view.is_computed_beside or isinstance(view, GroupView | NearDuplicatesView)
]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divide few rows and bytes into several tasks, as many are."""
    monkeypatch.setattr(exchange, "LEAST_ROWS", 5)
    monkeypatch.setattr(choice, "FEW_ROWS", 0)
    monkeypatch.setattr(choice, "FEW_BYTES", 0)
    monkeypatch.setattr(file_parts, "MOST_BYTES", 1_500)


@pytest.fixture(scope="module")
def engine() -> Iterator[ProcessesEngine]:
    started = ProcessesEngine(2)
    yield started
    started.close()


@pytest.fixture
def in_processes(
    engine: ProcessesEngine, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], Warehouse]:
    """Open a home whose record views are computed in two processes."""

    def choose(settings: Settings) -> ProcessesEngine | None:
        return engine if settings.engine == "processes" else None

    monkeypatch.setattr(choice, "engine_of", choose)
    return lambda home: Warehouse(Settings(home=home, engine="processes"))


def arrivals() -> list[list[Version]]:
    """Records; then later versions, one of them dated before; then a tombstone."""
    first = [version(f"r{n}", known=n, text=f"the text of {n}") for n in range(N_RECORDS)]
    later = [version(f"r{n}", known=HOUR + n, text=f"now {n}") for n in range(0, N_RECORDS, 2)]
    late = [version("r1", known=2 * HOUR, event=-HOUR), version("new", known=2 * HOUR)]
    return [first, later + late, [version("r3", known=3 * HOUR, text=None)]]


def follow(warehouse: Warehouse, increments: list[list[Version]]) -> list[dict[str, Rows]]:
    counts = []
    for number, increment in enumerate(increments):
        stage(warehouse, increment)
        counts.append(featurize(warehouse, NOW + timedelta(hours=number)))
    return counts


def tables(warehouse: Warehouse) -> dict[str, Any]:
    found = {name: rows_of(warehouse, name) for name in IN_PARTS}
    for name in ("contents", "documents"):  # the index of near duplicates
        found[name] = pl.read_delta(str(warehouse.folder(f"duplicates.{name}")))
    return {name: rows.sort(rows.columns[:3]).to_dicts() for name, rows in found.items()}


def orphans(warehouse: Warehouse, *relations: str) -> set[str]:
    """Data files of tables, by default of all views, that no version names."""
    found = set[str]()
    for relation in relations or [view.relation for view in views()]:
        folder = warehouse.folder(relation)
        named = (files_of_version(folder, at) for at in range(warehouse.version(relation) + 1))
        found |= set(map(str, folder.glob("*.parquet"))).difference(*named)
    return found


@pytest.fixture
def in_parts(only: Callable[..., None]) -> None:
    """Compute just the views of which there are parts."""
    only(*(view_of(name) for name in IN_PARTS))


@pytest.mark.usefixtures("in_parts")
def test_increments_in_workers_have_the_rows_of_one_process(
    in_processes: Callable[[Path], Warehouse], new_home: Callable[[], Warehouse], tmp_path: Path
) -> None:
    one, many = new_home(), in_processes(tmp_path / "many")
    assert follow(many, arrivals()) == follow(one, arrivals())
    assert tables(many) == tables(one)
    assert len(many.files("features.record_quality")) > 3  # several workers wrote, each its own
    versions = many.versions()
    featurize(many, NOW + timedelta(days=1))
    assert many.versions() == versions
    assert orphans(many) == set()


def test_bands_searched_by_workers_have_the_parents_of_one_process(
    engine: ProcessesEngine, tmp_path: Path
) -> None:
    values = np.random.default_rng(16).integers(0, 256, (400, BANDS * ROWS), np.uint8)
    values[200:, :64] = values[:200, :64]  # half alike: in shared buckets, and not similar
    values[300:] = values[100:200]
    values[300:, 100:] = 0
    values.tofile(tmp_path / "signatures")
    is_fresh = np.arange(400) != 350
    texts = Signed(tmp_path / "signatures", is_fresh, np.arange(400) != 360)
    expected = find_parents(texts, 10_000_000)
    assert expected.height == 98
    settings = Settings(home=tmp_path / "home")
    assert_frame_equal(find_parents_by(engine, settings, texts, 10_000_000), expected)
    assert not any((tmp_path / "home" / "tmp").iterdir())


NOTES = {
    "name": "notes",
    "known": {"column": "known"},
    "record": {
        "record_id": "id",
        "author_id": "'user ' || author",
        "event_timestamp": "created",
        "text": "text",
    },
    "schema": "quarantine",
}


def note(number: int, hour: int, **other: Any) -> dict[str, Any]:
    at = f"2024-05-01T{hour:02}:{number:02}:00Z"
    fields = {"id": f"r{number}", "author": number % 3, "created": at, "known": at}
    return fields | {"text": f"mail me@x{number}.org"} | other


def loads() -> list[list[dict[str, Any] | str]]:
    """Rows of two files: broken, equal, of the same instant, late, with a field of a new type."""
    first = [note(n, 3) for n in range(N_RECORDS)]
    broken = [note(1, 3, created="soon"), note(2, 3, text=""), "{", '"text"', ""]
    later = [note(n, 4, text=f"now {n}") for n in range(0, N_RECORDS, 2)]
    late = [note(3, 2, text="before"), note(5, 3, text="of the same instant"), note(7, 5)]
    retyped = [note(n, 6, author={"name": "x"}) for n in range(4)]
    return [[*first, *broken, *first[:5]], [*later, *late, *retyped, note(9, 3), note(9, 7)]]


def dies_before_it_answers(task: OfVersions) -> WrittenVersions:
    """Write versions; the first worker to be that far dies of it."""
    made = write_versions(task)
    died = task.settings.root.with_name("died")
    if not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return made


def test_prepare_in_workers_has_the_rows_of_one_process(
    in_processes: Callable[[Path], Warehouse], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_parts, "write_versions", dies_before_it_answers)
    (tmp_path / "in").mkdir()
    path = tmp_path / "notes.yaml"
    path.write_text(yaml.safe_dump({**NOTES, "uri": str(tmp_path / "in")}), "utf-8")
    source, raw = load_source(path), Warehouse(Settings(home=tmp_path / "raw", batch_rows=7))
    homes = [Warehouse(Settings(home=tmp_path / "one")), in_processes(tmp_path / "many")]
    for home in homes:
        write_layout(home.settings.root, LAYOUT)
    for number, rows in enumerate(loads()):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / "in" / f"{number}.jsonl").write_text("\n".join(lines), "utf-8")
        ingest(source, raw)
        for home in homes:
            tables = home.settings.root / "raw"
            shutil.copytree(tmp_path / "raw" / "raw", tables, dirs_exist_ok=True)
        one, many = (prepare(source, home) for home in homes)
        assert one == many
        assert one.staged
        for relation in set(homes[0].versions()):
            found = [pl.read_delta(str(home.folder(relation))) for home in homes]
            assert_frame_equal(*found, check_row_order=False)
    assert homes[0].n_rows("quarantine.records") > 5
    assert (tmp_path / "died").exists()
    assert list(homes[1].settings.root.glob("staging/records/part-*-*"))
    assert orphans(homes[1], "staging.records") == set()


def tasks_of(column: str, value: str, files: Iterable[str]) -> set[str]:
    """Which tasks wrote rows of an author or a file, by their names: part-RUN-TASK-UUID."""
    written = {file: pl.read_parquet(file)[column] for file in files}
    return {Path(file).name.split("-")[2] for file, values in written.items() if value in values}


RAW = "raw.records"
N_LINES = 60


def write_files_of_all_kinds(folder: Path) -> None:
    """Write large files that can be cut and that cannot, small ones, and three that are refused."""
    folder.mkdir()
    lines = [json.dumps(note(n, 3)).encode() for n in range(N_LINES)]
    hostile = [b"", b"\xff\x00", lines[0] + b"\r", b'{"text": "' + b"x" * 900 + b'"}']
    (folder / "a.jsonl").write_bytes(b"\n".join([*lines, *hostile, *lines]))
    (folder / "b.csv").write_bytes(
        b"id,author,created,known,text\n" + b'1,2,3,4,"a\nb"\n5,6,7,8,\xe9\n' * 40
    )
    whole = gzip.compress(b"\n".join(lines), mtime=0)
    (folder / "c.jsonl.gz").write_bytes(whole)
    (folder / "d.jsonl.gz").write_bytes(whole[:-9])
    rows = pa.table({"id": range(N_LINES), "at": pa.array(range(N_LINES), pa.timestamp("us"))})
    pq.write_table(rows, folder / "e.parquet", row_group_size=7)
    rows = rows.rename_columns(["id", "File_Row_Number"])  # which DuckDB would number rows in
    pq.write_table(rows, folder / "f.parquet", row_group_size=7)
    broken = bytearray((folder / "e.parquet").read_bytes())
    place = pq.read_metadata(folder / "e.parquet").row_group(4).column(0).data_page_offset
    broken[place : place + 20] = b"\xff" * 20
    (folder / "g.parquet").write_bytes(broken)
    (folder / "h.parquet").write_bytes(b"PAR1 and nothing else")
    (folder / "i.jsonl").touch()
    for number in range(6):
        (folder / f"j{number}.jsonl").write_bytes(b"\n".join(lines[number : number + 2]) + b"\n")


@pytest.fixture
def of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A source of such files, whose loads all begin at one instant."""
    for module in (ingesting, file_parts):
        monkeypatch.setattr(module, "begin_load", lambda name: Load(name, "load", NOW))
    write_files_of_all_kinds(tmp_path / "in")
    path = tmp_path / "notes.yaml"
    path.write_text(yaml.safe_dump({**NOTES, "uri": str(tmp_path / "in")}), "utf-8")
    return load_source(path)


def raw_rows(warehouse: Warehouse) -> pl.DataFrame:
    """All columns of raw, in an order that is the same for the same rows."""
    rows = pl.read_delta(str(warehouse.folder(RAW)))
    return rows.sort("source_uri", "row_number", "payload")


def dies_once_it_has_loaded(task: OfFiles) -> WrittenFiles:
    """Read files; the first worker to be that far dies of it."""
    made = write_files(task)
    died = task.settings.root.with_name("died")
    if not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return made


def test_ingest_in_workers_has_the_rows_and_refusals_of_one_process(
    in_processes: Callable[[Path], Warehouse],
    of_files: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(file_parts, "write_files", dies_once_it_has_loaded)
    one, many = Warehouse(Settings(home=tmp_path / "one")), in_processes(tmp_path / "many")
    loaded = ingest(of_files, one)
    assert ingest(of_files, many) == loaded
    assert [line.split(": refused")[0] for line in loaded.refused] == [
        str(tmp_path / "in" / name) for name in ("d.jsonl.gz", "g.parquet", "h.parquet")
    ]
    assert_frame_equal(raw_rows(many), raw_rows(one))
    assert (tmp_path / "died").exists()
    for name, is_cut in (("a.jsonl", True), ("b.csv", False), ("e.parquet", True)):
        uri = (tmp_path / "in" / name).as_uri()
        assert (len(tasks_of("source_uri", uri, many.files(RAW))) > 1) == is_cut
    assert many.version(RAW) == 1  # created, and one commit
    changed = tmp_path / "in" / "a.jsonl"
    changed.write_bytes(changed.read_bytes()[:-700])
    assert ingest(of_files, many) == ingest(of_files, one)
    assert_frame_equal(raw_rows(many), raw_rows(one))
    assert orphans(many, RAW) == set()
    assert list((tmp_path / "many" / "tmp").iterdir()) == []


def is_overtaken(task: OfFiles) -> WrittenFiles:
    """Read files after another driver has loaded one of them."""
    other = task.source.model_copy(update={"uri": str(Path(task.source.uri, "b.csv"))})
    ingest(other, Warehouse(task.settings.model_copy(update={"engine": "local"})))
    return write_files(task)


def test_file_that_another_driver_loads_meanwhile_is_loaded_once(
    in_processes: Callable[[Path], Warehouse],
    of_files: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, many = Warehouse(Settings(home=tmp_path / "one")), in_processes(tmp_path / "many")
    expected = ingest(of_files, one)
    monkeypatch.setattr(file_parts, "write_files", is_overtaken)
    found = ingest(of_files, many)
    assert found.files_loaded == expected.files_loaded - 1
    assert found.rows_loaded == expected.rows_loaded - 80
    assert found.refused == expected.refused
    of_a_load = ["load_id", "loaded_timestamp"]
    assert_frame_equal(raw_rows(many).drop(of_a_load), raw_rows(one).drop(of_a_load))
    assert orphans(many, RAW) == set()


def loads_by_other_code(task: OfFiles) -> WrittenFiles:
    """Read files as a worker with another library would."""
    return write_files(task)._replace(origin=Origin("other", "host"))


def sees_no_file(task: OfFiles) -> WrittenFiles:
    """Refuse all files as a worker on a machine without them would."""
    absent = Refusal("cannot be read to its end (No such file or directory)", is_absent=True)
    return write_files(task)._replace(refused=dict.fromkeys(task.files, absent))


@pytest.mark.parametrize(
    ("worker", "said"),
    [
        (loads_by_other_code, "host computes it by other code"),
        (sees_no_file, "has no such file; have its folder there"),
    ],
)
def test_ingest_whose_workers_have_other_code_or_no_files_commits_nothing(
    in_processes: Callable[[Path], Warehouse],
    of_files: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    worker: Callable[[OfFiles], WrittenFiles],
    said: str,
) -> None:
    warehouse = in_processes(tmp_path / "many")
    monkeypatch.setattr(file_parts, "write_files", worker)
    with pytest.raises(EngineError, match=said):
        ingest(of_files, warehouse)
    assert warehouse.version(RAW) == 0
    assert list(warehouse.folder(RAW).glob("*.parquet")) == []


def kills_its_driver(task: OfFiles) -> WrittenFiles:
    """Read files, and kill the process that asked for it."""
    made = write_files(task)
    os.kill(os.getppid(), signal.SIGKILL)
    return made


KILLED = """
import sys
from pathlib import Path
from tests.transforms.features.engine import test_partitions
from transforms.engines import engine
from transforms.home import Settings
from transforms.sources import file_parts
from transforms.sources.ingest import ingest
from transforms.sources.source import load_source
from transforms.warehouse.tables import Warehouse

engine.FEW_BYTES, file_parts.write_files = 0, test_partitions.kills_its_driver
ingest(load_source(Path(sys.argv[1])), Warehouse(Settings(home=Path(sys.argv[2]))))
"""


def test_what_workers_of_a_killed_driver_wrote_is_swept_and_loaded_by_the_next_run(
    in_processes: Callable[[Path], Warehouse], of_files: Source, tmp_path: Path
) -> None:
    warehouse = in_processes(tmp_path / "many")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "notes.yaml"), str(tmp_path / "many")]
    environment = {"MILLRACE_ENGINE": "processes", "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(command, check=False, env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert orphans(warehouse, RAW)
    sweep(warehouse)
    assert list(warehouse.folder(RAW).glob("*.parquet")) == []
    loaded = ingest(of_files, warehouse)
    assert loaded.files_loaded == 12
    assert raw_rows(warehouse).height == loaded.rows_loaded


@pytest.mark.usefixtures("in_parts")
def test_records_taken_out_in_workers_have_the_rows_of_one_process(
    in_processes: Callable[[Path], Warehouse], new_home: Callable[[], Warehouse], tmp_path: Path
) -> None:
    homes = [new_home(), in_processes(tmp_path / "many")]
    for warehouse in homes:
        follow(warehouse, arrivals()[:2])
        stage(warehouse, [item for item in arrivals()[0] if item.record != "r4"], is_all=True)
        featurize(warehouse, NOW + timedelta(days=1))
    one, many = map(tables, homes)
    assert many == one


@pytest.fixture
def few(only: Callable[..., None]) -> tuple[View, View]:
    """Compute just a view of records, and a group that reads it."""
    views = (view_of("record_quality"), view_of("author_activity"))
    only(*views)
    return views


def rows_of_both(warehouse: Warehouse) -> list[list[dict[str, Any]]]:
    found = (rows_of(warehouse, name) for name in ("record_quality", "author_activity"))
    return [rows.sort(rows.columns[:3]).to_dicts() for rows in found]


@pytest.mark.usefixtures("few")
def test_entity_with_most_records_is_computed_by_several_tasks(
    in_processes: Callable[[Path], Warehouse], new_home: Callable[[], Warehouse], tmp_path: Path
) -> None:
    versions = [
        version(f"r{n}", known=n * HOUR, author="u" if n % 10 else f"u{n}", text=f"text {n}")
        for n in range(120)
    ]
    corrected = [version(f"r{n}", known=200 * HOUR, text="now") for n in range(1, 120, 5)]
    taken_out = [item for item in [*versions, *corrected] if item.record != "r14"]
    one, many = new_home(), in_processes(tmp_path / "many")
    n_tasks, seen = [], set[str]()
    for number, staged in enumerate((versions, corrected, taken_out)):
        for warehouse in (one, many):
            stage(warehouse, staged, is_all=staged is taken_out)
            featurize(warehouse, NOW + timedelta(hours=number))
        assert rows_of_both(many) == rows_of_both(one)
        added = set(many.files("features.author_activity")) - seen
        n_tasks.append(len(tasks_of("author_id", "u", added)))
        seen |= added
    assert n_tasks[0] > 2  # all of it; then what arrived, by one; then all of it again
    assert n_tasks[2] > 2
    assert orphans(many) == set()


def test_backfill_in_workers_has_the_rows_of_one_process(
    in_processes: Callable[[Path], Warehouse],
    new_home: Callable[[], Warehouse],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    few: tuple[View, View],
) -> None:
    one = new_home()
    follow(one, arrivals()[:2])
    monkeypatch.setattr(test_backfill, "views", lambda: few)
    test_backfill.lose(one, "r3", "r4")
    shutil.copytree(one.settings.root, tmp_path / "many")
    many = in_processes(tmp_path / "many")
    for span in (Span(end=NOW - timedelta(days=150)), Span()):
        assert fill(many, span, NOW) == fill(one, span, NOW)
        assert rows_of_both(many) == rows_of_both(one)
    for view in few:
        names = [Path(file).name for file in many.files(view.relation)]
        assert 3 in {name.count("-") for name in names}  # part-RUN-TASK-UUID: of a worker
    monkeypatch.setattr("transforms.features.build.consumed_version", lambda *_: 0)
    again = NOW + timedelta(hours=1)
    assert fill(many, Span(), again) == fill(one, Span(), again)
    assert rows_of_both(many) == rows_of_both(one)
    assert orphans(many) == set()


def dies_after_its_write(task: Bucket) -> list[Part]:
    """Compute a bucket; the first worker to be that far dies of it."""
    made = compute_bucket(task)
    died = Path(task.place.folder, "died")
    if task.number == 0 and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return made


def always_dies(task: Bucket) -> list[Part]:
    """Write a bucket, and die of it."""
    compute_bucket(task)
    os.kill(os.getpid(), signal.SIGKILL)
    return []


def has_other_code(task: Bucket) -> list[Part]:
    """Compute a bucket as a worker with another library would."""
    return [part._replace(code=part.code + 1, host="other") for part in compute_bucket(task)]


def breaks_the_contract(task: Bucket) -> list[Part]:
    """Fail as a gate does, once something is written."""
    compute_bucket(task)
    message = "features.record_quality: n_words: 1 row is below 0"
    raise GateError(message)


@pytest.fixture
def quality(only: Callable[..., None]) -> View:
    """Compute one view alone."""
    view = view_of("record_quality")
    only(view)
    return view


@pytest.mark.usefixtures("quality")
def test_worker_that_dies_after_its_write_leaves_nothing_and_nothing_comes_twice(
    in_processes: Callable[[Path], Warehouse],
    new_home: Callable[[], Warehouse],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, many = new_home(), in_processes(tmp_path / "many")
    follow(one, arrivals()[:1])
    monkeypatch.setattr(record_parts, "compute_bucket", dies_after_its_write)
    follow(many, arrivals()[:1])
    assert (
        rows_of(many, "record_quality")
        .sort("record_id", "event_timestamp")
        .equals(rows_of(one, "record_quality").sort("record_id", "event_timestamp"))
    )
    assert orphans(many) == set()
    assert list((tmp_path / "many" / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("worker", "error", "said"),
    [
        (always_dies, EngineError, "processes ended before they answered"),
        (has_other_code, EngineError, "other computes it by other code"),
        (breaks_the_contract, GateError, "is below 0"),
    ],
)
@pytest.mark.usefixtures("quality")
def test_run_whose_workers_fail_commits_nothing_and_the_next_is_whole(
    in_processes: Callable[[Path], Warehouse],
    tmp_path: Path,
    worker: Callable[[Bucket], list[Part]],
    error: type[Exception],
    said: str,
) -> None:
    warehouse = in_processes(tmp_path / "many")
    stage(warehouse, arrivals()[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_parts, "compute_bucket", worker)
        patch.setattr(exchange, "LEAST_ROWS", N_RECORDS)  # one bucket, which dies four times
        with pytest.raises(error, match=said):
            featurize(warehouse, NOW)
    assert warehouse.n_rows("features.record_quality") == 0
    assert orphans(warehouse) == set()
    featurize(warehouse, NOW)
    assert warehouse.n_rows("features.record_quality") == N_RECORDS


def test_worker_that_cannot_load_a_task_says_why(
    engine: ProcessesEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("of_the_driver_alone")
    exec("def work(task): return task", module.__dict__)  # noqa: S102 - a function of no file
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(EngineError, match="No module named 'of_the_driver_alone'"):
        list(engine.map(module.work, [1]))


@pytest.mark.usefixtures("in_parts")
def test_changed_code_in_workers_replaces_all_rows_as_one_process_does(
    in_processes: Callable[[Path], Warehouse],
    new_home: Callable[[], Warehouse],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    homes = [new_home(), in_processes(tmp_path / "many")]
    for warehouse in homes:
        stage(warehouse, [*arrivals()[0], *arrivals()[1]])
        featurize(warehouse, NOW)
    monkeypatch.setattr("transforms.features.build.consumed_version", lambda *_: 0)
    for warehouse in homes:
        stage(warehouse, arrivals()[2])
        featurize(warehouse, NOW + timedelta(hours=1))
    one, many = map(tables, homes)
    assert many == one
    assert orphans(homes[1]) == set()
