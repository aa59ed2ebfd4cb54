"""The declarations page agrees with the code: its tables are generated, its examples declared."""

import inspect
import re
from pathlib import Path

import pytest

from tests.docs.shell import blocks
from transforms import features
from transforms.features import Aggregate, Field, Window, days, hours, lifetime, minutes
from transforms.features.aggregates import Input, Part
from transforms.features.inputs import READABLE
from transforms.features.registry import read_registry
from transforms.features.windows import HOPS

PAGE = Path(__file__).parents[2] / "docs" / "declarations.md"
AGGREGATES = [
    getattr(features, name) for name in features.__all__ if inspect.isclass(getattr(features, name))
]
AGGREGATES = [item for item in AGGREGATES if issubclass(item, Aggregate) and item is not Aggregate]
PARTS = ("sum", "least", "greatest", "first", "last", "last_k", "distinct", "top_k", "quantile")


def table(head: str, rows: list[list[str]]) -> str:
    columns = head.split(" | ")
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def first_words(text: str | None) -> str:
    """The first paragraph of a docstring, as one line."""
    return " ".join((text or "").partition("\n\n")[0].split()).removesuffix(".")


def aggregates_table() -> str:
    rows = []
    for kind in AGGREGATES:
        of = Input(
            "x", next(name for name in ("whole", "flag") if name in kind.takes), is_never_null=True
        )
        made = kind("n_words", windows=lifetime)
        feature = made.features(of, [lifetime])[0]
        parts = {
            name: f"{part.kind}({'x' if part.input else 1})" if len(feature.parts) == 1 else name
            for name, part in feature.parts.items()
        }
        takes = "" if kind is features.Count else ", ".join(kind.takes)
        nothing = "null" if feature.empty is None else str(feature.empty)
        rows.append(
            [
                f"`{kind.__name__}`",
                first_words(kind.__doc__),
                takes,
                nothing,
                f"`{made.feature_name}`",
                f"`{feature.value.format(**parts)}`",
            ]
        )
    return table(
        "aggregate | what it says | of | of no record | name without `name=` | value", rows
    )


def parts_table() -> str:
    rows = [[f"`{kind}`", f"`{Part(kind, 'x', k=5, q=0.5).over('x', 'counts')}`"] for kind in PARTS]
    return table("part | DuckDB SQL over the records that count in the window", rows)


def fields_table() -> str:
    kinds = [(name, getattr(Field, name)) for name in vars(Field) if not name.startswith("_")]
    return table(
        "field | feature", [[f"`Field.{name}`", first_words(kind.__doc__)] for name, kind in kinds]
    )


def hops_table() -> str:
    lengths: list[Window] = [minutes(5), hours(6), hours(12), days(7), days(12), days(28)]
    return table(
        "window | moves every", [[f"`{window.name}`", str(window.hop)] for window in lengths]
    )


@pytest.mark.parametrize(
    "made",
    [aggregates_table, parts_table, fields_table, hops_table],
    ids=lambda made: str(made.__name__),
)
def test_tables_are_as_the_code_has_them(made: object) -> None:
    assert callable(made)
    assert made() in PAGE.read_text("utf-8"), f"put this into docs/declarations.md:\n{made()}"


def test_every_part_of_a_value_is_defined_in_the_page() -> None:
    used = {
        part.kind
        for kind in AGGREGATES
        for part in kind("x", "x").parts(Input("x", kind.takes[0])).values()
    }
    assert used == set(PARTS)
    assert [limit for limit, _ in HOPS] == [hours(12).length, days(12).length]


def test_every_readable_column_is_named() -> None:
    page = PAGE.read_text("utf-8")
    assert [name for name in READABLE if f"`{name}`" not in page] == []


def test_every_example_of_the_page_is_a_right_declaration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "features"
    folder.mkdir()
    for _, file, content in blocks(PAGE.read_text("utf-8")):
        if file:
            (tmp_path / file).write_text(content, "utf-8")
    monkeypatch.setenv("MILLRACE_FEATURES", str(folder))
    found = read_registry()
    assert found.errors == ()
    declared = {name for name, path in found.paths.items() if path.parent == folder}
    names = re.findall(r'^\w+ = \w+\(\s*"(\w+)"', PAGE.read_text("utf-8"), re.MULTILINE)
    assert declared == {"record_shape", *(name for name in names if name not in found.entities)}
