"""Files that are cut have the rows that they have as a whole."""

from pathlib import Path
from tempfile import NamedTemporaryFile

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transforms.histories import NOW
from transforms.errors import FileRefusedError
from transforms.sources.file_parts import OfCut, cut_file
from transforms.sources.loads import Load
from transforms.sources.reading import Extent, read_rows
from transforms.sources.source import Source, SourceFile

LOAD = Load("notes", "load", NOW)
SOURCE = Source.model_construct()


def rows(file: SourceFile, *extents: Extent | None) -> list[dict[str, object]]:
    read = (read_rows(file, SOURCE, LOAD, 9, extent) for extent in extents)
    batches = [batch for of_extent in read for batch in of_extent]
    return pa.Table.from_batches(batches).to_pylist() if batches else []


@given(
    st.lists(st.sampled_from([b"{}", b"\n", b"\r\n", b"\xff", b"{" + b"x" * 20])),
    st.integers(1, 30),
)
def test_extents_of_lines_have_the_rows_of_the_file(parts: list[bytes], n_bytes: int) -> None:
    with NamedTemporaryFile(suffix=".jsonl") as written:
        written.write(b"".join(parts))
        written.flush()
        file = SourceFile(Path(written.name), "jsonl", None)
        extents = cut_file(OfCut(file, n_bytes))
        assert rows(file, *extents) == rows(file, None)
        assert len(extents) <= 1 + sum(map(len, parts)) // n_bytes


def test_extent_that_has_other_rows_than_were_counted_is_refused(tmp_path: Path) -> None:
    file = SourceFile(tmp_path / "a.jsonl", "jsonl", None)
    file.path.write_bytes(b"1\n2\n3\n")
    extents = cut_file(OfCut(file, 4))
    assert [extent.n_rows for extent in extents] == [3]
    file.path.write_bytes(b"1\n2\n")
    with pytest.raises(FileRefusedError, match="has changed since it was listed"):
        rows(file, *extents)
