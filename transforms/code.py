"""What code a feature table was made by: a number that changes with all that decides the table's values, and with nothing else.

It covers the module that computes the view and every module of ours that this one imports, by their syntax trees, so that no
comment, docstring or line break counts; the SQL models they name, and the views that these read; the contracts they import; and
the versions of Python and of the libraries they import. All of it is found in the sources, so nothing has to be listed here.
Modules that move rows import those that compute them, never the other way round, so an error message of theirs changes no digest.
"""

import ast
import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import NamedTuple

import polars as pl

from transforms.activity import activity_rows
from transforms.duplicates import duplicate_rows
from transforms.records import record_rows
from transforms.schemas.base import Contract
from transforms.schemas.features import (
    AuthorActivity,
    RecordDuplicates,
    RecordEmbedding,
    RecordPii,
    RecordQuality,
    RecordText,
    RecordVector,
    SubjectActivity,
)
from transforms.settings import Settings
from transforms.text.embedding import embed_text, model_digest
from transforms.text.pii import score_pii
from transforms.text.quality import score_quality
from transforms.text.signals import score_text
from transforms.text.vectors import hash_text

# what is computed of a record's text alone: from the texts that stand at an instant to the rows of a view
RECORD_KERNELS: dict[type[Contract], Callable[[pl.LazyFrame], pl.LazyFrame]] = {
    RecordQuality: score_quality,
    RecordText: score_text,
    RecordPii: score_pii,
    RecordVector: hash_text,
    **({RecordEmbedding: embed_text} if Settings().embedder else {}),
}
COMPUTED_IN: dict[type[Contract], tuple[str, ...]] = {
    **{contract: (record_rows.__module__, kernel.__module__) for contract, kernel in RECORD_KERNELS.items()},
    RecordDuplicates: (duplicate_rows.__module__,),
    AuthorActivity: (activity_rows.__module__,),
    SubjectActivity: (activity_rows.__module__,),
}
# the folder that holds our package
ROOT = Path(__file__).parents[1]
# imported by what computes values, but no part of it: contracts count by their columns, models by their own text
APART = ("transforms.schemas.", "transforms.sql.", "transforms.errors.", "transforms.settings.")


class Module(NamedTuple):
    """What a module's source says, comments and docstrings aside: all names it imports, anywhere in it, and all its strings."""

    syntax: str
    imports: frozenset[str]
    strings: frozenset[str]


def code_digest(contract: type[Contract]) -> int:
    """Digest everything that decides a feature table's values, as a number that a commit can carry as a transaction's version."""
    content = f"{_code(contract)}\x1f{model_digest()}" if contract is RecordEmbedding else _code(contract)
    return int(hashlib.sha256(content.encode()).hexdigest()[:15], 16)


@cache
def _code(contract: type[Contract]) -> str:
    """Join all that counts, once in a process: neither sources nor libraries change under it, a model's folder may."""
    return "\x1f".join(_content(contract))


def _content(contract: type[Contract]) -> Iterator[str]:
    modules = _closure(COMPUTED_IN[contract])
    imports = frozenset().union(*(module.imports for module in modules))
    yield f"python {sys.version_info.major}.{sys.version_info.minor}"
    yield from (f"{library} {_version(library)}" for library in sorted(_libraries(imports)))
    yield from map(_described, [contract, *_contracts(imports)])
    yield from (module.syntax for module in modules)
    for model in _models(contract, frozenset().union(*(module.strings for module in modules))):
        yield "\n".join(line for line in model.splitlines() if not line.lstrip().startswith("--"))
        for relation in re.findall(r"features\.\w+", next(line for line in model.splitlines() if line.startswith("-- reads: "))):
            yield from _content(next(view for view in COMPUTED_IN if view.relation() == relation))


def _closure(names: Iterable[str]) -> list[Module]:
    """Read modules of ours, all that they import, and the packages that these are in."""
    found: dict[str, Module] = {}
    due = list(names)
    while due:
        name = due.pop()
        path = _path(name)
        if name in found or path is None or f"{name}.".startswith(APART):
            continue
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found[name] = _parse(path.read_text("utf-8"), package)
        due += [*found[name].imports, name.rpartition(".")[0]]
    return [found[name] for name in sorted(found)]


def _path(name: str) -> Path | None:
    """Find the source of a module; None if it is no module of ours, but another's, or the name of something in one."""
    folder = ROOT.joinpath(*name.split("."))
    paths = (folder / "__init__.py", folder.with_suffix(".py"))
    return next((path for path in paths if path.is_file()), None) if name.partition(".")[0] == __package__ else None


@cache
def _parse(source: str, package: str) -> Module:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node, clean=False):
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
    return {name.partition(".")[0] for name in imports} - sys.stdlib_module_names - {__package__}


def _version(library: str) -> str:
    """Name the version of what an imported package comes from; `absent` if it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        if find_spec(library) is None:
            return "absent"
        return " ".join(f"{name} {version(name)}" for name in sorted(packages_distributions()[library]))


def _contracts(imports: Iterable[str]) -> list[type[Contract]]:
    """List the contracts of relations among what is imported."""
    places = [name.rpartition(".") for name in sorted(imports) if name.startswith("transforms.schemas.")]
    found = [getattr(import_module(module), name, None) for module, _, name in places if module != "transforms.schemas"]
    return [item for item in found if isinstance(item, type) and issubclass(item, Contract) and item.Config.metadata]


def _described(contract: type[Contract]) -> str:
    columns = [(column.name, str(column.dtype), column.nullable, column.bounds) for column in contract.columns()]
    return repr((contract.relation(), contract.version(), columns))


def _models(contract: type[Contract], strings: Iterable[str]) -> list[str]:
    """Read the SQL models that strings name, alone or by their folder (`duplicates/`), and the contract's own."""
    folder = ROOT / __package__ / "sql"
    names = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("*/*.sql")}
    named = {*strings, contract.relation().replace(".", "/")}
    read = {name for name in names if name in named or name[: name.index("/") + 1] in named}
    return [(folder / f"{name}.sql").read_text("utf-8") for name in sorted(read)]
