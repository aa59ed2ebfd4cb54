"""A record's text as a vector."""

from typing import Annotated

import pandera.polars as pa
import polars as pl
from pandera.polars import PolarsData

from transforms.features import Field, RecordView
from transforms.text.vectors import hash_text, is_unit_vector


class RecordVector(RecordView):
    """A record's text as a vector, to find records of like words. Null once the record is a tombstone."""

    hash_vec_256: Annotated[pl.List, pl.Float32()] = Field.vector(
        "Counts of the text's words, lower-cased, hashed to 256 signed places, as a unit vector; all zeros if there is no word.",
        256,
        "Weinberger et al. 2009, arXiv:0902.2206",
    )

    @pa.dataframe_check(name="hash_vec_256:not_a_unit_vector_of_256")
    def _is_unit_vector(cls, data: PolarsData) -> pl.LazyFrame:  # noqa: N805
        return data.lazyframe.select(is_unit_vector("hash_vec_256", 256))

    compute = staticmethod(hash_text)
