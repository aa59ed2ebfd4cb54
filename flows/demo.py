"""The demo's models: predict a record's label from what was known when it first arrived."""

import pickle
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import duckdb
import polars as pl
import polars.selectors as cs

from feature_repo import online_features, training_set
from transforms.errors import HomeError
from transforms.features.registry import registry
from transforms.sql import model
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

TEST_SHARE = 0.3
# the features that can be served for a text in a request, and the service that does
SERVED, SERVICE = "record_quality, record_text, activity", "triage_v3"
REPEATED = [f"record_duplicates:{name}" for name in ("dup_of", "dup_similarity", "is_duplicate")]
EXAMPLE = "cve_v1"
EXAMPLE_VIEWS = ("vendor_", "weakness_", "cve_")
RECORDS_OFFLINE = """
Features of records are offline by default. To read them online by record id, name their views:
  MILLRACE_ONLINE=record_quality,record_vector millrace run --source sources/cve_events.yaml"""


def train(warehouse: Warehouse) -> str:
    """Train on earlier records, score on later ones, read one subject online; return a report."""
    home = warehouse.settings.root
    has_example = EXAMPLE in registry().services
    with connect(warehouse) as connection:
        spine: pl.DataFrame = connection.sql(model("staging/first_known")).pl()
        keys = example_keys(connection) if has_example else spine.select("record_id")
    joined = training_set(spine, "triage_v2", home).frame
    if has_example:
        example = training_set(
            spine.select("record_id", "event_timestamp").join(keys, on="record_id"), EXAMPLE, home
        ).frame
        joined = joined.join(
            example.select("record_id", cs.starts_with(*EXAMPLE_VIEWS)), on="record_id"
        )
    scores, estimator, inputs = score(joined)
    model_path(home).write_bytes(pickle.dumps((estimator, inputs)))
    busiest = joined["subject_id"].drop_nulls().mode().sort()[0]
    activity = [
        "subject_activity:n_records_lifetime",
        "subject_activity:n_records_28d",
        "subject_activity:positive_ratio_lifetime",
    ]
    start = datetime.now(UTC)
    online = online_features(activity, [{"subject_id": busiest}], home)
    seconds = (datetime.now(UTC) - start).total_seconds()
    values = "\n".join(f"  {name:<52}{online[name][0]}" for name in online.columns)
    read = (
        f"The busiest subject, as the online store knows it now ({seconds * 1000:.0f} ms, opening "
        "the store included):"
    )
    return f"{scores}\n\n{read}\n{values}\n{RECORDS_OFFLINE}"


def example_keys(connection: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    """Return the keys of each record's first version in `features/cve.py`.

    A CVE may have been cited before it is known itself.
    """
    entities = registry().entities
    keys = ", ".join(f"{entities[name].sql} as {name}" for name in ("vendor", "weakness"))
    first = "qualify row_number() over (partition by record_id order by known_timestamp) = 1"
    sql = (
        f"select record_id, {keys}, record_id as cited_cve from staging.records where not "
        f"is_tombstone {first}"
    )
    found: pl.DataFrame = connection.sql(sql).pl()
    return found


def ask(home: Path, text: str, author: str | None, subject: str | None) -> tuple[str, pl.DataFrame]:
    """Score a text that is stored nowhere by the model that `train` left, on served features.

    Returns the answer and the features, and beside them which record the text repeats. Raises
    `HomeError` where no model was trained.
    """
    if not model_path(home).is_file():
        message = f"{home}: no model was trained there; run millrace train-demo first"
        raise HomeError(message)
    estimator, inputs = pickle.loads(model_path(home).read_bytes())  # noqa: S301 - the home's own
    row = {"text": text, "author_id": author, "subject_id": subject}
    online_features(SERVICE, [row], home)  # opens the store
    start = perf_counter()
    served = online_features(SERVICE, [row], home)
    seconds = perf_counter() - start
    chance = estimator.predict_proba(served.select(inputs).to_numpy())[0, 1]
    repeated = online_features(REPEATED, [row], home)
    features = served.drop(row).hstack(repeated.drop(row))
    return (
        f"{chance:.1%} chance of a positive label, by {len(inputs)} features of {SERVICE} that "
        f"were served in {seconds * 1000:.0f} ms"
    ), features


def model_path(home: Path) -> Path:
    """Where a home keeps the demo's model, which `ask` uses."""
    return home / "demo_model.pickle"


def score(frame: pl.DataFrame) -> tuple[str, Any, list[str]]:
    """Score models on sets of features, split by time; return a table of ROC AUC and precision.

    With it comes the model on features that can be served for a text in a request, and its inputs.

    Takes the first-known spine (`is_positive` is the target, as known now) with the features of
    `triage_v2`, and maybe of `cve_v1`.
    """
    from sklearn.dummy import DummyClassifier
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import average_precision_score, roc_auc_score
    from threadpoolctl import threadpool_limits

    split = frame["event_timestamp"].quantile(1 - TEST_SHARE)
    past, future = (
        frame.filter(pl.col("event_timestamp") <= split),
        frame.filter(pl.col("event_timestamp") > split),
    )
    # of a small home some features may have no value to learn from
    known = past.select(column.name for column in past if column.null_count() < past.height)
    numbers = [name for name in known.columns if known[name].dtype.is_numeric()]
    quality = [name for name in numbers if name.startswith("record_quality__")]
    text = [name for name in numbers if name.startswith("record_text__")]
    activity = [name for name in numbers if name.startswith(("author_", "subject_"))]
    example = [name for name in numbers if name.startswith(EXAMPLE_VIEWS)]
    sets = {
        "nothing": [],
        "record_quality": quality,
        "record_quality, record_text": quality + text,
        "record_quality, activity": quality + activity,
        SERVED: quality + text + activity,
        "all of triage_v2": [name for name in numbers if "__" in name and name not in example],
    }
    if example:
        sets["with features declared in features/cve.py"] = [*quality, *activity, *example]
    lines = [
        (
            f"Predicting a positive label from what was known at {frame.height:,} records' first "
            "instant:"
        ),
        (
            f"  trained on {past.height:,} until {split:%Y-%m-%d %H:%M} UTC, {_share(past):.1%} "
            "positive"
        ),
        f"  scored on {future.height:,} after, {_share(future):.1%} positive",
        "",
        f"  {'features':<44}{'ROC AUC':>9}{'avg. precision':>16}",
    ]
    served = None
    for name, columns in sets.items():
        estimator = (
            HistGradientBoostingClassifier(random_state=0)
            if columns
            else DummyClassifier(strategy="prior")
        )
        inputs = columns or ["is_positive"]  # the dummy looks at no input
        with threadpool_limits(
            1
        ):  # on so few rows threads wait for each other: 8 s of processor time in all, not 58 s
            estimator.fit(past.select(inputs).to_numpy(), past["is_positive"].to_numpy())
            chance = estimator.predict_proba(future.select(inputs).to_numpy())[:, 1]
        served = estimator if name == SERVED else served
        truth = future["is_positive"].to_numpy()
        lines.append(
            "  "
            f"{name:<44}{roc_auc_score(truth, chance):>9.3f}"
            f"{average_precision_score(truth, chance):>16.3f}"
        )
    return "\n".join(lines), served, sets[SERVED]


def _share(frame: pl.DataFrame) -> float:
    return float(frame["is_positive"].sum()) / frame.height
