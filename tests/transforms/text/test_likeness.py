"""Fresh texts pair with the heads of their buckets; the earliest that is similar is the parent."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.text import likeness
from transforms.text.duplicates import BANDS, ROWS
from transforms.text.likeness import compare_pairs, find_parents, find_roots, pair_bucket

N_VALUES = BANDS * ROWS


def pairs_of(keys: list[int], positions: list[int], fresh: list[bool]) -> list[tuple[int, int]]:
    pairs = pair_bucket(np.array(keys, np.int64), np.array(positions, np.int64), np.array(fresh))
    return sorted(divmod(int(pair), 1 << 32) for pair in pairs)


@given(
    st.lists(st.tuples(st.integers(-2, 2), st.booleans(), st.booleans()), max_size=12),
    st.integers(1, 4),
)
def test_fresh_texts_pair_with_the_first_of_their_bucket(
    texts: list[tuple[int, bool, bool]], n_heads: int
) -> None:
    signed = [position for position, (_, _, has_keys) in enumerate(texts) if has_keys]
    expected = [
        (position, head)
        for position in signed
        if texts[position][1]
        for head in [other for other in signed if texts[other][0] == texts[position][0]][:n_heads]
        if head < position
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(likeness, "HEADS", n_heads)
        keys, fresh = [texts[position][0] for position in signed], [text[1] for text in texts]
        assert pairs_of(keys, signed, fresh) == expected


@pytest.mark.parametrize(
    ("n_agreeing", "is_kept"), [(60, False), (84, False), (89, False), (90, True), (128, True)]
)
def test_pairs_are_kept_from_a_similarity_of_seven_tenths_on(
    n_agreeing: int, *, is_kept: bool
) -> None:
    values = np.zeros((2, N_VALUES), np.uint8)
    values[1, n_agreeing:] = 1
    kept = compare_pairs(values.view(np.int64), np.array([1 << 32]))["similarity"].to_list()
    assert kept == ([pytest.approx(n_agreeing / N_VALUES, abs=0.01)] if is_kept else [])


def test_earliest_of_several_likenesses_is_the_parent() -> None:
    values = np.zeros((4, N_VALUES), np.uint8)
    values[0, 60:] = 9  # shares buckets with all, but is not similar
    values[2, 120:] = 1
    values[3, 120:] = 2
    found = find_parents(values.view(np.int64), np.arange(4), np.array([False, *[True] * 3]))
    assert found.select("position", "parent", "root").rows() == [(2, 1, 1), (3, 1, 1)]


def test_roots_are_found_along_chains_of_any_length() -> None:
    parents = pl.DataFrame({"position": range(1, 1000), "parent": range(999)}).sample(
        fraction=1, shuffle=True, seed=1
    )
    assert set(find_roots(parents, 1000).tolist()) == {0}
    assert find_roots(parents.clear(), 0).tolist() == []
