"""Bands in parts: which earlier text each fresh one nearly repeats, searched by an engine.

A worker searches some bands of all signatures. A parent is the earliest text that any band found.
"""

import uuid
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from transforms.engines.code import Origin, origin, refuse_other_code
from transforms.engines.engine import Engine
from transforms.home import Settings
from transforms.schemas.duplicates import KnownDocument
from transforms.text.duplicates import BANDS
from transforms.text.likeness import Parents, Signed, search_bands
from transforms.warehouse.scratch import scratch_folder


class OfBands(NamedTuple):
    """The task of searching some bands; `marks` has which texts are fresh and which are signed."""

    bands: range
    signatures: str
    marks: str
    memory: int
    folder: str


class FoundPairs(NamedTuple):
    """The file of the pairs that a task found, and by which code."""

    pairs: str
    origin: Origin


def find_parents_by(engine: Engine, settings: Settings, texts: Signed, memory: int) -> pl.DataFrame:
    """Find by an engine what `find_parents` does; `memory` is for each worker."""
    parents = Parents(len(texts.is_fresh))
    with scratch_folder(settings.root) as folder:
        marks = folder / "marks.npy"
        np.save(marks, [texts.is_fresh, texts.is_signed])
        n_tasks = min(engine.n_workers, BANDS)
        tasks = [
            OfBands(range(n, BANDS, n_tasks), str(texts.path), str(marks), memory, str(folder))
            for n in range(n_tasks)
        ]
        for made in engine.map(search_signatures, tasks):
            refuse_other_code(made.origin, KnownDocument.relation())
            with np.load(made.pairs) as pairs:
                parents.improve(**pairs)
    return parents.table()


def search_signatures(task: OfBands) -> FoundPairs:
    """Search some bands, in a worker."""
    texts = Signed(Path(task.signatures), *np.load(task.marks))
    later, earlier, similarities = search_bands(texts, task.bands, task.memory).pairs()
    pairs = f"{task.folder}/pairs-{uuid.uuid4().hex}.npz"
    np.savez(pairs, later=later, earlier=earlier, similarities=similarities)
    return FoundPairs(pairs, origin())
