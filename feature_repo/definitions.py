"""The features that are served. The one file that `feast apply` scans; what a feature is stands in its contract."""

import feature_repo.importing  # noqa: F401

# isort: split
import pandas as pd
from feast import Entity, FeatureService, Field, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, UnixTimestamp

from feature_repo.fields import feature_view
from feature_repo.instants import instants
from transforms.features.registry import registry, view_name, views

joined_by = {
    column: Entity(name=entity.name, join_keys=[column], value_type=ValueType.STRING, description=entity.description)
    for entity in registry().entities.values()
    if len(entity.columns) == 1
    for column in entity.columns
}
# of several keys each is an entity for Feast: one that is declared, else one of its own
joined_by |= {
    column: Entity(name=column, join_keys=[column], value_type=ValueType.STRING, description=f"A key of {entity.name}.")
    for entity in registry().entities.values()
    for column in entity.columns
    if column not in joined_by
}
feature_views = {view.name: feature_view(view.contract, [joined_by[column] for column in view.entity.columns]) for view in views()}

instant = RequestSource(
    name="instant",
    schema=[Field(name="event_timestamp", dtype=UnixTimestamp)],
    description="The instant the features are asked for: the spine's own in training, the request's in serving.",
)


# mode="python" would be quicker online, but Feast 0.67 drops its result where full feature names are asked for
@on_demand_feature_view(
    sources=[feature_views["author_activity"][["first_event_timestamp"]], instant],
    # Feast compares this field with what it infers, which has no description, so the view's own carries it
    schema=[Field(name="days_since_first_record", dtype=Float64)],
    mode="pandas",
    description="Days from when the author's earliest record known by then was written to the instant asked for.",
)
def author_tenure(inputs: pd.DataFrame) -> pd.DataFrame:
    """Days from the author's first record to the instant."""
    first, instant = (instants(inputs[name]) for name in ("first_event_timestamp", "event_timestamp"))
    days = (instant - first) / pd.Timedelta(days=1)
    return pd.DataFrame({"days_since_first_record": days})


served = feature_views | {"author_tenure": author_tenure}
services = [
    FeatureService(name=name, features=[served[view_name(item)] for item in service.features], description=service.description)
    for name, service in registry().services.items()
]
# Feast finds what is a value of this module
globals().update({f"_{item.name}": item for item in (*joined_by.values(), *feature_views.values(), *services)})
