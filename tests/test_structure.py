"""Names agree, everything is described, generated pages are fresh; failures list all offenders."""

import re
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from feast import FeatureView
from feast.repo_operations import get_repo_files

from feature_repo import definitions
from feature_repo.catalogue import catalogue_markdown
from feature_repo.client import REPOSITORY
from transforms import schemas
from transforms.features.registry import registry, view_of, views
from transforms.schemas.base import Contract
from transforms.sql import __file__ as sql_package
from transforms.warehouse.tables import RELATIONS

ROOT = Path(__file__).parent.parent
SQL = Path(sql_package).parent
FEATURE_VIEWS = {
    view.name: view for view in vars(definitions).values() if isinstance(view, FeatureView)
}


def all_contracts() -> dict[str, type[Contract]]:
    """Every contract that is a relation's, by the relation's name."""
    classes = [
        vars(import_module(f"{schemas.__name__}.{module.name}")).values()
        for module in iter_modules(schemas.__path__)
    ]
    contracts = [
        item
        for module in classes
        for item in module
        if isinstance(item, type) and issubclass(item, Contract)
    ]
    of_relations = {
        contract.relation(): contract
        for contract in contracts
        if contract.Config.metadata.get("key")
    }
    return of_relations | {view.relation: view.contract for view in views()}


def test_every_column_is_described() -> None:
    silent = [
        f"{name}.{column.name}"
        for name, contract in all_contracts().items()
        for column in contract.columns()
        if not column.description
    ]
    assert silent == []


def test_every_contract_is_described() -> None:
    assert [name for name, contract in all_contracts().items() if not contract.__doc__] == []


def test_every_relation_has_a_contract_and_every_contract_a_relation() -> None:
    assert sorted({*RELATIONS, *(view.relation for view in views())} ^ set(all_contracts())) == []


def test_every_key_is_made_of_columns() -> None:
    stray = [
        f"{name}.{key}"
        for name, contract in all_contracts().items()
        for key in contract.key()
        if key not in contract.arrow_schema().names
    ]
    assert stray == []


def test_every_declaration_has_a_file_of_its_name() -> None:
    declared = {
        name: path.stem for name, path in registry().paths.items() if name in registry().views
    }
    assert [
        f"{name} is declared in {stem}.py" for name, stem in declared.items() if name != stem
    ] == []


def test_every_view_is_named_as_its_declaration_its_contract_and_its_relation() -> None:
    wrong = [
        f"{name}: {view.name}, {view.relation}, {view.contract.__name__}"
        for name, view in registry().views.items()
        if (view.name, view.relation, _snake(view.contract.__name__))
        != (name, f"features.{name}", name)
    ]
    assert wrong == []


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def test_every_feature_relation_is_a_view_with_the_fields_of_its_contract() -> None:
    expected = {view.name: {*view.entity.columns, *view.features} for view in views()}
    found = {name: {field.name for field in view.schema} for name, view in FEATURE_VIEWS.items()}
    assert {
        name: expected.get(name, set()) ^ found.get(name, set())
        for name in expected | found
        if expected.get(name) != found.get(name)
    } == {}


def test_every_field_says_what_its_contract_says() -> None:
    meaning = {
        (view.name, column.name): column.description
        for view in views()
        for column in view.contract.columns()
    }
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
        said = " ".join(line.removeprefix("-- ") for line in header(path)).partition(" reads: ")[2]
        names = {name.strip() for name in re.sub(r"\(.*?\)", "", said).split(",")}
        body = "\n".join(
            line
            for line in path.read_text("utf-8").splitlines()
            if not line.strip().startswith("--")
        )
        defined = set(re.findall(r"(\w+) as (?:materialized )?\(\n", body))
        read = set(re.findall(r"(?<!distinct )\b(?:from|join)\s+([a-z_][\w.]*)", body)) - defined
        wrong += (
            [f"{path.relative_to(SQL)}: says {sorted(names)}, reads {sorted(read)}"]
            if names != read
            else []
        )
    assert wrong == []


def test_feast_scans_one_module() -> None:
    assert [path.relative_to(REPOSITORY).as_posix() for path in get_repo_files(REPOSITORY)] == [
        "definitions.py"
    ]


def test_record_quality_has_its_features() -> None:
    assert len(view_of("record_quality").features) >= 15


def test_page_of_features_is_not_stale() -> None:
    page = (ROOT / "docs" / "features.md").read_text("utf-8")
    assert page == catalogue_markdown(), (
        "make it again: MILLRACE_FEATURES= millrace features --markdown > docs/features.md"
    )


def test_every_promise_names_tests_that_exist() -> None:
    promised = re.findall(r"`(test_\w+)`", (ROOT / "docs" / "promises.md").read_text("utf-8"))
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    assert len(promised) > 20
    assert sorted(set(promised) - defined) == []
