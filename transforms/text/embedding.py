"""A text as a vector of its meaning, by a model of the user's own: `RecordEmbedding`.

No model is shipped or fetched. `MILLRACE_EMBEDDER` names the folder of a sentence-transformers
model, as its `save` writes it. The contents of that folder decide the vectors, so after a change of
model all are recomputed.
"""

import hashlib
import os
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import polars as pl

from transforms.errors import MillraceError
from transforms.home import Settings
from transforms.text.measured import of_frame
from transforms.text.vectors import DIMENSION, Vectors, hashed, with_vectors

TEXTS_AT_ONCE = 64


class TextEmbedder(Protocol):
    """What turns texts into vectors: for each text `dimension` numbers, of length 1."""

    @property
    def name(self) -> str:
        """What to call it."""

    @property
    def dimension(self) -> int:
        """How many numbers a vector has."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Make the vectors of texts, a row for each, in order."""


class HashingEmbedder:
    """The vectors of `record_vector`, which need no model."""

    name = "hash_vec_256"
    dimension = DIMENSION

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Hash each text's words.

        >>> HashingEmbedder().embed(["a cat", "a dog"]).shape
        (2, 256)
        """
        return hashed(pl.Series(texts, dtype=pl.String))


class SentenceTransformerEmbedder:
    """A sentence-transformers model in a folder, on a GPU if there is one.

    Nothing is fetched, and no code of the folder runs.
    """

    def __init__(self, folder: Path) -> None:
        """Read the model; raises `MillraceError` if it, or the extra `embeddings`, is missing."""
        check_model(folder)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.name = folder.name
        self._model = SentenceTransformer(
            str(folder), device=device, local_files_only=True, trust_remote_code=False
        )
        self.dimension = int(cast("int", self._model.get_embedding_dimension()))

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Encode texts. The last digits of a vector depend on the texts that share its batch."""
        vectors = self._model.encode(
            list(texts),
            batch_size=TEXTS_AT_ONCE,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return np.asarray(vectors, np.float32).reshape(len(texts), self.dimension)


@of_frame
def embed_text(records: pl.DataFrame) -> pl.DataFrame:
    """Embed each record's `text`, as `RecordEmbedding`; a null text gives null.

    The model is the one that `MILLRACE_EMBEDDER` names. Reads `record_id`, `event_timestamp`,
    `created_timestamp` and `text`; returns the first three and the vector.
    """
    embedder = embedder_of("record_embedding")
    return with_vectors(
        records, "embedding", lambda text: embedder.embed(text.fill_null("").to_list())
    )


def embedder_of(view: str) -> TextEmbedder:
    """Open the embedder of a view.

    `record_vector` has its own; `record_embedding` uses the model that is set.

    >>> embedder_of("record_vector").name
    'hash_vec_256'
    """
    folder = Settings().embedder
    if view == "record_vector":
        return HashingEmbedder()
    if view != "record_embedding" or folder is None:
        message = (
            f"{view}: nothing makes vectors of texts for it; "
            "give a vector, or name a model's folder in MILLRACE_EMBEDDER"
        )
        raise MillraceError(message)
    return _opened(folder.expanduser().resolve())


def model_digest() -> str:
    """Digest the files of the model that is set."""
    folder = cast("Path", Settings().embedder).expanduser().resolve()
    check_model(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    state = tuple(
        (path, stat.st_size, stat.st_mtime_ns) for path in files for stat in [path.stat()]
    )
    return _digest(folder, state)


def check_model(folder: Path) -> None:
    """Raise `MillraceError`, with what to do, if a folder has no model or nothing can run it."""
    if not (folder / "modules.json").is_file():
        message = (
            f"{folder}: no sentence-transformers model there (no modules.json); "
            "MILLRACE_EMBEDDER names the folder of one"
        )
        raise MillraceError(message)
    try:
        version("sentence-transformers")
    except PackageNotFoundError:
        message = (
            f"{folder}: to run this model, install the extra: pip install 'millrace[embeddings]'"
        )
        raise MillraceError(message) from None


@cache
def _opened(folder: Path) -> SentenceTransformerEmbedder:
    return SentenceTransformerEmbedder(folder)


@lru_cache(maxsize=4)
def _digest(folder: Path, state: tuple[tuple[Path, int, int], ...]) -> str:
    """Digest a folder's files, once for each state of them."""
    digest = hashlib.sha256()
    for path, size, _ in state:
        digest.update(f"{path.relative_to(folder)}\x1f{size}\x1f".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
