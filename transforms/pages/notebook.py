"""What things show of themselves in a notebook: a fragment made of the report's parts.

Colours are the notebook's own, whether it is light or dark: lines and small print are shades of the
colour that its text has.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from transforms.pages import Table, cell, part, render


def fragment(
    title: str,
    facts: Sequence[tuple[str, Any]] = (),
    tables: Sequence[Table] = (),
    notes: Iterable[str] = (),
) -> str:
    """Write a title, facts with their names, tables and notes as HTML, all of it escaped.

    >>> "<b>&lt;3&gt;</b>" in fragment("Rows", [("of", "<3>")])
    True
    """
    page = render(
        part("notebook.html"),
        style=part("notebook.css"),
        title=title,
        headline=[(name, cell(value), "", "") for name, value in facts],
        tables=tables,
        notes=list(notes),
    )
    # a blank line would end the HTML where a notebook's cell becomes Markdown
    return "\n".join(line for line in page.splitlines() if line.strip())
