"""Data files: whatever is written, each reader gets it bit for bit, and it takes little room."""

import struct
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.paths import parquet
from transforms.schemas.base import ARROW_TYPES
from transforms.schemas.raw import RawRecord
from transforms.warehouse.writer import PartWriter, parquet_writer

N_MANY = 5000
INSTANT = pa.timestamp("us", "UTC")
NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-9, 9)
VALUES: dict[pa.DataType, st.SearchStrategy[object]] = {
    pa.string(): st.text(),
    pa.binary(): st.binary(),
    pa.bool_(): st.booleans(),
    pa.int64(): NUMBERS,
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats(),
    INSTANT: st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - bounds of hypothesis have no zone
}
READERS: dict[str, Callable[[Path], pa.Table]] = {
    "DuckDB": lambda path: parquet(duckdb.connect(), [path]).to_arrow_table(),
    "Polars": lambda path: pl.read_parquet(path).to_arrow(compat_level=pl.CompatLevel.oldest()),
    "pyarrow": pq.read_table,
}


def values_of(of: pa.DataType) -> st.SearchStrategy[object]:
    """Values of a type, or null."""
    return st.none() | (
        st.lists(values_of(of.value_type), max_size=3) if pa.types.is_list(of) else VALUES[of]
    )


@st.composite
def rows(draw: st.DrawFn) -> pa.RecordBatch:
    """Rows with a column of each type that contracts know, of few or of many different values."""
    n = draw(st.sampled_from([0, 1, 40, 400]))
    columns = {}
    for number, of in enumerate(ARROW_TYPES.values()):
        drawn = draw(st.lists(values_of(of), min_size=1, max_size=20))
        columns[f"c{number}"] = pa.array([drawn[i % len(drawn)] for i in range(n)], of)
    return pa.record_batch(columns)


def bits(value: object) -> object:
    """A value that equals another only bit for bit: -0.0 is not 0.0, and NaN is NaN."""
    if isinstance(value, list):
        return [bits(item) for item in value]
    return struct.pack("<d", value) if isinstance(value, float) else value


def write(path: Path, batches: Sequence[pa.RecordBatch]) -> pq.FileMetaData:
    """Write batches as the data files of tables are."""
    with parquet_writer(path, batches[0].schema, batches[0]) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return pq.read_metadata(path)


@given(rows(), rows())
def test_each_reader_gets_what_was_written_bit_for_bit(
    first: pa.RecordBatch, second: pa.RecordBatch
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "part.parquet")
        write(path, [first, second])
        for name, read in READERS.items():
            found = read(path)
            for column in first.schema.names:
                written = first[column].to_pylist() + second[column].to_pylist()
                read_back = found[column].cast(first.schema.field(column).type).to_pylist()
                assert list(map(bits, read_back)) == list(map(bits, written)), (name, column)


@pytest.mark.parametrize(
    ("values", "encoding"),
    [
        pytest.param(["a", "b"] * (N_MANY // 2), "RLE_DICTIONARY", id="words that repeat"),
        pytest.param([f"a{n}" for n in range(N_MANY)], "DELTA_LENGTH_BYTE_ARRAY", id="ids"),
        pytest.param([b"%d" % n for n in range(N_MANY)], "PLAIN", id="payloads"),
        pytest.param([n % 7 for n in range(N_MANY)], "RLE_DICTIONARY", id="counts that repeat"),
        pytest.param(list(range(N_MANY)), "DELTA_BINARY_PACKED", id="running numbers"),
        pytest.param([n**5 for n in range(N_MANY)], "PLAIN", id="numbers far apart"),
        pytest.param([1 / (n + 1) for n in range(N_MANY)], "PLAIN", id="fractions"),
        pytest.param([[0.0, 0.5]] * N_MANY, "RLE_DICTIONARY", id="lists of what repeats"),
        pytest.param([datetime.fromtimestamp(0, UTC)] * 3, "DELTA_BINARY_PACKED", id="instants"),
    ],
)
def test_values_are_encoded_by_how_they_repeat(
    tmp_path: Path, values: list[object], encoding: str
) -> None:
    written = write(tmp_path / "part.parquet", [pa.record_batch({"c": values})])
    column = written.row_group(0).column(0)
    # the words of a dictionary are plain
    assert set(column.encodings) - {"RLE"} == {encoding} | (
        {"PLAIN"} if encoding == "RLE_DICTIONARY" else set()
    )
    # readers skip a row group by its least and greatest value
    assert column.statistics.has_min_max


def test_few_rows_are_one_file_however_many_batches_they_come_in(tmp_path: Path) -> None:
    row = {
        **dict.fromkeys(("load_id", "source", "source_uri", "header"), ""),
        "row_number": 1,
        "payload": b"",
        "loaded_timestamp": datetime(2026, 1, 1, tzinfo=UTC),
    }
    writer = PartWriter(tmp_path, RawRecord, tmp_path / "journal")
    for _ in range(20):
        writer.write(pa.RecordBatch.from_pylist([row], RawRecord.arrow_schema()))
    (action,) = writer.close()
    assert pq.read_metadata(tmp_path / action.path).num_rows == 20
