"""Tests of declarations by their authors.

Records that are given, values that are expected, in YAML beside the declaration.

`features/cve.yaml` tests `features/cve.py`. A test goes the way that all records go: staged
versions are published into a home of its own, the views that it names are computed, and their
values are read at the instant by the rule of training and serving.
"""

import hashlib
import json
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import duckdb
import polars as pl
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from transforms.errors import DeclarationError, InstantError
from transforms.expressions import quoted
from transforms.features.aggregates import INSTANT
from transforms.features.build import compute_views
from transforms.features.derivation import Derivation, compute
from transforms.features.inputs import READABLE, did_you_mean
from transforms.features.registry import Registry, registry
from transforms.features.view import View
from transforms.home import Settings
from transforms.instants import instant_of
from transforms.schemas.staging import StagedRecord
from transforms.text.pii import redact
from transforms.warehouse.publishing import publish
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

GIVEN = (*READABLE, "is_tombstone")
# an author rounds what he expects; two ways to one number differ in its last bits
SIGNIFICANT, EXACT = 1e-5, 1e-12


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Expectation(_Strict):
    """The values of some features of a view, for an entity at an instant."""

    view: str
    entity: dict[str, str]
    at: Annotated[datetime, BeforeValidator(instant_of)]
    values: dict[str, Any] = Field(min_length=1)

    @property
    def place(self) -> str:
        """Whose values and when, as a line begins."""
        keys = ", ".join(f"{column}={value}" for column, value in self.entity.items())
        return f"{self.view} of {keys} at {self.at:%Y-%m-%d %H:%M:%S}"


class Case(_Strict):
    """A test: what is given, and what is expected of it."""

    given: list[dict[str, Any]] = Field(min_length=1)
    expect: list[Expectation] = Field(min_length=1)


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which no key may occur twice, because the first would be ignored.

    A test that nobody runs.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - PyYAML's
        """Read a mapping."""
        names = [key.value for key, _ in node.value]
        if twice := next((key for key, _ in node.value if names.count(key.value) > 1), None):
            raise yaml.MarkedYAMLError(
                problem=f"{twice.value!r} is there twice", problem_mark=twice.start_mark
            )
        return super().construct_mapping(node, deep)


class Difference(NamedTuple):
    """A value that is not as expected, and where."""

    place: str
    feature: str
    expected: Any
    got: Any

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.place}: {self.feature}: expected {_written(self.expected)}, got "
            f"{_written(self.got)}"
        )


class Suite(NamedTuple):
    """The tests of a file of declarations, by their names."""

    path: Path
    cases: Mapping[str, Case]


def suites(names: Sequence[str] = ()) -> list[Suite]:
    """Read the tests of all files of declarations.

    With `names` those beside a file, or tests, of these names.

    Raises `DeclarationError` if a declaration or a test is wrong, or if there is no test.
    """
    found = registry()
    folders = Settings().feature_folders
    files = [tests_of(path) for folder in folders for path in sorted(folder.glob("*.py"))]
    read = [Suite(path, read_cases(path, found)) for path in files if path.is_file()]
    known = {name for suite in read for name in (suite.path.stem, *suite.cases)}
    if unknown := next((name for name in names if name not in known), None):
        message = (
            f"{unknown}: there is no test of this name, nor a file of "
            f"tests{did_you_mean(unknown, known)}"
        )
        raise DeclarationError(message)
    if not read:
        message = (
            "there is no test in "
            f"{' or '.join(map(str, folders)) or 'MILLRACE_FEATURES, which is empty'}; see "
            "millrace features new"
        )
        raise DeclarationError(message)
    if not names:
        return read
    chosen = [
        Suite(path, {name: case for name, case in cases.items() if {name, path.stem} & {*names}})
        for path, cases in read
    ]
    return [suite for suite in chosen if suite.cases]


def tests_of(path: Path) -> Path:
    """Where the tests of a file of declarations are.

    >>> tests_of(Path("features/channel.py")).as_posix()
    'features/channel.yaml'
    """
    return path.with_suffix(".yaml")


def read_cases(path: Path, registry: Registry) -> dict[str, Case]:
    """Read the tests of a file of declarations by their names.

    Raises `DeclarationError` for the first that is none.
    """
    try:
        document = yaml.load(path.read_text("utf-8"), _UniqueKeys)  # noqa: S506 - a safe loader
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        message = f"{path}{line}: {error.problem}"
        raise DeclarationError(message) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        message = f"{path}: cannot be read: {str(error).splitlines()[0]}"
        raise DeclarationError(message) from None
    if not isinstance(document, dict) or not document:
        message = f"{path}: has no test; write one, as `millrace features new NAME` does"
        raise DeclarationError(message)
    return {str(name): _case(f"{path}: {name}", case, registry) for name, case in document.items()}


def _case(place: str, document: Any, registry: Registry) -> Case:
    try:
        case = _validated(document)
        _refuse_given(case.given)
        for expected in case.expect:
            _refuse_expectation(expected, registry)
    except (DeclarationError, InstantError) as error:
        message = f"{place}: {error}"
        raise DeclarationError(message) from None
    return case


def _validated(document: Any) -> Case:
    complaint = ""
    try:
        return Case.model_validate(document)
    except ValidationError as error:
        complaint = _complaint(error.errors()[0])
    # raised out of reach of pydantic's error, which keeps every frame, and so DuckDB's objects,
    # beyond the end of the interpreter
    raise DeclarationError(complaint)


def _complaint(first: Mapping[str, Any]) -> str:
    """Turn pydantic's first complaint into the key and how to fix it."""
    where, name = ".".join(str(part) for part in first["loc"]), str((first["loc"] or ("",))[-1])
    known = [*(Expectation if "expect" in first["loc"] else Case).model_fields]
    fixes = {
        "extra_forbidden": "is no key of a test"
        + (did_you_mean(name, known) or "; there are " + ", ".join(known)),
        "missing": "is missing",
        "model_type": f"has keys of its own: {', '.join(known)}",
        "string_type": f"is a text; put quotes around it: '{first['input']}'",
        "too_short": "is empty",
    }
    return f"{where or 'a test'}: {fixes.get(first['type'], first['msg'])}"


def _refuse_given(given: Sequence[Mapping[str, Any]]) -> None:
    """Raise `DeclarationError` for a record that could not be staged."""
    for number, record in enumerate(given, 1):
        if unknown := next((name for name in record if name not in GIVEN), None):
            hint = did_you_mean(unknown, GIVEN) or f"; there are {', '.join(GIVEN)}"
            message = f"given, record {number}: {unknown} is no column of a record{hint}"
            raise DeclarationError(message)
        if record.get("event_timestamp") is None:
            message = (
                f"given, record {number}: event_timestamp is missing; say when it was written, "
                "e.g. 2024-05-01 10:00:00"
            )
            raise DeclarationError(message)
    frame = stage(given)
    for row, column, rule in StagedRecord.failures(frame).iter_rows():
        message = f"given, record {row + 1}: {column} breaks the rule {rule}"
        raise DeclarationError(message)
    if frame.select(StagedRecord.key()).is_duplicated().any():
        message = (
            "given: two versions of one record are known at one instant; give one another "
            "known_timestamp, or another record_id"
        )
        raise DeclarationError(message)


def _refuse_expectation(expected: Expectation, registry: Registry) -> None:
    """Raise `DeclarationError` for a view, a key or a feature that there is not."""
    features = {name: view.features for name, view in registry.views.items()}
    features |= {name: [*derivation.types] for name, derivation in registry.derivations.items()}
    if expected.view not in features:
        message = (
            f"expect: {expected.view} is no "
            f"view{did_you_mean(expected.view, features) or '; there are ' + ', '.join(features)}"
        )
        raise DeclarationError(message)
    keys = sorted(
        {column for view in _tables_of(expected.view, registry) for column in view.entity.columns}
    )
    if sorted(expected.entity) != keys:
        message = (
            f"expect: {expected.view}: entity has {', '.join(expected.entity) or 'no key'}; it "
            f"needs {', '.join(keys)}"
        )
        raise DeclarationError(message)
    known = features[expected.view]
    if unknown := next((name for name in expected.values if name not in known), None):
        message = (
            f"expect: {expected.view} has no feature "
            f"{unknown}{did_you_mean(unknown, known) or '; there are ' + ', '.join(known)}"
        )
        raise DeclarationError(message)


def _tables_of(name: str, registry: Registry) -> list[View]:
    """The views whose tables a view is read from: itself, or those that a derived one reads."""
    if name in registry.derivations:
        return [registry.views[view] for view in dict(registry.derivations[name].reads.values())]
    return [registry.views[name]]


def stage(given: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Make staged versions of given records. What a record leaves out is filled in.

    An id by its place, author, text and source too.
    """
    rows = [_version(record, number) for number, record in enumerate(given, 1)]
    loaded = max(max(row["event_timestamp"], row["known_timestamp"]) for row in rows)
    schema = {column.name: column.dtype for column in StagedRecord.columns()}
    frame = pl.DataFrame([row | {"loaded_timestamp": loaded} for row in rows], schema)
    redacted = frame.select(redact(pl.col("text"))).to_series()
    return frame.with_columns(text_redacted=pl.coalesce("text_redacted", redacted))


def _version(given: Mapping[str, Any], number: int) -> dict[str, Any]:
    is_tombstone = bool(given.get("is_tombstone"))
    filled = {
        "record_id": f"r{number}",
        "author_id": "author",
        "known_timestamp": given["event_timestamp"],
        "text": None if is_tombstone else "A text.",
        "is_positive": False,
        "is_tombstone": False,
        "source": "given",
    }
    row = {**filled, **given}
    digest = hashlib.sha256(repr(sorted(row.items())).encode()).hexdigest()
    place = {
        "load_id": "given",
        "source_uri": "given",
        "row_number": number,
        "content_digest": digest,
    }
    return {name: _cell(name, row.get(name)) for name in GIVEN} | place


def _cell(name: str, value: Any) -> Any:
    if name.endswith("_timestamp"):
        return instant_of(value)
    if name.startswith("is_"):
        return bool(value)
    if isinstance(value, dict | list):
        return json.dumps(value)
    return None if value is None else str(value)


def run_case(case: Case, registry: Registry) -> list[Difference]:
    """Compute what a test names in a home of its own.

    Where values differ from what is expected, or from their definition.
    """
    named = {expected.view for expected in case.expect}
    due = _closure({view.name for name in named for view in _tables_of(name, registry)}, registry)
    with TemporaryDirectory() as folder:
        warehouse = Warehouse(Settings(home=Path(folder)))
        frame = stage(case.given)
        publish(
            warehouse,
            StagedRecord,
            frame.to_arrow().cast(StagedRecord.arrow_schema()).to_batches(),
            {},
        )
        compute_views(due, warehouse, datetime.now(UTC))
        with connect(warehouse) as connection:
            return [
                difference
                for expected in case.expect
                for difference in _differences(connection, expected, registry)
            ]


def _closure(names: set[str], registry: Registry) -> list[View]:
    """List views with all that they read, in the order of the registry."""
    due = list(names)
    for name in due:
        due += [read for read in registry.views[name].reads if read not in due]
    return [view for name, view in registry.views.items() if name in due]


def _differences(
    connection: duckdb.DuckDBPyConnection, expected: Expectation, registry: Registry
) -> Iterator[Difference]:
    served, defined = _values(connection, expected, registry)
    for name, value in expected.values.items():
        if not _is_near(value, served[name], SIGNIFICANT):
            yield Difference(expected.place, name, value, served[name])
        if not _is_near(defined[name], served[name], EXACT):
            yield Difference(
                f"{expected.place}, by its definition", name, defined[name], served[name]
            )


def _values(
    connection: duckdb.DuckDBPyConnection, expected: Expectation, registry: Registry
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of a view as they are served, and by their definition."""
    found = {
        view.name: _of_table(connection, view, expected)
        for view in _tables_of(expected.view, registry)
    }
    if expected.view not in registry.derivations:
        return found[expected.view]
    derivation = registry.derivations[expected.view]
    served, defined = (
        _derived(
            derivation, {name: values[way] for name, values in found.items()}, expected, registry
        )
        for way in (0, 1)
    )
    return served, defined


def _of_table(
    connection: duckdb.DuckDBPyConnection, view: View, expected: Expectation
) -> tuple[dict[str, Any], dict[str, Any]]:
    entity = {column: expected.entity[column] for column in view.entity.columns}
    features = ", ".join(map(quoted, view.features))
    is_of_entity = " and ".join(f"{quoted(column)} = ${column}" for column in entity)
    newest = "order by event_timestamp desc, created_timestamp desc limit 1"
    sql = (
        f"select {features} from {view.relation} where {is_of_entity} and event_timestamp <= $at "
        f"{newest}"
    )
    rows = connection.sql(sql, params={**entity, "at": expected.at}).pl().to_dicts()
    empty = {
        column.name: column.empty
        for column in view.contract.columns()
        if column.name in view.features
    }
    defined = view.explain(connection, entity, expected.at, 0).values
    return (rows[0] if rows else empty), {name: defined[name] for name in view.features}


def _derived(
    derivation: Derivation,
    values: Mapping[str, Mapping[str, Any]],
    expected: Expectation,
    registry: Registry,
) -> dict[str, Any]:
    types = {
        name: {column.name: column.dtype for column in registry.views[name].contract.columns()}
        for name in values
    }
    columns = {
        column: pl.Series([values[view][name]], dtype=types[view][name])
        for column, (view, name) in derivation.reads.items()
    }
    (found,) = compute(
        derivation,
        pl.DataFrame({**columns, "event_timestamp": pl.Series([expected.at], dtype=INSTANT)}),
    ).to_dicts()
    return found


def _is_near(expected: Any, got: Any, tolerance: float) -> bool:
    """Whether a value is what is expected.

    A number up to its last digits, an instant as whoever writes YAML gives it.
    """
    if isinstance(expected, list) and isinstance(got, list):
        return len(expected) == len(got) and all(
            _is_near(*pair, tolerance) for pair in zip(expected, got, strict=True)
        )
    if isinstance(got, datetime) and isinstance(expected, date | str):
        return instant_of(expected) == instant_of(got)
    if isinstance(got, int | float) and isinstance(expected, int | float):
        return math.isclose(expected, got, rel_tol=tolerance, abs_tol=EXACT)
    return bool(expected == got)


def _written(value: Any) -> str:
    """A value as YAML has it."""
    if isinstance(value, float):
        return f"{value:.7g}"
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    return "null" if value is None else str(value)
