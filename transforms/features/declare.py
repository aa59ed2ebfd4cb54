"""What a user writes to declare features. Nothing here computes anything.

The registry makes views of it.
"""

import transforms.schemas  # noqa: F401 - which imports Pandera so that the process stays as it is

# isort: split
import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from typing import Annotated, Any

import pandera.polars as pa
import polars as pl
from pandera.polars import PolarsData

from transforms.features.aggregates import Aggregate
from transforms.features.entity import Entity
from transforms.features.windows import Window
from transforms.schemas.base import Contract

# a check over several columns of a record view, of frames as Pandera gives them
check = pa.dataframe_check
Checked = PolarsData
LEE = "Lee et al. 2022, arXiv:2107.06499"


def snake_case(name: str) -> str:
    """Name a view after its class.

    >>> snake_case("RecordShape")
    'record_shape'
    """
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Field:
    """Features of a record view: what they count or measure, and after whom."""

    @staticmethod
    def count(description: str, origin: str | None = None) -> Any:
        """A whole number that is not negative."""
        return pa.Field(ge=0, nullable=True, description=description, metadata={"origin": origin})

    @staticmethod
    def ratio(description: str, origin: str | None = None) -> Any:
        """A share, from 0 to 1."""
        return pa.Field(
            ge=0, le=1, nullable=True, description=description, metadata={"origin": origin}
        )

    @staticmethod
    def measure(description: str, origin: str | None = None) -> Any:
        """A number that is not negative."""
        return pa.Field(ge=0, nullable=True, description=description, metadata={"origin": origin})

    @staticmethod
    def number(
        description: str,
        origin: str | None = None,
        *,
        ge: float | None = None,
        le: float | None = None,
    ) -> Any:
        """Any number, or one from `ge` to `le`."""
        bounds: dict[str, Any] = {
            name: value for name, value in (("ge", ge), ("le", le)) if value is not None
        }
        return pa.Field(
            nullable=True, description=description, metadata={"origin": origin}, **bounds
        )

    @staticmethod
    def word(description: str, origin: str | None = None) -> Any:
        """A text, such as a category."""
        return pa.Field(nullable=True, description=description, metadata={"origin": origin})

    @staticmethod
    def flag(description: str, origin: str | None = None) -> Any:
        """Yes or no, as 1 or 0."""
        return pa.Field(
            isin=(0, 1), nullable=True, description=description, metadata={"origin": origin}
        )

    @staticmethod
    def vector(description: str, length: int, origin: str | None = None) -> Any:
        """A vector of a length (0: as the model has it), in which neighbours can be searched."""
        return pa.Field(
            nullable=True,
            description=description,
            metadata={"origin": origin, "vector_length": length},
        )


class RecordView(Contract):
    """Features of a record's own content: the class body declares them, and `compute` makes them.

    `reads` names what `compute` is given beside `record_id` and `event_timestamp`: columns of a
    staged record, and features of other record views as `view.feature`, which come as
    `view__feature`; the record's own `event_timestamp`, when it was written, comes as
    `written_timestamp`, beside the instant from which the row applies. It is given records with a
    text, and gives a row for each, in their order, with every feature; of a tombstone all features
    are null. A view is `complete` where each feature has a value for every text. Raise `version`
    when the meaning of a feature changes. `online` says whether records can be read online by their
    ids: `True`, or `days(30)` for those of the last 30 days; training has all of them in any case.
    `fresh_within`, such as `hours(2)`, is a promise to readers, which every kind of view can make:
    a run has brought it up to date that lately, or else it is reported as late.

    >>> class RecordShape(RecordView):
    ...     "What a record looks like."
    ...     n_commas: int = Field.count("Commas.")
    ...     @staticmethod
    ...     def compute(records: pl.LazyFrame) -> pl.LazyFrame:
    ...         n_commas = pl.col("text").str.count_matches(",").cast(pl.Int64)
    ...         return records.with_columns(n_commas=n_commas)
    >>> RecordShape.relation()
    'features.record_shape'
    """

    record_id: str = pa.Field(description="Key of the record.")
    event_timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        description="From when on the version counts: written and known."
    )
    created_timestamp: Annotated[pl.Datetime, "us", "UTC"] = pa.Field(
        description="When the row was computed."
    )

    def __init_subclass__(
        cls,
        *,
        version: int = 1,
        complete: bool = False,
        reads: Sequence[str] = ("text",),
        online: bool | Window = False,
        fresh_within: Window | timedelta | None = None,
    ) -> None:
        """Name the relation after the class."""
        name = snake_case(cls.__name__)
        key = ["record_id", "event_timestamp", "created_timestamp"]
        metadata = {
            "key": key,
            "version": version,
            "complete": complete,
            "reads": tuple(reads),
            "online": online,
            "fresh_within": fresh_within,
        }
        config: Any = type(
            "Config", (Contract.Config,), {"name": f"features.{name}", "metadata": metadata}
        )
        cls.Config = config  # type: ignore[misc]
        super().__init_subclass__()  # type: ignore[no-untyped-call]

    @staticmethod
    def compute(records: pl.LazyFrame) -> pl.LazyFrame:
        """Make the features of records."""
        raise NotImplementedError

    @staticmethod
    def fingerprint() -> str:
        """What decides the values beside code, such as a model's file.

        Where it changes, all records are computed again.
        """
        return ""

    @staticmethod
    def is_wanted() -> bool:
        """Whether there is such a view with the settings as they are."""
        return True


class NearDuplicates(RecordView, version=1):
    """Which earlier-known record a record repeats, by the same text or nearly the same.

    All null once it is a tombstone.
    """

    dup_of: str = Field.word(
        "The record known first of all that had the same text or one nearly the same; null if "
        "that is the record itself.",
        LEE,
    )
    dup_similarity: float = Field.ratio(
        "How like that record's text it is: 1 if the same (NFKC, lower case, runs of white space "
        "as one blank), else the estimated "
        "Jaccard similarity of runs of five letters and digits, 0.7 at least.",
        f"{LEE}; MinHash: Broder 1997",
    )
    dup_cluster_size: int = Field.count(
        "Records so far in its cluster of likenesses, this one counted."
    )
    is_duplicate: int = pa.Field(
        ge=0, le=1, nullable=True, description="1 if it repeats an earlier-known record, else 0."
    )


@dataclass(frozen=True)
class RecordSql:
    """Features of a record's own content, by SQL expressions.

    They read its columns, its attributes and features of other record views. `online` and
    `fresh_within` are as in `RecordView`.

    >>> n_commas = "length(text) - length(replace(text, ',', ''))"
    >>> RecordSql("record_shape", {"n_commas": n_commas}).name
    'record_shape'
    """

    name: str
    features: Mapping[str, str]
    _: KW_ONLY
    description: str = ""
    online: bool | Window = False
    fresh_within: Window | timedelta | None = None


@dataclass(frozen=True)
class GroupBy:
    """Aggregates of the records of an entity, in windows.

    `where` is a condition that a record must fulfil to count. `fresh_within` is as in `RecordView`.

    >>> from transforms.features import Count, GroupBy, Mean, days
    >>> from transforms.features.entities import author
    >>> mood = Mean("record_text.sentiment_compound", "mood")
    >>> group = GroupBy("author_mood", author, [Count("n_records"), mood], [days(7)])
    """

    name: str
    entity: Entity
    aggregates: Sequence[Aggregate]
    windows: Sequence[Window] = ()
    _: KW_ONLY
    where: str | None = None
    description: str = ""
    online: bool = True
    fresh_within: Window | timedelta | None = None


@dataclass(frozen=True)
class SqlView:
    """A user's own SQL: rows of an entity's key columns, `event_timestamp` and features.

    It is one select statement over `versions`, the readable columns of every version of a record
    with `effective_from` and `effective_until` (null: to this day), and over record views by their
    names, with `record_id` and `effective_from`. A row says what is known from `event_timestamp`
    on, so it may rest only on versions with `effective_from` up to that; whether it does is tested
    before anything is published. `sql` is the SQL itself or the name of a file beside the
    declaration. `fresh_within` is as in `RecordView`.

    >>> from transforms.features.entities import author
    >>> sql = "select author_id, effective_from as event_timestamp, length(text) as n from versions"
    >>> words = SqlView("author_words", author, sql)
    """

    name: str
    entity: Entity
    sql: str
    _: KW_ONLY
    description: str = ""
    descriptions: Mapping[str, str] = field(default_factory=dict)
    online: bool = True
    fresh_within: Window | timedelta | None = None


@dataclass(frozen=True)
class Derived:
    """Features computed when they are asked for, by SQL over features of one or several views.

    `event_timestamp` is the instant that is asked for.

    A feature is named alone where one view has it, else as `view.feature`.

    >>> burst = "n_records_1d / nullif(n_records_28d / 28.0, 0)"
    >>> Derived("author_burst", ["author_activity"], {"burst": burst}).of
    ['author_activity']
    """

    name: str
    of: Sequence["GroupBy | SqlView | RecordSql | type[RecordView] | str"]
    features: Mapping[str, str]
    _: KW_ONLY
    description: str = ""
    descriptions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Service:
    """What one model reads.

    Views, or features as `view:feature`, under a name with a version, such as `triage_v1`.

    >>> Service("triage_v3", ["author_activity", "record_quality:n_words"]).features
    ['author_activity', 'record_quality:n_words']
    """

    name: str
    features: Sequence["GroupBy | SqlView | RecordSql | Derived | type[RecordView] | str"]
    _: KW_ONLY
    description: str = ""


Declaration = GroupBy | RecordSql | SqlView | Derived | Service | Entity
