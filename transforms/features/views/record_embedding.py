"""A record's text as a vector by meaning, where `MILLRACE_EMBEDDER` names a model."""

from typing import Annotated

import polars as pl

from transforms.features import Field, RecordView
from transforms.features.declare import Checked, check
from transforms.home import Settings
from transforms.text.embedding import embed_text, model_digest
from transforms.text.vectors import is_unit_vector


class RecordEmbedding(RecordView):
    """A record's text as a vector, to find records of like meaning.

    There is one where MILLRACE_EMBEDDER names a model.
    """

    embedding: Annotated[pl.List, pl.Float32()] = Field.vector(
        "What the model makes of the text, as a unit vector.", 0, "the user's model"
    )

    @check(name="embedding:not_a_unit_vector")
    def _is_unit_vector(cls, data: Checked) -> pl.LazyFrame:  # noqa: N805
        return data.lazyframe.select(is_unit_vector("embedding"))

    compute = staticmethod(embed_text)
    fingerprint = staticmethod(model_digest)

    @staticmethod
    def is_wanted() -> bool:
        """Whether a model is set."""
        return Settings().embedder is not None
