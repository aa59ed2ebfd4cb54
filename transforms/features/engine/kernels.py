"""What kernels make of records: the versions that stand at each instant, by the SQL model, and what is computed of each alone."""

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

import duckdb
import polars as pl
import pyarrow as pa

from transforms.errors import GateError, MillraceError
from transforms.expressions import quoted, sealed
from transforms.features.joined import joined
from transforms.features.rows import view_batches
from transforms.schemas.base import Contract
from transforms.sql import model

Kernel = Callable[[pl.LazyFrame], pl.LazyFrame]
KEY = ("record_id", "event_timestamp", "created_timestamp")
MEND = "Run compute on texts of your own to see more: what it says of a record's text is not shown"
# what these say is of code; what others say may hold a text
SAID = (NameError, AttributeError, ImportError, pl.exceptions.ColumnNotFoundError)


def record_rows(
    connection: duckdb.DuckDBPyConnection,
    contract: type[Contract],
    batch_rows: int,
    now: datetime,
    kernel: Kernel,
    *,
    is_whole: bool,
) -> Iterator[pa.RecordBatch]:
    """Compute a record view from the versions in `inserted`; `is_new` tells the instants that were not published before."""
    touched = (
        "true"
        if is_whole
        else "record_id in (select record_id from inserted union all select record_id from deleted)"
    )
    published = (
        f"select distinct record_id, event_timestamp from {contract.relation()} where {touched}"
    )
    connection.execute(f"create or replace table published_instants as {published}")
    in_effect = f"""
        select in_effect.*, published_instants.record_id is null as is_new
        from ({read_in_effect(connection, contract.Config.metadata["reads"])}) as in_effect
        left join published_instants using (record_id, event_timestamp)
    """
    for batch in connection.sql(in_effect).to_arrow_reader(batch_rows):
        versions = pl.DataFrame(batch).with_columns(
            created_timestamp=pl.lit(now, pl.Datetime("us", "UTC"))
        )
        scored = score(contract, kernel, versions).with_columns(versions["is_new"])
        yield from view_batches(contract, scored.to_arrow())


def given_name(read: str) -> str:
    """The column in which a kernel is given what it reads: `view__feature`; when it was written as `written_timestamp`, beside the key."""
    return "written_timestamp" if read == "event_timestamp" else read.replace(".", "__")


def read_in_effect(connection: duckdb.DuckDBPyConnection, reads: Sequence[str]) -> str:
    """SQL of the versions that stand from an instant on, with what is read of them, by `given_name`."""
    references = {tuple(name.split(".")) for name in reads}
    own = [
        quoted(name)
        for name in dict.fromkeys(
            ["text", *(given_name(name) for name in reads if "." not in name)]
        )
    ]
    in_effect = f"select record_id, event_timestamp, {', '.join(own)} from ({model('features/versions_in_effect')})"
    of_views = sorted(reference for reference in references if len(reference) > 1)
    if not of_views:
        return in_effect
    connection.execute(
        f"create or replace table records_in_effect as select *, event_timestamp as effective_timestamp from ({in_effect})"
    )
    features = ", ".join(
        f"{view}.{quoted(name)} as {quoted(given_name(f'{view}.{name}'))}"
        for view, name in of_views
    )
    return f"select records.* exclude (effective_timestamp), {features} from {joined('records_in_effect', references)}"


def compute_sql(
    features: Mapping[str, str], reads: Sequence[str], records: pl.LazyFrame
) -> pl.LazyFrame:
    """Compute SQL expressions over records, in their order."""
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
    """Compute features of versions, in their order: nulls where there is no text. Raises `GateError` where a kernel is not as declared."""
    is_there = versions["text"].is_not_null()
    given = versions if is_there.all() else versions.filter(is_there)
    scored = _compute(contract, kernel, given)
    if not scored.select(KEY[:2]).equals(given.select(KEY[:2])):
        message = f"{contract.relation()}: compute gave {scored.height} rows of {given.height} records; it must give each back, in order"
        raise GateError(message)
    if given.height == versions.height:
        return scored
    return versions.select(KEY).join(
        scored.drop(KEY[2]), on=KEY[:2], how="left", maintain_order="left"
    )


def _compute(contract: type[Contract], kernel: Kernel, given: pl.DataFrame) -> pl.DataFrame:
    try:
        scored = kernel(given.lazy()).select(contract.arrow_schema().names).collect()
    except MillraceError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a user's code raises is said in one line, without what it says of a text
        raise GateError(_failure(contract, kernel, error)) from None
    for column in contract.columns():
        if (found := scored.schema[column.name]) != column.dtype:
            message = f"{contract.relation()}: {column.name}: compute gives {found}, declared is {column.dtype}; cast it"
            raise GateError(message)
    return scored


def _failure(contract: type[Contract], kernel: Kernel, error: Exception) -> str:
    """Say in which line of which file compute failed, and why, if that cannot hold a text."""
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
        "Say what is to become of such a value, e.g. by try_cast(...)"
        if isinstance(error, duckdb.Error)
        else MEND
    )
    return f"{place}{contract.relation()}: compute fails: {type(error).__name__}{said}; nothing was committed. {mend}"
