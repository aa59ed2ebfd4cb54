"""A source: the YAML file that maps its fields to the canonical record, and its files."""

import codecs
import difflib
import glob
import itertools
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import duckdb
import pyarrow as pa
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from transforms.errors import NoFilesError, SourceError
from transforms.expressions import bound, column_references, quoted, sealed

SchemaPolicy = Literal["evolve", "freeze", "quarantine"]
Unit = Literal["seconds", "milliseconds", "microseconds", "nanoseconds"]
Ratio = Annotated[float, Field(ge=0, le=1)]
Format = Literal["jsonl", "csv", "parquet", "delta"]  # the last one of tables, not of files
SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
# in these a byte's meaning may depend on lines before
STATEFUL = ("hz", "iso2022", "utf-7")
# ways to write text in ASCII, not encodings of files
NO_FILE_IS_IN = {"idna", "punycode", "raw-unicode-escape", "unicode-escape"}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
# what begins the `uri` of a database, and the ADBC driver that reads it
DRIVERS = {
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "sqlite": "sqlite",
    "snowflake": "snowflake",
    "bigquery": "bigquery",
    "grpc": "flightsql",
    "grpc+tls": "flightsql",
    "mysql": "mysql",
}
DATABASE = re.compile(rf"({'|'.join(map(re.escape, DRIVERS))})://.*")
OBJECT = re.compile(r"(s3|gs|az|https?)://.*")
ICEBERG = re.compile(r"iceberg://(\w+)/([\w-]+(?:\.[\w-]+)+)")
VARIABLE = re.compile(r"\$\{(\w+)\}")
# where a `uri` has what lets in: after a user's name, and in parameters of such a name
SECRETS = (
    re.compile(r"://[^/@?#]*?:([^@]*)@"),
    re.compile(
        r"(?i)[?&;](?!sslkey=)[^=&]*(?:password|passwd|pwd|secret|token|key)[^=&]*=([^&#]*)"
    ),
)
DELETED_AT = "_deleted_at"
EPOCH = "{column: NAME, unit: milliseconds} (or seconds, microseconds, nanoseconds)"
REPLACED = {
    "drift.beyond_usual": "thresholds now follow from the source's own history; "
    "set `false_alarms: 0.02`, the share of undisturbed loads that may warn, "
    "or `false_alarms: null` for thresholds as they are given",
}
EXAMPLES = {
    "tuple_type": "is a list, e.g. [poc, active]",
    "model_type": "has keys of its own, e.g. `record_id: id`",
}
TOPIC = re.compile(r"kafka://(?P<hosts>[^/@?#\s]+)/(?P<topic>[\w.-]{1,249})(?P<again>#\d+)?")
Expression = Annotated[
    str,
    Field(min_length=1),
    BeforeValidator(lambda value: str(value) if isinstance(value, int | float) else value),
]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KnownColumn(_Model):
    """`known: {column: NAME}`: the column from whose time a row could be known."""

    column: Expression


class KnownEpoch(KnownColumn):
    """`known: {column: NAME, unit: milliseconds}`: the same, as a number since 1970."""

    unit: Unit


class EpochColumn(_Model):
    """`event_timestamp: {column: NAME, unit: seconds}`: a time as a number since 1970."""

    column: Expression
    unit: Unit


class RecordMapping(_Model):
    """Each field of the canonical record: a column of the source or an SQL expression over its row.

    All columns arrive as text; cast one where another type is needed, e.g. `score::double`.
    """

    record_id: Expression
    author_id: Expression
    subject_id: Expression = "null"
    event_timestamp: Expression | EpochColumn
    text: Expression
    label: Expression = "null"


class Thresholds(_Model):
    """The value of each statistic above which to act; null for never."""

    psi: Annotated[float, Field(ge=0)] | None = None
    js_distance: Annotated[float, Field(ge=0)] | None = None
    wasserstein: Annotated[float, Field(ge=0)] | None = None


class ColumnThresholds(_Model):
    """Thresholds of one column; those not given are those of all columns."""

    warn: Thresholds = Thresholds()
    stop: Thresholds = Thresholds()


class Drift(_Model):
    """`drift:`, how far a load may differ from the loads before it; docs/drift.md has measurements.

    A threshold is raised by the source's own history, so that of undisturbed loads a share of at
    most `false_alarms` warns, all columns together. With null, thresholds are as they are given.
    """

    reference_loads: Annotated[int, Field(ge=1)] = 28
    min_reference_loads: Annotated[int, Field(ge=1)] = 7
    min_reference_rows: Annotated[int, Field(ge=1)] = 1000
    false_alarms: Annotated[float, Field(gt=0, lt=1)] | None = 0.02
    warn: Thresholds = Thresholds(psi=0.1, js_distance=0.15, wasserstein=0.25)
    stop: Thresholds = Thresholds()
    columns: dict[str, ColumnThresholds] = {}

    def thresholds(
        self, column: str, statistic: str, usual: float
    ) -> tuple[float | None, float | None]:
        """Return the values above which to warn and to stop; none is below `usual`.

        >>> Drift(stop=Thresholds(psi=0.5)).thresholds("text", "psi", usual=0.2)
        (0.2, 0.5)
        """
        own = self.columns.get(column, ColumnThresholds())
        given = ((own.warn, self.warn), (own.stop, self.stop))
        warn, stop = (
            getattr(first if statistic in first.model_fields_set else second, statistic)
            for first, second in given
        )
        return (
            None if warn is None else max(warn, usual),
            None if stop is None else max(stop, usual),
        )


def _as_lines(uri: object) -> object:
    """Write a list of addresses as lines."""
    if not isinstance(uri, list):
        return uri
    if all(isinstance(one, str) and OBJECT.fullmatch(one) for one in uri):
        return "\n".join(uri)
    message = "a list is of addresses: s3://, gs://, az:// or https://; or give one file or pattern"
    raise ValueError(message)


class Source(_Model):
    """One source of text records."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    uri: Annotated[str, Field(min_length=1), BeforeValidator(_as_lines)]
    format: Format | None = None
    encoding: str = "utf-8"
    delimiter: Annotated[str, Field(min_length=1, max_length=1, pattern=r'[^"\r\n]')] = ","
    table: Annotated[str, Field(min_length=1)] | None = None
    query: Annotated[str, Field(min_length=1)] | None = None
    cursor: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    lag: Annotated[float, Field(ge=0)] = 60
    deletes: Literal["compare"] | None = None
    known: Literal["at_load", "at_event"] | KnownEpoch | KnownColumn
    record: RecordMapping
    text: Literal["keep", "redact"] = "keep"
    tombstone: Expression = "false"
    positive_labels: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    # pydantic's models have a `schema` of their own
    schema_policy: SchemaPolicy = Field("evolve", alias="schema")
    drift: Drift = Drift()
    ids: Literal["own", "shared"] | None = None
    max_quarantined_ratio: Ratio = 0.5
    warn_quarantined_ratio: Ratio = 0.1
    max_collision_ratio: Ratio = 0.01

    @property
    def is_database(self) -> bool:
        """Whether its rows are those of a table or a query, rather than in files."""
        has_rows = self.table is not None or self.query is not None
        return bool(DATABASE.fullmatch(self.uri) or (has_rows and VARIABLE.match(self.uri)))

    @property
    def is_compared(self) -> bool:
        """Whether every run compares all rows of the database with those of raw."""
        return self.deletes == "compare" or not self.cursor

    @property
    def compared_by(self) -> tuple[str, ...]:
        """The columns that identify a row of the database: `key`, or the cursor's after a time."""
        return self.key or self.cursor[1:]

    @property
    def addresses(self) -> list[str]:
        """Where its files are, if that is in object storage or on web servers; else nothing."""
        lines = self.uri.split("\n")
        return lines if all(map(OBJECT.fullmatch, lines)) else []

    @property
    def place(self) -> str:
        """Its `uri`, for people."""
        return self.uri.replace("\n", ", ")

    @property
    def is_topic(self) -> bool:
        """Whether its rows are messages."""
        return self.uri.startswith("kafka:")

    @property
    def is_iceberg(self) -> bool:
        """Whether its rows are those of an Iceberg table."""
        return self.uri.startswith("iceberg:")

    @property
    def is_table(self) -> bool:
        """Whether its rows are appended to a table that is no database's."""
        return self.is_iceberg or self.format == "delta"

    @property
    def is_stream(self) -> bool:
        """Whether its rows are appended to a topic or a table, rather than in files."""
        return self.is_topic or self.is_table

    @property
    def is_transcoded(self) -> bool:
        """Whether text is converted to UTF-8 before it is cut into rows.

        In such an encoding a single byte does not identify a line feed or a quote.
        """
        return self.encoding.startswith(STATEFUL) or '\n"'.encode(self.encoding) != b'\n"'

    @property
    def payload_encoding(self) -> str:
        """The encoding of the payloads in raw."""
        return "utf-8" if self.is_transcoded else self.encoding

    def expressions(self) -> dict[str, str]:
        """Map canonical names to SQL expressions; `known_timestamp` only if it is a column."""
        event = self.record.event_timestamp
        known = (
            {"known_timestamp": self.known.column} if isinstance(self.known, KnownColumn) else {}
        )
        tombstone = self.tombstone
        if self.is_database and self.is_compared:
            # a row that the database has no more comes as it was, with the time it was missed
            known = {name: f"coalesce({DELETED_AT}, ({at}\n))" for name, at in known.items()}
            tombstone = f"{DELETED_AT} is not null or ({tombstone}\n)"
        times = {
            "event_timestamp": event.column if isinstance(event, EpochColumn) else event,
            **known,
        }
        return {**self.record.model_dump(), **times, "is_tombstone": tombstone}

    def units(self) -> dict[str, Unit]:
        """Map the canonical names of times that are numbers since 1970 to their units."""
        given = {"event_timestamp": self.record.event_timestamp, "known_timestamp": self.known}
        return {
            name: time.unit
            for name, time in given.items()
            if isinstance(time, EpochColumn | KnownEpoch)
        }

    @property
    def known_in_words(self) -> str:
        """When its rows could be known, for a reader of the catalogue."""
        if isinstance(self.known, KnownColumn):
            return f"known at {self.known.column}"
        if self.known == "at_load":
            return "known when loaded"
        return (
            "known at_event, in retrospect: a value may depend on a record that had not arrived, "
            "so training may see what serving cannot"
        )

    def fields(self) -> list[str]:
        """List the columns that the mapping reads, without attributes."""
        return sorted(
            {
                column
                for expression in self.expressions().values()
                for column in column_references(expression)
            }
        )


class TopicAddress(NamedTuple):
    """Where a topic is: brokers to begin with, its name, and a mark to read it once more."""

    hosts: str
    topic: str
    again: str


def topic_of(uri: str) -> TopicAddress:
    """Take apart the `uri` of a topic; raises `SourceError`.

    >>> topic_of("kafka://one:9092,two:9092/tickets")
    TopicAddress(hosts='one:9092,two:9092', topic='tickets', again='')
    """
    if found := TOPIC.fullmatch(uri):
        return TopicAddress(found["hosts"], found["topic"], found["again"] or "")
    message = (
        "uri: is not the address of a topic, kafka://HOST:PORT/TOPIC; names and passwords are in "
        "the environment, e.g. MILLRACE_KAFKA_SASL_PASSWORD"
    )
    raise SourceError(message)


class RemoteObject(NamedTuple):
    """A file elsewhere, as it was listed; `mark`, its ETag, changes with its content."""

    root: str
    key: str
    n_bytes: int
    mark: str

    @property
    def uri(self) -> str:
        """Its address."""
        return f"{self.root}/{self.key}"


class SourceFile(NamedTuple):
    """A file of a source, its format and its compression.

    The `path` of a remote one is its key, until it is fetched.
    """

    path: Path
    format: Format
    compression: str | None
    remote: RemoteObject | None = None

    @property
    def uri(self) -> str:
        """The file's URI."""
        return self.remote.uri if self.remote else self.path.as_uri()

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return self.remote.uri if self.remote else str(self.path)

    def state(self) -> tuple[int, str]:
        """Return its size, and what changes when its content does; raises OSError if it is gone."""
        if self.remote:
            return self.remote.n_bytes, self.remote.mark
        stat = self.path.stat()
        return stat.st_size, str(stat.st_mtime_ns)


class Listing(NamedTuple):
    """What a source's `uri` leads to: files to read, and a message for each that is skipped."""

    files: list[SourceFile]
    passed_over: list[str]


def load_source(path: Path) -> Source:
    """Read and check a source file; a relative `uri` starts at the file's folder.

    Raises `SourceError`, which names the key and the fix.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "mail.yaml"
    ...     _ = path.write_text("{name: mail, uri: mail.csv, known: now}")
    ...     load_source(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    transforms.errors.SourceError: ...known: give when a row could be known: at_load, at_event ...
    """
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        message = (
            f"{path}: cannot be read ({error.strerror}); "
            "give the path of a source file, e.g. sources/cve_events.yaml"
        )
        raise SourceError(message) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        message = (
            f"{path}{place}: is not YAML ({getattr(error, 'problem', None) or 'not UTF-8 text'})"
        )
        raise SourceError(message) from None
    if not isinstance(document, dict):
        message = f"{path}: has no keys; a source needs name, uri, known and record"
        raise SourceError(message)
    try:
        source = Source.model_validate(document)
    except ValidationError as error:
        message = f"{path}: {_explain(error)}"
        raise SourceError(message) from None
    _check_place(path, source)
    _check_expressions(path, source)
    _check_columns(path, source)
    encoding = _check_encoding(path, source)
    if source.is_database:
        return source.model_copy(
            update={"encoding": encoding, "uri": _absolute(source.uri, path.resolve().parent)}
        )
    if source.is_topic:
        _check_topic(path, source, encoding)
    if source.is_topic or source.is_iceberg or source.addresses:
        return source.model_copy(update={"encoding": encoding})
    uri = Path(source.uri).expanduser()
    return source.model_copy(
        update={
            "encoding": encoding,
            "uri": str(uri if uri.is_absolute() else path.resolve().parent / uri),
        }
    )


def list_files(source: Source) -> Listing:
    """List the files a source points to, in order of their path.

    A folder is searched in depth, without names that begin with `.` or `_`; a file there counts if
    its suffix names a format (the source's `format` if it has one). A link that leaves the folder
    is skipped, and a file that several links lead to is listed once, by its own name if that is in
    the folder. Raises `NoFilesError` if there is no file.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("b.csv", "a.jsonl.gz", ".hidden.csv"):
    ...         Path(folder, name).touch()
    ...     listing = list_files(Source.model_construct(uri=folder))
    >>> [(file.path.name, file.format, file.compression) for file in listing.files]
    [('a.jsonl.gz', 'jsonl', 'gzip'), ('b.csv', 'csv', None)]
    """
    if source.is_stream or source.is_database:
        message = f"{source.uri}: has no files"
        raise NoFilesError(message)
    files: list[SourceFile] = []
    passed_over: list[str] = []
    for path, is_in_folder, remote in _candidates(source, passed_over):
        file = describe(path, None if is_in_folder else source.format)
        if file is None or (source.format and file.format != source.format):
            wanted = source.format or "JSONL, CSV or Parquet"
            place = remote.uri if remote else path
            passed_over.append(f"{place}: is not a {wanted} file by its name, skipped")
        else:
            files.append(file._replace(remote=remote))
    if not files:
        message = "; ".join(
            [
                f"{source.place}: no file to load there",
                *passed_over[:1],
                "check `uri` (a file, a folder or a glob) and `format`",
            ]
        )
        raise NoFilesError(message)
    return Listing(files, passed_over)


def _candidates(
    source: Source, passed_over: list[str]
) -> Iterator[tuple[Path, bool, RemoteObject | None]]:
    """Find what `uri` leads to, and whether a folder led there."""
    if source.addresses:
        from transforms.sources.objects import find_objects

        yield from ((Path(item.key), below, item) for item, below in find_objects(source))
        return
    target = Path(source.uri)
    root = _root_of(target)
    for path in _found(target, root):
        if not _real(path).is_relative_to(_real(root)):
            passed_over.append(f"{path}: leaves the folder of the source, skipped")
        elif path.is_file():
            yield path, path != target and target.is_dir(), None


def describe(path: Path, declared: Format | None) -> SourceFile | None:
    """Find a file's format and compression by its suffixes, unless the format is `declared`.

    Returns None for a file of no known format.

    >>> describe(Path("/in/MAIL.CSV.GZ"), None)[1:3]
    ('csv', 'gzip')
    >>> describe(Path("/in/mail.txt"), "jsonl").format
    'jsonl'
    """
    compression = COMPRESSIONS.get(path.suffix.lower())
    inner = path.with_suffix("") if compression else path
    found = declared or SUFFIXES.get(inner.suffix.lower())
    return SourceFile(path, found, compression) if found else None


def _found(target: Path, root: Path) -> list[Path]:
    """Find the files that a source's `uri` leads to as a file, a folder or a pattern, each once."""
    parts = ["**"] if target.is_dir() else target.relative_to(root).parts
    try:
        paths = sorted({target} if target.is_file() else set(_matching(root, parts, root)))
    except PermissionError as error:
        message = (
            f"{error.filename}: cannot be listed ({error.strerror}); "
            "fix its permissions, or leave it out of `uri`"
        )
        raise SourceError(message) from None
    shown = {
        path: _real(path)
        for path in paths
        if not any(part.startswith((".", "_")) for part in path.relative_to(root).parts)
    }
    own = {real: path for path, real in reversed(shown.items())}
    own |= {
        real: path for path, real in shown.items() if real == _real(root) / path.relative_to(root)
    }
    return [path for path, real in shown.items() if own[real] == path]


def _matching(folder: Path, parts: Sequence[str], root: Path) -> Iterator[Path]:
    """Follow the parts of a pattern down from a folder.

    `**` matches any folders, and at the end of a pattern all files in them.
    """
    if not parts:
        yield folder
    elif parts[0] == "**":
        for below in _folders(folder, root):
            yield from _matching(below, parts[1:] or ["*"], root)
    elif glob.has_magic(parts[0]):
        for path in folder.iterdir() if folder.is_dir() else ():
            if fnmatchcase(path.name, parts[0]):
                yield from _matching(path, parts[1:], root)
    else:
        yield from _matching(folder / parts[0], parts[1:], root)


def _folders(folder: Path, root: Path) -> Iterator[Path]:
    """Find a folder and all below it, each once; links are followed last and within the root."""
    waiting, seen = deque([folder]), set[Path]()
    while waiting:
        here = waiting.popleft()
        real = _real(here)
        if real in seen or not here.is_dir() or not real.is_relative_to(_real(root)):
            continue
        seen.add(real)
        yield here
        for path in sorted(path for path in here.iterdir() if not path.name.startswith((".", "_"))):
            if path.is_symlink():
                waiting.append(path)
            else:
                waiting.appendleft(path)


def _real(path: Path) -> Path:
    """Resolve links; unlike `Path.resolve`, without an error for links that form a circle."""
    return Path(os.path.realpath(path))


def _root_of(target: Path) -> Path:
    """Find the folder that a source may not leave: its `uri` up to the first wildcard."""
    if target.exists():
        return target if target.is_dir() else target.parent
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), target.parts[:-1])
    return Path(*fixed)


def _absolute(uri: str, folder: Path) -> str:
    """Let the path of an SQLite file start at a folder."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{folder / Path(rest).expanduser()}" if scheme == "sqlite" else uri


def _check_place(path: Path, source: Source) -> None:
    """Refuse keys of a database that lack one, or that do not go together, and secrets."""
    written = (found[1] for secret in SECRETS for found in secret.finditer(source.uri))
    if source.is_database and any(VARIABLE.sub("", found) for found in written):
        message = (
            f"{path}: uri: has a password or a key in it; put that into a variable of the "
            "environment, and its name here: ${NAME}"
        )
        raise SourceError(message)
    fault = _fault_of_database(source) if source.is_database else _fault_of_files(source)
    if fault:
        message = f"{path}: {fault}"
        raise SourceError(message)


def _fault_of_files(source: Source) -> str | None:
    given = {"table", "query", "cursor", "key", "lag", "deletes"} & source.model_fields_set
    for address in source.addresses:
        if re.match(r"\w+://[^/]*@", address) or ("?" in address and address.startswith("http")):
            return (
                "uri: has a user's name or a query in it, which may be a secret; leave it out, "
                "credentials are in the environment (docs/object-storage.md)"
            )
    if source.is_iceberg:
        if given := {"format", "encoding", "delimiter"} & source.model_fields_set:
            return f"{min(given)}: is about files, and `uri` names a table; leave it out"
        if not ICEBERG.fullmatch(source.uri):
            return "uri: is not the address of an Iceberg table, iceberg://CATALOG/NAMESPACE.TABLE"
    if source.addresses and source.format == "delta":
        return "format: a Delta table is read from a folder of this machine; mount or copy it"
    return (
        f"{min(given)}: goes with a database, and `uri` names files; a database is "
        "postgresql://HOST/DATABASE or sqlite://PATH, or see docs/databases.md"
        if given
        else None
    )


def _fault_of_database(source: Source) -> str | None:
    columns = [*source.cursor, *source.compared_by]
    if (source.table is None) == (source.query is None):
        return "table: name the table, e.g. `table: public.tickets`, or write a `query`, not both"
    if given := {"format", "encoding", "delimiter"} & source.model_fields_set:
        return f"{min(given)}: is about files, and `uri` names a database; leave it out"
    if "" in columns or len(set(source.cursor)) < len(source.cursor):
        return "cursor: names each column once, e.g. [updated_at, id]"
    if source.is_compared and not source.compared_by:
        return (
            "cursor: say which columns say what is new, e.g. [updated_at, id]; or `key`, the "
            "primary key, and every run compares the whole table"
        )
    if source.is_compared and (source.known == "at_event" or isinstance(source.known, KnownEpoch)):
        return (
            "known: that a row was deleted is known when it is missed, so with a comparison "
            "`known` is at_load or {column: NAME}, a time"
        )
    return None


def _check_expressions(path: Path, source: Source) -> None:
    """Bind every expression, to find mistakes before any data is read."""
    for name, expression in source.expressions().items():
        try:
            _bind(expression)
        except (ValueError, RecursionError, duckdb.Error) as error:
            key = {"known_timestamp": "known.column", "is_tombstone": "tombstone"}.get(
                name, f"record.{name}"
            )
            reason = str(error).splitlines()[0]
            message = (
                f"{path}: {key}: {expression!r} is not an SQL expression over the row "
                f"({reason}){_as_a_name(expression)}"
            )
            raise SourceError(message) from None


@cache
def _bind(expression: str) -> None:
    """Bind an expression to a row of text columns; raise what DuckDB raises if that fails."""
    columns = sorted(column_references(expression)) or ["_"]
    with sealed() as connection:
        connection.register(
            "parsed", pa.schema({column: pa.string() for column in columns}).empty_table()
        )
        connection.sql(f"select try({bound(expression)})::varchar from parsed")


def _as_a_name(expression: str) -> str:
    """Suggest how to write an expression that may be meant as a column's name."""
    return (
        ""
        if set(expression) & set("()'\n")
        else f"; if a column has this name, write '{quoted(expression)}'"
    )


def _check_columns(path: Path, source: Source) -> None:
    """Refuse names that SQL cannot tell apart, and attributes that name no field."""
    for name, other in itertools.pairwise(sorted(source.fields(), key=str.lower)):
        if name.lower() == other.lower():
            message = (
                f"{path}: record: {name!r} and {other!r} differ by case only; "
                "SQL cannot tell them apart, so map one of them"
            )
            raise SourceError(message)
    if {"*", ""} & set(source.attributes):
        message = f"{path}: attributes: '*' and '' name no field; name each field, e.g. [lang]"
        raise SourceError(message)


def _check_encoding(path: Path, source: Source) -> str:
    """Normalize the encoding's name, e.g. to `utf-8` from UTF8."""
    try:
        "".encode(source.encoding)
        name = codecs.lookup(source.encoding).name
    except (LookupError, ValueError):
        name = ""
    if not name or name in NO_FILE_IS_IN:
        message = (
            f"{path}: encoding: {source.encoding!r} is not a known encoding of files; "
            "e.g. utf-8, utf-16, windows-1252, latin-1"
        )
        raise SourceError(message)
    return "utf-8" if name == "utf-8-sig" else name  # a byte order mark is not part of the text


def _check_topic(path: Path, source: Source, encoding: str) -> None:
    """Refuse a topic without an address, and one whose messages are not JSON."""
    try:
        topic_of(source.uri)
    except SourceError as error:
        message = f"{path}: {error}"
        raise SourceError(message) from None
    if source.format not in {None, "jsonl"} or encoding != "utf-8":
        message = (
            f"{path}: format: messages of a topic are JSON objects in UTF-8; leave out `format` "
            "and `encoding`"
        )
        raise SourceError(message)


def _explain(error: ValidationError) -> str:
    """Turn pydantic's first error into the key and the fix."""
    # a key that is misspelled explains best why another is missing
    found = error.errors()
    first = min(found, key=lambda item: item["type"] != "extra_forbidden")
    key = ".".join(
        str(part)
        for part in first["loc"]
        if part not in {"KnownColumn", "literal['at_load','at_event']"}
    )
    if key == "known" or key.startswith("known."):
        return (
            "known: give when a row could be known: at_load, at_event or {column: NAME}; "
            f"for a number since 1970 the unit too: {EPOCH}"
        )
    if key.startswith("record.event_timestamp."):
        return (
            "record.event_timestamp: is a column or an expression; "
            f"for a number since 1970 give the unit too: {EPOCH}"
        )
    if first["type"] == "missing":
        return f"{key}: is missing; add it, e.g. `{key.rsplit('.', 1)[-1]}: ...`"
    if key in REPLACED:
        return f"{key}: is no longer a key; {REPLACED[key]}"
    if first["type"] == "extra_forbidden":
        parts: tuple[type[_Model], ...] = (
            (Drift, Thresholds) if key.startswith("drift.") else (Source, RecordMapping)
        )
        names = [field.alias or name for part in parts for name, field in part.model_fields.items()]
        near = difflib.get_close_matches(key.rsplit(".", 1)[-1], names, n=1)
        return f"{key}: is not a key of a source" + (
            f"; did you mean {near[0]!r}?" if near else f"; keys are {', '.join(names)}"
        )
    if first["type"] in EXAMPLES:
        return f"{key}: {EXAMPLES[first['type']]}"
    return f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}"
