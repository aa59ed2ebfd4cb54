"""What code a feature table was made by.

A number that changes with all that decides the table's values, and with nothing else.

It covers the modules that compute the view and every module of ours that they import, by their
syntax trees, so that no comment, docstring or line break counts; the SQL models they name; the
contracts they import; the versions of Python and of the libraries they import; the declaration; and
the digests of the views that are read. All of it is found in the sources, so nothing has to be
listed here. Modules that move rows import those that compute them, never the other way round, so an
error message of theirs changes no digest.
"""

import ast
import hashlib
import inspect
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, PackageNotFoundError, distributions, version
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import NamedTuple

from transforms.schemas.base import Contract

# the folder that contains our package
ROOT = Path(__file__).parents[2]
PACKAGE = "transforms"
# imported by what computes values, but no part of it: contracts and declarations count by what they
# say, models by their own text
APART = (
    *("transforms.schemas.", "transforms.sql.", "transforms.errors.", "transforms.home."),
    *(
        "transforms.features.declare.",
        "transforms.features.contracts.",
        "transforms.features.entities.",
        "transforms.features.registry.",
    ),
)
# only names again what is declared with
EXPORTS = "transforms.features"


class Module(NamedTuple):
    """What a module's source says, comments and docstrings aside.

    All names it imports, anywhere in it, and all its strings.
    """

    syntax: str
    imports: frozenset[str]
    strings: frozenset[str]


def digest(
    contract: type[Contract], modules: tuple[str, ...], declared: str, reads: Iterable[int]
) -> int:
    """Digest everything that decides a feature table's values.

    The digest is a number that a commit can carry as the version of a transaction.

    `modules` compute it, `declared` is what its declaration says beside the contract, and `reads`
    are the digests of the views it reads.
    """
    code = _code(modules, contract.relation().replace(".", "/"))
    return int(_digested([code, _described(contract), declared, *map(str, reads)])[:15], 16)


@cache
def _code(modules: tuple[str, ...], own_model: str) -> str:
    """Digest all that counts of code, once in a process.

    Neither sources nor libraries change under it.
    """
    return _digested(_content(_closure(modules), own_model))


def _digested(parts: Iterable[str]) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def _content(modules: list["Module"], own_model: str) -> Iterator[str]:
    imports = frozenset().union(*(module.imports for module in modules))
    yield f"python {sys.version_info.major}.{sys.version_info.minor}"
    yield from (f"{library} {_version(library)}" for library in sorted(_libraries(imports)))
    yield from map(_described, _contracts(imports))
    yield from (module.syntax for module in modules)
    for model in _models(own_model, frozenset().union(*(module.strings for module in modules))):
        yield "\n".join(line for line in model.splitlines() if not line.lstrip().startswith("--"))


@cache
def kernel_digest(declared: type) -> str:
    """Digest the methods of a class, without its fields, and all that they use.

    Of its own module by name, of ours and libraries by import.

    So other declarations in the same file may change without a trace.
    """
    tree = ast.parse(Path(inspect.getfile(declared)).read_text("utf-8"))
    family = _family(tree, declared.__name__)
    for node in family:
        node.bases, node.keywords = [], []
        node.body = [item for item in node.body if not isinstance(item, ast.AnnAssign)] or [
            ast.Pass()
        ]
    used = _used(tree, {node.name for node in family})
    module = _parse(ast.unparse(ast.Module(used, [])), declared.__module__.rpartition(".")[0])
    return _digested(_content([module, *_closure(sorted(module.imports))], ""))


def _family(tree: ast.Module, name: str) -> list[ast.ClassDef]:
    """List a class and those of the same file that it inherits."""
    nodes = [item for item in tree.body if isinstance(item, ast.ClassDef) and item.name == name]
    inherited = [base.id for node in nodes for base in node.bases if isinstance(base, ast.Name)]
    return [*nodes, *(node for base in inherited for node in _family(tree, base))]


def _used(tree: ast.Module, names: set[str]) -> list[ast.stmt]:
    """List the statements of a module, in their order, that define names, and what these use."""
    found: list[ast.stmt] = []
    while more := [item for item in tree.body if item not in found and _defines(item) & names]:
        found += more
        names = names | {
            item.id
            for statement in more
            for item in ast.walk(statement)
            if isinstance(item, ast.Name)
        }
    return [item for item in tree.body if item in found]


def _defines(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in statement.names}
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {statement.name}
    stores = [
        item for item in ast.walk(statement) if isinstance(getattr(item, "ctx", None), ast.Store)
    ]
    called = (
        [statement.value.func]
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
        else []
    )
    return {_root(item) for item in (*stores, *called)}


def _root(node: ast.AST) -> str:
    """The name at the beginning of `name.attribute[...]`: what is changed through it."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _closure(names: Iterable[str]) -> list[Module]:
    """Read modules of ours, all that they import, and the packages that these are in."""
    found: dict[str, Module] = {}
    due = list(names)
    while due:
        name = due.pop()
        path = _path(name)
        if name in found or path is None or name == EXPORTS or f"{name}.".startswith(APART):
            continue
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found[name] = _parse(path.read_text("utf-8"), package)
        due += [*found[name].imports, name.rpartition(".")[0]]
    return [found[name] for name in sorted(found)]


def _path(name: str) -> Path | None:
    """Find the source of a module.

    None if it is no module of ours, but another's, or the name of something in one.
    """
    folder = ROOT.joinpath(*name.split("."))
    paths = (folder / "__init__.py", folder.with_suffix(".py"))
    return (
        next((path for path in paths if path.is_file()), None)
        if name.partition(".")[0] == PACKAGE
        else None
    )


@cache
def _parse(source: str, package: str) -> Module:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) and ast.get_docstring(node, clean=False):
            del node.body[0]
    imports, strings = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            imports |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.add(node.value)
    return Module(ast.dump(tree), frozenset(imports), frozenset(strings))


def _libraries(imports: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in imports} - sys.stdlib_module_names - {PACKAGE}


def _version(library: str) -> str:
    """Name the version of what an imported package comes from; `absent` if it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        spec = find_spec(library)
        if spec is None:
            return "absent"
        names = _installed_as(library)
        return " ".join(f"{name} {version(name)}" for name in names) if names else _sources(spec)


def _sources(spec: ModuleSpec) -> str:
    """Digest the sources of what was installed as no library: modules of the user's own."""
    paths = [
        path
        for folder in spec.submodule_search_locations or ()
        for path in sorted(Path(folder).rglob("*.py"))
    ]
    if not paths and spec.origin and spec.has_location:
        paths = [Path(spec.origin)]
    return hashlib.sha256(b"\x1f".join(path.read_bytes() for path in paths)).hexdigest()


@cache
def _installed_as(package: str) -> list[str]:
    """Name what installs a package.

    `packages_distributions` says it too, but takes most of a second: it parses the path of every
    installed file.
    """
    return sorted(
        {item.metadata["Name"] for item in distributions() if package in _top_level(item)}
    )


def _top_level(distribution: Distribution) -> set[str]:
    """List the packages and modules that a distribution installs, and folders of other files."""
    listed = distribution.read_text("top_level.txt") or ""
    files = distribution.read_text("RECORD") or ""
    return {*listed.split()} or {
        line.partition("/")[0].partition(".")[0] for line in files.splitlines()
    }


def _contracts(imports: Iterable[str]) -> list[type[Contract]]:
    """List the contracts of relations among what is imported."""
    places = [
        name.rpartition(".") for name in sorted(imports) if name.startswith("transforms.schemas.")
    ]
    found = [
        getattr(import_module(module), name, None)
        for module, _, name in places
        if module != "transforms.schemas"
    ]
    return [
        item
        for item in found
        if isinstance(item, type) and issubclass(item, Contract) and item.Config.metadata
    ]


def _described(contract: type[Contract]) -> str:
    columns = [
        (column.name, str(column.dtype), column.nullable, column.bounds)
        for column in contract.columns()
    ]
    return repr((contract.relation(), contract.version(), columns))


def _models(own: str, strings: Iterable[str]) -> list[str]:
    """Read the SQL models that strings name, alone or by folder (`duplicates/`), and the view's."""
    folder = ROOT / PACKAGE / "sql"
    names = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("*/*.sql")}
    named = {*strings, own}
    read = {name for name in names if name in named or name[: name.index("/") + 1] in named}
    return [(folder / f"{name}.sql").read_text("utf-8") for name in sorted(read)]
