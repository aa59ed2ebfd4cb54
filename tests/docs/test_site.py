"""The site builds without a broken link, and its reference is what the code has."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.reference import FOLDER, PAGES, ROOT


@pytest.mark.parametrize("page", PAGES)
def test_reference_is_as_the_code_has_it(page: str) -> None:
    assert (FOLDER / page).read_text("utf-8") == PAGES[page](), "make it again: make docs"


def test_site_builds_without_a_broken_link_and_asks_no_other_host(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    program = Path(sys.executable).with_name("zensical")
    built = subprocess.run(
        [program, "build", "--strict"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout
    pages = {path.relative_to(tmp_path / "docs") for path in (tmp_path / "docs").rglob("*.md")}
    for page in sorted(pages):
        html = (tmp_path / "site" / page.with_suffix(".html")).read_text("utf-8")
        loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(https?:[^"]*)"', html)
        assert loaded == [], page


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r'"([\w/-]+\.md)"', (ROOT / "zensical.toml").read_text("utf-8")))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    assert named == pages
