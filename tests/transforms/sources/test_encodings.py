"""Each encoding that Python knows is read back character by character, or refused by name."""

import encodings
import encodings.aliases
import io
import json
import pkgutil
from collections.abc import Callable
from pathlib import Path

import pytest

from transforms.errors import FileRefusedError, SourceError
from transforms.sources import reading
from transforms.sources.ingest import ingest, pending_files
from transforms.sources.reading import read_payloads
from transforms.sources.source import Source, describe
from transforms.staging.mapping import _decode_row
from transforms.staging.prepare import Account
from transforms.warehouse.tables import Warehouse

MakeSource = Callable[..., Source]
Note = Callable[..., bytes]
Query = Callable[..., list[tuple[object, ...]]]
Stage = Callable[[Source], Account]

ALL = sorted(
    {module.name for module in pkgutil.iter_modules(encodings.__path__)} - {"aliases"}
    | set(encodings.aliases.aliases.values())
)
REFUSED = {
    *("base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec", "zlib_codec"),
    *("idna", "mbcs", "oem", "punycode", "raw_unicode_escape", "undefined", "unicode_escape"),
}
# of every script that some encoding covers; a line feed or quote as the second byte of a character
# would cut a row
CHARACTERS = [
    chr(code)
    for first, last in ((0xA0, 0x700), (0xE01, 0xE5C), (0x1E00, 0x2100), (0x2500, 0x2600))
    for code in range(first, last)
]
CHARACTERS += [
    chr(code)
    for first in (0x3041, 0x4E00, 0x7530, 0xAC00, 0xD000, 0xFF01)
    for code in range(first, first + 100)
]
CHARACTERS += ["\U0001f600", "\U00020000"]


def encodable(encoding: str) -> str:
    """The characters that an encoding has."""
    found = []
    for character in CHARACTERS:
        try:
            if character.encode(encoding).decode(encoding) == character:
                found.append(character)
        except UnicodeError:
            continue
    return "".join(found)


def written(path: Path, text: str, encoding: str) -> Path:
    """Write a file as Python does: one encoder, whose state carries over from line to line."""
    buffer = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    buffer.write(text)
    buffer.flush()
    path.write_bytes(buffer.buffer.getvalue())  # type: ignore[attr-defined]  # of BytesIO
    return path


def documents(path: Path, source: Source) -> list[str | None]:
    """Read a file to the JSON texts of its rows."""
    file = describe(path, None)
    assert file
    rows = [
        (header, row) for header, rows in read_payloads(file, source, 2) for row in rows.to_pylist()
    ]
    read = [_decode_row(row, header, {}, source, 1 << 24) for header, row in rows]
    assert {rejection for _, rejection in read} <= {None}
    return [document for document, _ in read]


@pytest.mark.parametrize("encoding", ALL)
def test_every_encoding_of_python_is_read_right_or_refused_by_name(
    make_source: MakeSource, tmp_path: Path, encoding: str
) -> None:
    if encoding in REFUSED:
        with pytest.raises(
            SourceError, match=f"encoding: '{encoding}' is not a known encoding of files"
        ):
            make_source(tmp_path, encoding=encoding)
        return
    source = make_source(tmp_path, encoding=encoding, delimiter=";")
    texts = ["plain", encodable(encoding), 'a "quoted" one; ~{x~}', "last"]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    found = documents(
        written(tmp_path / "a.jsonl", "".join(f"{line}\n" for line in lines), encoding), source
    )
    assert [json.loads(document or "") for document in found] == [{"text": text} for text in texts]
    header = "id;author;subject;written;known;text;label"
    quoted = ['"{}"'.format(text.replace('"', '""') + "\nnext line") for text in texts]
    content = "\r\n".join([header, *(f"1;a;b;c;d;{text};" for text in quoted)])
    rows = documents(written(tmp_path / "a.csv", content, encoding), source)
    assert [json.loads(row or "")["text"] for row in rows] == [
        f"{text}\nnext line" for text in texts
    ]


@pytest.mark.parametrize("width", [16, 32])
@pytest.mark.parametrize("order", ["le", "be"])
@pytest.mark.parametrize("has_mark", [True, False])
@pytest.mark.parametrize("says_order", [True, False])
@pytest.mark.parametrize("chunk_bytes", [1, 3, 1 << 20])
def test_wide_text_is_read_with_and_without_a_byte_order_mark(
    make_source: MakeSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    order: str,
    has_mark: bool,  # noqa: FBT001 - a case
    says_order: bool,  # noqa: FBT001 - a case
    chunk_bytes: int,
) -> None:
    monkeypatch.setattr(reading, "CHUNK_BYTES", chunk_bytes)
    # its bytes contain line feeds where no line ends
    text = '{"text": "\u010a \u0a0a caf\u00e9 \U0001f600"}'
    content = ("\ufeff" * has_mark + f"{text}\n{text}").encode(f"utf-{width}-{order}")
    (tmp_path / "a.jsonl").write_bytes(content)
    source = make_source(
        tmp_path, encoding=f"utf-{width}-{order}" if says_order else f"utf-{width}"
    )
    assert documents(tmp_path / "a.jsonl", source) == [text, text]


@pytest.mark.parametrize(
    ("content", "encoding", "said"),
    [
        (
            "\ufeff{}".encode("utf-16-le"),
            "utf-8",
            "is utf-16-le by its first bytes, not utf-8; set `encoding: utf-16-le`",
        ),
        (
            '{"a"'.encode("utf-16-le"),
            "utf-8",
            "is utf-16-le by its first bytes, not utf-8; set `encoding: utf-16-le`",
        ),
        (
            '{"a"'.encode("utf-16-be"),
            "latin-1",
            "is utf-16-be by its first bytes, not iso8859-1; set `encoding: utf-16-be`",
        ),
        (
            '{"a"'.encode("utf-16-be"),
            "utf-16-le",
            "is utf-16-be by its first bytes, not utf-16-le; set `encoding: utf-16-be`",
        ),
        (
            '{"a"'.encode("utf-32-le"),
            "utf-16",
            "is utf-32-le by its first bytes, not utf-16; set `encoding: utf-32-le`",
        ),
        (
            "\u4e00\u4e01".encode("utf-16-le"),
            "utf-16",
            "its byte order is unknown; set `encoding: utf-16-le` or utf-16-be",
        ),
        (
            b'{"a": 1}',
            "utf-32",
            "its byte order is unknown; set `encoding: utf-32-le` or utf-32-be",
        ),
        (
            '{"a": 1}\n'.encode("utf-16-le")[:-1],
            "utf-16",
            "is not text in utf-16-le to its end (truncated data)",
        ),
        (
            b"\xff\xff\xff\xff" * 3,
            "utf-32-le",
            "is not text in utf-32-le to its end (code point not in range(0x110000))",
        ),
        (
            b"\x1b$B0",
            "iso2022_jp",
            "is not text in iso2022_jp to its end (incomplete multibyte sequence)",
        ),
    ],
)
def test_a_file_in_another_encoding_is_refused_with_the_mend(
    make_source: MakeSource, tmp_path: Path, content: bytes, encoding: str, said: str
) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(FileRefusedError) as caught:
        documents(tmp_path / "a.jsonl", make_source(tmp_path, encoding=encoding))
    message = str(caught.value).removeprefix(f"{tmp_path / 'a.jsonl'}: refused, ")
    assert message.startswith(said)
    assert "\n" not in message


def test_half_a_surrogate_pair_costs_only_its_own_row(
    make_source: MakeSource, stage: Stage, tmp_path: Path, note: Note, query: Query
) -> None:
    lines = [
        note("r1").decode(),
        note("r2", text="?").decode().replace("?", "\ud83d"),
        note("r3").decode(),
    ]
    (tmp_path / "a.jsonl").write_bytes("\n".join(lines).encode("utf-16", "surrogatepass"))
    assert stage(make_source(tmp_path / "a.jsonl", encoding="utf-16")) == Account(
        read=3, staged=2, quarantined=1
    )
    assert query("select rule, row_number from quarantine.records") == [("not_utf8", 2)]


def test_a_file_read_in_a_wrong_wide_encoding_is_loaded_again_in_the_right_one(
    make_source: MakeSource, warehouse: Warehouse, tmp_path: Path, note: Note
) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        b"\n".join([note("\u4e00"), note("r2")]).decode().encode("cp500")
    )
    ingest(make_source(tmp_path / "a.jsonl", encoding="latin-1"), warehouse)
    right = make_source(tmp_path / "a.jsonl", encoding="cp500")
    assert len(pending_files(right, warehouse).files) == 1
    ingest(right, warehouse)
    assert pending_files(right, warehouse).files == []
