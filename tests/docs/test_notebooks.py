"""Notebooks run from their first cell to their last, and show what is kept; pages are of them."""

import re
from pathlib import Path

import pytest

from tests.docs.notebooks import FOLDER, NOTEBOOKS, executed, page, read, shown


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_shows_what_is_kept_of_it(name: str, tmp_path: Path) -> None:
    kept = read(name)
    again = f"run it again: python -m tests.docs.notebooks {name}"
    assert shown(executed(kept, tmp_path)) == shown(kept), again


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_page_is_made_of_its_notebook_which_is_small_and_names_no_path(name: str) -> None:
    assert (FOLDER / f"{name}.md").read_text("utf-8") == page(name)
    kept = (FOLDER / f"{name}.ipynb").read_text("utf-8")
    assert len(kept) < 150_000
    assert re.findall(r"/(?:tmp|home|root|usr|work)/[^\"]*", kept) == []
