"""The digest of code: what changes it, and for which views; sources change in a copy only."""

import re
import shutil
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import grimp
import pytest

from transforms.features import SqlView, fingerprint
from transforms.features.engine.sql_view import QueryView
from transforms.features.entities import author
from transforms.features.fingerprint import APART, EXPORTS
from transforms.features.registry import views
from transforms.features.view import View

# no shipped view is made by its own SQL
OF_SQL = QueryView(
    SqlView(
        "of_sql",
        author,
        "select author_id, effective_from as event_timestamp, 1 as n from versions",
    ),
    {},
    Path(),
)
VIEWS = (*views(), OF_SQL)
ALL = {view.name for view in VIEWS}
ACTIVITY = {"author_activity", "subject_activity"}
PACKAGE = fingerprint.ROOT / "transforms"
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
MODELS = sorted(
    path.relative_to(PACKAGE / "sql").as_posix() for path in PACKAGE.glob("sql/*/*.sql")
)


def digests() -> dict[str, int]:
    forget()
    return {view.name: view.digest() for view in VIEWS}


def forget() -> None:
    fingerprint._code.cache_clear()
    fingerprint.kernel_digest.cache_clear()


def changed(before: dict[str, int]) -> set[str]:
    return {view for view, digest in digests().items() if digest != before[view]}


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package, which the digests are made from."""
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    yield Path(
        shutil.copytree(
            PACKAGE, tmp_path / "transforms", ignore=shutil.ignore_patterns("__pycache__")
        )
    )
    forget()


def edit(path: Path, old: str, new: str) -> None:
    source = path.read_text("utf-8")
    assert len(re.findall(old, source)) >= 1
    path.write_text(re.sub(old, new, source), "utf-8")


@pytest.mark.parametrize(
    ("file", "old", "new", "views"),
    [
        (
            "features/engine/timelines.py",
            r"np\.maximum\.accumulate",
            "np.minimum.accumulate",
            ACTIVITY,
        ),
        ("features/engine/intervals.py", r"\bcumsum\b", "cumprod", ACTIVITY),
        ("features/engine/spans.py", '"event_us"', '"known_us"', ACTIVITY),
        ("features/engine/lineage.py", "return", "assert 1; return", set()),
        (
            "features/engine/kernels.py",
            "is_whole else",
            "not is_whole else",
            ALL - {"record_duplicates", "of_sql"},
        ),
        ("features/engine/queries.py", "is distinct from", "is not distinct from", {"of_sql"}),
        ("features/declare.py", "class", "x = 1\nclass", set()),
        ("features/registry.py", "return", "assert 1; return", set()),
        ("features/view.py", "return", "assert 1; return", set()),
        ("features/views/services.py", "activity_v1", "activity_v2", set()),
        (
            "text/likeness.py",
            ">= MIN_SIMILARITY",
            "> MIN_SIMILARITY",
            {"record_duplicates"},
        ),
        (
            "text/duplicates.py",
            "MIN_SIMILARITY = 0.7",
            "MIN_SIMILARITY = 0.8",
            {"record_duplicates"},
        ),
        ("text/workers.py", "5_000", "5_001", {"record_text"}),
        (
            "text/words.py",
            "import numpy as np",
            "import numpy as np, zlib",
            {"record_quality", "record_text", "record_vector", *ACTIVITY},
        ),
        (
            "text/quality.py",
            "text.str.len_chars",
            "text.str.len_bytes",
            {"record_quality", "record_text", *ACTIVITY},
        ),
        ("features/rows.py", '"is_new"', '"is_old"', ALL - {"of_sql"}),
        ("warehouse/tables.py", "return", "assert 1; return", set()),
        ("errors.py", "class", "x = 1\nclass", set()),
        ("sql/features/record_spans.sql", "select", "select distinct", ACTIVITY),
        ("sql/features/changed_spans.sql", "select", "select distinct", ACTIVITY),
        ("sql/features/relevant_versions.sql", "select", "select distinct", ACTIVITY),
        ("sql/features/published.sql", "select", "select distinct", ACTIVITY),
        ("sql/features/versions_in_effect.sql", "select", "select distinct", ALL - {"of_sql"}),
        ("sql/features/effective_versions.sql", "select", "select distinct", {"of_sql"}),
        ("sql/duplicates/members.sql", "select", "select distinct", {"record_duplicates"}),
    ],
)
def test_a_change_is_seen_by_just_the_views_that_rest_on_it(
    sources: Path, file: str, old: str, new: str, views: set[str]
) -> None:
    before = digests()
    edit(sources / file, old, new)
    assert changed(before) == views


def test_every_module_changes_just_the_views_that_import_it(sources: Path) -> None:
    """Who imports whom is asked of another library, which follows imports inside functions too."""
    before = digests()
    of_view = {
        view.name: _resting_on(_roots(view)).union(
            *(_resting_on(_roots(read)) for read in _read_by(view))
        )
        for view in VIEWS
    }
    expected = {
        file: {name for name, modules in of_view.items() if _module(file) in modules}
        for file in MODULES
    }
    assert {len(views) for views in expected.values()} >= {0, 1, 2, len(VIEWS)}
    found = {}
    for file in MODULES:
        source = (sources / file).read_text("utf-8")
        (sources / file).write_text(f"{source}\nANOTHER = 1\n", "utf-8")
        found[file] = changed(before)
        (sources / file).write_text(source, "utf-8")
    assert found == expected


def _read_by(view: View) -> list[View]:
    return [other for other in VIEWS if other.name in view.reads]


def _roots(view: View) -> tuple[str, ...]:
    """The modules that compute a view by its kind, and the kernels that its declaration imports."""
    computed_in: tuple[str, ...] = import_module(type(view).__module__).COMPUTED_IN
    imported = (
        _graph().find_modules_directly_imported_by(view.contract.__module__)
        if view.is_of_records
        else set()
    )
    return (*computed_in, *sorted(name for name in imported if name.startswith("transforms.text.")))


@cache
def _graph() -> grimp.ImportGraph:
    graph = grimp.build_graph("transforms", exclude_type_checking_imports=True, cache_dir=None)
    for module in [module for module in graph.modules if f"{module}.".startswith(APART)]:
        graph.remove_module(module)
    for imported in graph.find_modules_directly_imported_by(EXPORTS):
        graph.remove_import(importer=EXPORTS, imported=imported)
    return graph


def _resting_on(roots: tuple[str, ...]) -> set[str]:
    """The modules that roots import, the packages that they are in, and what these import."""
    found, due = set(), set(roots)
    while due:
        modules = due.union(*map(_graph().find_upstream_modules, due))
        found |= modules
        due = (
            {
                module[:place]
                for module in modules
                for place, sign in enumerate(module)
                if sign == "."
            }
            - found
            - {EXPORTS}
        )
    return found


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
    """Otherwise an error message of the warehouse would recompute every record."""
    imports = {
        name
        for view in VIEWS
        for module in fingerprint._closure(_roots(view))
        for name in module.imports
    }
    assert {"deltalake", "pydantic"} & fingerprint._libraries(imports) == set()


@pytest.mark.parametrize(
    ("library", "views"),
    [
        ("duckdb", ALL),
        ("py3langid", {"record_text"}),
        ("numpy", ALL - {"of_sql"}),
        ("altair", set()),
    ],
)
@pytest.mark.usefixtures("sources")
def test_another_version_of_a_library_changes_the_views_that_import_it(
    monkeypatch: pytest.MonkeyPatch, library: str, views: set[str]
) -> None:
    before, version = digests(), fingerprint.version
    monkeypatch.setattr(
        fingerprint, "version", lambda asked: "0" if asked == library else version(asked)
    )
    assert changed(before) == views


@pytest.mark.usefixtures("sources")
def test_a_library_that_is_absent_changes_the_views_that_import_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As pycld2 is on Python 3.14, where languages are named without it."""
    before, version = digests(), fingerprint._version
    monkeypatch.setattr(
        fingerprint, "_version", lambda asked: "absent" if asked == "pycld2" else version(asked)
    )
    assert changed(before) == {"record_text"}


def test_a_library_is_named_by_what_it_was_installed_as() -> None:
    assert fingerprint._version("yaml") == f"PyYAML {fingerprint.version('PyYAML')}"
    assert fingerprint._version("no_such_library") == "absent"


def test_a_digest_fits_a_transaction_and_stays() -> None:
    assert all(0 <= digest < 2**63 for digest in digests().values())
    assert digests() == digests()
