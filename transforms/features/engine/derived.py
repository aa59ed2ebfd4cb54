"""Features derived from others: SQL expressions over the values that views have at an instant.

The same code computes them wherever they are asked for.
"""

import hashlib
import json
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from functools import lru_cache, partial
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa

from transforms.errors import DerivedError
from transforms.expressions import bound, quoted, sealed

PLANS = 1024  # that a thread remembers
_thread = threading.local()


def derive(inputs: pl.DataFrame | pa.Table, features: Mapping[str, str]) -> pl.DataFrame:
    """Compute each feature's expression, in DuckDB's SQL, for every row of the inputs, in order.

    Times must be timestamps with a zone, in microseconds. Raises `DerivedError`, which names the
    feature, for an expression that is wrong or that cannot be computed over these columns or
    values.

    >>> inputs = pl.DataFrame({"n_records_1d": [3, 0], "n_records_28d": [28, 0]})
    >>> derive(inputs, {"burst": "n_records_1d / nullif(n_records_28d / 28.0, 0)"})
    shape: (2, 1)
    ┌───────┐
    │ burst │
    │ ---   │
    │ f64   │
    ╞═══════╡
    │ 3.0   │
    │ null  │
    └───────┘
    """
    return pl.DataFrame(
        derive_arrow(inputs if isinstance(inputs, pa.Table) else inputs.to_arrow(), features)
    )


def derive_arrow(inputs: pa.Table, features: Mapping[str, str]) -> pa.Table:
    """Compute as `derive` does, from Arrow to Arrow.

    >>> table = pa.table({"n": [3, 0]})
    >>> derive_arrow(table, {"half": "n / 2", "twice": "2 * n"}).to_pydict()
    {'half': [1.5, 0.0], 'twice': [6, 0]}
    """
    try:
        selected = ", ".join(
            f"{bound(expression)} as {quoted(name)}" for name, expression in features.items()
        )
        return _engine().run(f"select {selected} from inputs", inputs)
    except (ValueError, duckdb.Error) as error:
        if len(features) > 1:
            for name, expression in features.items():
                derive_arrow(inputs, {name: expression})  # the one that fails is named
        message = f"feature {', '.join(features)}: {_reason(error)}"
        raise DerivedError(message) from None


def digest(features: Mapping[str, str]) -> str:
    """Digest what computes features: their expressions, this module and the version of DuckDB.

    >>> digest({"half": "n / 2"}) == digest({"half": "n/2"})
    False
    """
    parts = (json.dumps(dict(features)), Path(__file__).read_text("utf-8"), duckdb.__version__)
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


class _Inputs:
    """A table that can be exchanged while its name stays registered.

    To register a table again takes as long as computing over it.
    """

    table: pa.Table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the rows to a reader of Arrow."""
        return self.table.__arrow_c_stream__(requested_schema)


class _Engine:
    """A sealed connection that stays open, with its query plans.

    It computes in the thread that asks and keeps the order of rows.
    """

    def __init__(self) -> None:
        self._open = ExitStack()
        connection = self._open.enter_context(sealed(threads=1, preserve_insertion_order="true"))
        self._inputs = _Inputs()
        self._planned = lru_cache(PLANS)(partial(_plan, connection, self._inputs))

    def run(self, sql: str, inputs: pa.Table) -> pa.Table:
        """Run a query over `inputs`."""
        self._inputs.table = inputs
        try:
            return self._planned(sql, inputs.schema).to_arrow_table()
        finally:
            del self._inputs.table


def _plan(
    connection: duckdb.DuckDBPyConnection, inputs: _Inputs, sql: str, _: pa.Schema
) -> duckdb.DuckDBPyRelation:
    connection.register("inputs", inputs)
    return connection.sql(sql)


def _engine() -> _Engine:
    """Return this thread's engine, which ends with the thread."""
    if not hasattr(_thread, "engine"):
        _thread.engine = _Engine()
    engine: _Engine = _thread.engine
    return engine


def _reason(error: Exception) -> str:
    """Say why an expression fails, without DuckDB's errors about values, which show them."""
    if isinstance(error, duckdb.BinderException | duckdb.CatalogException) or not isinstance(
        error, duckdb.Error
    ):
        return str(error).splitlines()[0]
    return f"its expression cannot be computed over these values ({type(error).__name__})"
