"""Near duplicates: which earlier record each record repeats, from the index of all texts."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa

from transforms.errors import HomeError
from transforms.features.declare import NearDuplicates
from transforms.features.engine.asked_duplicates import label_texts
from transforms.features.engine.duplicate_index import bring_index_up
from transforms.features.engine.duplicates import duplicate_rows
from transforms.features.engine.kernels import KEY
from transforms.features.engine.record import count_in_effect, record_behind
from transforms.features.entities import record
from transforms.features.fingerprint import digest
from transforms.features.view import Explained, Run, View
from transforms.schemas.duplicates import KnownDocument
from transforms.sql import model
from transforms.text.duplicates import compare_texts
from transforms.warehouse.checkpoint import consumed_version
from transforms.warehouse.snapshot import create_view
from transforms.warehouse.tables import Warehouse

COMPUTED_IN = (duplicate_rows.__module__,)


class NearDuplicatesView(View):
    """The view of repeated records.

    Its values rest on all earlier records, so all are recomputed where a record is deleted.
    """

    entity = record
    is_of_records = True
    is_rebuilt_whole = True
    is_on_demand = True

    def __init__(self, declared: type[NearDuplicates]) -> None:
        """Take the declared class."""
        self.online = declared.Config.metadata["online"]
        self.contract = declared

    def digest(self) -> int:
        """Digest the code that labels documents."""
        return digest(self.contract, COMPUTED_IN, "", ())

    def prepare(
        self,
        warehouse: Warehouse,
        now: datetime,
        done: Mapping[str, int],
        *,
        is_rebuilt: bool = False,
    ) -> dict[str, int]:
        """Update the index to what is staged."""
        return bring_index_up(warehouse, now, done, self, is_rebuilt=is_rebuilt)

    def rows(self, run: Run, *, is_whole: bool) -> Iterator[pa.RecordBatch]:
        """Compute rows from the documents that the index got since the last run."""
        since = (
            -1
            if is_whole
            else consumed_version(run.warehouse, self.relation, KnownDocument.relation())
        )
        files = run.warehouse.files(KnownDocument.relation(), since)
        create_view(run.connection, "index_documents", files, KnownDocument.arrow_schema())
        return duplicate_rows(
            run.connection, self.contract, run.batch_rows, run.now, is_whole=is_whole
        )

    def instants(self, run: Run) -> str:
        """SQL of the instants from which a version is in effect."""
        del run
        return model("backfill/effective_instants")

    def rebuild(self, run: Run, entities: str) -> Iterator[pa.RecordBatch]:
        """Compute rows from all documents of the records in the index."""
        documents = (
            f"select * from {KnownDocument.relation()} "
            f"where record_id in (select entity_id from {entities})"
        )
        run.connection.execute(f"create or replace view index_documents as {documents}")
        return duplicate_rows(
            run.connection, self.contract, run.batch_rows, run.now, is_whole=False
        )

    def rests_on(
        self, connection: duckdb.DuckDBPyConnection, files: list[str], entities: str
    ) -> list[str]:
        """List all files: a value may rest on any record."""
        del connection, entities
        return files

    def count_resting(
        self, connection: duckdb.DuckDBPyConnection, source_uri: str
    ) -> dict[str, int]:
        """Count the instants at which a version of the file is in effect."""
        return count_in_effect(connection, self.relation, source_uri)

    def of_request(self, versions: pl.DataFrame, home: Path | None) -> pl.DataFrame:
        """Label texts by the index of the home, each as a new record's that came after all."""
        if home is None:
            message = (
                f"{self.name}: compares with the texts of a home, and this online store of Feast's "
                "does not say which; ask by feature_repo.online_features(..., home=...)"
            )
            raise HomeError(message)
        from transforms.features.chosen import refuse_off  # which imports this module

        refuse_off(home, self.name)  # its index may lack texts
        there = versions.filter(pl.col("text").is_not_null())
        labelled = there[list(KEY)].hstack(label_texts(there["text"], home))
        return versions[list(KEY)].join(
            labelled.drop(KEY[2]), on=KEY[:2], how="left", maintain_order="left"
        )

    def explain(
        self,
        connection: duckdb.DuckDBPyConnection,
        entity: Mapping[str, str],
        at: datetime,
        limit: int,
        feature: str | None = None,
    ) -> Explained:
        """Take the original from the index and compare its texts with the record's again.

        Finding the original among all texts would mean rebuilding the index. `dup_similarity` is
        the index's if one of the original's texts has it, else the greatest found.
        """
        del limit, feature
        record_id = entity["record_id"]
        documents = _rows(connection, "lineage/document_in_effect", record_id, at)
        document = (
            documents[0]
            if documents
            else {"origin_id": None, "origin_similarity": None, "cluster_size": None}
        )
        origin_id = document["origin_id"] if document["origin_id"] != record_id else None
        in_effect = _rows(connection, "lineage/version_in_effect", record_id, at)
        origins = _rows(connection, "lineage/version_in_effect", origin_id, at)
        known = _rows(connection, "lineage/known_texts", origin_id, at)
        found = (
            compare_texts(in_effect[0]["text"], [row["text"] for row in known])
            if origin_id and in_effect
            else []
        )
        computed = {
            "dup_of": origin_id,
            "dup_similarity": document["origin_similarity"]
            if document["origin_similarity"] in found
            else max(found, default=None),
            "dup_cluster_size": document["cluster_size"],
            "is_duplicate": None if document["origin_id"] is None else int(origin_id is not None),
        }
        behind = [record_behind(row) for row in in_effect + origins]
        return Explained(computed, behind, len(behind))


def _rows(
    connection: duckdb.DuckDBPyConnection, name: str, record_id: str | None, at: datetime
) -> list[dict[str, Any]]:
    found: pl.DataFrame = connection.sql(
        model(name), params={"record_id": record_id, "at": at}
    ).pl()
    return found.to_dicts()
