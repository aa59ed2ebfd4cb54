"""The entities that every home has."""

from transforms.features.entity import Entity

record = Entity(
    "record",
    key="record_id",
    join_key="record_id",
    description="One text: a ticket, a review, a message.",
)
author = Entity("author", key="author_id", join_key="author_id", description="Who wrote it.")
subject = Entity(
    "subject",
    key="subject_id",
    join_key="subject_id",
    description="What it is about: product, channel, thread or queue.",
)
