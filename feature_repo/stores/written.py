"""Whether an online store has a view whole: a row of the view under the key of no entity says so.

The registry cannot say it, for it outlives a store that was emptied or exchanged. The row has one
feature, named by a digest of the view's, so it says nothing of a view that was declared otherwise.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from feast.feature_view import FeatureView
from feast.value_type import ValueType

from feature_repo.stores.bulk import Asked, Batch, Layout
from feature_repo.stores.coming import Coming
from feature_repo.stores.compact import EVER, Column

NO_ENTITY = bytes(4)  # the serialized key of no columns, which no entity has
NEVER_OLD = np.array(["9999-12-31"], "datetime64[us]")


def whether_written(view: FeatureView) -> Asked:
    """Ask a store whether it has a view whole; `is_written` reads the answer."""
    return Asked(view, [NO_ENTITY], [_name(view)], [EVER])


def is_written(answer: Sequence[Column]) -> bool:
    """Whether a store has a view whole, by its answer to `whether_written`."""
    (((value,), _),) = answer
    return value is not None


def mark_written(layout: Layout, view: FeatureView) -> None:
    """Write that a store has a view whole, unless it says so already."""
    if is_written(layout.read([whether_written(view)])[0]):
        return
    unknown = np.array(["NaT"], "datetime64[us]")
    name, row = _name(view), pa.array([b"\x01"], pa.large_binary())
    none_to_come = Coming(np.array([0]), unknown[:0], {name: row[:0]})
    key = pa.array([NO_ENTITY], pa.large_binary())
    types = {name: ValueType.BYTES}
    with layout.writer(view) as write:
        write(Batch(key, NEVER_OLD, unknown, {name: row}, types, none_to_come))


def _name(view: FeatureView) -> str:
    features = sorted((field.name, str(field.dtype)) for field in view.features)
    return hashlib.sha256(repr(features).encode()).hexdigest()
