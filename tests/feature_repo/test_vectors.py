"""Vectors of records: the same offline and online, and found again by Feast's own retrieval."""

from collections.abc import Callable, Iterator
from copy import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from feast import FeatureStore, RepoConfig

from feature_repo import client, online_features, similar_records, training_set
from feature_repo.client import store_settings
from feature_repo.online import materialize
from feature_repo.stores import serving
from transforms.errors import MillraceError
from transforms.text.vectors import hashed
from transforms.warehouse.tables import Warehouse

NOW = datetime(2024, 9, 1, tzinfo=UTC)
VECTOR = "record_vector:hash_vec_256"
QUERY = "SQL injection in the login form allows a remote attacker to read passwords"


@pytest.fixture(scope="module")
def served(small: Warehouse) -> Warehouse:
    """The small home with its online store filled."""
    materialize(small, NOW, lambda _relation, _rows, _bytes: None)
    return small


@pytest.fixture(scope="module")
def newest(staged: pl.DataFrame) -> pl.DataFrame:
    """Every record's newest version that is no tombstone."""
    return staged.unique("record_id", keep="last").filter(~pl.col("is_tombstone")).sort("record_id")


def similarities(newest: pl.DataFrame, query: str) -> pl.DataFrame:
    """Every record's cosine with a text, the most similar first: brute force."""
    cosines: npt.NDArray[np.float32] = hashed(newest["text"]) @ hashed(pl.Series([query]))[0]
    return newest.select("record_id", cosine=cosines).sort("cosine", descending=True)


def assert_nearest(found: dict[str, float], expected: pl.DataFrame, top_k: int) -> None:
    """The most similar records with their cosines; among those tied for last, any may be found."""
    by_id = dict(expected.iter_rows())
    assert len(found) == top_k
    assert np.allclose(
        sorted(found.values(), reverse=True), expected["cosine"].head(top_k), atol=1e-6
    )
    assert np.allclose(list(found.values()), [by_id[record] for record in found], atol=1e-6)


def test_served_vectors_are_those_of_a_training_set_and_of_the_text(
    served: Warehouse, newest: pl.DataFrame
) -> None:
    some = newest.sample(60, seed=1)
    spine = some.select("record_id", event_timestamp=pl.lit(NOW, pl.Datetime("us", "UTC")))
    trained = training_set(spine, [VECTOR], served.settings.root).frame
    answered = online_features([VECTOR], some.select("record_id").to_dicts(), served.settings.root)
    expected = pl.Series(
        "record_vector__hash_vec_256", hashed(some["text"]).tolist(), pl.List(pl.Float32)
    )
    assert trained["record_vector__hash_vec_256"].equals(expected)
    assert answered["record_vector__hash_vec_256"].equals(expected)
    by_feast = (
        client.store(served.settings.root)
        .get_online_features([VECTOR], some.select("record_id").to_dicts())
        .to_dict()
    )
    assert by_feast["hash_vec_256"] == expected.to_list()


def test_an_instant_before_the_record_has_no_vector(
    served: Warehouse, staged: pl.DataFrame
) -> None:
    spine = staged.select(
        "record_id",
        event_timestamp=pl.lit(datetime(2000, 1, 1, tzinfo=UTC), pl.Datetime("us", "UTC")),
    ).head(5)
    assert (
        training_set(spine, [VECTOR], served.settings.root)
        .frame["record_vector__hash_vec_256"]
        .null_count()
        == 5
    )


def test_similar_records_are_those_of_brute_force(served: Warehouse, newest: pl.DataFrame) -> None:
    found = similar_records(QUERY, 12, home=served.settings.root)
    assert found["distance"].is_sorted()
    assert_nearest(
        {record: 1 - distance for record, distance in found.iter_rows()},
        similarities(newest, QUERY),
        12,
    )


def test_a_records_own_text_is_nearest_to_it(served: Warehouse, newest: pl.DataFrame) -> None:
    record = newest.filter(~pl.col("text").is_duplicated()).row(3, named=True)
    (first,) = similar_records(record["text"], 1, home=served.settings.root).to_dicts()
    assert first["record_id"] == record["record_id"]
    assert first["distance"] == pytest.approx(0, abs=1e-6)


def test_a_home_without_vectors_online_has_no_similar_records(
    home_of: Callable[[pl.DataFrame], Warehouse], staged: pl.DataFrame
) -> None:
    assert similar_records(QUERY, home=home_of(staged.head(3)).settings.root).to_dict(
        as_series=False
    ) == {"record_id": [], "distance": []}


def test_a_text_is_not_asked_of_a_view_that_has_no_vectors_of_texts(served: Warehouse) -> None:
    with pytest.raises(MillraceError, match="record_quality: nothing makes vectors"):
        similar_records(QUERY, feature="record_quality:n_words", home=served.settings.root)


def test_feast_itself_retrieves_from_the_default_store(
    served: Warehouse, newest: pl.DataFrame
) -> None:
    found = retrieved(client.store(served.settings.root))
    assert_nearest(
        {record: 1 - distance for record, distance in found}, similarities(newest, QUERY), 8
    )


def retrieved(store: FeatureStore) -> list[tuple[str, float]]:
    vector = hashed(pl.Series([QUERY]))[0].tolist()
    found: dict[str, list[Any]] = store.retrieve_online_documents_v2(
        features=[VECTOR], query=vector, top_k=8
    ).to_dict()
    return list(zip(found["record_id"], found["distance"], strict=True))


@pytest.fixture
def milvus(served: Warehouse, tmp_path: Path) -> Iterator[FeatureStore]:
    """Feast's Milvus store, without a server, with the small home's vectors and a tombstone."""
    settings = {
        **store_settings(served.settings.root),
        "online_store": {"type": "milvus", "path": "milvus.db", "embedding_dim": 256},
    }
    settings["registry"] = {**settings["registry"], "path": str(tmp_path / "registry.db")}
    store = FeatureStore(config=RepoConfig(**settings, repo_path=tmp_path))
    from feature_repo import definitions

    view = copy(definitions.record_vector)
    view.online = True
    store.apply([definitions.entity_record, view])
    store.materialize(datetime(1970, 1, 1, tzinfo=UTC), NOW, feature_views=["record_vector"])
    yield store
    store.provider.online_store.client.close()


@pytest.mark.service
@pytest.mark.filterwarnings(
    "ignore:Field name .vector_enabled. in .MilvusOnlineStoreConfig.:UserWarning"
)
def test_a_vector_store_of_feasts_finds_the_same(
    milvus: FeatureStore, served: Warehouse, newest: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = similarities(newest, QUERY)
    last = expected["cosine"][7]
    certain = set(expected.filter(pl.col("cosine") > last + 1e-6)["record_id"])
    # its distances are another record's: see `similar_records`
    by_feast = {record for record, _ in retrieved(milvus)}
    assert certain <= by_feast <= set(expected.filter(pl.col("cosine") > last - 1e-6)["record_id"])
    monkeypatch.setattr(client, "store", lambda _home: milvus)
    monkeypatch.setattr(serving, "_open", {})
    found = similar_records(QUERY, 8, home=served.settings.root)
    assert_nearest({record: 1 - distance for record, distance in found.iter_rows()}, expected, 8)
