"""The code of declarations, as it is in their files, coloured for the page."""

import ast
from collections.abc import Collection, Iterator
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from pygments.lexer import Lexer
from pygments.lexers import PythonLexer, SqlLexer
from pygments.token import Token

from transforms.features.declare import snake_case

N_LINES = 150  # of one file's code; a longer declaration is cut
COLOURED = {Token.Keyword: "keyword", Token.Literal.String: "string", Token.Comment: "comment"}


class Code(NamedTuple):
    """A part of a file, as HTML; `n_left_out` lines of it are not shown."""

    file: str
    html: Markup
    n_left_out: int = 0


def code_of(name: str, path: Path, declared: Collection[str]) -> list[Code]:
    """Show the declaration of a name in a file, with what it uses there and its file of SQL.

    `declared` are the names of all declarations: of another one that it uses, the code is not
    repeated. Nothing is shown of a declaration that code makes under a name it does not spell.
    """
    text = path.read_text("utf-8")
    statements = _statements(text, name, frozenset(declared) - {name})
    lines = text.splitlines()
    parts = ["\n".join(lines[_first(one) - 1 : one.end_lineno]) for one in statements]
    python = [_code(path, "\n\n".join(parts), PythonLexer())] if parts else []
    return python + [
        _code(file, file.read_text("utf-8"), SqlLexer()) for file in _sql(statements, path)
    ]


def short_path(path: Path) -> str:
    """A file with its folder, which says enough and names no machine.

    >>> short_path(Path("/home/ada/features/mood.py"))
    'features/mood.py'
    """
    return "/".join(path.parts[-2:])


def _statements(text: str, name: str, others: frozenset[str]) -> list[ast.stmt]:
    """Find the statement that declares a name, and those that it uses, in the file's order."""
    body = _parse(text).body
    found = [one for one in body if name in _declares(one)] or [
        one for one in body if name in _words(one)
    ]
    defined = {
        target: one for one in body if not _declares(one) & others for target in _targets(one)
    }
    wanted = found[:1]
    for statement in wanted:  # which grows
        used = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
        wanted += [one for target, one in defined.items() if target in used and one not in wanted]
    return sorted(wanted, key=_first)


@lru_cache(maxsize=1)
def _parse(text: str) -> ast.Module:
    """Parse a file once for all of its declarations."""
    return ast.parse(text)


def _declares(statement: ast.stmt) -> set[str]:
    """The names that a statement gives to declarations: of a class, or as first arguments."""
    if isinstance(statement, ast.ClassDef):
        return {snake_case(statement.name)}
    calls = (node for node in ast.walk(statement) if isinstance(node, ast.Call))
    named = (
        [*call.args[:1], *(keyword.value for keyword in call.keywords if keyword.arg == "name")]
        for call in calls
    )
    return {
        node.value
        for nodes in named
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def _words(statement: ast.stmt) -> set[str]:
    constants = (node.value for node in ast.walk(statement) if isinstance(node, ast.Constant))
    return {value for value in constants if isinstance(value, str)}


def _targets(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement defines; imports say nothing of what a declaration means."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef):
        yield statement.name
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    yield from (target.id for target in targets if isinstance(target, ast.Name))


def _first(statement: ast.stmt) -> int:
    """The line on which a statement begins, its decorators counted."""
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(decorator.lineno for decorator in decorators)])


def _sql(statements: list[ast.stmt], path: Path) -> Iterator[Path]:
    for word in sorted({word for one in statements for word in _words(one)}):
        if word.endswith(".sql") and len(word.split()) == 1 and (path.parent / word).is_file():
            yield path.parent / word


def _code(path: Path, text: str, lexer: Lexer) -> Code:
    lines = text.rstrip().splitlines()
    html = _coloured("\n".join(lines[:N_LINES]), lexer)
    return Code(short_path(path), html, max(0, len(lines) - N_LINES))


def _coloured(text: str, lexer: Lexer) -> Markup:
    """Write code as HTML, in which keywords, strings and comments have a class."""
    tokens = groupby(lexer.get_tokens(text), key=lambda token: _class(token[0]))
    runs = ((css, "".join(word for _, word in run)) for css, run in tokens)
    coloured = Markup('<span class="{}">{}</span>')
    return Markup().join(coloured.format(css, word) if css else word for css, word in runs)


def _class(kind: object) -> str:
    return next((css for of, css in COLOURED.items() if kind in of), "")
