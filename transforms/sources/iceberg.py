"""An Iceberg table as a stream: its snapshots and the data files that each one adds.

A snapshot's position is its sequence number, which no other snapshot of a table ever has. Where the
catalog is and what lets in is pyiceberg's own configuration, never the source file.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.errors import SourceError
from transforms.sources.appended import BATCH_ROWS, AppendedTable, Version, lost, no_append
from transforms.sources.reading import read_payloads
from transforms.sources.source import Source, SourceFile

COMPACTION = "replace"


@dataclass(frozen=True)
class _Added:
    """A data file as the table's manifests have it."""

    table: Any = field(repr=False)
    file: Any

    @property
    def uri(self) -> str:
        path = str(self.file.file_path)
        return path if urlsplit(path).scheme else Path(path).as_uri()

    def n_rows(self) -> int:
        return int(self.file.record_count)

    def payloads(self, source: Source) -> Iterator[pa.Array]:
        """Yield its rows with the columns that the table has now."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "rows.parquet"
            _write(self.table, self.file, path)
            for _, payloads in read_payloads(SourceFile(path, "parquet", None), source, BATCH_ROWS):
                yield payloads


class Iceberg(AppendedTable):
    """A table of an Iceberg catalog, that others append to."""

    def __init__(self, source: Source) -> None:
        """Open it; raises `SourceError` if it cannot be read."""
        self._table = _opened(source.uri)
        super().__init__(source, str(self._table.metadata.table_uuid))

    def versions(self, position: int) -> list[Version]:
        """List the snapshots from a position on, the oldest first."""
        from pyiceberg.table.snapshots import ancestors_of

        newest = self._table.current_snapshot()
        if newest is None:
            return []
        line: list[Any] = list(ancestors_of(newest, self._table.metadata))[::-1]
        end = line[-1].sequence_number + 1
        if position < 0:
            return [Version(end, self._all_files())]
        if position - 1 not in {snapshot.sequence_number for snapshot in line}:
            reason = f"its snapshot {position - 1} (by sequence number) is expired or rolled back"
            return [Version(end, self._all_files(), lost(self._source.uri, reason))]
        return [self._version(one) for one in line if one.sequence_number >= position]

    def _version(self, snapshot: Any) -> Version:
        from pyiceberg.manifest import DataFileContent, ManifestEntryStatus

        operation = snapshot.summary.operation.value if snapshot.summary else "unknown operation"
        end = snapshot.sequence_number + 1
        if operation == COMPACTION:
            return Version(end, [])
        files = [
            _Added(self._table, entry.data_file)
            for manifest in snapshot.manifests(self._table.io)
            if manifest.added_snapshot_id == snapshot.snapshot_id
            for entry in manifest.fetch_manifest_entry(self._table.io)
            if entry.status == ManifestEntryStatus.ADDED
            and entry.data_file.content == DataFileContent.DATA
        ]
        name = f"snapshot {snapshot.snapshot_id} ({operation})"
        gap = None if operation == "append" else no_append(self._source.uri, name)
        return Version(end, files, gap)

    def _all_files(self) -> list[_Added]:
        """List the data files of the newest snapshot; raises `SourceError` if rows are deleted."""
        tasks = sorted(self._table.scan().plan_files(), key=lambda task: task.file.file_path)
        if any(task.delete_files for task in tasks):
            message = (
                f"{self._source.uri}: has delete files, which are not read here; rewrite its data "
                "files (in Spark: call system.rewrite_data_files), then run again"
            )
            raise SourceError(message)
        return [_Added(self._table, task.file) for task in tasks]


def _opened(uri: str) -> Any:
    """Open a table by `iceberg://CATALOG/NAMESPACE.TABLE`."""
    try:
        from pyiceberg.catalog import load_catalog
    except ImportError:
        message = f"{uri}: to read it, install the extra: pip install 'millrace[iceberg]'"
        raise SourceError(message) from None
    catalog, _, name = uri.removeprefix("iceberg://").partition("/")
    try:
        table = load_catalog(catalog, **_settings(catalog)).load_table(name)
    except Exception as error:  # noqa: BLE001 - each catalog has errors of its own
        message = (
            f"{uri}: cannot be opened ({type(error).__name__}); check the name, and the catalog's "
            f"settings, e.g. PYICEBERG_CATALOG__{catalog.upper()}__URI (docs/sources.md)"
        )
        raise SourceError(message) from None
    if table.format_version == 1:
        message = f"{uri}: is of format 1, whose snapshots have no number; upgrade it to format 2"
        raise SourceError(message)
    return table


def _settings(catalog: str) -> Any:
    """Read what pyiceberg's files and the environment say of a catalog.

    pyiceberg itself reads the environment once, when it is imported.
    """
    from pyiceberg.utils.config import Config

    return Config().get_catalog_config(catalog) or {}


def _write(table: Any, file: Any, path: Path) -> None:
    """Write the rows of a data file, as the table has them, in their order there."""
    from pyiceberg.expressions import AlwaysTrue
    from pyiceberg.io.pyarrow import ArrowScan, schema_to_pyarrow
    from pyiceberg.table import FileScanTask

    scan = ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue())
    schema = schema_to_pyarrow(table.schema(), include_field_ids=False)
    with pq.ParquetWriter(path, schema) as writer:
        for batch in scan.to_record_batches([FileScanTask(file)]):
            writer.write_batch(batch.cast(schema))
