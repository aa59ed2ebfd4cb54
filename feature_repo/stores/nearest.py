"""The nearest of stored vectors, exactly: compares every vector, with one batch in memory.

What a store without an index of vectors can do. The time grows with their number; docs/store.md
says how fast, and what to use beyond.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from feast.value_type import ValueType

from feature_repo.stores.codec import encode_values

Vectors: TypeAlias = npt.NDArray[np.float32]
Distances: TypeAlias = npt.NDArray[np.float32]
Batch: TypeAlias = tuple[
    Sequence[bytes], Sequence[bytes]
]  # entity keys and, serialized, the vector of each


def nearest(
    batches: Iterable[Batch], asked: Sequence[float], top_k: int, metric: str
) -> list[tuple[bytes, float]]:
    """Find the keys and distances of the `top_k` nearest vectors, nearest first.

    Of equally near ones, the lesser key comes first.

    `metric` is `cosine` (1 less the cosine; 1 where a vector is all zeros) or `L2`, in small
    letters or capitals. Raises ValueError for any other, and where a stored vector is not as long
    as the one asked for.
    """
    if metric.lower() not in METRICS:
        message = f"vector_search_metric {metric!r}: this store knows {' and '.join(METRICS)}"
        raise ValueError(message)
    vector, best = np.asarray(asked, np.float32), list[tuple[float, bytes]]()
    for keys, values in batches:
        distances = METRICS[metric.lower()](unpacked(values, len(vector)), vector)
        farthest = np.partition(distances, top_k - 1)[top_k - 1] if top_k < len(keys) else np.inf
        near = np.flatnonzero(distances <= farthest)
        best = sorted([*best, *((float(distances[row]), keys[row]) for row in near.tolist())])[
            :top_k
        ]
    return [(key, distance) for distance, key in best]


def unpacked(values: Sequence[bytes], length: int) -> Vectors:
    """Read serialized `Value` protos of float lists of one length; the floats are at the end."""
    (example,) = encode_values(
        pa.array([[0.0] * length], pa.list_(pa.float32())), ValueType.FLOAT_LIST
    ).to_pylist()
    head = len(example) - 4 * length
    if any(len(value) != len(example) or value[:head] != example[:head] for value in values):
        message = (
            f"the vector asked for has {length} numbers; the stored ones have another length, or "
            "are no Array(Float32)"
        )
        raise ValueError(message)
    return np.frombuffer(b"".join([value[head:] for value in values]), "<f4").reshape(
        len(values), length
    )


def cosine_distances(vectors: Vectors, asked: Vectors) -> Distances:
    """1 less the cosine of the angle to each vector; 1 where one of the two is all zeros.

    >>> cosine_distances(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([3.0, 0.0])).tolist()
    [0.0, 1.0]
    """
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(asked)
    cosines: Distances = np.divide(
        vectors @ asked, lengths, out=np.zeros_like(lengths), where=lengths > 0
    )
    return 1 - cosines


def euclidean_distances(vectors: Vectors, asked: Vectors) -> Distances:
    """The length of the difference to each vector.

    >>> euclidean_distances(np.array([[3.0, 4.0]]), np.array([0.0, 0.0])).tolist()
    [5.0]
    """
    distances: Distances = np.linalg.norm(vectors - asked, axis=1)
    return distances


METRICS: Mapping[str, Callable[[Vectors, Vectors], Distances]] = {
    "cosine": cosine_distances,
    "l2": euclidean_distances,
}
