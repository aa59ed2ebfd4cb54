"""Which record a text would repeat that nobody has seen: asked of the index, which stays as it is.

The index is read into memory once for each state of it, about 250 bytes a text. What a run does to
the index does not belong here.
"""

from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from transforms.errors import HomeError
from transforms.home import settings_of
from transforms.schemas.duplicates import KnownContent, KnownDocument
from transforms.sql import model
from transforms.text.duplicates import (
    BANDS,
    HEADS,
    MIN_SIMILARITY,
    digest_contents,
    estimate_similarity,
    normalise,
    sign,
)
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse

Array: TypeAlias = npt.NDArray[Any]

FEATURES = {
    "dup_of": pl.String,
    "dup_similarity": pl.Float64,
    "dup_cluster_size": pl.Int64,
    "is_duplicate": pl.Int64,
}
SIGNED = """
    select position, band_keys
    from first_contents
    inner join duplicates.contents using (content_id)
    where band_keys is not null
"""
# the origin of a text, how like it is, and the records of the cluster; nulls for one of its own
Label: TypeAlias = tuple[str | None, float | None, int, int]
ALONE: Label = (None, None, 1, 0)


class Index(NamedTuple):
    """The texts of an index by position, the first known first.

    `number_at` is the position of each number in `numbers`, which ascend. `bands` has a row for
    each band and a column for each text with a signature, whose position `signed_at` has.
    """

    numbers: Array
    number_at: Array
    bands: Array
    signed_at: Array
    labels: pl.DataFrame

    def label(self, number: int, signature: list[int] | None) -> Label:
        """Label a text as the index would, if a new record said it after all others.

        >>> Index(*[np.empty(0)] * 4, pl.DataFrame()).label(7, None)
        (None, None, 1, 0)
        """
        place = np.searchsorted(self.numbers, number)
        if place < len(self.numbers) and self.numbers[place] == number:
            said = self.labels.row(int(self.number_at[place]), named=True)
            return said["origin_id"], said["origin_similarity"], said["n_records"] + 1, 1
        if signature is None:
            return ALONE
        buckets = zip(self.bands, signature, strict=True)
        heads = [np.flatnonzero(band == key)[:HEADS] for band, key in buckets]
        columns = np.unique(np.concatenate(heads))
        signatures = np.ascontiguousarray(self.bands[:, columns].T)
        own = np.tile(np.array(signature), (len(columns), 1))
        similarities = estimate_similarity(own, signatures)
        alike = np.flatnonzero(similarities >= MIN_SIMILARITY)
        if not len(alike):
            return ALONE
        parent = self.labels.row(int(self.signed_at[columns[alike[0]]]), named=True)
        return parent["record_id"], float(similarities[alike[0]]), parent["n_records"] + 1, 1


def label_texts(texts: pl.Series, home: Path) -> pl.DataFrame:
    """Make the features of `record_duplicates`, of each text as if it came alone, after all others.

    Raises `HomeError` where no run has made an index.
    """
    index = index_of(home)
    normal = pl.select(normalise(pl.lit(texts))).to_series()
    asked = zip(digest_contents(normal).to_list(), sign(normal).to_list(), strict=True)
    labels = [index.label(number, signature) for number, signature in asked]
    return pl.DataFrame(labels, FEATURES, orient="row")


def index_of(home: Path) -> Index:
    """Read the index of a home, or what was read of it if no run has changed it since."""
    warehouse = _warehouse(home)
    versions = tuple(
        warehouse.version(contract.relation()) for contract in (KnownDocument, KnownContent)
    )
    if min(versions) < 0:
        message = (
            f"{home}: no index of texts there, which record_duplicates is asked of; run the "
            "pipeline with that view (millrace run)"
        )
        raise HomeError(message)
    with _reading:
        if _read.get(home, (None,))[0] != versions:
            _read[home] = (versions, _read_index(warehouse))
        return _read[home][1]


_read: dict[Path, tuple[tuple[int, ...], Index]] = {}
_reading = Lock()


@lru_cache(maxsize=16)
def _warehouse(home: Path) -> Warehouse:
    return Warehouse(settings_of(home))


def _read_index(warehouse: Warehouse) -> Index:
    with connect(warehouse, of=("duplicates.",)) as connection:
        for name in ("indexed_documents", "first_contents"):
            connection.execute(f"create table {name} as {model(f'duplicates/{name}')}")
        labels: pl.DataFrame = connection.sql("from first_contents order by position").pl()
        bands = np.zeros((BANDS, labels.height), np.int64)
        is_signed = np.zeros(labels.height, bool)
        for batch in connection.sql(SIGNED).to_arrow_reader(warehouse.settings.batch_rows):
            positions = batch["position"].to_numpy()
            bands[:, positions] = batch["band_keys"].flatten().to_numpy().reshape(-1, BANDS).T
            is_signed[positions] = True
    numbers = labels["content_id"].to_numpy()
    number_at = np.argsort(numbers)
    return Index(
        numbers[number_at],
        number_at,
        bands if is_signed.all() else bands[:, is_signed],
        np.flatnonzero(is_signed),
        labels.select("record_id", "origin_id", "origin_similarity", "n_records"),
    )
