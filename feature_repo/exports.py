"""A training set for other libraries, a batch at a time. Each is loaded by the call that needs it.

`source` is a training set, a frame such as one of its splits, or the path of a Parquet file, which
is read a row group at a time. Inputs are by default the features that are numbers or flags.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    import pyarrow as pa

    from feature_repo.client import TrainingSet

    Source: TypeAlias = TrainingSet | pl.DataFrame | Path | str

LABEL, WEIGHT = "label", "weight"
ROWS = 8192


def batches(source: "Source", rows: int = ROWS) -> "Iterator[pa.RecordBatch]":
    """Yield the rows in order as Arrow record batches, each of at most so many rows."""
    import pyarrow.parquet as pq

    if isinstance(source, str | Path):
        with pq.ParquetFile(source) as file:
            yield from file.iter_batches(rows)
        return
    for part in _frame(source).iter_slices(rows):
        yield from part.to_arrow().to_batches(rows)


def input_names(source: "Source") -> list[str]:
    """List the features that are numbers or flags: what `arrays` takes where nothing is said."""
    import polars as pl

    schema = (
        pl.read_parquet_schema(source) if isinstance(source, str | Path) else _frame(source).schema
    )
    return [
        name
        for name, kind in schema.items()
        if "__" in name and (kind.is_numeric() or kind == pl.Boolean)
    ]


def arrays(
    source: "Source", inputs: Sequence[str] | None = None, rows: int = ROWS
) -> "Iterator[tuple[np.ndarray[Any, Any], ...]]":
    """Yield NumPy arrays for each batch: inputs, then the label and the weight if there are any.

    Inputs are 32-bit floats, a row each; a null is NaN. The label is a 32-bit float where it is
    true or false, else as it is.
    """
    import polars as pl

    names = list(input_names(source) if inputs is None else inputs)
    for batch in batches(source, rows):
        part = pl.DataFrame(batch)
        found = [part.select(pl.col(names).cast(pl.Float32).fill_null(float("nan"))).to_numpy()]
        for name in (LABEL, WEIGHT):
            if name in part.columns:
                values = part[name]
                is_real = values.dtype in {pl.Boolean, pl.Float64}
                found.append((values.cast(pl.Float32) if is_real else values).to_numpy())
        yield tuple(found)


def torch_dataset(source: "Source", inputs: Sequence[str] | None = None, rows: int = ROWS) -> Any:
    """Make a PyTorch `IterableDataset` of batches, for `DataLoader(..., batch_size=None)`.

    Each worker of a loader takes its share of the batches. Workers need
    `multiprocessing_context="spawn"`: Polars does not survive a fork.
    """
    import torch
    from torch.utils.data import IterableDataset, get_worker_info

    class Batches(IterableDataset):
        def __iter__(self) -> Iterator[Any]:
            worker = get_worker_info()
            first, step = (worker.id, worker.num_workers) if worker else (0, 1)
            for number, found in enumerate(arrays(source, inputs, rows)):
                if number % step == first:
                    yield tuple(torch.tensor(part) for part in found)

        def __reduce__(self) -> Any:  # the class is no module's, so it is made again in a worker
            return torch_dataset, (source, inputs, rows)

    return Batches()


def tf_dataset(source: "Source", inputs: Sequence[str] | None = None, rows: int = ROWS) -> Any:
    """Make a `tf.data.Dataset` of batches, as `keras.Model.fit` takes it."""
    import tensorflow as tf

    first = next(arrays(source, inputs, 1))
    kinds = tuple(tf.TensorSpec((None, *part.shape[1:]), tf.as_dtype(part.dtype)) for part in first)
    return tf.data.Dataset.from_generator(
        lambda: arrays(source, inputs, rows), output_signature=kinds
    )


def hf_dataset(source: "Source", rows: int = ROWS) -> Any:
    """Make a Hugging Face `IterableDataset`, which reads the rows as they are asked for."""
    import datasets

    return datasets.IterableDataset.from_generator(
        _rows, gen_kwargs={"source": source, "rows": rows}
    )


def _rows(source: "Source", rows: int) -> Iterator[dict[str, Any]]:
    for batch in batches(source, rows):
        yield from batch.to_pylist()


def _frame(source: Any) -> "pl.DataFrame":
    frame: pl.DataFrame = getattr(source, "frame", source)
    return frame
