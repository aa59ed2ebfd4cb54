"""The digest of a user's kernel: what it uses counts, and nothing else of its file."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from transforms.features import fingerprint
from transforms.features.engine.record import KernelView

Declare = Callable[[str], ModuleType]
SOURCE = '''
"""Own features."""

import re

import polars as pl

from transforms.features import Field, RecordView

MARKS = ["!"]
MARKS.append("?")
OTHER = 1


def deeper() -> int:
    """Helps."""
    return 2


def helper(text: pl.Expr) -> pl.Expr:
    # a remark
    return text.str.count_matches("|".join(map(re.escape, MARKS))).cast(pl.Int64) * deeper()


class Base(RecordView):
    """What both have."""

    @staticmethod
    def half(numbers: pl.Expr) -> pl.Expr:
        return numbers // 2


class One(Base, reads=("text",)):
    """The first."""

    n: int = Field.count("Marks.")

    @staticmethod
    def compute(records: pl.LazyFrame) -> pl.LazyFrame:
        """Count."""
        return records.with_columns(n=One.half(helper(pl.col("text"))))


class Two(RecordView):
    """The second."""

    m: int = Field.count("Letters.")

    @staticmethod
    def compute(records: pl.LazyFrame) -> pl.LazyFrame:
        return records.with_columns(m=pl.col("text").str.len_chars().cast(pl.Int64) + OTHER)
'''


def digests(module: ModuleType) -> dict[str, int]:
    return {name: KernelView(getattr(module, name), {}).digest() for name in ("One", "Two")}


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("+ OTHER", "- OTHER", {"Two"}),
        ("OTHER = 1", "OTHER = 2", {"Two"}),
        ("One.half(helper(", "One.half(1 + helper(", {"One"}),
        ("return 2", "return 3", {"One"}),
        ('MARKS = ["!"]', 'MARKS = ["."]', {"One"}),
        ('MARKS.append("?")', 'MARKS.append(".")', {"One"}),
        ("numbers // 2", "numbers // 3", {"One"}),
        ('reads=("text",)', 'reads=("text", "label")', {"One"}),
        (
            '    n: int = Field.count("Marks.")',
            '    n: int = Field.count("Marks.")\n    more: int = Field.count("More.")',
            {"One"},
        ),
        ("import re\n", "import re\nimport yaml as re\n", {"One"}),
        ("Marks.", "Marks, all of them.", set()),
        ("The first.", "The very first.", set()),
        ("Count.", "Count all.", set()),
        ("Helps.", "Helps a lot.", set()),
        ("What both have.", "What both of them have.", set()),
        ("Own features.", "Features of my own.", set()),
        ("# a remark", "# another remark\n\n", set()),
        (
            "class Two(RecordView):",
            "class Three(RecordView):\n    pass\n\n\nclass Two(RecordView):",
            set(),
        ),
    ],
)
def test_a_change_counts_for_just_the_classes_that_use_it(
    declare: Declare, old: str, new: str, changed: set[str]
) -> None:
    before = digests(declare(SOURCE))
    assert old in SOURCE
    after = digests(declare(SOURCE.replace(old, new)))
    assert {name for name in before if before[name] != after[name]} == changed


def test_another_version_of_a_library_counts_for_the_classes_that_import_it(
    declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = SOURCE.replace("import re\n", "import re\n\nimport yaml\n").replace(
        "+ OTHER", "+ len(yaml.dump(OTHER))"
    )
    before, known = digests(declare(source)), fingerprint._version
    monkeypatch.setattr(
        fingerprint, "_version", lambda library: "0" if library == "yaml" else known(library)
    )
    after = digests(declare(source))
    assert (before["One"] == after["One"], before["Two"] == after["Two"]) == (True, False)


def test_a_module_of_the_users_own_counts_by_its_source(
    declare: Declare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    own = tmp_path / "own_words.py"
    source = SOURCE.replace("import re\n", "import re\n\nimport own_words\n").replace(
        "+ OTHER", "+ own_words.N"
    )
    found = []
    for text in ("N = 1\n", "N = 2\n"):
        own.write_text(text, "utf-8")
        sys.modules.pop("own_words", None)
        found.append(digests(declare(source)))
    sys.modules.pop("own_words", None)
    assert [name for name in found[0] if found[0][name] != found[1][name]] == ["Two"]
