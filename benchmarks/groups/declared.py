"""What `benchmarks/groups.py` computes."""

from datetime import timedelta

from transforms.features import (
    Count,
    CountDistinct,
    Entity,
    First,
    GroupBy,
    Last,
    LastK,
    Max,
    Mean,
    Min,
    Percentile,
    Share,
    Sum,
    TopK,
    Variance,
    days,
    lifetime,
)
from transforms.features.entities import author, subject

MICROSECOND = timedelta(microseconds=1)
WORDS = "record_quality.n_words"

aggregates = {
    "count": Count("n"),
    "min": Min(WORDS),
    "max": Max(WORDS),
    "first": First("label"),
    "last": Last("label"),
    "last_k": LastK("label", k=3),
    "count_distinct": CountDistinct("subject_id"),
    "top_k": TopK("label", k=3),
    "variance": Variance(WORDS),
    "percentile": Percentile(WORDS, q=0.9),
}
globals().update(
    {
        f"one_{name}": GroupBy(
            f"one_{name}",
            author,
            [aggregate],
            [days(1), days(7), days(28), lifetime],
            description="One aggregate in four windows.",
        )
        for name, aggregate in aggregates.items()
    }
)

weekday = Entity("weekday", key="dayname(event_timestamp)")
author_in_subject = Entity("author_in_subject", key=["subject_id", "author_id"])
number_cited = Entity("number_cited", key="regexp_extract_all(text, '#([0-9]+)', 1)", many=True)
four = [
    Count("n"),
    Mean(WORDS, name="words"),
    Share("is_positive", name="positive_ratio"),
    Sum("record_quality.n_characters", "n_characters"),
]
entities = [author, subject, weekday, author_in_subject, number_cited]
globals().update(
    {
        f"ten_{i}": GroupBy(
            f"ten_{i}",
            entities[i % len(entities)],
            four,
            [days(1 + i)],
            description="One group of ten.",
        )
        for i in range(10)
    }
)

trailing = [Count("n"), Sum(WORDS, "n_words")]
trailing_exact = GroupBy(
    "trailing_exact",
    author,
    trailing,
    [days(7, hop=MICROSECOND)],
    description="As other engines count, without hops.",
)
trailing_hourly = GroupBy(
    "trailing_hourly",
    author,
    trailing,
    [days(7)],
    description="The same window as it is declared, with its hop.",
)
