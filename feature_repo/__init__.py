"""What is served: Feast definitions, the offline store, the client for training and serving code.

    from feature_repo import online_features, similar_records, store, training_set

Importing this loads neither Feast nor Prefect; calling a function does.
"""

from typing import Any

import typeguard

from feature_repo.client import TrainingSet, online_features, similar_records, store, training_set

_typechecked = typeguard.typechecked


def _typechecked_but_feast(target: Any = None, **options: Any) -> Any:
    """Leave Feast's classes as they are: to rewrite them so that they check their arguments is two thirds of what importing Feast takes."""
    if str(getattr(target, "__module__", "")).startswith("feast."):
        return target
    return _typechecked(target, **options)


typeguard.typechecked = _typechecked_but_feast

__all__ = ["TrainingSet", "online_features", "similar_records", "store", "training_set"]
