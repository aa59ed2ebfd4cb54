"""Names that are asked for: whole views and services, each feature once, and mistakes."""

import pytest

from feature_repo import online_features, training_set
from transforms.errors import FeatureNameError
from transforms.warehouse.tables import Warehouse

SPINE = "select author_id, event_timestamp from staging.records limit 1"
ROWS = [{"author_id": "ann"}]
FEATURE = "author_activity:n_records_7d"


def test_view_in_a_list_means_its_features_and_each_comes_once(ann: Warehouse) -> None:
    home = ann.settings.root
    made = training_set(SPINE, [FEATURE, "author_activity", FEATURE], home)
    asked = made.lock["features"]
    assert asked[0] == FEATURE
    assert len({*asked}) == len(asked) > 1
    assert made.frame.columns[2:] == [name.replace(":", "__") for name in asked]
    served = online_features([FEATURE, "author_activity", FEATURE], ROWS, home)
    assert served.columns[1:] == made.frame.columns[2:]


def test_service_in_a_list_means_its_features(ann: Warehouse) -> None:
    row = {"author_id": "ann", "subject_id": "none", "record_id": "none", "text": ""}
    row["event_timestamp"] = "2026-03-01T00:00:00Z"  # tenure grows from call to call
    home = ann.settings.root
    alone = online_features("triage_v1", [row], home)
    beside = online_features(["triage_v1", FEATURE], [row], home)
    assert {*alone.columns} <= {*beside.columns}
    assert beside[alone.columns].equals(alone)


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ("triage_v", "there is no service 'triage_v'; did you mean triage_v3 or "),
        (["author_activity:n_records"], "author_activity: there is no feature 'n_records'; did "),
        (["autor_activity:x"], "there is no view 'autor_activity'; did you mean author_activity"),
        (["zzz"], "there is no view or service 'zzz'; there are activity_v1, "),
        (["zzz:n_records_7d"], "there is no view 'zzz'; there are author_activity, "),
    ],
)
def test_unknown_name_is_refused_with_those_that_are_near(
    ann: Warehouse, features: list[str] | str, said: str
) -> None:
    for ask in (
        lambda: training_set(SPINE, features, ann.settings.root),
        lambda: online_features(features, ROWS, ann.settings.root),
    ):
        with pytest.raises(FeatureNameError) as refusal:
            ask()
        assert str(refusal.value).startswith(said)
        assert "_on_demand" not in str(refusal.value)
