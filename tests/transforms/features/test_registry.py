"""Declarations in files of a user are read as they are now."""

import os
import sys
from pathlib import Path

import pytest

from transforms.features.registry import read_registry

DECLARED = """
from transforms.features import Count, GroupBy, days
from transforms.features.entities import author

mood = GroupBy("mood", author, [Count("{name}")], [days(7)], description="How many.")
"""
SECOND = 1_700_000_000_000_000_000


def test_an_edit_within_a_second_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setenv("MILLRACE_FEATURES", os.fspath(tmp_path))
    file = tmp_path / "mood.py"
    for number, name in enumerate(["n_lable", "n_label"]):
        file.write_text(DECLARED.format(name=name), "utf-8")
        os.utime(file, ns=(SECOND + number, SECOND + number))
        assert read_registry().views["mood"].features == [f"{name}_7d"]
    assert list(tmp_path.iterdir()) == [file]
