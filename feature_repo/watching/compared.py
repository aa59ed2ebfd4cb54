"""Rows of the log of served values beside what a training set says of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NamedTuple

import polars as pl

from feature_repo.client import training_set
from transforms.expressions import quoted
from transforms.features.registry import registry
from transforms.features.view import View
from transforms.schemas.serving import CAUSES
from transforms.warehouse.snapshot import connect
from transforms.warehouse.tables import Warehouse


class Logged(NamedTuple):
    """Rows of one service with the same features, and the digests of derived views at the time."""

    service: str
    frame: pl.DataFrame
    code: Mapping[str, str]


@dataclass
class Compared:
    """One feature over the rows of a service, and why values of it differ, by row."""

    service: str
    column: str
    served: pl.Series
    trained: pl.Series
    is_compared: pl.Series
    at: pl.Series
    causes: dict[int, str] = field(default_factory=dict)

    @property
    def view(self) -> str:
        """The feature's view; `column` is `view__feature`."""
        return self.column.partition("__")[0]

    @cached_property
    def differing(self) -> list[int]:
        """The rows in which it differs."""
        return list((self.is_compared & ~same(self.served, self.trained)).arg_true())

    def row(self, checked: datetime) -> dict[str, Any]:
        """What was found, as a row of `Consistency`."""
        served, trained = (
            values.filter(self.is_compared) for values in (self.served, self.trained)
        )
        at, is_same = self.at.filter(self.is_compared), same(served, trained)
        differs = ~is_same & served.is_not_null() & trained.is_not_null()
        causes = Counter(self.causes.get(row, "unknown") for row in self.differing)
        return {
            "checked_timestamp": checked,
            "service": self.service,
            "view": self.view,
            "feature": self.column.partition("__")[2],
            "n_compared": served.len(),
            "n_matched": int(is_same.sum()),
            "n_missing": int((served.is_null() & trained.is_not_null()).sum()),
            "n_extra": int((served.is_not_null() & trained.is_null()).sum()),
            "n_differing": int(differs.sum()),
            **_distances(served, trained),
            **{f"n_{cause}": causes[cause] for cause in CAUSES},
            "first_instant": at.min(),
            "last_instant": at.max(),
        }


class Asked:
    """Logged rows as a spine, to be asked for again as of now or of earlier versions."""

    def __init__(self, warehouse: Warehouse, frame: pl.DataFrame, names: Sequence[str]) -> None:
        """Take the rows and the features, as `view__feature`."""
        self.warehouse, self.names, self.frame = warehouse, names, frame
        declared = registry()
        self.bases = {
            name: [*declared.derivations[name].features_by_view]
            if name in declared.derivations
            else [name]
            for name in {name.split("__")[0] for name in names}
        }
        self.views = {base: declared.views[base] for bases in self.bases.values() for base in bases}
        self.keys = sorted({key for view in self.views.values() for key in view.entity.columns})

    def trained(
        self, rows: Sequence[int] | None = None, versions: Mapping[str, int] | None = None
    ) -> pl.DataFrame:
        """What a training set says of all rows, or of some, masked as the log is."""
        from feature_repo.stores.served_log import EVENT_TIMESTAMP, masked

        frame = self.frame if rows is None else self.frame[list(rows)]
        spine = frame.select(*self.keys, EVENT_TIMESTAMP)
        features = [name.replace("__", ":") for name in self.names]
        made = training_set(spine, features, self.warehouse.settings.root, versions).frame
        return pl.DataFrame(
            {
                name: masked(made[name].to_arrow(compat_level=pl.CompatLevel.oldest()))
                for name in self.names
            }
        )

    def known_instants(
        self, view: View, version: int | None, rows: Sequence[int]
    ) -> dict[int, datetime]:
        """When what a view's table has of rows' entities is from, at their instants."""
        from feature_repo.stores.served_log import EVENT_TIMESTAMP

        relation, keys = view.relation, view.entity.columns
        spine = self.frame[list(rows)].select(*keys, at=EVENT_TIMESTAMP, row=pl.Series(rows))
        at = {} if version is None else {relation: version}
        with connect(self.warehouse, at, of=(relation,)) as connection:
            connection.register("spine", spine.to_arrow())
            same = " and ".join(f"t.{quoted(key)} = s.{quoted(key)}" for key in keys)
            found = connection.execute(
                f"select s.row, max(t.event_timestamp) from spine s join {relation} t "
                f"on {same} and t.event_timestamp <= s.at group by all"
            ).fetchall()
        return {row: instant.astimezone(UTC) for row, instant in found}


def same(one: pl.Series, other: pl.Series) -> pl.Series:
    """Tell rows in which two columns have the same value, or both none.

    >>> same(pl.Series([1, None, 2]), pl.Series([1, None, None])).to_list()
    [True, True, False]
    """
    if one.dtype != other.dtype:  # the feature has another type by now
        one, other = (values.cast(pl.String) for values in (one, other))
    return one.eq_missing(other)


def _distances(served: pl.Series, trained: pl.Series) -> dict[str, float | None]:
    if not (served.dtype.is_numeric() and trained.dtype.is_numeric()):
        return {"largest_difference": None, "smape": None}
    one, other = (values.cast(pl.Float64) for values in (served, trained))
    apart, size = (one - other).abs(), one.abs() + other.abs()
    relative = pl.select(pl.when(size > 0).then(2 * apart / size).otherwise(apart * 0)).to_series()
    largest: Any = apart.drop_nans().max()
    mean: Any = relative.drop_nulls().drop_nans().mean()
    return {"largest_difference": largest, "smape": mean}
