"""What is served: Feast definitions, the offline store, the client for training and serving code.

    from feature_repo import online_features, similar_records, store, training_set, warehouse
    from feature_repo import label, spine, trace

Importing this loads neither Feast nor Prefect; calling a function does.
"""

from feature_repo.client import (
    TrainingSet,
    online_features,
    similar_records,
    store,
    trace,
    training_set,
    warehouse,
)
from transforms.training.question import label, spine

__all__ = [
    "TrainingSet",
    "label",
    "online_features",
    "similar_records",
    "spine",
    "store",
    "trace",
    "training_set",
    "warehouse",
]
