"""Propose a source file for a file of records: which column is what, why, and what is unsure."""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import polars as pl
import yaml

from transforms.errors import FileRefusedError, SourceError
from transforms.expressions import column_name, column_references, literal, quoted, sealed
from transforms.sources.headers import DELIMITERS
from transforms.sources.reading import BYTE_ORDER_MARKS, parse_csv, read_payloads
from transforms.sources.source import Format, RecordMapping, Source, SourceFile, Unit, describe
from transforms.sources.times import epoch_sql, time_sql
from transforms.staging.checks import day_order
from transforms.staging.mapping import EXPONENT_FORM

HEAD_ROWS = 10_000
SNIFFED_BYTES = 1 << 16
MOST = 0.95  # share of a column's values that have to be of a form
FEW_VALUES = 50  # of a label or an attribute
HALF = 0.5
MAX_ATTRIBUTES = 10
KEYS = ("record_id", "author_id", "subject_id", "event_timestamp", "text", "label")
WORDS_OF_A_TEXT = 3
OTHER_SUFFIXES: dict[str, tuple[Format, str]] = {
    ".json": ("jsonl", ","),
    ".tsv": ("csv", "\t"),
    ".tab": ("csv", "\t"),
    ".txt": ("csv", ","),
}
# words in a column's name that speak for a role, the best first
WORDS = {
    "event_timestamp": "written created authored sent posted published opened submitted timestamp "
    "datetime date time ts at",
    "known": "known received ingested loaded arrived extracted synced fetched updated modified "
    "committed",
    "text": "text body message narrative comment content description review tweet post question "
    "summary",
    "record_id": "id uuid guid key sha number no",
    "author_id": "author user customer sender from reporter reviewer handle nick account client "
    "member creator login assigner email name company",
    "subject_id": "product topic channel repo project queue thread room category company item asin "
    "business dir",
    "label": "label priority status sentiment severity rating stars score class resolution outcome "
    "response",
}
NOT_OF_A_TIME = {"zone", "timezone"}
DATES = r"^\s*\d{1,2}([-/. ])\d{1,2}[-/. ](\d{4}|\d{2})(\D.*)?$"
CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", ", %H:%M", ", %H:%M:%S")
SPELLED = (
    "%a, %d %b %Y %H:%M:%S %z",  # mail, RFC 5322
    "%d %b %Y %H:%M:%S %z",
    "%a %b %d %H:%M:%S %z %Y",  # tweets
    "%a %b %d %H:%M:%S %Y",
    "%b %d, %Y",
    "%B %d, %Y",
    "%d %b %Y",
    "%d-%b-%Y",
    "%d %B %Y",
)
UNITS: dict[int, Unit] = {10: "seconds", 13: "milliseconds", 16: "microseconds", 19: "nanoseconds"}
SHOWN_BY = {"day-first": "first", "month-first": "second"}  # the place of a number above 12
ORDERS = {"day-first": "%d{0}%m{0}", "month-first": "%m{0}%d{0}"}


class Head(NamedTuple):
    """The first rows of a file, each column as text, and how the file has to be read."""

    file: SourceFile
    encoding: str
    delimiter: str
    rows: pl.DataFrame
    expressions: Mapping[str, str]


class Time(NamedTuple):
    """How a column is read as a time; `orders` are those of day and month that its values allow."""

    expression: str | dict[str, str]
    why: str
    orders: tuple[str, ...] = ()


class Column(NamedTuple):
    """What was found out about a column."""

    name: str
    expression: str
    n_filled: int
    n_distinct: int
    n_exponents: int
    words: float
    characters: float
    time: Time | None

    def rank(self, role: str) -> int | None:
        """Which of the words that speak for a role its name has: 0 is the best; None for none."""
        words = WORDS[role].split()
        return min((words.index(word) for word in _words(self.name) if word in words), default=None)


class Choice(NamedTuple):
    """What a key of the source is set to, and why; `doubt` is what a person should look at."""

    value: Any
    why: str
    doubt: bool = False


class Proposal(NamedTuple):
    """The choice for each key of a source, and the columns that cannot be a key."""

    choices: dict[str, Choice]
    refused: tuple[str, ...]
    unused: tuple[str, ...]


class OrderError(SourceError):
    """Nothing in a file says whether its dates begin with the day or with the month."""


def read_head(path: Path, n_rows: int = HEAD_ROWS) -> Head:
    """Read the first rows of a file of any format, encoding and delimiter that a source can have.

    Raises `SourceError` if it has no rows, `FileRefusedError` if it cannot be read.
    """
    if not path.is_file():
        message = f"{path}: is not a file; name one file, a folder can be set in `uri` afterwards"
        raise SourceError(message)
    suffix = path.with_suffix("").suffix if path.suffix in {".gz", ".zst"} else path.suffix
    other, delimiter = OTHER_SUFFIXES.get(suffix.lower(), (None, ","))
    file = describe(path, other)
    if file is None:
        message = f"{path}: is not JSONL, CSV or Parquet by its name; rename it, e.g. to .csv"
        raise SourceError(message)
    encoding = "utf-8"
    if file.format != "parquet":
        start = _start(file)
        encoding = _encoding(start)
        text = start.decode(encoding, "replace")
        if other == "csv" and text.lstrip("\ufeff").startswith("{"):
            file = file._replace(format="jsonl")
        delimiter = _delimiter(text, delimiter) if file.format == "csv" else ","
    source = Source(
        name="head", uri=str(path), known="at_load", encoding=encoding, delimiter=delimiter,
        record=RecordMapping(record_id="''", author_id="''", event_timestamp="''", text="''"),
    )  # fmt: skip
    documents = list(islice(_documents(file, source, n_rows), n_rows))
    names = list(dict.fromkeys(name for document in documents for name in document))
    if not names:
        message = f"{path}: has no rows to look at"
        raise SourceError(message)
    rows = pl.DataFrame(
        {name: [_text(document.get(name)) for document in documents] for name in names},
        schema=dict.fromkeys(names, pl.String),
    )
    return Head(file, encoding, delimiter, *_flattened(rows))


def propose(
    head: Head, order: str | None = None, given: Mapping[str, str] | None = None
) -> Proposal:
    """Choose a column for each key of a source; those `given` are taken as they are.

    `order` is `day-first` or `month-first`. Raises `OrderError` where dates could be either and it
    is not given, `SourceError` where no column can be the text or the time.
    """
    columns = _columns(head)
    choices = {
        key: Choice(_as_given(head, key, value), "as you said")
        for key, value in (given or {}).items()
    }
    taken = {str(choice.value) for choice in choices.values()}
    left = [column for column in columns if column.expression not in taken]
    chosen = {**_times(head, left, order, choices), **choices}
    left = [item for item in left if item.time is None]
    for key, choose in (("text", _text_of), ("record_id", _id_of)):
        if key not in chosen:
            chosen[key] = choose(head, left, chosen)
        left = [item for item in left if item.expression != chosen[key].value]
    for key in ("author_id", "subject_id", "label"):
        found = chosen.get(key) or _named(head, left, key)
        if found:
            chosen[key] = found
            left = [item for item in left if item.expression != found.value]
    few = [
        item.name
        for item in left
        if 1 < item.n_distinct <= min(FEW_VALUES, item.n_filled / 2)
        and item.expression == _name(item.name)
    ][:MAX_ATTRIBUTES]
    if few:
        chosen["attributes"] = Choice(few, "a few values each, kept beside the record")
    refused = tuple(
        f"{item.name}: like 5.7E+17, as a spreadsheet cuts a long number, so it is no key"
        for item in columns
        if item.n_exponents and item.words < WORDS_OF_A_TEXT
    )
    unused = tuple(item.name for item in left if item.name not in few)
    return Proposal(chosen, refused, unused)


def source_yaml(head: Head, proposal: Proposal, name: str, uri: str) -> str:
    """Write a proposal as a source file, with the reasons as comments."""
    choices = proposal.choices
    lines = [
        f"# From the first {head.rows.height:,} rows of {head.file.path.name}; look at each (?).",
        f"name: {name}",
        f"uri: {_yaml(uri)}",
    ]
    if describe(head.file.path, None) != head.file:
        lines.append(f"format: {head.file.format}")
    if head.encoding != "utf-8":
        lines.append(f"encoding: {head.encoding}  # (?) its bytes are not UTF-8")
    if head.delimiter != ",":
        lines.append(f"delimiter: {_yaml(head.delimiter)}")
    lines += [_line("known", choices["known"]), "record:"]
    lines += [f"  {_line(key, choices[key])}" for key in KEYS if key in choices]
    if "attributes" in choices:
        lines.append(_line("attributes", choices["attributes"]))
    lines += [f"# {line}" for line in proposal.refused]
    if proposal.unused:
        lines.append(f"# not used: {', '.join(proposal.unused)}")
    return "\n".join(lines) + "\n"


def _as_given(head: Head, key: str, value: str) -> Any:
    """What a person has said, as a source file has it: a column's name becomes SQL."""
    if key == "known" and value in {"at_load", "at_event"}:
        return value
    written = head.expressions.get(value, value)
    try:
        missing = column_references(written) - {name.split(".")[0] for name in head.rows.columns}
    except ValueError as error:
        missing = {f"{value} ({str(error).splitlines()[0]})"}
    if missing:
        message = (
            f"--{key.replace('_', '-')}: {head.file.path} has no column {min(missing)}; it has "
            f"{', '.join(head.rows.columns)}"
        )
        raise SourceError(message)
    return {"column": written} if key == "known" else written


def _times(
    head: Head, columns: Sequence[Column], order: str | None, given: Mapping[str, Choice]
) -> dict[str, Choice]:
    """Choose when a record was written, and when it could be known."""
    times = _ranked([column for column in columns if column.time], "event_timestamp")
    arrivals = _ranked([column for column in times if column.rank("known") is not None], "known")
    written = [column for column in times if column not in arrivals[:1]] or times
    found: dict[str, Choice] = {}
    if not written and "event_timestamp" not in given:
        message = (
            f"{head.file.path}: no column is a time in a form that is known here; "
            "say --event-timestamp \"strptime(COLUMN, '%d.%m.%y')\""
        )
        raise SourceError(message)
    if "event_timestamp" not in given:
        event = written[0]
        if "known" not in given and arrivals and _is_before(head, arrivals[0], event):
            event, arrivals = arrivals[0], [event]
        same = [
            item
            for item in written
            if item.rank("event_timestamp") == event.rank("event_timestamp")
        ]
        found["event_timestamp"] = Choice(*_ordered(event, order), len(same) > 1)
        arrivals = [item for item in arrivals if item is not event]
    if "known" not in given and arrivals:
        value, why = _ordered(arrivals[0], order)
        known = value if isinstance(value, dict) else {"column": value}
        found["known"] = Choice(known, f"when a row arrived, by its name and values; {why}")
    elif "known" not in given:
        why = "no column says when a row arrived; at_load for records that come as they happen"
        found["known"] = Choice("at_event", why, doubt=True)
    return found


def _text_of(head: Head, left: Sequence[Column], _chosen: Mapping[str, Choice]) -> Choice:
    texts = [item for item in left if item.words >= WORDS_OF_A_TEXT or item.rank("text") == 0]
    if not texts:
        message = (
            f"{head.file.path}: no column has texts of {WORDS_OF_A_TEXT} words; say --text COLUMN, "
            f"one of {', '.join(head.rows.columns)}"
        )
        raise SourceError(message)
    best = max(
        texts, key=lambda item: item.characters * (4 if item.rank("text") is not None else 1)
    )
    longest = max(texts, key=lambda item: item.characters)
    more = "" if longest is best else f"; {longest.name} has more"
    return Choice(best.expression, f"{best.words:.0f} words on average{more}", bool(more))


def _id_of(head: Head, left: Sequence[Column], chosen: Mapping[str, Choice]) -> Choice:
    n = head.rows.height
    keys = _ranked(
        [item for item in left if not item.n_exponents and item.n_filled == n], "record_id"
    )
    unique = next((item for item in keys if item.n_distinct == n), None)
    if unique is not None:
        why = f"another in each of {n:,} rows"
        return Choice(unique.expression, why, unique.rank("record_id") is None)
    for item in keys:
        if item.rank("record_id") is not None and item.n_distinct > n / 4:
            why = (
                f"{item.n_distinct:,} ids in {n:,} rows: rows of one id are versions of one record"
            )
            return Choice(item.expression, why, doubt=True)
    time = chosen["event_timestamp"].value
    parts = (time["column"] if isinstance(time, dict) else time, chosen["text"].value)
    why = "no column is an id, so time and text are; equal rows are one record"
    return Choice(f"md5(concat_ws('|', {', '.join(parts)}))", why, doubt=True)


def _named(head: Head, left: Sequence[Column], key: str) -> Choice | None:
    """Choose an author, a subject or a label by the names of columns, if they have few words."""
    n = head.rows.height
    most = {"author_id": n, "subject_id": n / 2, "label": FEW_VALUES}[key]
    found = [
        item
        for item in _ranked(left, key)
        if item.rank(key) is not None
        and item.n_distinct <= most
        # a file may be of one author, who is then in a column of that very name
        and (item.n_distinct > 1 or (key == "author_id" and len(_words(item.name)) == 1))
        and item.n_filled > n / 2
        and item.words <= WORDS_OF_A_TEXT
        and not item.n_exponents
    ]
    if found:
        rank = found[0].rank(key) or 0
        is_vague = rank >= len(WORDS[key].split()) - 3
        doubt = is_vague or (len(found) > 1 and found[1].rank(key) == rank)
        return Choice(found[0].expression, f"{found[0].n_distinct:,} different", doubt)
    if key != "author_id":
        return None
    # names in other languages, and of other trades, are for a person to recognise
    could_be = [
        f"{item.name} ({item.n_distinct:,} different)"
        for item in left
        if FEW_VALUES < item.n_distinct <= n / 2 and item.words <= WORDS_OF_A_TEXT
    ]
    why = "no column says by its name who wrote it, so all have one author"
    more = f"; is it {' or '.join(could_be[:3])}?" if could_be else ""
    return Choice("'unknown'", why + more, doubt=True)


def _is_before(head: Head, column: Column, other: Column) -> bool:
    """Whether a time is nearly always before another, and sometimes not at the same time."""
    first, second = (
        _instant(item.time.expression) for item in (column, other) if item.time is not None
    )
    with sealed() as connection:
        connection.register("head", head.rows.to_arrow())
        ((n, n_before, n_same),) = connection.sql(
            f"""select count(*), count(*) filter (where a <= b), count(*) filter (where a = b)
            from (select {first} as a, {second} as b from head)
            where a is not null and b is not null"""
        ).fetchall()
    return bool(n_before >= MOST * n and n_same < n)


def _instant(expression: str | dict[str, str]) -> str:
    if isinstance(expression, dict):
        return epoch_sql(expression["column"], expression["unit"])
    return time_sql(f"try({expression})::varchar")


def _columns(head: Head) -> list[Column]:
    """Find out about each column, by SQL over the head."""
    found = []
    with sealed() as connection:
        connection.register("head", head.rows.to_arrow())
        for name in head.rows.columns:
            value = f"nullif(trim({quoted(name)}), '')"
            ((n, distinct, exponents, words, characters),) = connection.sql(
                f"""select count(v), count(distinct v),
                count(*) filter (where regexp_matches(v, {literal(EXPONENT_FORM)})),
                coalesce(avg(array_length(string_split_regex(v, '\\s+'))), 0),
                coalesce(avg(length(v)), 0)
                from (select {value} as v from head)"""
            ).fetchall()
            filled = head.rows[name].drop_nulls()
            time = _time(connection, name, head.expressions[name], filled) if n else None
            of = head.expressions[name]
            found.append(Column(name, of, n, distinct, exponents, words, characters, time))
    return found


def _time(
    connection: duckdb.DuckDBPyConnection, name: str, expression: str, filled: pl.Series
) -> Time | None:
    """How a column is a time, if nearly all of its values are."""
    values = filled.str.strip_chars()
    values = values.filter(values != "")
    connection.register("filled", values.alias("v").to_frame().to_arrow())

    def share(sql: str) -> float:
        ((n, n_rows),) = connection.sql(f"select count({sql}), count(*) from filled").fetchall()
        return float(n / max(n_rows, 1))

    words = set(_words(name))
    if words & NOT_OF_A_TIME:
        return None
    digits = values.str.extract(r"^(\d+)(?:\.\d*)?$", 1).str.len_chars()
    unit = UNITS.get(int(digits.mode()[0] or 0)) if digits.null_count() == 0 else None
    if unit and words & {*WORDS["event_timestamp"].split(), *WORDS["known"].split()}:
        return Time({"column": expression, "unit": unit}, f"{unit} since 1970, by their length")
    if values.str.contains(r"^\d{1,7}$").any():
        return None  # a plain number, which is no time though some are read as one
    if share(time_sql("v")) >= MOST:
        return Time(expression, "ISO 8601")
    spelled = next((form for form in SPELLED if share(_parsed(form)) >= MOST), None)
    if spelled:
        return Time(_strptime(expression, spelled), f"of the form {spelled}")
    return _numeric_date(expression, values, share)


def _numeric_date(expression: str, values: pl.Series, share: Callable[[str], float]) -> Time | None:
    """How dates of numbers, such as 31/01/2026 10:30, are read, in each order that they allow."""
    separators = values.str.extract(DATES, 1)
    if separators.null_count() > len(values) * (1 - MOST):
        return None
    separator = separators.drop_nulls().mode()[0]
    n_long = (values.str.extract(DATES, 2).str.len_chars() > len("26")).sum()
    year = "%Y" if n_long > HALF * len(values) else "%y"
    forms = {}
    for order, days in ORDERS.items():
        written = [f"{days.format(separator)}{year}{clock}" for clock in CLOCKS]
        best = max(written, key=lambda form: share(_parsed(form)))
        if share(_parsed(best)) > HALF:
            forms[order] = best
    if not forms:
        return None
    sides = pl.select(day_order(pl.lit(values))).to_series().to_list()
    shown = [order for order, side in SHOWN_BY.items() if side in sides and order in forms]
    if len(shown) == 1:
        why = f"a number above 12 shows that dates are {shown[0]}"
        return Time(_strptime(expression, forms[shown[0]]), why)
    order = max(forms, key=lambda order: share(_parsed(forms[order])))
    return Time(_strptime(expression, forms[order]), "", tuple(forms))


def _ordered(column: Column, order: str | None) -> tuple[str | dict[str, str], str]:
    """Read a column's dates in the order that is asked for, where they allow several."""
    assert column.time is not None  # noqa: S101 - callers have chosen a time
    value, why, orders = column.time
    if len(orders) <= 1 or isinstance(value, dict):
        return value, why
    if order is None:
        message = (
            f"{column.name}: its dates could begin with the day or with the month, and nothing "
            "here decides; say --dates day-first or --dates month-first"
        )
        raise OrderError(message)
    first, second = ("%d", "%m") if order == "day-first" else ("%m", "%d")
    form = re.sub("%[dm](.)%[dm]", rf"{first}\1{second}", value)
    return form, f"dates are {order}, as you said"


def _parsed(form: str) -> str:
    return f"try_strptime(v, {literal(form)})"


def _strptime(expression: str, form: str) -> str:
    return f"strptime({expression}, {literal(form)})"


def _ranked(columns: Sequence[Column], role: str) -> list[Column]:
    """Sort columns by how well their names speak for a role; those of no such name come last."""
    last = len(WORDS[role].split())

    def key(column: Column) -> tuple[int, bool]:
        rank = column.rank(role)
        return (last if rank is None else rank, "id" not in _words(column.name))

    return sorted(columns, key=key)


def _words(name: str) -> list[str]:
    """Split a column's name into words.

    >>> _words("createdAt"), _words("Complaint ID"), _words("user.screen_name")
    (['created', 'at'], ['complaint', 'id'], ['user', 'screen', 'name'])
    """
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)
    return [part.lower() for part in parts]


def _start(file: SourceFile) -> bytes:
    import pyarrow as pa

    try:
        with pa.input_stream(str(file.path), compression=file.compression) as stream:
            return bytes(stream.read(SNIFFED_BYTES))
    except (OSError, pa.ArrowException) as error:
        message = f"{file.path}: refused, cannot be read ({str(error).splitlines()[0]})"
        raise FileRefusedError(message) from None


def _encoding(start: bytes) -> str:
    """Find the encoding of a file's beginning: by its mark, else UTF-8 if it can be."""
    marked = next((name for name, mark in BYTE_ORDER_MARKS.items() if start.startswith(mark)), None)
    if marked:
        return marked.rpartition("-")[0]
    try:
        start[: len(start) - 3].decode("utf-8")  # its end may cut a character
    except UnicodeDecodeError:
        return "windows-1252"
    return "utf-8"


def _delimiter(text: str, usual: str) -> str:
    """Find what separates the columns: what cuts the first lines into the most fields, alike."""
    lines = text.splitlines()[:20]

    def n_fields(delimiter: str) -> int:
        try:
            lengths = [len(row) for row in csv.reader(lines[:-1] or lines, delimiter=delimiter)]
        except csv.Error:
            return 0
        return lengths[0] if lengths and lengths.count(lengths[0]) * 2 > len(lengths) else 0

    known: list[str] = [usual, *DELIMITERS]
    return max(known, key=n_fields)


def _documents(file: SourceFile, source: Source, n_rows: int) -> Iterator[dict[str, Any]]:
    """Parse rows; those that cannot be parsed are left out, for a run quarantines them."""
    names: list[str] = []
    for header, payloads in read_payloads(file, source, n_rows):
        if header is not None and not names:
            names = parse_csv(header, source.delimiter)
        for payload in payloads.to_pylist():
            try:
                text = payload.decode(source.payload_encoding)
                row = (
                    dict(zip(names, parse_csv(text, source.delimiter), strict=True))
                    if header is not None
                    else json.loads(text)
                )
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    return json.dumps(value, ensure_ascii=False)


def _flattened(rows: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, str]]:
    """Make columns of the fields of columns that are JSON objects, one level deep."""
    columns: list[pl.Series] = []
    expressions: dict[str, str] = {}
    for series in rows:
        filled = series.drop_nulls()
        if not len(filled) or not filled.str.starts_with("{").all():
            columns.append(series)
            expressions[series.name] = _name(series.name)
            continue
        objects = [json.loads(value) if value else {} for value in series]
        for field in dict.fromkeys(field for row in objects for field in row):
            name = f"{series.name}.{field}"
            columns.append(pl.Series(name, [_text(row.get(field)) for row in objects], pl.String))
            expressions[name] = f"{_name(series.name)}->>{literal(field)}"
    return pl.DataFrame(columns), expressions


def _name(name: str) -> str:
    """Write a column's name as SQL, in quotes where it is no plain name."""
    try:
        return name if column_name(name) == name else quoted(name)
    except ValueError:
        return quoted(name)


def _line(key: str, choice: Choice) -> str:
    return f"{key}: {_yaml(choice.value)}  # {'(?) ' if choice.doubt else ''}{choice.why}"


def _yaml(value: Any) -> str:
    written = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    return str(written).removesuffix("\n").removesuffix("\n...")
