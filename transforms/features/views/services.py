"""What models read."""

from transforms.features import Service
from transforms.features.views.author_activity import author_activity
from transforms.features.views.author_tenure import author_tenure
from transforms.features.views.record_duplicates import RecordDuplicates
from transforms.features.views.record_pii import RecordPii
from transforms.features.views.record_quality import RecordQuality
from transforms.features.views.record_text import RecordText
from transforms.features.views.subject_activity import subject_activity

activity_v1 = Service(
    "activity_v1",
    [author_activity, subject_activity, author_tenure],
    description="What is known of an author and a subject. Online in every home. "
    "Ask with full feature names and, online, with the instant as event_timestamp.",
)

triage_v1 = Service(
    "triage_v1",
    [RecordQuality, author_activity, subject_activity, author_tenure],
    description=(
        "activity_v1 with what is known of a record when it arrives. Online where MILLRACE_ONLINE "
        "names record_quality."
    ),
)

triage_v2 = Service(
    "triage_v2",
    [
        RecordQuality,
        RecordText,
        RecordPii,
        RecordDuplicates,
        author_activity,
        subject_activity,
        author_tenure,
    ],
    description="As triage_v1, with what the record's text is like, what it gives away and which "
    "earlier "
    "record it repeats. "
    "Online where MILLRACE_ONLINE names its four views of records.",
)

triage_v3 = Service(
    "triage_v3",
    [RecordQuality, RecordText, author_activity, subject_activity, author_tenure],
    description="What can be served of a text in a request, with its author and subject, although "
    "the text is stored nowhere: ask with text, author_id, subject_id.",
)
