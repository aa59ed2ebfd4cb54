"""Aggregates: what a feature says of the records that count for an entity at an instant.

A value is computed from parts. Each part has a definition, a DuckDB aggregate over the records that
count (`Part.over`), and a fast way over all instants at once
(`transforms.features.engine.timelines`). Traces and tests use the definition, tables the fast way.

A null does not count. Nor does a number that is not finite, or that is too large for a sum
(`MOST_UNITS`).
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import polars as pl

from transforms.errors import DeclarationError
from transforms.features.windows import Window

NEWEST = "{'event': event_timestamp, 'known': known_timestamp, 'record': record_id}"
NEWEST_FIRST = "event_timestamp desc, known_timestamp desc, record_id desc"
INSTANT = pl.Datetime("us", "UTC")
DTYPES: dict[str, pl.DataType] = {
    "whole": pl.Int64(),
    "flag": pl.Int64(),
    "fraction": pl.Float64(),
    "text": pl.String(),
    "instant": INSTANT,
}
NUMBERS = ("whole", "flag", "fraction")
# larger numbers do not count in sums: a single 1e300 would make every sum overflow
MOST_UNITS = 2**51 - 1
# squares are summed in two halves, for a sum has 64 bits
HALF = 2**40


@dataclass(frozen=True)
class Part:
    """What a value is computed from: a kind, its input's SQL, and the condition on records.

    Without an input each record counts as 1. `k` is the length of a list, `q` the quantile. Equal
    parts are computed once.
    """

    kind: str
    input: str | None = None
    where: str | None = None
    k: int = 0
    q: float = 0.0

    def over(self, x: str = "true", where: str = "true") -> str:
        """SQL of the definition over the records that count.

        `x` and `where` are their columns of input and condition.

        >>> Part("greatest", "n_words").over("c0", "c1")
        'max(c0) filter (where c1 and c0 is not null)'
        """
        of = f"filter (where {where} and {x} is not null)"
        return {
            "sum": f"coalesce(sum({x}::bigint) {of}, 0)::bigint",
            "least": f"min({x}) {of}",
            "greatest": f"max({x}) {of}",
            "first": f"arg_min({x}, {NEWEST}) {of}",
            "last": f"arg_max({x}, {NEWEST}) {of}",
            "last_k": f"(array_agg({x} order by {NEWEST_FIRST}) {of})[:{self.k}]",
            "distinct": f"count(distinct {x}) {of}",
            "top_k": f"list_transform(list_sort(list_transform(map_entries(histogram({x}) {of}), "
            f"lambda e: {{'n': -e.value::bigint, 'x': e.key}}))[:{self.k}], lambda e: e.x)",
            "quantile": f"quantile_disc({x}, {self.q!r}::double) {of}",
        }[self.kind]


@dataclass(frozen=True)
class Input:
    """An expression over a record, as DuckDB binds it: its SQL, its kind and its range."""

    sql: str
    kind: str
    is_never_null: bool = False
    ge: float | None = None
    le: float | None = None


@dataclass(frozen=True)
class Feature:
    """A feature of a group: its aggregate in one window.

    `value` is SQL over its parts, which it names in braces.
    """

    name: str
    window: Window
    parts: dict[str, Part]
    value: str
    dtype: pl.DataType
    description: str
    empty: int | None = None
    ge: float | None = None
    le: float | None = None


@dataclass(frozen=True)
class Aggregate:
    """An aggregate of the records of an entity that count; `of` is an SQL expression over a record.

    A feature is named `<name>_<window>`. The default name joins the kind and the expression's last
    word (`max_n_words`). `where` restricts it to records that meet a condition. `windows` replaces
    the group's windows; a single window, not in a list, leaves the name as it is.
    """

    of: str
    name: str = ""
    _: KW_ONLY
    where: str | None = None
    windows: Sequence[Window] | Window | None = None
    description: str = ""

    kind: ClassVar[str] = ""
    says: ClassVar[str] = ""
    takes: ClassVar[tuple[str, ...]] = tuple(DTYPES)
    value: ClassVar[str] = "{v}"
    empty: ClassVar[int | None] = None
    # the type of every value and its range; by default those of the input
    gives: ClassVar[pl.DataType | None] = None
    within: ClassVar[tuple[float | None, float | None] | None] = None

    @property
    def word(self) -> str:
        """The aggregate's name, with which default names begin."""
        return type(self).__name__.lower()

    @property
    def feature_name(self) -> str:
        """The name without a window."""
        last = self.of.rpartition(".")[2]
        if not self.name and not last.isidentifier():
            message = f"{type(self).__name__}({self.of!r}) needs a name; say name=..."
            raise DeclarationError(message)
        return self.name or f"{self.word}_{last}"

    def features(self, of: Input, windows: Sequence[Window]) -> list[Feature]:
        """Make a feature for each window.

        Raises `DeclarationError` where the aggregate does not take such an input.

        >>> count, record = Count("n_records"), Input("", "whole", is_never_null=True)
        >>> from transforms.features.windows import days
        >>> [(made.name, made.description) for made in count.features(record, [days(7)])]
        [('n_records_7d', 'Records of the last 7 days, as known at the instant.')]
        """
        if of.kind not in self.takes:
            message = (
                f"{type(self).__name__} takes a {' or '.join(self.takes)}, "
                f"and {self.of!r} is a {of.kind}"
            )
            raise DeclarationError(message)
        is_alone = isinstance(self.windows, Window)
        chosen = [self.windows] if isinstance(self.windows, Window) else (self.windows or windows)
        meaning = self.description or self.says.format(of=self.of)
        return [
            Feature(
                name=self.feature_name if is_alone else f"{self.feature_name}_{window.name}",
                window=window,
                parts=self.parts(of),
                value=self.value_of(of),
                dtype=self.dtype(of),
                description=f"{meaning} {window.words}, as known at the instant.",
                empty=self.empty,
                **self.bounds(of),
            )
            for window in chosen
        ]

    def parts(self, of: Input) -> dict[str, Part]:
        """The parts of a value, by the names that `value` uses."""
        return {"v": Part(self.kind, served(of), self.where)}

    def value_of(self, of: Input) -> str:
        """SQL of the value over its parts."""
        del of
        return self.value

    def dtype(self, of: Input) -> pl.DataType:
        """The type of the value."""
        return self.gives or DTYPES[of.kind]

    def bounds(self, of: Input) -> dict[str, float | None]:
        """The least and greatest possible value."""
        least, most = self.within or (of.ge, of.le)
        return {"ge": least, "le": most}


@dataclass(frozen=True)
class Count(Aggregate):
    """How many records count. The first argument names the feature.

    >>> Count("n_urgent", where="label = 'urgent'").feature_name
    'n_urgent'
    """

    gives, within = pl.Int64(), (0, None)
    says = "Records"
    empty = 0

    @property
    def feature_name(self) -> str:
        """The first argument."""
        return self.name or self.of

    def parts(self, of: Input) -> dict[str, Part]:
        """One for each record."""
        del of
        return {"v": Part("sum", None, self.where)}


@dataclass(frozen=True)
class _Scaled(Aggregate):
    """An aggregate of sums. They are exact: a fraction is summed in units of `10 ** -decimals`.

    It is rounded half away from zero. A number beyond `MOST_UNITS` does not count, which is 2.2
    billion with six decimals: declare fewer where there are larger ones.
    """

    _: KW_ONLY
    decimals: int = 6

    takes = NUMBERS

    def whole(self, of: Input) -> str:
        """SQL of the input in whole units; null beyond `MOST_UNITS`."""
        if _is_complete(of):
            return served(of)
        units = f"{finite(of.sql)} * 1e{self.decimals}" if of.kind == "fraction" else served(of)
        is_small = f"{units} between -{MOST_UNITS} and {MOST_UNITS}"
        return f"case when {is_small} then round({units})::bigint end"

    def unit(self, of: Input) -> str:
        """SQL that converts units back by a division."""
        return f" / 1e{self.decimals}" if of.kind == "fraction" else ""

    def n(self, of: Input) -> Part:
        """The number of inputs, which is that of records where each has one."""
        return Part(
            "sum",
            None if _is_complete(of) else f"({self.whole(of)} is not null)::bigint",
            self.where,
        )


@dataclass(frozen=True)
class Sum(_Scaled):
    """The sum of a number; 0 where nothing counts.

    >>> Sum("record_quality.n_words").feature_name
    'sum_n_words'
    """

    says = "Sum of {of} over records"
    empty = 0

    def parts(self, of: Input) -> dict[str, Part]:
        """The sum in whole units."""
        return {"v": Part("sum", self.whole(of), self.where)}

    def value_of(self, of: Input) -> str:
        """The sum."""
        return "{v}" + (f"::double{self.unit(of)}" if self.unit(of) else "")

    def dtype(self, of: Input) -> pl.DataType:
        """Whole where the input is."""
        return pl.Float64() if of.kind == "fraction" else pl.Int64()

    def bounds(self, of: Input) -> dict[str, float | None]:
        """The sum of numbers that are not negative is not negative."""
        return {"ge": 0 if of.ge is not None and of.ge >= 0 else None, "le": None}


@dataclass(frozen=True)
class Mean(_Scaled):
    """The mean of a number; null where nothing counts.

    >>> Mean("record_text.sentiment_compound", "mood").feature_name
    'mood'
    """

    gives = pl.Float64()
    says = "Mean of {of} over records"

    def parts(self, of: Input) -> dict[str, Part]:
        """The sum in whole units and the number of inputs."""
        return {"sum": Part("sum", self.whole(of), self.where), "n": self.n(of)}

    def value_of(self, of: Input) -> str:
        """The mean."""
        return "{sum}::double / nullif({n}, 0)" + self.unit(of)


@dataclass(frozen=True)
class Share(Aggregate):
    """The share of records that meet a condition, `of`; null where no record counts.

    A condition that is null is not met.

    >>> Share("label = 'urgent'", "urgent_ratio").feature_name
    'urgent_ratio'
    """

    gives, within = pl.Float64(), (0, 1)
    says = "Share of records with {of} among those"
    takes = ("flag",)

    def parts(self, of: Input) -> dict[str, Part]:
        """How many records meet the condition, and how many count."""
        return {
            "sum": Part("sum", f"coalesce({of.sql}, false)::bigint", self.where),
            "n": Part("sum", None, self.where),
        }

    def value_of(self, of: Input) -> str:
        """The share."""
        del of
        return "{sum}::double / nullif({n}, 0)"


@dataclass(frozen=True)
class Variance(_Scaled):
    """The sample variance of a number; null where fewer than two count.

    >>> Variance("record_quality.n_words", decimals=0).feature_name
    'variance_n_words'
    """

    gives, within = pl.Float64(), (0, None)
    says = "Sample variance of {of} over records"

    def parts(self, of: Input) -> dict[str, Part]:
        """The number of inputs, and the sums of them and of both halves of their squares."""
        square = f"({self.whole(of)})::hugeint * ({self.whole(of)})"
        high, low = f"({square} // {HALF})::bigint", f"({square} % {HALF})::bigint"
        return {"sum": Part("sum", self.whole(of), self.where), "n": self.n(of)} | {
            name: Part("sum", half, self.where) for name, half in (("high", high), ("low", low))
        }

    def value_of(self, of: Input) -> str:
        """SQL of `(n * sum of squares - square of the sum) / (n * (n - 1))`.

        It is exact but for the one division.
        """
        squares = f"({{high}}::hugeint * {HALF} + {{low}})"
        deviations = f"({{n}}::hugeint * {squares} - {{sum}}::hugeint * {{sum}})::double"
        variance = f"{deviations} / nullif({{n}}::hugeint * ({{n}} - 1), 0)::double"
        return variance + (f" / 1e{2 * self.decimals}" if of.kind == "fraction" else "")


@dataclass(frozen=True)
class StdDev(Variance):
    """The sample standard deviation of a number; null where fewer than two count.

    >>> StdDev("record_quality.n_words", decimals=0).feature_name
    'stddev_n_words'
    """

    says = "Sample standard deviation of {of} over records"

    def value_of(self, of: Input) -> str:
        """The root of the variance."""
        return f"sqrt({super().value_of(of)})"


@dataclass(frozen=True)
class Min(Aggregate):
    """The least value; null where nothing counts.

    >>> Min("event_timestamp").feature_name
    'min_event_timestamp'
    """

    kind = "least"
    says = "Least {of} among records"


@dataclass(frozen=True)
class Max(Aggregate):
    """The greatest value; null where nothing counts.

    >>> Max("record_quality.n_words", where="is_positive").feature_name
    'max_n_words'
    """

    kind = "greatest"
    says = "Greatest {of} among records"


@dataclass(frozen=True)
class First(Aggregate):
    """The value of the record with the earliest event timestamp, and of equal ones the first known.

    >>> First("label").feature_name
    'first_label'
    """

    kind = "first"
    says = "First {of} among records"


@dataclass(frozen=True)
class Last(Aggregate):
    """The value of the record with the latest event timestamp, and of equal ones the last known.

    >>> Last("label").feature_name
    'last_label'
    """

    kind = "last"
    says = "Last {of} among records"


@dataclass(frozen=True)
class CountDistinct(Aggregate):
    """How many distinct values there are.

    >>> CountDistinct("subject_id").feature_name
    'n_distinct_subject_id'
    """

    kind = "distinct"
    gives, within = pl.Int64(), (0, None)
    says = "Distinct values of {of} among records"
    empty = 0

    @property
    def word(self) -> str:
        """The prefix of counts."""
        return "n_distinct"

    def parts(self, of: Input) -> dict[str, Part]:
        """The values; instants to the microsecond."""
        return {
            "v": Part(self.kind, finite(of.sql) if of.kind == "fraction" else of.sql, self.where)
        }


@dataclass(frozen=True)
class _Listed(Aggregate):
    k: int = 5

    takes = ("whole", "fraction", "text")

    def parts(self, of: Input) -> dict[str, Part]:
        """The list."""
        return {"v": Part(self.kind, served(of), self.where, k=self.k)}

    def dtype(self, of: Input) -> pl.DataType:
        """A list of the input's type."""
        return pl.List(DTYPES[of.kind])

    def bounds(self, of: Input) -> dict[str, float | None]:
        """None: a list is neither great nor small, and its values were checked before."""
        del of
        return {"ge": None, "le": None}


@dataclass(frozen=True)
class LastK(_Listed):
    """The values of the `k` records with the latest event timestamps, the latest first.

    >>> LastK("label", k=3).feature_name
    'last_3_label'
    """

    kind = "last_k"
    says = "Last values of {of}, the latest first, among records"

    @property
    def word(self) -> str:
        """The name with the list's length."""
        return f"last_{self.k}"


@dataclass(frozen=True)
class TopK(_Listed):
    """The `k` most frequent values in descending order; of equally frequent ones the lesser first.

    The list is null where nothing counts.

    >>> TopK("label", k=3).feature_name
    'top_3_label'
    """

    kind = "top_k"
    says = "Most frequent values of {of}, the most frequent first, among records"

    @property
    def word(self) -> str:
        """The name with the list's length."""
        return f"top_{self.k}"


@dataclass(frozen=True)
class Percentile(Aggregate):
    """The least value that at least a share `q` of the inputs does not exceed; with 0.5 the median.

    >>> Percentile("record_quality.n_words", q=0.95).feature_name
    'p95_n_words'
    """

    q: float = 0.5

    kind = "quantile"
    within = (None, None)
    takes = ("whole", "fraction")

    @property
    def says(self) -> str:  # type: ignore[override]
        """The description, with the quantile."""
        return f"{self.q}-quantile of {{of}} over records"

    @property
    def word(self) -> str:
        """The name of the quantile, e.g. `p95`."""
        return f"p{self.q * 100:g}".replace(".", "_")

    def parts(self, of: Input) -> dict[str, Part]:
        """The quantile."""
        return {"v": Part(self.kind, served(of), self.where, q=self.q)}


def finite(sql: str) -> str:
    """SQL of a number that is null where it is not finite; negative zero becomes zero.

    >>> finite("price")
    'case when isfinite((price)::double) then (price)::double + 0.0 end'
    """
    return f"case when isfinite(({sql})::double) then ({sql})::double + 0.0 end"


def _is_complete(of: Input) -> bool:
    """Whether each record has a whole number that our own code computed."""
    return of.is_never_null and of.kind != "fraction"


def served(of: Input) -> str:
    """SQL of an input as features serve it: a flag as 0 or 1, an instant in whole seconds.

    Online stores keep no finer instants.

    >>> served(Input("is_positive", "flag"))
    '(is_positive)::bigint'
    """
    return {
        "flag": f"({of.sql})::bigint",
        "whole": f"try_cast(({of.sql}) as bigint)",
        "fraction": finite(of.sql),
        "instant": f"date_trunc('second', {of.sql})",
    }.get(of.kind, of.sql)
