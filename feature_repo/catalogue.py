"""The catalogue of features, made from their contracts: for the command line and for docs/features.md."""

import polars as pl

from transforms.features.registry import views
from transforms.schemas.base import Column

KINDS: dict[pl.DataType, str] = {
    pl.String(): "text",
    pl.Int64(): "integer",
    pl.Float64(): "number",
    pl.Boolean(): "flag",
    pl.Datetime("us", "UTC"): "timestamp (UTC)",
    pl.List(pl.String()): "texts",
    pl.List(pl.Int64()): "integers",
    pl.List(pl.Float32()): "numbers",
    pl.List(pl.Float64()): "numbers",
}


def catalogue() -> dict[str, list[Column]]:
    """All features by view, each with the columns of its key."""
    return {view.name: view.contract.served() for view in views()}


def catalogue_markdown() -> str:
    """The catalogue as a page."""
    lines = ["# Features", "", "Made from the contracts in `transforms/schemas/features.py` by `millrace features --markdown`.", ""]
    for view in views():
        lines += [f"## {view.name}", "", view.description, "", f"Key: `{'`, `'.join(view.entity.columns)}`.", ""]
        lines += ["| feature | type | range | meaning | after |", "|---|---|---|---|---|"]
        lines += [
            f"| `{column.name}` | {kind(column)} | {column.bounds} | {column.description} | {column.origin or ''} |"
            for column in catalogue()[view.name]
        ]
        lines.append("")
    lines += ["## author_tenure", "", "Computed on demand, from `author_activity:first_event_timestamp` and the instant asked for.", ""]
    lines += ["| feature | type | range | meaning | after |", "|---|---|---|---|---|"]
    lines += ["| `days_since_first_record` | number |  | Days since the author's earliest record known by then was written. |  |", ""]
    return "\n".join(lines)


def kind(column: Column) -> str:
    """A column's type in words."""
    return KINDS[column.dtype]
