"""Maintenance: merge small files, drop replaced rows, and delete data files that are not needed.

Consumers continue where they were. Rows that compaction moves to other files do not count as new,
and a consumer that was up to date gets a commit that records it still is.
"""

import statistics
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa

from transforms.expressions import quoted
from transforms.features.build import consistent_versions
from transforms.features.engine.duplicate_index import INDEX
from transforms.features.registry import views
from transforms.home import remove_files
from transforms.paths import file_bytes
from transforms.profiles.profile import profile_views
from transforms.schemas.base import Contract
from transforms.schemas.fields import SourceField
from transforms.schemas.profiles import ColumnProfile, DriftStatistic, LoadCheck
from transforms.schemas.raw import RawRecord
from transforms.schemas.staging import (
    AccountedFile,
    DuplicateRow,
    QuarantinedRecord,
    StagedRecord,
)
from transforms.sources.pages import carry_cursors, forget_cursors
from transforms.upkeep import log
from transforms.upkeep.log import trim_log
from transforms.warehouse.arrivals import lock_arrivals
from transforms.warehouse.checkpoint import (
    FEATURIZE,
    consumed_version,
    preparing,
    profiling,
    replaying,
)
from transforms.warehouse.publishing import publish
from transforms.warehouse.snapshot import connect, create_view
from transforms.warehouse.tables import Warehouse, n_rows_of
from transforms.warehouse.writer import ROWS_OF_A_FILE

# quarantine is not among them: a replay rewrites it
KEPT: tuple[type[Contract], ...] = (
    RawRecord,
    AccountedFile,
    SourceField,
    ColumnProfile,
    DriftStatistic,
    LoadCheck,
    DuplicateRow,
    StagedRecord,
    *INDEX,
)
RAW = RawRecord.relation()
FEW_FILES = 4
FEW_ROWS = 5_000  # rewritten in a hundredth of a second
MUCH_LARGER = 4
REPLACED_SHARE = 0.1
# what a column of one more small file costs a reader, and what a read of hardly any row does, as
# bytes of data that it could have read instead (measured with DuckDB, benchmarks/commits.py)
BYTES_OF_A_COLUMN = 1_500
BYTES_OF_A_READ = 400_000
CROWDED = 0.1
ROWS_OF_A_BUCKET = 500_000


class Compacted(NamedTuple):
    """What compaction did, or would do, to a table; seconds are the median of three full reads."""

    relation: str
    n_files: int
    n_files_after: int
    n_rows_dropped: int
    seconds: float
    seconds_after: float


class Vacuumed(NamedTuple):
    """The data files deleted, or to be deleted, and their size."""

    relation: str
    n_files: int
    n_bytes: int


def compact(
    warehouse: Warehouse,
    *,
    is_dry: bool,
    n_reads: int = 0,
    relations: Collection[str] | None = None,
) -> list[Compacted]:
    """Merge small files where there are several, and drop replaced rows where there are many.

    How long a read takes is measured `n_reads` times, before and after; 0 is not at all. Rows of
    views are profiled before they may be dropped. All tables are looked at, or the `relations`.
    """
    staging = StagedRecord.relation()
    versions = warehouse.versions()
    sources = [
        source
        for source in _sources(warehouse)
        if preparing(source).consumed(warehouse, staging) == versions[RAW]
    ]
    of_features = [view.contract for view in views()]
    consumers = [
        contract
        for contract in (*INDEX, *of_features)
        if FEATURIZE.consumed(warehouse, contract.relation()) == versions.get(staging)
    ]
    done = []
    for contract in (*KEPT, *of_features):
        if relations is not None and contract.relation() not in relations:
            continue
        files = warehouse.files(contract.relation())
        chosen = _chosen(contract, warehouse, files)
        if chosen and is_dry:
            done.append(
                Compacted(
                    contract.relation(), len(files), len(files) - len(chosen) + 1, 0, 0.0, 0.0
                )
            )
        elif chosen:
            if contract in of_features:
                profile_views(warehouse, [contract])
            done.append(_compact(contract, warehouse, chosen, n_reads))
        is_merged = bool(chosen) and not is_dry
        if contract is RawRecord and is_merged and warehouse.version(RAW) == versions[RAW] + 1:
            # the staged records alone record how much of raw is staged; where posts were committed
            # meanwhile, the next run finds by itself that the other rows were only moved
            progress = {
                name: at
                for source in sources
                for name, at in preparing(source).at(versions[RAW] + 1).items()
            }
            _advance(warehouse, [StagedRecord], progress)
        if (
            contract is StagedRecord
            and not is_dry
            and warehouse.versions().get(staging) != versions.get(staging)
        ):
            _advance(warehouse, consumers, FEATURIZE.at(warehouse.versions()[staging]))
    return done


def crowded(warehouse: Warehouse, number: int) -> list[str]:
    """Name the tables that small files make dearest to read beside merged ones, at most `number`.

    Of those alone that cost a tenth more, so of a small table after a few files, of a large one
    after many: what it costs to merge them is in proportion to what readers save.
    """
    contracts = (*KEPT, *(view.contract for view in views()))
    costs = {item.relation(): _cost_of_small_files(item, warehouse) for item in contracts}
    dear = sorted((name for name in costs if costs[name] > CROWDED), key=costs.__getitem__)
    return dear[::-1][:number]


def _cost_of_small_files(contract: type[Contract], warehouse: Warehouse) -> float:
    """Estimate how much dearer a read is than after a merge of the small files, as a share."""
    files = warehouse.files(contract.relation())
    n_more = max(0, len(_small(files)) - 1) * len(contract.columns()) * BYTES_OF_A_COLUMN
    return n_more / (BYTES_OF_A_READ + sum(file_bytes(Path(file)) for file in files))


def vacuum(
    warehouse: Warehouse,
    locked: Iterable[Mapping[str, int]],
    *,
    is_dry: bool,
    relations: Collection[str] | None = None,
    keep_days: float | None = None,
) -> list[Vacuumed]:
    """Delete the data files and log entries that nothing needs any more; checkpoint the tables.

    All tables are looked at, or the `relations`.

    A version is needed if a lock names it (`locked` has its views and versions), if a consumer has
    yet to read from it, or if it was replaced less than `keep_days` ago, by default as the settings
    say. Files that no commit names are deleted too, once they are that old.
    """
    consistent = consistent_versions(warehouse)
    kept = needed_versions(warehouse, [consistent, *locked])
    since = {f"features.{view}": version for view, version in consistent.items()}
    looked_at = [name for name in kept if relations is None or name in relations]
    # read by what is in them since, not their files
    positions = {relation: _positions(warehouse, relation) for relation in looked_at}
    hours = round((warehouse.settings.keep_days if keep_days is None else keep_days) * 24)
    done = []
    for relation in looked_at:
        with lock_arrivals(warehouse.settings.root) if relation == RAW else nullcontext():
            done.append(_vacuum(warehouse, relation, kept[relation], hours, is_dry=is_dry))
            if not is_dry:
                if relation == RAW:
                    carry_cursors(warehouse, log.KEPT_ENTRIES)
                    forget_cursors(warehouse)
                needed = kept[relation] | positions[relation]
                trim_log(warehouse.folder(relation), needed, since.get(relation))
    return done


def needed_versions(
    warehouse: Warehouse, of_views: Iterable[Mapping[str, int]]
) -> dict[str, set[int]]:
    """Return the versions of each table whose data files are needed.

    They are the newest, those that a consumer has yet to read from, and `of_views`, by view.
    """
    kept: dict[str, set[int]] = {
        relation: {version} for relation, version in warehouse.versions().items()
    }
    for source in _sources(warehouse):
        kept[RAW].add(preparing(source).consumed(warehouse, StagedRecord.relation()))
    for contract in (*INDEX, *(view.contract for view in views())):
        kept.get(StagedRecord.relation(), set()).add(
            FEATURIZE.consumed(warehouse, contract.relation())
        )
    for versions in of_views:
        for view, version in versions.items():
            kept.get(f"features.{view}", set()).add(version)
    return kept


def _positions(warehouse: Warehouse, relation: str) -> set[int]:
    """Return the versions of a table that replays, views of its rows and profiles go on from."""
    if relation == QuarantinedRecord.relation():
        accounts = AccountedFile.relation()
        return {replaying(name).consumed(warehouse, accounts) for name in _sources(warehouse)}
    if relation in {contract.relation() for contract in INDEX}:
        return {consumed_version(warehouse, view.relation, relation) for view in views()}
    return {profiling(relation).consumed(warehouse, ColumnProfile.relation())}


def _vacuum(
    warehouse: Warehouse, relation: str, kept: set[int], hours: int, *, is_dry: bool
) -> Vacuumed:
    """Vacuum a table to which nobody writes."""
    table = warehouse.table(relation)
    if table is None:
        return Vacuumed(relation, 0, 0)
    keep = sorted(version for version in kept if 0 <= version <= table.version())
    # Delta's own deletion adds two commits that every consumer of the table would have to read
    there = warehouse.settings.replica
    with there.outline(warehouse.folder(relation)) if there else nullcontext(table) as outline:
        names = outline.vacuum(
            hours, dry_run=True, enforce_retention_duration=False, keep_versions=keep, full=True
        )
    named = [warehouse.folder(relation) / name for name in names]
    files = named if there else [file for file in named if file.is_file()]
    n_bytes = sum(map(there.size if there else file_bytes, files))
    deleted = Vacuumed(relation, len(files), n_bytes)
    if not is_dry:
        remove_files(files)
        table.create_checkpoint()
    return deleted


def _sources(warehouse: Warehouse) -> list[str]:
    if AccountedFile.relation() not in warehouse.versions():
        return []
    with connect(warehouse, of=(AccountedFile.relation(),)) as connection:
        sources = f"select distinct source from {AccountedFile.relation()} order by all"
        return [name for (name,) in connection.sql(sources).fetchall()]


def _advance(
    warehouse: Warehouse, consumers: Iterable[type[Contract]], progress: Mapping[str, int]
) -> None:
    """Record that consumers are still up to date: rows were only moved."""
    for contract in consumers if progress else ():
        publish(warehouse, contract, [], progress)


def _chosen(contract: type[Contract], warehouse: Warehouse, files: list[str]) -> list[str]:
    """Choose the files to rewrite.

    All files of a view with many replaced rows; otherwise the small files, if there are several.
    """
    if is_dated(contract) and files and _replaced_share(contract, warehouse) >= REPLACED_SHARE:
        return files
    return _small(files)


def _small(files: list[str]) -> list[str]:
    """Choose the small files, if there are several.

    A file that is much larger than all smaller ones together waits for more of them: where a
    consumer has its tables compacted again and again, each row is rewritten a few times, not every
    time.
    """
    small = sorted((file for file in files if n_rows_of(file) < ROWS_OF_A_FILE // 4), key=n_rows_of)
    chosen: list[str] = []
    n_rows = 0
    for file in small:
        if n_rows_of(file) > max(FEW_ROWS, MUCH_LARGER * n_rows):
            break
        chosen.append(file)
        n_rows += n_rows_of(file)
    return chosen if len(chosen) > FEW_FILES else []


def is_dated(contract: type[Contract]) -> bool:
    """Return whether a table keeps several rows of a key and instant, of which the newest counts.

    >>> is_dated(StagedRecord), [is_dated(view.contract) for view in views()][:1]
    (False, [True])
    """
    return contract.key()[-1] == "created_timestamp"


def _replaced_share(contract: type[Contract], warehouse: Warehouse) -> float:
    """Return the share of a view's rows that newer ones have replaced."""
    *key, _ = contract.key()
    with connect(warehouse, of=(contract.relation(),)) as connection:
        share = f"1 - count(distinct hash({', '.join(key)})) / count(*)"
        found = connection.sql(f"select {share} from {contract.relation()}").fetchall()
        return float(found[0][0] or 0)


def _compact(
    contract: type[Contract], warehouse: Warehouse, chosen: list[str], n_reads: int
) -> Compacted:
    relation = contract.relation()
    n_files, n_rows = len(warehouse.files(relation)), warehouse.n_rows(relation)
    seconds = _seconds_of_a_read(relation, warehouse, n_reads)
    with connect(warehouse, of=()) as connection:
        create_view(connection, "chosen", chosen, contract.arrow_schema())
        publish(
            warehouse,
            contract,
            _rows(connection, contract, warehouse.settings.batch_rows),
            {},
            without=chosen,
        )
    n_dropped = n_rows - warehouse.n_rows(relation)
    return Compacted(
        relation,
        n_files,
        len(warehouse.files(relation)),
        n_dropped,
        seconds,
        _seconds_of_a_read(relation, warehouse, n_reads),
    )


def _rows(
    connection: duckdb.DuckDBPyConnection, contract: type[Contract], batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """Stream the chosen rows; of a view only the newest of every entity and instant, in order.

    These are sorted in buckets that fit in memory.
    """
    sql, n_buckets = "from chosen", 1
    if is_dated(contract):
        *key, created = map(quoted, contract.key())
        entity, by = ", ".join(key[:-1]), ", ".join(key)
        (n_rows,) = connection.sql("select count(*) from chosen").fetchall()[0]
        n_buckets = 1 + n_rows // ROWS_OF_A_BUCKET
        sql = f"""
            from chosen where hash({entity}) % {n_buckets} = $bucket
            qualify row_number() over (partition by {by} order by {created} desc) = 1
            order by {by}
        """
    for bucket in range(n_buckets):
        parameters = {"bucket": bucket} if is_dated(contract) else None
        for batch in connection.sql(sql, params=parameters).to_arrow_reader(batch_rows):
            yield batch.cast(contract.arrow_schema())


def _seconds_of_a_read(relation: str, warehouse: Warehouse, n_reads: int) -> float:
    """Measure a read of all rows and columns: the median of some; 0 of none."""
    return statistics.median([_clock(relation, warehouse) for _ in range(n_reads)] or [0.0])


def _clock(relation: str, warehouse: Warehouse) -> float:
    with connect(warehouse, of=(relation,)) as connection:
        start = time.perf_counter()
        for _ in connection.sql(f"from {relation}").to_arrow_reader(warehouse.settings.batch_rows):
            pass
        return time.perf_counter() - start
