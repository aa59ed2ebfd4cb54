"""A record's text as a vector."""

from typing import Annotated

import polars as pl

from transforms.features import Field, RecordView
from transforms.features.declare import Checked, check
from transforms.text.vectors import hash_text, is_unit_vector


class RecordVector(RecordView):
    """A record's text as a vector, to find records of like words.

    Null once the record is a tombstone.
    """

    hash_vec_256: Annotated[pl.List, pl.Float32()] = Field.vector(
        "Counts of the text's words, lower-cased, hashed to 256 signed places, as a unit vector; "
        "all zeros if there is no word.",
        256,
        "Weinberger et al. 2009, arXiv:0902.2206",
    )

    @check(name="hash_vec_256:not_a_unit_vector_of_256")
    def _is_unit_vector(cls, data: Checked) -> pl.LazyFrame:  # noqa: N805
        return data.lazyframe.select(is_unit_vector("hash_vec_256", 256))

    compute = staticmethod(hash_text)
