"""The fields of a source's rows, load by load, compared with those of the loads before.

They are the top-level fields of the JSON object that a row is read as: those of its header for CSV,
its columns for Parquet. A field is known if an earlier load let it in or the source file names it.
Integers and other numbers count as one type, and null fits every type.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from transforms.paths import scan_parquet
from transforms.schemas.fields import SourceField
from transforms.sources.reading import parse_csv
from transforms.sources.source import Source
from transforms.sql import model
from transforms.text.pii import mask
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

PLACE_OF_A_SHAPE = ("load_id", "source_uri", "structure")
# DuckDB's types of JSON values; an empty object is of type JSON
DUCKDB_TYPES = {
    "VARCHAR": "text",
    "BOOLEAN": "boolean",
    "NULL": "null",
    "'NULL'": "null",  # in a list
    "DOUBLE": "number",
    "ARRAY": "array",
    "OBJECT": "object",
    "JSON": "object",
}
# names that need no quoting in a path; of a row with any other name the structure is read instead
PLAIN_NAME = re.compile(r"[\w .:/-]+")
MAX_EXPECTED, SAMPLED_ROWS = 200, 1_000
# field names may be data, e.g. ids, without end: all beyond these count as one field
MAX_FIELDS, OTHERS = 1_000, "(others)"
MAX_STRUCTURES = 10_000
NOTICED = 10
UNFIT = {"new": "unknown_field", "retyped": "retyped_field"}

Pair = tuple[str, str]
Known = dict[str, set[str]]


class Shape(NamedTuple):
    """Rows of one file and load with the same fields; None if they could not be read as objects."""

    load_id: str
    source_uri: str
    fields: frozenset[Pair] | None


class RejectedShape(NamedTuple):
    """A shape whose rows are quarantined, because one of its fields breaks a rule."""

    shape_id: int
    column: str
    rule: str


class Compared(NamedTuple):
    """Rows for `profiles.fields`, the rejected shapes, and what stops a frozen source."""

    rows: list[tuple[Any, ...]]
    rejected: list[RejectedShape]
    stops: list[str]

    def batches(self) -> list[pa.RecordBatch]:
        """Convert the rows to Arrow, to be published."""
        schema = SourceField.arrow_schema()
        batches: list[pa.RecordBatch] = pa.Table.from_pylist(
            [dict(zip(schema.names, row, strict=True)) for row in self.rows], schema
        ).to_batches()
        return batches


class Shapes:
    """The shapes of rows, counted batch by batch; each structure is resolved once."""

    def __init__(self, expected: Sequence[str]) -> None:
        self._expected = expected
        self.ids: dict[Shape, int] = {}
        self.n_rows: Counter[int] = Counter()
        self.loaded: dict[str, datetime] = {}
        self._names: dict[str, str] = {}
        self._structures: dict[str | None, frozenset[Pair] | None] = {}

    def count(self, batch: pa.RecordBatch) -> np.ndarray:
        """Count a batch's rows by shape; return the id of each row's shape.

        Reads the columns `PLACE_OF_A_SHAPE` and `loaded_timestamp`.
        """
        encoded = [batch.column(name).dictionary_encode() for name in PLACE_OF_A_SHAPE]
        codes = np.zeros(batch.num_rows, np.int64)
        for column in encoded:
            n_values = len(column.dictionary)
            codes = codes * (n_values + 1) + column.indices.fill_null(n_values).to_numpy(
                zero_copy_only=False
            )
        _, first, inverse, counts = np.unique(
            codes, return_index=True, return_inverse=True, return_counts=True
        )
        ids = [self._id(batch, int(row)) for row in first]
        for number, count in zip(ids, counts.tolist(), strict=True):
            self.n_rows[number] += count
        return np.array(ids, np.int64)[inverse]

    def by_load(self) -> Iterator[tuple[str, dict[int, Shape]]]:
        """Yield the shapes of each load, in order; a load with no readable row is left out."""
        for load in sorted(self.loaded):
            shapes = {
                number: shape
                for shape, number in self.ids.items()
                if shape.load_id == load and shape.fields is not None
            }
            if shapes:
                yield load, shapes

    def _id(self, batch: pa.RecordBatch, row: int) -> int:
        load, uri, structure = (batch.column(name)[row].as_py() for name in PLACE_OF_A_SHAPE)
        self.loaded.setdefault(load, batch.column("loaded_timestamp")[row].as_py())
        return self.ids.setdefault(Shape(load, uri, self._fields(structure)), len(self.ids))

    def _fields(self, structure: str | None) -> frozenset[Pair] | None:
        if structure not in self._structures:
            if len(self._structures) >= MAX_STRUCTURES:
                self._structures.clear()
            self._structures[structure] = (
                None
                if structure is None
                else frozenset(self._named(fields_of(structure, self._expected)))
            )
        return self._structures[structure]

    def _named(self, fields: Iterable[Pair]) -> list[Pair]:
        """Mask the names of fields; those past the first `MAX_FIELDS` share one name."""
        pairs = list(fields)
        fresh = sorted({name for name, _ in pairs} - self._names.keys())[
            : MAX_FIELDS - len(self._names)
        ]
        self._names.update(zip(fresh, mask(fresh), strict=True))
        return [(self._names.get(name, OTHERS), kind) for name, kind in pairs]


def expect(connection: duckdb.DuckDBPyConnection, source: Source, known: Known) -> list[str]:
    """List the fields that `incoming` probably has; set the paths, which `documents` reads."""
    sampled = [
        name
        for (name,) in connection.execute(
            model("profiles/sampled_fields"), {"n_rows": SAMPLED_ROWS}
        ).fetchall()
    ]
    headers = connection.execute(
        "select distinct header from incoming where header is not null limit 10"
    ).fetchall()
    columns = [name for (header,) in headers for name in parse_csv(header, source.delimiter)]
    names = dict.fromkeys([*source.fields(), *source.attributes, *known, *columns, *sampled])
    expected = [name for name in names if PLAIN_NAME.fullmatch(name)][:MAX_EXPECTED]
    connection.execute(
        "set variable field_paths = $paths::varchar[]",
        {"paths": [f'$."{name}"' for name in expected]},
    )
    return expected


def fields_of(structure: str, expected: Sequence[str]) -> Iterator[Pair]:
    """Yield the fields and types of a row, by its `structure` in `documents`.

    The structure is an object, the types of the expected fields in their order, or names alone,
    whose type is null.

    >>> list(fields_of('{"n":"UBIGINT","tags":["VARCHAR"]}', []))
    [('n', 'integer'), ('tags', 'array')]
    >>> list(fields_of("[VARCHAR, NULL]", ["text", "label"]))
    [('text', 'text')]
    """
    if structure.startswith("{"):
        yield from ((name, _type(kind)) for name, kind in json.loads(structure).items())
    elif structure.startswith("[["):
        yield from ((name, "null") for name in json.loads(structure)[0])
    else:
        types = structure[1:-1].split(", ")
        yield from (
            (name, _type(kind))
            for name, kind in zip(expected, types, strict=True)
            if kind != "NULL"
        )


def known_fields(
    connection: duckdb.DuckDBPyConnection, source: str, but: Iterable[str] = ()
) -> Known:
    """Fetch the fields that a source's loads let in, with their types; skip the loads `but`."""
    rows = connection.execute(
        model("profiles/known_fields"), {"source": source, "but": list(but)}
    ).fetchall()
    return {field: set(types) for field, types in rows}


class _Load(NamedTuple):
    """A load's shapes by id, its fields' changes, the unfit ones, the types of missing fields."""

    load_id: str
    shapes: dict[int, Shape]
    changes: dict[Pair, str]
    unfit: set[Pair]
    missing: dict[str, str]

    def rejected(self) -> list[RejectedShape]:
        """List the shapes with an unfit field; the first of these, by name, is the reason."""
        firsts = {
            number: min(self.unfit & (shape.fields or frozenset()), default=None)
            for number, shape in self.shapes.items()
        }
        return [
            RejectedShape(number, pair[0], UNFIT[self.changes[pair]])
            for number, pair in firsts.items()
            if pair
        ]

    def n_passed(self, n_rows: Counter[int], rejected: list[RejectedShape]) -> Counter[Pair]:
        """Count the rows that have each field, without those of rejected shapes."""
        passed: Counter[Pair] = Counter()
        for number in self.shapes.keys() - {shape.shape_id for shape in rejected}:
            passed.update(dict.fromkeys(self.shapes[number].fields or (), n_rows[number]))
        return passed

    def stops(self, known: Known, declared: set[str]) -> Iterator[str]:
        """Describe the changes that a frozen source refuses, with the first file that has each."""
        for pair in sorted(self.unfit):
            file = min(
                shape.source_uri for shape in self.shapes.values() if pair in (shape.fields or ())
            )
            yield f"{file}: {in_words(*pair, self.changes[pair], known.get(pair[0]))}"
        yield from (
            in_words(name, kind, "missing")
            for name, kind in self.missing.items()
            if name in declared and name in known
        )


def newest_load(warehouse: Warehouse, source: str) -> str:
    """Find the newest load of a source whose fields are recorded; empty if there is none."""
    of_source = _recorded(warehouse, source)
    return of_source.select(pl.col("load_id").max()).collect().item() or ""


def _recorded(warehouse: Warehouse, source: str) -> pl.LazyFrame:
    files = warehouse.files(SourceField.relation())
    empty = pl.DataFrame(SourceField.arrow_schema().empty_table()).lazy()
    return (scan_parquet(files) if files else empty).filter(source=source)


def notices(warehouse: Warehouse, source: Source, after: str) -> list[str]:
    """Describe how the fields of a source changed in the loads after `after`."""
    is_as_before = pl.col("change").is_in(["first", "same"])
    changed = _recorded(warehouse, source.name).filter(~is_as_before, pl.col("load_id") > after)
    if changed.head(1).collect().is_empty():
        return []
    with connect(warehouse, of=(SourceField.relation(),)) as connection:
        rows = connection.execute(
            model("profiles/field_changes"), {"source": source.name, "after": after}
        ).fetchall()
    lines = [_notice(source, *row) for row in rows[:NOTICED]]
    more = len(rows) - NOTICED
    return lines + (
        [f"{source.name}: {more:,} more fields changed; profiles.fields has them all"]
        if more > 0
        else []
    )


def _notice(source: Source, load: str, field: str, kind: str, change: str, n_rows: int) -> str:
    line = f"{source.name}, load {load}: field {in_words(field, kind, change)}"
    if change == "missing":
        is_read = field in {*source.fields(), *source.attributes}
        return line + (", though the source file reads it" if is_read else "")
    return line + (f", in {n_rows:,} rows" if n_rows else "; the rows with it are in quarantine")


def compare(shapes: Shapes, known: Known, source: Source, *, is_replay: bool = False) -> Compared:
    """Compare the fields of each load with those known by then; the first load defines them.

    The loads of a replay were compared before, so only new and retyped fields that pass now are
    recorded, and a frozen source rejects rows instead of stopping.
    """
    rejects = source.schema_policy == "quarantine" or (
        is_replay and source.schema_policy == "freeze"
    )
    declared = set(mask(sorted({*source.fields(), *source.attributes})))
    known = {field: set(types) for field, types in known.items()}
    compared = Compared([], [], [])
    for load, of_load in shapes.by_load():
        changed = _changes(load, of_load, known, declared)
        rejected = changed.rejected() if rejects else []
        passed = changed.n_passed(shapes.n_rows, rejected)
        rows = [(*pair, passed[pair], change) for pair, change in changed.changes.items()]
        rows += [(field, kind, 0, "missing") for field, kind in changed.missing.items()]
        rows = [row for row in rows if row[2] and row[3] in UNFIT] if is_replay else rows
        compared.rows.extend((source.name, load, shapes.loaded[load], *row) for row in sorted(rows))
        compared.rejected.extend(rejected)
        compared.stops.extend(
            changed.stops(known, declared)
            if source.schema_policy == "freeze" and not is_replay
            else ()
        )
        for field, kind in passed if not is_replay else ():
            known.setdefault(field, set()).add(kind)
    return compared


def _changes(load: str, shapes: dict[int, Shape], known: Known, declared: set[str]) -> _Load:
    changes = {
        pair: _change(*pair, known) for shape in shapes.values() for pair in shape.fields or ()
    }
    unfit = {
        pair
        for pair, change in changes.items()
        if change == "retyped" or (change == "new" and pair[0] not in declared)
    }
    lacking = sorted({*known, *declared} - {name for name, _ in changes})
    missing = {name: min(known.get(name, set()) - {"null"}, default="null") for name in lacking}
    return _Load(load, shapes, changes, unfit, missing)


def _change(field: str, kind: str, known: Known) -> str:
    if not known:
        return "first"
    if field not in known:
        return "new"
    types = {_family(name) for name in known[field]} - {"null"}
    return "same" if kind == "null" or not types or _family(kind) in types else "retyped"


def _family(kind: str) -> str:
    """Compare integers and other numbers as one type."""
    return "number" if kind == "integer" else kind


def _type(kind: object) -> str:
    """Translate DuckDB's type of a value, or the structure of a nested one."""
    if isinstance(kind, str):
        return DUCKDB_TYPES.get(kind, "integer")
    return "array" if isinstance(kind, list) else "object"


def in_words(field: str, kind: str, change: str, known: Iterable[str] | None = None) -> str:
    """Describe the change of a field, whose name is masked already.

    >>> in_words("score", "text", "retyped", {"number", "null"})
    '"score" is text, was number'
    """
    name = json.dumps(field, ensure_ascii=False)
    if change == "retyped":
        return f"{name} is {kind}" + (
            f", was {' or '.join(sorted(set(known) - {'null'}))}" if known else ""
        )
    return f"{name} is missing" if change == "missing" else f"{name} is new ({kind})"
