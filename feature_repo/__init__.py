"""What is served: Feast definitions, the offline store, the client for training and serving code.

    from feature_repo import online_features, similar_records, store, training_set, warehouse

Importing this loads neither Feast nor Prefect; calling a function does.
"""

from feature_repo.client import (
    TrainingSet,
    online_features,
    similar_records,
    store,
    training_set,
    warehouse,
)

__all__ = [
    "TrainingSet",
    "online_features",
    "similar_records",
    "store",
    "training_set",
    "warehouse",
]
