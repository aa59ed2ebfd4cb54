"""The digest of code: what changes it, for whom, and what does not. Sources are changed in a copy that only the digests read."""

import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import grimp
import pytest

from transforms import code
from transforms.code import APART, COMPUTED_IN, code_digest
from transforms.featurize import VIEWS, view_name

ALL = {view_name(view) for view in VIEWS}
ACTIVITY = {"author_activity", "subject_activity"}
PACKAGE = code.ROOT / "transforms"
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
MODELS = sorted(path.relative_to(PACKAGE / "sql").as_posix() for path in PACKAGE.glob("sql/*/*.sql"))


def digests() -> dict[str, int]:
    code._code.cache_clear()
    return {view_name(view): code_digest(view) for view in VIEWS}


def changed(before: dict[str, int]) -> set[str]:
    return {view for view, digest in digests().items() if digest != before[view]}


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package, which the digests are made from."""
    monkeypatch.setattr(code, "ROOT", tmp_path)
    yield Path(shutil.copytree(PACKAGE, tmp_path / "transforms", ignore=shutil.ignore_patterns("__pycache__")))
    code._code.cache_clear()


def edit(path: Path, old: str, new: str) -> None:
    source = path.read_text("utf-8")
    assert len(re.findall(old, source)) >= 1
    path.write_text(re.sub(old, new, source), "utf-8")


@pytest.mark.parametrize(
    ("file", "old", "new", "views"),
    [
        ("activity.py", r"\bcum_sum\b", "cum_max", ACTIVITY),
        ("duplicates.py", ">= MIN_SIMILARITY", "> MIN_SIMILARITY", {"record_duplicates"}),
        ("text/duplicates.py", "MIN_SIMILARITY = 0.7", "MIN_SIMILARITY = 0.8", {"record_duplicates"}),
        ("text/workers.py", "2_000", "2_001", {"record_text"}),
        ("text/words.py", "import numpy as np", "import numpy as np, zlib", {"record_text"}),
        ("text/quality.py", "text.str.len_chars", "text.str.len_bytes", {"record_quality", "record_text", *ACTIVITY}),
        ("records.py", "is_whole else", "not is_whole else", ALL - {"record_duplicates"}),
        ("rows.py", '"is_new"', '"is_old"', ALL),
        ("warehouse.py", "return", "assert 1; return", set()),
        ("errors.py", "class", "x = 1\nclass", set()),
        ("sql/features/author_activity.sql", "author_id", "author_id ", {"author_activity"}),
        ("sql/features/entity_activity.sql", "select", "select distinct", ACTIVITY),
        ("sql/features/record_spans.sql", "select", "select distinct", ACTIVITY),
        ("sql/features/standing_versions.sql", "select", "select distinct", ALL),
        ("sql/duplicates/members.sql", "select", "select distinct", {"record_duplicates"}),
    ],
)
def test_a_change_is_seen_by_just_the_views_that_rest_on_it(sources: Path, file: str, old: str, new: str, views: set[str]) -> None:
    before = digests()
    edit(sources / file, old, new)
    assert changed(before) == views


def test_every_module_changes_just_the_views_that_import_it(sources: Path) -> None:
    """Who imports whom is asked of another library, which follows imports inside functions too."""
    before = digests()
    resting = {file: {view_name(view) for view in VIEWS if _module(file) in _resting_on(COMPUTED_IN[view])} for file in MODULES}
    # the SQL of activities reads that view
    expected = {file: views | (ACTIVITY if "record_quality" in views else set()) for file, views in resting.items()}
    assert {len(views) for views in expected.values()} >= {0, 1, 2, 7}
    found = {}
    for file in MODULES:
        source = (sources / file).read_text("utf-8")
        (sources / file).write_text(f"{source}\nANOTHER = 1\n", "utf-8")
        found[file] = changed(before)
        (sources / file).write_text(source, "utf-8")
    assert found == expected


@cache
def _resting_on(computed_in: tuple[str, ...]) -> set[str]:
    graph = grimp.build_graph("transforms", exclude_type_checking_imports=True, cache_dir=None)
    for module in [module for module in graph.modules if f"{module}.".startswith(APART)]:
        graph.remove_module(module)
    modules = set(computed_in).union(*map(graph.find_upstream_modules, computed_in))
    return modules | {module[:place] for module in modules for place, sign in enumerate(module) if sign == "."}


def _module(file: str) -> str:
    return f"transforms.{file.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__")


def test_no_model_of_a_view_is_left_out(sources: Path) -> None:
    before = digests()
    of_views = [model for model in MODELS if model.startswith(("features/", "duplicates/"))]
    for model in {*MODELS} - {*of_views}:
        edit(sources / "sql" / model, r"\Z", "limit 1")
    assert changed(before) == set()
    for model in of_views:
        edit(sources / "sql" / model, r"\Z", "limit 1")
        after = digests()
        assert after != before, model
        before = after


def test_comments_docstrings_and_formatting_change_nothing(sources: Path) -> None:
    before = digests()
    for file in MODULES:
        edit(sources / file, r'^r?"""', "# a comment\n\n\n" + r"\g<0>Said otherwise. ")
        edit(sources / file, r"\n\n\n|$", "\n\n# another\n\n\n")
        if '    """' in (sources / file).read_text("utf-8"):
            edit(sources / file, r'\n    """(?=\w)', '\n    """Namely: ')
    for model in MODELS:
        edit(sources / "sql" / model, "^-- ", "-- Another remark.\n-- ")
    assert changed(before) == set()


def test_what_computes_values_moves_no_rows() -> None:
    """Else an error message of the warehouse would have every record computed again."""
    imports = {name for view in VIEWS for module in code._closure(COMPUTED_IN[view]) for name in module.imports}
    assert {"deltalake", "pydantic"} & code._libraries(imports) == set()


@pytest.mark.parametrize(
    ("library", "views"),
    [
        ("duckdb", ALL),
        ("mmh3", {"record_vector"}),
        ("py3langid", {"record_text"}),
        ("numpy", {"record_text", "record_vector", "record_duplicates"}),
        ("altair", set()),
    ],
)
@pytest.mark.usefixtures("sources")
def test_another_version_of_a_library_changes_the_views_that_import_it(
    monkeypatch: pytest.MonkeyPatch, library: str, views: set[str]
) -> None:
    before, version = digests(), code.version
    monkeypatch.setattr(code, "version", lambda asked: "0" if asked == library else version(asked))
    assert changed(before) == views


@pytest.mark.usefixtures("sources")
def test_a_library_that_is_absent_changes_the_views_that_import_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As pycld2 is on Python 3.14, where languages are named without it."""
    before, version = digests(), code._version
    monkeypatch.setattr(code, "_version", lambda asked: "absent" if asked == "pycld2" else version(asked))
    assert changed(before) == {"record_text"}


def test_a_library_is_named_by_what_it_was_installed_as() -> None:
    assert code._version("yaml") == f"PyYAML {code.version('PyYAML')}"
    assert code._version("no_such_library") == "absent"


def test_a_digest_fits_a_transaction_and_stays() -> None:
    assert all(0 <= digest < 2**63 for digest in digests().values())
    assert digests() == digests()
