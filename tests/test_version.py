"""The version is the newest tag's, and each release has its heading in the changelog."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
GIT = ["git", "-c", "user.name=tests", "-c", "user.email=tests@localhost", "-C"]


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run([*GIT, folder, *arguments], check=True, capture_output=True, text=True)
    return done.stdout


def version(folder: Path) -> str:
    """What a build in a folder would be called."""
    asked = [sys.executable, "-m", "setuptools_scm"]
    done = subprocess.run(asked, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_version_is_that_of_the_tag_and_any_tree_has_one(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert version(tmp_path) == "0.1.0"
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    assert re.match(r"0\.1\.1\.dev1\+g[0-9a-f]+", version(tmp_path))
    git(tmp_path, "tag", "v1.2.0")
    assert version(tmp_path) == "1.2.0"
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "second")
    assert version(tmp_path).startswith("1.2.1.dev1+g")


def test_every_tag_has_its_heading_in_the_changelog() -> None:
    tags = [tag.removeprefix("v") for tag in git(ROOT, "tag", "--list", "v*").split()]
    assert unheaded((ROOT / "CHANGELOG.md").read_text("utf-8"), tags) == []
    assert unheaded("# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2026-01-01\n", ["1.2.0"]) == []
    assert unheaded("## [Unreleased]\n", ["1.2.0"]) == ["1.2.0"]
    assert unheaded("## [1.2.0] - 2026-01-01\n", ["1.2.0"]) == ["Unreleased"]


def unheaded(changelog: str, tags: list[str]) -> list[str]:
    """Releases, and what comes next, that a changelog has no heading of."""
    headings = re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)
    return [name for name in ("Unreleased", *tags) if name not in headings]
