"""The SQL that users write: expressions over one row, whole queries, and names.

Users' text gets into SQL here and nowhere else. DuckDB parses it, and rules apply to the tree, so
no spelling evades them. It may call the functions that `functions.yaml` allows. An expression runs
on a connection that sees the rows and can reach nothing else; a query names the relations it reads.
"""

import atexit
import difflib
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cache, partial
from importlib.resources import files
from typing import Any, NamedTuple

import duckdb
import yaml

# no access to files, the network, extensions or this program's variables
SEALED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
    "preserve_insertion_order": "false",
}
# idle engines of the same settings that a process keeps
KEPT_ENGINES = 2
# each statement leaves a few kilobytes in its engine that only its end gives back
LOANS_OF_AN_ENGINE = 100
# by process, for a forked child has none of its parent's threads, and by settings
_idle: defaultdict[tuple[int, str], list[tuple[duckdb.DuckDBPyConnection, int]]] = defaultdict(list)
CLASSES = frozenset(
    "BETWEEN CASE CAST COLLATE COLUMN_REF COMPARISON CONJUNCTION CONSTANT "  # noqa: SIM905
    "FUNCTION LAMBDA OPERATOR TYPE".split(),
)
NOT_ALLOWED = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window",
    "STAR": "a star",
    "PARAMETER": "a parameter",
}
# what a query may contain beside expressions: the types of its nodes, relations and modifiers
QUERY_TYPES = frozenset(
    "SELECT_NODE SET_OPERATION_NODE BASE_TABLE JOIN SUBQUERY TABLE_FUNCTION EXPRESSION_LIST EMPTY "  # noqa: SIM905
    "ORDER_MODIFIER DISTINCT_MODIFIER LIMIT_MODIFIER LIMIT_PERCENT_MODIFIER "
    "ORDER_DEFAULT ASCENDING DESCENDING".split(),
)
# these parse as columns, but are values of the run if no column has the name
VALUES_OF_A_RUN = frozenset(
    "current_catalog current_date current_role current_schema current_time "  # noqa: SIM905
    "current_timestamp current_user "
    "localtime localtimestamp session_user user".split(),
)
# the functions that make a relation of values
ROWS_OF_VALUES = frozenset({"generate_series", "range", "unnest"})


class Query(NamedTuple):
    """A checked query: its SQL, its tree as text, and the relations that it reads.

    Comments and blanks leave no trace in the tree.
    """

    sql: str
    tree: str
    reads: frozenset[str]


@contextmanager
def sealed(
    memory_limit: str | None = None, **options: str | int
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a DuckDB that sees only what is registered with it: no files and no extensions.

    Its settings cannot be changed. `options` are DuckDB's own; they extend or replace those of
    `SEALED`. To start one takes 15 ms, so an idle one is lent again: each connection has views and
    temporary tables of its own. Create no others. One that has failed is not lent again.

    >>> with sealed() as connection:
    ...     connection.sql("select current_setting('enable_external_access')").fetchall()
    [(False,)]
    """
    config = SEALED | ({"memory_limit": memory_limit} if memory_limit else {}) | options
    idle = _idle[os.getpid(), repr(sorted(config.items()))]
    try:  # another thread may take the last one
        engine, n_loans = idle.pop()
    except IndexError:
        engine, n_loans = _start(config), 0
    is_sound = False
    try:
        with engine.cursor() as connection:
            yield connection
        is_sound = len(idle) < KEPT_ENGINES and n_loans + 1 < LOANS_OF_AN_ENGINE
    finally:
        if is_sound:
            idle.append((engine, n_loans + 1))
        else:
            engine.close()


def _start(config: dict[str, str | bool | int | float | list[str]]) -> duckdb.DuckDBPyConnection:
    engine = duckdb.connect(config=config)
    engine.execute("set global timezone = 'UTC'")
    engine.execute("set lock_configuration = true")
    return engine


@atexit.register
def _close_idle() -> None:
    for (process, _), kept in _idle.items():
        while process == os.getpid() and kept:
            engine, _ = kept.pop()
            engine.close()


def quoted(name: str) -> str:
    """Quote an SQL name.

    >>> print(quoted('the "big" one'))
    "the ""big"" one"
    """
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Write a text in SQL, where there can be no parameter.

    >>> print(literal("it's"))
    'it''s'
    """
    return "'" + text.replace("'", "''") + "'"


def unlike(names: Iterable[str]) -> str:
    """Make up a name that differs from all of these by being longer.

    >>> unlike(["id", "text"])
    '_____'
    """
    return "_" * (max(map(len, names), default=0) + 1)


def bound(expression: str) -> str:
    """Write an expression as one operand, safe in any context; `ValueError` if it is not one.

    >>> print(bound("n + 1"))
    (n + 1
    )
    """
    _tree(expression)
    return f"({expression}\n)"  # a comment may end it


def column_name(expression: str) -> str | None:
    """Name the column that an expression consists of; None if it is anything else.

    >>> column_name("text"), column_name("lower(text)")
    ('text', None)
    """
    tree = _tree(expression)
    return (
        str(tree["column_names"][0])
        if tree["class"] == "COLUMN_REF" and len(tree["column_names"]) == 1
        else None
    )


def renamed(expression: str, names: Mapping[tuple[str, ...], str]) -> str:
    """Rename columns that an expression reads.

    >>> renamed("a.n / nullif(b, 0)", {("a", "n"): "a__n"})
    '(a__n / "nullif"(b, 0))'
    """
    _tree(expression)
    with sealed() as connection:
        parsed = json.loads(
            connection.execute(
                "select json_serialize_sql($text)", {"text": f"select {expression}"}
            ).fetchall()[0][0]
        )
        _rename(parsed, names, frozenset())
        (written,) = connection.execute(
            "select json_deserialize_sql($tree)", {"tree": json.dumps(parsed)}
        ).fetchall()[0]
    return str(written).removeprefix("SELECT ")


def column_references(expression: str) -> set[str]:
    """Find the columns that an expression reads.

    Raises `ValueError` if it is not a single plain expression over a row.

    >>> sorted(column_references("if(n > 0, lower(text), null)"))
    ['n', 'text']
    """
    return {name for name, *_ in dotted_references(expression)}


def dotted_references(expression: str) -> set[tuple[str, ...]]:
    """Find the columns that an expression reads, with their qualifiers.

    Raises `ValueError` if it is not a single plain expression over a row.

    >>> sorted(dotted_references("a.n / b"))
    [('a', 'n'), ('b',)]
    """
    return set(_columns(_tree(expression), frozenset()))


@cache
def _tree(expression: str) -> dict[str, Any]:
    """Parse and check an expression.

    It must be the same alone and in brackets, so that it cannot end the SQL around it.
    """
    with sealed() as connection:
        plain, alone = (_statement(connection, f"select {text}") for text in ("null", expression))
        is_plain = (
            alone | {"select_list": plain["select_list"]} == plain
        )  # no `from`, `where`, `union`
        is_single = (
            is_plain and len(alone["select_list"]) == 1 and not alone["select_list"][0]["alias"]
        )
        if not is_single or _statement(connection, f"select ({expression}\n)") != alone:
            message = "is not a single SQL expression"
            raise ValueError(message)
    tree: dict[str, Any] = alone["select_list"][0]
    for node in walk(tree):
        _check(node)
    return tree


@cache
def read_query(sql: str, relations: frozenset[str]) -> Query:
    """Parse and check a query; `ValueError` if it is not one select statement over the relations.

    It must be the same alone and in brackets, so that it cannot end the SQL around it.

    >>> read_query("select n from versions -- all", frozenset({"versions"})).reads
    frozenset({'versions'})
    >>> read_query("from read_text('a')", frozenset({"versions"}))
    Traceback (most recent call last):
        ...
    ValueError: may not read read_text(); relations are made by generate_series, range, unnest
    """
    text = sql.strip().removesuffix(";")
    with sealed() as connection:
        tree = _statement(connection, text)
        around = _statement(connection, f"select * from ({text}\n)")
    if around["from_table"].get("subquery", {}).get("node") != tree:
        message = "is not a single select statement"
        raise ValueError(message)
    nodes = list(walk(tree))
    given = {
        entry["key"].lower()
        for node in nodes
        if "cte_map" in node
        for entry in node["cte_map"]["map"]
    }
    if hidden := given & relations:
        message = f"names a relation of its own {min(hidden)}; choose another name"
        raise ValueError(message)
    for node in nodes:
        _check_of_query(node, relations, given)
    reads = {node["table_name"].lower() for node in nodes if node.get("type") == "BASE_TABLE"}
    return Query(text, json.dumps(tree, sort_keys=True), frozenset(reads & relations))


def _statement(connection: duckdb.DuckDBPyConnection, sql: str) -> dict[str, Any]:
    """Parse a select statement, without the places that nodes have in the text."""
    row = connection.execute("select json_serialize_sql($text)", {"text": sql}).fetchall()
    parsed = json.loads(
        row[0][0],
        object_hook=lambda node: {
            key: node[key] for key in node if not key.startswith("query_location")
        },
    )
    if parsed["error"]:
        raise ValueError(parsed.get("error_message", "cannot be parsed"))
    if len(parsed["statements"]) != 1:
        message = "is not a single SQL statement"
        raise ValueError(message)
    return dict(parsed["statements"][0]["node"])


def _check(node: dict[str, Any]) -> None:
    kind = node.get("class", "TYPE")
    if kind not in CLASSES:
        message = f"may not contain {NOT_ALLOWED.get(kind, kind.lower().replace('_', ' '))}"
        raise ValueError(message)
    if kind == "FUNCTION":
        _check_call(node, refusal)


def _check_of_query(node: dict[str, Any], relations: frozenset[str], given: set[str]) -> None:
    kind = node.get("class", node.get("type"))
    is_known = (
        kind in CLASSES | {"SUBQUERY", "WINDOW", "STAR"}
        if "class" in node
        else kind in QUERY_TYPES or not isinstance(kind, str)
    )
    if not is_known:
        message = (
            f"may not contain {NOT_ALLOWED.get(str(kind), str(kind).lower().replace('_', ' '))}"
        )
        raise ValueError(message)
    if node.get("sample") or node.get("ref_type") == "POSITIONAL":
        message = "may neither take a sample nor join by position: the next run would differ"
        raise ValueError(message)
    if kind in {"FUNCTION", "WINDOW"}:
        is_ordered = bool(
            node["order_bys"]["orders"]
            if kind == "FUNCTION"
            else node["orders"] + node["arg_orders"]
        )
        _check_call(node, partial(query_refusal, is_window=kind == "WINDOW", is_ordered=is_ordered))
    if kind == "BASE_TABLE" and "class" not in node:
        _check_relation(node, relations | given)
    if (
        kind == "TABLE_FUNCTION"
        and (name := node["function"]["qualified_name"]["path"][-1].lower()) not in ROWS_OF_VALUES
    ):
        message = (
            f"may not read {name}(); relations are made by {', '.join(sorted(ROWS_OF_VALUES))}"
        )
        raise ValueError(message)
    if (
        kind == "COLUMN_REF"
        and len(node["column_names"]) == 1
        and node["column_names"][0].lower() in VALUES_OF_A_RUN
    ):
        message = (
            f"may not read {node['column_names'][0]}, which differs in the next run; "
            "a column needs another name"
        )
        raise ValueError(message)
    kinds = [
        modifier["type"]
        for modifier in node.get("modifiers", [])
        if modifier["type"] != "DISTINCT_MODIFIER" or _is_on(modifier)
    ]
    if kinds and "ORDER_MODIFIER" not in kinds:
        message = (
            "may not take some of its rows in no order; "
            "write order by before limit, or with distinct on"
        )
        raise ValueError(message)


def _is_on(modifier: dict[str, Any]) -> bool:
    return bool(modifier["distinct_on_targets"])


def _check_relation(node: dict[str, Any], known: Iterable[str]) -> None:
    path = node["qualified_name"]["path"]
    if len(path) != 1 or path[0].lower() not in known or node["at_clause"]:
        message = f"may not read {'.'.join(path)}; it can read {', '.join(sorted(known))}"
        raise ValueError(message)


def _check_call(node: dict[str, Any], refused: Callable[[str], str | None]) -> None:
    path = node["qualified_name"]["path"]
    if len(path) != 1:
        message = (
            f"may not call {'.'.join(path)}(); functions have their bare name, e.g. {path[-1]}(...)"
        )
        raise ValueError(message)
    if reason := refused(path[0]):
        message = f"may not call {path[0]}(): {reason}"
        raise ValueError(message)


def refusal(function: str) -> str | None:
    """Return why an expression may not call a function; None if it may.

    >>> refusal("lowr")
    "it is not a function of one row's values; did you mean lower?"
    """
    name, allowed = function.lower(), _functions()["allowed"]
    if name in allowed:
        return None
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.8)
    return _reason(name) or "it is not a function of one row's values" + (
        f"; did you mean {near[0]}?" if near else ""
    )


def query_refusal(
    function: str, *, is_window: bool = False, is_ordered: bool = False
) -> str | None:
    """Return why a query may not call a function; None if it may.

    The answer depends on whether the call is in a window, and on whether its rows are ordered.

    >>> query_refusal("row_number", is_window=True, is_ordered=True)
    >>> query_refusal("row_number", is_window=True)
    'what it gives depends on the order of rows; add order by to it'
    """
    name, lists = function.lower(), _functions()
    if name in lists["aggregates"] or (name in lists["allowed"] | {"unnest"} and not is_window):
        return None
    if name in lists["ordered"] or (name in lists["windows"] and is_window):
        return (
            None if is_ordered else "what it gives depends on the order of rows; add order by to it"
        )
    known = lists["allowed"] | lists["aggregates"] | lists["ordered"] | lists["windows"]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    return _reason(name) or "there is no such function" + (
        f"; did you mean {near[0]}?" if near else ""
    )


def _reason(name: str) -> str | None:
    reasons = _lists()["refused"].items()
    return next(
        (
            reason
            for reason, names in reasons
            if any(fnmatchcase(name, pattern) for pattern in names.split())
        ),
        None,
    )


@cache
def _functions() -> dict[str, frozenset[str]]:
    """Read which functions are allowed: over one row, many, ordered rows, or in windows only."""
    return {
        name: frozenset(_lists()[name].lower().split())
        for name in ("allowed", "aggregates", "ordered", "windows")
    }


@cache
def _lists() -> dict[str, Any]:
    return dict(yaml.safe_load(files("transforms").joinpath("functions.yaml").read_text("utf-8")))


def _columns(node: Any, own: frozenset[str]) -> Iterator[tuple[str, ...]]:
    """Find columns below a node.

    Parameters of lambdas (`own`) are no columns; their names ignore case. `->` is JSON's arrow.
    """
    if isinstance(node, list):
        for child in node:
            yield from _columns(child, own)
    elif isinstance(node, dict) and node.get("class") == "COLUMN_REF":
        if node["column_names"][0].lower() not in own:
            yield tuple(node["column_names"])
    elif isinstance(node, dict) and node.get("syntax_type") == "LAMBDA_KEYWORD":
        yield from _columns(
            node["expr"], own | {name.lower() for name, *_ in _columns(node["lhs"], frozenset())}
        )
    elif isinstance(node, dict):
        yield from _columns(list(node.values()), own)


def _rename(node: Any, names: Mapping[tuple[str, ...], str], own: frozenset[str]) -> None:
    """Rename columns below a node in place; parameters of lambdas keep their names."""
    if isinstance(node, list):
        for child in node:
            _rename(child, names, own)
    elif isinstance(node, dict) and node.get("class") == "COLUMN_REF":
        path = tuple(node["column_names"])
        if path[0].lower() not in own and path in names:
            node["column_names"] = [names[path]]
    elif isinstance(node, dict) and node.get("syntax_type") == "LAMBDA_KEYWORD":
        _rename(
            node["expr"],
            names,
            own | {name.lower() for name, *_ in _columns(node["lhs"], frozenset())},
        )
    elif isinstance(node, dict):
        _rename(list(node.values()), names, own)


def walk(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every node of a tree that DuckDB made of SQL.

    >>> [node["n"] for node in walk([{"n": 1, "child": {"n": 2}}])]
    [1, 2]
    """
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from walk(child)
