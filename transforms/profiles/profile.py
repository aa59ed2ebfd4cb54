"""Profiles: the distribution of a column in a load, or in a publication of a view.

`transforms.profiles.drift` compares them. A profile is counts by bucket, so profiles of parts add
up to the profile of the whole, in any order. Numbers have the buckets of DDSketch (Masson, Rim, Lee
2019, VLDB 12(12)): bucket i covers (g^(i-1), g^i] with g = 1.01 / 0.99, so any quantile is accurate
to 1 %. What is expensive to measure in a text is measured in a sample.
"""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
from deltalake import DeltaTable

from transforms.paths import scan_parquet
from transforms.schemas.base import Contract
from transforms.schemas.profiles import ColumnProfile
from transforms.schemas.staging import StagedRecord
from transforms.sql import model
from transforms.text.pii import KINDS, score_pii
from transforms.text.quality import WORD
from transforms.warehouse.checkpoint import PROFILE, profiling, publish_once
from transforms.warehouse.streams import read_streams
from transforms.warehouse.tables import Warehouse, data_files, n_rows_of

ACCURACY = 0.01
GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
SMALLEST = 1e-9
# greater than any bucket's index; doubles have indexes from about -1,036 to 35,500
SHIFT = 1 << 20
SAMPLED_ROWS = 10_000
FEW_ROWS = 10_000
# counted at a time: of all rows at once, Polars keeps what one column has read before another
ROWS_OF_A_PART = 500_000
VOCABULARY_BUCKETS = 1024
# below this, a vocabulary would give single texts away
MIN_VOCABULARY_ROWS = 20
SHOWN_LABEL = r"^(?:-?[0-9]{1,3}(?:\.[0-9])?|\pL[\pL _-]{0,31})$"
LABEL_BUCKETS = 256
LETTERS = r"\pL+"
# the columns of views with a few known words; other text is an id, and profiles keep no ids
CATEGORIES = ("language", "second_language", "script")
ALL_ROWS = ""
LOAD = ["source", "load_id", "loaded_timestamp"]


class Profiled(NamedTuple):
    """A column of a profile: name, kind, each row's bucket, and the bucket's name over `key`."""

    name: str
    kind: str
    bucket: pl.Expr
    key: pl.Expr = pl.col("key").cast(pl.String)


def sketched(name: str, value: pl.Expr) -> Profiled:
    """Count a number in buckets, named by sign (`p` or `n`) and index; `0` for values near zero.

    NaN and infinity count as null. Rows are counted by an integer that has the number's sign; only
    then are the few buckets named.

    >>> numbers = pl.LazyFrame({"n": [1.0, 1.001, -20.0, 0.0, None]})
    >>> counts = count(numbers, [], [sketched("n", pl.col("n"))])
    >>> sorted(counts.drop_nulls().select("key", "n").rows())
    [('0', 1), ('n150', 1), ('p0', 1), ('p1', 1)]
    """
    number = value.cast(pl.Float64)
    size = number.abs()
    index = (pl.when(size > SMALLEST).then(size).log() / float(np.log(GAMMA))).ceil().cast(
        pl.Int64
    ) + SHIFT
    bucket = pl.when(number.is_finite()).then(
        pl.when(size > SMALLEST).then(index * number.sign().cast(pl.Int64)).otherwise(0)
    )
    return Profiled(name, "number", bucket, _bucket_name())


@cache
def _bucket_name() -> pl.Expr:
    """Name a bucket of numbers by its integer; once, since a view has dozens of numbers."""
    key = pl.col("key")
    sign = pl.when(key > 0).then(pl.lit("p")).otherwise(pl.lit("n"))
    return pl.when(key == 0).then(pl.lit("0")).otherwise(sign + (key.abs() - SHIFT).cast(pl.String))


def sketch_values(keys: Sequence[str]) -> np.ndarray:
    """Return the number that represents each bucket, within 1 % of all in it.

    >>> sketch_values(["0", "p0", "p116"]).round(2).tolist()
    [0.0, 0.99, 10.07]
    """
    signs = np.array([{"p": 1.0, "n": -1.0}.get(key[:1], 0.0) for key in keys])
    indexes = np.array([float(key[1:] or 0) for key in keys])
    return signs * 2 * GAMMA**indexes / (GAMMA + 1)


def quantiles(keys: Sequence[str], counts: Sequence[int], shares: Sequence[float]) -> list[float]:
    """Estimate quantiles of a number's profile.

    Each is within 1 % of the value of that rank (the lower one, between two).

    >>> [round(value, 2) for value in quantiles(["n116", "p0", "p116"], [1, 8, 1], [0.0, 0.5, 1.0])]
    [-10.07, 0.99, 10.07]
    """
    values = sketch_values(keys)
    order = np.argsort(values)
    return [
        float(value)
        for value in quantiles_of(values[order], np.asarray(counts)[order], np.asarray(shares))
    ]


def quantiles_of(values: np.ndarray, counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return quantiles of sorted values that occur `counts` times each.

    >>> quantiles_of(np.array([1, 5]), np.array([9, 1]), np.array([0.5, 1.0])).tolist()
    [1, 5]
    """
    upto = np.cumsum(counts)
    found: np.ndarray = values[
        np.searchsorted(upto, np.floor(shares * (upto[-1] - 1)), side="right")
    ]
    return found


def count(
    rows: pl.LazyFrame, by: Sequence[str], columns: Iterable[Profiled], *, n_rows: int = FEW_ROWS
) -> pl.DataFrame:
    """Count rows as columns *by, column, kind, key (null: no value), n.

    The streaming engine uses all cores, but a query for each column costs more than few rows.
    """
    if n_rows < FEW_ROWS:
        return merge(_count_few(rows.collect(engine="in-memory"), by, columns))
    counts = [
        rows.group_by(*by, key=column.bucket)
        .agg(n=pl.len().cast(pl.Int64))
        .select(*by, column=pl.lit(column.name), kind=pl.lit(column.kind), key=column.key, n="n")
        for column in columns
    ]
    return merge(pl.collect_all(counts, engine="streaming"))


def _count_few(
    rows: pl.DataFrame, by: Sequence[str], columns: Iterable[Profiled]
) -> Iterator[pl.DataFrame]:
    """Count few rows: all columns at once whose buckets are named alike."""
    alike: dict[tuple[str, int], list[Profiled]] = {}
    for column in columns:
        alike.setdefault((column.kind, id(column.key)), []).append(column)
    for (kind, _), group in alike.items():
        of = pl.Int64 if kind == "number" else pl.String
        buckets = rows.select(*by, *(item.bucket.cast(of).alias(item.name) for item in group))
        names = [item.name for item in group]
        keys = buckets.unpivot(names, index=by, variable_name="column", value_name="key")
        yield (
            keys.group_by(*by, "column", "key")
            .agg(n=pl.len().cast(pl.Int64))
            .select(*by, "column", kind=pl.lit(kind), key=group[0].key, n="n")
        )


def merge(counts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Add up counts of parts.

    >>> merge([pl.DataFrame({"key": ["a"], "n": [n]}) for n in (1, 2)]).rows()
    [('a', 3)]
    """
    parts = pl.concat(counts)
    return parts.group_by(pl.exclude("n")).agg(pl.col("n").sum())


def as_profiles(counts: pl.DataFrame) -> pl.DataFrame:
    """Turn counts, which have a `relation` and the columns of `LOAD`, into `ColumnProfile`."""
    is_bucket = pl.col("key") != ALL_ROWS  # null where there is no value, which is no bucket either
    n_all = pl.col("n").filter(pl.col("key") == ALL_ROWS).sum()
    profiles = (
        counts.filter(pl.col("n") > 0)
        .sort("key")
        .group_by("relation", *LOAD, "column", "kind")
        .agg(
            n_rows=pl.when(pl.col("kind").first() == "vocabulary")
            .then(n_all)
            .otherwise(pl.col("n").sum()),
            n_null=pl.col("n").filter(pl.col("key").is_null()).sum(),
            bucket_keys=pl.col("key").filter(is_bucket),
            bucket_counts=pl.col("n").filter(is_bucket),
        )
    )
    is_kept = (pl.col("kind") != "vocabulary") | (pl.col("n_rows") >= MIN_VOCABULARY_ROWS)
    return (
        profiles.filter(is_kept)
        .select(ColumnProfile.arrow_schema().names)
        .sort(ColumnProfile.key())
    )


def stored(table: DeltaTable, contract: type[Contract]) -> pl.LazyFrame:
    """Read a relation; an empty frame if it has no files."""
    files = data_files(table)
    empty = pl.DataFrame(contract.arrow_schema().empty_table())
    return scan_parquet(files, empty.schema) if files else empty.lazy()


def store(warehouse: Warehouse, contract: type[Contract], rows: pl.DataFrame) -> None:
    """Replace the rows of loads; do nothing if the same rows are stored already.

    The version that was read is the transaction, so if two runs do this at once, one does nothing.
    """
    table = warehouse.create(contract)
    load = [name for name in ("relation", "source", "load_id") if name in rows.columns]
    loads = rows.select(load).unique()
    earlier = stored(table, contract)
    profiled = earlier.join(loads.lazy(), on=load, how="semi").collect()
    if profiled.sort(contract.key()).equals(rows.sort(contract.key())):
        return
    replaced = [] if profiled.is_empty() else data_files(table)
    staying = (
        earlier.join(loads.lazy(), on=load, how="anti").collect() if replaced else rows.clear()
    )
    batches = pl.concat([staying, rows]).to_arrow().cast(contract.arrow_schema()).to_batches()
    publish_once(warehouse, contract, batches, PROFILE.at(table.version()), without=replaced)


def profile_loads(connection: duckdb.DuckDBPyConnection, buffer: Path) -> pl.DataFrame:
    """Profile the loads that were just split: a row of `ColumnProfile` per load and column.

    See `transforms.staging.prepare.split`. Outcomes are counted over all rows read, the rest over
    accepted rows.
    """
    loads: pl.DataFrame = connection.sql(
        # the posts of a load come one after the other
        "select source, load_id, min(loaded_timestamp) as loaded_timestamp from incoming "
        "group by source, load_id"
    ).pl()
    counts: pl.DataFrame = connection.sql(model("profiles/outcomes")).pl()
    for part in _count_accepted(connection, buffer):
        counts = merge([counts, part])
    counts = merge([counts, connection.sql(model("profiles/repeated_texts")).pl()])
    loaded = _name_few_labels(counts).join(loads, on="load_id")
    return as_profiles(loaded.with_columns(relation=pl.lit(StagedRecord.relation())))


def profile_views(warehouse: Warehouse, contracts: Iterable[type[Contract]]) -> None:
    """Profile publications of views that have no profile yet: rows with one `created_timestamp`.

    They are read from the files added since the last time, so a run that was killed after a view's
    commit loses nothing.
    """
    profiles, versions = warehouse.create(ColumnProfile), warehouse.versions()
    since = {
        contract: profiling(contract.relation()).consumed(warehouse, ColumnProfile.relation())
        for contract in contracts
    }
    # the columns last: what they are counted by takes longer than to see that nothing has changed
    stale = [
        contract
        for contract in since
        if since[contract] < versions[contract.relation()] and _columns_of(contract)
    ]
    if not stale:
        return
    profiled = stored(profiles, ColumnProfile).select("relation", "loaded_timestamp").collect()
    found: list[pl.DataFrame] = []
    transactions: dict[str, int] = {}
    for contract in stale:
        relation = contract.relation()
        known = profiled.filter(relation=relation)["loaded_timestamp"]
        if files := warehouse.files(relation, since[contract]):
            found.append(_count_publications(contract, files, known))
        transactions |= profiling(relation).at(versions[relation])
    schema = ColumnProfile.arrow_schema()
    rows = as_profiles(pl.concat(found)).to_arrow().cast(schema) if found else schema.empty_table()
    publish_once(warehouse, ColumnProfile, rows.to_batches(), transactions)


def _count_publications(
    contract: type[Contract], files: list[str], known: pl.Series
) -> pl.DataFrame:
    """Count the publications in a view's data files that have no profile yet."""
    created = pl.col("created_timestamp")
    rows, n_rows = scan_parquet(files), sum(map(n_rows_of, files))
    is_new = ~created.is_in(known.unique().implode())
    counts = merge(
        count(
            rows.slice(first, ROWS_OF_A_PART).filter(is_new).with_columns(loaded_timestamp=created),
            ["loaded_timestamp"],
            _columns_of(contract),
            n_rows=n_rows,
        )
        for first in range(0, n_rows or 1, ROWS_OF_A_PART)
    )
    load_id = pl.col("loaded_timestamp").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    relation = pl.lit(contract.relation())
    return counts.with_columns(source=pl.lit(""), load_id=load_id, relation=relation)


@cache
def _columns_of(contract: type[Contract]) -> list[Profiled]:
    """List how the columns of a view are counted, without ids, times, lists and unserved ones."""
    return [
        sketched(column.name, pl.col(column.name))
        if column.dtype.is_numeric()
        else _category(column.name)
        for column in contract.served()
        if column.dtype.is_numeric() or column.dtype == pl.Boolean() or column.name in CATEGORIES
    ]


def _count_accepted(connection: duckdb.DuckDBPyConnection, buffer: Path) -> Iterator[pl.DataFrame]:
    """Count the accepted rows batch by batch.

    Cheap columns are counted over all of them, the others over a sample of each load. The sample
    is gathered from batches first, since each count has its price however few rows it is of.
    """
    accepted = connection.sql("select accepted_id from accepted order by accepted_id").fetchnumpy()[
        "accepted_id"
    ]
    sample = connection.sql(model("profiles/sampled_rows"), params={"n_rows": SAMPLED_ROWS})
    sampled = np.sort(sample.fetchnumpy()["accepted_id"])
    first = 0
    waiting: list[pa.RecordBatch] = []
    for batch in read_streams(buffer):
        read = batch.select(PROFILED)
        rows = pl.DataFrame(read)[_within(accepted, first, len(read))]
        yield count(rows.lazy(), ["load_id"], (*CHEAP, _label()), n_rows=rows.height)
        # a copy; rows of Polars would hold the whole batch
        waiting.append(read.take(pa.array(_within(sampled, first, len(read)))))
        first += len(read)
        if sum(map(len, waiting)) >= SAMPLED_ROWS:
            yield from _count_sample(waiting)
            waiting = []
    if waiting:
        yield from _count_sample(waiting)


def _count_sample(batches: list[pa.RecordBatch]) -> Iterator[pl.DataFrame]:
    sample = pl.DataFrame(pa.Table.from_batches(batches))
    yield count(_measured(sample).lazy(), ["load_id"], SAMPLED, n_rows=sample.height)
    yield _count_vocabulary(sample)


def _within(ids: np.ndarray, first: int, n_rows: int) -> np.ndarray:
    """Return the rows of a batch that sorted ids name; the batch begins with id `first`."""
    start, end = np.searchsorted(ids, [first, first + n_rows])
    within: np.ndarray = ids[start:end] - first
    return within


def _presence(column: str) -> Profiled:
    return Profiled(
        column, "category", pl.when(pl.col(column).is_not_null()).then(pl.lit("present"))
    )


def _category(column: str) -> Profiled:
    return Profiled(column, "category", pl.col(column))


def _hash_buckets(values: pl.Series, n_buckets: int) -> pl.Series:
    """Return each value's bucket, the same in any process and version.

    Each distinct value is hashed once.
    """
    distinct = values.drop_nulls().unique()
    buckets = pl.Series(
        [zlib.crc32(value.encode()) % n_buckets for value in distinct], dtype=pl.Int64
    ).cast(pl.String)
    return values.replace_strict(distinct, buckets, return_dtype=pl.String)


def hashed_label(labels: pl.Series) -> pl.Series:
    """Name each text by the bucket of its hash.

    >>> hashed_label(pl.Series(["spam", "ham", "spam", None])).to_list()
    ['#61', '#137', '#61', None]
    """
    return "#" + _hash_buckets(labels, LABEL_BUCKETS)


def _label() -> Profiled:
    """Name labels that may be shown, hash the others.

    It is built at each use: an expression that calls Python and is kept in its module is a
    reference cycle through Polars, which no garbage collector sees.
    """
    hashed = pl.col("key").map_batches(hashed_label, pl.String)
    return Profiled(
        "label",
        "category",
        pl.col("label"),
        pl.when(pl.col("key").str.contains(SHOWN_LABEL)).then("key").otherwise(hashed),
    )


CHEAP = (
    sketched("n_bytes", pl.col("text").str.len_bytes()),
    sketched(
        "lateness_seconds",
        (pl.col("known_timestamp") - pl.col("event_timestamp")).dt.total_microseconds() / 1e6,
    ),
    _category("is_tombstone"),
    _presence("subject_id"),
    _presence("attributes"),
)
# the columns that are read of the accepted rows
PROFILED = [
    *("record_id", "load_id", "text", "label", "subject_id", "attributes", "is_tombstone"),
    *("event_timestamp", "known_timestamp", "loaded_timestamp"),
]
SAMPLED = (
    sketched("n_words", pl.col("text").str.count_matches(WORD)),
    _category("language"),
    _category("script"),
    _category("pii"),
)


def _measured(sample: pl.DataFrame) -> pl.DataFrame:
    """Name each text's language and script, and the kinds of identifiers in it, joined by `+`."""
    from transforms.text.language import identify_language  # the model takes a while to import

    languages = identify_language(sample["text"], n_workers=1).select("language", "script")
    counts = score_pii(sample.lazy().with_columns(created_timestamp="loaded_timestamp")).collect()
    kinds = [pl.when(pl.col(f"pii_{kind.lower()}_count") > 0).then(pl.lit(kind)) for kind in KINDS]
    pii = (
        pl.when(pl.col("pii_any") > 0)
        .then(pl.concat_str(kinds, separator="+", ignore_nulls=True))
        .otherwise(pl.lit("none"))
    )
    identified = counts.select(pii=pl.when(pl.col("pii_any").is_not_null()).then(pii))
    return pl.concat([sample.select("load_id", "text"), languages, identified], how="horizontal")


def _count_vocabulary(sample: pl.DataFrame) -> pl.DataFrame:
    """Count the texts that have a word of a bucket, and under `ALL_ROWS` all texts."""
    words = (
        sample.with_row_index("row")
        .select("row", "load_id", word=pl.col("text").str.to_lowercase().str.extract_all(LETTERS))
        .explode("word")
        .with_columns(
            key=pl.col("word").map_batches(
                lambda word: _hash_buckets(word, VOCABULARY_BUCKETS), pl.String
            )
        )
        .unique(["row", "key"])
        .drop_nulls("key")
    )
    texts = sample.select(
        "load_id", key=pl.when(pl.col("text").is_not_null()).then(pl.lit(ALL_ROWS))
    )
    rows = pl.concat([words.select("load_id", "key"), texts])
    of_word = Profiled("vocabulary", "vocabulary", pl.col("key"))
    return count(rows.lazy(), ["load_id"], [of_word], n_rows=rows.height)


def _name_few_labels(counts: pl.DataFrame) -> pl.DataFrame:
    """Keep the names of a load's most frequent labels.

    If there are very many, the others are hashed, like labels that are no names.
    """
    is_label = pl.col("column") == "label"
    rank = pl.col("n").rank("ordinal", descending=True).over("load_id", "column")
    is_kept = ~is_label | (rank <= LABEL_BUCKETS) | pl.col("key").str.starts_with("#")
    hashed = (
        pl.when(is_kept).then("key").otherwise(pl.col("key").map_batches(hashed_label, pl.String))
    )
    return merge([counts.with_columns(key=hashed)])
