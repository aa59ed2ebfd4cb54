"""`hash_text`: scikit-learn's vectors of the same words, pinned values, any text there is."""

from datetime import UTC, datetime

import mmh3
import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors import GateError
from transforms.features.views.record_vector import RecordVector
from transforms.text.vectors import N_TEXTS_AT_ONCE, hash_text, murmur_hash
from transforms.text.vectors import hashed as hashed_texts

WRITTEN = datetime(2026, 1, 1, tzinfo=UTC)
TIME = pl.Datetime("us", "UTC")
WORDS = st.lists(st.text(alphabet="abcxyz0é", min_size=1, max_size=4), max_size=8)
TEXTS = st.lists(st.none() | st.text(max_size=80) | WORDS.map(" ".join), max_size=6)


def staged(*texts: str | None) -> pl.LazyFrame:
    return pl.LazyFrame(
        {"record_id": [f"r{number}" for number in range(len(texts))], "text": texts},
        schema_overrides={"record_id": pl.String, "text": pl.String},
    ).with_columns(event_timestamp=pl.lit(WRITTEN, TIME), created_timestamp=pl.lit(WRITTEN, TIME))


def hashed(*texts: str | None) -> pl.DataFrame:
    return hash_text(staged(*texts)).collect()


def vector(text: str) -> npt.NDArray[np.float64]:
    return np.array(hashed(text)["hash_vec_256"][0].to_list())


def reference(text: str) -> npt.NDArray[np.float64]:
    """The same by scikit-learn, whose vectors are of unit length too."""
    from sklearn.feature_extraction.text import HashingVectorizer

    made: npt.NDArray[np.float64] = (
        HashingVectorizer(n_features=256, token_pattern=r"(?u)\w+")  # noqa: S106
        .transform([text])
        .toarray()[0]
    )
    return made


@given(TEXTS)
def test_any_text_meets_the_contract(texts: list[str | None]) -> None:
    found = RecordVector.gate(hashed(*texts))
    assert found["hash_vec_256"].is_null().to_list() == [text is None for text in texts]


@given(WORDS)
def test_vectors_are_those_of_scikit_learn(words: list[str]) -> None:
    assert np.allclose(vector(" ".join(words)), reference(" ".join(words)), atol=1e-6)


@given(WORDS.flatmap(lambda words: st.tuples(st.just(words), st.permutations(words))))
def test_order_of_words_and_their_case_do_not_matter(drawn: tuple[list[str], list[str]]) -> None:
    words, others = drawn
    assert (vector(" ".join(words)) == vector(", ".join(others).upper())).all()


@given(WORDS, st.integers(2, 4))
def test_text_repeated_as_a_whole_is_the_same_vector(words: list[str], times: int) -> None:
    assert np.allclose(vector(" ".join(words * times)), vector(" ".join(words)), atol=1e-6)


@given(st.text(alphabet="ab\u03a3\u0130' \t\u00a0_-", max_size=12))
def test_words_are_found_in_the_lower_case_of_the_whole_text(text: str) -> None:
    words = pl.Series([text]).str.to_lowercase().str.extract_all(r"\w+").explode().drop_nulls()
    assert vector(text).tolist() == vector(" ".join(words)).tolist()


def test_repeated_word_weighs_more() -> None:
    once, twice, alone, other = (
        vector("disk failure"),
        vector("disk disk failure"),
        vector("disk"),
        vector("failure"),
    )
    assert np.allclose(once @ alone, 1 / np.sqrt(2))
    assert np.allclose([twice @ alone, twice @ other], np.array([2, 1]) / np.sqrt(5))


@pytest.mark.parametrize(
    ("word", "place", "sign"),
    [
        ("disk", 212, -1),
        ("failure", 103, -1),
        ("ünïcödé", 196, 1),
        ("日本語", 105, -1),
        ("a" * 1_000, 248, -1),
        ("42", 202, -1),
    ],
)
def test_a_words_place_and_sign_never_change(word: str, place: int, sign: int) -> None:
    found = vector(word)
    assert (np.flatnonzero(found).tolist(), found[place]) == ([place], sign)


def test_hashes_side_by_side_are_those_of_mmh3() -> None:
    words = [
        ("aé日 b0"[start:] + "xyz_" * 9)[:length].encode()
        for start in range(6)
        for length in range(34)
    ]
    n_octets = np.array([len(word) for word in words])
    octets = np.frombuffer(b"".join(words), np.uint8)
    hashes = murmur_hash(octets, np.cumsum(n_octets) - n_octets, n_octets)
    assert hashes.tolist() == [mmh3.hash(word, signed=False) for word in words]


def test_text_without_a_word_is_all_zeros_and_no_text_is_null() -> None:
    empty, blank, marks, missing = hashed("", " \n", "-- ?!", None)["hash_vec_256"].to_list()
    assert empty == blank == marks == [0.0] * 256
    assert missing is None


def test_words_that_cancel_out_leave_zeros() -> None:
    places = {
        (place, sign): word
        for word in map(str, range(2_000))
        for place, sign in [place_and_sign(word)]
    }
    place = next(place for place, sign in places if (place, -sign) in places)
    assert not vector(f"{places[place, 1]} {places[place, -1]}").any()


def place_and_sign(word: str) -> tuple[int, int]:
    found = reference(word)
    place = int(np.flatnonzero(found)[0])
    return place, int(np.sign(found[place]))


@given(TEXTS, st.integers(0, 6))
def test_result_does_not_depend_on_how_batches_are_split(texts: list[str | None], at: int) -> None:
    frame = staged(*texts).collect()
    pieces = [hash_text(piece.lazy()).collect() for piece in (frame[:at], frame[at:])]
    assert pl.concat(pieces).equals(hash_text(frame.lazy()).collect())


def test_texts_are_hashed_in_pieces_as_a_whole() -> None:
    texts = pl.Series([f"record {number % 7} of many" for number in range(N_TEXTS_AT_ONCE + 5)])
    assert (hashed_texts(texts)[-7:] == hashed_texts(texts[-7:])).all()


@pytest.mark.parametrize("values", [[1.0] * 256, [1.0] + [0.0] * 254, [float("nan")] * 256, []])
def test_contract_refuses_what_is_no_unit_vector_of_256(values: list[float]) -> None:
    rows = hashed("a", "b").with_columns(
        hash_vec_256=pl.Series([values, None], dtype=pl.List(pl.Float32))
    )
    with pytest.raises(
        GateError, match=r"1 rows of a batch of 2 break hash_vec_256: not_a_unit_vector_of_256"
    ):
        RecordVector.gate(rows)
