"""From file to payloads: bytes are kept exactly across chunks, and a truncated file is refused."""

import csv
import gzip
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from transforms.errors import FileRefusedError
from transforms.sources import reading
from transforms.sources.reading import parse_csv, read_payloads
from transforms.sources.source import Source, describe

MakeSource = Callable[..., Source]
HEADER = "id,author,subject,written,known,text,label"
# bytes in which line feeds and the marks of CSV occur more often than in usual bytes
MARKED = st.lists(
    st.sampled_from([b"\n", b"\r", b'"', b",", b"a", b"\xff", b"\x00"]), max_size=40
).map(b"".join)
FIELDS = st.text(st.sampled_from('a ,"\n\r\u00e9\U0001f600'), max_size=8)


@pytest.fixture
def read(make_source: MakeSource, tmp_path: Path) -> Callable[..., list[bytes]]:
    """Write bytes to a file and read its payloads."""

    plain = make_source(tmp_path)

    def run(content: bytes, name: str = "a.jsonl", **changes: object) -> list[bytes]:
        path = tmp_path / name
        path.write_bytes(content)
        file = describe(path, None)
        assert file
        source = make_source(tmp_path, **changes) if changes else plain
        return [row for _, rows in read_payloads(file, source, 2) for row in rows.to_pylist()]

    return run


@pytest.fixture(params=[1, 3, 7, 1 << 20])
def _chunk_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "CHUNK_BYTES", request.param)


Read = Callable[..., list[bytes]]


def zst(content: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(content, asbytes=True))


def incompressible(n_rows: int) -> bytes:
    """Rows that a compressor cannot shorten to a single block."""
    generator = np.random.default_rng(1)
    return b"".join(generator.bytes(9).hex().encode() + b"\n" for _ in range(n_rows))


def csv_of(*rows: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerows(rows)
    return buffer.getvalue()


@pytest.mark.usefixtures("_chunk_bytes")
@given(content=st.one_of(st.binary(max_size=60), MARKED))
@example(content=b"")
@example(content=b"\n")
@example(content=b"\n\n")
@example(content=b"a\r\nb")
def test_any_bytes_come_back_as_their_lines(read: Read, content: bytes) -> None:
    # which is refused as UTF-16 or UTF-32
    assume(b"\0" not in content[:4] and not content.startswith((b"\xff\xfe", b"\xfe\xff")))
    lines = content.split(b"\n")
    assert read(content) == (lines[:-1] if lines[-1] == b"" else lines)


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_compression_changes_nothing(read: Read, suffix: str) -> None:
    content = b'{"id": 1}\n\n\xff\r\n'
    packed = {"": content, ".gz": gzip.compress(content), ".zst": zst(content)}[suffix]
    assert read(packed, f"a.jsonl{suffix}") == [b'{"id": 1}', b"", b"\xff\r"]


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zst)])
def test_files_of_several_compressed_parts_are_read_to_their_end(
    read: Read, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    assert read(pack(b"a\nb") + pack(b"c\nd\n"), f"a.jsonl{suffix}") == [b"a", b"bc", b"d"]


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".zst", zst)])
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_compressed_file_cut_short_is_refused(
    read: Read, suffix: str, pack: Callable[[bytes], bytes], share: float
) -> None:
    packed = pack(incompressible(2_000))
    with pytest.raises(
        FileRefusedError,
        match=rf"a\.jsonl\{suffix}: refused, cannot be read to its end \(.+\); deliver it again$",
    ):
        read(packed[: int(len(packed) * share)], f"a.jsonl{suffix}")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_file_that_is_not_compressed_as_its_name_says_is_refused(read: Read, suffix: str) -> None:
    with pytest.raises(FileRefusedError, match="refused, cannot be read to its end"):
        read(b'{"id": 1}\n', f"a.jsonl{suffix}")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_an_empty_file_has_no_rows(read: Read, name: str) -> None:
    assert read(b"", name) == []


@pytest.mark.usefixtures("_chunk_bytes")
@given(rows=st.lists(st.lists(FIELDS, min_size=7, max_size=7), max_size=5))
@example(rows=[["1", "ann", "tea", "", "", 'she said "no"\r\nand\nleft', ""]])
def test_csv_records_come_back_unchanged_and_parse_to_their_fields(
    read: Read, rows: list[list[str]]
) -> None:
    content = f"{HEADER}\r\n{csv_of(*rows)}".encode()
    payloads = read(content, "a.csv")
    assert b"".join(payload + b"\r\n" for payload in payloads) == content[len(HEADER) + 2 :]
    assert [parse_csv(payload.decode(), ",") for payload in payloads] == rows


@given(content=MARKED)
def test_no_byte_of_a_broken_csv_file_is_dropped(read: Read, content: bytes) -> None:
    lines = content.removesuffix(b"\n").replace(b"\r", b"")
    assert b"\n".join(read(HEADER.encode() + b"\n" + content, "a.csv")).replace(b"\r", b"") == lines


def test_csv_lines_may_end_without_a_carriage_return(read: Read) -> None:
    assert read(f"{HEADER}\n1,a\n2,b".encode(), "a.csv") == [b"1,a", b"2,b"]


def test_a_byte_order_mark_is_not_part_of_the_header(read: Read) -> None:
    assert read(f"\ufeff{HEADER}\n1".encode(), "a.csv") == [b"1"]


def test_another_delimiter_is_respected(read: Read) -> None:
    content = HEADER.replace(",", ";") + '\n1;a;b;c;d;"x\ny";\n'
    assert read(content.encode(), "a.csv", delimiter=";") == [b'1;a;b;c;d;"x\ny";']


@pytest.mark.parametrize("n_after", [0, 3, 2_500])
def test_an_unclosed_quote_costs_only_its_own_line(read: Read, n_after: int) -> None:
    after = [f"{number},ann,tea,w,k,hi,".encode() for number in range(n_after)]
    broken = b'1,ann,tea,w,k,"never closed,'
    assert read(b"\n".join([HEADER.encode(), broken, *after]) + b"\n", "a.csv") == [broken, *after]


def test_an_unclosed_quote_does_not_swallow_a_quoted_record(read: Read) -> None:
    broken, plain, quoted = (
        b'1,ann,tea,w,k,"never closed,',
        b"2,ann,tea,w,k,hi,",
        b'3,ann,tea,w,k,"a\nb",',
    )
    assert read(b"\n".join([HEADER.encode(), broken, plain, quoted, plain]), "a.csv") == [
        broken,
        plain,
        quoted,
        plain,
    ]


def test_a_record_of_more_lines_than_is_believable_falls_apart(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_LINES_OF_A_CSV_RECORD", 3)
    three, four = b'1,ann,tea,w,k,"a\nb\nc",', b'2,ann,tea,w,k,"a\nb\nc\nd",'
    assert read(b"\n".join([HEADER.encode(), three, four, three]), "a.csv") == [
        three,
        *four.split(b"\n"),
        three,
    ]


def test_a_long_field_over_several_lines_stays_one_record(read: Read) -> None:
    record = b'1,ann,tea,w,k,"' + b"x" * 200_000 + b"\n" + b'y",'
    assert read(HEADER.encode() + b"\n" + record, "a.csv") == [record]


@pytest.mark.parametrize(
    ("content", "lack"),
    [
        (
            "<!DOCTYPE html>\n<html>",
            "has no column 'author': it is HTML or XML; fetch the CSV file itself",
        ),
        ('{"id": 1}', "has no column 'author': it is JSON; set `format: jsonl`"),
        (
            "PK\x03\x04\x14",
            "has no column 'author': it is a ZIP archive or a workbook; save it as CSV",
        ),
        (
            f"sep=;\n{HEADER}",
            (
                "has no column 'author': its first line, `sep=;`, is for Excel alone; take it out "
                "and set `delimiter: ';'`"
            ),
        ),
        (
            f'"sep=\t"\r\n{HEADER}',
            "has no column 'author': its first line, `sep=\t`, is for Excel alone",
        ),
        (
            HEADER.replace(",", ";"),
            "has no column 'author': its columns are separated by ';'; set `delimiter: ';'`",
        ),
        (
            HEADER.replace(",", "\t"),
            "has no column 'author': its columns are separated by '\\t'; set `delimiter: '\\t'`",
        ),
        (
            HEADER.replace(",", " | "),
            "has no column 'author': its columns are separated by '|'; set `delimiter: '|'`",
        ),
        (
            f"{HEADER}\r1,ann",
            (
                "has no column 'author': its lines end in carriage returns alone; save it with "
                "line feeds"
            ),
        ),
        (
            f"\r\n{HEADER}",
            "has no column 'author': its first line is blank; take out the lines above the header",
        ),
        (
            f",,,,,,\n{HEADER}",
            "has no column 'author': its first line is blank; take out the lines above the header",
        ),
        (
            HEADER.replace(",", ", "),
            (
                "has no column 'author': it has ' author', with spaces around it; rename it there "
                "or write it so"
            ),
        ),
        (
            f"\ufeff\ufeff{HEADER}",
            (
                "has no column 'id': it has '\\ufeffid', alike; rename it there or write it so in "
                "the source file"
            ),
        ),
        (
            HEADER.upper(),
            (
                "has no column 'author': it has 'AUTHOR', in another case; rename it there or "
                "write it so"
            ),
        ),
        (
            HEADER.replace("written", "writen"),
            "has no column 'written': it has 'writen', alike; rename it there or write it so",
        ),
        (
            HEADER.replace("written", "day"),
            (
                "has no column 'written': it has 'id', 'author', 'subject', 'day', 'known', "
                "'text', 'label'; map one"
            ),
        ),
        (
            f'"{HEADER}',
            "has no column 'author': a quote in it is never closed; a header is one line",
        ),
        (
            "1,ann,tea,2026-01-01,2026-01-01,a secret,x",
            "has no column 'author': none of its 7 columns is one that the source reads",
        ),
        (
            "id,jo@example.org",
            "has no column 'author': it has 'id', '<EMAIL_ADDRESS>'; map one of these",
        ),
    ],
)
def test_a_csv_file_of_something_else_is_refused_with_what_it_has_and_the_mend(
    read: Read, content: str, lack: str
) -> None:
    with pytest.raises(FileRefusedError) as caught:
        read(content.encode(), "a.csv")
    message = str(caught.value)
    assert message.partition(": refused, its header ")[2].startswith(lack)
    assert "\n" not in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"{HEADER},text", "its header names 'text' twice; rename or delete one"),
        (f"{HEADER},,", "two columns of its header have no name; name them"),
    ],
)
def test_a_csv_file_with_two_columns_of_one_name_is_refused(
    read: Read, content: str, said: str
) -> None:
    with pytest.raises(FileRefusedError) as caught:
        read(content.encode(), "a.csv")
    assert str(caught.value).endswith(f"a.csv: refused, {said}")


@pytest.mark.parametrize(
    ("written", "encoding", "said"),
    [
        ("latin-1", "utf-8", "it is not text in utf-8; set its `encoding`, e.g. windows-1252"),
        ("utf-8", "windows-1252", "it is text in UTF-8, not in cp1252; set `encoding: utf-8`"),
        (
            "utf-16",
            "utf-8",
            "is utf-16-le by its first bytes, not utf-8; set `encoding: utf-16-le`",
        ),
    ],
)
def test_a_csv_header_in_another_encoding_is_refused_with_the_encoding(
    read: Read, written: str, encoding: str, said: str
) -> None:
    record = {
        "record_id": "id",
        "author_id": "author",
        "event_timestamp": "written",
        "text": "caf\u00e9",
    }
    with pytest.raises(FileRefusedError, match=re.escape(said)):
        read(f"{HEADER},caf\u00e9".encode(written), "a.csv", record=record, encoding=encoding)


def test_a_file_in_capitals_is_read(read: Read) -> None:
    assert read(gzip.compress(b"{}\n"), "A.JSONL.GZ") == [b"{}"]


def test_a_csv_file_without_a_column_for_an_attribute_is_refused(read: Read) -> None:
    with pytest.raises(FileRefusedError, match="its header has no column 'lang'"):
        read(HEADER.encode(), "a.csv", attributes=["lang"])


@pytest.mark.parametrize("text", ["a\r\nb", '"a"b', '"a\nb', "a\nb"])
def test_text_that_is_not_one_csv_record_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"records where|expected after|unexpected end|new-line"):
        parse_csv(text, ",")


def test_parquet_rows_come_as_json_objects_in_order(read: Read, tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "id": [1, 2, 3],
            "text": ["a\n", None, '"'],
            "at": pl.datetime_range(*[pl.datetime(2026, 1, 1)] * 2, eager=True).extend_constant(
                None, 2
            ),
        }
    )
    frame = frame.with_columns(zoned=pl.col("at").dt.replace_time_zone("Asia/Tokyo"))
    frame.write_parquet(tmp_path / "source.parquet")
    rows = [
        json.loads(row) for row in read((tmp_path / "source.parquet").read_bytes(), "a.parquet")
    ]
    assert [row["id"] for row in rows] == [1, 2, 3]
    assert [row["text"] for row in rows] == ["a\n", None, '"']
    assert (rows[0]["at"], rows[0]["zoned"]) == ("2026-01-01 00:00:00", "2025-12-31 15:00:00+00")


@pytest.mark.parametrize("content", [b"", b"not Parquet at all", b"PAR1 neither PAR1"])
def test_what_is_not_parquet_is_refused(read: Read, content: bytes) -> None:
    with pytest.raises(FileRefusedError, match=r"a\.parquet: refused, cannot be read to its end"):
        read(content, "a.parquet")


def test_corrupt_parquet_is_refused(read: Read, tmp_path: Path) -> None:
    pl.DataFrame({"id": range(10_000)}).write_parquet(tmp_path / "source.parquet")
    content = bytearray((tmp_path / "source.parquet").read_bytes())
    content[100:1_100] = bytes(1_000)
    with pytest.raises(FileRefusedError, match=r"a\.parquet: refused, cannot be read to its end"):
        read(bytes(content), "a.parquet")
