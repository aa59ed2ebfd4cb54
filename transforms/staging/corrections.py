"""Rejected rows exported as CSV for a colleague to correct, and the corrections imported.

The rows stay as they came; a replay reads the newest correction instead.
"""

import csv
import hashlib
import io
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import polars as pl
import pyarrow as pa

from transforms.errors import CorrectionError
from transforms.schemas.staging import Correction, QuarantinedRecord
from transforms.sources.source import Source
from transforms.sql import model
from transforms.staging.prepare import split
from transforms.staging.readable import guarded, readable, unguarded, visible
from transforms.warehouse.publishing import publish
from transforms.warehouse.rewrite import PLACE
from transforms.warehouse.scratch import scratch_folder
from transforms.warehouse.snapshot import connect, create_view
from transforms.warehouse.tables import Warehouse

EXPORTED = (*PLACE, "source", "column", "rule", "payload_digest", "payload", "correction")
NEEDED = (*PLACE, "payload_digest", "correction")
DELIMITERS = ",;\t"
PLACEHOLDER = re.compile(r"<[A-Z][A-Z_]+>")
RELATION = QuarantinedRecord.relation()
ASKED = {
    "row": pl.Int64,
    "load_id": pl.String,
    "source_uri": pl.String,
    "row_number": pl.Int64,
    "payload_digest": pl.String,
    "payload": pl.Binary,
}


class Broken(NamedTuple):
    """A correction that fails too: its row in the file, and the rule it breaks."""

    row: int
    column: str
    rule: str


class Imported(NamedTuple):
    """What a file of corrections holds: how many, how many new, and which a replay will reject."""

    n_corrections: int
    n_new: int
    broken: list[Broken]


def export(warehouse: Warehouse, path: Path, rule: str | None, *, is_revealed: bool) -> int:
    """Write rejected rows as CSV, in UTF-8 with a byte order mark; return how many."""
    n_rows = 0
    try:
        with (
            connect(warehouse) as connection,
            path.open("w", encoding="utf-8-sig", newline="") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(EXPORTED)
            rows = connection.sql(
                model("staging/quarantine_rows"), params={"rule": rule, "n_rows": None}
            )
            for batch in rows.to_arrow_reader(warehouse.settings.batch_rows):
                writer.writerows(_exported(pl.DataFrame(batch), is_revealed=is_revealed))
                n_rows += batch.num_rows
    except OSError as error:
        message = f"{path}: cannot be written ({error.strerror}); choose another place"
        raise CorrectionError(message) from None
    return n_rows


def _exported(rows: pl.DataFrame, *, is_revealed: bool) -> list[list[str]]:
    payloads: list[bytes] = rows["payload"].to_list()
    texts = [visible(text, but_space=True) for text in readable(payloads, is_revealed=is_revealed)]
    added = {
        "payload": texts,
        "payload_digest": list(map(_digest, payloads)),
        "correction": [""] * rows.height,
    }
    exported = rows.with_columns(
        **{name: pl.Series(values, dtype=pl.String) for name, values in added.items()}
    )
    return [[guarded(str(value)) for value in row] for row in exported.select(EXPORTED).rows()]


def import_corrections(
    path: Path, source: Source, warehouse: Warehouse, *, is_dry: bool
) -> Imported:
    """Import the corrections of a source's rejected rows from a CSV file that `export` wrote.

    Rows without a correction are skipped, and so is a correction already in effect. All are
    imported or none: `CorrectionError` names the first row that cannot be.
    """
    asked = _read(path, source, warehouse.settings.max_record_bytes)
    with scratch_folder(warehouse.settings.root) as scratch, connect(warehouse) as connection:
        for contract in (QuarantinedRecord, Correction):
            if warehouse.table(contract.relation()) is None:
                create_view(connection, contract.relation(), [], contract.arrow_schema())
        connection.register("asked", asked.to_arrow())
        waiting: pl.DataFrame = connection.sql(
            model("staging/asked_rows"), params={"source": source.name}
        ).pl()
        _refuse_strangers(path, source, waiting)
        new = waiting.filter(pl.col("payload") != pl.col("in_effect"))
        broken = (
            _judge(connection, source, warehouse, new, scratch / "accepted.arrow")
            if new.height
            else []
        )
    if new.height and not is_dry:
        publish(warehouse, Correction, _batches(new), {})
    return Imported(asked.height, new.height, broken)


def _read(path: Path, source: Source, max_record_bytes: int) -> pl.DataFrame:
    """Read the corrections, each with its row number in a spreadsheet."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror})"
        raise CorrectionError(message) from None
    except UnicodeDecodeError:
        message = f"{path}: is not UTF-8; save it as CSV UTF-8"
        raise CorrectionError(message) from None
    head = text.partition("\n")[0]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=head.count))
    lacking = [name for name in NEEDED if name not in (rows.fieldnames or ())]
    if lacking:
        message = (
            f"{path}: has no column {lacking[0]!r}; take a file that millrace quarantine export "
            "wrote, and fill its column 'correction'"
        )
        raise CorrectionError(message)
    asked = [
        _asked(path, number, row, source, max_record_bytes)
        for number, row in enumerate(rows, start=2)
        if row["correction"]
    ]
    frame = pl.DataFrame(asked, schema=ASKED, orient="row")
    twice = frame.filter(~pl.struct(PLACE).is_first_distinct())
    if twice.height:
        message = (
            f"{path}, row {twice['row'][0]}: corrects a row that is corrected above already; "
            "leave one of the two"
        )
        raise CorrectionError(message)
    return frame


def _asked(
    path: Path, number: int, row: dict[str, str], source: Source, max_record_bytes: int
) -> tuple[Any, ...]:
    load_id, uri, row_number, digest, correction = (unguarded(row[name] or "") for name in NEEDED)
    try:
        payload = correction.encode(source.payload_encoding)
    except UnicodeEncodeError:
        message = (
            f"{path}, row {number}: its correction has characters that "
            f"{source.payload_encoding}, the encoding of {source.name}, lacks"
        )
        raise CorrectionError(message) from None
    if not row_number.isdecimal():
        message = (
            f"{path}, row {number}: row_number is not a whole number; "
            "leave all columns but 'correction' as they were exported"
        )
        raise CorrectionError(message)
    if len(payload) > max_record_bytes:
        message = (
            f"{path}, row {number}: its correction is longer than a record may be "
            f"({max_record_bytes:,} bytes)"
        )
        raise CorrectionError(message)
    return number, load_id, uri, int(row_number), digest, payload


def _refuse_strangers(path: Path, source: Source, waiting: pl.DataFrame) -> None:
    """Refuse a row no longer in quarantine, a changed row, or a mask's placeholder as data."""
    for row, digest, payload, original in (
        waiting.select("row", "payload_digest", "payload", "original").sort("row").rows()
    ):
        if original is None:
            message = (
                f"{path}, row {row}: no such row of {source.name} is in quarantine; "
                "export again and correct what is there"
            )
            raise CorrectionError(message)
        if _digest(original) != digest:
            message = (
                f"{path}, row {row}: payload_digest is not that of the row in quarantine; "
                "export again and correct that"
            )
            raise CorrectionError(message)
        (masked,) = readable([original], is_revealed=False)
        placeholders = set(PLACEHOLDER.findall(masked)) - set(
            PLACEHOLDER.findall(original.decode("utf-8", "replace"))
        )
        if placeholders & set(PLACEHOLDER.findall(payload.decode(source.payload_encoding))):
            message = (
                f"{path}, row {row}: its correction contains the mask {min(placeholders)}; "
                "export with --reveal, or write what was there"
            )
            raise CorrectionError(message)


def _judge(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    warehouse: Warehouse,
    new: pl.DataFrame,
    buffer: Path,
) -> list[Broken]:
    """Check the corrected rows against the mapping and the rules, as a replay will."""
    place = ", ".join(PLACE)
    connection.register("new_rows", new.to_arrow())
    columns = f"row, {place}, payload, now() as corrected_timestamp"
    connection.execute(f"create table corrected as select {columns} from new_rows")
    connection.execute(
        "create or replace view quarantine.corrections as select * exclude (row) from corrected"
    )
    rejected = f"from quarantine.records semi join corrected using ({place})"
    connection.execute(f"create view incoming as select records.* {rejected}")
    split(connection, source, warehouse, buffer, is_replay=True)
    found = connection.sql(
        f'select row, "column", rule from rejected join corrected using ({place}) order by row'
    ).fetchall()
    return [Broken(*item) for item in found]


def _batches(new: pl.DataFrame) -> list[pa.RecordBatch]:
    corrections = new.with_columns(
        original_digest="payload_digest", corrected_timestamp=pl.lit(datetime.now(UTC))
    )
    batches: list[pa.RecordBatch] = (
        corrections.select(Correction.arrow_schema().names)
        .to_arrow()
        .cast(Correction.arrow_schema())
        .to_batches()
    )
    return batches


def _digest(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()
