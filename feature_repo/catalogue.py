"""The catalogue of features, made from their contracts: for the command line and for docs/features.md."""

from transforms.featurize import VIEWS, view_name
from transforms.schemas.base import Column

KINDS = {"String": "text", "Int64": "integer", "Float64": "number", "Datetime": "timestamp (UTC)", "Boolean": "flag", "List": "numbers"}


def catalogue() -> dict[str, list[Column]]:
    """All features by view, entity key first; times of the row itself left out."""
    times = {"event_timestamp", "created_timestamp"}
    return {view_name(view): [column for column in view.columns() if column.name not in times] for view in VIEWS}


def catalogue_markdown() -> str:
    """The catalogue as a page."""
    lines = ["# Features", "", "Made from the contracts in `transforms/schemas/features.py` by `millrace features --markdown`.", ""]
    for view in VIEWS:
        lines += [f"## {view_name(view)}", "", view.__doc__ or "", "", f"Key: `{view.key()[0]}`.", ""]
        lines += ["| feature | type | range | meaning | after |", "|---|---|---|---|---|"]
        lines += [
            f"| `{column.name}` | {kind(column)} | {column.bounds} | {column.description} | {column.origin or ''} |"
            for column in catalogue()[view_name(view)]
        ]
        lines.append("")
    lines += ["## author_tenure", "", "Computed on demand, from `author_activity:first_event_timestamp` and the instant asked for.", ""]
    lines += ["| feature | type | range | meaning | after |", "|---|---|---|---|---|"]
    lines += ["| `days_since_first_record` | number |  | Days since the author's earliest record known by then was written. |  |", ""]
    return "\n".join(lines)


def kind(column: Column) -> str:
    """A column's type in words."""
    return KINDS[str(column.dtype.base_type().__name__)]
