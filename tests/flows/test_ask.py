"""`millrace ask`: a text is scored by the model trained last, on the features that are served."""

import pickle
import shutil
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from polars.testing import assert_frame_equal

from feature_repo import training_set
from flows.cli import main
from flows.demo import ask, model_path, train
from flows.stages import PipelineParameters, run_plain
from tests.conftest import SAMPLE
from transforms.home import Settings
from transforms.sql import model
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home after one run on some days of the sample."""
    folder = tmp_path_factory.mktemp("ask")
    days = folder / "data" / "cve_events"
    days.mkdir(parents=True)
    for day in ("2024-05-13", "2024-05-25", "2024-06-09"):
        shutil.copy(SAMPLE.parent / "data" / "cve_events" / f"{day}.jsonl.zst", days)
    source = shutil.copy(SAMPLE, folder)
    run_plain(PipelineParameters(source=str(source), home=str(folder / "home")))
    return folder / "home"


def test_text_is_scored_on_the_features_that_training_has_of_it(home: Path) -> None:
    asked = CliRunner().invoke(main, ["ask", "a text", "--home", str(home)])
    assert (asked.exit_code, "train-demo first" in asked.stderr) == (1, True)
    warehouse = Warehouse(Settings(home=home))
    train(warehouse)
    with connect(warehouse) as connection:
        spine: pl.DataFrame = connection.sql(model("staging/first_known")).pl()
        texts: pl.DataFrame = connection.sql("select record_id, text from staging.records").pl()
    known = training_set(spine, "triage_v3", home).frame.join(
        texts.unique("record_id", keep="none"), on="record_id"
    )
    row = known.row(7, named=True)
    line, served = ask(home, row["text"], None, None)
    assert served["record_duplicates__dup_similarity"].item() == 1  # it is in the home
    of_text = [name for name in known.columns if name.startswith("record_")][1:]
    assert len(of_text) > 60
    assert_frame_equal(served.select(of_text), known[7].select(of_text), check_exact=True)
    estimator, inputs = pickle.loads(model_path(home).read_bytes())  # noqa: S301 - as it was just written
    chance = estimator.predict_proba(served.select(inputs).to_numpy())[0, 1]
    assert line.startswith(f"{chance:.1%} chance of a positive label")
    options = ["--subject", row["subject_id"], "--features", "--home", str(home)]
    answer = CliRunner().invoke(main, ["ask", row["text"], *options]).stdout.splitlines()
    assert answer[0].endswith(" ms")
    assert len(answer) == 1 + len(served.columns)
