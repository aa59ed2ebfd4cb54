"""The index that duplicates are found with: updated from staging in two commits of its own."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import partial

import polars as pl
import pyarrow as pa

from transforms.engines.engine import engine_for
from transforms.features.engine.band_parts import find_parents_by
from transforms.features.engine.duplicates import changed_documents, new_contents
from transforms.features.view import Run, View
from transforms.home import Settings
from transforms.schemas.base import Contract
from transforms.schemas.duplicates import KnownContent, KnownDocument
from transforms.schemas.staging import StagedRecord
from transforms.text.likeness import Signed, find_parents
from transforms.warehouse.checkpoint import consumed_version
from transforms.warehouse.publishing import CODE, publish
from transforms.warehouse.snapshot import connect, create_arrivals, create_view
from transforms.warehouse.tables import Warehouse

INDEX: tuple[type[Contract], ...] = (KnownContent, KnownDocument)


def bring_index_up(
    warehouse: Warehouse,
    now: datetime,
    done: Mapping[str, int],
    view: View,
    *,
    is_rebuilt: bool = False,
) -> dict[str, int]:
    """Update the index to the newest staged records, in two commits: new texts, then documents.

    `done` goes with both. The index is rebuilt from nothing if other code computed it, or if
    `is_rebuilt`. Returns the version that the documents have then. Raises `AlreadyPublishedError`
    if another run was first.
    """
    ((transaction, version),) = done.items()
    code, settings = view.digest(), warehouse.settings
    is_done = {
        contract: _consumed(contract, warehouse, transaction, code) >= version for contract in INDEX
    }
    if not is_done[KnownDocument]:
        since = (
            -1
            if is_rebuilt
            else min(_consumed(contract, warehouse, transaction, code) for contract in INDEX)
        )
        with connect(
            warehouse, of=(StagedRecord.relation(), *(contract.relation() for contract in INDEX))
        ) as connection:
            for contract in INDEX if since < 0 else ():
                create_view(connection, contract.relation(), [], contract.arrow_schema())
            create_arrivals(connection, warehouse, StagedRecord, since)
            contents = _signed(Run(warehouse, connection, now, (view,), since=since))
            if is_done[KnownContent]:  # a run was killed between the two commits
                for _ in contents:
                    pass
            else:
                publish(warehouse, KnownContent, contents, done, code, is_whole=since < 0)
            find = partial(_find, settings)
            documents = changed_documents(connection, settings.batch_rows, now, find)
            publish(warehouse, KnownDocument, documents, done, code, is_whole=since < 0)
    return {KnownDocument.relation(): warehouse.version(KnownDocument.relation())}


def _signed(run: Run) -> Iterator[pa.RecordBatch]:
    """Stream the texts never seen before, signed in this process or by an engine."""
    from transforms.features.engine.signature_parts import engine_for_texts, signed_parts  # circle

    engine = engine_for_texts(run)
    return signed_parts(engine, run) if engine else new_contents(run.connection, run.batch_rows)


def _find(settings: Settings, texts: Signed, memory: int) -> pl.DataFrame:
    """Find the parents of texts, in this process or by an engine."""
    engine = engine_for(settings, int(texts.is_fresh.sum()))
    if engine is None:
        return find_parents(texts, memory)
    return find_parents_by(engine, settings, texts, memory)


def _consumed(contract: type[Contract], warehouse: Warehouse, transaction: str, code: int) -> int:
    return (
        consumed_version(warehouse, contract.relation(), transaction)
        if consumed_version(warehouse, contract.relation(), CODE) == code
        else -1
    )
