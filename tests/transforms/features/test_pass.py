"""One pass over what arrived: read once, split once, and each view published exactly once."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import polars as pl
import pytest

from tests.transforms.histories import DAY, HOUR, NOW, newest, rows_of, run, stage, version
from transforms.features import RecordSql, build
from transforms.features.build import featurize, stale_views
from transforms.features.engine import kernels
from transforms.features.engine.record import sql_view
from transforms.features.registry import view_of
from transforms.features.view import View
from transforms.home import Settings
from transforms.text import words
from transforms.warehouse import publishing
from transforms.warehouse.tables import Rows, Warehouse

NewHome = Callable[[], Warehouse]
TOGETHER = ("record_pii", "record_quality", "record_text", "record_vector")
FIRST = [version("r1", 0), version("r2", HOUR, text="two words")]
SECOND = [version("r3", DAY, text="three more words"), version("r1", DAY, text=None)]
THIRD = [version("r4", 2 * DAY)]


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], list[None]]:
    """Count the calls of a module's function."""

    def of(module: Any, name: str) -> list[None]:
        real, calls = getattr(module, name), list[None]()

        def counted(*arguments: Any, **options: Any) -> Any:
            calls.append(None)
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, counted)
        return calls

    return of


def test_arrivals_are_read_once_and_split_once(new_home: NewHome, count: Any) -> None:
    warehouse = run(new_home(), FIRST)
    reads, splits = count(kernels, "read_in_effect"), count(words, "Words")
    stage(warehouse, SECOND)
    rows = featurize(warehouse, NOW + timedelta(hours=1))
    assert (len(reads), len(splits)) == (1, 1)
    assert {rows[name].new for name in TOGETHER} == {2}


def test_two_batches_are_computed_side_by_side_each_in_one_thread(
    tmp_path: Path, count: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, score, splits = Barrier(2, timeout=10), kernels.score, count(words, "Words")

    def waiting(*arguments: Any) -> pl.DataFrame:
        both.wait()  # breaks where no other batch is computed meanwhile
        return score(*arguments)

    monkeypatch.setattr(kernels, "score", waiting)
    versions = [version(f"r{number}", number * HOUR, text=f"text {number}") for number in range(4)]
    run(Warehouse(Settings(home=tmp_path, batch_rows=1)), versions)
    assert len(splits) == len(versions)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """A home that no run was killed in."""
    home = Warehouse(Settings(home=tmp_path_factory.mktemp("whole")))
    return run(home, FIRST, SECOND, THIRD)


@pytest.mark.parametrize("n_committed", range(len(TOGETHER) + 1))
def test_a_view_that_lags_after_a_kill_has_a_pass_of_its_own(
    new_home: NewHome,
    monkeypatch: pytest.MonkeyPatch,
    count: Any,
    n_committed: int,
    whole: Warehouse,
) -> None:
    warehouse = run(new_home(), FIRST)
    stage(warehouse, SECOND)
    done, rest = TOGETHER[:n_committed], TOGETHER[n_committed:]
    commit = publishing._commit

    def killed(*arguments: Any) -> Any:
        if arguments[1].relation() in {f"features.{name}" for name in (*rest, "author_activity")}:
            raise KeyboardInterrupt
        return commit(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(publishing, "_commit", killed)
        with pytest.raises(KeyboardInterrupt):
            featurize(warehouse, NOW + timedelta(hours=1))
    assert {view.name for view in stale_views(warehouse)} >= set(rest)
    assert not {view.name for view in stale_views(warehouse)} & set(done)
    committed = {name: warehouse.versions()[f"features.{name}"] for name in done}
    reads = count(kernels, "read_in_effect")
    stage(warehouse, THIRD)
    featurize(warehouse, NOW + timedelta(hours=2))
    # those that lag have more to read than those that were committed
    assert len(reads) == (1 if n_committed in {0, len(TOGETHER)} else 2)
    for name in TOGETHER:
        assert newest(warehouse, name).equals(newest(whole, name))
        assert rows_of(warehouse, name).height == rows_of(whole, name).height
    assert committed == {name: warehouse.versions()[f"features.{name}"] - 1 for name in done}


def test_a_view_that_another_run_publishes_meanwhile_takes_no_rows_from_the_others(
    new_home: NewHome, monkeypatch: pytest.MonkeyPatch, only: Callable[..., None]
) -> None:
    names, publish = ("record_quality", "record_vector", "author_activity"), build._publish
    only(*map(view_of, names))

    def raced(home: Warehouse, now: datetime, beside: Sequence[View]) -> dict[str, Rows]:
        publish(Warehouse(home.settings), now, beside[:1])
        return publish(home, now, beside)

    monkeypatch.setattr(build, "_publish", raced)
    warehouse = run(new_home(), FIRST, SECOND)
    monkeypatch.setattr(build, "_publish", publish)
    whole = run(new_home(), FIRST, SECOND)
    for name in names:
        assert newest(warehouse, name).equals(newest(whole, name))


def test_a_view_declared_after_a_record_was_taken_out_has_no_row_of_it(
    new_home: NewHome, only: Callable[..., None]
) -> None:
    old, new = (
        sql_view(RecordSql(name, {"n": "length(text)"}), {})
        for name in ("record_old", "record_new")
    )
    only(old)
    warehouse = run(new_home(), [version("r1", 0), version("r2", 0)])
    stage(warehouse, [version("r2", 0)], is_all=True)
    only(old, new)
    featurize(warehouse, NOW + timedelta(hours=1))
    # r1 is there again, from another instant on
    stage(warehouse, [version("r1", HOUR)])
    stage(warehouse, [version("r2", HOUR)])
    featurize(warehouse, NOW + timedelta(hours=2))
    found = {
        name: newest(warehouse, name).filter(record_id="r1")["n"].to_list()
        for name in ("record_old", "record_new")
    }
    assert found == {"record_old": [None, 9], "record_new": [9]}


def test_a_kernel_is_given_what_it_reads_and_no_more(
    new_home: NewHome, only: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, labelled = (
        sql_view(RecordSql(name, {"n": sql}), {})
        for name, sql in (("record_plain", "length(text)"), ("record_labelled", "length(label)"))
    )
    given: dict[str, list[str]] = {}
    for view in (plain, labelled):
        kernel, name = view.kernel, view.name

        def noting(
            records: pl.LazyFrame, kernel: kernels.Kernel = kernel, name: str = name
        ) -> pl.LazyFrame:
            given[name] = records.collect_schema().names()
            return kernel(records)

        monkeypatch.setattr(view, "kernel", noting)
    only(plain, labelled)
    run(new_home(), FIRST)
    key = ["record_id", "event_timestamp", "created_timestamp", "text"]
    assert given == {"record_plain": key, "record_labelled": [*key, "label"]}
