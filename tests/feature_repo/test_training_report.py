"""The report of a training set names what leaks, and nothing else."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import polars as pl
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser

from feature_repo import TrainingSet, label, spine, training_set
from tests.transforms.histories import DAY, START, Version, run
from transforms.features import days
from transforms.home import Settings
from transforms.warehouse.tables import Warehouse

FEATURES = [
    "author_activity:n_records_28d",
    "author_activity:mean_characters_lifetime",
    "record_quality:n_words",
    "author_tenure:days_since_first_record",
]
LATER = pl.duration(days=9)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TrainingSet:
    from feature_repo.online import apply

    warehouse = Warehouse(Settings(home=tmp_path_factory.mktemp("report") / "home"))
    records = [
        Version(
            f"r{n}",
            f"<u{n % 5}>",
            "s",
            START + n * DAY // 2,
            START + n * DAY // 2,
            "word " * (n * 7 % 11 + 1),
            n * n % 13 < 5,
        )
        for n in range(120)
    ]
    run(warehouse, records)
    apply(warehouse)
    asked = spine(["author", "record"], label=label(within=days(3)))
    return training_set(asked, FEATURES, warehouse.settings.root)


def test_an_honest_training_set_has_no_leak(made: TrainingSet, tmp_path: Path) -> None:
    splits = made.split(train=0.6, valid=0.4)
    assert made.report(tmp_path / "made.html", splits, n_probed=6) == []
    page = (tmp_path / "made.html").read_text("utf-8")
    assert "none found" in page
    assert "author_activity__n_records_28d" in page
    assert re.search(r"<td>train</td><td class=\"n\">\d+</td><td>2026-01-\d\d", page)
    # each of the views' features is computed again, of six rows
    assert re.search(r"<td>author_activity__n_records_28d</td><td class=\"n\">6</td>", page)
    assert re.search(r"<td>record_quality__n_words</td><td class=\"n\">6</td>", page)
    assert "<script" not in page
    assert "script-src &#39;none&#39;" in page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_readable_on_a_phone_and_axe_finds_nothing_serious(
    browser: Browser, made: TrainingSet, tmp_path: Path, scheme: Literal["light", "dark"]
) -> None:
    made.report(tmp_path / "made.html", made.split(train=0.6, valid=0.4), n_probed=1)
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    page.goto((tmp_path / "made.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    beside = page.locator("#features tbody tr:first-child td:nth-child(3)").bounding_box()
    assert beside
    assert beside["x"] + beside["width"] <= 390  # a number is seen beside the name
    found = Axe().run(page).response["violations"]
    assert [one["id"] for one in found if one["impact"] in {"serious", "critical"}] == []
    page.close()


def test_features_as_they_were_known_later_are_named(made: TrainingSet, tmp_path: Path) -> None:
    ahead = training_set(
        made.frame.select(
            "author_id", "record_id", event_timestamp=pl.col("event_timestamp") + LATER
        ),
        FEATURES[:1],
        made.home,
    ).frame["author_activity__n_records_28d"]
    leaking = replace(made, frame=made.frame.with_columns(ahead))
    (leak,) = leaking.report(tmp_path / "leak.html", n_probed=10)
    assert leak.startswith("author_activity__n_records_28d has another value in")
    assert leak in (tmp_path / "leak.html").read_text("utf-8")


def test_a_feature_that_is_the_label_is_named(made: TrainingSet, tmp_path: Path) -> None:
    leaking = replace(made, frame=made.frame.with_columns(score__says=pl.col("label")))
    assert leaking.report(tmp_path / "leak.html", n_probed=1) == [
        "score__says tells true labels from false ones alone: AUC 1.000"
    ]


def test_a_spine_of_ones_own_has_a_report_without_a_label(
    made: TrainingSet, tmp_path: Path
) -> None:
    rows = made.frame.select("author_id", "event_timestamp")
    own = training_set(rows, FEATURES[:2], made.home)
    assert own.report(tmp_path / "own.html", n_probed=2) == []
    assert "the halves have no embargo" in (tmp_path / "own.html").read_text("utf-8")
