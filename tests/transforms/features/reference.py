"""Features in plain Python, as docs/time.md and the aggregates' docstrings define them.

No code of the product is used. A declared expression is SQL; here a Python function with the same
meaning is beside it. Instants are whole microseconds since 1970.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any, NamedTuple

MICROSECOND = timedelta(microseconds=1)


class Version(NamedTuple):
    """A version of a record; without a text it is a tombstone."""

    record: str
    author: str
    subject: str | None
    event: int
    known: int
    text: str | None
    label: str | None
    attributes: str | None

    @property
    def effective(self) -> int:
        """When it is both written and known."""
        return max(self.event, self.known)

    def attribute(self, name: str) -> str | None:
        """An attribute as text, as `->>` gives it."""
        value = json.loads(self.attributes or "{}").get(name)
        return value if value is None or isinstance(value, str) else json.dumps(value)


class Expression(NamedTuple):
    """An SQL expression over a record and its meaning; `kind` says which features it can make."""

    sql: str
    meaning: Callable[[Version], Any]
    kind: str = "text"


class Span(NamedTuple):
    """A window: its name, its length (None: for ever) and its hop."""

    name: str
    length: timedelta | None
    hop: timedelta

    def leaves(self, version: Version) -> float:
        """When a version leaves it: its event timestamp plus the length, rounded up to the hop."""
        if self.length is None:
            return math.inf
        hop = self.hop // MICROSECOND
        return math.ceil(Fraction(version.event + self.length // MICROSECOND, hop)) * hop


class Aggregated(NamedTuple):
    """An aggregate: its class by name, the names of its features by window, and what it is of."""

    kind: str
    features: dict[str, Span]
    of: Expression
    where: Expression | None = None
    k: int = 5
    q: float = 0.5
    decimals: int = 6


class Group(NamedTuple):
    """A group: the entities of a version, each a tuple of its keys, and its aggregates."""

    entities: Callable[[Version], Iterable[tuple[str | None, ...]]]
    where: Expression | None
    aggregates: Sequence[Aggregated]

    def entities_of(self, version: Version) -> set[tuple[str | None, ...]]:
        """The entities that a version counts for, if it is no tombstone."""
        return (
            set()
            if version.text is None
            else {entity for entity in self.entities(version) if None not in entity}
        )

    def values(
        self, versions: Sequence[Version], entity: tuple[str | None, ...], instant: int
    ) -> dict[str, Any]:
        """Every feature of an entity at an instant, as known then."""
        records = [
            v
            for v in counting(versions, instant)
            if entity in self.entities_of(v) and fulfils(v, self.where)
        ]
        return {
            name: value(
                aggregate,
                [v for v in records if instant < span.leaves(v) and fulfils(v, aggregate.where)],
            )
            for aggregate in self.aggregates
            for name, span in aggregate.features.items()
        }


def counting(versions: Iterable[Version], instant: int) -> list[Version]:
    """Each record's newest version known and in effect before an instant, without tombstones."""
    newest: dict[str, Version] = {}
    for version in sorted((v for v in versions if v.known < instant), key=lambda v: v.known):
        newest[version.record] = version
    return [v for v in newest.values() if v.text is not None and v.effective < instant]


def fulfils(version: Version, condition: Expression | None) -> bool:
    """Whether a condition is true of a version; one that is null is not."""
    return condition is None or condition.meaning(version) is True


def value(aggregate: Aggregated, records: Sequence[Version]) -> Any:
    """What an aggregate says of the records that count."""
    return VALUES[aggregate.kind](
        aggregate, sorted(records, key=lambda v: (v.event, v.known, v.record))
    )


def inputs(aggregate: Aggregated, records: Sequence[Version]) -> list[Any]:
    """Inputs of records in order, as features see them: no nulls, finite, instants in seconds."""
    found = [aggregate.of.meaning(record) for record in records]
    if aggregate.of.kind == "fraction":
        return [float(x) + 0.0 for x in found if x is not None and math.isfinite(x)]
    if aggregate.of.kind == "instant":
        return [x // 1_000_000 * 1_000_000 for x in found if x is not None]
    return [int(x) if isinstance(x, bool) else x for x in found if x is not None]


def units(aggregate: Aggregated, records: Sequence[Version]) -> list[int]:
    """Inputs in whole units, if below 2 ** 51; halves round away from zero at `decimals`."""
    numbers = [x * scale(aggregate) for x in inputs(aggregate, records)]
    return [int(Decimal(x).to_integral_value(ROUND_HALF_UP)) for x in numbers if abs(x) < 2**51]


def scale(aggregate: Aggregated, power: int = 1) -> float:
    return 10.0 ** (power * aggregate.decimals) if aggregate.of.kind == "fraction" else 1


def total(aggregate: Aggregated, records: Sequence[Version]) -> float:
    whole = sum(units(aggregate, records))
    return whole / scale(aggregate) if aggregate.of.kind == "fraction" else whole


def mean(aggregate: Aggregated, records: Sequence[Version]) -> float | None:
    numbers = units(aggregate, records)
    return sum(numbers) / len(numbers) / scale(aggregate) if numbers else None


def share(aggregate: Aggregated, records: Sequence[Version]) -> float | None:
    return (
        sum(fulfils(record, aggregate.of) for record in records) / len(records) if records else None
    )


def variance(aggregate: Aggregated, records: Sequence[Version]) -> float | None:
    numbers, n = units(aggregate, records), len(units(aggregate, records))
    if n < 2:
        return None
    return (
        float(n * sum(x * x for x in numbers) - sum(numbers) ** 2)
        / float(n * (n - 1))
        / scale(aggregate, 2)
    )


def deviation(aggregate: Aggregated, records: Sequence[Version]) -> float | None:
    found = variance(aggregate, records)
    return None if found is None else math.sqrt(found)


def last_k(aggregate: Aggregated, records: Sequence[Version]) -> list[Any] | None:
    return inputs(aggregate, records)[::-1][: aggregate.k] or None


def top_k(aggregate: Aggregated, records: Sequence[Version]) -> list[Any] | None:
    counts = Counter(inputs(aggregate, records))
    return sorted(counts, key=lambda x: (-counts[x], x))[: aggregate.k] or None


def percentile(aggregate: Aggregated, records: Sequence[Version]) -> Any:
    """The least value that at least the share `q` of all does not exceed."""
    ordered = sorted(inputs(aggregate, records))
    return (
        ordered[max(math.ceil(Fraction(str(aggregate.q)) * len(ordered)), 1) - 1]
        if ordered
        else None
    )


def n_distinct(aggregate: Aggregated, records: Sequence[Version]) -> int:
    found = [aggregate.of.meaning(record) for record in records]
    return len(
        {
            x
            for x in found
            if x is not None and (aggregate.of.kind != "fraction" or math.isfinite(x))
        }
    )


VALUES: dict[str, Callable[[Aggregated, Sequence[Version]], Any]] = {
    "Count": lambda _, records: len(records),
    "Sum": total,
    "Mean": mean,
    "Share": share,
    "Min": lambda of, records: min(inputs(of, records), default=None),
    "Max": lambda of, records: max(inputs(of, records), default=None),
    "First": lambda of, records: next(iter(inputs(of, records)), None),
    "Last": lambda of, records: next(reversed(inputs(of, records)), None),
    "LastK": last_k,
    "CountDistinct": n_distinct,
    "TopK": top_k,
    "Variance": variance,
    "StdDev": deviation,
    "Percentile": percentile,
}


def instants_of(versions: Iterable[Version], spans: Iterable[Span]) -> list[int]:
    """All instants at which anything may change, and a microsecond before and after each."""
    versions, spans = list(versions), [span for span in spans if span.length]
    points = {point for v in versions for point in (v.event, v.known, v.known + 1, v.effective + 1)}
    points |= {int(span.leaves(v)) for v in versions for span in spans}
    return sorted({point + step for point in points for step in (-1, 0, 1)})
