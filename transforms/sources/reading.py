"""From a file to raw rows: decompress, cut into records, keep every byte. Nothing is parsed here.

JSONL is cut at line feeds, CSV where a record ends (a quoted field may contain line feeds), and
Parquet row by row as JSON. Text in an encoding such as UTF-16, whose line feeds are not the one
byte of ASCII, is converted to UTF-8 first; no character changes. Memory is bounded by one chunk,
or by the longest record where that is longer.
"""

import codecs
import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from transforms.engines.exchange import Slice, slice_rows
from transforms.errors import FileRefusedError
from transforms.expressions import unlike
from transforms.paths import fault, parquet
from transforms.sources.loads import Load
from transforms.sources.numbers import finite_sql
from transforms.sources.source import Source, SourceFile

CHUNK_BYTES = 16 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
WIDE = ("utf-16", "utf-32")
BYTE_ORDER_MARKS = {
    "utf-32-le": codecs.BOM_UTF32_LE,  # begins as UTF-16's does
    "utf-32-be": codecs.BOM_UTF32_BE,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
}
# which of the first four bytes are zero where the first characters are ASCII (RFC 4627, section 3)
ZEROS: dict[tuple[bool, ...], str] = {
    (False, True, True, True): "utf-32-le",
    (True, True, True, False): "utf-32-be",
    (False, True, False, True): "utf-16-le",
    (True, False, True, False): "utf-16-be",
}
# not the 128 kB of Python's csv module: the limit here is `max_record_bytes`
csv.field_size_limit(2**31 - 1)
# a quoted CSV field with more line feeds than this is taken for a quote that was never closed
MAX_LINES_OF_A_CSV_RECORD = 1_000


class Extent(NamedTuple):
    """A part of a file: bytes of lines, or rows of Parquet, from `first` to before `end`.

    It has `n_rows` rows, whose numbers in the file begin at `first_row`.
    """

    first: int
    end: int
    first_row: int
    n_rows: int


def read_rows(
    file: SourceFile,
    source: Source,
    load: Load,
    batch_rows: int,
    extent: Extent | None = None,
    *,
    threads: int | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield a file's rows, or those of an extent, as rows of raw.

    Raises `FileRefusedError` as `read_payloads` does, and at the end of an extent that has not the
    rows that were counted in it.
    """
    first = extent.first_row if extent else 1
    for header, payloads in read_payloads(file, source, batch_rows, extent, threads=threads):
        rows = range(first, first + len(payloads))
        yield load.rows(file.uri, rows, payloads, header)
        first = rows.stop
    if extent and first != extent.first_row + extent.n_rows:
        message = f"{file.place}: refused, has changed since it was listed; the next run takes it"
        raise FileRefusedError(message)


def read_payloads(
    file: SourceFile,
    source: Source,
    batch_rows: int,
    extent: Extent | None = None,
    *,
    threads: int | None = None,
) -> Iterator[tuple[str | None, pa.Array]]:
    """Yield a file's rows in order, as arrays of bytes, each with its rows' CSV header or None.

    Of JSONL in an encoding that is not converted, and of Parquet, an `extent` can be read alone.
    DuckDB reads Parquet by all cores unless `threads` says by how many.

    Raises `FileRefusedError` if the file as a whole is unusable: cut short, in another format than
    its name says, without columns.

    >>> from pathlib import Path
    >>> from tempfile import NamedTemporaryFile
    >>> with NamedTemporaryFile() as file:
    ...     _ = file.write(b'{"n": 1.10}\\r\\n{"n": '), file.flush()
    ...     lines = SourceFile(Path(file.name), "jsonl", None)
    ...     [row for _, rows in read_payloads(lines, Source.model_construct(), 9) for row in rows]
    [<pyarrow.BinaryScalar: b'{"n": 1.10}\\r'>, <pyarrow.BinaryScalar: b'{"n": '>]
    """
    if reason := fault(file.path, is_parquet=file.format == "parquet"):
        message = f"{file.place!r}: refused, {reason}; rename it"
        raise FileRefusedError(message)
    with _refusal(file):
        if file.format == "parquet":
            yield from ((None, rows) for rows in _parquet_rows(file, batch_rows, extent, threads))
        elif file.format == "csv":
            yield from _csv_records(file, source, batch_rows)
        else:
            yield from ((None, rows) for rows in cut_lines(_text(file, source, extent)))


def parse_csv(text: str, delimiter: str) -> list[str]:
    """Parse one CSV record (RFC 4180); raise `ValueError` if it is not exactly one.

    >>> parse_csv('1,"says ""no"", twice",', ",")
    ['1', 'says "no", twice', '']
    """
    try:
        rows = list(csv.reader([text], delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from None
    if len(rows) != 1:
        message = f"{len(rows)} records where one is expected"
        raise ValueError(message)
    return rows[0]


@contextmanager
def _refusal(file: SourceFile) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, pa.ArrowException, duckdb.Error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        reason = reason.replace(str(file.path), file.place)
        message = f"{file.place}: refused, cannot be read to its end ({reason}); deliver it again"
        raise FileRefusedError(message) from None


def _chunks(file: SourceFile, extent: Extent | None = None) -> Iterator[bytes]:
    if extent:
        with file.path.open("rb") as stream:
            stream.seek(extent.first)
            while chunk := stream.read(min(CHUNK_BYTES, extent.end - stream.tell())):
                yield chunk
        return
    with pa.input_stream(str(file.path), compression=file.compression) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def _text(file: SourceFile, source: Source, extent: Extent | None = None) -> Iterator[bytes]:
    """Stream a file of text as it is, or as UTF-8 where its encoding cannot be cut at a byte.

    Unpaired surrogates are kept.
    """
    with pa.input_stream(str(file.path), compression=file.compression) as stream:
        encoding = _checked_encoding(file, source, stream.read(4))
    if not source.is_transcoded:
        yield from _chunks(file, extent)
        return
    decoder = codecs.getincrementaldecoder(encoding)(
        "surrogatepass" if encoding.startswith(WIDE) else "strict"
    )
    try:
        for chunk in _chunks(file):
            yield decoder.decode(chunk).encode("utf-8", "surrogatepass")
        yield decoder.decode(b"", final=True).encode("utf-8", "surrogatepass")
    except UnicodeError as error:
        reason = error.reason if isinstance(error, UnicodeDecodeError) else type(error).__name__
        message = (
            f"{file.place}: refused, is not text in {encoding} to its end ({reason}); "
            "set its `encoding`, or deliver it again"
        )
        raise FileRefusedError(message) from None


def _checked_encoding(file: SourceFile, source: Source, start: bytes) -> str:
    """Find a file's encoding with its byte order; refuse a file whose first bytes contradict it."""
    marked = next((name for name, mark in BYTE_ORDER_MARKS.items() if start.startswith(mark)), None)
    found = marked or ZEROS.get(tuple(byte == 0 for byte in start))
    if found is None and source.encoding in WIDE and start:
        message = (
            f"{file.place}: refused, its byte order is unknown; "
            f"set `encoding: {source.encoding}-le` or {source.encoding}-be"
        )
        raise FileRefusedError(message)
    if found and not found.startswith(source.encoding):
        message = (
            f"{file.place}: refused, is {found} by its first bytes, not {source.encoding}; "
            f"set `encoding: {found}`"
        )
        raise FileRefusedError(message)
    return found or source.encoding


def cut_lines(chunks: Iterator[bytes]) -> Iterator[pa.Array]:
    """Cut a stream of bytes at line feeds; the last line may lack one."""
    parts: list[bytes] = []
    for chunk in chunks:
        if b"\n" not in chunk:
            parts.append(chunk)
            continue
        buffer = b"".join([*parts, chunk])
        end = buffer.rfind(b"\n")
        parts = [buffer[end + 1 :]]
        yield _cut(buffer, end)
    last = b"".join(parts)
    if last:
        yield pa.array([last], pa.binary())


def _cut(buffer: bytes, end: int) -> pa.Array:
    """Make an Arrow array of the lines before `end`, without their line feeds."""
    offsets = pa.py_buffer(np.array([0, end], np.int32))
    lines = pa.Array.from_buffers(pa.binary(), 1, [None, offsets, pa.py_buffer(buffer)])
    return pc.split_pattern(lines, b"\n").flatten()


def _csv_records(
    file: SourceFile, source: Source, batch_rows: int
) -> Iterator[tuple[str, pa.Array]]:
    """Cut a CSV file into records by the parity of its quotes.

    A record over several lines counts only if it has as many fields as the header. Otherwise a
    quote in its first line was never closed: that line becomes a record and reading goes on at the
    next, so that one stray quote cannot swallow the file.
    """
    lines = (line for array in cut_lines(_text(file, source)) for line in array.to_pylist())
    header = next(lines, None)
    if header is None:
        return
    text = (
        header.removesuffix(b"\r")
        .removeprefix(BYTE_ORDER_MARK)
        .decode(source.payload_encoding, "replace")
    )
    columns = _header_columns(file, text, source)
    records: list[bytes] = []
    for record in _joined(lines, lambda record: _n_fields(record, source) == columns):
        records.append(record)
        if len(records) == batch_rows:
            yield text, pa.array(records, pa.binary())
            records = []
    if records:
        yield text, pa.array(records, pa.binary())


def _joined(lines: Iterator[bytes], is_record: Any) -> Iterator[bytes]:
    """Join lines while a quote is open."""
    waiting: list[bytes] = []  # lines to read again, the next one last
    joined: list[bytes] = []
    n_quotes = 0
    while True:
        line = waiting.pop() if waiting else next(lines, None)
        if line is not None:
            joined.append(line)
            n_quotes += line.count(b'"')
            if n_quotes % 2 and len(joined) < MAX_LINES_OF_A_CSV_RECORD:
                continue
        if not joined:
            return
        record = b"\n".join(joined).removesuffix(b"\r")
        if len(joined) > 1 and (n_quotes % 2 or not is_record(record)):
            record = joined[0].removesuffix(b"\r")
            waiting.extend(reversed(joined[1:]))
        joined, n_quotes = [], 0
        yield record


def _n_fields(record: bytes, source: Source) -> int:
    try:
        return len(parse_csv(record.decode(source.payload_encoding, "replace"), source.delimiter))
    except ValueError:
        return -1


def _header_columns(file: SourceFile, text: str, source: Source) -> int:
    """Count the header's columns; refuse a file whose header lacks what the mapping reads."""
    # masks identifiers, and so is slow to import
    from transforms.sources.headers import lack_of_header

    wanted = [*source.fields(), *source.attributes]
    lack = lack_of_header(text, wanted, source.delimiter, source.payload_encoding)
    if lack:
        message = f"{file.place}: refused, {lack}"
        raise FileRefusedError(message)
    names = parse_csv(text, source.delimiter)
    _refuse_alike(file, names)
    return len(names)


def _refuse_alike(file: SourceFile, fields: Iterable[str | pa.Field]) -> None:
    """Refuse a file with two fields of one level that are one to SQL, or with an unnamed column."""
    names: dict[str, str] = {}
    for field in fields:
        name = field if isinstance(field, str) else field.name
        if name.lower() in names:
            message = (
                f"{file.place}: refused, its columns {names[name.lower()]!r} and {name!r} "
                "differ by case only or not at all; rename one"
            )
            raise FileRefusedError(message)
        if not name and isinstance(field, pa.Field):
            message = f"{file.place}: refused, one of its columns has no name; name it"
            raise FileRefusedError(message)
        names[name.lower()] = name
        if isinstance(field, pa.Field):
            _refuse_alike(
                file, [field.type.field(number) for number in range(field.type.num_fields)]
            )


def _parquet_rows(
    file: SourceFile, batch_rows: int, extent: Extent | None, threads: int | None
) -> Iterator[pa.Array]:
    """Read Parquet rows as JSON objects; docs/sources.md lists what each type becomes."""
    _refuse_alike(file, pq.read_schema(file.path))
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        if threads:
            connection.execute(f"set threads = {threads}")
        rows = (
            connection.sql(slice_rows(Slice(str(file.path), extent.first, extent.end)))
            if extent
            else parquet(connection, [file.path])
        )
        row = unlike(rows.columns)  # a column of the same name would be read instead of the row
        documents = rows.set_alias(row).select(f"to_json({row})::varchar as document")
        for batch in documents.select(
            f"encode({finite_sql('document')}) as payload"
        ).to_arrow_reader(batch_rows):
            yield batch.column("payload").cast(pa.binary())
