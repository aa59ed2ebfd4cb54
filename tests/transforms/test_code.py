"""The digest of code: what changes it, and for whom."""

from importlib.resources import files
from pathlib import Path

import pytest

import transforms.code
from transforms import sql
from transforms.code import code_digest
from transforms.featurize import VIEWS, view_name
from transforms.sql import model


def digests() -> dict[str, int]:
    return {view_name(view): code_digest(view) for view in VIEWS}


def changed(before: dict[str, int]) -> set[str]:
    return {view for view, digest in digests().items() if digest != before[view]}


@pytest.mark.parametrize(
    ("name", "views"),
    [
        ("features/author_activity", {"author_activity"}),
        ("features/entity_activity", {"author_activity", "subject_activity"}),
        ("features/record_spans", {"author_activity", "subject_activity"}),
        ("duplicates/members", {"record_duplicates"}),
        ("features/standing_versions", {view_name(view) for view in VIEWS}),
    ],
)
def test_a_changed_model_changes_what_rests_on_it(monkeypatch: pytest.MonkeyPatch, name: str, views: set[str]) -> None:
    before = digests()
    monkeypatch.setattr(transforms.code, "model", lambda asked: model(asked) + "\n" * (asked == name))
    assert changed(before) == views


MODELS = [path for folder in ("features", "duplicates") for path in sorted((files(sql) / folder).iterdir(), key=str)]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_no_feature_model_is_left_out_of_the_digests(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    before = digests()
    monkeypatch.setattr(transforms.code, "model", lambda asked: model(asked) + "\n" * (asked == f"{path.parent.name}/{path.stem}"))
    assert changed(before) != set()


def test_another_engine_changes_every_view(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digests()
    monkeypatch.setattr(transforms.code, "version", lambda _package: "0")
    assert changed(before) == set(before)


def test_a_digest_fits_a_transaction_and_stays() -> None:
    assert all(0 <= digest < 2**63 for digest in digests().values())
    assert digests() == digests()
