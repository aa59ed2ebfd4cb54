"""The examples of docs/sql-views.md, run as they are printed."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.transforms.histories import DAY, HOUR, by_entity, run, version
from transforms.features.registry import view_of
from transforms.warehouse.tables import Warehouse

PAGE = (Path(__file__).parents[3] / "docs" / "sql-views.md").read_text("utf-8")
FILES = dict(re.findall(r"```\w+\n(?:#|--) features/(\S+)\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "features"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text, "utf-8")
    monkeypatch.setenv("MILLRACE_FEATURES", str(folder))
    return folder


@pytest.mark.usefixtures("folder")
def test_the_page_declares_what_it_says(
    new_home: Callable[[], Warehouse], only: Callable[..., None]
) -> None:
    assert set(FILES) == {"pauses.py", "author_pauses.sql"}
    view = view_of("author_pauses")
    only(view)
    descriptions = {column.name: column.description for column in view.contract.columns()}
    assert descriptions["pause_seconds"] == "Seconds between the newest two."
    warehouse = run(
        new_home(), [version("r1", 0), version("r2", HOUR), version("r3", DAY, event=3 * HOUR)]
    )
    rows = by_entity(warehouse, "author_pauses")["u"]
    assert [(row["pause_seconds"], row["mean_pause_seconds"]) for row in rows] == [
        (None, None),
        (3600.0, 3600.0),
        (7200.0, 5400.0),
    ]


def test_a_changed_file_of_sql_is_another_view(folder: Path) -> None:
    before = view_of("author_pauses").digest()
    path = folder / "author_pauses.sql"
    path.write_text(path.read_text("utf-8").replace("avg(", "max("), "utf-8")
    assert view_of("author_pauses").digest() != before


@pytest.mark.usefixtures("folder")
def test_the_count_of_the_page_counts_what_is_in_effect(
    new_home: Callable[[], Warehouse], only: Callable[..., None], folder: Path
) -> None:
    (count,) = re.findall(r"```sql\n(with changes.*?)```", PAGE, re.DOTALL)
    (folder / "author_pauses.sql").write_text(count, "utf-8")
    source = re.sub(r"    descriptions=\{.*?\},\n", "", FILES["pauses.py"], flags=re.DOTALL)
    (folder / "pauses.py").write_text(source, "utf-8")
    only(view_of("author_pauses"))
    warehouse = run(
        new_home(), [version("r1", 0), version("r2", HOUR), version("r1", 2 * HOUR, text=None)]
    )
    assert [row["n_records"] for row in by_entity(warehouse, "author_pauses")["u"]] == [1, 2, 1]
