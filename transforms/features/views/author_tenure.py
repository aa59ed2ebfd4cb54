"""How long an author has been known."""

from transforms.features import Derived
from transforms.features.views.author_activity import author_activity

# in nanoseconds, as pandas counted before: the last bit of a quotient of microseconds is another,
# and locks of training sets depend on it
author_tenure = Derived(
    "author_tenure",
    [author_activity],
    {
        "days_since_first_record": (
            "(epoch_us(event_timestamp) - epoch_us(first_event_timestamp)) * 1e3 / 86400e9"
        )
    },
    description=(
        "Days from when the author's earliest record known by then was written to the instant "
        "asked for."
    ),
    descriptions={
        "days_since_first_record": (
            "Days since the author's earliest record known by then was written."
        )
    },
)
