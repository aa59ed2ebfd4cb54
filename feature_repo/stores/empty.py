"""The value of a feature for an entity with nothing counted, whether it was ever seen or not.

A field says it by its tag `empty`, as its contract does (`Column.empty`). Without the tag the
feature is null.
"""

from collections.abc import Collection

from feast.feature_view import FeatureView

EMPTY = "empty"


def empty_values(view: FeatureView, features: Collection[str]) -> dict[str, int]:
    """Find the features of a view, of those asked for, that have a value where nothing counts."""
    return {
        field.name: int(field.tags[EMPTY])
        for field in view.features
        if EMPTY in field.tags and field.name in features
    }
