"""Checks of a load as a whole, before it is staged: whether its source is read correctly.

They find loads of which nearly all rows are rejected, unrelated rows that share an id, dates read
in the wrong order, and ids that belong to another source. `transforms.staging.prepare` checks each
row by itself; `transforms.profiles.drift` compares a load with those before it.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb
import polars as pl

from transforms.errors import ChecksError
from transforms.expressions import bound, column_references, quoted, sealed
from transforms.paths import scan_parquet
from transforms.profiles.profile import store, stored
from transforms.schemas.profiles import LoadCheck
from transforms.schemas.staging import AccountedFile
from transforms.sources.posts import SCHEME
from transforms.sources.source import EPOCH, Source
from transforms.sql import model
from transforms.staging.mapping import candidates_parameters
from transforms.warehouse.tables import Warehouse

# fewer rows prove nothing about a load
MIN_ROWS = 5
# share of the rejected dates that must fit the other order only; share of all dates above which
# they are no typing errors
MOST, FEW = 0.9, 0.01
NAMED_RULES = 3
FIXES = {
    "beyond_tomorrow": "check how the time is read",
    "empty": "map `text` to a column that is filled",
    "epoch_without_unit": f"give the unit: {EPOCH}",
    "exponent_form": "a spreadsheet has cut the ids; "
    "export them as text, or map another column as the key",
    "expression_failed": "fix the expression",
    "not_a_time": "give its format, e.g. strptime(created, '%d.%m.%Y %H:%M')",
    "not_after_1970": "check how the time is read",
    "not_an_object": "check `format`",
    "not_csv": "check `delimiter` and `format`",
    "not_in_the_source_encoding": "check `encoding`",
    "not_in_unit": "the numbers are not in the unit that the source file gives",
    "not_json": "check `format`",
    "not_nullable": "map a column that is filled",
    "not_text": "map a field inside it, or cast it",
    "not_utf8": "set `encoding`, e.g. windows-1252",
    "str_length(1, None)": "map a column that is filled",
    "too_few_columns": "check `delimiter`",
    "too_long": "raise MILLRACE_MAX_RECORD_BYTES",
    "too_many_columns": "check `delimiter`",
}
NUMBER = r"([0-9]{1,2})"
DAY_FIRST = rf"^\D*{NUMBER}[-/. ]{NUMBER}[-/. ](?:[0-9]{{4}}|[0-9]{{2}})(?:\D|$)"
YEAR_FIRST = rf"^\D*[0-9]{{4}}[-/. ]{NUMBER}[-/. ]{NUMBER}(?:\D|$)"
MONTHS, DAYS = 12, 31
MIN_PART = 3  # shorter parts of words reveal nothing, and occur in every message
SCHEMA = pl.DataFrame(LoadCheck.arrow_schema().empty_table()).schema
ACCOUNTED = {"source": pl.String, "load_id": pl.String}


def day_order(written: pl.Expr) -> pl.Expr:
    """Find which short number of a date must be the day: `first`, `second` or `neither`.

    It is above 12, and the other may be a month. Null where a text has no two such numbers.

    >>> dates = pl.Series(["31.01.2026", "01/31/2026", "2026-05-06", "soon"])
    >>> pl.select(day_order(pl.lit(dates))).to_series().to_list()
    ['first', 'second', 'neither', None]
    """
    one, other = (
        pl.coalesce(
            written.str.extract(pattern, group).cast(pl.Int64)
            for pattern in (YEAR_FIRST, DAY_FIRST)
        )
        for group in (1, 2)
    )
    is_month = [number.is_between(1, MONTHS) for number in (one, other)]
    is_day = [number.is_between(MONTHS + 1, DAYS) for number in (one, other)]
    return (
        pl.when(is_day[0] & is_month[1])
        .then(pl.lit("first"))
        .when(is_month[0] & is_day[1])
        .then(pl.lit("second"))
        .when(one.is_not_null())
        .then(pl.lit("neither"))
    )


def check_loads(
    connection: duckdb.DuckDBPyConnection, source: Source, warehouse: Warehouse
) -> pl.DataFrame:
    """Check the loads that `transforms.staging.prepare.split` just split, as `LoadCheck` rows."""
    of_loads = "select load_id, min(loaded_timestamp), count(*) from incoming group by load_id"
    incoming = connection.execute(of_loads).fetchall()
    loads = {load_id: loaded for load_id, loaded, _ in incoming}
    n_rows = {load_id: n for load_id, _, n in incoming}
    of_accepted = "select load_id, count(*) from accepted group by load_id"
    n_accepted = dict.fromkeys(n_rows, 0) | dict(connection.execute(of_accepted).fetchall())
    rejections = _found(connection, "rejections")
    found = [*_rejected(rejections, source, n_rows), *_collisions(connection, source, n_accepted)]
    found += [
        *_day_orders(connection),
        *_foreign_ids(connection, source),
        *_failures(connection, source, warehouse, rejections),
    ]
    rows = [
        {"source": source.name, "loaded_timestamp": loads[row["load_id"]], **row} for row in found
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def _found(connection: duckdb.DuckDBPyConnection, name: str) -> list[dict[str, Any]]:
    """Fetch the rows that a model of the checks finds."""
    rows = connection.execute(model(f"checks/{name}"))
    names = [name for name, *_ in rows.description or ()]
    return [dict(zip(names, row, strict=True)) for row in rows.fetchall()]


def watch_checks(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    warehouse: Warehouse,
    *,
    is_accepted: bool,
) -> None:
    """Check the loads that were just split and store the findings.

    Raises `ChecksError` if a check stops a load, unless that is accepted.
    """
    checks = check_loads(connection, source, warehouse)
    store(warehouse, LoadCheck, checks)
    if not is_accepted:
        refuse_stops(source, checks)


def refuse_replayed(
    connection: duckdb.DuckDBPyConnection, source: Source, warehouse: Warehouse
) -> None:
    """Raise `ChecksError` if the replayed rows that pass would stop a load.

    Rows that fail again stop nothing.
    """
    checks = check_loads(connection, source, warehouse).filter(pl.col("check") != "quarantined")
    refuse_stops(source, checks, "quarantine replay")


def kept_checks(warehouse: Warehouse) -> pl.DataFrame:
    """Read the findings in all loads; `is_staged` is whether the load is in the accounts."""
    checks = (
        stored(warehouse.create(LoadCheck), LoadCheck)
        if warehouse.table(LoadCheck.relation())
        else pl.LazyFrame(schema=SCHEMA)
    )
    with_accounts = warehouse.files(AccountedFile.relation())
    accounts = (
        scan_parquet(with_accounts).select("source", "load_id")
        if with_accounts
        else pl.LazyFrame(schema=ACCOUNTED)
    )
    staged = accounts.unique().with_columns(is_staged=True)
    found = checks.join(staged, on=["source", "load_id"], how="left").with_columns(
        pl.col("is_staged").fill_null(value=False)
    )
    return found.sort("loaded_timestamp", "load_id", "check", "column").collect()


def waiting(warehouse: Warehouse) -> list[str]:
    """Describe the loads that a check has stopped, and why."""
    stopped = kept_checks(warehouse).filter(~pl.col("is_staged"), verdict="stop")
    return [
        f"{row['source']}: load {row['load_id']} waits, nothing of it is staged: {finding(row)}"
        for row in stopped.to_dicts()
    ]


def notices(warehouse: Warehouse, source: str, loads: set[str]) -> list[str]:
    """Describe what the checks found in some staged loads: warnings and accepted stops."""
    found = kept_checks(warehouse).filter(
        pl.col("source") == source,
        pl.col("load_id").is_in(list(loads)),
        pl.col("verdict") != "still",
    )
    return [f"{source}: load {row['load_id']}: {finding(row)}" for row in found.to_dicts()]


def finding(check: Mapping[str, Any]) -> str:
    """Describe what a check found, and where first.

    >>> finding({"reason": "2 of 9 rows are rejected", "place": "row 4 of a.csv"})
    '2 of 9 rows are rejected (first row 4 of a.csv)'
    """
    return f"{check['reason']} (first {check['place']})" if check["place"] else str(check["reason"])


def refuse_stops(source: Source, checks: pl.DataFrame, command: str = "run") -> None:
    """Raise `ChecksError` if a check stops a load.

    None of it is staged then, so that all of it is once the source file is fixed.
    """
    stopping = checks.filter(verdict="stop")
    if stopping.is_empty():
        return
    load_id = str(stopping["load_id"][0])
    found = checks.filter(pl.col("verdict") != "still", load_id=load_id)
    reasons = [
        finding(row)
        for row in found.sort(pl.col("verdict") != "stop", maintain_order=True).to_dicts()
    ]
    message = (
        f"{source.name}: load {load_id} is stopped, nothing was staged: {'; '.join(reasons)}. "
        "Fix the source file and run again: the rows are loaded already; "
        "if they are as they should be, "
        f"millrace {command} --source FILE --accept-load stages them"
    )
    raise ChecksError(message, {"source": source.name, "load": load_id, "reasons": reasons})


def _row(
    found: Mapping[str, Any],
    check: str,
    column: str,
    limits: tuple[float | None, float | None],
    reason: str,
) -> dict[str, Any]:
    """Make a `LoadCheck` row, its verdict by the shares above which to warn and to stop."""
    n_rows, n_broken, (warn, stop) = found["n_rows"], found["n_broken"], limits
    share = n_broken / max(n_rows, 1)
    is_stop = stop is not None and share > stop and n_broken >= MIN_ROWS
    is_warn = n_broken > 0 and any(limit is not None and share > limit for limit in limits)
    verdict = "stop" if is_stop else "warn" if is_warn else "still"
    judged = {
        "warn": warn,
        "stop": stop,
        "verdict": verdict,
        "reason": reason,
        "place": _place(found),
    }
    return {
        "load_id": found["load_id"],
        "check": check,
        "column": column,
        "n_rows": n_rows,
        "n_broken": n_broken,
        **judged,
    }


def _rejected(
    rules: list[dict[str, Any]], source: Source, n_rows: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    """Check what share of each load is rejected, and by which rules."""
    for load_id, n_read in n_rows.items():
        of_load = [rule for rule in rules if rule["load_id"] == load_id]
        found = {
            "load_id": load_id,
            "n_rows": n_read,
            "n_broken": sum(rule["n_broken"] for rule in of_load),
        }
        found |= (
            {name: of_load[0][name] for name in ("source_uri", "row_number")} if of_load else {}
        )
        named = ", ".join(_rule(rule) for rule in of_load[:NAMED_RULES])
        more = f" and {len(of_load) - NAMED_RULES} more rules" if len(of_load) > NAMED_RULES else ""
        limits: tuple[float, float | None] = (
            source.warn_quarantined_ratio,
            source.max_quarantined_ratio,
        )
        reason = f"{_share(found)} are rejected (max_quarantined_ratio {limits[1]:.0%})"
        if str(found.get("source_uri", "")).startswith(SCHEME):
            # each sender has the reason as an answer, and must not stop the others' records
            limits = (min(source.warn_quarantined_ratio, source.max_quarantined_ratio), None)
        reason += f": {named}{more}" if named else ""
        yield _row(found, "quarantined", "", limits, reason)


def _rule(rule: Mapping[str, Any]) -> str:
    """Describe a rule, with how many rows it rejects and the fix."""
    fix = f"; {FIXES[rule['rule']]}" if rule["rule"] in FIXES else ""
    return f"{rule['column']}: {rule['rule']} ({rule['n_broken']:,} rows{fix})"


def _collisions(
    connection: duckdb.DuckDBPyConnection, source: Source, n_accepted: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    """Check how many rows of each load share their id with an unrelated row."""
    none = {"n_broken": 0, "n_records": 0, "source_uri": None, "row_number": None}
    collisions = {row["load_id"]: row for row in _found(connection, "collisions")}
    for load_id, n_rows in n_accepted.items():
        found = {**none, **collisions.get(load_id, {}), "load_id": load_id, "n_rows": n_rows}
        fix = ": map a column that differs for every record" if found["n_broken"] else ""
        reason = (
            f"record_id is no key in {_share(found)}: {found['n_records']:,} ids have rows that "
            "differ in author, time and text "
            f"(max_collision_ratio {source.max_collision_ratio:.1%}){fix}"
        )
        yield _row(found, "collisions", "record_id", (0.0, source.max_collision_ratio), reason)


def _day_orders(connection: duckdb.DuckDBPyConnection) -> Iterator[dict[str, Any]]:
    """Check whether dates fail just where the day is above 12; those that pass are wrong then."""
    for row in _found(connection, "day_orders"):
        order = max(("first", "second"), key=lambda name: row[f"n_{name}"])
        n_swapped, n_passed = row[f"n_{order}"], row["n_passed"]
        if (
            min(n_swapped, row["n_first_days"]) < MIN_ROWS
            or n_swapped < MOST * row["n_dates"]
            or n_swapped < FEW * (n_swapped + n_passed)
        ):
            continue
        found = {"load_id": row["load_id"], "n_rows": n_swapped + n_passed, "n_broken": n_swapped}
        reason = (
            f"{row['column']}: day and month are read in the wrong order: {n_swapped:,} dates "
            f"fail, all with a {order} number above 12, and {row['n_first_days']:,} that pass may "
            "be wrong; swap %d and %m, or tell the two orders of the file apart"
        )
        yield _row(found, "dates", row["column"], (None, 0.0), reason)


def _foreign_ids(connection: duckdb.DuckDBPyConnection, source: Source) -> Iterator[dict[str, Any]]:
    """Check whether rows would become versions of another source's records.

    A source file may allow that with `ids: shared`.
    """
    if source.ids == "shared":
        return
    for row in _found(connection, "foreign_ids"):
        reason = (
            f"{_share(row)} have the record_id of a record of source {row['sources']}: "
            "set `ids: own` if each source has ids of its own, "
            "`ids: shared` if they are about the same records"
        )
        yield {**_row(row, "ids", "record_id", (None, 0.0), reason), "verdict": "stop"}


def _failures(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    warehouse: Warehouse,
    rejections: list[dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """Explain each expression that failed: the kind of the first such value, the engine's message.

    The value itself is left out.
    """
    for row in (rule for rule in rejections if rule["rule"] == "expression_failed"):
        reason = _explain(connection, source, warehouse, row)
        reason = f"{row['column']}: the expression fails in {_share(row)}: {reason}"
        yield _row(row, "expression", row["column"], (0.0, None), reason)


def _explain(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    warehouse: Warehouse,
    place: Mapping[str, Any],
) -> str:
    """Run an expression again on the one row where it failed, so that the engine reports why."""
    from transforms.staging.judging import create_documents  # which calls this module

    expression = source.expressions()[place["column"]]
    names = sorted(column_references(expression))
    given = {name: place[name] for name in ("load_id", "source_uri", "row_number")}
    row = connection.sql(
        "from corrected_rows where load_id = $load_id and source_uri = $source_uri "
        "and row_number = $row_number",
        params=given,
    )
    with duckdb.connect() as alone, sealed() as engine:
        alone.execute("set timezone = 'UTC'")
        alone.register("given", row.to_arrow_table())
        alone.execute("create table incoming as from given")
        alone.execute("set variable field_paths = []::varchar[]")  # field types are not needed
        create_documents(alone, source, warehouse)
        engine.register("documents", alone.sql("select document from documents").to_arrow_table())
        structure = candidates_parameters(source)["structure"]
        engine.execute(
            "create temp table fields as "
            "select unnest(json_transform(document, $structure)) from documents",
            {"structure": structure},
        )
        values = (
            engine.execute(f"select {', '.join(map(quoted, names))} from fields").fetchone()
            if names
            else ()
        )
        try:
            engine.execute(f"select {bound(expression)}::varchar from fields").fetchone()
        except (duckdb.Error, UnicodeDecodeError) as error:
            said = without_values(
                error, expression, [value for value in values or () if value is not None]
            )
        else:
            said = "it does not fail on this row alone"
    kinds = [f"{name} is {kind_of(value)}" for name, value in zip(names, values or (), strict=True)]
    return f"{', '.join(kinds)}; the engine says {said}"


def kind_of(value: str | None) -> str:
    """Describe a text by its length and shape: 9 is a digit, a is a letter.

    >>> kind_of("31.01.2026, 9am")
    "text of 15 characters like '99.99.9999, 9aa'"
    """
    if value is None:
        return "null"
    shape = re.sub(r"[^\W\d_]", "a", re.sub(r"\d", "9", value[:40]))
    shape = re.sub(r"[^a9 !-/:-@\[-`{-~]", "?", shape)
    return f"text of {len(value):,} characters like {shape!r}"


def without_values(
    error: duckdb.Error | UnicodeDecodeError, expression: str, values: list[str]
) -> str:
    """Mask what an engine's message may show of a row: values, their words, quotes and numbers.

    Words of the expression stay. DuckDB cuts a long value off at some byte, so parts of its words
    are masked too, and a message that ends within a character is not shown.

    >>> error = duckdb.ConversionException("Conversion Error: invalid date: 31.01. in due::date")
    >>> without_values(error, "due::date", ["31.01."])
    'Conversion Error: invalid date: ... in due::date'
    """
    if isinstance(error, UnicodeDecodeError):
        return "a message that is no text"
    kind, _, said = str(error).partition(": ")
    lines = said.splitlines()
    detail = next(
        (line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")), ""
    )
    said = lines[0] if lines else ""
    for value in sorted(values, key=len, reverse=True):
        said = said.replace(value, "...") if value else said
    said = re.sub(
        r"\"[^\"]*\"|'[^']*'",
        lambda quoted: quoted[0] if quoted[0][1:-1] and quoted[0][1:-1] in expression else "...",
        said,
    )
    words = {word.lower() for value in values for word in re.findall(r"\w+", value)}
    of_words = "\n".join(words)
    known = {word.lower() for word in re.findall(r"\w+", expression)}

    def kept(word: re.Match[str]) -> str:
        lower = word[0].lower()
        is_part = len(lower) >= MIN_PART and lower in of_words
        is_of_row = is_part or lower in words or any(char.isdigit() for char in lower)
        return "..." if is_of_row and word[0].lower() not in known else word[0]

    said, detail = (
        re.sub(r"\w+", kept, said),
        re.sub(r"\w+", lambda word: "..." if word[0].lower() in words else word[0], detail),
    )
    return f"{kind}: {said}" + (f" ({detail})" if detail else "")


def _share(found: Mapping[str, Any]) -> str:
    share = found["n_broken"] / max(found["n_rows"], 1)
    return f"{found['n_broken']:,} of {found['n_rows']:,} rows ({share:.1%})"


def _place(found: Mapping[str, Any]) -> str:
    return (
        f"row {found['row_number']:,} of {found['source_uri'].rsplit('/', 1)[-1]}"
        if found.get("source_uri")
        else ""
    )
