"""The examples of the client give what they say, on a home of one author with two records."""

import doctest
from datetime import UTC, datetime

import polars as pl

from feature_repo import client
from feature_repo.online import materialize
from transforms.warehouse.tables import Warehouse


def test_examples_of_the_client_give_what_they_say(ann: Warehouse) -> None:
    materialize(ann, datetime(2026, 2, 1, tzinfo=UTC), lambda *_: None)
    given = {"home": ann.settings.root, "pl": pl}
    found = doctest.testmod(client, extraglobs=given)
    assert found.attempted >= 6
    assert found.failed == 0
