"""The features that are served. The one file that `feast apply` scans; what a feature is stands in its contract."""

import feature_repo.importing  # noqa: F401

# isort: split
import pandas as pd
from feast import Entity, FeatureService, Field, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, UnixTimestamp

from feature_repo.fields import feature_view
from feature_repo.instants import instants
from transforms.code import RECORD_KERNELS
from transforms.schemas.features import (
    AuthorActivity,
    RecordDuplicates,
    RecordEmbedding,
    RecordPii,
    RecordQuality,
    RecordText,
    RecordVector,
    SubjectActivity,
)

record = Entity(name="record", join_keys=["record_id"], value_type=ValueType.STRING, description="One text: a ticket, a review, a message.")
author = Entity(name="author", join_keys=["author_id"], value_type=ValueType.STRING, description="Who wrote it.")
subject = Entity(
    name="subject",
    join_keys=["subject_id"],
    value_type=ValueType.STRING,
    description="What it is about: product, channel, thread or queue.",
)

record_quality = feature_view(RecordQuality, [record])
record_text = feature_view(RecordText, [record])
record_pii = feature_view(RecordPii, [record])
record_duplicates = feature_view(RecordDuplicates, [record])
record_vector = feature_view(RecordVector, [record])
if RecordEmbedding in RECORD_KERNELS:  # MILLRACE_EMBEDDER names a model
    record_embedding = feature_view(RecordEmbedding, [record])
author_activity = feature_view(AuthorActivity, [author])
subject_activity = feature_view(SubjectActivity, [subject])

instant = RequestSource(
    name="instant",
    schema=[Field(name="event_timestamp", dtype=UnixTimestamp)],
    description="The instant the features are asked for: the spine's own in training, the request's in serving.",
)


# mode="python" would be quicker online, but Feast 0.67 drops its result where full feature names are asked for
@on_demand_feature_view(
    sources=[author_activity[["first_event_timestamp"]], instant],
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


activity_v1 = FeatureService(
    name="activity_v1",
    features=[author_activity, subject_activity, author_tenure],
    description="What is known of an author and a subject. Online in every home. "
    "Ask with full feature names and, online, with the instant as event_timestamp.",
)

triage_v1 = FeatureService(
    name="triage_v1",
    features=[record_quality, author_activity, subject_activity, author_tenure],
    description="activity_v1 with what is known of a record when it arrives. Online where MILLRACE_ONLINE names record_quality.",
)

triage_v2 = FeatureService(
    name="triage_v2",
    features=[record_quality, record_text, record_pii, record_duplicates, author_activity, subject_activity, author_tenure],
    description="As triage_v1, with what the record's text is like, what it gives away and which earlier record it repeats. "
    "Online where MILLRACE_ONLINE names its four views of records.",
)
