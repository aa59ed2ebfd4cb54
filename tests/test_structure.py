"""Names agree everywhere, everything is described, what is made from code is not stale. Each failure lists all offenders."""

import re
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from feast import FeatureView
from feast.repo_operations import get_repo_files
from transforms.schemas.features import RecordQuality

from feature_repo import definitions
from feature_repo.catalogue import catalogue_markdown
from feature_repo.client import REPOSITORY
from transforms import schemas, text
from transforms.featurize import VIEWS, view_name
from transforms.schemas.base import Contract
from transforms.sql import __file__ as sql_package
from transforms.warehouse import RELATIONS

ROOT = Path(__file__).parent.parent
SQL = Path(sql_package).parent
FEATURE_VIEWS = {view.name: view for view in vars(definitions).values() if isinstance(view, FeatureView)}
TIMES = {"event_timestamp", "created_timestamp"}


def all_contracts() -> dict[str, type[Contract]]:
    """Every contract that is a relation's, by the relation's name."""
    classes = [vars(import_module(f"{schemas.__name__}.{module.name}")).values() for module in iter_modules(schemas.__path__)]
    contracts = [item for module in classes for item in module if isinstance(item, type) and issubclass(item, Contract)]
    return {contract.relation(): contract for contract in contracts if contract.Config.metadata.get("key")}


def text_kernels() -> set[str]:
    """Views that a text kernel makes: each says so in the first line of its docstring."""
    docs = [import_module(f"{text.__name__}.{module.name}").__doc__ or "" for module in iter_modules(text.__path__)]
    return {_snake(name) for doc in docs for name in re.findall(r"`(\w+)`", doc.splitlines()[0])}


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def test_every_column_is_described() -> None:
    silent = [
        f"{name}.{column.name}" for name, contract in all_contracts().items() for column in contract.columns() if not column.description
    ]
    assert silent == []


def test_every_contract_is_described() -> None:
    assert [name for name, contract in all_contracts().items() if not contract.__doc__] == []


def test_every_relation_has_a_contract_and_every_contract_a_relation() -> None:
    assert sorted(set(RELATIONS) ^ set(all_contracts())) == []


def test_every_key_is_made_of_columns() -> None:
    stray = [
        f"{name}.{key}" for name, contract in all_contracts().items() for key in contract.key() if key not in contract.arrow_schema().names
    ]
    assert stray == []


def test_every_contract_is_named_as_its_view() -> None:
    assert [f"{view.__name__} is {view_name(view)}" for view in VIEWS if _snake(view.__name__) != view_name(view)] == []


def test_every_feature_relation_is_made_by_a_model_or_a_kernel_of_its_name() -> None:
    made = {path.stem for path in (SQL / "features").glob("*.sql")} | text_kernels()
    features = {name.removeprefix("features.") for name in RELATIONS if name.startswith("features.")}
    assert sorted(features - made) == []
    assert features == {*map(view_name, VIEWS), "record_embedding"}  # a view where a model is set


def test_every_feature_relation_is_a_view_with_the_fields_of_its_contract() -> None:
    expected = {view_name(view): {column.name for column in view.columns()} - TIMES for view in VIEWS}
    found = {name: {field.name for field in view.schema} for name, view in FEATURE_VIEWS.items()}
    assert {
        name: expected.get(name, set()) ^ found.get(name, set()) for name in expected | found if expected.get(name) != found.get(name)
    } == {}


def test_every_field_says_what_its_contract_says() -> None:
    meaning = {(view_name(view), column.name): column.description for view in VIEWS for column in view.columns()}
    wrong = [
        f"{name}.{field.name}"
        for name, view in FEATURE_VIEWS.items()
        for field in view.schema
        if field.description != meaning[name, field.name]
    ]
    assert wrong == []


def test_every_model_says_its_name_its_grain_and_what_it_reads() -> None:
    silent = [
        f"{path.relative_to(SQL)}: {wanted}"
        for path in sorted(SQL.rglob("*.sql"))
        for wanted in (f"-- {path.stem}: ", "-- grain: ", "-- reads: ")
        if not any(line.startswith(wanted) for line in header(path))
    ]
    assert silent == []


def header(path: Path) -> list[str]:
    lines = path.read_text("utf-8").splitlines()
    return lines[: next(number for number, line in enumerate(lines) if not line.startswith("--"))]


def test_every_model_reads_what_it_says() -> None:
    wrong = []
    for path in sorted(SQL.rglob("*.sql")):
        said = next(line for line in header(path) if line.startswith("-- reads: ")).removeprefix("-- reads: ")
        names = {name.strip() for name in re.sub(r"\(.*?\)", "", said).split(",")}
        body = "\n".join(line for line in path.read_text("utf-8").splitlines() if not line.strip().startswith("--"))
        defined = set(re.findall(r"(\w+) as (?:materialized )?\(\n", body))
        read = set(re.findall(r"(?<!distinct )\b(?:from|join)\s+([a-z_][\w.]*)", body)) - defined
        wrong += [f"{path.relative_to(SQL)}: says {sorted(names)}, reads {sorted(read)}"] if names != read else []
    assert wrong == []


def test_feast_scans_one_module() -> None:
    assert [path.relative_to(REPOSITORY).as_posix() for path in get_repo_files(REPOSITORY)] == ["definitions.py"]


def test_record_quality_has_its_features() -> None:
    assert len([column for column in RecordQuality.columns() if column.name not in TIMES | set(RecordQuality.key())]) >= 15


def test_page_of_features_is_not_stale() -> None:
    page = (ROOT / "docs" / "features.md").read_text("utf-8")
    assert page == catalogue_markdown(), "make it again: millrace features --markdown > docs/features.md"


def test_every_promise_names_tests_that_exist() -> None:
    promised = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "promises.md").read_text("utf-8"))
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    assert len(promised) > 20
    assert sorted(set(promised) - defined) == []
