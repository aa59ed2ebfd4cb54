"""How kernels run: over the versions in effect at each instant, with checks of their results."""

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from functools import partial
from threading import Lock
from typing import Any, Protocol, TypeVar

import duckdb
import polars as pl
import pyarrow as pa

from transforms.ahead import ahead
from transforms.errors import GateError, MillraceError
from transforms.expressions import quoted, sealed
from transforms.features.joined import joined
from transforms.features.rows import view_batches
from transforms.schemas.base import Contract
from transforms.sql import model

Kernel = Callable[[pl.LazyFrame], pl.LazyFrame]
KEY = ("record_id", "event_timestamp", "created_timestamp")
MEND = "Run compute on texts of your own to see more: errors about a record's text are not shown"
# the messages of these errors are about code; those of others may contain a text
SAID = (NameError, AttributeError, ImportError, pl.exceptions.ColumnNotFoundError)


class Computed(Protocol):
    """A record view, with the kernel that computes it."""

    contract: type[Contract]
    kernel: Kernel


AView = TypeVar("AView", bound=Computed)


def record_rows(
    connection: duckdb.DuckDBPyConnection,
    views: Sequence[AView],
    batch_rows: int,
    now: datetime,
    *,
    is_whole: bool,
) -> Iterator[tuple[AView, pa.RecordBatch]]:
    """Compute record views from the versions in `inserted`, which are read once.

    A batch goes through all kernels in one thread, so they share what they make of its texts
    (`transforms.text.shared`); the next one does meanwhile, in another. `is_new` marks the instants
    that were not published before.
    """
    changed = "select record_id from inserted union all select record_id from deleted"
    touched = "true" if is_whole else f"record_id in ({changed})"
    for beside in _published_alike(connection, views, touched):
        instants = _instants(beside[0], touched)
        connection.execute(f"create or replace table published_instants as {instants}")
        reads = sorted({name for view in beside for name in _reads(view)})
        in_effect = f"""
            select in_effect.*, published_instants.record_id is null as is_new
            from ({read_in_effect(connection, reads)}) as in_effect
            left join published_instants using (record_id, event_timestamp)
        """
        batches = connection.sql(in_effect).to_arrow_reader(batch_rows)
        compute = partial(_compute_batch, {view: _turn(view) for view in beside}, now)
        for computed in ahead(compute, batches):
            yield from computed


def _compute_batch(
    views: Mapping[AView, AbstractContextManager[Any]], now: datetime, batch: pa.RecordBatch
) -> list[tuple[AView, pa.RecordBatch]]:
    versions = pl.DataFrame(batch).with_columns(
        created_timestamp=pl.lit(now, pl.Datetime("us", "UTC"))
    )
    computed: list[tuple[AView, pa.RecordBatch]] = []
    for view, turn in views.items():
        given = dict.fromkeys((*KEY, "text", *map(given_name, _reads(view))))
        with turn:
            scored = score(view.contract, view.kernel, versions.select(*given))
        rows = scored.with_columns(versions["is_new"]).to_arrow()
        computed += ((view, rows) for rows in view_batches(view.contract, rows))
    return computed


def _turn(view: Computed) -> AbstractContextManager[Any]:
    """Let a declared kernel compute one batch at a time, for it may keep state; ours do not."""
    return nullcontext() if view.contract.__module__.startswith("transforms.") else Lock()


def _reads(view: Computed) -> tuple[str, ...]:
    reads: tuple[str, ...] = view.contract.Config.metadata["reads"]
    return reads


def _instants(view: Computed, touched: str) -> str:
    """SQL of the instants at which rows of touched records are published."""
    relation = view.contract.relation()
    return f"select distinct record_id, event_timestamp from {relation} where {touched}"


def _published_alike(
    connection: duckdb.DuckDBPyConnection, views: Sequence[AView], touched: str
) -> list[list[AView]]:
    """Group views by the instants that they have rows at: the same rows are due to each of a group.

    They differ where a view was declared after a record was taken out.
    """
    groups: dict[Any, list[AView]] = {}
    for view in views:
        digest = "select count(*), bit_xor(hash(record_id, event_timestamp))"
        (found,) = connection.sql(f"{digest} from ({_instants(view, touched)})").fetchall()
        groups.setdefault(found, []).append(view)
    return list(groups.values())


def given_name(read: str) -> str:
    """Name the column in which a kernel gets what it reads.

    The time at which the record was written has a name of its own, for `event_timestamp` is part of
    the row's key: when the version takes effect.

    >>> given_name("record_quality.n_words"), given_name("event_timestamp")
    ('record_quality__n_words', 'written_timestamp')
    """
    return "written_timestamp" if read == "event_timestamp" else read.replace(".", "__")


def read_in_effect(connection: duckdb.DuckDBPyConnection, reads: Sequence[str]) -> str:
    """SQL of the versions in effect from an instant on; `given_name` names the columns read."""
    references = {tuple(name.split(".")) for name in reads}
    own = [
        quoted(name)
        for name in dict.fromkeys(
            ["text", *(given_name(name) for name in reads if "." not in name)]
        )
    ]
    in_effect = (
        f"select record_id, event_timestamp, {', '.join(own)} "
        f"from ({model('features/versions_in_effect')})"
    )
    of_views = sorted(reference for reference in references if len(reference) > 1)
    if not of_views:
        return in_effect
    records = f"select *, event_timestamp as effective_timestamp from ({in_effect})"
    connection.execute(f"create or replace table records_in_effect as {records}")
    features = ", ".join(
        f"{view}.{quoted(name)} as {quoted(given_name(f'{view}.{name}'))}"
        for view, name in of_views
    )
    return (
        f"select records.* exclude (effective_timestamp), {features} "
        f"from {joined('records_in_effect', references)}"
    )


def compute_sql(
    features: Mapping[str, str], reads: Sequence[str], records: pl.LazyFrame
) -> pl.LazyFrame:
    """Compute SQL expressions over records, in order.

    >>> at = datetime(2026, 1, 2)
    >>> records = pl.LazyFrame({"record_id": ["a"], "event_timestamp": [at], "text": ["Hi all"]})
    >>> records = records.with_columns(created_timestamp="event_timestamp")
    >>> compute_sql({"n_chars": "length(text)"}, ("text",), records).collect()["n_chars"].item()
    6
    """
    of_views: dict[str, list[str]] = {}
    for view, _, name in (item.partition(".") for item in reads if "." in item):
        of_views.setdefault(view, []).append(
            f"{quoted(name)} := {quoted(given_name(f'{view}.{name}'))}"
        )
    structs = "".join(
        f", struct_pack({', '.join(fields)}) as {quoted(view)}" for view, fields in of_views.items()
    )
    written = "replace (written_timestamp as event_timestamp)" if "event_timestamp" in reads else ""
    values = ", ".join(f"{sql} as {quoted(name)}" for name, sql in features.items())
    given = records.with_row_index("__row").collect()
    with sealed() as connection:
        connection.register("given", given.to_arrow())
        found: pl.DataFrame = connection.sql(
            f"select {values} from (select * {written}{structs} from given) order by __row"
        ).pl()
    return given.select(KEY).hstack(found).lazy()


def score(contract: type[Contract], kernel: Kernel, versions: pl.DataFrame) -> pl.DataFrame:
    """Compute features of versions, in order: nulls where there is no text.

    Raises `GateError` where a kernel returns other rows or columns than declared.
    """
    text = versions["text"]
    given = versions.filter(text.is_not_null()) if text.null_count() else versions
    scored = _compute(contract, kernel, given)
    if not all(scored[name].equals(given[name]) for name in KEY[:2]):
        message = (
            f"{contract.relation()}: compute returned {scored.height} rows for {given.height} "
            "records; it must return each record, in order"
        )
        raise GateError(message)
    if given.height == versions.height:
        return scored
    return versions.select(KEY).join(
        scored.drop(KEY[2]), on=KEY[:2], how="left", maintain_order="left"
    )


def _compute(contract: type[Contract], kernel: Kernel, given: pl.DataFrame) -> pl.DataFrame:
    try:
        scored = _run(kernel, given, contract.arrow_schema().names)
    except MillraceError:
        raise
    except Exception as error:  # noqa: BLE001 - any error of a user's code is reported in one line
        raise GateError(_failure(contract, kernel, error)) from None
    types = scored.schema
    for column in contract.columns():
        if (found := types[column.name]) != column.dtype:
            message = (
                f"{contract.relation()}: {column.name}: compute gives {found}, "
                f"declared is {column.dtype}; cast it"
            )
            raise GateError(message)
    return scored


def _run(kernel: Kernel, given: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    of_frame = getattr(kernel, "__wrapped__", None)  # `transforms.text.measured` says why
    if of_frame is None:
        return kernel(given.lazy()).select(names).collect()
    scored: pl.DataFrame = of_frame(given)
    return scored[names]


def _failure(contract: type[Contract], kernel: Kernel, error: Exception) -> str:
    """Name the line and file in which compute failed, and why, if that cannot contain a text."""
    place = ""
    if hasattr(kernel, "__code__"):
        file = inspect.getfile(contract)
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename == file
        ]
        place = f"{file}, line {lines[-1]}: " if lines else f"{file}: "
    said = f": {str(error).partition(chr(10))[0]}" if isinstance(error, SAID) else ""
    mend = (
        "Handle such values, e.g. with try_cast(...)" if isinstance(error, duckdb.Error) else MEND
    )
    return (
        f"{place}{contract.relation()}: compute fails: {type(error).__name__}{said}; "
        f"nothing was committed. {mend}"
    )
