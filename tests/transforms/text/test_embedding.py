"""Embedders: the hashing one, errors of a model that cannot run, and a model made for tests."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from transforms.errors import MillraceError
from transforms.features import fingerprint
from transforms.text import embedding
from transforms.text.embedding import (
    HashingEmbedder,
    SentenceTransformerEmbedder,
    TextEmbedder,
    embed_text,
    embedder_of,
    model_digest,
)
from transforms.text.vectors import hashed


@pytest.fixture
def look_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a model's, where the libraries seem to be installed."""
    (tmp_path / "modules.json").write_text("[]")
    monkeypatch.setenv("MILLRACE_EMBEDDER", str(tmp_path))
    monkeypatch.setattr(embedding, "version", lambda library: f"1 of {library}")
    return tmp_path


def test_hashing_is_an_embedder() -> None:
    embedder: TextEmbedder = HashingEmbedder()
    found = embedder.embed(["disk failure", ""])
    assert (embedder.name, embedder.dimension, found.dtype) == ("hash_vec_256", 256, np.float32)
    assert (found == hashed(pl.Series(["disk failure", ""]))).all()
    assert embedder.embed([]).shape == (0, 256)
    assert isinstance(embedder_of("record_vector"), HashingEmbedder)


def test_view_without_an_embedder_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MILLRACE_EMBEDDER", raising=False)
    with pytest.raises(
        MillraceError, match=r"record_embedding: nothing makes vectors .* MILLRACE_EMBEDDER"
    ):
        embedder_of("record_embedding")


def test_folder_without_a_model_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        MillraceError, match=r"no sentence-transformers model there \(no modules.json\)"
    ):
        SentenceTransformerEmbedder(tmp_path)


def test_missing_extra_is_named(look_alike: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(library: str) -> str:
        raise PackageNotFoundError(library)

    monkeypatch.setattr(embedding, "version", missing)
    with pytest.raises(MillraceError, match=r"pip install 'millrace\[embeddings\]'"):
        model_digest()
    with pytest.raises(MillraceError, match=r"pip install 'millrace\[embeddings\]'"):
        SentenceTransformerEmbedder(look_alike)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "weights").write_bytes(b"other"),
        lambda folder: (folder / "weights").rename(folder / "heights"),
        lambda folder: (folder / "more").touch(),
    ],
)
def test_any_change_in_the_folder_changes_the_digest(
    look_alike: Path, change: Callable[[Path], object]
) -> None:
    (look_alike / "weights").write_bytes(b"these")
    before = model_digest()
    assert model_digest() == before
    change(look_alike)
    assert model_digest() != before


def test_the_libraries_that_run_a_model_count() -> None:
    modules = fingerprint._closure([embed_text.__module__])
    assert {"sentence_transformers", "torch", "transformers"} <= fingerprint._libraries(
        {name for module in modules for name in module.imports}
    )


def test_model_makes_unit_vectors_in_the_order_of_the_texts(tiny_model: Path) -> None:
    embedder: TextEmbedder = SentenceTransformerEmbedder(tiny_model)
    texts = [
        "disk failure on the host",
        "a",
        "",
        "disk failure on the host",
        "word " * 900,
        "日本語",
    ]
    found = embedder.embed(texts)
    assert (embedder.name, embedder.dimension, found.shape, found.dtype) == (
        "tiny",
        32,
        (6, 32),
        np.float32,
    )
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.allclose(found[0], found[3], atol=1e-6)
    assert np.allclose(found[1], embedder.embed(["a"])[0], atol=1e-5)
    assert not np.allclose(found[0], found[1], atol=1e-2)
    assert embedder.embed([]).shape == (0, 32)


def test_kernel_embeds_texts_and_gives_null_for_none(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_EMBEDDER", str(tiny_model))
    texts = pl.LazyFrame(
        {
            "record_id": ["a", "b"],
            "event_timestamp": [1, 1],
            "created_timestamp": [2, 2],
            "text": ["disk", None],
        }
    )
    found = embed_text(texts).collect()
    assert found.columns == ["record_id", "event_timestamp", "created_timestamp", "embedding"]
    assert found.schema["embedding"] == pl.List(pl.Float32)
    assert found["embedding"].list.len().to_list() == [32, None]
