"""What all contracts share: Arrow types, a gate, and the rows that break a rule.

A contract names its relation (`Config.name`) and its key (`Config.metadata["key"]`). A check over
several columns is named `column:rule`, so that a failure can name the column to look at.
"""

import hashlib
import inspect
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import pandera.polars as pa
import polars as pl
import pyarrow as arrow
from pandera.errors import SchemaErrors

from transforms.errors import GateError

ARROW_TYPES: dict[pl.DataType, arrow.DataType] = {
    pl.String(): arrow.string(),
    pl.Binary(): arrow.binary(),
    pl.Boolean(): arrow.bool_(),
    pl.Int64(): arrow.int64(),
    pl.Float64(): arrow.float64(),
    pl.List(pl.String()): arrow.list_(arrow.string()),
    pl.List(pl.Int64()): arrow.list_(arrow.int64()),
    pl.List(pl.Float64()): arrow.list_(arrow.float64()),
    pl.List(pl.Float32()): arrow.list_(arrow.float32()),
    pl.List(pl.Float64()): arrow.list_(arrow.float64()),
    pl.Datetime("us", "UTC"): arrow.timestamp("us", "UTC"),
}
FAILURES = {"row": pl.UInt32, "column": pl.String, "rule": pl.String}


class Column(NamedTuple):
    """One column of a contract, as docs, the catalogue and Feast need it.

    A column that is not served is only stored, for an increment to continue from. `empty` is the
    value of an entity for which nothing counts, whether it was ever seen or not; None means null.
    """

    name: str
    dtype: pl.DataType
    description: str
    nullable: bool
    origin: str | None
    bounds: str
    vector_length: int | None = None
    is_served: bool = True
    empty: int | None = None


class Contract(pa.DataFrameModel):
    """Base of every relation's contract."""

    class Config:
        """No column may be missing, added or coerced."""

        strict = True
        metadata: ClassVar[dict[str, Any]] = {}

    @classmethod
    def relation(cls) -> str:
        """Name the relation, e.g. `staging.records`."""
        return str(cls.to_schema().name)

    @classmethod
    def key(cls) -> list[str]:
        """Name the columns that identify a row."""
        return list(cls.Config.metadata["key"])

    @classmethod
    def entity(cls) -> list[str]:
        """Name the columns that identify an entity of a view: the key without the row's times."""
        return [name for name in cls.key() if name not in {"event_timestamp", "created_timestamp"}]

    @classmethod
    def version(cls) -> int:
        """Number the contract's rules.

        The number rises when a rule changes, so a rejected row can say which rules it was checked
        against.
        """
        return int(cls.Config.metadata["version"])

    @classmethod
    def columns(cls) -> list[Column]:
        """Describe every column, in order."""
        return [
            Column(
                name=str(name),
                dtype=column.dtype.type,
                description=column.description or "",
                nullable=column.nullable,
                origin=(column.metadata or {}).get("origin"),
                bounds=_bounds(column.checks),
                vector_length=(column.metadata or {}).get("vector_length"),
                is_served=(column.metadata or {}).get("served", True),
                empty=(column.metadata or {}).get("empty"),
            )
            for name, column in cls.to_schema().columns.items()
        ]

    @classmethod
    def served(cls) -> list[Column]:
        """Describe the served columns of a feature view: its entity and its served features."""
        return [
            column
            for column in cls.columns()
            if column.is_served and column.name not in {"event_timestamp", "created_timestamp"}
        ]

    @classmethod
    def rules(cls) -> list[str]:
        """Name every rule that a row must meet, as a rejected row names it: `column: rule`."""
        schema = cls.to_schema()
        rules = [
            f"{name}: {rule}"
            for name, column in schema.columns.items()
            for rule in [
                *(["not_nullable"] if not column.nullable else []),
                *(check.error for check in column.checks),
            ]
        ]
        return rules + [str(check.name).replace(":", ": ", 1) for check in schema.checks]

    @classmethod
    def arrow_schema(cls) -> arrow.Schema:
        """Derive the Arrow schema that the relation is stored with."""
        return arrow.schema(
            [arrow.field(c.name, ARROW_TYPES[c.dtype], c.nullable) for c in cls.columns()]
        )

    @classmethod
    def failures(cls, frame: pl.DataFrame) -> pl.DataFrame:
        """List the first broken rule of every bad row, as `row` (position), `column` and `rule`.

        Raises `GateError` if columns or types differ from the contract: that is a mistake in code,
        not in data.
        """
        if dict(frame.schema) != {column.name: column.dtype for column in cls.columns()}:
            cls._refuse_shape(frame)
        broken = [
            pl.DataFrame({"row": (~is_met).arg_true()}, schema_overrides=FAILURES).with_columns(
                column=pl.lit(column), rule=pl.lit(rule)
            )
            for column, rule, is_met in cls._outcomes(frame)
            if not is_met.all()
        ]
        return pl.concat([pl.DataFrame(schema=FAILURES), *broken]).unique(
            "row", keep="first", maintain_order=True
        )

    @classmethod
    def _outcomes(cls, frame: pl.DataFrame) -> Iterator[tuple[str, str, pl.Series]]:
        """Yield each rule with whether the rows meet it, in the order in which Pandera reports.

        Pandera's `validate` runs the same checks; its report took 40 ms a batch, however small.
        """
        schema, rows = cls.to_schema(), frame.lazy()
        for name, column in schema.columns.items():
            if not column.nullable:
                yield name, "not_nullable", _is_present(frame[name])
            for check in column.checks:
                yield name, str(check.error), cls._is_met(check, rows, name)
        for check in schema.checks:
            name, _, rule = str(check.name).partition(":")
            yield name, rule, cls._is_met(check, rows)

    @classmethod
    def _is_met(cls, check: pa.Check, rows: pl.LazyFrame, *column: str) -> pl.Series:
        """Run a check over the rows; a null passes."""
        try:
            met: pl.DataFrame = check(rows, *column).check_output.collect()
        except Exception as error:
            name = check.error or check.name
            message = f"{cls.relation()}: the check {name} fails: {type(error).__name__}"
            raise GateError(message) from error
        return met.to_series()

    @classmethod
    def _refuse_shape(cls, frame: pl.DataFrame) -> None:
        """Raise `GateError` if columns or types differ from the contract."""
        try:
            cls.validate(frame.clear(), lazy=True)
        except SchemaErrors as errors:
            broken = errors.failure_cases.row(0, named=True)
            is_of_frame = broken["schema_context"] == "DataFrameSchema"
            column = broken["failure_case" if is_of_frame else "column"]
            message = (
                f"{cls.relation()}: column {column!r} breaks {broken['check']}; "
                "the frame does not have the contract's shape"
            )
            raise GateError(message) from None

    @classmethod
    def gate(cls, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the frame if every row meets the contract, else raise `GateError`."""
        failures = cls.failures(frame)
        if failures.is_empty():
            return frame
        worst = (
            failures.group_by("column", "rule")
            .len()
            .sort("len", descending=True)
            .row(0, named=True)
        )
        rows = failures.filter(column=worst["column"], rule=worst["rule"])["row"].head(5)
        keys = frame[rows.to_list()].select(cls.key())
        places = "; ".join(digest_of(*row)[:12] for row in keys.rows())
        message = (
            f"{cls.relation()}: {worst['len']} rows of a batch of {frame.height} "
            f"break {worst['column']}: {worst['rule']}; "
            f"nothing was committed. First keys (sha256 of {', '.join(cls.key())}): {places}"
        )
        raise GateError(message)


def _is_present(values: pl.Series) -> pl.Series:
    """Check for null, and for NaN, which counts as null."""
    is_present = values.is_not_null()
    return is_present & values.is_not_nan() if values.dtype.is_float() else is_present


def digest_of(*values: object) -> str:
    """Digest values with SHA-256, so that they can be compared without being shown.

    >>> digest_of("author", 7) == digest_of("author", 7), digest_of("author", 7)[:12]
    (True, 'fcbbdc57f4b4')
    """
    return hashlib.sha256("\x1f".join(str(value) for value in values).encode()).hexdigest()


def _bounds(checks: list[Any]) -> str:
    """Write a column's range as people do: `>= 0, <= 1`."""
    signs = {
        "greater_than_or_equal_to": ">=",
        "less_than_or_equal_to": "<=",
        "greater_than": ">",
        "less_than": "<",
    }
    known = [check for check in checks if check.name in signs]
    return ", ".join(
        f"{signs[check.name]} {next(iter(check.statistics.values()))}" for check in known
    )


def describe(contract: type[Contract]) -> str:
    """Say what one row of a contract is: its docstring, with a line for each paragraph."""
    paragraphs = inspect.cleandoc(contract.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
