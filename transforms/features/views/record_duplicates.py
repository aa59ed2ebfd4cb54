"""Which earlier record a record repeats."""

from transforms.features.declare import NearDuplicates


class RecordDuplicates(NearDuplicates):
    """Which earlier-known record a record repeats, by the same text or nearly the same.

    All null once it is a tombstone.
    """
