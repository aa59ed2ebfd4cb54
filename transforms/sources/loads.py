"""A load: how it is named, and how its rows lie in raw, wherever they come from."""

import secrets
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from transforms.schemas.raw import RawRecord
from transforms.sources.source import SourceFile


def load_id_of(now: datetime) -> str:
    """Name a load that begins now: names sort by time."""
    return f"{now:%Y%m%dT%H%M%S%f}-{secrets.token_hex(2)}"


def begin_load(source: str) -> "Load":
    """Begin a load of a source now."""
    now = datetime.now(UTC)
    return Load(source, load_id_of(now), now)


class NewFile(NamedTuple):
    """A file that is not in raw yet, with the transaction that records its load."""

    file: SourceFile
    n_bytes: int
    transaction: str


class Load(NamedTuple):
    """Rows of a source that are loaded together."""

    source: str
    load_id: str
    loaded_timestamp: datetime

    def rows(
        self,
        source_uri: str | pa.Array,
        row_numbers: range | pa.Array,
        payloads: pa.Array,
        header: str | None = None,
    ) -> pa.RecordBatch:
        """Lay out payloads as rows of raw; `source_uri` is one for all, or one each.

        >>> load = Load("notes", "20260102T000000000000-1a2b", datetime(2026, 1, 2))
        >>> load.rows("notes.jsonl", range(1, 2), pa.array([b"{}"]))["payload"].to_pylist()
        [b'{}']
        """
        if isinstance(row_numbers, range):  # which Arrow would read number by number
            row_numbers = pa.array(np.arange(row_numbers.start, row_numbers.stop))
        values = {
            "load_id": self.load_id,
            "source": self.source,
            "source_uri": source_uri,
            "row_number": row_numbers,
            "header": header,
            "payload": payloads,
            "loaded_timestamp": self.loaded_timestamp,
        }
        schema = RawRecord.arrow_schema()
        return pa.record_batch(
            [
                value
                if isinstance(value, pa.Array)
                else pa.repeat(pa.scalar(value, field.type), len(payloads))
                for field in schema
                for value in [values[field.name]]
            ],
            schema=schema,
        )
