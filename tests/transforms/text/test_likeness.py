"""Fresh texts pair with the heads of their buckets; the earliest that is similar is the parent."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.text import likeness
from transforms.text.duplicates import BANDS, ROWS
from transforms.text.likeness import Parents, Signed, find_parents, pair_buckets

N_VALUES = BANDS * ROWS
MEMORY = 100_000_000


@pytest.fixture
def signed(tmp_path: Path) -> Callable[[np.ndarray], Signed]:
    """Texts with these values of signatures, all fresh."""

    def sign(values: np.ndarray) -> Signed:
        path = tmp_path / "signatures"
        values.tofile(path)
        return Signed(path, np.ones(len(values), bool), np.ones(len(values), bool))

    return sign


@given(
    st.lists(st.tuples(st.integers(-2, 2), st.booleans(), st.booleans()), max_size=12),
    st.integers(1, 4),
    st.integers(1, 20),
)
def test_fresh_texts_pair_with_the_first_of_their_bucket(
    texts: list[tuple[int, bool, bool]], n_heads: int, n_pairs: int
) -> None:
    positions = [position for position, (_, _, has_keys) in enumerate(texts) if has_keys]
    keys, fresh = [texts[position][0] for position in positions], [text[1] for text in texts]
    expected = [
        (position, head)
        for position in positions
        if fresh[position]
        for head in [p for p in positions if texts[p][0] == texts[position][0]][:n_heads]
        if head < position
    ]
    arrays = np.array(keys, np.int64), np.array(positions, np.int64), np.array(fresh, bool)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(likeness, "HEADS", n_heads)
        found = [*pair_buckets(*arrays, n_pairs)]
    assert sorted(pair for pairs in found for pair in zip(*pairs, strict=True)) == expected
    assert all(len(later) < n_pairs + n_heads for later, _ in found)


@pytest.mark.parametrize(
    ("n_agreeing", "is_kept"), [(60, False), (84, False), (89, False), (90, True), (128, True)]
)
def test_pairs_are_kept_from_a_similarity_of_seven_tenths_on(
    signed: Callable[[np.ndarray], Signed], n_agreeing: int, *, is_kept: bool
) -> None:
    values = np.zeros((2, N_VALUES), np.uint8)
    values[1, n_agreeing:] = 1
    kept = find_parents(signed(values), MEMORY)["similarity"].to_list()
    assert kept == ([pytest.approx(n_agreeing / N_VALUES, abs=0.01)] if is_kept else [])


def test_earliest_of_several_likenesses_is_the_parent(
    signed: Callable[[np.ndarray], Signed],
) -> None:
    values = np.zeros((4, N_VALUES), np.uint8)
    values[0, 60:] = 9  # shares buckets with all, but is not similar
    values[2, 120:] = 1
    values[3, 120:] = 2
    found = find_parents(signed(values), MEMORY)
    assert found.select("position", "parent", "root").rows() == [(2, 1, 1), (3, 1, 1)]


def test_roots_are_found_along_chains_of_any_length() -> None:
    parents = Parents(1000)
    parents.improve(np.arange(1, 1000), np.arange(999), np.ones(999))
    assert set(parents.table()["root"]) == {0}
    assert Parents(0).table().is_empty()


def test_memory_follows_the_setting_and_changes_nothing(
    signed: Callable[[np.ndarray], Signed], monkeypatch: pytest.MonkeyPatch
) -> None:
    n_texts = 40_000
    monkeypatch.setattr(likeness, "_MAPPED", 10_000)
    generator = np.random.default_rng(14)
    values = generator.integers(0, 256, (n_texts // 4, N_VALUES), np.uint8)
    # every text shares its buckets with three others
    texts = signed(values[generator.integers(0, len(values), n_texts)])
    found = []
    for memory in (2_000_000, 16_000_000):
        tracemalloc.start()
        found.append(find_parents(texts, memory))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < memory + 60 * n_texts
    assert found[0].equals(found[1])
    expected = pl.Series(texts.read(np.arange(n_texts))[:, 0]).is_first_distinct()
    assert found[0].height == (~expected).sum() > n_texts / 2
