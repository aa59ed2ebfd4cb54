"""What all contracts share: Arrow types, a gate, and the rows that break a rule.

A contract names its relation (`Config.name`) and its key (`Config.metadata["key"]`). A check over
several columns is named `column:rule`, so that a failure can name the column to look at.
"""

import hashlib
import inspect
import math
from functools import cache
from typing import Any, ClassVar, NamedTuple, cast

import pandera.polars as pa
import polars as pl
import pyarrow as arrow
from pandera.backends.polars.checks import PolarsCheckBackend
from pandera.constants import CHECK_OUTPUT_KEY
from pandera.errors import SchemaErrors
from pandera.polars import PolarsData

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
# a check is one query over a frame: for a few rows it takes longer to improve than to run
AS_WRITTEN = pl.QueryOptFlags.none()
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
    @cache
    def _compiled(cls) -> pa.DataFrameSchema:
        """Compile the contract once; Pandera itself does so in every thread."""
        return cls.to_schema()

    @classmethod
    def relation(cls) -> str:
        """Name the relation, e.g. `staging.records`."""
        return str(cls._compiled().name)

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
    @cache
    def columns(cls) -> tuple[Column, ...]:
        """Describe every column, in order."""
        return tuple(
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
            for name, column in cls._compiled().columns.items()
        )

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
        schema = cls._compiled()
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
    @cache
    def arrow_schema(cls) -> arrow.Schema:
        """Derive the Arrow schema that the relation is stored with."""
        return arrow.schema(
            [arrow.field(c.name, ARROW_TYPES[c.dtype], c.nullable) for c in cls.columns()]
        )

    @classmethod
    def _is_met(cls, frame: pl.DataFrame) -> bool:
        """Whether a frame meets the contract, found by one query for all of Pandera's checks.

        Pandera runs some queries a check, 50 ms for the columns of a view, however few rows there
        are. False also where Pandera has to look itself, to say what is wrong.
        """
        columns = cls._compiled().columns
        if dict(frame.schema) != {name: column.dtype.type for name, column in columns.items()}:
            return False
        if not all(_holds(frame[name], column) for name, column in columns.items()):
            return False
        bounds, others = cls._checks()
        try:
            if not all(_within(frame[name], *bound) for name, bound in bounds.items()):
                return False
            outcomes = [_outcome(*check, frame) for check in others]
            found = pl.collect_all(outcomes, optimizations=AS_WRITTEN)
        except Exception:  # noqa: BLE001 - Pandera says what a check raises
            return False
        return all(
            _passed(check, outcome[CHECK_OUTPUT_KEY])
            for (check, _), outcome in zip(others, found, strict=True)
        )

    @classmethod
    @cache
    def _checks(
        cls,
    ) -> tuple[dict[str, tuple[float, float]], list[tuple[pa.Check, str]]]:
        """List the bounds of columns, and Pandera's other checks, each with its column.

        A check of the frame has `*` for one. Bounds are compared with the least and the greatest
        value: asking Pandera took as long as computing a view of one row.
        """
        bounds: dict[str, tuple[float, float]] = {}
        others: list[tuple[pa.Check, str]] = []
        for name, column in cls._compiled().columns.items():
            for check in column.checks:
                least, most = bounds.get(str(name), (-math.inf, math.inf))
                limit: Any = next(iter((check.statistics or {}).values()), None)
                is_flag = check.name == "isin" and tuple(limit) == (0, 1)
                if is_flag and check.ignore_na and column.dtype.type.is_integer():
                    bounds[str(name)] = (max(least, 0), min(most, 1))
                elif check.name == "greater_than_or_equal_to" and check.ignore_na:
                    bounds[str(name)] = (max(least, limit), most)
                elif check.name == "less_than_or_equal_to" and check.ignore_na:
                    bounds[str(name)] = (least, min(most, limit))
                else:
                    others.append((check, str(name)))
        return bounds, [*others, *((check, "*") for check in cls._compiled().checks)]

    @classmethod
    def failures(cls, frame: pl.DataFrame) -> pl.DataFrame:
        """List the first broken rule of every bad row, as `row` (position), `column` and `rule`.

        Raises `GateError` if columns or types differ from the contract: that is a mistake in code,
        not in data.
        """
        if cls._is_met(frame):
            return pl.DataFrame(schema=FAILURES)
        try:
            cls.validate(frame, lazy=True)
        except SchemaErrors as errors:
            cases: pl.DataFrame = errors.failure_cases
        else:
            return pl.DataFrame(schema=FAILURES)
        shape = cases.filter(pl.col("index").is_null())
        if shape.height:
            broken = shape.row(0, named=True)
            is_of_frame = broken["schema_context"] == "DataFrameSchema"
            column = broken["failure_case" if is_of_frame else "column"]
            message = (
                f"{cls.relation()}: column {column!r} breaks {broken['check']}; "
                "the frame does not have the contract's shape"
            )
            raise GateError(message)
        named = pl.col("check").str.split_exact(":", 1).struct.rename_fields(["column", "rule"])
        of_frame = pl.col("schema_context") == "DataFrameSchema"
        return cases.select(
            row=pl.col("index").cast(pl.UInt32),
            column=pl.when(of_frame).then(named.struct.field("column")).otherwise("column"),
            rule=pl.when(of_frame).then(named.struct.field("rule")).otherwise("check"),
        ).unique("row", keep="first", maintain_order=True)

    @classmethod
    def gate(cls, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the frame if every row meets the contract, else raise `GateError`."""
        if cls._is_met(frame):
            return frame
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


def _holds(values: pl.Series, column: Any) -> bool:
    """Whether values are there and differ where they must; Pandera takes NaN for no value."""
    is_there = column.nullable or not (
        values.null_count() or (values.dtype.is_float() and values.is_nan().any())
    )
    return is_there and not (column.unique and values.is_duplicated().any())


def _within(values: pl.Series, least: float, most: float) -> bool:
    """Whether all values that are there are within bounds; False also where one is NaN."""
    if values.null_count() == len(values):
        return True
    smallest, largest = cast("Any", (values.min(), values.max()))
    is_number = not values.dtype.is_float() or not math.isnan(cast("float", values.sum()))
    return bool(least <= smallest and largest <= most and is_number)


def _outcome(check: pa.Check, name: str, frame: pl.DataFrame) -> pl.LazyFrame:
    """Ask a check of Pandera's about a column, or the frame: whether each row passes."""
    outcome: pl.LazyFrame = PolarsCheckBackend(check).apply(PolarsData(frame.lazy(), name))
    return outcome


def _passed(check: pa.Check, outcome: pl.Series) -> bool:
    """Whether all rows pass; one of which a check says nothing does so where it ignores nulls."""
    return (check.ignore_na or not outcome.null_count()) and outcome.all()


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
