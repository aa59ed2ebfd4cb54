"""A source file: each mistake is one line that names the key and the remedy; `uri` finds files."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from transforms.errors import SourceError
from transforms.expressions import column_references
from transforms.sources.source import Source, list_files, load_source

GOOD = {
    "name": "notes",
    "uri": "notes.jsonl",
    "known": "at_load",
    "record": {
        "record_id": "id",
        "author_id": "author",
        "event_timestamp": "written",
        "text": "text",
    },
}
MakeSource = Callable[..., Source]
Write = Callable[..., Path]


def complaint(path: Path) -> str:
    """Load a source file that is wrong; return the message without the path before it."""
    with pytest.raises(SourceError) as caught:
        load_source(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


def complaint_of(folder: Path, document: object) -> str:
    path = folder / "notes.yaml"
    path.write_text(yaml.safe_dump(document), "utf-8")
    return complaint(path)


def names(source: Source) -> list[str]:
    return [file.path.name for file in list_files(source).files]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"uir": "x.jsonl"}, ": uir: is not a key of a source; did you mean 'uri'?"),
        ({"colour": "red"}, ": colour: is not a key of a source; keys are name, uri, format"),
        ({"record": {}}, ": record.record_id: is missing; add it, e.g. `record_id: ...`"),
        (
            {"record": {**GOOD["record"], "autor_id": "x"}},
            ": record.autor_id: is not a key of a source; did you mean 'author_id'?",
        ),
        ({"record": "id"}, ": record: has keys of its own, e.g. `record_id: id`"),
        (
            {"known": "sometimes"},
            ": known: give when a row could be known: at_load, at_event or {column: NAME}",
        ),
        (
            {"known": {"colum": "seen"}},
            ": known: give when a row could be known: at_load, at_event or {column: NAME}",
        ),
        ({"known": None}, ": known: give when a row could be known"),
        ({"name": "My Notes"}, ": name: string should match pattern"),
        ({"format": "xml"}, ": format: input should be 'jsonl', 'csv', 'parquet' or 'delta'"),
        ({"delimiter": ";;"}, ": delimiter: string should have at most 1 character"),
        ({"delimiter": '"'}, ": delimiter: string should match pattern"),
        (
            {"encoding": "klingon"},
            ": encoding: 'klingon' is not a known encoding of files; e.g. utf-8",
        ),
        (
            {"encoding": "undefined"},
            ": encoding: 'undefined' is not a known encoding of files; e.g. utf-8",
        ),
        (
            {"encoding": "rot13"},
            ": encoding: 'rot13' is not a known encoding of files; e.g. utf-8",
        ),
        ({"positive_labels": "bad"}, ": positive_labels: is a list, e.g. [poc, active]"),
        ({"attributes": ["*"]}, ": attributes: '*' and '' name no field; name each field"),
        ({"tombstone": "gone ="}, ": tombstone: 'gone =' is not an SQL expression over the row"),
        (
            {"known": {"column": "seen("}},
            ": known.column: 'seen(' is not an SQL expression over the row",
        ),
        (
            {"record": {**GOOD["record"], "subject_id": "ID"}},
            ": record: 'ID' and 'id' differ by case only",
        ),
    ],
)
def test_a_mistake_is_one_line_with_the_key_and_the_mend(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    assert complaint_of(tmp_path, {**GOOD, **changes}).startswith(said)


@pytest.mark.parametrize("key", ["name", "uri", "known", "record"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    said = complaint_of(tmp_path, {name: value for name, value in GOOD.items() if name != key})
    assert said.startswith(
        ": known: give when"
        if key == "known"
        else f": {key}: is missing; add it, e.g. `{key}: ...`"
    )


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("text ||", "syntax error"),
        (
            "lowr(text)",
            "may not call lowr(): it is not a function of one row's values; did you mean lower?",
        ),
        ("text::nosuch", "Type with name nosuch does not exist"),
        ("(select 1)", "may not contain a subquery"),
        ("text in (select 'a')", "may not contain a subquery"),
        ("exists(select 1)", "may not contain a subquery"),
        ("row_number() over ()", "may not contain a window"),
        ("*", "may not contain a star"),
        ("max(text)", "may not call max()"),
        ("count(*)", "may not call count_star()"),
        ("unnest(string_split(text, ','))", "may not call unnest()"),
        ("random()", "may not call random(): it gives another value in the next run"),
        ("text, author", "is not a single SQL expression"),
        ("text from elsewhere", "is not a single SQL expression"),
        ("text; drop table x", "Only SELECT"),
        ("text as words", "is not a single SQL expression"),
        ("$secret", "may not contain a parameter"),
        ("author.name", "Cannot extract field"),
        ("read_text('/etc/passwd')", "may not call read_text()"),
    ],
)
def test_what_is_no_expression_over_one_row_is_refused(
    tmp_path: Path, expression: str, reason: str
) -> None:
    said = complaint_of(tmp_path, {**GOOD, "record": {**GOOD["record"], "text": expression}})
    assert said.startswith(f": record.text: {expression!r} is not an SQL expression over the row (")
    assert reason in said


@pytest.mark.parametrize(
    "name", ["from", "at", "created-at", "Ticket ID", 'height "cm"', "a.b", "2nd", "order by"]
)
def test_what_may_be_meant_for_a_column_is_said_how_to_write(tmp_path: Path, name: str) -> None:
    said = complaint_of(tmp_path, {**GOOD, "record": {**GOOD["record"], "text": name}})
    hint = said.partition("; if a column has this name, write ")[2]
    record = {**GOOD["record"], "text": yaml.safe_load(hint)}
    (tmp_path / "notes.yaml").write_text(yaml.safe_dump({**GOOD, "record": record}), "utf-8")
    assert name in load_source(tmp_path / "notes.yaml").fields()


def test_an_expression_of_endless_depth_is_refused(tmp_path: Path) -> None:
    for text in ("(" * 3_000 + "text" + ")" * 3_000, " || ".join(["text"] * 3_000)):
        assert "is not an SQL expression over the row" in complaint_of(
            tmp_path, {**GOOD, "record": {**GOOD["record"], "text": text}}
        )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [", ", line 1: is not YAML"),
        (b"name: notes\nuri: a: b", ", line 2: is not YAML"),
        (b"\xff\xfe\x00", ": is not YAML (not UTF-8 text)"),
        (b"x: !!python/object:os.system {}", ", line 1: is not YAML"),
        (b"- name", ": has no keys; a source needs name, uri, known and record"),
        (b"", ": has no keys; a source needs name, uri, known and record"),
    ],
)
def test_what_is_not_a_yaml_mapping_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "notes.yaml"
    path.write_bytes(content)
    assert complaint(path).startswith(said)


def test_a_source_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    assert complaint(tmp_path / "nosuch.yaml").startswith(
        ": cannot be read (No such file or directory); give the path"
    )


@pytest.mark.parametrize(
    ("expression", "columns"),
    [
        ("text", {"text"}),
        ('"My Text"', {"My Text"}),
        ("lower(vendor) || '/' || lower(product)", {"vendor", "product"}),
        ("coalesce(a, b, 'c')", {"a", "b"}),
        ("list_transform(string_split(tags, ','), lambda tag: trim(tag))", {"tags"}),
        ("null", set()),
        ("text -- what was written", {"text"}),
        ("meta->'$.user.name'", {"meta"}),
        ("(meta::json)->'user'->>'name'", {"meta"}),
        ("coalesce(tag, list_transform(tags, lambda TAG: lower(tag)))", {"tag", "tags"}),
        ("[word for word in words if len(word) > shortest]", {"words", "shortest"}),
    ],
)
def test_columns_of_an_expression_are_found(expression: str, columns: set[str]) -> None:
    assert column_references(expression) == columns


def test_an_encoding_has_one_name(make_source: MakeSource) -> None:
    assert make_source("x", encoding="utf-8-sig").encoding == make_source("x").encoding
    assert make_source("x", encoding="UTF8").encoding == make_source("x").encoding


def test_a_number_serves_as_an_expression(make_source: MakeSource) -> None:
    assert make_source("x", tombstone=False).tombstone == "False"
    assert make_source("x", record={**GOOD["record"], "subject_id": 5}).record.subject_id == "5"


def test_a_relative_uri_starts_at_the_source_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    write("sources/notes.jsonl")
    (tmp_path / "sources" / "notes.yaml").write_text(yaml.safe_dump(GOOD), "utf-8")
    monkeypatch.chdir(tmp_path)
    source = load_source(Path("sources/notes.yaml"))
    assert [file.path for file in list_files(source).files] == [
        tmp_path / "sources" / "notes.jsonl"
    ]


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("data/b.jsonl", ["b.jsonl"]),
        ("data", ["a.jsonl", "b.jsonl", "c.jsonl"]),
        ("data/*.jsonl", ["a.jsonl", "b.jsonl"]),
        ("data/**/c.*", ["c.jsonl"]),
        ("da*/a.jsonl", ["a.jsonl"]),
        ("data/[ab].jsonl", ["a.jsonl", "b.jsonl"]),
    ],
)
def test_a_file_a_folder_and_a_glob_are_found_in_order(
    make_source: MakeSource, tmp_path: Path, uri: str, found: list[str], write: Write
) -> None:
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl"):
        write(f"data/{name}")
    assert names(make_source(tmp_path / uri)) == found


def test_a_glob_may_begin_like_a_folder(
    make_source: MakeSource, tmp_path: Path, write: Write
) -> None:
    write("day/a.jsonl")
    write("day2/b.jsonl")
    assert names(make_source(tmp_path / "day*" / "*.jsonl")) == ["a.jsonl", "b.jsonl"]


def test_brackets_in_a_name_that_exists_are_no_wildcard(
    make_source: MakeSource, write: Write
) -> None:
    file = write("data[1]/a[2].jsonl")
    assert names(make_source(file.parent)) == names(make_source(file)) == ["a[2].jsonl"]


def test_a_stray_file_is_passed_over_in_one_line(
    make_source: MakeSource, tmp_path: Path, write: Write
) -> None:
    write("data/a.jsonl")
    stray = write("data/README.md", b"read me")
    listing = list_files(make_source(tmp_path / "data"))
    assert [file.path.name for file in listing.files] == ["a.jsonl"]
    assert listing.passed_over == [
        f"{stray}: is not a JSONL, CSV or Parquet file by its name, skipped"
    ]


def test_a_folder_must_have_the_format_of_the_source(
    make_source: MakeSource, tmp_path: Path, write: Write
) -> None:
    write("data/a.jsonl")
    stray = write("data/b.csv", b"id")
    listing = list_files(make_source(tmp_path / "data", format="jsonl"))
    assert [file.path.name for file in listing.files] == ["a.jsonl"]
    assert listing.passed_over == [f"{stray}: is not a jsonl file by its name, skipped"]


@pytest.mark.parametrize(
    "name", ["_truth/a.jsonl", ".git/a.jsonl", "_a.jsonl", ".a.jsonl", "deep/_b/a.jsonl"]
)
def test_names_that_begin_with_a_mark_are_skipped_silently(
    make_source: MakeSource, tmp_path: Path, name: str, write: Write
) -> None:
    write("data/kept.jsonl")
    write(f"data/{name}")
    listing = list_files(make_source(tmp_path / "data"))
    assert [file.path.name for file in listing.files] == ["kept.jsonl"]
    assert listing.passed_over == []


def test_a_mark_above_the_folder_hides_nothing(
    make_source: MakeSource, tmp_path: Path, write: Write
) -> None:
    write("_mine/a.jsonl")
    assert names(make_source(tmp_path / "_mine")) == ["a.jsonl"]


def test_a_folder_behind_a_link_is_searched_as_itself(
    make_source: MakeSource, tmp_path: Path, write: Write
) -> None:
    write("real/a.jsonl")
    write("real/_truth/b.jsonl")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert names(make_source(tmp_path / "link")) == ["a.jsonl"]


def test_a_link_that_leaves_the_folder_is_passed_over(
    make_source: MakeSource, tmp_path: Path, write: Write
) -> None:
    write("data/a.jsonl")
    link = tmp_path / "data" / "link.jsonl"
    link.symlink_to(write("elsewhere.jsonl"))
    listing = list_files(make_source(tmp_path / "data"))
    assert [file.path.name for file in listing.files] == ["a.jsonl"]
    assert listing.passed_over == [f"{link}: leaves the folder of the source, skipped"]


@pytest.mark.parametrize(
    "uri", ["data", "data/**/*.jsonl", "data/**", "da*/**/*.jsonl", "data/*.jsonl"]
)
def test_links_that_go_round_in_circles_load_a_file_once_by_its_own_name(
    make_source: MakeSource, tmp_path: Path, write: Write, uri: str
) -> None:
    """By glob alone, two such links are 2^40 paths."""
    write("data/b.jsonl")
    for link, leads_to in [
        ("latest", "."),
        ("again", "."),
        ("up", "../data"),
        ("a.jsonl", "b.jsonl"),
        ("x.jsonl", "y.jsonl"),
        ("y.jsonl", "x.jsonl"),
    ]:
        (tmp_path / "data" / link).symlink_to(leads_to)
    assert [file.path for file in list_files(make_source(tmp_path / uri)).files] == [
        tmp_path / "data" / "b.jsonl"
    ]


def test_what_only_a_link_shows_is_loaded(
    make_source: MakeSource, tmp_path: Path, write: Write
) -> None:
    """As a mounted ConfigMap does it: names that lead to a hidden folder."""
    write("data/..2026_01_05/a.jsonl")
    (tmp_path / "data" / "..data").symlink_to("..2026_01_05")
    (tmp_path / "data" / "a.jsonl").symlink_to("..data/a.jsonl")
    (tmp_path / "data" / "current").symlink_to("..2026_01_05")
    assert [file.path for file in list_files(make_source(tmp_path / "data")).files] == [
        tmp_path / "data" / "a.jsonl"
    ]


def test_a_linked_folder_elsewhere_is_passed_over_and_not_searched(
    make_source: MakeSource, tmp_path: Path, write: Write
) -> None:
    write("data/a.jsonl")
    link = tmp_path / "data" / "root"
    link.symlink_to("/")
    listing = list_files(make_source(tmp_path / "data"))
    assert [file.path.name for file in listing.files] == ["a.jsonl"]
    assert listing.passed_over == [f"{link}: leaves the folder of the source, skipped"]


@pytest.mark.parametrize("uri", ["nosuch.jsonl", "nosuch/*.jsonl", "empty"])
def test_nothing_to_load_is_an_error(make_source: MakeSource, tmp_path: Path, uri: str) -> None:
    (tmp_path / "empty").mkdir()
    source = make_source(tmp_path / uri)
    with pytest.raises(
        SourceError,
        match=r"no file to load there; check `uri` \(a file, a folder or a glob\) and `format`$",
    ):
        list_files(source)


@pytest.mark.parametrize(
    ("name", "format_", "compression"),
    [
        ("a.jsonl", "jsonl", None),
        ("a.ndjson.gz", "jsonl", "gzip"),
        ("a.jsonl.zst", "jsonl", "zstd"),
        ("a.csv", "csv", None),
        ("a.2026.csv.gz", "csv", "gzip"),
        ("a.parquet", "parquet", None),
        ("EXPORT.CSV", "csv", None),
        ("a.Parquet", "parquet", None),
        ("A.JSONL.GZ", "jsonl", "gzip"),
        ("a.NdJson.Zst", "jsonl", "zstd"),
    ],
)
def test_a_suffix_names_format_and_compression(
    make_source: MakeSource, tmp_path: Path, name: str, format_: str, compression: str | None
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(gzip.compress(b""))
    (file,) = list_files(make_source(tmp_path / "data")).files
    assert (file.format, file.compression) == (format_, compression)


@pytest.mark.parametrize("name", ["EXPORT.CSV", "Export.Csv.Gz"])
def test_a_file_named_in_capitals_is_found_by_its_own_name(
    make_source: MakeSource, write: Write, name: str
) -> None:
    assert names(make_source(write(name))) == [name]


def test_a_declared_format_wins_over_the_name_of_a_file(
    make_source: MakeSource, write: Write
) -> None:
    file = write("export.txt")
    assert [file.format for file in list_files(make_source(file, format="jsonl")).files] == [
        "jsonl"
    ]


def test_the_format_of_a_file_without_a_known_suffix_is_not_guessed(
    make_source: MakeSource, write: Write
) -> None:
    file = write("export.txt")
    with pytest.raises(SourceError, match="no file to load there"):
        list_files(make_source(file))
