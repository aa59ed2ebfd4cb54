"""What models read."""

from transforms.features import Derived, Service
from transforms.features.views.author_activity import author_activity
from transforms.features.views.record_duplicates import RecordDuplicates
from transforms.features.views.record_pii import RecordPii
from transforms.features.views.record_quality import RecordQuality
from transforms.features.views.record_text import RecordText
from transforms.features.views.subject_activity import subject_activity

# in nanoseconds, as pandas counted before: the last bit of a quotient of microseconds is another, and locks of training sets hold it
author_tenure = Derived(
    "author_tenure",
    [author_activity],
    {"days_since_first_record": "(epoch_us(event_timestamp) - epoch_us(first_event_timestamp)) * 1e3 / 86400e9"},
    description="Days from when the author's earliest record known by then was written to the instant asked for.",
    descriptions={"days_since_first_record": "Days since the author's earliest record known by then was written."},
)

activity_v1 = Service(
    "activity_v1",
    [author_activity, subject_activity, author_tenure],
    description="What is known of an author and a subject. Online in every home. "
    "Ask with full feature names and, online, with the instant as event_timestamp.",
)

triage_v1 = Service(
    "triage_v1",
    [RecordQuality, author_activity, subject_activity, author_tenure],
    description="activity_v1 with what is known of a record when it arrives. Online where MILLRACE_ONLINE names record_quality.",
)

triage_v2 = Service(
    "triage_v2",
    [RecordQuality, RecordText, RecordPii, RecordDuplicates, author_activity, subject_activity, author_tenure],
    description="As triage_v1, with what the record's text is like, what it gives away and which earlier record it repeats. "
    "Online where MILLRACE_ONLINE names its four views of records.",
)
