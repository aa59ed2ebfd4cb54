"""The SQL of a source file: expressions over one row, and names. Whatever a user writes gets into SQL here and nowhere else.

DuckDB parses an expression; what counts is the tree, so no spelling gets round a rule. The expression may call the functions
that `functions.yaml` allows, and it is run by a connection that sees the rows and can reach nothing else.
"""

import difflib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

import duckdb
import yaml

# no way to files, the network, extensions or the variables of this program
SEALED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
    "preserve_insertion_order": "false",
}
CLASSES = frozenset(
    "BETWEEN CASE CAST COLLATE COLUMN_REF COMPARISON CONJUNCTION CONSTANT FUNCTION LAMBDA OPERATOR TYPE".split(),  # noqa: SIM905
)
NOT_ALLOWED = {"SUBQUERY": "a subquery", "WINDOW": "a window", "STAR": "a star", "PARAMETER": "a parameter"}


@contextmanager
def sealed(memory_limit: str | None = None, **options: str | int) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a DuckDB that sees only what is registered with it: no files, no extensions, and no setting can be changed.

    `options` are DuckDB's own, beside or in place of those of `SEALED`.
    """
    with duckdb.connect(config=SEALED | ({"memory_limit": memory_limit} if memory_limit else {}) | options) as connection:
        connection.execute("set timezone = 'UTC'")
        connection.execute("set lock_configuration = true")
        yield connection


def quoted(name: str) -> str:
    """Quote an SQL name."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Write a text in SQL, where there can be no parameter."""
    return "'" + text.replace("'", "''") + "'"


def unlike(names: Iterable[str]) -> str:
    """Make up a name that is none of these: a longer one."""
    return "_" * (max(map(len, names), default=0) + 1)


def bound(expression: str) -> str:
    """Give the SQL of an expression as one operand, whatever stands around it; `ValueError` says why it is none."""
    _tree(expression)
    return f"({expression}\n)"  # a comment may end it


def column_name(expression: str) -> str | None:
    """Name the column that an expression is, if it is nothing else."""
    tree = _tree(expression)
    return str(tree["column_names"][0]) if tree["class"] == "COLUMN_REF" and len(tree["column_names"]) == 1 else None


def column_references(expression: str) -> set[str]:
    """Find the columns that an expression reads; `ValueError` if it is not one plain expression over a row."""
    return set(_columns(_tree(expression), frozenset()))


@cache
def _tree(expression: str) -> dict[str, Any]:
    """Parse and check an expression. Alone and between brackets it must be the same, so that it cannot end what stands around it."""
    with sealed() as connection:
        plain, alone = (_statement(connection, text) for text in ("null", expression))
        is_plain = alone | {"select_list": plain["select_list"]} == plain  # no `from`, `where`, `union`
        is_single = is_plain and len(alone["select_list"]) == 1 and not alone["select_list"][0]["alias"]
        if not is_single or _statement(connection, f"({expression}\n)") != alone:
            message = "is not a single SQL expression"
            raise ValueError(message)
    tree: dict[str, Any] = alone["select_list"][0]
    for node in _walk(tree):
        _check(node)
    return tree


def _statement(connection: duckdb.DuckDBPyConnection, expression: str) -> dict[str, Any]:
    """Parse `select` and an expression, without the places that nodes have in the text."""
    row = connection.execute("select json_serialize_sql($text)", {"text": f"select {expression}"}).fetchall()
    parsed = json.loads(row[0][0], object_hook=lambda node: {key: node[key] for key in node if not key.startswith("query_location")})
    if parsed["error"]:
        raise ValueError(parsed.get("error_message", "cannot be parsed"))
    if len(parsed["statements"]) != 1:
        message = "is not a single SQL expression"
        raise ValueError(message)
    return dict(parsed["statements"][0]["node"])


def _check(node: dict[str, Any]) -> None:
    kind = node.get("class", "TYPE")
    if kind not in CLASSES:
        message = f"may not hold {NOT_ALLOWED.get(kind, kind.lower().replace('_', ' '))}"
        raise ValueError(message)
    if kind == "FUNCTION":
        path = node["qualified_name"]["path"]
        if len(path) != 1:
            message = f"may not call {'.'.join(path)}(); functions have their bare name, e.g. {path[-1]}(...)"
            raise ValueError(message)
        if reason := refusal(path[0]):
            message = f"may not call {path[0]}(): {reason}"
            raise ValueError(message)


def refusal(function: str) -> str | None:
    """Say why an expression may not call a function; None if it may."""
    allowed, refused = _functions()
    name = function.lower()
    if name in allowed:
        return None
    reasons = (reason for reason, patterns in refused.items() if any(fnmatchcase(name, pattern) for pattern in patterns))
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.8)
    return next(reasons, "it is not a function of one row's values" + (f"; did you mean {near[0]}?" if near else ""))


@cache
def _functions() -> tuple[frozenset[str], dict[str, list[str]]]:
    """Read which functions are allowed, and the patterns of those that are refused by their reason."""
    lists = yaml.safe_load(files("transforms").joinpath("functions.yaml").read_text("utf-8"))
    return frozenset(lists["allowed"].lower().split()), {reason: names.split() for reason, names in lists["refused"].items()}


def _columns(node: Any, own: frozenset[str]) -> Iterator[str]:
    """Find columns below a node, but for the parameters of lambdas (`own`), whose names ignore case. `->` is JSON's arrow."""
    if isinstance(node, list):
        for child in node:
            yield from _columns(child, own)
    elif isinstance(node, dict) and node.get("class") == "COLUMN_REF":
        if node["column_names"][0].lower() not in own:
            yield node["column_names"][0]
    elif isinstance(node, dict) and node.get("syntax_type") == "LAMBDA_KEYWORD":
        yield from _columns(node["expr"], own | {name.lower() for name in _columns(node["lhs"], frozenset())})
    elif isinstance(node, dict):
        yield from _columns(list(node.values()), own)


def _walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _walk(child)
