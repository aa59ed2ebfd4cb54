"""The features that are served. The one file that `feast apply` scans; what a feature is stands in its contract."""

import feature_repo.importing  # noqa: F401

# isort: split
from feast import Entity, FeatureService, ValueType
from feast.types import Float64

from feature_repo.derived import on_demand_view
from feature_repo.fields import feature_view
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

author_tenure = on_demand_view(
    "author_tenure",
    sources=[author_activity[["first_event_timestamp"]]],
    # in nanoseconds, as pandas counted before: their last bit is another than that of microseconds, and locks hold it
    features={"days_since_first_record": "(epoch_us(event_timestamp) - epoch_us(first_event_timestamp)) * 1e3 / 86400e9"},
    types={"days_since_first_record": Float64},
    description="Days from when the author's earliest record known by then was written to the instant asked for.",
)


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
