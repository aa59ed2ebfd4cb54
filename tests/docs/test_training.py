"""The page on training sets is true: its snippets run, one after another, on a small home."""

import re
from pathlib import Path

import pytest

from feature_repo.online import apply
from tests.transforms.histories import DAY, START, Version, run
from transforms.home import Settings
from transforms.warehouse.tables import Warehouse

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of 300 records of ten subjects over 300 days; every seventh is positive."""
    warehouse = Warehouse(Settings(home=tmp_path_factory.mktemp("training") / "home"))
    records = [
        Version(
            f"r{n}",
            f"u{n % 7}",
            f"s{n * n % 10}",
            START + n * DAY,
            START + n * DAY + DAY // 24,
            f"note {n} says {'a lot' * (n % 5)}",
            n % 7 == 0,
        )
        for n in range(300)
    ]
    run(warehouse, records)
    apply(warehouse)
    return warehouse.settings.root


def test_snippets_of_the_page_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text("utf-8")
    names: dict[str, object] = {}
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), names)  # noqa: S102 - the page's own
    assert len(snippets) >= 2
    made = names["made"]
    assert made.frame["label"].sum() > 5  # type: ignore[attr-defined]
    assert made.about["n_horizon_open"] > 0  # type: ignore[attr-defined]
