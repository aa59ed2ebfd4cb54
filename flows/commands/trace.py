"""`millrace trace`: from a feature value back to its records, files and rows, and forward."""

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING

import click

from flows.commands import Instant, home_option, open_warehouse

if TYPE_CHECKING:
    from transforms.lineage.trace import (
        CountedRecord,
        FeatureTrace,
        FileTrace,
        RecordTrace,
        Table,
        Version,
    )

RECORD_COLUMNS = (
    "known (UTC)",
    "written (UTC)",
    "label",
    "counts in",
    "numbers",
    "record, file and row",
)


@click.command()
@click.option(
    "--record", metavar="ID", help="Every version of a record: where it came from, where it counts."
)
@click.option(
    "--feature",
    metavar="VIEW:ENTITY",
    help="A row of a view, or VIEW:FEATURE:ENTITY, and the records behind it.",
)
@click.option(
    "--source-file",
    metavar="PATH",
    help="The rows of a file, and the feature rows that depend on it.",
)
@home_option
@click.option(
    "--at",
    type=Instant(),
    metavar="INSTANT",
    help="With --feature: the instant asked for. Default: now.",
)
@click.option("--text", is_flag=True, help="With --record: the texts too.")
@click.option(
    "--limit",
    default=20,
    show_default=True,
    type=click.IntRange(min=0),
    help="How many records, instants or rows to list.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def trace(
    record: str | None,
    feature: str | None,
    source_file: str | None,
    home: str | None,
    at: datetime | None,
    *,
    text: bool,
    limit: int,
    as_json: bool,
) -> None:
    """Show where a value comes from, and what a file has affected. Nothing is written.

    \b
      millrace trace --feature author_activity:mitre --at 2024-05-20T00:00:00Z
      millrace trace --feature author_activity:n_records_7d:mitre
      millrace trace --record CVE-2024-39337
      millrace trace --source-file 2024-05-25.jsonl.zst

    A feature is recomputed from the records listed behind it; exit code 1 if the values differ.
    """
    from transforms.lineage.trace import parse_reference, trace_feature, trace_file, trace_record

    if sum(asked is not None for asked in (record, feature, source_file)) != 1:
        message = "say one of --record, --feature and --source-file"
        raise click.UsageError(message)
    warehouse = open_warehouse(home)
    if feature is not None:
        view, name, entity = parse_reference(feature)
        traced = trace_feature(
            warehouse, view, entity, at or datetime.now(UTC), feature=name, limit=limit
        )
        click.echo(
            traced.model_dump_json(indent=2) if as_json else "\n".join(_feature_lines(traced))
        )
        _fail_on_mismatch(traced)
    elif record is not None:
        of_record = trace_record(warehouse, record, with_text=text)
        click.echo(
            of_record.model_dump_json(indent=2)
            if as_json
            else "\n".join(_record_lines(of_record, limit))
        )
    elif source_file is not None:
        of_file = trace_file(warehouse, source_file)
        click.echo(
            of_file.model_dump_json(indent=2) if as_json else "\n".join(_file_lines(of_file))
        )


def _fail_on_mismatch(traced: "FeatureTrace") -> None:
    from transforms.errors import LineageError

    if not traced.mismatches:
        return
    relation = f"features.{traced.view}"
    first, *others = traced.mismatches
    more = f", and {len(others)} more do not add up" if others else ""
    is_current = all(table.is_current_code for table in traced.tables if table.relation == relation)
    mend = (
        f"remove the folder {relation.replace('.', '/')} of the home and run again"
        if is_current
        else "other code made it: run again"
    )
    message = f"{relation}: {first}{more}; {mend}"
    raise LineageError(message)


def _feature_lines(traced: "FeatureTrace") -> Iterable[str]:
    yield f"{traced.view} of {traced.entity} at {_time(traced.at)}"
    if traced.event_timestamp and traced.created_timestamp:
        yield (
            f"  row of {_time(traced.event_timestamp)}, computed {_time(traced.created_timestamp)}"
        )
    else:
        yield "  no row yet at that instant"
    yield ""
    yield f"  {'feature':<28}{'in the table':>22}{'by its records':>22}"
    for feature in traced.values:
        differs = "" if feature.adds_up else "  differs"
        yield (
            f"  {feature.feature:<28}{_value(feature.value):>22}  "
            f"{_value(feature.by_records):>20}{differs}"
        )
    yield ""
    yield (
        f"  {_counted(traced.n_records, 'record')} behind it, newest known "
        f"first{_listed(len(traced.records), traced.n_records)}"
    )
    if traced.records:
        yield from _aligned([RECORD_COLUMNS, *map(_record_cells, traced.records)])
    yield from _table_lines(traced.tables)


def _record_cells(record: "CountedRecord") -> tuple[str, ...]:
    return (
        _value(record.known_timestamp),
        _value(record.event_timestamp),
        "positive" if record.is_positive else "",
        " ".join(record.windows),
        " ".join(
            f"{_short(expression)}={_number(value)}" for expression, value in record.inputs.items()
        ),
        f"{record.record_id}, {record.source_uri}, row {record.row_number}",
    )


def _short(expression: str) -> str:
    """Leave the view's name out: `n_words` of `record_quality.n_words`."""
    column = expression.rpartition(".")[2]
    return column if column.isidentifier() else expression


def _aligned(rows: list[tuple[str, ...]]) -> Iterable[str]:
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    for row in rows:
        yield (
            "  "
            + "".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _record_lines(traced: "RecordTrace", limit: int) -> Iterable[str]:
    yield f"record {traced.record_id}: {_counted(len(traced.versions), 'version')}"
    for number, version in enumerate(traced.versions, start=1):
        yield ""
        yield f"  version {number}, known {_time(version.known_timestamp)}" + (
            ", a tombstone" if version.is_tombstone else ""
        )
        yield from _version_lines(version)
    if traced.versions:
        yield ""
        yield "  rules of staging.records, as quarantine names them; each version has passed all"
        for column, rules in groupby(
            sorted(traced.rules), key=lambda rule: rule.partition(": ")[0]
        ):
            yield f"    {column:<20}{', '.join(rule.partition(': ')[2] for rule in rules)}"
    yield ""
    n_rows = len(traced.quality_rows)
    yield (
        f"  {_counted(n_rows, 'row')} of "
        f"features.record_quality{_listed(min(limit, n_rows), n_rows)}"
    )
    for row in traced.quality_rows[:limit]:
        yield (
            f"    from {_time(row['event_timestamp'])}, computed {_time(row['created_timestamp'])}"
        )
    n_rejected = len(traced.quarantined)
    if n_rejected:
        yield ""
        yield (
            f"  {_counted(n_rejected, 'rejected row')} with the id in the "
            f"bytes{_listed(min(limit, n_rejected), n_rejected)}"
        )
    for rejected in traced.quarantined[:limit]:
        yield (
            f"    {rejected.source_uri}, row {rejected.row_number}: {rejected.column}: "
            f"{rejected.rule}"
        )
    yield from _table_lines(traced.tables)


def _version_lines(version: "Version") -> Iterable[str]:
    from transforms.lineage.trace import windows

    yield f"    written     {_time(version.event_timestamp)}"
    yield f"    author      {version.author_id}"
    yield f"    subject     {_value(version.subject_id)}"
    yield f"    row         {version.source_uri}, row {version.row_number}"
    yield from _raw_lines(version)
    yield f"    load        {version.load_id}, {_time(version.loaded_timestamp)}"
    yield f"    content     md5 {version.content_digest}"
    if version.text is not None:
        yield f"    text        {version.text}"
    if version.counts_from:
        yield (f"    counts      from {_time(version.counts_from)}, for its author and its subject")
    else:
        yield ("    counts      never: it is a tombstone, or was superseded before it took effect")
    for window in windows() if version.counts_from else ():
        until = version.counts_until.get(window, version.counts_from)
        ends = (
            "to this day"
            if until is None
            else "never"
            if until == version.counts_from
            else f"until {_time(until)}"
        )
        yield f"      {window:<10}{ends}"


def _raw_lines(version: "Version") -> Iterable[str]:
    raw = (
        "not in raw.records"
        if version.raw_bytes is None
        else f"{version.raw_bytes:,} bytes, sha256 {version.raw_digest}"
    )
    yield f"    raw row     {raw}"
    if version.corrected_timestamp:
        yield (
            f"    corrected   {_time(version.corrected_timestamp)}; read in its place: sha256 "
            f"{version.corrected_digest}"
        )


def _file_lines(traced: "FileTrace") -> Iterable[str]:
    yield f"{traced.source_uri}"
    yield (
        "  "
        f"{'load':<28}{'source':<20}{'read':>12}{'staged':>12}{'duplicates':>12}{'quarantined':>13}"
    )
    for load in traced.loads:
        counts = (
            f"{load.n_read:>12,}{load.n_staged:>12,}"
            f"{load.n_duplicates:>12,}{load.n_quarantined:>13,}"
        )
        yield f"  {load.load_id:<28}{load.source:<20}{counts}"
    yield ""
    yield (
        f"  {traced.n_records:,} records of {traced.n_authors:,} authors and "
        f"{traced.n_subjects:,} subjects"
    )
    yield ""
    yield f"  {'feature rows that depend on them':<34}{'rows':>12}{'entities':>12}"
    for view in traced.views:
        yield f"  features.{view.view:<25}{view.n_rows:>12,}{view.n_entities:>12,}"
    yield from _table_lines(traced.tables)


def _table_lines(tables: "list[Table]") -> Iterable[str]:
    yield ""
    yield f"  {'read from':<28}{'version':>8}   made from"
    for table in tables:
        made = "" if table.made_from is None else f"staging.records version {table.made_from}"
        code = "" if table.is_current_code is not False else ", by code that has changed since"
        yield f"  {table.relation:<28}{table.version:>8}   {made}{code}".rstrip()


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" + "s" * (number != 1)


def _listed(n_listed: int, n_all: int) -> str:
    return "" if n_listed == n_all else f"; {n_listed:,} listed, see --limit"


def _value(value: object) -> str:
    if isinstance(value, datetime):
        return _time(value).removesuffix(" UTC")
    if isinstance(value, int):
        return f"{value:,}"
    return "none" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return _value(int(value) if value is not None and value.is_integer() else value)


def _time(instant: datetime) -> str:
    """Write an instant in UTC, its microseconds only where it has some."""
    return (
        f"{instant:%Y-%m-%d %H:%M:%S}" + (f".{instant:%f}" if instant.microsecond else "") + " UTC"
    )
