"""What things show of themselves in a notebook: what they are, escaped, in its own colours."""

import re
from datetime import UTC, datetime

import polars as pl
import pytest

from feature_repo import TrainingSet, label, spine, trace, training_set
from tests.transforms.histories import DAY, START, Version, run
from transforms.features import days
from transforms.home import Settings
from transforms.lineage.trace import trace_file, trace_record
from transforms.pages import part
from transforms.warehouse.tables import Warehouse

AUTHOR = "<i>ann</i>"
AT = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """A home of 40 records of one author, whose name is HTML."""
    from feature_repo.online import apply

    warehouse = Warehouse(Settings(home=tmp_path_factory.mktemp("shown") / "home"))
    records = [
        Version(f"r{n}", AUTHOR, "s", START + n * DAY, START + n * DAY, "a word", n % 3 == 0)
        for n in range(40)
    ]
    run(warehouse, records)
    apply(warehouse)
    return warehouse


@pytest.fixture(scope="module")
def made(home: Warehouse) -> TrainingSet:
    asked = spine("author", label=label("label = '<b>'", within=days(3)))
    return training_set(asked, ["author_activity:n_records_7d"], home.settings.root)


def cells(html: str) -> list[str]:
    return re.findall(r"<t[dh][^>]*>([^<]*)</t", html)


def facts(html: str) -> dict[str, str]:
    return dict(re.findall(r"<dt>([^<]*)</dt><dd><b>([^<]*)</b>", html))


def test_training_set_shows_rows_label_features_with_services_and_lock(made: TrainingSet) -> None:
    html = made._repr_html_()
    balance = made.about["balance"]
    assert facts(html) == {
        "rows": str(made.frame.height),
        "of": "author",
        "features": "1 by name",
        "label false": str(balance["false"]),
        "horizon still open": str(made.about["n_horizon_open"]),
    }
    feature = "author_activity__n_records_7d"
    assert cells(html)[4:8] == [
        feature,
        "Int64",
        "0.0%",
        "activity_v1, triage_v1, triage_v2, triage_v3",
    ]
    version, code = made.lock["tables"]["author_activity"], made.lock["code"]["author_activity"]
    assert cells(html)[-3:] == ["features.author_activity", str(version), code]


def test_question_label_and_splits_show_what_they_are(made: TrainingSet) -> None:
    asked = label("label = '<b>'", within=days(3))
    assert facts(asked._repr_html_()) == {
        "condition": "label = &#39;&lt;b&gt;&#39;",
        "within": "3 days",
        "take": "any",
    }
    question = spine("author", since="2026-01-01", per_entity=4, label=asked)
    assert [*facts(question._repr_html_())][:4] == ["of", "at", "since", "per_entity"]
    splits = made.split(train=0.5, valid=0.5)
    shown = splits._repr_html_()
    assert facts(shown)["in the embargo"] == str(splits.n_embargo)
    assert cells(shown)[5:7] == ["train", str(splits["train"].height)]


def test_traces_show_values_records_and_versions(home: Warehouse) -> None:
    traced = trace(f"author_activity:{AUTHOR}", AT, home.settings.root, limit=2)
    html = traced._repr_html_()
    assert facts(html)["of"] == "&lt;i&gt;ann&lt;/i&gt;"
    assert f"{traced.n_records:,}, the newest known first" in html
    assert "38 older rows are left out" in html
    assert "differs" not in html
    wrong = traced.values[0].model_copy(update={"value": -1})
    assert "differs" in traced.model_copy(update={"values": [wrong]})._repr_html_()
    assert "<i>" not in html


def test_traces_of_records_and_files_show_where_they_came_from(ann: Warehouse) -> None:
    found = trace_record(ann, "1")
    (version,) = found.versions
    renamed = version.model_copy(update={"author_id": AUTHOR})
    html = found.model_copy(update={"versions": [renamed]})._repr_html_()
    assert cells(html)[-5:-1] == ["&lt;i&gt;ann&lt;/i&gt;", "", "2", "notes.jsonl"]
    of_file = trace_file(ann, version.source_uri)._repr_html_()
    assert facts(of_file) == {"file": "notes.jsonl", "records": "2"}
    assert cells(of_file)[6:10] == ["2", "2", "0", "0"]


def test_fragments_have_no_colours_of_their_own_and_no_blank_line(made: TrainingSet) -> None:
    style = part("notebook.css")
    assert re.findall(r"#[0-9a-f]{3,6}\b|\b(?:black|white|background)\b", style) == []
    assert all(rule.startswith(".millrace ") for rule in style.splitlines())
    assert style in made._repr_html_()
    assert "\n\n" not in made._repr_html_()


def test_frames_show_themselves_escaped() -> None:
    assert "<i>" not in pl.DataFrame({"author": [AUTHOR]})._repr_html_()
