"""What was written about a subject lately and so far."""

from transforms.features import Count, GroupBy, Mean, Min, Share, Sum, days, lifetime
from transforms.features.entities import subject

subject_activity = GroupBy(
    "subject_activity",
    subject,
    [
        Min(
            "event_timestamp",
            "first_event_timestamp",
            windows=lifetime,
            description="When the earliest record was written, of those",
        ),
        Count("n_records"),
        Sum("record_quality.n_words", "n_words", description="Words in records"),
        Mean("record_quality.n_characters", "mean_characters", description="Characters per record"),
        Share(
            "is_positive", "positive_ratio", description="Share of positive labels among records"
        ),
    ],
    [days(1), days(7), days(28), lifetime],
    description=(
        "What was written about a subject lately and so far, exact at any instant. Means and "
        "shares are null over no record."
    ),
)
